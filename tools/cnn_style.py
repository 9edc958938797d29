"""Give an image the style of another one (style transfer)."""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.explain.config import NetworkOptions, StyleOptions


@cli.image_command
def main(
    content: Annotated[
        Path, cli.Argument(metavar="CONTENT", show_default=False, help="The image whose content is kept.")
    ],
    *,
    style_image: Annotated[
        Path, cli.Option("--style", metavar="IMAGE", help="The image whose colours, strokes and textures are taken.")
    ],
    output: Annotated[Path, cli.Option("--output", "-o", metavar="FILE.png", help="PNG to write.")],
    model: Annotated[
        str,
        cli.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Network that compares the images: the name of a torchvision or timm network, or a trained .pt.",
        ),
    ] = "vgg19",
    style: StyleOptions,
    network: NetworkOptions,
    seed: cli.options.Seed = 0,
    device: cli.options.Device = "auto",
    as_json: cli.options.Json = False,
) -> None:
    """Give an image the style of another one (style transfer).

    The pixels are optimized until the activations of a layer are near those of CONTENT, and the products of the channels of several
    layers (Gram matrices) near those of the --style image. Prints the losses at the start and after every tenth part of the steps:
    content and style as shares of the squares that they are compared with, tv is the total variation, and loss their weighted sum.

    Examples:
      cnn-style photo.jpg --style painting.jpg -o painted.png
      cnn-style photo.jpg --style painting.jpg -m squeezenet1_1 --size 256 --style-weight 100 -o painted.png
      cnn-style photo.jpg --style painting.jpg --style-layer block1_conv1 --style-layer block2_conv1 \\
          --start noise --steps 400 -o painted.png
    """
    style = style.checked()

    from cnnkit.explain import style as styles

    with cli.progress("transferring") as progress:
        records = styles.transfer(
            content,
            style_image,
            output,
            model=model,
            network=network,
            options=style,
            device=device,
            seed=seed,
            progress=progress,
        )
    cli.emit(records, as_json)


if __name__ == "__main__":
    main()
