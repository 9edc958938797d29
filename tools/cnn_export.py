"""Export a model to one ONNX file, and prove that it computes the same."""

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
    output: Annotated[
        Path, cli.Option("--output", "-o", metavar="FILE", help="Where the result goes; replaced in one step.")
    ],
    verify: Annotated[
        list[str] | None, cli.Option("--verify", metavar="SOURCE", help="Compare on these pictures too; may repeat.")
    ] = None,
    *,
    config: ExportConfig,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    null: cli.options.Null = False,
    errors: cli.options.Errors = None,
    as_json: cli.options.Json = False,
) -> None:
    """Export a model to one ONNX file, and prove that it computes the same.

    The graph takes pictures as uint8 and gives probabilities; normalisation, classes and preprocessing are inside. ONNX Runtime
    is compared with torch at batch 1, 2 and --batch on random pictures, and on those of --verify. The file appears only if
    they agree. With --dynamic-size other sizes are compared as well; cnn-predict --size and cnn-cam --size then show it those.

    Examples:
      cnn-export head.pt -o head.onnx --verify split.tsv --split val
      cnn-export head.pt -o head.onnx --cam --features
      cnn-export head.pt -o any.onnx --cam --dynamic-size
      cnn-export head.pt -o half.onnx --fp16 --tolerance 0.02
    """
    if not verify and (split is not None or null or folders is not None):
        raise UsageError("--split, --folders and --null say which pictures; give them with --verify SOURCE")
    if not verify and (config.jobs is not None or errors is not None):
        raise UsageError("--jobs and --errors go with pictures to compare on; give them with --verify SOURCE")
    images = cli.images(verify, split=split, null=null, folders=folders, labels=False) if verify else None
    config = config.checked(model, output, verifies=images is not None)

    from cnnkit.engine import export  # torch is loaded when the small mistakes are ruled out

    with cli.callbacks("comparing", errors=errors) as callbacks:
        records = export.export_model(
            model, output, config, verify=images, verify_name=" ".join(verify or []), callbacks=callbacks
        )
    cli.emit(records, as_json)


if __name__ == "__main__":
    main()
