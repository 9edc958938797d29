"""What lies in a folder: which files are images, what is passed over, and whether its folders are splits or classes. Opens no image.

Not counted as passed over, since nobody takes them for images of the set:

    hidden files and folders; what operating systems and file servers leave (Thumbs.db, desktop.ini, __MACOSX/, @eaDir/, ...)
    the manifests that cnn-split and cnn-augment write
    sidecars: text, tables, films and settings with the name of an image next to it (1.jpg and 1.txt, 1.xmp, 1.jpg.json, 1.mov)
    next to class folders, tables, text, archives and programs (labels.csv, README.md); in a class folder they count
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cnnkit import class_names, files
from cnnkit.choices import FolderReading
from cnnkit.data import image_formats, split_names

_LITTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "split.tsv", "augment.tsv"})
_LITTER_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
_SIDECARS = image_formats.extensions(
    "aae aux cap caption csv dop geojson html ini json lbl log m4v mat md mov mp4 npy npz on1 pp3 tags thm tsv txt wav xml "
    "xmp yaml yml"
)
_DOCUMENTS = image_formats.extensions(
    "7z bib cfg csv db docx gz htm html ipynb json jsonl log mat md npy npz odt onnx parquet pdf pkl pt pth py rar rst rtf "
    "safetensors sh sqlite tar tex tgz toml tsv txt xls xlsx xml xz yaml yml zip"
)
_DOCUMENT_NAMES = re.compile(
    "(README|LICEN[CS]E|COPYING|NOTICE|AUTHORS|CITATION|CHANGELOG|Makefile|Dockerfile|VERSION)$", re.I
)


@dataclass(slots=True)
class Scan:
    """What a search of one folder came to."""

    images: list[str] = field(default_factory=list)  # paths, in no order
    by_content: list[str] = field(default_factory=list)  # those of them that only their first bytes show to be images
    passed: Counter[str] = field(default_factory=Counter)  # by extension, as written; "" without one
    unread: list[tuple[str, str]] = field(default_factory=list)  # passed over, but an image: path, what can be done
    empty: list[str] = field(default_factory=list)  # folders directly in it without an image


def scan(root: str, *, deep: bool = True) -> Scan:
    """Search a folder.

    Args:
        root: The folder; hidden folders are left out, links are followed, unless they lead back up.
        deep: Also what lies in its folders.
    """
    found = Scan()
    files, folders = _listed(root)
    _sort_out(root, files, found, class_folder=False)
    above = frozenset({_identity(root)})
    for name in folders if deep else ():
        before = len(found.images)
        for folder, below in _below(os.path.join(root, name), above):
            _sort_out(folder, below, found, class_folder=True)
        if len(found.images) == before:
            found.empty.append(name)
    return found


def first_folder(path: str, root: str) -> str | None:
    """Name the folder directly below `root` that a path, which begins with `root`, lies in; None where it lies in `root` itself."""
    first, separator, _ = path[len(os.path.join(root, "")) :].partition(os.sep)
    return first if separator else None


def _below(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, list[str]]]:
    """Give a folder and all below it with their files, in the order of their names; not those that a link leads back up to.

    Args:
        folder: The folder.
        above: What it lies in, by device and number on it.
    """
    waiting = [(folder, above)]
    while waiting:
        folder, above = waiting.pop()
        own = _identity(folder)
        if own in above:
            continue
        files, folders = _listed(folder)
        yield folder, files
        waiting += [(os.path.join(folder, name), above | {own}) for name in reversed(folders)]


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _listed(folder: str) -> tuple[list[str], list[str]]:
    """List the files and the folders in a folder, in the order of their names; hidden ones and litter are left out."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            match _kind(entry):
                case "folder" if entry.name not in _LITTER_FOLDERS:
                    folders.append(entry.name)
                case "file" if entry.name.lower() not in _LITTER:
                    files.append(entry.name)
    return sorted(files, key=os.fsencode), sorted(folders, key=os.fsencode)


def _kind(entry: "os.DirEntry[str]") -> str | None:
    """Tell files and folders; None for pipes and devices. Those called like images, and broken links, are named when they are read."""
    try:
        if entry.is_dir():
            return "folder"
        called_image = image_formats.has_image_extension(entry.name)
        return "file" if entry.is_file() or entry.is_symlink() or called_image else None
    except OSError:  # a link to itself
        return "file" if entry.is_symlink() else None


def _sort_out(folder: str, names: list[str], found: Scan, *, class_folder: bool) -> None:
    claimed = [name for name in names if image_formats.extension_of(name) in image_formats.EXTENSIONS]
    of_images = {stem for name in claimed for stem in (name, os.path.splitext(name)[0])}
    for name in names:
        path = os.path.join(folder, name)
        extension = image_formats.extension_of(name)
        if image_formats.has_image_extension(name):
            found.images.append(path)
        elif extension in _SIDECARS and os.path.splitext(name)[0] in of_images:
            continue
        elif class_folder and image_formats.may_be_read_by_content(name) and _content(path) in _readable():
            found.images.append(path)
            found.by_content.append(path)
        elif class_folder or not (extension in _DOCUMENTS or _DOCUMENT_NAMES.match(name)):
            found.passed[os.path.splitext(name)[1]] += 1
            if (reason := _why_unread(path, name)) is not None:
                found.unread.append((path, reason))


def _readable() -> frozenset[str]:
    formats = frozenset(image_formats.FORMATS)
    return formats if image_formats.reads_heif() else formats - {"HEIF"}


def _why_unread(path: str, name: str) -> str | None:
    """Say what can be done about a file that is passed over, if it is an image."""
    reason = image_formats.why_not_read(name)
    if reason is None and image_formats.may_be_read_by_content(name) and (content := _content(path)) is not None:
        if content == "HEIF" and not image_formats.reads_heif():
            return image_formats.HEIF_REMEDY
        return "images without an image's extension are read in class folders, or when they are named one by one"
    return reason


def _content(path: str) -> str | None:
    try:
        with files.open_regular(path) as file:
            return image_formats.of_content(file.read(image_formats.HEAD))
    except OSError:
        return None


# ---------------------------------------------------------------- splits or classes


@dataclass(frozen=True, slots=True)
class FolderLayout:
    """How a folder is read: the folders in it that are splits (none: they are classes), and what people should know about that."""

    splits: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def folder_layout(folder: str, reading: FolderReading | None = None) -> FolderLayout:
    """Tell a split dataset from a folder of class folders, the same for every command.

    Folders called train, val, test (any name in `split_names`; fold0, fold1, ... of cnn-split --folds) are splits where they hold class
    folders, or where no other folder stands beside them. A class that is called train, next to car and plane, holds images.

    Args:
        folder: The folder.
        reading: Decides where the names are not to.
    """
    below = subfolders(folder)
    if reading is FolderReading.CLASSES:
        return FolderLayout(())
    if reading is FolderReading.SPLITS:
        return FolderLayout(tuple(below))
    if below and all(split_names.is_fold(name) for name in below) and _hold_folders(folder, below):
        return FolderLayout(tuple(below))
    names = [name for name in below if name.lower() in split_names.NAMES]
    if not names:
        return FolderLayout(())
    others = [name for name in below if name not in names and _holds_image(os.path.join(folder, name))]
    named, beside = (_and(each) for each in (names, others))
    if not _hold_folders(folder, names) and others:
        are = "is taken for a class" if len(names) == 1 else "are taken for classes"
        stand = "stands" if len(others) == 1 else "stand"
        return FolderLayout(
            (), (f"{folder}: {named} {are}, since {beside} {stand} beside; --folders splits reads splits",)
        )
    synonyms = tuple(split_names.about_synonyms(folder, names, mark="/"))
    if others:
        are = "is taken for a split" if len(names) == 1 else "are taken for splits"
        remark = f"{folder}: {named} {are}, {beside} not looked at; --folders classes takes all of them for classes"
        return FolderLayout(tuple(names), (remark, *synonyms))
    return FolderLayout(tuple(names), synonyms)


def subfolders(folder: str) -> list[str]:
    """List the folders in a folder, in the order of their names; hidden ones and litter are left out."""
    return _listed(folder)[1]


def _hold_folders(folder: str, names: list[str]) -> bool:
    return any(subfolders(os.path.join(folder, name)) for name in names)


def _holds_image(folder: str) -> bool:
    """Look for a file with an image's extension, no further than the first."""
    return any(
        image_formats.extension_of(name) in image_formats.EXTENSIONS
        for _, files in _below(folder, frozenset())
        for name in files
    )


def _and(names: list[str]) -> str:
    shown = [f"{name}/" for name in names[:5]]
    more = [f"{len(names) - 5} more"] if len(names) > 5 else []
    return " and ".join(filter(None, (", ".join([*shown, *more][:-1]), [*shown, *more][-1]))) if names else ""


def label_of(name: str | None) -> tuple[str | None, str | None]:
    """Give the one form of a label, and the label as it is written where that differs."""
    label = class_names.normal_or_none(name)
    return label, name if name != label else None
