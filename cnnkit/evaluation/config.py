"""Configuration of evaluation, comparison and calibration: one dataclass field for each option. No numpy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit.errors import UsageError
from cnnkit.evaluation import bounds
from cnnkit.formats import atomic, figures
from cnnkit.formats import labels as label_files
from cnnkit.option_fields import option


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchConfig:
    """How predictions are matched with the truth."""

    complete: bool = option(False, "Every image of the truth must be predicted; else those that are not are counted.")
    labels: Path | None = option(
        None,
        "The classes, one a line, in the order of the report. [default: those of the truth and the predictions, sorted]",
        metavar="FILE",
    )

    def classes(self) -> tuple[str, ...] | None:
        """Read the classes; None for those of the truth.

        Raises:
            FormatError: The file of labels is none.
        """
        return None if self.labels is None else label_files.load(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig(MatchConfig):
    """The same for two models, and whether the second one may be worse."""

    complete: bool = option(
        False, "Every image of the truth must be predicted; otherwise those that are not are counted."
    )
    labels: Path | None = option(
        None, "The classes, one a line. [default: those of the truth and the predictions]", metavar="FILE"
    )
    fail_if_worse: bool = option(
        False, "Exit 4 if B is worse than A: the 95 % interval of the difference lies below zero."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(MatchConfig):
    """What is measured, printed and drawn, and the bounds that measures have to keep."""

    worst: int | None = option(
        None,
        "Print the N most confidently wrong answers (path, truth, label, probability) instead of the measures.",
        minimum=1,
        metavar="N",
    )
    folds: bool = option(
        False,
        "Print a row for each fold instead, their mean and deviation, and the out-of-fold figures. A fold is a file; of "
        "a single file, a part (column split) of the truth.",
    )
    coverage: bool = option(
        False,
        "Print instead how accurate the surest 100 %, 95 %, ... of the answers are, and the --min-probability of "
        "cnn-predict that gives them alone.",
    )
    confusion: Path | None = option(None, "Draw the confusion matrix; FILE ends in .png, .svg or .pdf.", metavar="FILE")
    reliability: Path | None = option(
        None,
        "Draw accuracy against confidence, a reliability diagram; FILE ends in .png, .svg or .pdf.",
        metavar="FILE",
    )
    fail_under: list[str] | None = option(
        None,
        f"Exit 4 if the measure is below the bound; may repeat. Measures: {', '.join(bounds.HIGHER_IS_BETTER)}.",
        metavar="MEASURE=BOUND",
    )
    fail_over: list[str] | None = option(
        None,
        "Exit 4 if the measure is above the bound; may repeat. For those that are better the lower they are: "
        f"{', '.join(bounds.LOWER_IS_BETTER)}.",
        metavar="MEASURE=BOUND",
    )

    def checked(self, *, files: int) -> Self:
        """Refuse options that do not go together, and bounds that are none.

        Args:
            files: How many files of predictions there are.

        Raises:
            UsageError: There are some.
        """
        instead = {"--worst": self.worst is not None, "--folds": self.folds, "--coverage": self.coverage}
        chosen = [word for word, given in instead.items() if given]
        if len(chosen) > 1:
            raise UsageError(f"{chosen[0]} and {chosen[1]} exclude each other: each prints something else")
        if files > 1 and not self.folds:
            raise UsageError(
                f"{files} files of predictions: --folds measures each as a fold, cnn-compare two against each other; "
                "cat joins files of different images"
            )
        for word, file in {"--confusion": self.confusion, "--reliability": self.reliability}.items():
            if file is not None and self.folds:
                raise UsageError(f"{word} draws one set of predictions; drop it, or --folds")
        self.floors()
        self.ceilings()
        return self

    def floors(self) -> Mapping[str, float]:
        """Give the least that measures may be.

        Raises:
            UsageError: A bound is none.
        """
        return bounds.parse(self.fail_under or [], option="--fail-under")

    def ceilings(self) -> Mapping[str, float]:
        """Give the most that measures may be.

        Raises:
            UsageError: A bound is none.
        """
        return bounds.parse(self.fail_over or [], option="--fail-over", lower_is_better=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateConfig:
    """Into which network the temperature goes, and what is drawn."""

    model: Path | None = option(None, "The network that made the predictions.", "--model", "-m", metavar="MODEL.onnx")
    output: Path | None = option(
        None,
        "Where the network goes that has the temperature in its graph; may be MODEL.onnx itself.",
        "--output",
        "-o",
        metavar="FILE",
    )
    reliability: Path | None = option(
        None, "Draw accuracy against confidence, before and after; FILE ends in .png, .svg or .pdf.", metavar="FILE"
    )

    def checked(self) -> Self:
        """Refuse names of files that are none, and a network without a place for the new one.

        Raises:
            UsageError: There are some.
            CnnkitError: The output's folder does not exist.
        """
        if self.reliability is not None:
            figures.check(self.reliability)
        model, output = self.model, self.output
        if (model is None) != (output is None):
            given, lacking = ("-m", "-o CALIBRATED.onnx") if output is None else ("-o", "-m MODEL.onnx")
            raise UsageError(
                f"{given} alone: the network that predicted, and where it goes with the temperature; add {lacking}"
            )
        if model is not None and model.suffix in (".pt", ".pth"):
            raise UsageError(
                f"{model}: a temperature is put into an exported network; make one with cnn-export {model} -o {model.stem}.onnx"
            )
        if output is not None and output.suffix != ".onnx":
            raise UsageError(f"{output}: a network is written to a .onnx file")
        if output is not None:
            atomic.check_folder(output)
        return self
