"""cnn-compare: compare the accuracy of two models on the same images."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cnnkit import cli
from cnnkit.errors import UsageError
from cnnkit.evaluation.config import CompareConfig, LearningCurveConfig
from cnnkit.option_fields import given

if TYPE_CHECKING:
    from cnnkit.evaluation.learning_curve import CurvePoint


@cli.command
def main(
    first: Annotated[
        Path | None,
        cli.Argument(metavar="A", show_default=False, help="Predictions of one model; - for standard input."),
    ] = None,
    second: Annotated[
        Path | None,
        cli.Argument(metavar="B", show_default=False, help="Predictions of the other model for the same images; or -."),
    ] = None,
    truth: cli.options.TruthSource = None,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    *,
    config: CompareConfig,
    curve: LearningCurveConfig,
    output_file: cli.options.TableFile = None,
    as_json: cli.options.Json = False,
) -> None:
    """Compare the accuracy of two models on the same images.

    Prints the accuracies of A and B, the difference B - A with its 95 % interval, the numbers of images that both, only A, only B and
    neither predict correctly, and the p-value of McNemar's exact test. A withheld prediction
    (the label ? of cnn-predict --min-probability) counts as wrong.

    The interval is the wider of Newcombe's interval for paired samples and the inverted exact test. It excludes 0 if and only if
    p < 0.05; the notice and --fail-if-worse use it.

    Both files must have the same images, once each, in any order. The test assumes independent images; a warning counts those that share
    a group of the manifest.

    Examples:
      cnn-compare old.tsv new.tsv --truth split.tsv
      cnn-compare old.tsv new.tsv --truth split.tsv --split test --fail-if-worse
      cnn-predict -m new.onnx photos/ | cnn-compare old.tsv - --json | jq .p_value
      cnn-compare old.tsv new.tsv --truth split.tsv -o difference.tsv
      cnn-compare --learning-curve train.npy --val val.npy --plot curve.png
    """
    files = [path for path in (first, second) if path is not None]
    as_json = cli.to_file(output_file, as_json, inputs=[*files, truth, curve.learning_curve, curve.val])
    curve = curve.checked(
        files=len(files),
        others=cli.truth_options(truth, split=split, folders=folders) | dict.fromkeys(given(config), True),
    )
    if curve.learning_curve is not None:
        points = _learning_curve(curve.learning_curve, curve)
        if cli.for_people() and not as_json:
            cli.emit_tables(tables(points))
        else:
            cli.emit(points, as_json)
        return

    from cnnkit.evaluation import comparison

    known = cli.truth(truth, predictions=files, split=split, complete=config.complete, folders=folders)
    read = cli.reading_each(files, "predictions")
    names = ["standard input" if str(path) == "-" else str(path) for path in files]
    result = comparison.compare(read, known, config, names=names)
    with cli.gated(comparison.bounds(result, *names) if config.fail_if_worse else {}):
        cli.emit([result], as_json)


def _learning_curve(train: Path, curve: LearningCurveConfig) -> "list[CurvePoint]":
    """Measure, extrapolate and draw the learning curve of features."""
    from cnnkit.train import feature_sets

    if curve.val is None and not feature_sets.has_own_val(train):
        raise UsageError(f"{train} has no rows of a validation set; give --val VAL.npy")
    data = feature_sets.load(train, val=curve.val, hold_out=None, loss=None)

    from cnnkit.evaluation import learning_curve
    from cnnkit.train import growing_sets

    with cli.callbacks("training") as callbacks:
        sets = growing_sets.measure(data, repeats=curve.repeats, seed=curve.seed, progress=callbacks.progress)
    found = learning_curve.summarize([each.images for each in sets], [each.correct for each in sets], seed=curve.seed)
    if curve.plot is not None:
        from cnnkit.evaluation import learning_curve_plot

        learning_curve_plot.save(curve.plot, found)
    return found.points


def tables(points: Sequence["CurvePoint"]) -> dict[str, list[dict[str, object]]]:
    """Divide a learning curve by the kind of its points, so that its tables fit a terminal of 80 columns: without the columns of others."""
    kinds: dict[str, list[dict[str, object]]] = {}
    for each in points:
        kinds.setdefault(each.kind, []).append(asdict(each))
    return {
        kind.capitalize(): [
            {name: row[name] for name in row if name != "kind" and any(one[name] is not None for one in rows)}
            for row in rows
        ]
        for kind, rows in kinds.items()
    }


if __name__ == "__main__":
    main()
