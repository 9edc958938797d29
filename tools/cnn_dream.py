"""Amplify in an image the patterns that a layer of a network detects (DeepDream)."""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.explain.config import DreamFilterOptions, DreamOptions, NetworkOptions


@cli.image_command
def main(
    model: cli.options.DifferentiableModel = None,
    image: Annotated[
        str | None,
        cli.Argument(metavar="IMAGE", show_default=False, help="The image to start from. [required]"),
    ] = None,
    *,
    network_model: cli.options.ModelOption = None,
    output: Annotated[Path, cli.Option("--output", "-o", metavar="FILE.png", help="PNG to write.")],
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
    chosen, start = cli.model_and_arguments(network_model, (model, image), usage="MODEL IMAGE")

    from cnnkit.explain import activation_max

    with cli.progress("dreaming") as progress:
        record = activation_max.dream(
            chosen,
            Path(start),
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
