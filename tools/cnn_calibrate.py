"""Calibrate probabilities: fit a temperature and write it into the exported network; find prediction sets; or add a novelty."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cnnkit import cli
from cnnkit.evaluation.config import CalibrateConfig
from cnnkit.infer.config import NoveltyConfig
from cnnkit.option_fields import given, refuse_unused

if TYPE_CHECKING:
    from cnnkit.evaluation.matching import MatchedPredictions


@cli.command
def main(
    predictions: Annotated[
        Path | None,
        cli.Argument(
            metavar="PREDICTIONS",
            show_default=False,
            help="Output of cnn-predict --top all. [default: standard input (-)]",
        ),
    ] = None,
    truth: cli.options.TruthSource = None,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    *,
    config: CalibrateConfig,
    novelty: NoveltyConfig,
    as_json: cli.options.Json = False,
) -> None:
    """Calibrate probabilities: fit a temperature and write it into the exported network; find prediction sets; or add a novelty.

    Of predictions with probability 0.9, nine in ten should be correct. Networks are often overconfident; dividing their logits by one
    number, the temperature, corrects that. It is fitted to labelled images, best those of the validation set, by minimizing the log-loss.
    No prediction changes, so accuracy does not either.

    Prints log_loss and ece (expected calibration error, 15 bins) before and after, on the same images. With -m and -o it writes a copy of
    the network with the temperature in its graph, so that every program that runs it gets calibrated probabilities. The network first
    predicts a few of the images again; predictions of another network are refused.
    In a network that is calibrated already, the new temperature is multiplied by the old one.

    With --sets 0.95, no probability changes. Prints and stores the threshold with which the most probable classes of an image, its
    prediction set, have the true one for at least 95 % of new images like the labelled ones (split conformal prediction). cnn-predict
    --sets prints the sets. A temperature that is fitted afterwards removes them: fit it first.

    With --novelty train.npy, no probability changes, and no predictions are read. The network gets an output novelty: the Mahalanobis
    distance of an image's features to those of the training images of the nearest class, about 1 for these. 95 % of the validation images
    are not above its threshold. cnn-predict prints the novelty, and with --reject ? for images above the threshold.

    The probability of every class is needed (cnn-predict --top all); for two classes one is enough.

    Examples:
      cnn-predict -m head.onnx split.tsv --split val --top all > val.tsv
      cnn-calibrate val.tsv --truth split.tsv --split val -m head.onnx -o calibrated.onnx
      cnn-calibrate val.tsv --truth split.tsv --split val --reliability reliability.png
      cnn-calibrate val.tsv --truth split.tsv --split val --sets 0.95 -m head.onnx -o sets.onnx
      cnn-calibrate --novelty train.npy --val val.npy -m head.onnx -o novelty.onnx
      cnn-predict -m calibrated.onnx split.tsv --split test --top all \\
          | cnn-eval --truth split.tsv --split test
    """
    novelty = novelty.checked()
    if novelty.novelty is not None:
        others = [option for option in given(config) if option not in ("--model", "--output")]
        unused = {"PREDICTIONS": predictions is not None} | cli.truth_options(truth, split=split, folders=folders)
        refuse_unused(unused | dict.fromkeys(others, True), "--novelty reads features, not predictions")
        config = config.checked()

        from cnnkit.infer import novelty as novelties

        cli.emit([novelties.add(novelty, model=config.model, output=config.output)], as_json)
        return

    config = config.checked()

    from cnnkit.evaluation import set_calibration, temperature

    known = cli.truth(truth, predictions=None if predictions is None else [predictions], split=split, folders=folders)
    with cli.reading(predictions, "predictions") as file:
        demand: Callable[[MatchedPredictions], None] | None = None
        if config.model is not None:
            from cnnkit.infer import predict

            demand = partial(predict.check_provenance, config.model, name=file[1])
        if config.sets is not None:
            cli.emit(set_calibration.calibrate([file], known, config, demand=demand).rows(), as_json)
            return
        result = temperature.calibrate([file], known, config, demand=demand)
    if config.reliability is not None:
        from cnnkit.evaluation import plots

        after = f"after, temperature {result.temperature:.4g}"
        plots.save_reliability(config.reliability, {"before": result.before, after: result.after})
    cli.emit(result.rows(), as_json)


if __name__ == "__main__":
    main()
