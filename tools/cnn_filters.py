"""Show what the filters of a layer look for."""

from pathlib import Path
from typing import Annotated

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
    layer: cli.OneLayer = None,
    numbers: Annotated[
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
    dream: Annotated[
        Path | None,
        cli.Option(
            "--dream", metavar="PICTURE", help="Begin with a picture, and strengthen what the layer sees in it."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        cli.Option(
            "--steps",
            min=1,
            help="How often the gradient is followed. [default: 64; 16 an octave of a dream]",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        cli.Option(
            "--rate",
            min=0.0,
            help="Root mean square of what a step changes, in grey levels of 255. [default: 12; 2 for a dream]",
            show_default=False,
        ),
    ] = None,
    jitter: Annotated[
        int | None,
        cli.Option(
            "--jitter",
            min=0,
            metavar="PIXELS",
            help="By so much at most the picture is shifted before a step. [default: 4; 16 for a dream]",
            show_default=False,
        ),
    ] = None,
    blur: Annotated[
        float | None,
        cli.Option(
            "--blur",
            min=0.0,
            metavar="PIXELS",
            help="Deviation of the blur after a step. [default: 0.5; 0 for a dream]",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str | None,
        cli.Option(
            "--size",
            metavar="PIXELS|HxW",
            help="Of a pattern; of a dream its longer side. [default: as the model has it, 128 at most; a dream 512]",
            show_default=False,
        ),
    ] = None,
    octaves: Annotated[
        int | None,
        cli.Option("--octaves", min=1, help="Of a dream: in how many sizes. [default: 4]", show_default=False),
    ] = None,
    octave_scale: Annotated[
        float | None,
        cli.Option(
            "--octave-scale", min=1.01, help="Of a dream: how much larger each is. [default: 1.4]", show_default=False
        ),
    ] = None,
    weights: cli.NamedWeights = "default",
    seed: cli.Seed = 0,
    device: cli.Device = "auto",
    batch: Annotated[int, cli.Option("--batch", min=1, help="Filters that are looked for at once.")] = 16,
    as_json: cli.Json = False,
) -> None:
    """Show what the filters of a layer look for.

    Follows the gradient of what a filter answers, from grey noise, and lays the patterns of many filters side by side. Records tell what
    each answers in the mean to the noise (start) and to its pattern (activation).

    Examples:
      cnn-filters vgg16 --layer block3_conv1 --filters 0-63 -o filters.png
      cnn-filters model.pt --layer 3 --steps 200 --blur 1 -o filters.png
      cnn-filters alexnet --kernels -o kernels.png
      cnn-filters inception_v3 --dream sky.jpg --layer Mixed_5d -o dream.png
    """
    if kernels and dream is not None:
        raise UsageError("--kernels draws weights and --dream a picture; give one of them")
    climbing = {"--steps": steps, "--rate": rate, "--jitter": jitter, "--blur": blur, "--size": size}
    dreaming = {"--octaves": octaves, "--octave-scale": octave_scale}
    unused = {**(climbing if kernels else {}), **(dreaming if dream is None else {})}
    for option, value in unused.items():
        if value is not None:
            raise UsageError(
                f"{option} {'goes with --dream' if option in dreaming else 'means nothing to --kernels'}; drop it"
            )
    from cnnkit.explain import activation_max
    from cnnkit.explain.config import AscentOptions

    place = activation_max.LayerSpec(model=model, weights=weights, layer=layer, device=device, seed=seed)
    if kernels:
        cli.emit(activation_max.draw_kernels(place, output, numbers=numbers), as_json)
        return
    usual = activation_max.DREAMING if dream is not None else AscentOptions()
    ascent = AscentOptions(
        steps=usual.steps if steps is None else steps,
        rate=usual.rate if rate is None else rate,
        jitter=usual.jitter if jitter is None else jitter,
        blur=usual.blur if blur is None else blur,
    )
    if dream is None:
        with cli.progress("searching") as progress:
            found = activation_max.draw_patterns(
                place, output, numbers=numbers, size=size, ascent=ascent, batch=batch, progress=progress
            )
        cli.emit(found, as_json)
        return
    with cli.progress("dreaming") as progress:
        record = activation_max.dream(
            place,
            dream,
            output,
            numbers=numbers,
            size=size,
            ascent=ascent,
            octaves=octaves or 4,
            octave_scale=octave_scale or 1.4,
            progress=progress,
        )
    cli.emit([record], as_json)


if __name__ == "__main__":
    main()
