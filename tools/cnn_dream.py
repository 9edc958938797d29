"""Strengthen in an image what a layer of a network sees in it."""

from pathlib import Path
from typing import Annotated

from cnnkit import cli


@cli.command
def main(
    model: Annotated[
        str,
        cli.Argument(
            metavar="MODEL", show_default=False, help="A trained .pt, or a network of torchvision's or timm's by name."
        ),
    ],
    image: Annotated[Path, cli.Argument(metavar="IMAGE", show_default=False, help="The image to start from.")],
    output: Annotated[Path, cli.Option("--output", "-o", metavar="FILE.png", help="Where the dream goes.")],
    layer: cli.options.OneLayer = None,
    filters: Annotated[
        str | None,
        cli.Option(
            "--filters",
            metavar="RANGES",
            help="Filters to strengthen, as in 0-63 or 3,7,12-20. [default: all]",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, cli.Option("--steps", min=1, help="Gradient steps per octave.")] = 16,
    rate: Annotated[
        float,
        cli.Option("--rate", min=0.0, help="Root mean square of the change in each step, in grey levels of 255."),
    ] = 2.0,
    jitter: Annotated[
        int,
        cli.Option("--jitter", min=0, metavar="PIXELS", help="Maximum random shift before each step, in pixels."),
    ] = 16,
    blur: Annotated[
        float,
        cli.Option(
            "--blur",
            min=0.0,
            metavar="PIXELS",
            help="Standard deviation of the Gaussian blur after each step, in pixels.",
        ),
    ] = 0.0,
    size: Annotated[
        str | None,
        cli.Option(
            "--size",
            metavar="PIXELS",
            help="Longer side of the dream. [default: that of the image, at most 512]",
            show_default=False,
        ),
    ] = None,
    octaves: Annotated[int, cli.Option("--octaves", min=1, help="Number of sizes, from coarse to fine.")] = 4,
    octave_scale: Annotated[
        float, cli.Option("--octave-scale", min=1.01, help="Ratio of each size to the one before.")
    ] = 1.4,
    weights: cli.options.NamedWeights = "default",
    seed: cli.options.Seed = 0,
    device: cli.options.Device = "auto",
    as_json: cli.options.Json = False,
) -> None:
    """Strengthen in an image what a layer of a network sees in it.

    Follows the gradient of the mean square of the layer's activations, first on a small copy of the image, then on larger ones. The
    record has that mean square for the image (start) and for the dream (activation).

    Examples:
      cnn-dream inception_v3 sky.jpg --layer Mixed_5d -o dream.png
      cnn-dream model.pt photo.jpg --layer 3 --filters 0-7 --size 256 --octaves 2 -o dream.png
    """
    from cnnkit.explain import activation_max
    from cnnkit.explain.config import DreamOptions, LayerOptions

    options = DreamOptions(
        filters=filters,
        steps=steps,
        rate=rate,
        jitter=jitter,
        blur=blur,
        size=size,
        octaves=octaves,
        octave_scale=octave_scale,
    )
    place = LayerOptions(model=model, weights=weights, layer=layer, device=device, seed=seed)
    with cli.progress("dreaming") as progress:
        record = activation_max.dream(place, image, output, options, progress=progress)
    cli.emit([record], as_json)


if __name__ == "__main__":
    main()
