"""Run a convolutional backbone once over images and keep what it saw.

photos/cat/1.jpg       ->  train.npy     row i: the features of image i
photos/dog/2.jpg           train.tsv     row i: path label split group
                           train.json    backbone, layer, preprocessing, classes

with --views K:            train.npy     K+1 rows an image, the plain one first; one where it is held out (val, test)
                           train.tsv     path label split group view
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.choices import Engine, FeatureDtype, Fit, Pool
from cnnkit.errors import UsageError


@cli.command
def main(
    sources: cli.options.Sources = None,
    output: Annotated[
        Path | None, cli.Option("--output", "-o", metavar="FILE.npy", help="Where the features go.")
    ] = None,
    backbone: Annotated[
        str | None,
        cli.Option(
            "--backbone",
            metavar="NAME",
            help="A torchvision network, timm:NAME, or a .pt or .onnx of ours. [default: mobilenet_v2]",
        ),
    ] = None,
    layers: Annotated[
        str | None, cli.Option("--layers", metavar="NOTATION", help="A base by notation, or @FILE.")
    ] = None,
    weights: Annotated[
        str,
        cli.Option(
            "--weights", metavar="FILE|default|none", help="A state_dict; the library's own; or seeded random values."
        ),
    ] = "default",
    layer: Annotated[
        str | None,
        cli.Option(
            "--layer",
            metavar="NAME",
            help="Cut behind this layer, by a name that cnn-dims lists. [default: the last with spatial extent]",
        ),
    ] = None,
    pool: Annotated[
        Pool | None,
        cli.Option("--pool", help="What becomes of the layer's map. [default: avg, or what the .pt or .onnx does]"),
    ] = None,
    size: Annotated[
        int | None,
        cli.Option("--size", min=1, help="Side of the network's input in pixels. [default: the network's own]"),
    ] = None,
    resize: Annotated[
        int | None,
        cli.Option("--resize", min=1, help="Shorter side before the centre crop. [default: in proportion to --size]"),
    ] = None,
    fit: Annotated[Fit | None, cli.Option("--fit", help="How a picture becomes a square. [default: crop]")] = None,
    dtype: Annotated[FeatureDtype, cli.Option("--dtype", help="How the features are kept.")] = FeatureDtype.FLOAT32,
    engine: Annotated[Engine, cli.Option("--engine", help="What computes.")] = Engine.ONNX,
    views: Annotated[
        int | None,
        cli.Option(
            "--views",
            min=1,
            metavar="K",
            help="Behind each picture's row K rows of augmented copies, numbered in a column view; not of val and test.",
        ),
    ] = None,
    augment: Annotated[
        str | None,
        cli.Option(
            "--augment", metavar="NOTATION", help="What may become of those copies, as cnn-augment has it; or @FILE."
        ),
    ] = None,
    resume: Annotated[bool, cli.Option("--resume", help="Go on from an interrupted run.")] = False,
    bench: Annotated[
        bool, cli.Option("--bench", help="Write nothing; print how fast decoding, base and both are.")
    ] = False,
    stats: Annotated[
        bool,
        cli.Option(
            "--stats",
            help="Print what each column came to: mean, variance, range, zeros; dead ones, duplicates. SOURCE may be features.npy.",
        ),
    ] = False,
    split: cli.options.Split = None,
    null: cli.options.Null = False,
    device: cli.options.Device = "auto",
    batch: cli.options.Batch = 32,
    jobs: cli.options.Jobs = None,
    seed: cli.options.Seed = 0,
    errors: cli.options.Errors = None,
    as_json: cli.options.Json = False,
) -> None:
    """Run a convolutional base once over pictures and keep what it saw.

    Writes FILE.npy (one row a picture, K+1 with --views K), FILE.tsv (which picture, which label, which view) and FILE.json (which base,
    which preprocessing).
    The base is exported to ONNX once and kept in the cache; later runs import no torch.

    Examples:
      cnn-extract split.tsv --split train -o train.npy --backbone resnet50
      cnn-extract photos/ -o x.npy --backbone mobilenet_v2 --weights mobilenet_v2.pth --layer features.14
      cnn-extract digits/ -o x.npy --layers "conv 32 k3 relu, pool 2" --weights none --size 16 --pool flatten
      cnn-extract split.tsv --split train -o train.npy --views 10 \\
          --augment "rotate 40, shift 0.2, zoom 0.2, hflip"
      cnn-extract train.npy --stats
      find . -name "*.jpg" -print0 | cnn-extract -0 - -o x.npy --backbone vgg16 --layer block4_pool
    """
    not_kept = {"-o": output, "--errors": errors, "--resume": resume}
    not_run = {"--dtype": dtype is not FeatureDtype.FLOAT32, "--views": views, "--augment": augment}
    if stats and any(source.endswith(".npy") for source in sources or []):
        named = {
            "--backbone": backbone, "--layers": layers, "--weights": weights != "default", "--layer": layer, "--pool": pool,
            "--size": size, "--resize": resize, "--fit": fit, "--engine": engine is not Engine.ONNX, "--split": split, "--null": null,
            "--device": device != "auto", "--batch": batch != 32, "--jobs": jobs, "--seed": seed,
        }  # fmt: skip
        _refuse({**not_kept, "--bench": bench, **named, **not_run}, "--stats of features that exist extracts nothing")
        (existing, *more) = sources or []
        if more:
            raise UsageError(f"--stats looks at one file of features; {existing} and {more[0]} are two")
        from cnnkit.infer import feature_stats

        cli.emit(feature_stats.column_stats(existing), as_json)
        return
    if bench:
        _refuse({**not_kept, "--stats": stats, **not_run}, "--bench writes nothing")
    from cnnkit.engine.config import BackboneSpec
    from cnnkit.infer.config import ExtractConfig

    spec = BackboneSpec(
        backbone=backbone if backbone or layers else "mobilenet_v2",
        layers=layers,
        weights=weights,
        layer=layer,
        pool=pool,
        size=size,
        resize=resize,
        fit=fit,
        seed=seed,
    )
    config = ExtractConfig(
        dtype=dtype,
        engine=engine,
        views=views,
        augment=augment,
        seed=seed,
        resume=resume,
        device=device,
        batch=batch,
        jobs=jobs,
    )
    from cnnkit.infer import extract

    images = cli.images(sources, split=split, null=null)
    if bench:
        cli.emit([extract.bench(list(images), config, spec=spec)], as_json)
        return
    if output is None:
        raise UsageError("say where the features go with -o FILE.npy, or --bench")
    with cli.skipping(errors) as skip, cli.progress("extracting") as progress:
        summary = extract.extract(images, output, config, spec=spec, skip=skip, progress=progress)
    if stats:
        from cnnkit.infer import feature_stats

        cli.emit(feature_stats.column_stats(output), as_json)
    else:
        cli.emit([summary], as_json)


def _refuse(options: Mapping[str, object], reason: str) -> None:
    """Refuse options that a mode would ignore.

    Raises:
        UsageError: One of them is given.
    """
    if given := next((option for option, value in options.items() if value), None):
        raise UsageError(f"{reason}; drop {given}")


if __name__ == "__main__":
    main()
