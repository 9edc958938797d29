"""Where an interrupted extraction stopped: rows that are on disk, held against pictures that come."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from cnnkit.data import preprocess as preparing
from cnnkit.data.source import Picture
from cnnkit.engine.runner import Skip
from cnnkit.errors import BadPicture, UsageError
from cnnkit.formats import features
from cnnkit.formats.header import Preprocess
from cnnkit.formats.manifest import Row
from cnnkit.infer.views import Views, rows_of

log = logging.getLogger("cnnkit")


def bad_of_finished(
    writer: features.Writer, pictures: Sequence[Picture], *, preprocess: Preprocess, views: Views | None
) -> list[tuple[str, str]] | None:
    """Find out whether an earlier run was through with these very pictures.

    Returns:
        The pictures that it had to leave out, with their reasons; None if there is something to do.
    """
    listed = writer.finished() or []
    at = 0
    bad: list[tuple[str, str]] = []
    for picture in pictures:
        rows = rows_of(picture, writer.path.parent, views)
        if listed[at : at + len(rows)] == rows:
            at += len(rows)
        elif (reason := _flaw(picture, preprocess)) is not None:
            bad.append((picture.path, reason))
        else:
            return None
    return bad if at == len(listed) and len(bad) < len(pictures) else None


def _flaw(picture: Picture, preprocess: Preprocess) -> str | None:
    """Say why a picture cannot be used, if it cannot."""
    try:
        preparing.load(picture.path, preprocess)
    except BadPicture as error:
        return str(error)
    return None


def after(
    pictures: Iterable[Picture],
    done: Sequence[Row],
    output: Path,
    *,
    preprocess: Preprocess,
    views: Views | None,
    skip: Skip,
) -> tuple[Iterable[Picture], int, int]:
    """Find where an interrupted run stopped, naming again the pictures that it had skipped.

    Returns:
        The pictures that are left, how many were passed, and how many views of the first that is left are done.

    Raises:
        UsageError: The pictures are not those that the run began with.
    """
    if not done:
        return pictures, 0, 0
    coming: Iterator[Picture] = iter(pictures)
    passed = at = 0
    for picture in coming:
        passed += 1
        rows = rows_of(picture, output.parent, views)
        here = list(done[at : at + len(rows)])
        if here != rows[: len(here)]:
            reason = _flaw(picture, preprocess)
            if reason is None:
                raise _other_pictures(output, done[at], rows[0])
            skip(picture.path, reason)
            continue
        at += len(here)
        if at == len(done):
            break
    else:
        raise _other_pictures(output, done[at], None)
    log.info("going on after %d rows", len(done))
    begun = len(here) % len(rows)  # the last batch may have ended in the middle of a picture
    if begun and _flaw(picture, preprocess) is not None:
        raise _other_pictures(output, done[-1], None)
    if begun:
        passed, coming = passed - 1, chain([picture], coming)
    return pictures[passed:] if isinstance(pictures, Sequence) else coming, passed, begun


def _other_pictures(output: Path, expected: Row, found: Row | None) -> UsageError:
    now = "nothing" if found is None else found.path if found.path != expected.path else "another label, part or group"
    return UsageError(
        f"{output}: this run began with other pictures: {expected.path} came next then, now it is {now}; begin anew without --resume"
    )
