"""cnn-eval: from predictions to numbers."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.errors import UsageError
from cnnkit.evaluation import bounds


@cli.command
def main(
    predictions: Annotated[
        list[Path] | None,
        cli.Argument(
            metavar="PREDICTIONS",
            show_default=False,
            help="What cnn-predict wrote, TSV or JSON Lines; standard input for - and unless given. One or more with --folds.",
        ),
    ] = None,
    truth: cli.options.TruthSource = None,
    split: cli.options.Split = None,
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
    folds: Annotated[
        bool,
        cli.Option(
            "--folds",
            help="Print a row for each fold instead, their mean and deviation, and the out-of-fold figures. A fold is a file; of "
            "a single file, a part (column split) of the truth.",
        ),
    ] = False,
    compare: Annotated[
        bool, cli.Option("--compare", hidden=True, help="A command of its own now: cnn-compare A B.")
    ] = False,
    coverage: Annotated[
        bool,
        cli.Option(
            "--coverage",
            help="Print instead how accurate the surest 100 %, 95 %, ... of the answers are, and the --min-probability of "
            "cnn-predict that gives them alone.",
        ),
    ] = False,
    confusion: Annotated[
        Path | None,
        cli.Option("--confusion", metavar="FILE", help="Draw the confusion matrix; FILE ends in .png, .svg or .pdf."),
    ] = None,
    reliability: Annotated[
        Path | None,
        cli.Option(
            "--reliability",
            metavar="FILE",
            help="Draw accuracy against confidence, a reliability diagram; FILE ends in .png, .svg or .pdf.",
        ),
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
    as_json: Annotated[
        bool, cli.Option("--json", help="One JSON object; one a line where rows are printed instead of the measures.")
    ] = False,
) -> None:
    """Measure predictions against the truth.

    Accuracy with its 95 % interval (Wilson), balanced accuracy, log-loss, ROC AUC, expected calibration error (ece, 15 bins);
    precision, recall and F1 of each class; the confusion matrix. In a pipe: rows of measure and value, a class's measures as
    recall:cat; the matrix is in --json.

    Every prediction must have a truth, once, with a label that the truth knows. log_loss and roc_auc need the probability of
    every class: cnn-predict --top prints them; of two classes one is enough. A measure that is not known is empty, null in JSON,
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
    from cnnkit.evaluation import report
    from cnnkit.formats import labels as label_files

    if compare:
        raise UsageError("--compare is now a command of its own: cnn-compare A B")
    _check(
        predictions or [],
        instead={"--worst": worst is not None, "--folds": folds, "--coverage": coverage},
        drawn={"--confusion": confusion is not None, "--reliability": reliability is not None},
    )
    floors = bounds.parse(fail_under or [], option="--fail-under")
    ceilings = bounds.parse(fail_over or [], option="--fail-over", lower_is_better=True)
    known = cli.truth(truth, predictions=predictions, split=split, complete=complete)
    classes = None if labels is None else label_files.load(labels)
    files = cli.reading_each(predictions, "predictions")
    if folds:
        from cnnkit.evaluation import cross_validation
        from cnnkit.formats import short_names

        names = short_names.names([str(path) for path in predictions or []])
        found = cross_validation.evaluate(files, known, names=names, classes=classes, complete=complete)
        with _gated(found.measures(), floors, ceilings):
            cli.emit(found.table() if cli.for_people() and not as_json else found.rows(), as_json)
        return
    result = report.evaluate(files, known, classes=classes, complete=complete)
    with _gated(result.measures(), floors, ceilings):
        if confusion is not None:
            from cnnkit.evaluation import plots

            plots.save_confusion(confusion, result)
        if reliability is not None:
            from cnnkit.evaluation import plots

            plots.save_reliability(reliability, {"": result})
        if worst is not None:
            cli.emit(result.worst(worst), as_json, columns=("path", "truth", "label", "probability"))
        elif coverage:
            from cnnkit.evaluation.coverage import area, curve

            cli.emit(curve(result.predictions), as_json)
            cli.notice(
                f"area under the risk-coverage curve (AURC): {area(result.predictions):.6g}, the lower the better"
            )
        else:
            for notice in report.about_unknown(result):
                cli.notice(notice)
            cli.emit_report(result.record(), as_json, rows=result.rows(), tables=result.tables())


def _check(files: Sequence[Path], *, instead: Mapping[str, bool], drawn: Mapping[str, bool]) -> None:
    """Refuse words that do not go together.

    Args:
        files: The predictions.
        instead: Whether each word stands that prints something else than the measures.
        drawn: Likewise, for images.

    Raises:
        UsageError: They do not.
    """
    chosen = [word for word, given in instead.items() if given]
    if len(chosen) > 1:
        raise UsageError(f"{chosen[0]} and {chosen[1]} exclude each other: each prints something else")
    if len(files) > 1 and not instead["--folds"]:
        raise UsageError(
            f"{len(files)} files of predictions: --folds measures each as a fold, cnn-compare two against each other; "
            "cat joins files of different pictures"
        )
    for word, given in drawn.items():
        if given and instead["--folds"]:
            raise UsageError(f"{word} draws one set of predictions; drop it, or --folds")


def _gated(
    measures: Mapping[str, float | None], floors: Mapping[str, float], ceilings: Mapping[str, float]
) -> contextlib.AbstractContextManager[None]:
    """Demand that measures keep their bounds, once the output is written."""
    return cli.gated(bounds.check(measures, floors), at_most=bounds.check(measures, ceilings))


if __name__ == "__main__":
    main()
