"""cnn-eval: from predictions to numbers."""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.errors import UsageError
from cnnkit.evaluation import bounds


@cli.command
def main(
    predictions: Annotated[
        Path | None,
        cli.Argument(
            metavar="PREDICTIONS",
            show_default=False,
            help="What cnn-predict wrote, TSV or JSON Lines; standard input for - and unless given.",
        ),
    ] = None,
    truth: Annotated[
        str | None,
        cli.Option(
            "--truth",
            metavar="SOURCE",
            help="A manifest.tsv with labels, or a folder of class folders. Unless given, the class of a picture is the name of "
            "the folder that holds it.",
        ),
    ] = None,
    split: cli.Split = None,
    complete: Annotated[
        bool,
        cli.Option(
            "--complete", help="Every picture of the truth must be predicted; else those that are not are counted."
        ),
    ] = False,
    labels: Annotated[
        Path | None,
        cli.Option(
            "--labels",
            metavar="FILE",
            help="The classes, one a line, in the order of the report; those of the truth, sorted, unless given.",
        ),
    ] = None,
    worst: Annotated[
        int | None,
        cli.Option(
            "--worst",
            min=1,
            metavar="N",
            help="Print the N most confidently wrong answers (path, truth, label, probability) instead of the measures.",
        ),
    ] = None,
    confusion: Annotated[
        Path | None,
        cli.Option("--confusion", metavar="FILE", help="Draw the confusion matrix; FILE ends in .png, .svg or .pdf."),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        cli.Option(
            "--fail-under",
            metavar="MEASURE=BOUND",
            help=f"Exit 4 if the measure is below the bound; may repeat. Measures: {', '.join(bounds.HIGHER_IS_BETTER)}.",
        ),
    ] = None,
    fail_over: Annotated[
        list[str] | None,
        cli.Option(
            "--fail-over",
            metavar="MEASURE=BOUND",
            help="Exit 4 if the measure is above the bound; may repeat. For those that are better the lower they are: "
            f"{', '.join(bounds.LOWER_IS_BETTER)}.",
        ),
    ] = None,
    as_json: Annotated[bool, cli.Option("--json", help="One JSON object; with --worst one a line.")] = False,
) -> None:
    """Measure predictions against the truth.

    Accuracy with its 95 % interval (Wilson), balanced accuracy, log-loss, ROC AUC, expected calibration error (ece, 15 bins);
    precision, recall and F1 of each class; the confusion matrix. In a pipe: rows of measure and value, a class's measures as
    recall:cat; the matrix is in --json.

    Every prediction must have a truth, once, with a label that the truth knows. log_loss and roc_auc need the probability of
    every class: cnn-predict --top prints them; of two classes one is enough. A measure that is not known is empty, null in JSON,
    and keeps no bound.

    Examples:
      cnn-predict -m head.onnx photos/ | cnn-eval
      cnn-predict -m head.onnx split.tsv --split test > test.tsv
      cnn-eval test.tsv --truth split.tsv --split test --complete
      cnn-eval test.tsv --truth split.tsv --confusion confusion.png --json | jq .per_class
      cnn-eval test.tsv --fail-under accuracy=0.95 --fail-under recall:cat=0.9 --fail-over ece=0.1
      cnn-eval test.tsv --worst 20 | tail -n +2 | cut -f 1 | xargs -d '\\n' open
    """
    from cnnkit.evaluation import report
    from cnnkit.formats import labels as label_files

    floors = bounds.parse(fail_under or [], option="--fail-under")
    ceilings = bounds.parse(fail_over or [], option="--fail-over", lower_is_better=True)
    if truth is None and (split is not None or complete):
        raise UsageError("--split and --complete speak of a list of pictures; give one with --truth")
    if truth == "-" and str(predictions or "-") == "-":
        raise UsageError("predictions and truth cannot both come from standard input")

    with cli.reading(predictions, "predictions") as (lines, name):
        result = report.evaluate(
            lines,
            name=name,
            truth=None if truth is None else cli.pictures([truth], split=split),
            truth_name=f"{truth} ({split})" if split is not None else str(truth),
            classes=None if labels is None else label_files.load(labels),
            complete=complete,
        )
    floors_kept, ceilings_kept = (bounds.check(result.measures(), bound) for bound in (floors, ceilings))
    if confusion is not None:
        from cnnkit.evaluation import confusion_picture

        confusion_picture.save(confusion, result)
    with cli.gated(floors_kept, at_most=ceilings_kept):
        if worst is None:
            cli.emit_report(result.record(), as_json, rows=result.rows(), tables=result.tables())
        else:
            cli.emit(result.worst(worst), as_json, columns=("path", "truth", "label", "probability"))


if __name__ == "__main__":
    main()
