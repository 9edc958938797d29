"""A list of classes: plain text, one a line, in the order of a network's outputs."""

from pathlib import Path

from cnnkit import files
from cnnkit.errors import FormatError


def load(path: str | Path) -> tuple[str, ...]:
    """Read the classes; empty lines are left out.

    Raises:
        FormatError: There is none, or one stands there twice.
    """
    with files.open_text(path) as file:
        text = file.read().decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    labels = tuple(line.strip() for line in text.split("\n") if line.strip())
    if not labels:
        raise FormatError(f"{path}: no labels; expected one a line")
    if len(set(labels)) < len(labels):
        twice = next(label for position, label in enumerate(labels) if label in labels[:position])
        first, second = [number for number, label in enumerate(labels, start=1) if label == twice][:2]
        raise FormatError(f'{path}: "{twice}" is class {first} and class {second}; give them names that differ')
    return labels
