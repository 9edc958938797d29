"""Export a model to one ONNX file, and prove that it computes the same."""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.choices import ExportInput
from cnnkit.errors import UsageError


@cli.command
def main(
    model: Annotated[
        Path,
        cli.Argument(
            metavar="MODEL.pt", show_default=False, help="A model from cnn-train-head, cnn-train or cnn-finetune."
        ),
    ],
    output: cli.options.Output,
    verify: Annotated[
        list[str] | None, cli.Option("--verify", metavar="SOURCE", help="Compare on these pictures too; may repeat.")
    ] = None,
    input_kind: Annotated[
        ExportInput, cli.Option("--input", help="uint8 pictures (N, H, W, 3), or normalised float32 (N, 3, H, W).")
    ] = ExportInput.UINT8,
    features: Annotated[bool, cli.Option("--features", help="One more output: what the head reads, (N, D).")] = False,
    cam: Annotated[
        bool, cli.Option("--cam", help="One more output: class activation maps, (N, classes, h, w).")
    ] = False,
    head_only: Annotated[
        bool, cli.Option("--head-only", help="The head alone: features in, probabilities out.")
    ] = False,
    fp16: Annotated[bool, cli.Option("--fp16", help="float16 inside, float32 outputs.")] = False,
    dynamic_size: Annotated[
        bool,
        cli.Option(
            "--dynamic-size",
            help="Take pictures of any height and width; needs global pooling before the first dense layer.",
        ),
    ] = False,
    opset: Annotated[
        int | None, cli.Option("--opset", help="ONNX operator set. [default: the exporter's]", show_default=False)
    ] = None,
    tolerance: Annotated[
        float | None,
        cli.Option(
            "--tolerance",
            min=0.0,
            help="Largest difference of a probability. [default: 0.0001; 0.05 with --fp16]",
            show_default=False,
        ),
    ] = None,
    split: cli.options.Split = None,
    null: cli.options.Null = False,
    device: cli.options.Device = "auto",
    batch: cli.options.Batch = 32,
    jobs: cli.options.Jobs = None,
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
    from cnnkit.engine.config import ExportConfig

    if not verify and (split is not None or null):
        raise UsageError("--split and --null say which pictures; give them with --verify SOURCE")
    config = ExportConfig(
        input=input_kind,
        features=features,
        cam=cam,
        head_only=head_only,
        fp16=fp16,
        dynamic_size=dynamic_size,
        opset=opset,
        tolerance=tolerance,
        batch=batch,
        jobs=jobs,
        device=device,
    )
    images = cli.images(verify, split=split, null=null) if verify else None
    config.check(model, output, verifies=images is not None)
    from cnnkit.engine import export  # torch is loaded when the small mistakes are ruled out

    with cli.skipping(errors) as skip, cli.progress("comparing") as progress:
        records = export.export_model(
            model,
            output,
            config,
            verify=images,
            verify_name=" ".join(verify or []),
            skip=skip,
            progress=progress,
        )
    cli.emit(records, as_json)


if __name__ == "__main__":
    main()
