"""cnn-eval: measure predictions against the true labels."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cnnkit import cli
from cnnkit.errors import UsageError
from cnnkit.evaluation import bounds
from cnnkit.evaluation.config import EvalConfig

if TYPE_CHECKING:
    from cnnkit.evaluation.report import EvaluationReport


@cli.command
def main(
    predictions: Annotated[
        list[Path] | None,
        cli.Argument(
            metavar="PREDICTIONS",
            show_default=False,
            help="Output of cnn-predict: TSV, CSV or JSON Lines; several with --folds. [default: standard input (-)]",
        ),
    ] = None,
    truth: cli.options.TruthSource = None,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    *,
    config: EvalConfig,
    compare: Annotated[bool, cli.Option("--compare", hidden=True, help="Moved to cnn-compare A B.")] = False,
    as_json: Annotated[
        bool,
        cli.Option("--json", help="Print one JSON object; JSON Lines with --worst, --folds and --coverage."),
    ] = False,
) -> None:
    """Measure predictions against the true labels.

    Prints accuracy with its 95 % interval (Wilson), balanced accuracy, log-loss, ROC AUC, expected calibration error (ece, 15 bins),
    the precision, recall and F1 of each class, and the confusion matrix. In a pipe: rows of measure and value, those of a class as
    recall:cat; only --json has the matrix.

    The true labels are those of --truth, or else the folder names (photos/CLASS/image.jpg). Every image must be predicted at most once,
    and must have a true label. log_loss and roc_auc need the probability of every class (cnn-predict --top all); for two classes one is
    enough. A notice counts images whose probabilities do not sum to 1. A measure that cannot be computed is empty (null in JSON) and
    violates its bound.

    If the predictions have a column box and --truth is a manifest with one, also prints the mean intersection over union (iou) of the
    images whose truth has a box, and the share of them with at least 0.5 (iou_50) with its interval.

    Of predictions of several labels per image (columns path, rank, label, probability and threshold, of a multi-label model), with the
    true ones in the column labels of --truth: mAP, F1, precision and recall over all labels (micro) and as means over classes (macro),
    subset accuracy (all labels of an image right), Hamming loss, and average precision, precision, recall and F1 of each class. Intervals
    are of a bootstrap of 1,000 resamples of the images (seed 0), that of subset accuracy is Wilson's. --worst prints the labels that are
    predicted wrongly (truth 0) or missed (truth 1), those with a probability farthest from the threshold first.

    With --folds, --fail-under and --fail-over apply to the out-of-fold predictions: each image is predicted once, by the
    model that was not trained on it. If the files predict the same images, these options apply
    to the means. Standard deviations are those of a sample (n - 1).

    Examples:
      cnn-predict -m head.onnx photos/ | cnn-eval
      cnn-predict -m head.onnx split.tsv --split test > test.tsv
      cnn-eval test.tsv --truth split.tsv --split test --complete
      cnn-eval test.tsv --truth split.tsv --confusion confusion.png --json | jq .per_class
      cnn-eval test.tsv --fail-under accuracy=0.95 --fail-under recall:cat=0.9 --fail-over ece=0.1
      cnn-eval test.tsv --worst 20 | tail -n +2 | cut -f 1 | xargs -d '\\n' -n 1 xdg-open
      cat fold?.tsv | cnn-eval --folds --truth folds.tsv
      cnn-eval test.tsv --coverage | awk 'NR > 1 && $4 >= 0.99 {print $1; exit}'
    """
    if compare:
        raise UsageError("--compare is now a separate command: cnn-compare A B")
    config = config.checked(files=len(predictions or []))

    from cnnkit.evaluation import label_report, report

    known = cli.truth(truth, predictions=predictions, split=split, complete=config.complete, folders=folders)
    files = cli.reading_each(predictions, "predictions")
    if config.folds:
        from cnnkit.evaluation import cross_validation
        from cnnkit.formats import short_names

        names = short_names.names([str(path) for path in predictions or []])
        found = cross_validation.evaluate(files, known, config, names=names)
        with _gated(found.measures(), config):
            cli.emit(found.table() if cli.for_people() and not as_json else found.rows(), as_json)
        return
    several, same = label_report.peeked(files)
    if several:
        labels = label_report.evaluate(same, known, config)
        with _gated(labels.measures(), config):
            if config.worst is not None:
                columns = ("path", "label", "truth", "probability", "threshold")
                cli.emit(labels.worst(config.worst), as_json, columns=columns)
                return
            for notice in labels.notices():
                cli.notice(notice)
            cli.emit_report(labels.record(), as_json, rows=labels.rows(), tables=labels.tables())
        return
    result = report.evaluate(same, known, config)
    with _gated(result.measures(), config):
        if config.confusion is not None:
            from cnnkit.evaluation import plots

            plots.save_confusion(config.confusion, result)
        if config.reliability is not None:
            from cnnkit.evaluation import plots

            plots.save_reliability(config.reliability, {"": result})
        _print(result, config, as_json)


def _print(result: "EvaluationReport", config: EvalConfig, as_json: bool) -> None:
    """Print the wrong predictions, the coverage curve, or the measures."""
    if config.worst is not None:
        cli.emit(result.worst(config.worst), as_json, columns=("path", "truth", "label", "probability"))
    elif config.coverage:
        from cnnkit.evaluation.coverage import area, curve

        cli.emit(curve(result.predictions), as_json)
        cli.notice(f"area under the risk-coverage curve (AURC): {area(result.predictions):.6g}; lower is better")
    else:
        from cnnkit.evaluation import report

        for notice in report.about_measures(result):
            cli.notice(notice)
        cli.emit_report(result.record(), as_json, rows=result.rows(), tables=result.tables())


def _gated(measures: Mapping[str, float | None], config: EvalConfig) -> contextlib.AbstractContextManager[None]:
    """Check the bounds on measures after the output is written."""
    return cli.gated(bounds.check(measures, config.floors()), at_most=bounds.check(measures, config.ceilings()))


if __name__ == "__main__":
    main()
