"""The style of pictures, in one place: colours that colour-blind readers can distinguish, written and cut texts, titles, scales, marks."""

import unicodedata

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cnnkit.formats import fonts
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


def length(text: str, *, size: int = 12, latin: bool = False) -> float:
    """Return the width of a text in pixels, in the fonts that have its letters."""
    return sum(letters.getlength(part) for part, letters in fonts.runs(text, size=size, latin=latin))


def write(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    *,
    fill: str = INK,
    size: int = 12,
    latin: bool = False,
    right: bool = False,
) -> None:
    """Write a text; letters that `fonts.font` lacks are in a font of the system that has them, on the same baseline.

    Its parts go from left to right, as in a path whose folder has a name in Hebrew or Arabic.

    Args:
        pen: Of the picture.
        place: The upper left corner of the text, or with `right` the upper right one.
        text: One line.
        fill: Its colour.
        size: In pixels.
        latin: As `fonts.font`.
        right: The text ends at `place`.
    """
    parts = fonts.runs(text, size=size, latin=latin)
    base = fonts.font(size, latin=latin)
    if all(letters is base for _, letters in parts) or not isinstance(base, ImageFont.FreeTypeFont):
        order = None if text.isascii() else fonts.direction(base)
        pen.text(place, text, fill=fill, font=base, anchor="ra" if right else None, direction=order)
        return
    left, baseline = place[0], place[1] + base.getmetrics()[0]
    if right:
        left -= length(text, size=size, latin=latin)
    for part, letters in parts:
        pen.text((left, baseline), part, fill=fill, font=letters, anchor="ls", direction=fonts.direction(letters))
        left += letters.getlength(part)


def shorten(text: str, width: int, *, size: int = 12, keep_end: bool = False, latin: bool = False) -> str:
    """Shorten a text to a width in pixels, with an ellipsis; tabs and line ends are written as escapes."""
    text = printable(text)
    if length(text, size=size, latin=latin) <= width:
        return text
    for count in range(len(text) - 1, 0, -1):
        shorter = f"…{text[-count:]}" if keep_end else f"{text[:count]}…"
        if length(shorter, size=size, latin=latin) <= width:
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


# ---------------------------------------------------------------- around images

_EDGE = 4
#: The size of the gradient of a colour scale, in pixels.
_GRADIENT = (160, 10)


#: The height of a title with its margins.
TITLE_HEIGHT = LINE_HEIGHT + _EDGE


def titled(image: Image.Image, title: str, *, margin: int = _EDGE, latin: bool = False) -> Image.Image:
    """Write a line above an image, `margin` pixels from its left edge, in a font as `fonts.font`; it is cut to the image's width."""
    sheet = Image.new("RGB", (image.width, image.height + TITLE_HEIGHT), PAPER)
    sheet.paste(image, (0, TITLE_HEIGHT))
    words = shorten(title, image.width - 2 * margin, latin=latin)
    write(ImageDraw.Draw(sheet), (margin, _EDGE), words, latin=latin)
    return sheet


def with_scale(
    image: Image.Image, palette: NDArray[np.uint8], *, low: str, high: str, margin: int = _EDGE, latin: bool = False
) -> Image.Image:
    """Draw the scale of a colour map below an image, which becomes wider if the scale has no room.

    Args:
        image: Any image.
        palette: (256, 3), the first colour on the left.
        low: What the first colour stands for.
        high: What the last colour stands for.
        margin: Pixels to the left of the scale.
        latin: As `fonts.font`.
    """
    before, after = (round(length(text, latin=latin)) for text in (low, high))
    width = 2 * margin + before + _GRADIENT[0] + after + 4 * _EDGE
    sheet = Image.new("RGB", (max(image.width, width), image.height + LINE_HEIGHT + 2 * _EDGE), PAPER)
    sheet.paste(image, (0, 0))
    pen = ImageDraw.Draw(sheet)
    top, left = image.height + _EDGE, margin + before + 2 * _EDGE
    write(pen, (margin, top), low, latin=latin)
    colours = Image.fromarray(palette[None]).resize(_GRADIENT, Image.Resampling.NEAREST)
    sheet.paste(colours, (left, top + (LINE_HEIGHT - _GRADIENT[1]) // 2))
    write(pen, (left + _GRADIENT[0] + 2 * _EDGE, top), high, latin=latin)
    return sheet


#: The width of the frame of a mistake, and the diameter of its mark.
FRAME, _MARK = 3, 22


def mark_mistake(sheet: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Frame an image on a sheet, and put a cross in a disc on its upper left corner: visible by its shape, whatever colours a reader sees.

    Args:
        sheet: Is changed.
        box: The edges of the image on it: left, top, right, bottom.
    """
    left, top, right, bottom = box
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((left - FRAME, top - FRAME, right + FRAME - 1, bottom + FRAME - 1), outline=WRONG, width=FRAME)
    pen.ellipse((left, top, left + _MARK, top + _MARK), fill=WRONG, outline=PAPER)
    inner = 7
    near, far = (left + inner, top + inner), (left + _MARK - inner, top + _MARK - inner)
    pen.line((*near, *far), fill=PAPER, width=2)
    pen.line((near[0], far[1], far[0], near[1]), fill=PAPER, width=2)
