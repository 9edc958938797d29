"""cnn-maps: what the layers of a network output for an image.

OUT/block1_conv1.png            all channels side by side
OUT/block1_conv1/007.png        each by itself
OUT/block1_conv1.npy            with --raw: float32 (C, h, w)
"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.explain.config import FeatureMapOptions, InputOptions


@cli.image_command
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
    *,
    maps: FeatureMapOptions,
    shown: InputOptions,
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
    maps = maps.checked()

    from cnnkit.data import tree
    from cnnkit.explain import feature_maps

    feature_maps.check(maps)
    if maps.output is not None:
        cli.finish_files()
    network = feature_maps.open_model(model, shown, device=device)
    with tree.writing_into(maps.output, force=maps.force):
        cli.emit(feature_maps.explain(network, image, options=maps), as_json)


if __name__ == "__main__":
    main()
