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
            metavar="MODEL.pt", show_default=False, help="A model from cnn-train-head, cnn-train or cnn-finetune."
        ),
    ],
    output: Annotated[Path, cli.Option("--output", "-o", metavar="FILE.onnx", help="ONNX file to write.")],
    verify: Annotated[
        list[str] | None,
        cli.Option("--verify", metavar="SOURCE", help="Also compare on these images; may be repeated."),
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

    A model exported with --dynamic-size is also compared at other image sizes, and can be used with cnn-predict --size and
    cnn-cam --size.

    Examples:
      cnn-export head.pt -o head.onnx --verify split.tsv --split val
      cnn-export head.pt -o head.onnx --cam --features
      cnn-export head.pt -o any.onnx --cam --dynamic-size
      cnn-export head.pt -o head-only.onnx --head-only
      cnn-export head.pt -o half.onnx --fp16 --tolerance 0.02
    """
    if not verify and (split is not None or null or folders is not None):
        raise UsageError("--split, --folders and --null need --verify SOURCE")
    if not verify and (config.jobs is not None or errors is not None):
        raise UsageError("--jobs and --errors need --verify SOURCE")
    images = cli.images(verify, split=split, null=null, folders=folders, labels=False) if verify else None
    config = config.checked(model, output, verifies=images is not None)

    from cnnkit.engine import export  # imports torch, after the checks of the options
    from cnnkit.formats import atomic

    with atomic.claimed(output), cli.callbacks("comparing", errors=errors) as callbacks:
        records = export.export_model(
            model, output, config, verify=images, verify_name=" ".join(verify or []), callbacks=callbacks
        )
    cli.emit(records, as_json)


if __name__ == "__main__":
    main()
