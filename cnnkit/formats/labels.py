"""A list of classes: plain text, one per line, in the order of a network's outputs."""

import codecs
import logging
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from cnnkit import files
from cnnkit.errors import FormatError

log = logging.getLogger("cnnkit")


def load(path: str | Path) -> tuple[str, ...]:
    """Read the classes; empty lines are ignored, and a repeated name is numbered, with a notice.

    Raises:
        FormatError: The list is empty, or the file is not UTF-8 text.
    """
    with files.open_text(path) as file:
        content = file.read()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise FormatError(f"{path}: UTF-16; save it as UTF-8")
    text = content.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    labels = tuple(line.strip() for line in text.split("\n") if line.strip())
    if not labels:
        raise FormatError(f"{path}: no labels; expected one per line")
    return numbered(labels, name=str(path))


def note_assumed(name: str, weights: str | Path, classes: Sequence[str]) -> None:
    """Report the classes of a network by name with the weights of a state_dict, which has no class names.

    Args:
        name: The network.
        weights: A file, or "default" or "none": these need no notice.
        classes: The names of its outputs, by `catalogue.class_names`.
    """
    if str(weights) in ("default", "none"):
        return
    if tuple(classes) == tuple(map(str, range(len(classes)))):
        log.info("%s has no class names: its classes are 0 to %d", weights, len(classes) - 1)
    else:
        log.info("%s has no class names: they are those of the default weights of %s", weights, name)


def numbered(labels: Sequence[str], *, name: str) -> tuple[str, ...]:
    """Return distinct labels, with a notice: the second of ImageNet's two cranes becomes "crane 2".

    Args:
        labels: In the order of a network's outputs.
        name: Where they come from, for the notice.
    """
    repeated = [label for label, times in Counter(labels).items() if times > 1]
    if not repeated:
        return tuple(labels)
    taken, seen, different = set(labels), set(), []
    for label in labels:
        if label in seen:
            label = next(each for each in (f"{label} {number}" for number in count(2)) if each not in taken)
            taken.add(label)
        seen.add(label)
        different.append(label)
    log.warning(
        '%s: "%s" is the name of classes %s%s; numbered as %s',
        name,
        repeated[0],
        " and ".join(str(place) for place, label in enumerate(labels, start=1) if label == repeated[0]),
        {1: "", 2: ", and 1 other name is repeated"}.get(
            len(repeated), f", and {len(repeated) - 1} other names are repeated"
        ),
        " and ".join(f'"{new}"' for new, old in zip(different, labels, strict=True) if old == repeated[0]),
    )
    return tuple(different)
