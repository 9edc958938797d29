"""Figures as files: the file name's ending selects the format, and the same figure gives the same bytes."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cnnkit import packages
from cnnkit.errors import UsageError
from cnnkit.formats import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The formats by ending, each with the metadata to omit so that the same figure gives the same bytes.
_CHANGING: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
#: The endings of the names of figures.
ENDINGS = tuple(_CHANGING)
#: Resolution of figures, in pixels per inch.
DPI = 150


def check(path: str | Path) -> str:
    """Return the format that a path's ending selects, without loading matplotlib.

    Raises:
        UsageError: It is not .png, .svg or .pdf.
        MissingPackageError: matplotlib is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in ENDINGS:
        *others, last = ENDINGS
        raise UsageError(f"{path}: unknown format; give it a name that ends in {', '.join(others)} or {last}")
    packages.demand("matplotlib", what=str(path))
    return suffix[1:]


def save(path: str | Path, draw: "Callable[[], Figure]") -> None:
    """Draw a figure and write it to a file in one step, cropped to what is drawn.

    Args:
        path: Its ending selects the format: .png, .svg or .pdf.
        draw: Makes the figure; not called if the format is unknown.

    Raises:
        UsageError: Another format.
        OSError: The file cannot be written.
    """
    kind = check(path)
    import matplotlib as mpl  # after the check, so that a wrong ending is refused at once

    drawn = io.BytesIO()  # matplotlib seeks, which a pipe does not allow
    with mpl.rc_context({"svg.hashsalt": "cnnkit"}):
        figure = draw()
        figure.savefig(drawn, format=kind, dpi=DPI, bbox_inches="tight", metadata=_CHANGING[f".{kind}"])
    with atomic.writing(path) as file:
        file.write(drawn.getvalue())
