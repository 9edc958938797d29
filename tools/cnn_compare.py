"""cnn-compare: compare the accuracy of two models on the same images."""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.evaluation.config import CompareConfig


@cli.command
def main(
    first: Annotated[
        Path,
        cli.Argument(metavar="A", show_default=False, help="Predictions of one model; - for standard input."),
    ],
    second: Annotated[
        Path,
        cli.Argument(metavar="B", show_default=False, help="Predictions of the other model for the same images; or -."),
    ],
    truth: cli.options.TruthSource = None,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    *,
    config: CompareConfig,
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
    """
    from cnnkit.evaluation import comparison

    files = [first, second]
    known = cli.truth(truth, predictions=files, split=split, complete=config.complete, folders=folders)
    read = cli.reading_each(files, "predictions")
    names = ["standard input" if str(path) == "-" else str(path) for path in files]
    result = comparison.compare(read, known, config, names=names)
    with cli.gated(comparison.bounds(result, *names) if config.fail_if_worse else {}):
        cli.emit([result], as_json)


if __name__ == "__main__":
    main()
