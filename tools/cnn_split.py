"""cnn-split: from a folder of images to training, validation and test.

What it reads (the first folder is the class, deeper ones do not matter, hidden files are ignored):

    photos/cat/1.jpg
    photos/cat/indoors/2.JPG
    photos/dog/1.png

What it writes with -o DIR; otherwise a manifest alone, whose rows are those of split.tsv:

    DIR/train/cat/1.jpg
    DIR/test/cat/indoors/2.JPG
    DIR/train/dog/1.png
    DIR/split.tsv               path label split (group)
"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.choices import Link
from cnnkit.errors import UsageError


@cli.command
def main(
    sources: cli.options.Sources = None,
    ratio: Annotated[
        str | None,
        cli.Option(
            "--ratio", metavar="A,B,...", help="Shares that sum up to 1 (0.5,0.25,0.25), or whole numbers (70,20,10)."
        ),
    ] = None,
    count: Annotated[
        str | None,
        cli.Option(
            "--count", metavar="A,B,...", help="So many pictures of every class (1000,500,500); the rest is left out."
        ),
    ] = None,
    folds: Annotated[
        int | None, cli.Option("--folds", metavar="K", help="Equal parts fold0, fold1, ..., for cross-validation.")
    ] = None,
    names: Annotated[
        str | None,
        cli.Option("--names", metavar="A,B,...", help="The parts' names; the first of train,val,test unless said."),
    ] = None,
    group: Annotated[
        str | None,
        cli.Option(
            "--group",
            metavar="REGEX",
            help="What this finds in a path, or its first parentheses do, is a group, and groups are never parted. "
            "Unless said, the group column of a manifest is.",
        ),
    ] = None,
    stable: Annotated[
        bool,
        cli.Option("--stable", help="A picture's content alone says its part: pictures added later move no old ones."),
    ] = False,
    near: Annotated[
        bool, cli.Option("--near", help="Keep together what looks alike, too: resized, recoloured, mirrored copies.")
    ] = False,
    near_bits: Annotated[
        int | None,
        cli.Option(
            "--near-bits",
            min=0,
            max=80,
            metavar="N",
            show_default=False,
            help="--near, with this many bits of 256 by which the perceptual hashes of two pictures may differ; else 40.",
        ),
    ] = None,
    manifest_file: Annotated[
        Path | None,
        cli.Option(
            "--manifest", metavar="FILE", help="Write the manifest here, with paths as seen from FILE's folder."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        cli.Option("--output", "-o", metavar="DIR", help="Write folders DIR/train/cat/... and DIR/split.tsv."),
    ] = None,
    link: Annotated[Link, cli.Option("--link", help="How pictures come into DIR.")] = Link.COPY,
    force: Annotated[
        bool, cli.Option("--force", help="DIR may hold something; an earlier split in it is replaced.")
    ] = False,
    dry_run: Annotated[
        bool, cli.Option("--dry-run", help="Only print how many pictures of each class each part would get.")
    ] = False,
    only: cli.options.Split = None,
    null: cli.options.Null = False,
    seed: cli.options.Seed = 0,
    jobs: cli.options.Jobs = None,
    errors: cli.options.Errors = None,
    as_json: cli.options.Json = False,
) -> None:
    """Split pictures into parts without leaks.

    Prints a manifest: path, label, split, and group where there are groups; paths as seen from the current folder. Every class has its
    share in every part, to the picture. Files that are the same byte for byte stay in one part. Files that are broken, empty or not
    what their extension says are named and left out.

    The same pictures and the same seed give the same split, whatever the files are called and in whatever order they lie.

    Examples:
      cnn-split photos/ --count 1000,500,500 > split.tsv
      cnn-split photos/ --ratio 70,15,15 --near --dry-run
      cnn-split scans/ --ratio 0.8,0.2 --group 'patient-[0-9]+' --manifest lists/split.tsv
      cnn-split photos/ --ratio 0.5,0.25,0.25 -o sets/ --link symlink
      cnn-split split.tsv --split train --folds 5 > folds.tsv
      cnn-split photos/ --ratio 8,1,1 --stable
    """
    from cnnkit.data import allocation, duplicates, split, tree
    from cnnkit.formats import manifest

    demanded = allocation.parse_shares(ratio=ratio, count=count, folds=folds, names=names)
    if output is not None and manifest_file is not None:
        raise UsageError("--manifest and -o exclude each other; -o writes its manifest to DIR/split.tsv")
    if manifest_file is not None:
        manifest.check_name(manifest_file, option="--manifest")
    if output is None and (force or link is not Link.COPY):
        raise UsageError("--link and --force speak of a folder tree; give one with -o DIR")
    if output is not None and not dry_run:
        if link is Link.MOVE and tree.has_unfinished_moves(output):
            cli.notice(f"pictures were being moved into {output}; going on with that, without looking at anything else")
            with cli.progress("moving") as progress:
                tree.finish_moves(output, tree.MANIFEST, progress=progress)
            return
        tree.check_free(output, force=force)

    with cli.skipping(errors) as skip, cli.progress("reading") as progress:
        outcome = split.split_images(
            cli.images(sources, split=only, null=null),
            demanded,
            seed=seed,
            group=group,
            stable=stable,
            near=duplicates.NEAR if near and near_bits is None else near_bits,
            jobs=jobs,
            skip=skip,
            progress=progress,
        )
    for remark in outcome.remarks:
        cli.notice(remark)
    if dry_run:
        cli.emit(outcome.table(), as_json)
    elif output is not None:
        with cli.progress("writing") as progress:
            tree.write(output, outcome.rows, digests=outcome.digests, link=link, force=force, progress=progress)
    elif manifest_file is not None:
        rows = manifest.moved(outcome.rows, manifest_file.parent)
        manifest.save(manifest_file, rows, columns=manifest.columns(rows))
    else:
        columns = manifest.columns(outcome.rows)
        cli.emit(({column: getattr(row, column) for column in columns} for row in outcome.rows), as_json)


if __name__ == "__main__":
    main()
