"""Input: images named on the command line, and files or standard input."""

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
    opens: bool = True,
    hashes: bool = False,
    aloud: bool = True,
) -> "Iterable[ImageFile]":
    """Find the images named on the command line.

    Args:
        sources: Images, folders, manifests, or `-`; by default standard input, unless that is a terminal.
        split: Keep only this split.
        null: The list on standard input is separated by NUL.
        folders: What the folders in a folder are; by default this follows from their names.
        search: Collects what the notices report about the search.
        labels: The command needs labels; otherwise the notices do not mention classes.
        opens: The command opens the images, so a manifest of which none is found is an error.
        hashes: The command uses the hashes in manifests, and a notice reports what is not a hash.
        aloud: Log the notices.

    Returns:
        A sequence, or for standard input a lazy iterator.

    Raises:
        UsageError: There is no source.
        CnnkitError: A source does not exist or has no image.
    """
    from cnnkit.data import search_log, source

    if not sources:
        refuse_terminal("an image, a folder or a manifest", "a list")
    listing = current().listing
    listed = (listing or stdin()) if "-" in (sources or ["-"]) else None
    heard = search_log.SearchLog(labels=labels) if search is None else search
    heard.opens, heard.hashes = opens, hashes
    heard.unread = current().passed_over
    found = source.find(
        sources or ["-"],
        split=split,
        stdin=listed,
        null=null,
        folders=folders,
        search=heard,
        listed_in="standard input" if listing is None else listing.name,
    )
    if listing is not None and listing.seekable():
        found = list(found)  # the file is complete, so that their number is known
    return search_log.said(found, heard) if aloud else found


def model_and_arguments(named: str | None, words: Sequence[str | None], *, usage: str) -> list[str]:
    """Return the model and the other arguments of a command whose model is its first argument or the value of -m.

    Args:
        named: The value of -m.
        words: The arguments.
        usage: Their names, the model first.

    Raises:
        UsageError: One is missing, or the model is given twice.
    """
    given = [word for word in (named, *words) if word is not None]
    if len(given) < len(words):
        raise UsageError(f"arguments are missing; give {usage}, or -m {usage}")
    if len(given) > len(words):
        raise UsageError(f"two models are given, {words[0]} and -m {named}; drop one of them")
    return given


def stdin() -> BinaryIO:
    """Return standard input as bytes.

    Raises:
        UsageError: It is a device such as /dev/zero, which has no end.
    """
    with contextlib.suppress(OSError, ValueError):  # no descriptor, in tests
        opened = os.fstat(sys.stdin.fileno())
        if stat.S_ISCHR(opened.st_mode) and not sys.stdin.isatty() and opened.st_rdev != os.stat(os.devnull).st_rdev:
            raise UsageError("standard input is a device without an end; pipe a list or a table in")
    return sys.stdin.buffer


@contextlib.contextmanager
def reading(path: Path | None, what: str) -> Generator[tuple[BinaryIO, str]]:
    """Open the file named on the command line, or standard input for `-` or no name.

    Args:
        path: The word on the command line.
        what: What is read, for messages: "predictions".

    Yields:
        The bytes, and a name for messages.

    Raises:
        UsageError: No path is given, and standard input is a terminal.
        OSError: The file cannot be opened.
    """
    if path is not None and str(path) != "-":
        with files.open_text(path) as file:
            yield file, str(path)
        return
    if path is None:
        refuse_terminal(f"a file of {what}", "it")
    yield stdin(), "standard input"


def reading_each(paths: Sequence[Path] | None, what: str) -> Iterator[tuple[BinaryIO, str]]:
    """Open the files named on the command line one after the other, or standard input if there are none.

    Args, Raises as `reading`.

    Yields:
        The bytes of each, open until the next one is requested, and a name for messages.
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
    """Return the truth named on the command line; without one, an image's class is the name of its folder.

    Args:
        source: The word on the command line.
        predictions: The files of predictions: standard input can be read only once.
        split: Keep only this split.
        complete: Every image of the truth must have a prediction.
        folders: As `images`.

    Raises:
        UsageError: Options that need a truth, without one; standard input more than once; or the same file for both.
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
                raise UsageError(f"{path} is given both as predictions and as truth; pass a manifest with --truth")
        name = f"{source} ({split})" if split is not None else source
        found = images([source], split=split, folders=folders, opens=False)

        from cnnkit.data.source import margin

        again = split is not None and source != "-" and not files.is_handed_over(source)
        return matching.Truth(
            found,
            name=name,
            widened=margin() > 0,
            all_splits=(lambda: images([source], folders=folders, opens=False, aloud=False)) if again else None,
        )
    named = truth_options(None, split=split, folders=folders) | {"--complete": complete}
    if unused := [option for option, used in named.items() if used]:
        needs = "need" if len(unused) > 1 else "needs"
        raise UsageError(f"{' and '.join(unused)} {needs} a list of images; pass one with --truth")
    return matching.FolderTruth()


def truth_options(source: str | None, *, split: str | None, folders: FolderReading | None) -> dict[str, bool]:
    """Return which options of `truth` are given, by name, for a mode that reads no labels."""
    from cnnkit.data.source import margin

    return {
        "--truth": source is not None,
        "--split": split is not None,
        "--folders": folders is not None,
        "--margin": margin() > 0,
    }


def refuse_terminal(what: str, piped: str) -> None:
    """Raise an error rather than wait for input from a terminal.

    Raises:
        UsageError: Standard input is a terminal.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(f"no source given and standard input is a terminal; name {what}, or pipe {piped} in")
