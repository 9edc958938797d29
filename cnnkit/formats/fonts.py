"""The fonts of pictures: DejaVu Sans, and fonts of the system for letters that it lacks, such as those of Chinese.

A picture whose letters are all in DejaVu Sans has the same bytes whatever fonts are installed.
"""

import importlib.util
import logging
import unicodedata
from collections.abc import Iterable
from functools import cache
from itertools import groupby
from pathlib import Path

from PIL import ImageFont

log = logging.getLogger("cnnkit")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

#: Files of fonts with many letters, the preferred ones first; Pillow searches the folders of the system for them.
_OF_SYSTEMS = (
    # Linux
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJK-VF.ttc",
    "NotoSansCJKjp-Regular.otf",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansCJKkr-Regular.otf",
    "SourceHanSans-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "ipaexg.ttf",
    "ipag.ttf",
    "NanumGothic.ttf",
    "NotoSansThai-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansBengali-Regular.ttf",
    "NotoSansTamil-Regular.ttf",
    "NotoSansTelugu-Regular.ttf",
    "NotoEmoji-Regular.ttf",
    "NotoSansSymbols2-Regular.ttf",
    "FreeSans.ttf",
    "Symbola_hint.ttf",
    "unifont.otf",
    # macOS
    "Arial Unicode.ttf",
    "ヒラギノ角ゴシック W3.ttc",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    # Windows
    "YuGothM.ttc",
    "msgothic.ttc",
    "msyh.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
    "LeelawUI.ttf",
    "seguisym.ttf",
    "seguiemj.ttf",
)
#: No font has a glyph of this code point.
_NO_LETTER = "\U0010ffff"
_MOST_LETTERS = 8


def _shipped() -> str | None:
    """Return the file of DejaVu Sans that comes with matplotlib, or None without matplotlib."""
    spec = importlib.util.find_spec("matplotlib")  # its files are found without importing it
    if spec is None or spec.origin is None:
        return None
    shipped = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    if not shipped.is_file():  # Linux distributions keep data elsewhere
        import matplotlib as mpl

        shipped = Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return str(shipped)


@cache
def font(size: int = 12, *, latin: bool = False) -> Font:
    """Load DejaVu Sans, which comes with matplotlib; without matplotlib the font of Pillow, which has Latin letters only.

    Args:
        size: In pixels.
        latin: The font of Pillow in any case, for texts that need no other letters: the same bytes with and without matplotlib.
    """
    shipped = None if latin else _shipped()
    return ImageFont.load_default(size) if shipped is None else ImageFont.truetype(shipped, size)


@cache
def _fallback(place: int, size: int) -> ImageFont.FreeTypeFont | None:
    """Load a font of the list, or None if this system has no such file; the first is DejaVu Sans."""
    name = [_shipped() or "DejaVuSans.ttf", *_OF_SYSTEMS][place]
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@cache
def _has(letters: Font, letter: str) -> bool:
    """Return whether a font has a letter: another glyph than that of a code point without letter; controls need none."""
    return not letter.isprintable() or bytes(letters.getmask(letter)) != bytes(letters.getmask(_NO_LETTER))


@cache
def _of_letter(letter: str, size: int, *, latin: bool) -> Font | None:
    """Return the first font that has a letter, or None."""
    if _has(font(size, latin=latin), letter):
        return font(size, latin=latin)
    others = (_fallback(place, size) for place in range(1 + len(_OF_SYSTEMS)))
    return next((other for other in others if other is not None and _has(other, letter)), None)


def forget() -> None:
    """Search the fonts of the system again."""
    for each in (_fallback, _has, _of_letter):
        each.cache_clear()


def runs(text: str, *, size: int = 12, latin: bool = False) -> list[tuple[str, Font]]:
    """Divide a text into parts of one font each; letters of no font stay in that of `font`, as boxes."""
    base = font(size, latin=latin)
    if text.isascii():
        return [(text, base)]
    chosen, last = [], base
    for letter in text:
        if not _joins(letter):
            last = _of_letter(letter, size, latin=latin) or base
        chosen.append((last, letter))
    return [("".join(letter for _, letter in part), found) for found, part in groupby(chosen, key=lambda pair: pair[0])]


def _joins(letter: str) -> bool:
    """Return whether a character is drawn with the letter before it: vowel signs, accents, variation selectors."""
    return unicodedata.category(letter).startswith("M")


def direction(letters: Font) -> str | None:
    """Return the direction of texts: left to right, with Hebrew and Arabic words in theirs; None where Pillow cannot order words."""
    orders = isinstance(letters, ImageFont.FreeTypeFont) and letters.layout_engine == ImageFont.Layout.RAQM
    return "ltr" if orders else None


def fallbacks(text: str) -> list[str]:
    """Return the files of fonts of the system that a text needs besides DejaVu Sans."""
    found = (each for _, each in runs(text) if each is not font())
    return list(dict.fromkeys(str(each.path) for each in found if isinstance(each, ImageFont.FreeTypeFont)))


def report_missing(path: str | Path, texts: Iterable[str]) -> None:
    """Say in one line which letters are boxes in a picture, and what to install."""
    letters_of_all = (letter for letter in dict.fromkeys("".join(texts)) if not _joins(letter))
    missing = [letter for letter in letters_of_all if _of_letter(letter, 12, latin=False) is None]
    if missing:
        letters = "".join(missing[:_MOST_LETTERS])
        log.info(
            "%s: no font has %s: boxes are drawn instead; install a font with these letters, such as Noto Sans CJK "
            "for Chinese, Japanese and Korean (package fonts-noto-cjk of Debian and Ubuntu)",
            path,
            letters if len(missing) <= _MOST_LETTERS else f"{letters}… ({len(missing)} letters)",
        )
