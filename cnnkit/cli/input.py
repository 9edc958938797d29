"""What comes in: images by the words of the command line, and files or standard input."""

import contextlib
import os
import stat
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cnnkit import files
from cnnkit.choices import FolderReading
from cnnkit.cli.invocation import current
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    from cnnkit.data.search_log import SearchLog
    from cnnkit.data.source import ImageFile
    from cnnkit.evaluation.matching import FolderTruth, Truth


def images(
    sources: list[str] | None,
    *,
    split: str | None = None,
    null: bool = False,
    folders: FolderReading | None = None,
    search: "SearchLog | None" = None,
    labels: bool = True,
    aloud: bool = True,
) -> "Iterable[ImageFile]":
    """Find the images that the words on the command line name.

    Args:
        sources: Images, folders, manifests, or `-`; without any, standard input, unless that is a terminal.
        split: Keep this split alone.
        null: The list on standard input is separated by NUL.
        folders: What the folders in a folder are; by default their names say.
        search: Hears what the notices say of the search.
        labels: They matter to the command; else the notices do not speak of classes.
        aloud: Log the notices.

    Returns:
        A sequence, or for standard input an iterator that reads as it is asked.

    Raises:
        UsageError: There is no source.
        CnnkitError: A source does not exist or holds no image.
    """
    from cnnkit.data import search_log, source

    if not sources:
        refuse_terminal("a picture, a folder or a manifest", "a list")
    listed = stdin() if "-" in (sources or ["-"]) else None
    heard = search_log.SearchLog(labels=labels) if search is None else search
    heard.unread = current().passed_over
    found = source.find(sources or ["-"], split=split, stdin=listed, null=null, folders=folders, search=heard)
    return search_log.said(found, heard) if aloud else found


def stdin() -> BinaryIO:
    """Give standard input as bytes.

    Raises:
        UsageError: It is a device like /dev/zero, which has neither lines nor an end.
    """
    with contextlib.suppress(OSError, ValueError):  # no descriptor: a test's
        opened = os.fstat(sys.stdin.fileno())
        if stat.S_ISCHR(opened.st_mode) and not sys.stdin.isatty() and opened.st_rdev != os.stat(os.devnull).st_rdev:
            raise UsageError("standard input is a device that has no end; pipe a list or a table in")
    return sys.stdin.buffer


@contextlib.contextmanager
def reading(path: Path | None, what: str) -> Generator[tuple[BinaryIO, str]]:
    """Open the file that the command line names, or standard input for `-` and for none.

    Args:
        path: The word on the command line.
        what: What is asked for, for messages: "predictions".

    Yields:
        The bytes, and a name for messages.

    Raises:
        UsageError: There is no path, and standard input is a terminal.
        OSError: The file cannot be opened.
    """
    if path is not None and str(path) != "-":
        with files.open_text(path) as file:
            yield file, str(path)
        return
    if path is None:
        refuse_terminal(f"a file of {what}", "them")
    yield stdin(), "standard input"


def reading_each(paths: Sequence[Path] | None, what: str) -> Iterator[tuple[BinaryIO, str]]:
    """Open the files that the command line names, one after the other; without any, standard input.

    Args, Raises as `reading`.

    Yields:
        The bytes of each, open until the next is asked for, and a name for messages.
    """
    named: Sequence[Path | None] = paths or [None]
    for path in named:
        with reading(path, what) as opened:
            yield opened


def truth(
    source: str | None,
    *,
    predictions: Sequence[Path] | None,
    split: str | None = None,
    complete: bool = False,
    folders: FolderReading | None = None,
) -> "Truth | FolderTruth":
    """Take the truth that the command line names; without one, an image's class is the name of its folder.

    Args:
        source: The word on the command line.
        predictions: Those of the predictions, since standard input can be read once.
        split: Keep this split alone.
        complete: Every image of the truth will have to be predicted.
        folders: As `images`.

    Raises:
        UsageError: Words that need a truth, without one; standard input asked for more than once; or one file for both.
        CnnkitError: The source does not exist, or has no labels.
    """
    from cnnkit.evaluation import matching

    if [*map(str, predictions or [Path("-")]), source].count("-") > 1:
        raise UsageError(
            "predictions and truth cannot both come from standard input"
            if source == "-"
            else "standard input (-) can be read once"
        )
    if source is not None:
        for path in predictions or []:
            if os.path.isfile(source) and path.is_file() and os.path.samefile(source, path):
                raise UsageError(f"{path} is given as predictions and as their truth; name a manifest with --truth")
        name = f"{source} ({split})" if split is not None else source
        return matching.Truth(images([source], split=split, folders=folders), name=name)
    if split is not None or complete or folders is not None:
        raise UsageError("--split, --folders and --complete speak of a list of pictures; give one with --truth")
    return matching.FolderTruth()


def refuse_terminal(what: str, piped: str) -> None:
    """Ask for a source rather than wait for words that somebody would have to type.

    Raises:
        UsageError: Standard input is a terminal.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(f"no source given and standard input is a terminal; name {what}, or pipe {piped} in")
