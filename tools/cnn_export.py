"""Export a model to an ONNX file, and check that its outputs are the same."""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.engine.config import ExportConfig
from cnnkit.errors import UsageError


@cli.image_command
def main(
    model: Annotated[
        Path,
        cli.Argument(
            metavar="MODEL.pt|NETWORK",
            show_default=False,
            help="A model from cnn-train-head, cnn-train or cnn-finetune; or the name of a torchvision or timm network.",
        ),
    ],
    output: Annotated[Path, cli.Option("--output", "-o", metavar="FILE.onnx", help="ONNX file to write.")],
    verify: Annotated[
        list[str] | None,
        cli.Option("--verify", metavar="SOURCE", help="Also compare on these images; may be repeated."),
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        cli.Option(
            "--calibrate",
            metavar="SOURCE",
            help="With --int8: labelled images; train sets the ranges of activations, val measures accuracy. May be repeated.",
        ),
    ] = None,
    *,
    config: ExportConfig,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    null: cli.options.Null = False,
    errors: cli.options.Errors = None,
    as_json: cli.options.Json = False,
) -> None:
    """Export a model to an ONNX file, and check that its outputs are the same.

    The ONNX graph takes uint8 images and gives probabilities; it includes normalization, class names and preprocessing. The
    outputs of ONNX Runtime and torch are compared at batch sizes 1, 2 and --batch on random images, and on those of --verify; the file
    is written only if they agree.

    A network by name is exported with the classifier and the classes that it was published with.

    A model exported with --dynamic-size is also compared at other image sizes, and can be used with cnn-predict --size and
    cnn-cam --size.

    --int8 quantizes the network with ONNX Runtime. It measures accuracy, log-loss and top-1 agreement with float32 on labelled images that
    were not used for calibration; with several labels per image mAP, micro F1, and the share of images with the same labels. If accuracy
    (or mAP) drops by more than --max-drop, the layers with the largest errors stay in float32; if that does not suffice, nothing is
    written.

    Examples:
      cnn-export head.pt -o head.onnx --verify split.tsv --split val
      cnn-export head.pt -o head.onnx --cam --features
      cnn-export head.pt -o any.onnx --cam --dynamic-size
      cnn-export head.pt -o head-only.onnx --head-only
      cnn-export mobilenet_v2 -o mobilenet.onnx --cam
      cnn-export resnet18 --weights flowers.pth --labels flowers.txt -o flowers.onnx
      cnn-export head.pt -o half.onnx --fp16 --tolerance 0.02
      cnn-export head.pt -o small.onnx --int8 --calibrate split.tsv
    """
    if not verify and split is not None:
        raise UsageError(
            "--split needs --verify SOURCE; --calibrate takes the splits train and val"
            if calibrate
            else "--split, --folders and --null need --verify SOURCE"
        )
    if not (verify or calibrate) and (null or folders is not None):
        raise UsageError("--split, --folders and --null need --verify SOURCE")
    if not (verify or calibrate) and (config.jobs is not None or errors is not None):
        raise UsageError("--jobs and --errors need --verify SOURCE")
    if verify and calibrate and "-" in verify and "-" in calibrate:
        raise UsageError("standard input (-) can be given only once")
    images = cli.images(verify, split=split, null=null, folders=folders, labels=False) if verify else None
    labelled = cli.images(calibrate, null=null, folders=folders) if calibrate else None
    config = config.checked(model, output, verifies=images is not None, calibrates=labelled is not None)

    from cnnkit.engine import export  # imports torch, after the checks of the options
    from cnnkit.formats import atomic

    with atomic.claimed(output), cli.callbacks("comparing", errors=errors) as callbacks:
        records = export.export_model(
            model,
            output,
            config,
            verify=images,
            verify_name=" ".join(verify or []),
            calibrate=labelled,
            calibrate_name=" ".join(calibrate or []),
            callbacks=callbacks,
        )
    cli.emit(records, as_json)


if __name__ == "__main__":
    main()
