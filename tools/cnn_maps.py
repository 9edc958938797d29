"""cnn-maps: the activations of the layers of a network for one image.

DIR/block1_conv1.png            mosaic of all channels
DIR/block1_conv1/007.png        one channel
DIR/block1_conv1.npy            with --raw: float32 (C, h, w)
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
            help="A trained .pt, an exported .onnx, or the name of a torchvision or timm network.",
        ),
    ],
    image: Annotated[
        Path, cli.Argument(metavar="IMAGE", show_default=False, help="The image to run through the network.")
    ],
    *,
    maps: FeatureMapOptions,
    shown: InputOptions,
    device: cli.options.Device = "auto",
    as_json: cli.options.Json = False,
) -> None:
    """Show the feature maps of a network: the activations of its layers for one image.

    Prints a row for each layer: silent is the share of channels that are zero everywhere, zeros the share of values that are zero,
    mean and maximum are over all values, most_active is the channel with the largest mean. -o draws every channel and a mosaic of each
    layer.

    With --layer all, and for an .onnx, a layer includes the normalization and activation after it. A layer of a .pt given by name is
    that layer alone.

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
    with tree.writing_into(maps.output, force=maps.force), cli.callbacks("drawing", streaming=True) as callbacks:
        cli.emit(feature_maps.explain(network, image, options=maps, callbacks=callbacks), as_json)


if __name__ == "__main__":
    main()
