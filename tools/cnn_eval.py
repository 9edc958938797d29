"""cnn-eval: from predictions to numbers."""

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
            help="What cnn-predict wrote, TSV, CSV or JSON Lines; standard input for - and unless given. One or more with --folds.",
        ),
    ] = None,
    truth: cli.options.TruthSource = None,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    *,
    config: EvalConfig,
    compare: Annotated[
        bool, cli.Option("--compare", hidden=True, help="A command of its own now: cnn-compare A B.")
    ] = False,
    as_json: Annotated[
        bool, cli.Option("--json", help="One JSON object; one a line where rows are printed instead of the measures.")
    ] = False,
) -> None:
    """Measure predictions against the truth.

    Accuracy with its 95 % interval (Wilson), balanced accuracy, log-loss, ROC AUC, expected calibration error (ece, 15 bins);
    precision, recall and F1 of each class; the confusion matrix. In a pipe: rows of measure and value, a class's measures as
    recall:cat; the matrix is in --json.

    Every prediction must have a truth, once, with a label that the truth knows. log_loss and roc_auc need the probability of
    every class: cnn-predict --top prints them; of two classes one is enough. They should sum to 1; those of sigmoids do not, and
    a notice counts them. A measure that is not known is empty, null in JSON,
    and keeps no bound.

    With --folds, bounds hold the out-of-fold figures: every picture predicted once, by the model that has not seen it. Files that
    predict the same pictures have none; bounds then hold the means. The deviation is that of a sample of folds.

    Examples:
      cnn-predict -m head.onnx photos/ | cnn-eval
      cnn-predict -m head.onnx split.tsv --split test > test.tsv
      cnn-eval test.tsv --truth split.tsv --split test --complete
      cnn-eval test.tsv --truth split.tsv --confusion confusion.png --json | jq .per_class
      cnn-eval test.tsv --fail-under accuracy=0.95 --fail-under recall:cat=0.9 --fail-over ece=0.1
      cnn-eval test.tsv --worst 20 | tail -n +2 | cut -f 1 | xargs -d '\\n' open
      cat fold?.tsv | cnn-eval --folds --truth folds.tsv
      cnn-eval test.tsv --coverage | awk 'NR > 1 && $4 >= 0.99 {print $1; exit}'
    """
    if compare:
        raise UsageError("--compare is now a command of its own: cnn-compare A B")
    config = config.checked(files=len(predictions or []))

    from cnnkit.evaluation import report

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
    result = report.evaluate(files, known, config)
    with _gated(result.measures(), config):
        if config.confusion is not None:
            from cnnkit.evaluation import plots

            plots.save_confusion(config.confusion, result)
        if config.reliability is not None:
            from cnnkit.evaluation import plots

            plots.save_reliability(config.reliability, {"": result})
        _print(result, config, as_json)


def _print(result: "EvaluationReport", config: EvalConfig, as_json: bool) -> None:
    """Print what was asked for: predictions, a curve, or the measures."""
    if config.worst is not None:
        cli.emit(result.worst(config.worst), as_json, columns=("path", "truth", "label", "probability"))
    elif config.coverage:
        from cnnkit.evaluation.coverage import area, curve

        cli.emit(curve(result.predictions), as_json)
        cli.notice(f"area under the risk-coverage curve (AURC): {area(result.predictions):.6g}, the lower the better")
    else:
        from cnnkit.evaluation import report

        for notice in report.about_measures(result):
            cli.notice(notice)
        cli.emit_report(result.record(), as_json, rows=result.rows(), tables=result.tables())


def _gated(measures: Mapping[str, float | None], config: EvalConfig) -> contextlib.AbstractContextManager[None]:
    """Demand that measures keep their bounds, once the output is written."""
    return cli.gated(bounds.check(measures, config.floors()), at_most=bounds.check(measures, config.ceilings()))


if __name__ == "__main__":
    main()
