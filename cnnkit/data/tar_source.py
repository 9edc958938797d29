"""Images in tar archives, with the labels that WebDataset writes next to them.

The files of an archive that have the same path up to the first dot of their name are one sample:

    photos-000.tar/0001.jpg     the image
    photos-000.tar/0001.cls     its label: a number or a name
    photos-000.tar/0001.json    an object with label (or class), split and group; each may be missing

In an archive without such labels, folders are labels as in a folder of class folders (`cat/1.jpg`), also in a folder that holds all of them
(`photos/cat/1.jpg`). The split is that of the `.json`, of the folders (`train/cat/1.jpg`), or in the archive's name (`train-000.tar`).
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from cnnkit import files, messages
from cnnkit.choices import FolderReading
from cnnkit.data import folder_search, split_names
from cnnkit.errors import UsageError
from cnnkit.formats import image_formats, label_sets
from cnnkit.tar_archives import TarIndex

#: Maximum number of archives that a pattern stands for.
MOST_ARCHIVES = 100_000

#: Maximum number of bytes of a `.cls` or `.json`.
_LONGEST_FIELDS = 1 << 20

_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
_NUMBER = re.compile(r"[-_.]?[0-9]+$")


def expanded(source: str) -> list[str]:
    """Return the archives that a pattern stands for, as in WebDataset and in shells: `photos-{000..099}.tar`, `{train,val}.tar`.

    Any other source is returned as it is, and so is an existing file of this name.

    Raises:
        UsageError: There are too many.
    """
    if not source.lower().endswith(".tar") or not _GROUP.search(source) or os.path.lexists(source):
        return [source]
    texts = _GROUP.split(source)  # text, group, text, group, ..., text
    count = 1
    choices: list[Sequence[str]] = []
    for place, text in enumerate(texts):
        words = _choices(text) if place % 2 else [text]
        choices.append(words)
        count *= len(words)
        if count > MOST_ARCHIVES:
            raise UsageError(f"{source}: stands for more than {MOST_ARCHIVES:,} archives")
    return ["".join(words) for words in product(*choices)]


def _choices(group: str) -> Sequence[str]:
    if (found := _RANGE.fullmatch(group)) is None:
        return group.split(",") if "," in group else [f"{{{group}}}"]
    first, last = found.groups()
    if max(len(first), len(last)) > 12 or abs(int(last) - int(first)) > MOST_ARCHIVES:
        raise UsageError(f"{{{group}}}: stands for more than {MOST_ARCHIVES:,} archives")
    padded = any(word.startswith("0") and len(word) > 1 for word in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    return [str(number).zfill(width) for number in range(int(first), int(last) + step, step)]


@dataclass(frozen=True, slots=True)
class TarImage:
    """An image in an archive, with its label, split and group as written; None where there is none.

    `labels` are those of an archive of cnnkit's with several labels for each image, separated as in a manifest.
    """

    path: str
    label: str | None
    split: str | None
    group: str | None
    labels: str | None = None


@dataclass(slots=True)
class TarSearch:
    """The images of archives in their order there, and what notices report about them."""

    images: list[TarImage] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)  # by extension


@dataclass(slots=True)
class _Archive:
    """An archive, and its files by their role."""

    index: TarIndex
    images: list[str] = field(default_factory=list)
    fields: dict[str, dict[str, str | None]] = field(default_factory=dict)  # of each sample
    labelled: bool = False  # a .cls or .json has a label, or says that there is none


@dataclass(slots=True)
class _Doubts:
    """Examples and counts of what is doubtful in all archives."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, path: str) -> None:
        self.counts[what] += 1
        self.examples.setdefault(what, path)

    def remarks(self, texts: Mapping[str, tuple[str, str, str]]) -> Iterator[str]:
        for what, (one, many, consequence) in texts.items():
            if count := self.counts[what]:
                yield f"{count:,} {one if count == 1 else many} in tar archives{consequence}, such as {self.examples[what]}"


_TEXTS = {
    "conflict": ("sample", "samples", " with one label in .cls and another one in .json are read with that of .cls"),
    "numbers": (
        "sample",
        "samples",
        " with one number in .cls and another one in .json are read with that of .json",
    ),
    "labels": ("label", "labels", " ignored, since they are neither text nor a whole number"),
    "fields": (".cls or .json", ".cls or .json", " ignored, since it is no label, no JSON object or longer than 1 MB"),
    "mask": ("image", "images", " ignored, since its sample has a main image"),
    "repeated": ("name", "names", " used more than once; the last file of a name is read"),
    "unusable": (
        "member",
        "members",
        " ignored: links, devices, sparse files, and names with .., an absolute path or more than 4,096 bytes are not read",
    ),
}


def read(
    archives: Sequence[str], folders: FolderReading | None = None, *, splits: Mapping[str, str | None] | None = None
) -> TarSearch:
    """Find the images of archives, which are read as one dataset.

    Args:
        archives: Their paths.
        folders: Whether the folders in the archives are splits or classes; by default their names decide.
        splits: The split of each archive, if it does not follow from its name.

    Raises:
        OSError: An archive is damaged, or cannot be read.
    """
    found, doubts = TarSearch(), _Doubts()
    read = [_sorted_out(files.tar_index(archive), found.ignored, doubts) for archive in archives]
    names = [name for archive in read for name in archive.images]
    root = _common_root(names)
    where = archives[0] if len(archives) == 1 else f"{archives[0]} and {len(archives) - 1} more"
    layout = _layout(f"{where}: {root}" if root else where, [name[len(root) :] for name in names], folders)
    found.remarks += layout.remarks
    for archive in read:
        path = archive.index.path
        own = splits.get(path) if splits is not None else split_in_name(path)
        for name in archive.images:
            first, *below = name[len(root) :].split("/")
            in_split = bool(below) and first in layout.splits
            fields = archive.fields.get(_sample(name), {})
            if archive.labelled:
                label = fields.get("label")
            elif in_split:
                label = below[0] if len(below) > 1 else None
            else:
                label = first if below and not layout.splits else None
            split = fields.get("split") or (first if in_split else own)
            if layout.splits and below and not in_split and not archive.labelled:
                continue  # a folder next to those of the splits is ignored, as in a folder; the layout's remark names it
            found.images.append(TarImage(f"{path}/{name}", label, split, fields.get("group"), fields.get("labels")))
    if root and not all(archive.labelled for archive in read):
        found.remarks.append(f"{where}: all images are in {root}, whose folders are read")
    if followed := [archive.index.path for archive in read if archive.index.continues]:
        found.remarks.append(
            f"{messages.shortened(followed, 3)}: only the first of several archives in one file is read; give them one by one"
        )
    found.remarks += doubts.remarks(_TEXTS)
    return found


def split_in_name(archive: str) -> str | None:
    """Return the split that the name of an archive gives: train for `train-000.tar` and `photos-train.tar`; None if it gives none."""
    stem = _NUMBER.sub("", os.path.basename(archive)[: -len(".tar")])
    for word in (re.split("[-_.]", stem)[-1], os.path.basename(archive)[: -len(".tar")]):
        if split_names.is_split(word):
            return word
    return None


def unpacked_paths(paths: Sequence[str]) -> list[str]:
    """Return the paths that files in archives would have in a folder; other paths stay as they are.

    These are their names in the archives, if all are different; otherwise they are in a folder with the name of their archive.
    """
    divided = [files.archive_and_name(path) for path in paths]
    names = [name for found in divided if found is not None for name in found[1:]]
    if len(set(names)) == len(names):
        return [path if found is None else found[1] for path, found in zip(paths, divided, strict=True)]
    return [path if found is None else unpacked_path(path) for path, found in zip(paths, divided, strict=True)]


def unpacked_path(path: str) -> str:
    """Return the path of a file in an archive if it were a folder without the extension: photos/cat/1.jpg for photos.tar/cat/1.jpg."""
    found = files.archive_and_name(path)
    return path if found is None else f"{os.path.splitext(os.path.basename(found[0]))[0]}/{found[1]}"


def _sample(name: str) -> str:
    """Return what the files of a sample have in common: the path up to the first dot of the file's name."""
    folder, separator, file = name.rpartition("/")
    return f"{folder}{separator}{file.partition('.')[0]}"


def _sorted_out(index: TarIndex, ignored: Counter[str], doubts: _Doubts) -> _Archive:
    """Find the images of an archive, and the labels of its samples."""
    archive = _Archive(index)
    samples: set[str] = set()
    fields, others = [], []
    for name in index.members:
        if folder_search.is_passed_over(name.split("/")):
            continue
        if image_formats.has_image_extension(name):
            archive.images.append(name)
            samples.add(_sample(name))
        elif _field(name) in ("cls", "json"):
            fields.append(name)
        else:
            others.append(name)
    fields = [name for name in fields if _sample(name) in samples]
    _read_fields(archive, fields, doubts)
    if archive.labelled:
        main = {_sample(name) for name in archive.images if "." not in _field(name)}
        kept = [name for name in archive.images if "." not in _field(name) or _sample(name) not in main]
        for name in set(archive.images).difference(kept) if len(kept) < len(archive.images) else ():
            doubts.note("mask", f"{index.path}/{name}")
        archive.images = kept
    ignored.update(os.path.splitext(name)[1] for name in others if _sample(name) not in samples)
    for name in index.repeated:
        doubts.note("repeated", f"{index.path}/{name}")
    for name in index.unusable:
        doubts.note("unusable", f"{index.path}: {messages.excerpt(name)}")
    return archive


def _field(name: str) -> str:
    """Return the name of a file after its first dot: jpg, cls, seg.png."""
    return name.rpartition("/")[2].partition(".")[2].lower()


def _read_fields(archive: _Archive, names: list[str], doubts: _Doubts) -> None:
    texts: dict[str, str] = {}  # of the .cls of each sample
    numbers: dict[str, str] = {}  # in the .json, where it has no text
    path = archive.index.path
    for name, content in zip(names, files.read_members(archive.index, names, most=_LONGEST_FIELDS), strict=True):
        sample = _sample(name)
        if _field(name) == "cls":
            text = None if content is None else _text(content)
            if text is None:
                doubts.note("fields", f"{path}/{name}")
            elif text:
                texts[sample] = text
            continue
        read = None if content is None else _object(content)
        if read is None:
            doubts.note("fields", f"{path}/{name}")
            continue
        if (label := _written_label(read)) is not None and _word(label) is None:
            doubts.note("labels", f"{path}/{name}")
        archive.fields[sample] = _words(read)
        if not isinstance(label, str) and (number := _word(label)) is not None:
            numbers[sample] = number
    for sample, text in texts.items():
        fields = archive.fields.setdefault(sample, {})
        named = fields.get("label")
        if named is None or (named != text and not text.isdecimal()):
            fields["label"] = text
        if named not in (None, text) and not text.isdecimal():
            doubts.note("conflict", f"{path}/{sample}")
        elif sample in numbers and text.lstrip("0") != numbers[sample].lstrip("0"):
            doubts.note("numbers", f"{path}/{sample}")
    archive.labelled = any("label" in fields or "labels" in fields for fields in archive.fields.values())


def _text(content: bytes) -> str | None:
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        return None
    return None if "\n" in text or "\0" in text else text


def _object(content: bytes) -> dict[str, object] | None:
    """Return the fields of a `.json`; None if it is not a JSON object."""
    try:
        read = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def _written_label(read: Mapping[str, object]) -> object:
    """Return the label of a `.json` as written: the first of the two fields that has a usable one."""
    written = [read.get(key) for key in ("label", "class")]
    return next(
        (each for each in written if _word(each)), next((each for each in written if not _is_blank(each)), None)
    )


def _words(read: Mapping[str, object]) -> dict[str, str | None]:
    """Return the label, split and group of a `.json`; no label where there is none, or one that cannot be used."""
    label = _written_label(read)
    usable = {"label", "class"} & read.keys() and (label is None or _word(label) is not None)
    labels = {"label": _word(label)} if usable else {}
    several = read.get("labels")
    if "path" in read and not {"label", "class"} & read.keys() and isinstance(several, list):  # written by cnnkit
        labels = {"labels": label_sets.joined(filter(None, map(_word, several)))}
    return {**labels, "split": _word(read.get("split")), "group": _word(read.get("group"))}


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _word(value: object) -> str | None:
    """Return text or a whole number as text; None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        value = int(value)  # numpy and pandas write 1.0
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    word = str(value) if isinstance(value, str) or abs(value) < 1 << 63 else ""
    return word.strip() or None


def _common_root(names: Sequence[str]) -> str:
    """Return the folder, with a separator, that contains all images, most of them in folders, as in `tar -cf photos.tar photos/`."""
    if not names:
        return ""
    depths = Counter(name.count("/") for name in names)
    shared = os.path.commonpath([min(names), max(names)])  # of all names: the others are between these two
    root: list[str] = []
    for folder in shared.split("/") if shared else ():
        deeper = sum(count for depth, count in depths.items() if depth - len(root) > 1)
        if split_names.is_split(folder) or 2 * deeper < len(names) or not deeper:
            break
        root.append(f"{folder}/")
    return "".join(root)


def _layout(where: str, names: Sequence[str], reading: FolderReading | None) -> folder_search.FolderLayout:
    inner: dict[str, bool] = {}  # whether each first folder contains folders
    for name in names:
        first, separator, rest = name.partition("/")
        if separator:
            inner[first] = inner.get(first, False) or "/" in rest
    return folder_search.layout_of(
        where,
        sorted(inner, key=os.fsencode),
        reading,
        hold_folders=lambda names: any(inner[name] for name in names),
        holds_image=lambda name: True,
    )
