"""Figures as files: the file name's ending selects the format, and the same figure gives the same bytes.

The text of an SVG is text, which can be searched and read aloud, in the viewer's fonts. PNG and PDF have the letters of DejaVu Sans, and
those that it lacks from a font of the system; where no font has them they are boxes, and a notice says so.
"""

import io
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cnnkit import packages
from cnnkit.errors import UsageError
from cnnkit.formats import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

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
#: matplotlib's warning of a letter that its fonts lack, which is reported in one line of our own.
_MISSING = r"Glyph \d+ "


def check(path: str | Path) -> str:
    """Check the name of a figure before anything slow, without loading matplotlib; return the format that its ending selects.

    Raises:
        UsageError: It is not .png, .svg or .pdf.
        MissingPackageError: matplotlib is not installed.
        CnnkitError: Its folder does not exist.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in ENDINGS:
        *others, last = ENDINGS
        raise UsageError(f"{path}: unknown format; give it a name that ends in {', '.join(others)} or {last}")
    packages.demand("matplotlib", what=str(path))
    atomic.check_folder(Path(path))
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
    with mpl.rc_context({"svg.hashsalt": "cnnkit", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_MISSING)
        figure = draw()
        texts = _texts(figure)
        if kind != "svg":
            _add_fonts(texts)
        figure.savefig(
            drawn,
            format=kind,
            dpi=DPI,
            bbox_inches="tight",
            pad_inches=_MARGIN + (_wide_letters(texts) if kind == "svg" else 0),
            metadata=_CHANGING[f".{kind}"],
        )
    with atomic.writing(path) as file:
        file.write(drawn.getvalue())
    if kind != "svg":
        from cnnkit.formats import fonts

        fonts.report_missing(path, (text.get_text() for text in texts))


def _texts(figure: "Figure") -> "list[Text]":
    from matplotlib.text import Text

    return [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible()]


def _add_fonts(texts: "list[Text]") -> None:
    """Give texts the fonts of the system that have the letters which their font lacks; other texts stay as they are."""
    from cnnkit.formats import fonts

    for text in texts:
        if files := fonts.fallbacks(text.get_text()):
            text.set_fontfamily([*text.get_fontfamily(), *map(_family, files)])


@cache
def _family(file: str) -> str:
    """Make a font known to matplotlib, and return the name of its family."""
    from matplotlib import font_manager

    font_manager.fontManager.addfont(file)
    return font_manager.get_font(file).family_name


def _wide_letters(texts: "list[Text]") -> float:
    """Return the inches that letters of a viewer's font may need besides what is measured with DejaVu Sans."""
    from cnnkit.formats import picture_style  # with Pillow, which a wrong ending should not wait for

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
