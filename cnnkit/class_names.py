"""Normalize and compare class names, and find names that are easily confused."""

import os
import re
import unicodedata
from collections.abc import Collection, Container, Iterable, Iterator, Mapping

from cnnkit import messages

#: The most names listed in a notice.
_NAMED = 5

#: Invisible characters that str.strip() leaves: zero-width spaces and joiners, the byte order mark.
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"

_NUMBER = re.compile(r"0*([0-9]+?)(?:\.0*)?")

#: What other programs write for a missing label.
_MISSING = frozenset({"nan", "NaN", "NAN", "<NA>", "NaT", "None", "null", "NULL", "#N/A", "N/A"})


def normal(name: str) -> str:
    """Return the normal form of a class name: Unicode NFC (macOS writes NFD), without spaces around it."""
    stripped = name.strip()
    while stripped != (stripped := stripped.strip(_INVISIBLE).strip()):
        pass
    return stripped if stripped.isascii() else unicodedata.normalize("NFC", stripped)


def normal_or_none(name: str | None) -> str | None:
    """Return the normal form of a label; None for a blank label."""
    return None if name is None else normal(name) or None


def folder(path: str) -> str:
    """Return the normal form of the name of the folder that contains a file."""
    return normal(os.path.basename(os.path.dirname(os.path.abspath(path))))


def class_folder(path: str, classes: Container[str]) -> str | None:
    """Return the nearest folder of a file that has the name of a class, in normal form; None if there is none.

    Args:
        path: Only the folders written in it are candidates, and the folder that contains the file.
        classes: Names in normal form.
    """
    above = [normal(name) for name in os.path.dirname(os.path.normpath(path)).split(os.sep)]
    return next((name for name in (folder(path), *reversed(above)) if name in classes), None)


def alike(names: Iterable[str]) -> list[list[str]]:
    """Find names that differ only in case, spaces, Unicode form or the notation of a number: Cat and cat, ﬁg and fig, 1 and 01.

    Returns:
        Sets of two or more such names, sorted.
    """
    sets: dict[str, set[str]] = {}
    for name in names:
        key = " ".join(unicodedata.normalize("NFKC", normal(name)).casefold().split())
        number = _NUMBER.fullmatch(key)  # spreadsheets drop zeros, and pandas makes 1.0 of 1
        sets.setdefault(number[1] if number else unicodedata.normalize("NFKC", key), set()).add(name)
    return sorted(sorted(members) for members in sets.values() if len(members) > 1)


def form(name: str) -> str:
    """Quote a name, and mark NFD, in which accents are separate characters, so that names that look the same can be distinguished."""
    decomposed = not name.isascii() and unicodedata.normalize("NFC", name) != name
    return f'"{name}"{" (NFD)" if decomposed else ""}'


def about_forms(forms: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Yield notices about names with several spellings or with spaces around them, and names that differ only in case or form.

    Args:
        forms: For each name in normal form, its spellings.
    """
    several = {name: sorted(written) for name, written in forms.items() if len(written) > 1}
    for name, written in list(several.items())[:_NAMED]:
        yield f"class {name} has {len(written)} spellings: {', '.join(map(form, written))}"
    blank = [next(iter(written)) for name, written in forms.items() if name not in several and _have_blanks(written)]
    if blank:
        yield f"spaces around class names are ignored, as in {messages.shortened([form(each) for each in blank], _NAMED)}"
    for names in alike(forms)[:_NAMED]:
        several_names = ", ".join(map(form, names))
        yield f"class names that differ only in case, Unicode form or zeros: {several_names}; if they are the same class, use one name"


def about_missing(names: Iterable[str]) -> Iterator[str]:
    """Yield notices about labels in a table that usually mean a missing label; a folder with such a name is intended."""
    for name in sorted(_MISSING.intersection(names)):
        yield f'"{name}" is read as a class name; if the label is missing, leave the field empty'


def _have_blanks(written: Iterable[str]) -> bool:
    return any(each != each.strip() for each in written)
