"""cnn-report: write a report on predictions.

predictions.tsv  split.tsv  head.onnx  head.csv   ->   report.html   one page: measures, mistakes with images and heat maps, training
                                                       summary.md    with --markdown: for a pull request
                                                       report.xml    with --junit: for CI
"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.errors import UsageError
from cnnkit.report.config import STDOUT, ReportConfig


@cli.image_command
def main(
    predictions: Annotated[
        Path | None,
        cli.Argument(
            metavar="PREDICTIONS",
            show_default=False,
            help="Output of cnn-predict: TSV, CSV or JSON Lines. [default: standard input (-)]",
        ),
    ] = None,
    truth: cli.options.TruthSource = None,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    *,
    config: ReportConfig,
    errors: cli.options.Errors = None,
    as_json: cli.options.Json = False,
) -> None:
    """Write a report on predictions: one HTML page, a summary in Markdown, or test results for CI.

    The page has the measures of cnn-eval with the interval of the accuracy, the confusion matrix, a reliability diagram, accuracy
    against coverage, a table of the classes, and the most confident mistakes with their images. With --model also the training history,
    heat maps of the mistakes, and how the model was made; with --check duplicates, leaks between splits and broken images. It is one
    file without scripts, which loads nothing from the network, and can be printed.

    Predictions of a multi-label model, with the true labels in the column labels of --truth, have other measures, as in cnn-eval: mAP
    and F1 with intervals, a table of the labels with their thresholds and counts, a matrix of missed labels and of those predicted
    wrongly in the same images, and the most confident mistakes of each label.

    Prints a row with the main measures. An image that cannot be read is skipped, and named on the page; the exit status is then 3.

    Examples:
      cnn-report test.tsv --truth split.tsv --split test -m head.onnx -o report.html
      cnn-predict -m head.onnx photos/ --top all | cnn-report -o report.html
      cnn-report test.tsv --truth split.tsv --split test --check -o report.html
      cnn-report test.tsv --markdown - | gh pr comment --body-file -
      cnn-report test.tsv --junit report.xml --fail-under accuracy=0.95 --fail-over ece=0.1
    """
    config = config.checked()
    config.check_apart(predictions, truth)
    if config.check and truth == "-":
        raise UsageError("--check reads the truth again, and standard input can be read once; give --truth a file")

    from cnnkit.evaluation import label_report
    from cnnkit.evaluation import report as evaluation
    from cnnkit.formats import text_file
    from cnnkit.report import collect, junit, markdown, page

    sources = None if predictions is None else [predictions]
    known = cli.truth(truth, predictions=sources, split=split, complete=config.complete, folders=folders)
    several, files = label_report.peeked(cli.reading_each(sources, "predictions"))
    measured = (label_report if several else evaluation).evaluate(files, known, config)
    cli.finish_files()
    with cli.callbacks("reading images", errors=errors) as callbacks:
        images = None
        if config.check:
            found = None if truth is None else cli.images([truth], folders=folders, aloud=False)
            images = collect.labelled(measured) if found is None else list(found)
        content = collect.collect(
            measured,
            config,
            predictions_name=predictions.name
            if predictions is not None and predictions != STDOUT
            else "standard input",
            truth_name=collect.name_of_truth(truth, split),
            images=images,
            callbacks=callbacks,
        )
    with cli.gated(
        {gate.measure: (gate.value, gate.bound) for gate in content.gates if gate.is_floor},
        at_most={gate.measure: (gate.value, gate.bound) for gate in content.gates if not gate.is_floor},
    ):
        if config.output is not None:
            text_file.save(config.output, page.render(content))
        if config.junit is not None:
            text_file.save(config.junit, junit.render(content))
        if config.markdown == STDOUT:
            cli.emit_lines(markdown.render(content).splitlines())
            return
        if config.markdown is not None:
            text_file.save(config.markdown, markdown.render(content))
        cli.emit([content.summary()], as_json)


if __name__ == "__main__":
    main()
