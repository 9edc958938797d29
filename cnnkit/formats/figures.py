"""Figures as files: the file name's ending selects the format, and the same figure gives the same bytes.

The text of an SVG is text, which can be searched and read aloud, in the viewer's fonts. PNG and PDF have the letters of DejaVu Sans, which
are none of Chinese, Japanese and Korean: they are boxes, and a notice says so.
"""

import io
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cnnkit import packages
from cnnkit.errors import UsageError
from cnnkit.formats import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("cnnkit")

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
#: Inches around what is drawn.
_MARGIN = 0.1
#: matplotlib's warning of a letter that its font lacks.
_MISSING = re.compile(r"Glyph (\d+) ")
_MOST_LETTERS = 8


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
    with (
        mpl.rc_context({"svg.hashsalt": "cnnkit", "svg.fonttype": "none"}),
        warnings.catch_warnings(record=True) as raised,
    ):
        warnings.filterwarnings("always", message=_MISSING.pattern)
        figure = draw()
        figure.savefig(
            drawn,
            format=kind,
            dpi=DPI,
            bbox_inches="tight",
            pad_inches=_MARGIN + (_wide_letters(figure) if kind == "svg" else 0),
            metadata=_CHANGING[f".{kind}"],
        )
    _report(path, kind, raised)
    with atomic.writing(path) as file:
        file.write(drawn.getvalue())


def _wide_letters(figure: "Figure") -> float:
    """Return the inches that letters of a viewer's font may need besides what is measured with DejaVu Sans."""
    from matplotlib.text import Text

    from cnnkit.formats import picture_style  # with Pillow, which a wrong ending should not wait for

    texts = (text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible())
    return max(
        (
            max(0, picture_style.columns(text.get_text()) - len(text.get_text()))
            * float(text.get_fontsize())
            * 0.4
            / 72
            for text in texts
        ),
        default=0.0,
    )


def _report(path: str | Path, kind: str, raised: list[warnings.WarningMessage]) -> None:
    """Say in one line which letters are boxes; other warnings are raised again."""
    missing: dict[str, None] = {}
    for each in raised:
        if found := _MISSING.match(str(each.message)):
            missing[chr(int(found[1]))] = None
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if missing and kind != "svg":
        letters = "".join(missing)
        log.info(
            "%s: the font of pictures, DejaVu Sans, lacks %s; boxes are drawn instead. A file that ends in .svg has them",
            path,
            letters if len(letters) <= _MOST_LETTERS else f"{letters[:_MOST_LETTERS]}… ({len(letters)} letters)",
        )
