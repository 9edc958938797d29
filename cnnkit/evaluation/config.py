"""Configuration of evaluation, comparison and calibration: one dataclass field for each option. No numpy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cnnkit import messages
from cnnkit.choices import SetMethod
from cnnkit.errors import UsageError
from cnnkit.evaluation import bounds
from cnnkit.formats import atomic, figures
from cnnkit.formats import labels as label_files
from cnnkit.option_fields import MOST_SEED, RemembersGiven, check_ranges, given, option, refuse_unused

# The title of a group of options in the help.
LEARNING_CURVE = "Learning curve"


def bound_option(where: str, measures: Iterable[str]) -> Any:  # noqa: ANN401 - as `option`
    """Make the field `fail_under` or `fail_over` of a `Bounded` configuration; the option has the name of the field.

    Args:
        where: On which side of the bound it fails, for the help: below or above.
        measures: The measures that can have such a bound.
    """
    return option(
        None,
        f"Exit with status 4 if MEASURE is {where} BOUND; may be repeated. Measures: {', '.join(measures)}.",
        metavar="MEASURE=BOUND",
    )


class Bounded:
    """A configuration with bounds on measures, its fields `fail_under` and `fail_over`."""

    __slots__ = ()
    fail_under: list[str] | None
    fail_over: list[str] | None

    def floors(self) -> Mapping[str, float]:
        """Return the lower bounds on measures.

        Raises:
            UsageError: A bound is invalid.
        """
        return bounds.parse(self.fail_under or [], option="--fail-under")

    def ceilings(self) -> Mapping[str, float]:
        """Return the upper bounds on measures.

        Raises:
            UsageError: A bound is invalid.
        """
        return bounds.parse(self.fail_over or [], option="--fail-over", lower_is_better=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchConfig:
    """How predictions are matched with the truth."""

    complete: bool = option(
        False, "Fail if an image of the truth has no prediction. [default: report how many have none]"
    )
    labels: Path | None = option(
        None,
        "File with the class names, one per line, in the order of the report. "
        "[default: those of the truth and the predictions, sorted]",
        metavar="FILE",
    )

    def classes(self) -> tuple[str, ...] | None:
        """Read the classes; None for those of the truth.

        Raises:
            FormatError: The file is not a list of labels.
        """
        return None if self.labels is None else label_files.load(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig(MatchConfig):
    """How the predictions of two models are matched with the truth, and whether the second one may be worse."""

    labels: Path | None = option(
        None,
        "File with the class names, one per line. [default: those of the truth and the predictions]",
        metavar="FILE",
    )
    fail_if_worse: bool = option(
        False, "Exit with status 4 if B is worse than A: the 95 % interval of the difference is below zero."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurveConfig(RemembersGiven):
    """The learning curve of a head: its features, its subsets, and its figure. `learning_curve` turns the mode on."""

    learning_curve: Path | None = option(
        None,
        "Instead of comparing A and B, train heads on growing shares of these features, and print the accuracy of each, and what a "
        "power law predicts for twice and four times the images.",
        metavar="TRAIN.npy",
        group=LEARNING_CURVE,
    )
    val: Path | None = option(
        None,
        "Validation features. [default: rows of TRAIN.npy whose split is val, if any]",
        metavar="FILE.npy",
        group=LEARNING_CURVE,
    )
    repeats: int = option(
        5,
        "Heads for each share, on different images; their mean is printed.",
        minimum=1,
        metavar="N",
        group=LEARNING_CURVE,
    )
    plot: Path | None = option(
        None, "Draw the curve; FILE ends in .png, .svg or .pdf.", metavar="FILE", group=LEARNING_CURVE
    )
    seed: int = option(
        0, "Seed of the shares and of the intervals.", minimum=0, maximum=MOST_SEED, group=LEARNING_CURVE
    )

    def checked(self, *, files: int, others: Mapping[str, object]) -> Self:
        """Check that a comparison has two files of predictions, and a learning curve none.

        Args:
            files: The number of files of predictions.
            others: The options of the comparison, by name, with their values.

        Raises:
            UsageError: A file of predictions is missing, an option would be ignored, or the plot's name has another ending.
        """
        check_ranges(self)
        if self.learning_curve is None:
            if unused := given(self):
                raise UsageError(f"{unused[0]} belongs to --learning-curve TRAIN.npy; add it, or drop {unused[0]}")
            if files < 2:
                raise UsageError(
                    "give two files of predictions, A and B, or --learning-curve TRAIN.npy --val VAL.npy; see cnn-compare --help"
                )
            return self
        refuse_unused(
            {"A and B": files > 0, **others}, "--learning-curve trains heads on features, and compares no predictions"
        )
        if self.plot is not None:
            figures.check(self.plot)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(MatchConfig, Bounded):
    """What is measured, printed and drawn, and the bounds on measures."""

    worst: int | None = option(
        None,
        "Print the N most confident wrong predictions (path, truth, label, probability) instead of the measures.",
        minimum=1,
        metavar="N",
    )
    folds: bool = option(
        False,
        "Instead of the measures, print a row for each fold, then mean, standard deviation and out-of-fold measures. "
        "Each file is a fold; a single file is divided by the column split of the truth.",
    )
    coverage: bool = option(
        False,
        "Instead of the measures, print the accuracy of the most confident 100 %, 95 %, ... of the predictions, and the "
        "--min-probability that keeps them.",
    )
    confusion: Path | None = option(None, "Draw the confusion matrix; FILE ends in .png, .svg or .pdf.", metavar="FILE")
    reliability: Path | None = option(
        None,
        "Draw a reliability diagram (accuracy against confidence); FILE ends in .png, .svg or .pdf.",
        metavar="FILE",
    )
    baseline: Path | None = option(
        None,
        "Also print the values of a baseline, the differences, and the 95 % interval of that of accuracy; of several labels per image, of "
        "those of mAP, F1 and others. FILE: predictions for the same images (paired), or the output of cnn-eval --json.",
        metavar="FILE",
    )
    fail_if_worse: bool = option(
        False,
        "Exit with status 4 if accuracy (mAP with several labels per image) is worse than that of --baseline: the 95 % interval of the "
        "difference is below zero.",
    )
    markdown: Path | None = option(
        None,
        "Comparison with --baseline to write, a short table in GitHub's Markdown, as for a pull request; - for standard output, in "
        "place of the measures unless these go to -o FILE.",
        metavar="FILE",
    )
    fail_under: list[str] | None = bound_option("below", bounds.HIGHER_IS_BETTER)
    fail_over: list[str] | None = bound_option("above", bounds.LOWER_IS_BETTER)

    def checked(self, *, files: int, as_json: bool = False) -> Self:
        """Check that options go together and that bounds can be read.

        Args:
            files: The number of files of predictions.
            as_json: Whether the measures are printed as JSON.

        Raises:
            UsageError: Options exclude each other, or a bound is invalid.
        """
        instead = {"--worst": self.worst is not None, "--folds": self.folds, "--coverage": self.coverage}
        chosen = [word for word, given in instead.items() if given]
        alone = [
            word
            for word, given in {"--fail-if-worse": self.fail_if_worse, "--markdown": self.markdown}.items()
            if given
        ]
        if self.baseline is None and alone:
            raise UsageError(f"{alone[0]} compares with a baseline; add --baseline main.tsv, or drop it")
        if self.baseline is not None and chosen:
            raise UsageError(
                f"--baseline adds columns to the measures, and {chosen[0]} prints others; drop one of the two"
            )
        if self.markdown is not None and str(self.markdown) == "-" and as_json:
            raise UsageError(
                "--json and --markdown - both write to standard output; give --markdown FILE.md, or drop one"
            )
        if self.markdown is not None and str(self.markdown) != "-":
            atomic.check_folder(self.markdown)
        if len(chosen) > 1:
            raise UsageError(f"{chosen[0]} and {chosen[1]} exclude each other; give one of them")
        if files > 1 and not self.folds:
            raise UsageError(
                f"{files} files of predictions: use --folds to measure each as a fold, cnn-compare to compare two models, "
                "or cat to join files of different images"
            )
        for word, file in {"--confusion": self.confusion, "--reliability": self.reliability}.items():
            if file is not None and self.folds:
                raise UsageError(f"{word} draws one set of predictions; drop it, or drop --folds")
            if file is not None:
                figures.check(file)
        self.floors()
        self.ceilings()
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateConfig(RemembersGiven):
    """The network that gets the temperature or the prediction sets, and what is drawn."""

    model: Path | None = option(None, "The network that made the predictions.", "--model", "-m", metavar="MODEL.onnx")
    output: Path | None = option(
        None,
        "Calibrated network to write; may be MODEL.onnx itself.",
        "--output",
        "-o",
        metavar="FILE.onnx",
    )
    reliability: Path | None = option(
        None,
        "Draw reliability diagrams (accuracy against confidence) before and after; FILE ends in .png, .svg or .pdf.",
        metavar="FILE",
    )
    sets: float | None = option(
        None,
        "Instead of a temperature, store the threshold of prediction sets that have the true class with at least this probability, such as "
        "0.95, for cnn-predict --sets.",
        metavar="COVERAGE",
    )
    score: SetMethod = option(
        SetMethod.LAC,
        "Score of classes for --sets. lac: 1 minus the probability, with the smallest sets. aps: sum of the probabilities down to the "
        "class, with larger sets that cover difficult classes better.",
    )

    def checked(self) -> Self:
        """Check file names, that -m and -o were given together, and that a coverage can be promised.

        Raises:
            UsageError: A file name has another extension, one of -m and -o is missing, or options exclude each other.
            CnnkitError: The folder of the output does not exist.
        """
        if self.sets is not None and not 0 < self.sets < 1:
            raise UsageError(f"--sets {self.sets:g}: give a coverage between 0 and 1, such as 0.95")
        if self.sets is None and given(self, names=["score"]):
            raise UsageError(f"--score {self.score} is for prediction sets; add --sets 0.95, or drop it")
        if self.sets is not None and self.reliability is not None:
            raise UsageError(
                "--sets changes no probability, and --reliability draws probabilities; drop one of the two"
            )
        if self.reliability is not None:
            figures.check(self.reliability)
        model, output = self.model, self.output
        if (model is None) != (output is None):
            having, lacking = ("-m", "-o CALIBRATED.onnx") if output is None else ("-o", "-m MODEL.onnx")
            raise UsageError(
                f"{having} without {lacking.split()[0]}: -m is the network to calibrate, -o the one to write; add {lacking}"
            )
        if model is not None and model.suffix in (".pt", ".pth"):
            word, made = (messages.shell_word(name) for name in (str(model), f"{model.stem}.onnx"))
            raise UsageError(f"{model}: only an exported network can be calibrated; run cnn-export {word} -o {made}")
        if output is not None and output.suffix != ".onnx":
            raise UsageError(f"{output}: a network is written to a .onnx file; choose another name")
        if output is not None:
            atomic.check_folder(output)
        return self
