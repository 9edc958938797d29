"""What people should know of a search for images: what was passed over, how folders and labels were read. One notice for each."""

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

#: At most so many names are listed in a notice.
_NAMED = 5


@dataclass(slots=True)
class SearchLog:
    """Collects over all sources of a command; `say` logs it.

    `unread` are the files that were passed over though they are images: path and what can be done. Where `labels` do not matter to the
    command, nothing is said of classes.
    """

    labels: bool = True
    unread: list[tuple[str, str]] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)
    depths: list[str] = field(default_factory=list)
    empty: list[tuple[str, str]] = field(default_factory=list)  # class folder without an image, what is in it
    by_content: list[str] = field(default_factory=list)
    forms: defaultdict[str, set[str]] = field(
        default_factory=lambda: defaultdict(set)
    )  # of each label, as it is written
    splits: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)  # labels of manifests
    blank: dict[str, None] = field(default_factory=dict)  # names of splits and groups with blanks around them
    _passed: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # by folder

    def label(self, written: str | None) -> tuple[str | None, str | None]:
        """Note a label, and give its one form and, where that differs, the label as it is written."""
        label, other = label_of(written)
        if label is not None and written is not None:
            self.forms[label].add(written)
        return label, other

    def split(self, written: str | None) -> str | None:
        """Note a split of a manifest, and give the one form of its name."""
        split = self.trimmed(written)
        if split is not None:
            self.splits.add(split)
        return split

    def trimmed(self, written: str | None) -> str | None:
        """Give the one form of a split's or a group's name."""
        name = class_names.normal_or_none(written)
        if written is not None and written != name:
            self.blank[written] = None
        return name

    def note_sources(self, sources: Sequence[str]) -> None:
        """Note the splits of one folder that are given side by side, as `data/*/` gives them: nothing keeps them apart."""
        folders = dict.fromkeys(os.path.abspath(source) for source in sources if os.path.isdir(source))
        beside: defaultdict[str, list[str]] = defaultdict(list)
        for folder in folders:
            if split_names.is_split(os.path.basename(folder)):
                beside[os.path.dirname(folder)].append(os.path.basename(folder))
        for above, names in beside.items():
            if len(names) > 1:
                whole = os.path.relpath(above)
                splits = " and ".join(f"{name}/" for name in names[:_NAMED])
                self.depths.append(f"{splits} are given as one set, no splits; the one source {whole} keeps them apart")

    def note(self, whole: str, root: str, scanned: Scan) -> None:
        """Note what was found in a folder.

        Args:
            whole: The folder that the command line names.
            root: That, or a split in it.
            scanned: What the search came to.
        """
        self._passed[whole] += scanned.passed
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

    def add(self, other: "SearchLog") -> None:
        """Take what another search has to tell."""
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
        for folder, counts in other._passed.items():
            self._passed[folder] += counts

    def passed_over_in(self, root: str) -> str:
        """Describe what was passed over in a folder that holds no image."""
        inside = os.path.join(root, "")
        folders = [folder for folder in self._passed if inside.startswith(os.path.join(folder, ""))]
        passed = sum((self._passed[folder] for folder in folders), Counter[str]())
        below = tuple(os.path.join(folder, "") for folder in folders)
        remedies = list(dict.fromkeys(reason for path, reason in self.unread if path.startswith(below)))
        return "; ".join([f"passed over {_counted(passed)}", *remedies]) if passed else ""

    def passed_over(self) -> str | None:
        """Count what was passed over, by extension; None where nothing was."""
        whole = sum(self._passed.values(), Counter[str]())
        return _counted(whole) if whole else None

    def say(self) -> None:
        """Log it."""
        for line in self.lines():
            log.info("%s", line)

    def lines(self) -> Iterator[str]:
        """Give the notices."""
        yield from dict.fromkeys(self.readings)
        yield from self._about_passed()
        blank = [class_names.form(name) for name in self.blank]
        if blank:
            yield f"blanks around names of splits and groups are left out, as of {messages.shortened(blank, _NAMED)}"
        for names in class_names.alike(self.splits):
            several = ", ".join(map(class_names.form, names))
            yield f"splits that differ in case or form alone: {several}; if they are one, give them one name"
        if self.labels:
            yield from self._about_classes()

    def _about_classes(self) -> Iterator[str]:
        yield from dict.fromkeys(self.depths)
        if self.empty:
            named = ", ".join(f"{folder}{f' ({there})' if there else ''}" for folder, there in self.empty[:_NAMED])
            more = f" and {len(self.empty) - _NAMED} more" if len(self.empty) > _NAMED else ""
            yield f"no image in {named}{more}: {'not a class' if len(self.empty) == 1 else 'not classes'}"
        yield from class_names.about_forms(self.forms)
        yield from class_names.about_missing(self.listed)

    def _about_passed(self) -> Iterator[str]:
        passed = {folder: counts for folder, counts in self._passed.items() if counts}
        parts = []
        if self.by_content:
            kinds = Counter(os.path.splitext(path)[1] for path in self.by_content)
            parts.append(f"read by content, not by name: {_counted(kinds)}, such as {self.by_content[0]}")
        if passed:
            whole = sum(passed.values(), Counter[str]())
            remedies = list(dict.fromkeys(reason for _, reason in self.unread))
            parts.append(
                "; ".join([f"passed over {_counted(whole)} in {messages.shortened(list(passed), 3)}", *remedies])
            )
        if parts:
            yield "; ".join(parts)


def _counted(extensions: Counter[str]) -> str:
    """Count files by extension: "25 .HEIC, 2 .txt, 1 without an extension"."""
    totals: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for extension, count in extensions.items():
        totals[extension.lower()] += count
        shown.setdefault(extension.lower(), extension)
    parts = [f"{count:,} {shown[low] or 'without an extension'}" for low, count in totals.most_common()]
    return messages.shortened(parts, 8)


def _about_depth(root: str, images: list[str]) -> Iterator[str]:
    """Name the classes where most images lie deeper: site1/oak/1.jpg is of the class site1, which may not be what was meant."""
    classes: dict[str, None] = {}
    deeper: dict[str, None] = {}
    deep = 0
    for path in images:
        first = first_folder(path, root)
        if first is None:
            continue
        classes[first] = None
        second = first_folder(path, os.path.join(root, first))
        if second is not None:
            deep += 1
            deeper[second] = None
    if 2 * deep > len(images):
        yield (
            f"{root}: the classes are {messages.shortened(sorted(classes), _NAMED)}, the folders directly in it; for the folders in "
            f"those ({messages.shortened(sorted(deeper), _NAMED)}), give {os.path.join(root, '*', '')} as sources"
        )


T = TypeVar("T")


def said(found: list[T] | Iterator[T], search: SearchLog) -> list[T] | Iterator[T]:
    """Log what people should know of a search: at once where it is done, else when its last image was asked for."""
    if isinstance(found, list):
        search.say()
        return found
    return _then_said(found, search)


def _then_said(coming: Iterator[T], search: SearchLog) -> Iterator[T]:
    yield from coming
    search.say()
