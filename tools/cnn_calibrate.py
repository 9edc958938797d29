"""Make probabilities mean what they say: fit a temperature, and put it into the exported network."""

from functools import partial
from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.evaluation.config import CalibrateConfig


@cli.command
def main(
    predictions: Annotated[
        Path | None,
        cli.Argument(
            metavar="PREDICTIONS",
            show_default=False,
            help="What cnn-predict --top N wrote, N classes being all; standard input for - and unless given.",
        ),
    ] = None,
    truth: cli.options.TruthSource = None,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    *,
    config: CalibrateConfig,
    as_json: cli.options.Json = False,
) -> None:
    """Make probabilities mean what they say: fit a temperature, and put it into the exported network.

    Of answers with probability 0.9, nine in ten should be right. Networks are often surer than that; their logits divided by one
    number, the temperature, are not. It is fitted to images whose truth is known (the smallest log-loss), best to those of the
    validation set, which chose nothing but the epoch; no answer changes, and so no accuracy.

    Writes the measures before and after, on these same images: log_loss, ece (expected calibration error, 15 bins). With -m and
    -o, whoever runs the new file gets calibrated probabilities: cnn-predict, and any other program. The network is asked about a few
    of the images first: predictions that are not its own are refused. A second temperature multiplies the first.

    The probability of every class is needed: cnn-predict --top prints them; of two classes one is enough.

    Examples:
      cnn-predict -m head.onnx split.tsv --split val --top 5 > val.tsv
      cnn-calibrate val.tsv --truth split.tsv --split val -m head.onnx -o calibrated.onnx
      cnn-calibrate val.tsv --truth split.tsv --split val --reliability reliability.png
      cnn-predict -m calibrated.onnx split.tsv --split test --top 5 | cnn-eval --truth split.tsv --split test
    """
    config = config.checked()

    from cnnkit.evaluation import temperature

    known = cli.truth(truth, predictions=None if predictions is None else [predictions], split=split, folders=folders)
    with cli.reading(predictions, "predictions") as file:
        if config.model is None:
            result = temperature.calibrate([file], known, config)
        else:
            from cnnkit.infer import predict

            demand = partial(predict.check_provenance, config.model, name=file[1])
            result = temperature.calibrate([file], known, config, demand=demand)
    if config.reliability is not None:
        from cnnkit.evaluation import plots

        after = f"after, temperature {result.temperature:.4g}"
        plots.save_reliability(config.reliability, {"before": result.before, after: result.after})
    cli.emit(result.rows(), as_json)


if __name__ == "__main__":
    main()
