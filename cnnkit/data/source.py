"""Which images: from the words of a command line to images with labels.

A folder is read like this (a name's first folder is its label, deeper folders do not matter, hidden files are ignored):

    photos/cat/1.jpg            -> label cat
    photos/cat/kittens/2.JPG    -> label cat
    photos/3.png                -> no label

With folders that are called as splits are (`split_names`) it is a split dataset, the same in every command:

    photos/train/cat/1.jpg      -> split train, label cat
    photos/val/dog/2.jpg        -> split val, label dog

`folder_layout` decides, `SearchLog` tells people what was not plain, and what was passed over.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from cnnkit.choices import FolderReading
from cnnkit.data import folder_search, image_formats, split_names
from cnnkit.data.missing_extensions import MissingExtensions
from cnnkit.data.search_log import SearchLog, said
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import archives, manifest, tables


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file to be read as an image; `path` opens from the current folder."""

    path: str
    label: str | None = None  # in the one form that `class_names` gives it
    split: str | None = None
    group: str | None = None
    written: str | None = field(
        default=None, compare=False
    )  # the label as its folder or manifest has it, where that differs


def find(
    sources: Iterable[str],
    *,
    split: str | None = None,
    stdin: BinaryIO | None = None,
    null: bool = False,
    folders: FolderReading | None = None,
    search: SearchLog | None = None,
) -> list[ImageFile] | Iterator[ImageFile]:
    """Find the images that sources name, folders in the order of their names, the rest as given.

    Args:
        sources: Images, folders, manifests (see `manifest.is_manifest`), or `-` for standard input: one path a line, or a
            manifest with its header row.
        split: Only this split of a manifest, or this subfolder of a folder. Single images belong to no split.
        stdin: Where `-` reads from.
        null: The list on standard input is separated by NUL instead.
        folders: What the folders in a folder are; by default their names say.
        search: Hears what was passed over and how folders were read; without it, notices are logged here.

    Returns:
        A list; with `-` among the sources an iterator, which reads no further than it is asked.

    Raises:
        UsageError: `split` with a list that has no splits, or `-` twice.
        CnnkitError: A source does not exist or holds no image.
    """
    sources = list(sources)
    split = None if split is None else _one_name(split)
    heard = SearchLog() if search is None else search
    heard.note_sources(sources)
    found = _found_in(sources, split=split, stdin=stdin, null=null, folders=folders, search=heard)
    return found if search is not None else said(found, heard)


def _one_name(split: str) -> str:
    """Give the name of a split without a separator at its end, and refuse what names no folder in a source, or the source itself."""
    name = split.rstrip("/")
    if not name.strip() or name in (os.curdir, os.pardir) or "/" in name:
        raise UsageError(
            f'--split "{split}": give the name of one split, such as train; a folder further in is a source of its own'
        )
    return name


def _found_in(
    sources: list[str],
    *,
    split: str | None,
    stdin: BinaryIO | None,
    null: bool,
    folders: FolderReading | None,
    search: SearchLog,
) -> list[ImageFile] | Iterator[ImageFile]:
    if sources.count("-") > 1:
        raise UsageError("standard input (-) can be read once")
    if "-" not in sources:
        return [image for source in sources for image in _one(source, split, folders, search)]
    assert stdin is not None, "a caller that takes - hands over standard input"
    return chain.from_iterable(
        _from_list(stdin, split, null=null, search=search) if source == "-" else _one(source, split, folders, search)
        for source in sources
    )


def _one(source: str, split: str | None, folders: FolderReading | None, search: SearchLog) -> list[ImageFile]:
    if os.path.isdir(source):
        return _folder(source, split, folders, search)
    if not os.path.lexists(source):
        here = "" if os.path.isabs(source) else f" (the current folder is {Path.cwd().name}/)"
        raise CnnkitError(f"{source}: no such picture, folder or manifest{here}")
    if manifest.is_manifest(source):
        return _manifest(source, split, search)
    archives.refuse(source)
    if split is not None:
        raise UsageError(
            f"{source} is a single picture and has no part {split}; --split goes with a manifest or a folder"
        )
    return [ImageFile(source)]


def _folder(folder: str, split: str | None, folders: FolderReading | None, search: SearchLog) -> list[ImageFile]:
    """Find the images of a folder, or of one split in it."""
    if split is not None:
        root = os.path.join(folder, split)
        if not os.path.isdir(root):
            there = folder_search.subfolders(folder)
            meant = split_names.meant(split, there)
            if meant is None:
                raise CnnkitError(f"{folder}: no subfolder {split}; it has {', '.join(there[:8]) or 'none'}")
            search.readings.append(f"{folder}: --split {split} takes {meant}/")
            split, root = meant, os.path.join(folder, meant)
        return _sorted(_found(root, folder_search.scan(root), split, search, whole=folder), root, search)
    layout = folder_search.folder_layout(folder, folders)
    if not layout.splits:
        search.readings += layout.remarks
        return _sorted(_found(folder, folder_search.scan(folder), None, search), folder, search)
    search.splits.update(layout.splits)
    scans = {name: folder_search.scan(os.path.join(folder, name)) for name in layout.splits}
    images = [
        image
        for name, scanned in scans.items()
        for image in _found(os.path.join(folder, name), scanned, name, search, whole=folder)
    ]
    # What lies between the splits belongs to none of them, and has no class
    images += _found(folder, folder_search.scan(folder, deep=False), None, search)
    search.readings += [*layout.remarks, *_about_unlabelled(folder, images)]
    return _sorted(images, folder, search)


def _about_unlabelled(folder: str, images: Sequence[ImageFile]) -> Iterator[str]:
    """Say which splits hold images without class folders: they may be classes that are called like splits."""
    labelled = {image.split for image in images if image.label is not None}
    bare = sorted({image.split for image in images if image.split is not None} - labelled)
    if bare:
        names = " and ".join(f"{name}/" for name in bare)
        instead = "" if labelled else "; --folders classes takes the folders for classes"
        yield f"{folder}: {names} {'is a split' if len(bare) == 1 else 'are splits'} whose images have no class{instead}"


def _found(
    root: str, scanned: folder_search.Scan, split: str | None, search: SearchLog, *, whole: str | None = None
) -> list[ImageFile]:
    """Label the images below a folder by the folders that lie in it, and note what else was there."""
    search.note(whole or root, root, scanned)
    images = []
    for path in scanned.images:
        label, written = search.label(folder_search.first_folder(path, root))
        images.append(ImageFile(path, label, split, None, written))
    return images


def _sorted(images: list[ImageFile], root: str, search: SearchLog) -> list[ImageFile]:
    if not images:
        there = search.passed_over_in(root)
        looked = " ".join(sorted(image_formats.EXTENSIONS))
        raise CnnkitError(f"{root}: no images in it ({there or f'looked for {looked}'})")
    return sorted(images, key=lambda image: name_order(image.path))


def name_order(path: str) -> bytes:
    """Sort by this: the same order on every file system and in every locale, a folder's files side by side."""
    return os.fsencode(path).replace(os.fsencode(os.sep), b"\0")


def name_of(label: str | None) -> str:
    """Give a label a name for messages."""
    return "(none)" if label is None else label


def listed_again(
    images: Iterable[ImageFile], *, groups: bool = False, name: str | None = None
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Part images into those that are listed for the first time, and those that are listed again.

    A file is known by its name and its folder, through whatever links that is reached.

    Args:
        images: In any order.
        groups: An image belongs to one group as it belongs to one class.
        name: The file that lists them, for messages.

    Raises:
        CnnkitError: An image is listed with two labels, or with two groups.
    """
    found: dict[str, ImageFile] = {}
    again = []
    real: dict[str, str] = {}  # folders, as they really lie
    for image in images:
        folder, file = os.path.split(image.path)
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        first = found.setdefault(os.path.join(real[folder], file), image)
        if first is image:
            continue
        again.append(image)
        for one, other, what in ((first.label, image.label, "classes"), (first.group, image.group, "groups")):
            if one != other and (groups or what == "classes"):
                raise CnnkitError(
                    f"{'' if name is None else f'{name}: '}{image.path} is listed twice, with {what} {name_of(one)} "
                    f"and {name_of(other)}; leave one of them out"
                )
    return list(found.values()), again


def _manifest(path: str, split: str | None, search: SearchLog) -> list[ImageFile]:
    folder = os.path.dirname(path)
    extensions = MissingExtensions(path)
    found = [_of_row(row, extensions.completed(os.path.join(folder, row.path)), search) for row in manifest.load(path)]
    search.readings += extensions.lines()
    splits = sorted({image.split for image in found if image.split is not None})
    meant = split and split_names.meant(split, splits)
    if meant and meant != split:
        search.readings.append(f"{path}: --split {split} takes {meant}")
    if split is None:
        search.readings += split_names.about_synonyms(path, splits)
    images = [image for image in found if split is None or image.split == meant]
    if not images:
        raise CnnkitError(
            f"{path}: no rows"
            + (f" with split {split}; it has {', '.join(splits) or 'none'}" if split is not None else "")
        )
    return images


def _of_row(row: manifest.ManifestRow, path: str, search: SearchLog) -> ImageFile:
    label, written = search.label(row.label)
    if label is not None:
        search.listed.add(label)
    return ImageFile(path, label, search.split(row.split), search.trimmed(row.group), written)


def _from_list(stdin: BinaryIO, split: str | None, *, null: bool, search: SearchLog) -> Iterator[ImageFile]:
    lines = _null_separated(stdin) if null else iter(stdin)
    first = next(lines, None)
    if first is None:
        raise UsageError("standard input: it names no picture; name a source, or pipe a list in")
    lines = chain([first], lines)
    kind = tables.kind_of(first)
    if kind is not None:
        raise UsageError(f"standard input is {kind}, not a list of paths; write it to a file and name that")
    extensions = MissingExtensions("standard input")
    if not null and tables.is_header(first):
        found, splits = False, set()
        for row in manifest.parse(lines, name="standard input"):
            image = _of_row(row, extensions.completed(row.path), search)
            splits.add(image.split or "")
            if split is None or image.split == split:
                found = True
                yield image
        if not found:
            raise CnnkitError(f"standard input: no rows{f' with split {split}' if split is not None else ''}")
        search.readings += extensions.lines()
        if split is None:
            search.readings += split_names.about_synonyms("standard input", splits)
        return
    if split is not None:
        raise UsageError("--split needs a manifest or a folder; the list on standard input has no parts")
    if not null:
        tables.check_path(os.fsdecode(first.rstrip(b"\r\n")), name="standard input")
    for line in lines:
        path = os.fsdecode(line if null else line.rstrip(b"\r\n"))
        if "\0" in path:
            raise UsageError("the list on standard input is separated by NUL; give -0")
        if path:
            yield ImageFile(path if null else extensions.completed(path))
    search.readings += extensions.lines()


def _null_separated(stdin: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while chunk := stdin.read1(65536) if hasattr(stdin, "read1") else stdin.read(65536):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole
    if rest:
        yield rest
