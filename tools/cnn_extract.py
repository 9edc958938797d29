"""Run a convolutional backbone once over images and save the features.

photos/cat/1.jpg       ->  train.npy     row i: the features of image i
photos/dog/2.jpg           train.tsv     row i: path label split group
                           train.json    backbone, layer, preprocessing, classes

with --views K:            train.npy     K+1 rows per training image, the unchanged one first; 1 row per val or test image
                           train.tsv     path label split group view

with --shard I/N:          part-I.npy    the same of a share of the images; --join makes one of all
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.engine.config import BackboneSpec
from cnnkit.errors import UsageError
from cnnkit.infer.config import ExtractConfig
from cnnkit.option_fields import given, refuse_unused

#: The settings of an extraction that --bench uses.
_BENCH_OPTIONS = ("--engine", "--device", "--precision", "--batch", "--jobs", "--workers", "--seed")


@cli.image_command
def main(
    sources: cli.options.Sources = None,
    output: Annotated[
        Path | None,
        cli.Option(
            "--output",
            "-o",
            metavar="FILE.npy",
            help="File of features to write. [required unless --bench, or --stats of a FILE.npy]",
        ),
    ] = None,
    *,
    spec: BackboneSpec,
    config: ExtractConfig,
    bench: Annotated[
        bool,
        cli.Option(
            "--bench",
            help="Write nothing; print the speed of decoding, of the backbone and of both together, and its share of the possible speed.",
        ),
    ] = False,
    stats: Annotated[
        bool,
        cli.Option(
            "--stats",
            help="Print statistics of each column: mean, variance, range, share of zeros, whether it is constant (dead) or a duplicate. "
            "SOURCE may be a FILE.npy of features.",
        ),
    ] = False,
    join: Annotated[
        bool,
        cli.Option(
            "--join",
            help="Join the features of all shards, given as SOURCE in any order, to the files that a run without --shard writes.",
        ),
    ] = False,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    null: cli.options.Null = False,
    errors: cli.options.Errors = None,
    as_json: cli.options.Json = False,
) -> None:
    """Run a convolutional backbone once over images and save the features.

    Writes FILE.npy (features, one row per image), FILE.tsv (path, label, split and group of each row) and FILE.json (backbone,
    layer, preprocessing). A folder is read as photos/CLASS/image.jpg. With --views K, each training image has K more rows.

    With --shard I/N, each of N machines extracts a share of the images, without knowing of the others. --join puts the N files together
    and names a shard that is missing, given twice, or from another run; that shard alone is run again.

    The backbone is exported to ONNX once and cached; later runs do not import torch. examples/dogs-vs-cats/Makefile has a whole
    workflow, from photographs to a trained classifier.

    Examples:
      cnn-extract split.tsv --split train -o train.npy --backbone resnet50
      cnn-extract photos/ -o x.npy --backbone mobilenet_v2 --weights mobilenet_v2.pth \\
          --layer features.14
      cnn-extract digits/ -o x.npy --layers "conv 32 k3 relu, pool 2" \\
          --weights none --size 16 --pool flatten
      cnn-extract split.tsv --split train -o train.npy --views 10 \\
          --augment "rotate 40, shift 0.2, zoom 0.2, hflip"
      cnn-extract train.npy --stats
      seq 8 | parallel cnn-extract photos/ --shard {}/8 -o part-{}.npy
      cnn-extract --join part-*.npy -o all.npy
      find . -name "*.jpg" -print0 | cnn-extract -0 - -o x.npy --backbone vgg16 --layer block4_pool
    """
    not_kept = {"-o": output, "--errors": errors}
    if stats and any(source.endswith(".npy") for source in sources or []):
        named = dict.fromkeys(given(spec, config), True)
        refuse_unused(
            not_kept
            | {"--bench": bench, "--join": join}
            | named
            | {"--split": split, "--folders": folders, "--null": null},
            "--stats of an existing file extracts nothing",
        )
        _print_stats(sources or [], as_json)
        return
    if bench:
        unused = [name for name in given(config) if name not in _BENCH_OPTIONS]
        refuse_unused(
            not_kept | {"--stats": stats, "--join": join} | dict.fromkeys(unused, True), "--bench writes nothing"
        )
    if join:
        modes: dict[str, object] = {"--stats": stats, "--errors": errors}
        which: dict[str, object] = {"--split": split, "--folders": folders, "--null": null}
        how = [name for name in given(spec, config) if name != "--skip-unchanged"]
        refuse_unused(modes | which | dict.fromkeys(how, True), "--join puts existing features together")
        if output is None:
            raise UsageError("give the file to write with -o FILE.npy")
        from cnnkit.infer import feature_shards

        cli.emit([feature_shards.join(sources or [], output, skip_unchanged=config.skip_unchanged)], as_json)
        return
    config = config.checked()
    spec = spec.named(seed=config.seed)

    from cnnkit.infer import extract

    images = cli.images(sources, split=split, null=null, folders=folders)
    if bench:
        cli.emit([extract.bench(list(images), config, spec=spec)], as_json)
        return
    if output is None:
        raise UsageError("give the file to write with -o FILE.npy, or measure the speed with --bench")
    with cli.callbacks("loading the backbone", errors=errors, alone=config.shard is not None) as callbacks:
        summary = extract.extract(images, output, config, spec=spec, callbacks=callbacks)
    if stats:
        _print_stats([output], as_json)
    else:
        cli.emit([summary], as_json)


def _print_stats(features: Sequence[str | Path], as_json: bool) -> None:
    """Print the statistics of the columns of one file of features.

    Raises:
        UsageError: More than one file is given.
    """
    from cnnkit.infer import feature_stats

    existing, *more = features
    if more:
        raise UsageError(f"--stats takes one file of features; got {existing} and {more[0]}")
    cli.emit(feature_stats.column_stats(existing), as_json)


if __name__ == "__main__":
    main()
