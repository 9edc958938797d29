"""Draw the patterns that the filters of a layer respond to, or the images that excite them most."""

from pathlib import Path
from typing import Annotated, Any

from cnnkit import cli
from cnnkit.errors import UsageError
from cnnkit.explain.config import FilterOptions, NetworkOptions, PatternOptions, TopImageOptions


def _refuse_dream(value: str | None) -> None:
    if value is not None:
        raise UsageError("--dream is now a separate command: cnn-dream MODEL IMAGE -o FILE.png")


#: Refused before missing arguments are reported.
_MOVED: dict[str, Any] = {"hidden": True, "is_eager": True, "callback": _refuse_dream}


@cli.image_command
def main(
    model: cli.options.DifferentiableModel = None,
    *,
    network_model: cli.options.ModelOption = None,
    output: Annotated[Path, cli.Option("--output", "-o", metavar="FILE.png", help="PNG to write.")],
    filters: FilterOptions,
    kernels: Annotated[
        bool, cli.Option("--kernels", help="Draw the weights of the first convolution instead; zero is grey.")
    ] = False,
    top: TopImageOptions,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    null: cli.options.Null = False,
    patterns: PatternOptions,
    network: NetworkOptions,
    seed: cli.options.Seed = 0,
    device: cli.options.Device = "auto",
    jobs: cli.options.Jobs = None,
    errors: cli.options.Errors = None,
    dream: Annotated[str | None, cli.Option("--dream", **_MOVED, help="Moved to cnn-dream.")] = None,
    octaves: Annotated[str | None, cli.Option("--octaves", **_MOVED, help="Moved to cnn-dream.")] = None,
    octave_scale: Annotated[str | None, cli.Option("--octave-scale", **_MOVED, help="Moved to cnn-dream.")] = None,
    as_json: cli.options.Json = False,
) -> None:
    """Draw the patterns that the filters of a layer respond to, or the images that excite them most.

    Starting from grey noise, gradient ascent maximizes the mean activation of each filter; the patterns are drawn as one mosaic.
    Prints a row for each filter: its mean activation for the noise (start) and for its pattern (activation).

    With --top-images, draws for each filter the images with its largest activations, one patch per image: the receptive field of the
    strongest place. Prints a row for each patch: activation is the largest of the filter in that image, box its receptive field (x, y,
    width, height) in pixels of the image. --split, --folders, --null, --jobs and --errors are about these images.

    Examples:
      cnn-filters vgg16 --layer block3_conv1 --filters 0-63 -o filters.png
      cnn-filters model.pt --layer 3 --steps 200 --blur 1 -o filters.png
      cnn-filters alexnet --kernels -o kernels.png
      cnn-filters model.pt --layer 3 --top-images photos/ -o top.png > top.tsv
    """
    del dream, octaves, octave_scale
    (chosen,) = cli.model_and_arguments(network_model, (model,), usage="MODEL")
    patterns = patterns.checked(kernels=kernels, top_images=top.top_images is not None)
    reading = {"--split": split, "--folders": folders, "--null": null, "--jobs": jobs, "--errors": errors}
    top = top.checked(kernels=kernels, others=reading)

    if top.top_images is not None:
        if chosen.endswith(".pt"):
            Path(chosen).stat()  # before the images are searched
        images = cli.images(top.top_images, split=split, folders=folders, null=null, labels=False)

        from cnnkit.explain import top_images

        with cli.callbacks("reading", errors=errors) as callbacks:
            strongest = top_images.draw(
                chosen,
                images,
                output,
                network=network,
                filters=filters,
                options=top,
                batch=patterns.batch,
                jobs=jobs,
                device=device,
                seed=seed,
                callbacks=callbacks,
            )
        cli.emit(strongest, as_json, columns=top_images.COLUMNS)
        return

    from cnnkit.explain import activation_max

    if kernels:
        drawn = activation_max.draw_kernels(chosen, output, network=network, filters=filters, device=device, seed=seed)
        cli.emit(drawn, as_json)
        return
    with cli.progress("searching") as progress:
        records = activation_max.draw_patterns(
            chosen,
            output,
            network=network,
            filters=filters,
            options=patterns,
            device=device,
            seed=seed,
            progress=progress,
        )
    cli.emit(records, as_json)


if __name__ == "__main__":
    main()
