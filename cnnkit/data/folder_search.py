"""Search of a folder: its images, the ignored files, and whether its folders are splits or classes. No image is opened.

Files that are not meant to be images are not counted as ignored:

    hidden files and folders; files of operating systems and file servers (Thumbs.db, desktop.ini, __MACOSX/, @eaDir/, ...)
    the manifests that cnn-split and cnn-augment write
    sidecars: text, tables, films and settings with the name of an image next to it (1.jpg and 1.txt, 1.xmp, 1.jpg.json, 1.mov)
    next to class folders: tables, text, archives and programs (labels.csv, README.md); in a class folder these are counted

Tar archives and idx files next to images are always counted, since they hold images.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cnnkit import class_names, files, idx_files, tar_archives
from cnnkit.choices import FolderReading
from cnnkit.data import split_names
from cnnkit.formats import image_formats

_LITTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "split.tsv", "augment.tsv"})
_LITTER_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
_SIDECARS = image_formats.extensions(
    "aae aux cap caption csv dop geojson html ini json lbl log m4v mat md mov mp4 npy npz on1 pp3 tags thm tsv txt wav xml "
    "xmp yaml yml"
)
_DOCUMENTS = image_formats.extensions(
    "7z bib cfg csv db docx gz htm html ipynb json jsonl log mat md npy npz odt onnx parquet pdf pkl pt pth py rar rst rtf "
    "safetensors sh sqlite tex tgz toml tsv txt xls xlsx xml xz yaml yml zip"
)
_DOCUMENT_NAMES = re.compile(
    "(README|LICEN[CS]E|COPYING|NOTICE|AUTHORS|CITATION|CHANGELOG|Makefile|Dockerfile|VERSION)$", re.I
)


@dataclass(slots=True)
class Scan:
    """Result of the search of one folder."""

    images: list[str] = field(default_factory=list)  # paths, in no order
    by_content: list[str] = field(default_factory=list)  # images that are recognized by their first bytes only
    ignored: Counter[str] = field(default_factory=Counter)  # by extension, as written; "" without one
    unread: list[tuple[str, str]] = field(default_factory=list)  # ignored, although an image: path, remedy
    empty: list[str] = field(default_factory=list)  # folders directly in it without an image


def scan(root: str, *, deep: bool = True) -> Scan:
    """Search a folder.

    Args:
        root: The folder; hidden folders are left out, and links are followed, except into a folder above.
        deep: Also search its folders.
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
    """Return the name of the folder directly below `root` that contains a path; None if the path is directly in `root`."""
    first, separator, _ = path[len(os.path.join(root, "")) :].partition(os.sep)
    return first if separator else None


def _below(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and all below it with their files, ordered by name, except folders above that a link leads back to.

    Args:
        folder: The folder.
        above: The folders that contain it, by device and inode.
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
    """Return the files and the folders in a folder, ordered by name, without hidden and system files."""
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
    """Return "file" or "folder"; None for pipes and devices. Pipes named like images, and broken links, fail when they are read."""
    try:
        if entry.is_dir():
            return "folder"
        called_image = image_formats.has_image_extension(entry.name)
        return "file" if entry.is_file() or entry.is_symlink() or called_image else None
    except OSError:  # a link to itself
        return "file" if entry.is_symlink() else None


def is_passed_over(parts: Sequence[str]) -> bool:
    """Return whether a path, divided into its folders and its file, is hidden, or one of an operating system or a file server."""
    *folders, name = parts
    return (
        any(part.startswith(".") for part in parts)
        or name.lower() in _LITTER
        or any(folder in _LITTER_FOLDERS for folder in folders)
    )


def tar_archives_in(folder: str) -> list[str]:
    """Return the paths of the tar archives in a folder and in all folders below it, ordered by name."""
    return [
        os.path.join(below, name)
        for below, names in _below(folder, frozenset())
        for name in names
        if name.lower().endswith(tar_archives.EXTENSION)
    ]


def idx_files_in(folder: str) -> list[str]:
    """Return the paths of the idx files with images directly in a folder, ordered by name."""
    return [os.path.join(folder, name) for name in _listed(folder)[0] if idx_files.has_name(name)]


def _sort_out(folder: str, names: list[str], found: Scan, *, class_folder: bool) -> None:
    start = os.path.join(folder, "")
    others = []
    for name in names:
        if image_formats.has_image_extension(name):
            found.images.append(start + name)
        else:
            others.append(name)
    if not others:
        return
    claimed = [name for name in names if image_formats.extension_of(name) in image_formats.EXTENSIONS]
    of_images = {stem for name in claimed for stem in (name, os.path.splitext(name)[0])}
    for name in others:
        path = start + name
        extension = image_formats.extension_of(name)
        if extension in _SIDECARS and os.path.splitext(name)[0] in of_images:
            continue
        if class_folder and image_formats.may_be_read_by_content(name) and _content(path) in _readable():
            found.images.append(path)
            found.by_content.append(path)
        elif class_folder or idx_files.has_name(name) or not (extension in _DOCUMENTS or _DOCUMENT_NAMES.match(name)):
            found.ignored[os.path.splitext(name)[1]] += 1
            if (reason := _why_unread(path, name)) is not None:
                found.unread.append((path, reason))


def _readable() -> frozenset[str]:
    formats = frozenset(image_formats.FORMATS)
    return formats if image_formats.reads_heif() else formats - {"HEIF"}


def _why_unread(path: str, name: str) -> str | None:
    """Return the remedy for an ignored file that is an image, or may hold some; None for other files."""
    if image_formats.extension_of(name) == tar_archives.EXTENSION:
        return "tar archives next to images are not read: move them to a folder of their own, or give each as a source"
    if idx_files.has_name(name):
        return "idx files next to images are not read: give each as a source"
    reason = image_formats.why_not_read(name)
    if reason is None and image_formats.may_be_read_by_content(name) and (content := _content(path)) is not None:
        if content == "HEIF" and not image_formats.reads_heif():
            return image_formats.HEIF_REMEDY
        return "files without an image extension are read in class folders, or when given one by one"
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
    """How a folder is read: which folders in it are splits (none: all are classes), and notices about that."""

    splits: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def folder_layout(folder: str, reading: FolderReading | None = None) -> FolderLayout:
    """Distinguish a split dataset from a folder of class folders; the same rule for every command.

    Folders called train, val, test (any name in `split_names`; fold0, fold1, ... of cnn-split --folds) are splits if they contain
    class folders, or if there is no other folder with images next to them. A class called train, next to car and plane, contains images.

    Args:
        folder: The folder.
        reading: Overrides the decision by names.
    """
    return layout_of(
        folder,
        subfolders(folder),
        reading,
        hold_folders=lambda names: any(subfolders(os.path.join(folder, name)) for name in names),
        holds_image=lambda name: _holds_image(os.path.join(folder, name)),
    )


def layout_of(
    folder: str,
    below: list[str],
    reading: FolderReading | None,
    *,
    hold_folders: Callable[[list[str]], bool],
    holds_image: Callable[[str], bool],
) -> FolderLayout:
    """Decide as `folder_layout` for a folder that need not be on a disk.

    Args:
        folder: Its name, for notices.
        below: The folders in it, ordered by name.
        reading: Overrides the decision by names.
        hold_folders: Whether any of these folders contains folders.
        holds_image: Whether this folder contains an image.
    """
    if reading is FolderReading.CLASSES:
        return FolderLayout(())
    if reading is FolderReading.SPLITS:
        return FolderLayout(tuple(below))
    if below and all(split_names.is_fold(name) for name in below) and hold_folders(below):
        return FolderLayout(tuple(below))
    names = [name for name in below if name.lower() in split_names.NAMES]
    if not names:
        return FolderLayout(())
    others = [name for name in below if name not in names and holds_image(name)]
    named, next_to = (_and(each) for each in (names, others))
    if not hold_folders(names) and others:
        are = "is read as a class" if len(names) == 1 else "are read as classes"
        return FolderLayout((), (f"{folder}: {named} {are}, like {next_to}; to read splits, add --folders splits",))
    synonyms = tuple(split_names.about_synonyms(folder, names, mark="/"))
    if others:
        are = "is read as a split" if len(names) == 1 else "are read as splits"
        remark = f"{folder}: {named} {are}, and {next_to} ignored; to read all as classes, add --folders classes"
        return FolderLayout(tuple(names), (remark, *synonyms))
    return FolderLayout(tuple(names), synonyms)


def subfolders(folder: str) -> list[str]:
    """Return the folders in a folder, ordered by name, without hidden and system folders."""
    return _listed(folder)[1]


def _holds_image(folder: str) -> bool:
    """Return whether there is a file with an image extension; the search ends at the first one."""
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
    """Return the normal form of a label, and the label as written if that differs."""
    label = class_names.normal_or_none(name)
    return label, name if name != label else None
