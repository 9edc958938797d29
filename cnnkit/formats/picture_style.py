"""The style of pictures, in one place: colours that colour-blind readers can distinguish, the font, and texts cut to their room."""

import importlib.util
import unicodedata
from functools import cache
from pathlib import Path

from PIL import ImageFont

from cnnkit.messages import printable

#: Text, secondary text, and the background of pictures.
INK, MUTED, PAPER = "#222222", "#666666", "#ffffff"
#: What is wrong or suspect; always with a shape or a word as well. It is dark: also visible as grey.
WRONG = "#a02020"
#: Bars, and the rest of a bar.
BAR, EMPTY = "#3b6ea5", "#e4e4e4"
#: Ten colours that colour-blind readers can distinguish (Petroff 2021, Accessible Color Sequences for Data Visualization).
DISTINCT = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#832db6",
    "#94a4a2",
    "#a96b59",
    "#e76300",
    "#717581",
    "#b9ac70",
    "#92dadd",
)

#: Pixels from one line of text to the next.
LINE_HEIGHT = 16


@cache
def font(size: int = 12) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Load DejaVu Sans, which comes with matplotlib; without matplotlib the font of Pillow, which has Latin letters only.

    Args:
        size: In pixels.
    """
    spec = importlib.util.find_spec("matplotlib")  # its files are found without importing it
    if spec is None or spec.origin is None:
        return ImageFont.load_default(size)
    shipped = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    if not shipped.is_file():  # Linux distributions keep data elsewhere
        import matplotlib as mpl

        shipped = Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(shipped, size)


def shorten(text: str, width: int, *, size: int = 12, keep_end: bool = False) -> str:
    """Shorten a text to a width in pixels, with an ellipsis; tabs and line ends are written as escapes."""
    text = printable(text)
    letters = font(size)
    if letters.getlength(text) <= width:
        return text
    for count in range(len(text) - 1, 0, -1):
        shorter = f"…{text[-count:]}" if keep_end else f"{text[:count]}…"
        if letters.getlength(shorter) <= width:
            return shorter
    return ""


def columns(text: str) -> int:
    """Count the columns of a text in a terminal: letters of Chinese, Japanese and Korean and emoji take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text
    )


def cut(text: str, most: int) -> str:
    """Cut a text of a figure to `most` columns, with an ellipsis; tabs and line ends are written as escapes."""
    text = printable(text[: 4 * most])
    if columns(text) <= most:
        return text
    while columns(text) > most - 1:
        text = text[:-1]
    return f"{text}…"


def cut_all(names: list[str], most: int) -> list[str]:
    """Cut names as `cut`; names that would be the same then keep their end instead of their middle."""
    short = [cut(name, most) for name in names]
    return [
        shown if short.count(shown) == 1 else _without_middle(printable(name), most)
        for name, shown in zip(names, short, strict=True)
    ]


def _without_middle(text: str, most: int) -> str:
    if columns(text) <= most:
        return text
    end = ""
    for letter in reversed(text):
        if columns(letter + end) > most // 2:
            break
        end = letter + end
    return cut(text, most - columns(end)) + end
