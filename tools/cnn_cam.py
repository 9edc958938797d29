"""cnn-cam: where in an image a network sees what speaks for a class.

photos/cat/1.jpg    ->  OUT/cat/1.jpg               the overlay, of the image's size and format
                        OUT/cat/1~dog.jpg           likewise, where maps of several classes are asked for
photos/cat/2.gif        OUT/cat/2.gif.png           what is not written in its own format becomes PNG
                        OUT/cat/1.jpg.map.npy       with --raw: the map as the layer has it
                        OUT/cat/1.jpg.pixels.npy    and in pixels of the image
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.choices import CamMethod
from cnnkit.explain.cam_methods import METHODS


def with_methods(function: Callable[..., None]) -> Callable[..., None]:
    """List the methods below the examples of the help."""
    lines = [f"    {method:<12} {METHODS[method].help}" for method in METHODS]
    function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "  The values of --method", *lines])
    return function


@cli.command
@with_methods
def main(
    model: Annotated[
        str,
        cli.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A trained .pt; an .onnx from cnn-export --cam, which needs no torch; or a network of torchvision's or timm's by name.",
        ),
    ],
    sources: cli.options.Sources = None,
    output: Annotated[
        Path | None,
        cli.Option("--output", "-o", metavar="DIR", help="Where the overlays go; none are drawn unless said."),
    ] = None,
    classes: Annotated[
        list[str] | None,
        cli.Option(
            "--class",
            metavar="NAME|top|true|all",
            help="Whose map: a class by name, the one that the network names, the picture's label, or each; may repeat. [default: top]",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        CamMethod | None,
        cli.Option("--method", help="How it is made. [default: gradcam; cam for an .onnx]", show_default=False),
    ] = None,
    layer: cli.options.OneLayer = None,
    contrast: Annotated[bool, cli.Option("--contrast", help="What speaks against the class.")] = False,
    fine: Annotated[
        bool,
        cli.Option(
            "--fine",
            help="Twice the rows and columns: the last stride before the layer is taken out, what follows dilated.",
        ),
    ] = False,
    box: Annotated[
        float | None,
        cli.Option(
            "--box",
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Frame the hot region: the largest that hangs together and has SHARE of the map's maximum, as in --box 0.5.",
        ),
    ] = None,
    faithful: Annotated[
        bool,
        cli.Option(
            "--faithful",
            help="How far a map can be believed: the area below the class's probability as its hottest pixels are hidden first "
            "(deletion, the lower the better), or shown first (insertion, the higher).",
        ),
    ] = False,
    alpha: Annotated[
        float, cli.Option("--alpha", min=0.0, max=1.0, help="How much of the picture the colours cover.")
    ] = 0.5,
    colormap: cli.options.Colormap = "inferno",
    sheet: Annotated[
        Path | None,
        cli.Option("--sheet", metavar="FILE.png", help="All pictures, their overlays and probabilities side by side."),
    ] = None,
    raw: Annotated[
        bool,
        cli.Option(
            "--raw",
            help="Beside each overlay FILE.map.npy, of the layer's size, and FILE.pixels.npy, of the picture's: float32.",
        ),
    ] = False,
    weights: cli.options.NamedWeights = "default",
    size: cli.options.Shown = None,
    fit: cli.options.ShownFit = None,
    force: Annotated[
        bool, cli.Option("--force", help="DIR may hold something; overlays replace files of their names.")
    ] = False,
    split: cli.options.Split = None,
    null: cli.options.Null = False,
    device: cli.options.Device = "auto",
    batch: cli.options.Batch = 32,
    jobs: cli.options.Jobs = None,
    errors: cli.options.Errors = None,
    as_json: cli.options.Json = False,
) -> None:
    """Show where in a picture a network sees what speaks for a class.

    Lays a class activation map over each picture and prints a record for each: label is what the network names, class is whose map it
    is, probability that class's, peak and box are pixels of the picture (x, y; left, top, right, bottom), maximum is the largest value of
    the map, which is 0 where nothing speaks for the class. The colours lie over the part of the picture that the network saw; the
    map's largest value has the last colour, 0 the first. Maxima can be compared within one method and layer.

    Examples:
      cnn-cam -m model.pt photos/ -o maps/
      cnn-cam -m model.pt split.tsv --split val --class true --sheet sheet.png
      cnn-cam -m model.pt both.jpg -o maps/ --class cat --class dog --box 0.5
      cnn-cam -m model.onnx photos/ -o maps/ --method cam --json | jq -r "select(.probability < 0.6).overlay"
      cnn-cam -m mobilenet_v2 elephants.jpg -o maps/ --fine --size 448
      cnn-cam -m any.onnx landscape.jpg -o maps/ --size 900x1200
      cnn-cam -m model.pt photos/ --faithful --method layercam > faithful.tsv
    """
    from cnnkit.explain import cam_render, cam_run
    from cnnkit.explain.config import CamOptions, RenderOptions

    render = RenderOptions(
        output=output,
        sheet=sheet,
        alpha=alpha,
        colormap=colormap,
        raw=raw,
        box=box,
        faithful=faithful,
        force=force,
    )
    cam_render.check(render)
    images = cli.images(sources, split=split, null=null)
    cam = CamOptions(
        weights=weights,
        method=method,
        layer=layer,
        contrast=contrast,
        fine=fine,
        size=size,
        fit=fit,
        device=device,
        batch=batch,
    )
    network = cam_run.open_model(model, cam)
    with cli.skipping(errors) as skip, cli.progress("explaining", streaming=True) as progress:
        records = cam_run.explain(
            images,
            network,
            wanted=classes or ["top"],
            options=render,
            batch=batch,
            jobs=jobs,
            skip=skip,
            progress=progress,
        )
        cli.emit(records, as_json, columns=cam_run.columns(render))


if __name__ == "__main__":
    main()
