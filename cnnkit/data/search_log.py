"""Notices about a search for images: ignored files, and how folders and labels were read."""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cnnkit import class_names, messages
from cnnkit.data import split_names
from cnnkit.data.folder_search import Scan, first_folder, label_of

log = logging.getLogger("cnnkit")

#: Maximum number of names in a notice.
_NAMED = 5


@dataclass(slots=True)
class SearchLog:
    """Findings of a search over all sources of a command; `say` logs them.

    `unread` are the files that were ignored although they are images, each with its remedy. If the command does not use `labels`,
    there are no notices about classes. If it `opens` the images, a manifest of which none is found is an error. If it uses the
    `hashes` of manifests, there is a notice about what is not a hash.
    """

    labels: bool = True
    opens: bool = False
    hashes: bool = False
    unread: list[tuple[str, str]] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)
    depths: list[str] = field(default_factory=list)
    empty: list[tuple[str, str]] = field(default_factory=list)  # class folder without an image, its other contents
    by_content: list[str] = field(default_factory=list)
    forms: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # the spellings of each label
    splits: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)  # labels of manifests
    blank: dict[str, None] = field(default_factory=dict)  # names of splits and groups with blanks around them
    _labels: dict[str | None, tuple[str | None, str | None]] = field(default_factory=dict)  # results of `label`
    _trimmed: dict[str | None, str | None] = field(default_factory=dict)  # results of `trimmed`
    _ignored: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # by folder

    def label(self, written: str | None) -> tuple[str | None, str | None]:
        """Note a label, and return its normal form and, if that differs, the label as written."""
        if written not in self._labels:
            self._labels[written] = label, _ = label_of(written)
            if label is not None and written is not None:
                self.forms[label].add(written)
        return self._labels[written]

    def split(self, written: str | None) -> str | None:
        """Note a split of a manifest, and return the normal form of its name."""
        split = self.trimmed(written)
        if split is not None:
            self.splits.add(split)
        return split

    def trimmed(self, written: str | None) -> str | None:
        """Return the normal form of a split's or a group's name."""
        if written not in self._trimmed:
            self._trimmed[written] = name = class_names.normal_or_none(written)
            if written is not None and written != name:
                self.blank[written] = None
        return self._trimmed[written]

    def note_sources(self, sources: Sequence[str]) -> None:
        """Note the splits of one folder that are given as separate sources, as by `data/*/`: they are read as one dataset."""
        folders = dict.fromkeys(os.path.abspath(source) for source in sources if os.path.isdir(source))
        by_parent: defaultdict[str, list[str]] = defaultdict(list)
        for folder in folders:
            if split_names.is_split(os.path.basename(folder)):
                by_parent[os.path.dirname(folder)].append(os.path.basename(folder))
        for above, names in by_parent.items():
            if len(names) > 1:
                whole = os.path.relpath(above)
                splits = " and ".join(f"{name}/" for name in names[:_NAMED])
                self.depths.append(f"{splits} are read as one dataset; to keep them as splits, give {whole} instead")

    def note(self, whole: str, root: str, scanned: Scan) -> None:
        """Note the result of the search of a folder.

        Args:
            whole: The folder given on the command line.
            root: The same folder, or a split in it.
            scanned: Result of the search.
        """
        self._ignored[whole] += scanned.ignored
        self.unread += scanned.unread
        self.by_content += scanned.by_content
        unread: defaultdict[str | None, list[tuple[str, str]]] = defaultdict(list)
        for path, reason in scanned.unread:
            unread[first_folder(path, root)].append((path, reason))
        for name in scanned.empty:
            kinds = Counter(os.path.splitext(path)[1] for path, _ in unread[name])
            there = "; ".join([_counted(kinds), unread[name][0][1]]) if kinds else ""
            self.empty.append((os.path.join(root, name), there))
        self.depths += _about_depth(root, scanned.images)

    def note_ignored(self, where: str, counts: Counter[str]) -> None:
        """Note ignored files, counted by extension."""
        self._ignored[where] += counts

    def add(self, other: "SearchLog") -> None:
        """Add the findings of another search."""
        self.unread += other.unread
        self.readings += other.readings
        self.depths += other.depths
        self.empty += other.empty
        self.by_content += other.by_content
        for label, written in other.forms.items():
            self.forms[label] |= written
        self.splits |= other.splits
        self.listed |= other.listed
        self.blank |= other.blank
        for folder, counts in other._ignored.items():
            self._ignored[folder] += counts

    def passed_over_in(self, root: str) -> str:
        """Describe the ignored files of a folder without images."""
        inside = os.path.join(root, "")
        folders = [folder for folder in self._ignored if inside.startswith(os.path.join(folder, ""))]
        ignored = sum((self._ignored[folder] for folder in folders), Counter[str]())
        below = tuple(os.path.join(folder, "") for folder in folders)
        remedies = list(dict.fromkeys(reason for path, reason in self.unread if path.startswith(below)))
        return "; ".join([f"ignored {_counted(ignored)}", *remedies]) if ignored else ""

    def passed_over(self) -> str | None:
        """Count the ignored files by extension; None if there are none."""
        whole = sum(self._ignored.values(), Counter[str]())
        return _counted(whole) if whole else None

    def say(self) -> None:
        """Log the notices."""
        for line in self.lines():
            log.info("%s", line, extra=messages.WAITS_FOR_WORK)

    def lines(self) -> Iterator[str]:
        """Yield the notices."""
        yield from dict.fromkeys(self.readings)
        yield from self._about_ignored()
        blank = [class_names.form(name) for name in self.blank]
        if blank:
            yield f"blanks around names of splits and groups removed: {messages.shortened(blank, _NAMED)}"
        for names in class_names.alike(self.splits):
            several = ", ".join(map(class_names.form, names))
            yield f"splits that differ only in case or Unicode form: {several}; if they are one split, rename them"
        if self.labels:
            yield from self._about_classes()

    def _about_classes(self) -> Iterator[str]:
        yield from dict.fromkeys(self.depths)
        if self.empty:
            named = ", ".join(f"{folder}{f' ({there})' if there else ''}" for folder, there in self.empty[:_NAMED])
            more = f" and {len(self.empty) - _NAMED} more" if len(self.empty) > _NAMED else ""
            yield f"no image in {named}{more}: {'not read as a class' if len(self.empty) == 1 else 'not read as classes'}"
        yield from class_names.about_forms(self.forms)
        yield from class_names.about_missing(self.listed)

    def _about_ignored(self) -> Iterator[str]:
        ignored = {folder: counts for folder, counts in self._ignored.items() if counts}
        clauses = []
        if self.by_content:
            kinds = Counter(os.path.splitext(path)[1] for path in self.by_content)
            clauses.append(f"recognized as images by content: {_counted(kinds)}, such as {self.by_content[0]}")
        if ignored:
            whole = sum(ignored.values(), Counter[str]())
            clauses.append(f"ignored {_counted(whole)} in {messages.shortened(list(ignored), 3)}")
            clauses += dict.fromkeys(reason for _, reason in self.unread)
        if clauses:
            yield "; ".join(clauses)


def _counted(extensions: Counter[str]) -> str:
    """Count files by extension: "25 .HEIC, 2 .txt, 1 without an extension"."""
    totals: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for extension, count in extensions.items():
        totals[extension.lower()] += count
        shown.setdefault(extension.lower(), extension)
    counted = [f"{count:,} {shown[low] or 'without an extension'}" for low, count in totals.most_common()]
    return messages.shortened(counted, 8)


def _about_depth(root: str, images: list[str]) -> Iterator[str]:
    """Yield a notice if most images lie in deeper folders: the class of site1/oak/1.jpg is site1, which may not be intended."""
    classes: dict[str, None] = {}
    deeper: dict[str, None] = {}
    deep = 0
    counts: Counter[str] = Counter()
    one_of: dict[str, str] = {}  # all images of a folder have the same first folders
    for path in images:
        folder = os.path.dirname(path)
        counts[folder] += 1
        one_of.setdefault(folder, path)
    for folder, path in one_of.items():
        first = first_folder(path, root)
        if first is None:
            continue
        classes[first] = None
        second = first_folder(path, os.path.join(root, first))
        if second is not None:
            deep += counts[folder]
            deeper[second] = None
    if 2 * deep > len(images):
        yield (
            f"{root}: the classes are its direct subfolders {messages.shortened(sorted(classes), _NAMED)}; to use the folders in them "
            f"({messages.shortened(sorted(deeper), _NAMED)}) as classes, give {os.path.join(root, '*', '')} as sources"
        )


T = TypeVar("T")


def said(found: list[T] | Iterator[T], search: SearchLog) -> list[T] | Iterator[T]:
    """Log the notices of a search: at once for a list, else after the last image."""
    if isinstance(found, list):
        search.say()
        return found
    return _logged_at_end(found, search)


def _logged_at_end(coming: Iterator[T], search: SearchLog) -> Iterator[T]:
    yield from coming
    search.say()
