"""Amplify in an image the patterns that a layer of a network detects (DeepDream)."""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.explain.config import DreamFilterOptions, DreamOptions, NetworkOptions


@cli.image_command
def main(
    model: cli.options.DifferentiableModel,
    image: Annotated[Path, cli.Argument(metavar="IMAGE", show_default=False, help="The image to start from.")],
    output: Annotated[Path, cli.Option("--output", "-o", metavar="FILE.png", help="PNG to write.")],
    *,
    filters: DreamFilterOptions,
    dream: DreamOptions,
    network: NetworkOptions,
    seed: cli.options.Seed = 0,
    device: cli.options.Device = "auto",
    as_json: cli.options.Json = False,
) -> None:
    """Amplify in an image the patterns that a layer of a network detects (DeepDream).

    Gradient ascent maximizes the mean square of the layer's activations, first on a small copy of the image, then on larger ones
    (octaves). Prints a row with that mean square for the image (start) and for the dream (activation).

    Examples:
      cnn-dream inception_v3 sky.jpg --layer Mixed_5d -o dream.png
      cnn-dream model.pt photo.jpg --layer 3 --filters 0-7 --size 256 --octaves 2 -o dream.png
    """
    from cnnkit.explain import activation_max

    with cli.progress("dreaming") as progress:
        record = activation_max.dream(
            model,
            image,
            output,
            network=network,
            filters=filters,
            options=dream,
            device=device,
            seed=seed,
            progress=progress,
        )
    cli.emit([record], as_json)


if __name__ == "__main__":
    main()
