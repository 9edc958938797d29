"""Figures as files: the ending names the format, and the same figure gives the same bytes."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cnnkit.errors import UsageError
from cnnkit.formats import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The formats, each with the metadata to leave out so that the same figure gives the same bytes.
_CHANGING: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
_DPI = 150


def check(path: str | Path) -> str:
    """Give the format that a path's ending names, without loading matplotlib.

    Raises:
        UsageError: It is none of .png, .svg and .pdf.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _CHANGING:
        raise UsageError(f"{path}: the ending names the format of the picture; use one of {', '.join(_CHANGING)}")
    return suffix[1:]


def save(path: str | Path, draw: "Callable[[], Figure]") -> None:
    """Draw a figure into a file, in one step, cut to what is drawn.

    Args:
        path: Its ending names the format: .png, .svg or .pdf.
        draw: Makes the figure; not called where the path will not do.

    Raises:
        UsageError: Another format.
        OSError: The file cannot be written.
    """
    kind = check(path)
    import matplotlib as mpl  # here, so that a wrong ending is refused at once

    drawn = io.BytesIO()  # matplotlib seeks, which a pipe cannot
    with mpl.rc_context({"svg.hashsalt": "cnnkit"}):
        figure = draw()
        figure.savefig(drawn, format=kind, dpi=_DPI, bbox_inches="tight", metadata=_CHANGING[f".{kind}"])
    with atomic.writing(path) as file:
        file.write(drawn.getvalue())
