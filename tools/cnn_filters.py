"""Show what the filters of a layer look for."""

from pathlib import Path
from typing import Annotated, Any

from cnnkit import cli
from cnnkit.errors import UsageError


@cli.command
def main(
    model: Annotated[
        str,
        cli.Argument(
            metavar="MODEL", show_default=False, help="A trained .pt, or a network of torchvision's or timm's by name."
        ),
    ],
    output: Annotated[Path, cli.Option("--output", "-o", metavar="FILE.png", help="Where the picture goes.")],
    layer: cli.options.OneLayer = None,
    filters: Annotated[
        str | None,
        cli.Option(
            "--filters",
            metavar="RANGES",
            help="Which, as in 0-63 or 3,7,12-20. [default: the first 64]",
            show_default=False,
        ),
    ] = None,
    kernels: Annotated[
        bool, cli.Option("--kernels", help="The weights of the first convolution themselves, zero in grey.")
    ] = False,
    dream: Annotated[Path | None, cli.Option("--dream", metavar="PICTURE", hidden=True, help="Now cnn-dream.")] = None,
    steps: Annotated[
        int | None,
        cli.Option(
            "--steps",
            min=1,
            help="How often the gradient is followed. [default: 64]",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        cli.Option(
            "--rate",
            min=0.0,
            help="Root mean square of what a step changes, in grey levels of 255. [default: 12]",
            show_default=False,
        ),
    ] = None,
    jitter: Annotated[
        int | None,
        cli.Option(
            "--jitter",
            min=0,
            metavar="PIXELS",
            help="By so much at most the picture is shifted before a step. [default: 4]",
            show_default=False,
        ),
    ] = None,
    blur: Annotated[
        float | None,
        cli.Option(
            "--blur",
            min=0.0,
            metavar="PIXELS",
            help="Deviation of the blur after a step. [default: 0.5]",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str | None,
        cli.Option(
            "--size",
            metavar="PIXELS|HxW",
            help="Of a pattern. [default: as the model has it, 128 at most]",
            show_default=False,
        ),
    ] = None,
    weights: cli.options.NamedWeights = "default",
    seed: cli.options.Seed = 0,
    device: cli.options.Device = "auto",
    batch: Annotated[
        int | None,
        cli.Option("--batch", min=1, help="Filters that are looked for at once. [default: 16]", show_default=False),
    ] = None,
    as_json: cli.options.Json = False,
) -> None:
    """Show what the filters of a layer look for.

    Follows the gradient of what a filter answers, from grey noise, and lays the patterns of many filters side by side. Records tell what
    each answers in the mean to the noise (start) and to its pattern (activation).

    Examples:
      cnn-filters vgg16 --layer block3_conv1 --filters 0-63 -o filters.png
      cnn-filters model.pt --layer 3 --steps 200 --blur 1 -o filters.png
      cnn-filters alexnet --kernels -o kernels.png
    """
    if dream is not None:
        raise UsageError("--dream is now a command of its own: cnn-dream")
    given: dict[str, Any] = {"steps": steps, "rate": rate, "jitter": jitter, "blur": blur, "size": size, "batch": batch}
    given = {name: value for name, value in given.items() if value is not None}
    if kernels and given:
        raise UsageError(f"--{next(iter(given))} means nothing to --kernels; drop it")
    from cnnkit.explain import activation_max
    from cnnkit.explain.config import LayerOptions, PatternOptions

    place = LayerOptions(model=model, weights=weights, layer=layer, device=device, seed=seed)
    if kernels:
        cli.emit(activation_max.draw_kernels(place, output, filters=filters), as_json)
        return
    options = PatternOptions(filters=filters, **given)
    with cli.progress("searching") as progress:
        records = activation_max.draw_patterns(place, output, options, progress=progress)
    cli.emit(records, as_json)


if __name__ == "__main__":
    main()
