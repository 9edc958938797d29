"""Run a convolutional backbone once over images and keep what it saw.

photos/cat/1.jpg       ->  train.npy     row i: the features of image i
photos/dog/2.jpg           train.tsv     row i: path label split group
                           train.json    backbone, layer, preprocessing, classes

with --views K:            train.npy     K+1 rows an image, the plain one first; one where it is held out (val, test)
                           train.tsv     path label split group view
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.engine.config import BackboneSpec
from cnnkit.errors import UsageError
from cnnkit.infer.config import ExtractConfig
from cnnkit.option_fields import given

#: The settings of an extraction that --bench heeds.
_BENCH_OPTIONS = ("--engine", "--device", "--precision", "--batch", "--jobs", "--seed")


@cli.image_command
def main(
    sources: cli.options.Sources = None,
    output: Annotated[
        Path | None, cli.Option("--output", "-o", metavar="FILE.npy", help="Where the features go.")
    ] = None,
    *,
    spec: BackboneSpec,
    config: ExtractConfig,
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
    folders: cli.options.Folders = None,
    null: cli.options.Null = False,
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
    not_kept = {"-o": output, "--errors": errors}
    if stats and any(source.endswith(".npy") for source in sources or []):
        named = dict.fromkeys(given(spec, config), True)
        _refuse(
            not_kept | {"--bench": bench} | named | {"--split": split, "--folders": folders, "--null": null},
            "--stats of features that exist extracts nothing",
        )
        _print_stats(sources or [], as_json)
        return
    if bench:
        unused = [name for name in given(config) if name not in _BENCH_OPTIONS]
        _refuse(not_kept | {"--stats": stats} | dict.fromkeys(unused, True), "--bench writes nothing")
    config = config.checked()
    spec = spec.named(seed=config.seed)

    from cnnkit.infer import extract

    images = cli.images(sources, split=split, null=null, folders=folders)
    if bench:
        cli.emit([extract.bench(list(images), config, spec=spec)], as_json)
        return
    if output is None:
        raise UsageError("say where the features go with -o FILE.npy, or --bench")
    with cli.callbacks("extracting", errors=errors) as callbacks:
        summary = extract.extract(images, output, config, spec=spec, callbacks=callbacks)
    if stats:
        _print_stats([output], as_json)
    else:
        cli.emit([summary], as_json)


def _print_stats(features: Sequence[str | Path], as_json: bool) -> None:
    """Print the statistics of the columns of one file of features.

    Raises:
        UsageError: More than one is named.
    """
    from cnnkit.infer import feature_stats

    existing, *more = features
    if more:
        raise UsageError(f"--stats looks at one file of features; {existing} and {more[0]} are two")
    cli.emit(feature_stats.column_stats(existing), as_json)


def _refuse(options: Mapping[str, object], reason: str) -> None:
    """Refuse options that a mode would ignore.

    Raises:
        UsageError: One of them is given.
    """
    if unused := next((option for option, value in options.items() if value), None):
        raise UsageError(f"{reason}; drop {unused}")


if __name__ == "__main__":
    main()
