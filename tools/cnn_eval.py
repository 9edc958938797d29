"""cnn-eval: measure predictions against the true labels."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cnnkit import cli
from cnnkit.errors import UsageError
from cnnkit.evaluation import bounds
from cnnkit.evaluation.config import EvalConfig

if TYPE_CHECKING:
    from cnnkit.evaluation.baseline import BaselineComparison
    from cnnkit.evaluation.label_report import LabelReport
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
    output_file: cli.options.TableFile = None,
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

    Predictions of cnn-predict --sets also have measures of their prediction sets: coverage, the share of images whose set has the true
    class, with its interval (Wilson), and the mean set_size.

    With --baseline, rows have the columns baseline, difference, difference_low and difference_high. The interval of the difference of
    accuracies is that of cnn-compare for predictions of the same images; with saved measures it is Newcombe's for independent images,
    which is wider.

    Predictions of a multi-label model (columns path, rank, label, probability and threshold), with the true labels in the column labels
    of --truth, have other measures: mAP, F1, precision and recall over all labels (micro) and as means over classes (macro), subset
    accuracy (all labels of an image right), Hamming loss, and average precision, precision, recall and F1 of each class. Intervals are
    of a bootstrap of 1,000 resamples of the images (seed 0); that of subset accuracy is Wilson's. With --baseline, these measures have
    intervals of their differences: of the same resamples for predictions of the same images, else from the intervals of both.
    --fail-if-worse compares mAP, or micro F1 where probabilities are missing. --worst prints the labels that are predicted wrongly
    (truth 0) or missed (truth 1), those with a probability farthest from the threshold first.

    With --folds, --fail-under and --fail-over apply to the out-of-fold predictions: each image is predicted once, by the
    model that was not trained on it. If the files predict the same images, these options apply
    to the means. Standard deviations are those of a sample (n - 1).

    Examples:
      cnn-predict -m head.onnx photos/ | cnn-eval
      cnn-predict -m head.onnx split.tsv --split test -o test.tsv
      cnn-eval test.tsv --truth split.tsv --split test --complete -o measures.json
      cnn-eval test.tsv --truth split.tsv --confusion confusion.png --json | jq .per_class
      cnn-eval test.tsv --fail-under accuracy=0.95 --fail-under recall:cat=0.9 --fail-over ece=0.1
      cnn-eval test.tsv --worst 20 | tail -n +2 | cut -f 1 | xargs -d '\\n' -n 1 xdg-open
      cnn-eval test.tsv --baseline main.tsv --fail-if-worse --markdown - >> "$GITHUB_STEP_SUMMARY"
      cat fold?.tsv | cnn-eval --folds --truth folds.tsv
      cnn-eval test.tsv --coverage | awk 'NR > 1 && $4 >= 0.99 {print $1; exit}'
    """
    if compare:
        raise UsageError("--compare is now a separate command: cnn-compare A B")
    inputs = [*(predictions or []), truth, config.labels, config.baseline]
    as_json = cli.to_file(output_file, as_json, inputs=inputs, outputs={"--markdown": config.markdown})
    config = config.checked(files=len(predictions or []), as_json=as_json and not cli.diverted())

    from cnnkit.evaluation import label_report, report

    read = predictions if config.baseline is None else [*(predictions or [Path("-")]), config.baseline]
    known = cli.truth(truth, predictions=read, split=split, complete=config.complete, folders=folders)
    files = cli.reading_each(predictions, "predictions")
    if config.folds:
        from cnnkit.evaluation import cross_validation
        from cnnkit.formats import short_names

        names = short_names.names([str(path) for path in predictions or []])
        found = cross_validation.evaluate(files, known, config, names=names)
        with _gated(found.measures(), config, {}):
            cli.emit(found.table() if cli.for_people() and not as_json else found.rows(), as_json)
        return
    several, same = label_report.peeked(files)
    called = str(predictions[0]) if predictions and str(predictions[0]) != "-" else "standard input"
    if several:
        label_report.check_options(config)
        labels = label_report.evaluate(same, known, config)
        compared = None
        if config.baseline is not None:
            from cnnkit.evaluation import baseline

            with cli.reading(config.baseline, "predictions") as (lines, name):
                compared = baseline.compare_labels(labels, lines, known, config, name=name, called=called)
        with _gated(labels.measures(), config, _worse(compared, config, called)):
            _save_markdown(compared, config)
            if config.worst is not None:
                columns = ("path", "label", "truth", "probability", "threshold")
                cli.emit(labels.worst(config.worst), as_json, columns=columns)
                return
            _emit(labels, labels.notices(), config, as_json, compared, also_measures=cli.diverted())
        return
    result = report.evaluate(same, known, config)
    against = None
    if config.baseline is not None:
        from cnnkit.evaluation import baseline

        with cli.reading(config.baseline, "predictions") as (lines, name):
            against = baseline.compare(result, lines, known, config, name=name, called=called)
    with _gated(result.measures(), config, _worse(against, config, called)):
        if config.confusion is not None:
            from cnnkit.evaluation import plots

            plots.save_confusion(config.confusion, result)
        if config.reliability is not None:
            from cnnkit.evaluation import plots

            plots.save_reliability(config.reliability, {"": result})
        _save_markdown(against, config)
        _print(result, config, as_json, against, also_measures=cli.diverted())


def _print(
    result: "EvaluationReport",
    config: EvalConfig,
    as_json: bool,
    against: "BaselineComparison | None" = None,
    *,
    also_measures: bool = False,
) -> None:
    """Print the wrong predictions, the coverage curve, or the measures, `also_measures` where `--markdown -` is printed."""
    if config.worst is not None:
        cli.emit(result.worst(config.worst), as_json, columns=("path", "truth", "label", "probability"))
    elif config.coverage:
        from cnnkit.evaluation.coverage import area, curve

        cli.emit(curve(result.predictions), as_json)
        cli.notice(f"area under the risk-coverage curve (AURC): {area(result.predictions):.6g}; lower is better")
    else:
        from cnnkit.evaluation import report

        _emit(result, report.about_measures(result), config, as_json, against, also_measures=also_measures)


def _emit(
    result: "EvaluationReport | LabelReport",
    notices: Iterable[str],
    config: EvalConfig,
    as_json: bool,
    against: "BaselineComparison | None",
    *,
    also_measures: bool,
) -> None:
    """Print the measures, with those of a baseline, and its Markdown; `also_measures` where `--markdown -` is printed."""
    for notice in notices:
        cli.notice(notice)
    if against is not None and str(config.markdown) == "-":
        cli.emit_lines(against.markdown().splitlines(), to_stdout=True)
        if not also_measures:
            return
    record, rows, tables = result.record(), result.rows(), result.tables()
    if against is not None:
        record, rows = {**record, "comparison": against.record()}, against.rows(rows)
        tables = {**tables, "Measures": against.table(rows)}
    cli.emit_report(record, as_json, rows=rows, tables=tables)


def _save_markdown(against: "BaselineComparison | None", config: EvalConfig) -> None:
    """Write the comparison with a baseline to the file of --markdown; `-` is printed instead."""
    if against is not None and config.markdown is not None and str(config.markdown) != "-":
        against.save_markdown(config.markdown)


def _worse(
    against: "BaselineComparison | None", config: EvalConfig, called: str
) -> Mapping[str, tuple[float | None, float]]:
    """Return the bound of --fail-if-worse, if it is given."""
    return against.bounds(called) if against is not None and config.fail_if_worse else {}


def _gated(
    measures: Mapping[str, float | None], config: EvalConfig, worse: Mapping[str, tuple[float | None, float]]
) -> contextlib.AbstractContextManager[None]:
    """Check the bounds on measures, and that on the difference from a baseline, after the output is written."""
    floors = {**bounds.check(measures, config.floors()), **worse}
    return cli.gated(floors, at_most=bounds.check(measures, config.ceilings()))


if __name__ == "__main__":
    main()
