r"""Paths in tables and lists of other programs: backslashes, spaces around a path, and labels after it.

A backslash is an escape in cnnkit's TSV and a separator in Windows paths: see `Backslashes`.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator

from cnnkit import files, messages
from cnnkit.errors import FormatError
from cnnkit.formats import text_lines, tsv

log = logging.getLogger("cnnkit")

#: A line of a list without a header row, separated by spaces: cats/1.jpg 3
PATH_AND_LABEL = re.compile(r"\S.*\.[A-Za-z][A-Za-z0-9]{2,3} +[^\s.]+")

#: A field of cnnkit's TSV: every backslash begins an escape.
_ESCAPED = re.compile(r'(\\")?([^\\]|\\[\\tnr])*')


def read_paths(lines: Iterable[bytes], *, name: str, folder: str = ".") -> Iterator[str]:
    """Yield the paths of a list, one per line, without a header row; blank lines are ignored.

    Raises:
        FormatError: It is not text.
    """
    backslashes = Backslashes(name, folder)
    checked = False
    for text in text_lines.decoded(lines, name):
        if text.strip():
            if not checked:
                check_path(text, name=name, folder=folder)
                checked = True
            yield backslashes.path(text, written=text, sure=True)


def check_path(text: str, *, name: str, folder: str = ".") -> None:
    """Check that the first line of a list of paths is only a path, without a label or anything else after it.

    Raises:
        FormatError: The path without the rest exists, or the line is a file name and a label separated by spaces, as in ImageNet's lists.
    """
    path = re.split(r"[\t,;]| +(?=[^ ]+$)", text, maxsplit=1)[0]
    if path == text or _exists(folder, text):
        return
    there = _exists(folder, path)
    if there or PATH_AND_LABEL.fullmatch(text):
        raise FormatError(f"{name}: {about_path_and_label(text, name)}{'' if there else _about_missing(path, folder)}")


def about_path_and_label(text: str, name: str) -> str:
    """Describe the remedy for a list that has a label, or more, after each path."""
    line = f'"{messages.excerpt(text)}" has more than a path'
    if PATH_AND_LABEL.fullmatch(text) and not re.search(r"[\t,;]", text):
        edit = r"s/ +([^ ]+)$/\t\1/; 1i path\tlabel"
        # In the same folder, which its paths are relative to
        table = messages.shell_word(os.path.join(files.folder_of(name), "labels.tsv"))
        return f"{line}; to make a table with labels: sed -E '{edit}' {messages.shell_word(name)} > {table}"
    return f"{line}; a list has one path per line, and a table with labels starts with a header row such as path,label"


def _about_missing(path: str, folder: str) -> str:
    seen = "the current folder" if folder == "." else f"{folder}/, where the list is"
    return f"; paths are relative to {seen}, and {messages.excerpt(path)} is not there"


def _exists(folder: str, path: str) -> bool:
    try:
        return bool(path) and files.exists(os.path.join(folder, path))
    except ValueError:  # a name that no file system accepts
        return False


class Backslashes:
    r"""Decide what a backslash means in a table and in a path.

    cnnkit's TSV has `\\` for a backslash, `\t` for a tab, `\n` or `\r` for a line end. A field with any other backslash shows that
    another program wrote the table, whose backslashes are literal. `train\new\1.jpg` is ambiguous: it is read as whichever file exists;
    if neither does, as a Windows path if the lines end with CR LF, and otherwise as cnnkit's TSV.

    A path of another program with backslashes that does not exist is a Windows path, and is read with slashes.
    """

    def __init__(self, name: str, folder: str) -> None:
        self._name, self._folder = name, folder
        self._notified = False
        self.foreign = False
        self._leaning = False  # towards Windows paths, if nothing else decides

    def watching(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield lines unchanged, and note whether they end with CR LF."""
        for line in lines:
            self.note_end(line)
            yield line

    def note_end(self, line: bytes) -> None:
        """Note whether a line ends with CR LF."""
        self._leaning |= line.endswith(b"\r\n")

    def look_ahead(self, lines: Iterable[bytes]) -> None:
        """Detect fields that cnnkit's TSV cannot have."""
        fields = (
            field
            for line in lines
            if b"\\" in line
            for field in line.decode("utf-8", "surrogateescape").rstrip("\r\n").split("\t")
        )
        self.foreign = not all(_ESCAPED.fullmatch(field) for field in fields)

    def field(self, written: str) -> str:
        """Read an unquoted field between tabs."""
        if not self.foreign:
            self.foreign = not _ESCAPED.fullmatch(written)
        return written if self.foreign else tsv.unescape(written)

    def path(self, read: str, *, written: str, sure: bool = False) -> str:
        """Return the path that a field means.

        Args:
            read: The field after escapes are resolved.
            written: The field as written in the table.
            sure: Another program wrote the table.
        """
        if "\\" not in written or _exists(self._folder, read):
            return read
        meant = written.replace("\\\\", "\\").replace("\\", "/").strip('"')
        if not (sure or self.foreign):
            escaped = any(letter in read for letter in "\t\n\r")
            could_be = escaped or read == written  # otherwise all are doubled, as cnnkit writes them
            if not (could_be and (_exists(self._folder, meant) or (self._leaning and escaped))):
                if escaped:
                    self._notify(
                        "%s: %s is read with tabs or line ends; if it is a Windows path, write %s", written, meant
                    )
                return read
        self._notify("%s: Windows paths: %s is read as %s", written, meant)
        return meant

    def without_blanks(self, read: str) -> str:
        """Remove spaces around a path, if only the path without them exists."""
        stripped = read.strip()
        if _exists(self._folder, read) or not _exists(self._folder, stripped):
            return read
        self._notify('%s: spaces around paths are ignored, as in "%s"%.0s', read, stripped)
        return stripped

    def _notify(self, message: str, written: str, meant: str) -> None:
        """Log a notice about the first such path."""
        if not self._notified:
            self._notified = True
            log.info(message, self._name, messages.excerpt(written), messages.excerpt(meant))
