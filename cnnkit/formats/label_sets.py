"""Several labels of one image, as the column `labels` of a manifest has them: `cat;indoor`, in any order; empty for none of the labels."""

from collections.abc import Iterable, Sequence

from cnnkit import class_names
from cnnkit.errors import FormatError
from cnnkit.messages import excerpt

#: Separates labels; a class name that contains it cannot be written in the column.
SEPARATOR = ";"


def parse(text: str) -> tuple[str, ...]:
    """Return the labels of a field in normal form, each once, in their order; empty names between separators are ignored."""
    return tuple(dict.fromkeys(filter(None, map(class_names.normal, text.split(SEPARATOR)))))


def joined(labels: Iterable[str]) -> str:
    """Return the field with these labels.

    Raises:
        FormatError: A label contains the separator.
    """
    listed = list(labels)
    odd = next((label for label in listed if SEPARATOR in label), None)
    if odd is not None:
        raise FormatError(
            f'"{excerpt(odd)}" is a label with {SEPARATOR}, which separates the labels of an image; rename it'
        )
    return SEPARATOR.join(listed)


def classes(sets: Iterable[Sequence[str] | None]) -> tuple[str, ...]:
    """Return all labels of some images, sorted."""
    return tuple(sorted({label for labels in sets if labels is not None for label in labels}))
