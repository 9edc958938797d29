"""cnn-maps: what the layers of a network answer to an image.

OUT/block1_conv1.png            all channels side by side
OUT/block1_conv1/007.png        each by itself
OUT/block1_conv1.npy            with --raw: float32 (C, h, w)
"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.choices import MapScale


@cli.command
def main(
    model: Annotated[
        str,
        cli.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A trained .pt, an exported .onnx, or a network of torchvision's or timm's by name.",
        ),
    ],
    image: Annotated[Path, cli.Argument(metavar="PICTURE", show_default=False, help="What the network looks at.")],
    output: Annotated[
        Path | None,
        cli.Option("--output", "-o", metavar="DIR", help="Where the pictures go; none are drawn unless said."),
    ] = None,
    layers: Annotated[
        list[str] | None,
        cli.Option(
            "--layer",
            metavar="NAME|INDEX|all",
            help="A layer by name, or by number from 0, or from the end as -1; may repeat. [default: all]",
            show_default=False,
        ),
    ] = None,
    channels: Annotated[
        str | None,
        cli.Option(
            "--channels", metavar="RANGES", help="Draw these alone, as in 0-63 or 3,7,12-20.", show_default=False
        ),
    ] = None,
    scale: Annotated[
        MapScale,
        cli.Option(
            "--scale",
            help="Colours by each channel's own range, which shows patterns, or by the layer's, which compares.",
        ),
    ] = MapScale.CHANNEL,
    colormap: cli.options.Colormap = "viridis",
    raw: Annotated[
        bool, cli.Option("--raw", help="What each layer answers as .npy as well, float32 (C, h, w).")
    ] = False,
    weights: cli.options.NamedWeights = "default",
    size: cli.options.Shown = None,
    fit: cli.options.ShownFit = None,
    force: Annotated[
        bool, cli.Option("--force", help="DIR may hold something; pictures of the same names are replaced.")
    ] = False,
    device: cli.options.Device = "auto",
    as_json: cli.options.Json = False,
) -> None:
    """Show what the layers of a network answer to a picture.

    Draws every channel, and a mosaic of each layer, and prints a record for each: silent is the share of channels that do not
    respond at all, zeros that of values, mean and maximum are over all of them, most_active is the channel with the largest mean.

    With --layer all, and in an .onnx, a layer includes the normalisation and activation behind it; one that is named in a .pt is
    that alone.

    Examples:
      cnn-maps -m model.pt cat.jpg -o maps/
      cnn-maps -m vgg16 cat.jpg -o maps/ --layer block1_conv1 --layer block5_conv3 --channels 0-63
      cnn-maps -m model.onnx cat.jpg | cut -f 1,3
    """
    from cnnkit.explain import feature_maps
    from cnnkit.explain.config import FeatureMapOptions

    options = FeatureMapOptions(output=output, scale=scale, channels=channels, colormap=colormap, raw=raw, force=force)
    feature_maps.check(options)
    network = feature_maps.open_model(model, weights=weights, size=size, fit=fit, device=device)
    cli.emit(feature_maps.explain(network, image, layers or ["all"], options=options), as_json)


if __name__ == "__main__":
    main()
