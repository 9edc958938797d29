"""Pictures that validate though training knows them: the file itself, a copy that cnn-augment made, or others of its group."""

import contextlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnkit.data.replacing import MANIFEST
from cnnkit.data.source import Picture
from cnnkit.errors import FormatError
from cnnkit.formats import tsv

log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class Relatives:
    """Pictures that validate, but that training knows in some form; each stands once, in the first list that it belongs to."""

    same: list[Picture]  # the very file is trained on
    copied: list[Picture]  # an augmented copy of it is, or of what it is a copy of
    grouped: list[Picture]  # others of its group are


def find(train: Sequence[Picture], val: Sequence[Picture]) -> Relatives:
    """Find the pictures of `val` that `train` knows in some form: of them the accuracy tells more than it will be on new ones.

    What cnn-augment made is known by the list that it leaves in its folder.
    """
    if not val:
        return Relatives([], [], [])
    listed: dict[str, dict[str, str]] = {}
    real = [os.path.realpath(picture.path) for picture in train]
    files, groups = set(real), {picture.group for picture in train} - {None}
    originals = {_original(path, listed) for path in real}
    found = Relatives([], [], [])
    for picture in val:
        path = os.path.realpath(picture.path)
        if path in files:
            found.same.append(picture)
        elif _original(path, listed) in originals:
            found.copied.append(picture)
        elif picture.group in groups:
            found.grouped.append(picture)
    return found


def warn_of(known: Relatives) -> None:
    """Say what makes an accuracy flatter that is measured all the same."""
    if known.same:
        log.warning(
            "%s trained on too, such as %s: on them the answers are known",
            _that_validate(known.same, "is", "are"),
            known.same[0].path,
        )
    if known.copied:
        log.warning(
            "%s trained on as augmented copies, such as %s: the accuracy will flatter; augment the training part alone",
            _that_validate(known.copied, "is", "are"),
            known.copied[0].path,
        )
    if known.grouped:
        log.warning(
            "%s to a group that is trained on too, such as %s to %s: the accuracy will flatter; cnn-split keeps groups together",
            _that_validate(known.grouped, "belongs", "belong"),
            known.grouped[0].path,
            known.grouped[0].group,
        )


def _that_validate(pictures: Sequence[Picture], one: str, many: str) -> str:
    return (
        f"1 picture that validates {one}" if len(pictures) == 1 else f"{len(pictures):,} pictures that validate {many}"
    )


def _original(path: str, listed: dict[str, dict[str, str]]) -> str:
    """Name the picture that a file was made of by cnn-augment, or the file itself.

    Args:
        path: Without links.
        listed: By folder, what the list of cnn-augment in it, or above it, says of files; filled as folders are met.
    """
    folder = os.path.dirname(path)
    if folder not in listed:
        above: list[str] = []
        while folder not in listed and not os.path.exists(os.path.join(folder, MANIFEST)):
            above.append(folder)
            if folder == os.path.dirname(folder):
                break
            folder = os.path.dirname(folder)
        if folder not in listed:
            listed[folder] = _sources_of_copies(folder)
        listed |= dict.fromkeys(above, listed[folder])
    return listed[os.path.dirname(path)].get(path, path)


def _sources_of_copies(folder: str) -> dict[str, str]:
    """Read from the list that cnn-augment leaves in a folder which file was made of which; nothing where there is none."""
    file = Path(folder, MANIFEST)
    with contextlib.suppress(FileNotFoundError, FormatError):  # or it is somebody else's
        return {
            os.path.normpath(os.path.join(folder, row["path"])): os.path.realpath(os.path.join(folder, row["source"]))
            for row in tsv.load(file, required=["path", "source"])
        }
    return {}
