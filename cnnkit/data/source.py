"""Sources of images: from the arguments of a command to images with labels.

A folder is read as follows (the first folder of a path is the label; deeper folders and hidden files are ignored):

    photos/cat/1.jpg            -> label cat
    photos/cat/kittens/2.JPG    -> label cat
    photos/3.png                -> no label

If its folders have names of splits (`split_names`), it is a split dataset, in every command:

    photos/train/cat/1.jpg      -> split train, label cat
    photos/val/dog/2.jpg        -> split val, label dog

`folder_layout` decides; `SearchLog` reports doubtful cases and ignored files.

Tar archives are read in place (`tar_source`): the image `cat/1.jpg` in `photos.tar` has the path `photos.tar/cat/1.jpg`.
So are idx files (`idx_source`), the format of MNIST: the first image has the path `train-images-idx3-ubyte.gz/00000.pgm`.
"""

import contextlib
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from cnnkit import files, idx_files, messages, tar_archives
from cnnkit.choices import FolderReading
from cnnkit.data import folder_metadata, folder_search, idx_source, memory, split_names, tar_source
from cnnkit.data.missing_extensions import MissingExtensions
from cnnkit.data.search_log import SearchLog, said
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import archives, image_formats, label_sets, listed_paths, manifest, tables, text_lines
from cnnkit.formats.box import any_crop, divided, is_crop, normal_path, of_path

#: Addresses of object stores and commands, as other programs read them.
_REMOTE = re.compile("[A-Za-z][A-Za-z0-9+.-]+://|pipe:")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file to be read as an image; `path` is relative to the current folder, or absolute. It may be that of a crop: see `formats.box`."""

    path: str
    label: str | None = None  # in the normal form of `class_names`
    split: str | None = None
    group: str | None = None
    written: str | None = field(
        default=None, compare=False
    )  # the label as written in its folder or manifest, if that differs
    digest: bytes | None = field(
        default=None, compare=False
    )  # hash of the file's content from a manifest, see `manifest.ManifestRow`
    labels: tuple[str, ...] | None = (
        None  # of a manifest with several labels per image, in normal form; `label` is None then
    )


#: The share of its longer side by which each box of a manifest is widened on each side.
_margin: ContextVar[float] = ContextVar("margin", default=0.0)


@contextlib.contextmanager
def widening(margin: float) -> Generator[None]:
    """Widen the boxes of the images that are found; see `Box.with_margin`."""
    before = _margin.set(margin)
    try:
        yield
    finally:
        _margin.reset(before)


def margin() -> float:
    """Return the share by which boxes are widened."""
    return _margin.get()


def widened(path: str, share: float | None = None) -> str:
    """Return the path of a crop with its box as wide as those that are found, or by another share; any other path as it is."""
    whole, box = divided(path)
    return path if box is None else of_path(whole, box.with_margin(_margin.get() if share is None else share))


def _widened(image: ImageFile, share: float) -> ImageFile:
    return replace(image, path=widened(image.path, share)) if is_crop(image.path) else image


def find(
    sources: Iterable[str],
    *,
    split: str | None = None,
    stdin: BinaryIO | None = None,
    null: bool = False,
    folders: FolderReading | None = None,
    search: SearchLog | None = None,
    listed_in: str = "standard input",
) -> list[ImageFile] | Iterator[ImageFile]:
    """Find the images of the sources; those of a folder are ordered by name, all others stay in the order given.

    Args:
        sources: Images, folders, manifests (see `manifest.is_manifest`), tar archives, patterns of these (`tar_source.expanded`), idx
            files, or `-` for standard input: one path per line, or a manifest with its header row.
        split: Only this split of a manifest, or this subfolder of a folder. Single images belong to no split.
        stdin: Standard input, for `-`.
        null: Paths on standard input are separated by NUL.
        folders: Whether the folders in a folder are splits or classes; by default their names decide.
        search: Collects notices about ignored files and the layout of folders; without it, they are logged here.
        listed_in: The name of `stdin` for messages.

    Returns:
        A list; with `-` among the sources a lazy iterator.

    Raises:
        UsageError: `split` with a list that has no splits, or `-` twice.
        CnnkitError: A source does not exist or contains no image.
    """
    files.forget_changed_archives()
    sources = [each for source in sources for each in tar_source.expanded(source)]
    split = None if split is None else _one_name(split)
    collected = SearchLog() if search is None else search
    collected.note_sources(sources)
    found = _found_in(
        sources, split=split, stdin=stdin, null=null, folders=folders, search=collected, listed_in=listed_in
    )
    if share := margin():
        if isinstance(found, list) and not any_crop(image.path for image in found):
            collected.readings.append(f"{messages.shortened(sources, 3)}: no image has a box for --margin to widen")
        wider = (_widened(image, share) for image in found)
        found = list(wider) if isinstance(found, list) else wider
    return found if search is not None else said(found, collected)


def _one_name(split: str) -> str:
    """Return the name of a split without a trailing separator, and refuse anything but the name of one folder."""
    name = split.rstrip("/")
    if not name.strip() or name in (os.curdir, os.pardir) or "/" in name:
        raise UsageError(
            f'--split "{split}": give the name of one split, such as train; for a deeper folder, give it as the source'
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
    listed_in: str,
) -> list[ImageFile] | Iterator[ImageFile]:
    if sources.count("-") > 1:
        raise UsageError("standard input (-) can be given only once")
    if "-" not in sources:
        return [image for part in _parts(sources) for image in _one(part, split, folders, search)]
    assert stdin is not None, "a caller that accepts - passes standard input"
    return chain.from_iterable(
        _from_list(stdin, split, null=null, search=search, name=listed_in)
        if part == ["-"]
        else _one(part, split, folders, search)
        for part in _parts(sources)
    )


def _parts(sources: Iterable[str]) -> Iterator[list[str]]:
    """Divide sources into those that are read one by one, and tar archives next to each other, which are one dataset."""
    tars: list[str] = []
    for source in sources:
        if os.path.lexists(source) and files.is_tar(source):
            tars.append(source)
            continue
        yield from filter(None, (tars, [source]))
        tars = []
    if tars:
        yield tars


def _one(part: list[str], split: str | None, folders: FolderReading | None, search: SearchLog) -> list[ImageFile]:
    source = part[0]
    if len(part) > 1 or (os.path.lexists(source) and files.is_tar(source)):
        return _tars(part, split, folders, search)
    if os.path.isdir(source):
        return _folder(source, split, folders, search)
    if os.path.lexists(source) and idx_files.is_idx(source):
        return _idx([source], split, search)
    if not files.exists(source):
        archive = next((path for path, _ in files.divided(source) if os.path.isfile(path)), None)
        if archive is not None:
            raise CnnkitError(
                f"{source}: the archive {archive} has no such file; give the archive, or one of its files"
            )
        if _REMOTE.match(source):
            raise CnnkitError(f"{source}: only local files are read; download it, or mount it as a folder")
        here = "" if os.path.isabs(source) else f" in {Path.cwd()}"
        pattern = "; the shell expands patterns only without quotes" if set("*?[") & set(source) else ""
        raise CnnkitError(f"{source}: no such image, folder or manifest{here}{pattern}")
    if manifest.is_manifest(source):
        return _manifest(source, split, search)
    if files.is_handed_over(source) and not _is_one_image(source):
        with files.open_text(source) as file:
            return list(_from_list(file, split, null=False, search=search, name=source))
    archives.refuse(source)
    idx_source.refuse_labels(source)
    if split is not None:
        raise UsageError(f"{source} is a single image and has no split {split}; --split needs a manifest or a folder")
    return [ImageFile(normal_path(source))]


def _is_one_image(source: str) -> bool:
    """Return whether standard input or a pipe, given by its path, is a file with an image and not a list; nothing is read of a pipe."""
    if not os.path.isfile(source):
        return False
    with files.open_regular(source) as file:
        return image_formats.of_content(file.read(image_formats.HEAD)) is not None


def _tars(
    archives: list[str],
    split: str | None,
    folders: FolderReading | None,
    search: SearchLog,
    splits: Mapping[str, str | None] | None = None,
) -> list[ImageFile]:
    """Find the images of tar archives, in the order of the archives and of the images in them."""
    named = archives[0] if len(archives) == 1 else f"{archives[0]} and {len(archives) - 1} more"
    read = tar_source.read(archives, folders, splits=splits)
    search.readings += read.remarks
    search.note_ignored(named, read.ignored)
    images = []
    for each in read.images:
        label, written = search.label(each.label)
        labels = None if each.labels is None or label is not None else label_sets.parse(each.labels)
        own, group = search.split(each.split), search.trimmed(each.group)
        images.append(ImageFile(each.path, label, own, group, written, labels=labels))
    if not images:
        there = "; ".join(filter(None, (search.passed_over_in(named), *read.remarks)))
        raise CnnkitError(f"{named}: no images found ({there or 'there are no other files either'})")
    return _of_split(named, images, split, search, what="images")


def _idx(paths: list[str], split: str | None, search: SearchLog, *, whole: str | None = None) -> list[ImageFile]:
    """Find the images of idx files, in their order there.

    Args:
        paths: The files.
        split: Only this split.
        search: Takes the notices.
        whole: The folder with the files, if it was given.
    """
    images = []
    if whole is not None:
        search.readings += [f"{whole}: {remark}" for remark in idx_source.remarks_on_several(paths)]
    for path in paths:
        read = idx_source.read(path)
        search.readings += read.remarks
        own = search.split(read.split)
        for place, word in zip(read.paths, read.labels, strict=True):
            label, written = search.label(word)
            images.append(ImageFile(place, label, own, None, written))
    return _of_split(whole or paths[0], images, split, search, what="images")


def _of_split(
    name: str, images: list[ImageFile], split: str | None, search: SearchLog, *, what: str
) -> list[ImageFile]:
    """Select a split of a manifest or of archives, and note splits whose names are synonyms."""
    splits = sorted({image.split for image in images if image.split is not None})
    if split is None:
        search.readings += split_names.about_synonyms(name, splits)
        return images
    meant = split_names.meant(split, splits)
    if meant and meant != split:
        search.readings.append(f"{name}: --split {split} selects {meant}")
    images = [image for image in images if image.split == meant] if meant else []
    if not images:
        raise CnnkitError(f"{name}: no {what} with split {split}; it has {', '.join(splits) or 'none'}")
    return images


def _in_agreement(folder: str, images: list[ImageFile], split: str, search: SearchLog) -> list[ImageFile]:
    """Leave out the images in the folder of a split whose archives give another split."""
    others = [image for image in images if image.split and split_names.meant(image.split, [split]) is None]
    if not others:
        return images
    if len(others) == len(images):
        there = ", ".join(sorted({str(image.split) for image in others}))
        raise CnnkitError(f"{folder}: no image with split {split}; its archives have {there}")
    left_out = "1 image is" if len(others) == 1 else f"{len(others):,} images are"
    archive = "its archive gives" if len(others) == 1 else "their archives give"
    search.readings.append(
        f"{folder}: {left_out} left out, since {archive} another split than {split}, "
        f"such as {others[0].path} ({others[0].split})"
    )
    return [image for image in images if not image.split or split_names.meant(image.split, [split])]


def _folder(folder: str, split: str | None, folders: FolderReading | None, search: SearchLog) -> list[ImageFile]:
    """Find the images of a folder, or of one split in it."""
    if split is not None:
        root = os.path.join(folder, split)
        if not os.path.isdir(root):
            there = folder_search.subfolders(folder)
            meant = split_names.meant(split, there)
            if meant is None:
                scanned = folder_search.scan(folder)
                if archives := _archives_only(folder, scanned, search):
                    return _tars(archives, split, folders, search)
                if idx := _idx_only(folder, scanned, search):
                    return _idx(idx, split, search, whole=folder)
                raise CnnkitError(f"{folder}: no subfolder {split}; it has {', '.join(there[:8]) or 'none'}")
            search.readings.append(f"{folder}: --split {split} selects {meant}/")
            split, root = meant, os.path.join(folder, meant)
        scanned = folder_search.scan(root)
        if archives := _archives_only(root, scanned, search):
            images = _tars(archives, None, folders, search, splits=dict.fromkeys(archives, split))
            return _in_agreement(root, images, split, search)
        return _sorted(_found(root, scanned, split, search, whole=folder), root, search, whole=folder)
    layout = folder_search.folder_layout(folder, folders)
    if not layout.splits:
        search.readings += layout.remarks
        scanned = folder_search.scan(folder)
        if archives := _archives_only(folder, scanned, search):
            return _tars(archives, None, folders, search)
        if idx := _idx_only(folder, scanned, search):
            return _idx(idx, None, search, whole=folder)
        return _sorted(_found(folder, scanned, None, search), folder, search)
    search.splits.update(layout.splits)
    scans = {name: folder_search.scan(os.path.join(folder, name)) for name in layout.splits}
    rest = folder_search.scan(folder, deep=False)
    if not rest.images and not any(scanned.images for scanned in scans.values()):
        split_of: dict[str, str | None] = {
            archive: name
            for name in layout.splits
            for archive in folder_search.tar_archives_in(os.path.join(folder, name))
        }
        if split_of:
            search.readings.append(_about_archives(folder, len(split_of)))
            return _tars(list(split_of), None, folders, search, splits=split_of)
    images = [
        image
        for name, scanned in scans.items()
        for image in _found(os.path.join(folder, name), scanned, name, search, whole=folder)
    ]
    # Images directly in the folder belong to no split, and have no class
    images += _found(folder, rest, None, search)
    search.readings += layout.remarks
    images = _sorted(images, folder, search)
    search.readings += _about_unlabelled(folder, images)
    return images


def _archives_only(folder: str, scanned: folder_search.Scan, search: SearchLog) -> list[str]:
    """Return the tar archives of a folder that contains no image."""
    archives = [] if scanned.images else folder_search.tar_archives_in(folder)
    if archives:
        search.readings.append(_about_archives(folder, len(archives)))
    return archives


def _idx_only(folder: str, scanned: folder_search.Scan, search: SearchLog) -> list[str]:
    """Return the idx files directly in a folder that contains no image."""
    if scanned.images:
        return []
    found, copies = idx_source.without_copies(folder_search.idx_files_in(folder))
    if copies:
        search.readings.append(f"{messages.shortened(copies, 3)}: not read, since the same file is there decompressed")
    return found


def _about_archives(folder: str, count: int) -> str:
    return f"{folder}: {'1 tar archive' if count == 1 else f'{count:,} tar archives'} and no image; read as one dataset"


def _about_unlabelled(folder: str, images: Sequence[ImageFile]) -> Iterator[str]:
    """Yield a notice about splits without class folders: they may be classes named like splits."""
    labelled = {image.split for image in images if image.label is not None}
    bare = sorted({image.split for image in images if image.split is not None} - labelled)
    if bare:
        names = " and ".join(f"{name}/" for name in bare)
        instead = "" if labelled else "; to read the folders as classes, add --folders classes"
        are = "is read as a split" if len(bare) == 1 else "are read as splits"
        yield f"{folder}: {names} {are}, and the images there have no class{instead}"


def _found(
    root: str, scanned: folder_search.Scan, split: str | None, search: SearchLog, *, whole: str | None = None
) -> list[ImageFile]:
    """Label the images below a folder by the folders in it, and note the other findings."""
    search.note(whole or root, root, scanned)
    images = []
    labels: dict[str, tuple[str | None, str | None]] = {}  # of each folder
    for path in scanned.images:
        folder = os.path.dirname(path)
        if folder not in labels:
            labels[folder] = search.label(folder_search.first_folder(path, root))
        label, written = labels[folder]
        images.append(ImageFile(path, label, split, None, written))
    return images


def _sorted(images: list[ImageFile], root: str, search: SearchLog, *, whole: str | None = None) -> list[ImageFile]:
    if not images:
        there = search.passed_over_in(root)
        looked = " ".join(sorted(image_formats.EXTENSIONS))
        raise CnnkitError(f"{root}: no images found ({there or f'looked for {looked}'})")
    return _with_metadata(sorted(images, key=lambda image: name_order(image.path)), whole or root, search)


def _with_metadata(images: list[ImageFile], folder: str, search: SearchLog) -> list[ImageFile]:
    """Take classes, labels and groups from the metadata files of a folder, unless its class folders give the classes."""
    if not search.labels:
        return images
    if len({image.label for image in images if image.label is not None}) > 1:
        splits = sorted({image.split for image in images if image.split is not None})
        there = folder_metadata.found(folder, [os.path.join(folder, split, "") for split in splits])
        if there:
            named = messages.shortened(list(there.values()), 3)
            search.readings.append(
                f"{named} not read, since class folders give the classes; to use it, give it as the source"
            )
        return images
    known = folder_metadata.read(folder, [image.path for image in images])
    search.readings += known.remarks
    if not known.rows:
        if all(image.label is None for image in images):
            search.readings += folder_metadata.unread(folder, [image.path for image in images])
        return images
    search.readings.append(f"classes of {folder} from {messages.shortened(list(known.files), 3)}")
    unlisted = manifest.ManifestRow("")
    return [
        replace(
            _of_row(known.rows.get(os.path.normpath(image.path), unlisted), image.path, search),
            split=image.split,
        )
        for image in images
    ]


def name_order(path: str) -> bytes:
    """Return the sort key of a path: the same order on every file system and in every locale, the files of a folder together."""
    return os.fsencode(path).replace(os.fsencode(os.sep), b"\0")


def name_in_memory(number: int) -> str:
    """Return what an image in memory has instead of a path, by its place among the images given."""
    return f"image {number}"


def is_name_in_memory(path: str, folder: str | Path = "") -> bool:
    """Return whether a path, relative to a folder, is the name of an image in memory and not a file there."""
    return re.fullmatch("image [0-9]+", path) is not None and not os.path.lexists(os.path.join(folder, path))


def is_in_memory(image: ImageFile) -> bool:
    """Return whether an image of a features file was in memory: another file can list another image under its name."""
    folder, name = os.path.split(image.path)
    return is_name_in_memory(name, folder)


def with_label_lists(images: Iterable[ImageFile]) -> tuple[Iterable[ImageFile], bool]:
    """Return the images, and whether they have lists of labels instead of one.

    Raises:
        CnnkitError: Some images have a list, and others do not: at once for a sequence, else when they are read.
    """
    if not isinstance(images, Sequence):
        coming = iter(images)
        begun = list(islice(coming, 1))
        several = any(image.labels is not None for image in begun)
        return _of_one_kind(chain(begun, coming), several=several), several
    several = any(image.labels is not None for image in images)
    for _ in _of_one_kind(images, several=several) if several else ():
        pass
    return images, several


def refuse_several_labels(images: Iterable[ImageFile], reason: str) -> None:
    """Raise an error if an image has a list of labels.

    Args:
        images: The images.
        reason: What needs one label per image, with a remedy, for the message.

    Raises:
        UsageError: One has.
    """
    if any(image.labels is not None for image in images):
        raise UsageError(f"these images have several labels (column labels), and {reason}")


def _of_one_kind(images: Iterable[ImageFile], *, several: bool) -> Iterator[ImageFile]:
    for image in images:
        if (image.labels is not None) is not several:
            has, other = ("no list of labels", "one") if several else ("a list of labels", "none")
            raise CnnkitError(f"{image.path} has {has}, and other images have {other}; give them separately")
        yield image


def name_of(label: str | None) -> str:
    """Return the name of a label for messages."""
    return "(none)" if label is None else label


def listed_again(
    images: Iterable[ImageFile], *, groups: bool = False, hashes: bool = False, name: str | None = None
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Divide images into those that are listed for the first time, and those that are listed again.

    A file is identified by its name and its real folder, with links resolved.

    Args:
        images: In any order.
        groups: Also refuse two groups of one image.
        hashes: Also refuse two hashes of its content.
        name: The file that lists them, for messages.

    Raises:
        CnnkitError: An image is listed with two labels, or with two groups or hashes.
    """
    found: dict[str, ImageFile] = {}
    again = []
    real: dict[str, str] = {}  # folders with links resolved
    for image in images:
        start, separator, file = image.path.rpartition(os.sep)
        folder = start + separator
        if folder not in real:
            real[folder] = os.path.join(os.path.realpath(folder), "")
        first = found.setdefault(real[folder] + file, image)
        if first is image:
            continue
        again.append(image)
        if hashes and None not in (first.digest, image.digest) and first.digest != image.digest:
            raise CnnkitError(f"{image.path} is listed twice, with two hashes of its content; remove one of them")
        sets = [None if each.labels is None else label_sets.joined(sorted(each.labels)) for each in (first, image)]
        for one, other, what in (
            (first.label, image.label, "classes"),
            (sets[0], sets[1], "labels"),
            (first.group, image.group, "groups"),
        ):
            if one != other and (groups or what != "groups"):
                raise CnnkitError(
                    f"{'' if name is None else f'{name}: '}{image.path} is listed twice, with {what} {name_of(one)} "
                    f"and {name_of(other)}; remove one of them"
                )
    return list(found.values()), again


def _manifest(path: str, split: str | None, search: SearchLog) -> list[ImageFile]:
    folder = files.folder_of(path)
    extensions = MissingExtensions(path)
    with memory.without_collection():
        found = [
            _of_row(row, extensions.completed(manifest.seen_here(folder, row.path)), search)
            for row in manifest.rows(path, hashes=search.hashes, labels=search.labels)
        ]
    search.readings += extensions.lines()
    if not found:
        raise CnnkitError(f"{path}: no rows")
    images = _of_split(path, found, split, search, what="rows")
    if search.opens:
        _demand_one(path, images)
    return images


#: Fewer images of a manifest that are not found are skipped one by one.
_FEW_MISSING = 3


def _demand_one(path: str, images: Sequence[ImageFile]) -> None:
    """Raise an error if several images of a manifest are listed, and none is found.

    Raises:
        CnnkitError: With the remedy, if the paths exist relative to the current folder.
    """
    if len(images) < _FEW_MISSING or any(files.exists(image.path) for image in images):
        return
    folder, first = files.folder_of(path), images[0].path
    message = f"{path}: none of its {len(images):,} images exists, for example {first}"
    if not folder or not any(files.exists(os.path.relpath(image.path, folder)) for image in images):
        raise CnnkitError(f"{message}; paths are relative to the folder of the manifest, {folder or '.'}/")
    raise CnnkitError(
        f"{message}: its paths are relative to the current folder, but are read relative to {folder}/; "
        f"pipe it in (- < {messages.shell_word(path)}), or write lists with cnn-split --manifest {messages.shell_word(path)}"
    )


def _of_row(row: manifest.ManifestRow, path: str, search: SearchLog) -> ImageFile:
    label, written = search.label(row.label)
    if label is not None:
        search.listed.add(label)
    for each in row.labels or ():
        search.label(each)  # for notices about names that are alike
        search.listed.add(each)
    return ImageFile(path, label, search.split(row.split), search.trimmed(row.group), written, row.digest, row.labels)


def _from_list(stdin: BinaryIO, split: str | None, *, null: bool, search: SearchLog, name: str) -> Iterator[ImageFile]:
    lines = _null_separated(stdin, name) if null else iter(stdin)
    first = next(lines, None)
    if first is None:
        raise UsageError(f"{name} is empty; give a source, or pipe a list of images into the command")
    lines = chain([first], lines)
    _check_text(first, name)
    extensions = MissingExtensions(name)
    export = None
    if may_be := not null and manifest.may_be_export(first):
        whole = list(lines)
        export, lines = manifest.exported(whole, name=name, labels=search.labels), iter(whole)
    if may_be or (not null and tables.is_header(first)):
        found, splits = False, set()
        # Row by row: the list may be endless
        for row in manifest.parse(lines, name=name, hashes=search.hashes) if export is None else export:
            image = _of_row(row, extensions.completed(row.path), search)
            splits.add(image.split or "")
            if split is None or image.split == split:
                found = True
                yield image
        if not found:
            raise CnnkitError(f"{name}: no rows{f' with split {split}' if split is not None else ''}")
        search.readings += extensions.lines()
        if split is None:
            search.readings += split_names.about_synonyms(name, splits)
        return
    if split is not None:
        where = "on standard input" if name == "standard input" else name
        raise UsageError(f"--split needs a manifest or a folder; the list {where} has no splits")
    if null:
        lines = _separated(lines, name)
    else:
        if text_lines.has_mark(first):
            lines = (os.fsencode(text) for text in text_lines.decoded(lines, name))
        listed_paths.check_path(text_lines.first_line(first), name=name)
    for line in lines:
        path = os.fsdecode(line if null else line.rstrip(b"\r\n"))
        if "\0" in path:
            if name == "standard input":
                raise UsageError("the paths on standard input are separated by NUL; add -0")
            raise UsageError(
                f"{name}: the paths are separated by NUL; end them with line ends, or pipe them in with -0"
            )
        if path:
            yield ImageFile(normal_path(path if null else extensions.completed(path)))
    search.readings += extensions.lines()


def _check_text(beginning: bytes, name: str) -> None:
    kind = text_lines.kind_of(beginning)
    if kind is not None:
        called = f" called NAME{tar_archives.EXTENSION}" if kind == text_lines.TAR else ""
        piped = name == "standard input" or files.is_handed_over(name)
        remedy = f"write it to a file{called} and give the file's name" if piped else "give it as SOURCE"
        raise UsageError(f"{name} is {kind}, not a list of paths; {remedy}")


def _separated(paths: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Return the paths of a list separated by NUL; an error if it has lines, and no NUL."""
    first = next(paths)
    path, newline, rest = os.fsdecode(first).partition("\n")
    begun = [first]
    if newline and rest.strip() and not os.path.lexists(os.fsdecode(first)):
        begun += islice(paths, 1)
        if len(begun) == 1:
            piped = name == "standard input"
            given = "- without -0" if piped else f"- < {messages.shell_word(name)} instead of --files0-from"
            raise UsageError(
                f"{name}: the paths are separated by line ends, not by NUL, after {messages.excerpt(path)}; "
                f"give {given}"
            )
    return chain(begun, paths)


def _null_separated(stdin: BinaryIO, name: str) -> Iterator[bytes]:
    rest, first = b"", True
    while chunk := stdin.read1(65536) if hasattr(stdin, "read1") else stdin.read(65536):
        if first:  # names in a tar archive end with NUL
            _check_text(chunk, name)
            first = False
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole
    if rest:
        yield rest
