"""cnn-split: divide a folder of images into training, validation and test sets.

Input (the first folder is the class, or the split if it is called train, val or test; deeper folders are ignored):

    photos/cat/1.jpg
    photos/cat/indoors/2.JPG
    photos/dog/1.png

Output with -o DIR (without -o, only the manifest):

    DIR/train/cat/1.jpg
    DIR/test/cat/indoors/2.JPG
    DIR/train/dog/1.png
    DIR/split.tsv               path label split (group)
"""

import contextlib
import functools
import os
from collections.abc import Iterator

from cnnkit import cli
from cnnkit.choices import Link
from cnnkit.data.config import SplitConfig, SplitOutput
from cnnkit.errors import CnnkitError


@cli.image_command
def main(
    sources: cli.options.Sources = None,
    *,
    config: SplitConfig,
    target: SplitOutput,
    only: cli.options.Split = None,
    folders: cli.options.Folders = None,
    null: cli.options.Null = False,
    errors: cli.options.Errors = None,
    as_json: cli.options.Json = False,
) -> None:
    """Split images into training, validation and test sets without leaks.

    Reads a folder (photos/CLASS/image.jpg), a manifest or a list of paths. Prints a manifest with the columns path, label, split and,
    if there are groups, group. Paths are relative to the current folder. With -o it writes folders instead.

    Every class is divided in the same proportion, exact to one image. Exact duplicates stay in one split; so do the images of a group
    (--group) and, with --near, near duplicates. Broken and empty files are reported and skipped. Files are recognized by content, not
    by extension. A dataset that is already split is split again as a whole. Images with several labels (column labels of a manifest,
    cat;indoor) are stratified by all of them.

    The same images and the same seed give the same split, whatever the names and the order of the files.

    Examples:
      cnn-split photos/ --count 1000,500,500 > split.tsv
      cnn-split photos/ --ratio 70,15,15 --near --dry-run
      cnn-split scans/ --ratio 0.8,0.2 --group 'patient-[0-9]+' --manifest lists/split.tsv
      cnn-split photos/ --ratio 0.5,0.25,0.25 -o sets/ --link symlink
      cnn-split split.tsv --split train --folds 5 > folds.tsv
      cnn-split photos/ --ratio 8,1,1 --stable
      cnn-split photos/ --ratio 8,1,1 --no-verify -o sets/ --link symlink
      cnn-split photos/ --ratio 8,1,1 -o shards/ --per-tar 10000
    """
    config = config.checked()
    target = target.checked()

    from cnnkit.data import split, tree
    from cnnkit.formats import manifest

    folder = None if target.dry_run else target.output
    if folder is not None:
        if target.link is Link.MOVE and tree.has_unfinished_moves(folder):
            cli.notice(f"{folder}: resuming the interrupted move of images into it; other options are ignored")
            named = functools.partial(_named, sources, only=only, null=null)
            with cli.progress("moving") as progress:
                tree.finish_moves(folder, tree.SPLIT_MANIFEST, named=named, progress=progress)
            return
        tree.check_apart(
            folder, [os.path.join(each, "image") for each in sources or [] if os.path.isdir(each)], to_be="split"
        )
        tree.check_free(folder, force=target.force)

    with cli.callbacks("reading", errors=errors) as callbacks:
        images = list(cli.images(sources, split=only, null=null, folders=folders, hashes=config.no_verify))
        if folder is not None:
            tree.check_link(target.link, (image.path for image in images))
        outcome = split.split_images(images, config, callbacks=callbacks)
    for remark in outcome.remarks:
        cli.notice(remark)
    if target.dry_run:
        cli.emit(outcome.table(), as_json)
    elif folder is not None:
        with cli.progress("writing") as progress:
            tree.write(
                folder,
                outcome.rows,
                digests=outcome.digests,
                link=target.link,
                per_tar=target.per_tar,
                force=target.force,
                progress=progress,
            )
    elif target.manifest is not None:
        rows = manifest.moved(outcome.rows, target.manifest.parent)
        manifest.save(target.manifest, rows, columns=manifest.columns(outcome.rows))
    else:
        columns = manifest.columns(outcome.rows)
        records = (dict(zip(columns, manifest.fields(row, columns), strict=True)) for row in outcome.rows)
        cli.emit(records, as_json)


def _named(sources: list[str] | None, *, only: str | None, null: bool) -> Iterator[str]:
    """Yield the paths of the images given on the command line, except those that have already been moved away."""
    for words in [[source] for source in sources] if sources else [None]:
        with contextlib.suppress(CnnkitError):
            yield from (image.path for image in cli.images(words, split=only, null=null, opens=False, aloud=False))


if __name__ == "__main__":
    main()
