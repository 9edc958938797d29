"""Names of classes, compared: one form for each name, and which names a person could take for one another."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping

from cnnkit import messages

#: At most so many names are listed in a notice.
_NAMED = 5

#: Invisible characters that str.strip() leaves: zero-width spaces and joiners, the byte order mark.
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"

_NUMBER = re.compile(r"0*([0-9]+?)(?:\.0*)?")

#: What programs write for a label that is missing.
_MISSING = frozenset({"nan", "NaN", "NAN", "<NA>", "NaT", "None", "null", "NULL", "#N/A", "N/A"})


def normal(name: str) -> str:
    """Return the one form of a class's name: Unicode NFC (macOS writes NFD), without blanks around it."""
    stripped = name.strip()
    while stripped != (stripped := stripped.strip(_INVISIBLE).strip()):
        pass
    return stripped if stripped.isascii() else unicodedata.normalize("NFC", stripped)


def normal_or_none(name: str | None) -> str | None:
    """Return a label's one form; a label of nothing but blanks is none."""
    return None if name is None else normal(name) or None


def alike(names: Iterable[str]) -> list[list[str]]:
    """Find the names that differ in case, blanks, Unicode form or how a number is written alone: Cat and cat, ﬁg and fig, 1 and 01.

    Returns:
        Every set of two or more, sorted.
    """
    sets: dict[str, set[str]] = {}
    for name in names:
        key = " ".join(unicodedata.normalize("NFKC", normal(name)).casefold().split())
        number = _NUMBER.fullmatch(key)  # spreadsheets drop zeros, and pandas makes 1.0 of 1
        sets.setdefault(number[1] if number else unicodedata.normalize("NFKC", key), set()).add(name)
    return sorted(sorted(members) for members in sets.values() if len(members) > 1)


def form(name: str) -> str:
    """Describe how a name is written where two look the same: quoted, and whether its accents are characters of their own."""
    decomposed = not name.isascii() and unicodedata.normalize("NFC", name) != name
    return f'"{name}"{" (NFD)" if decomposed else ""}'


def about_forms(forms: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Tell of names that are written in several ways, or with blanks around them, and of those that differ in case or form alone.

    Args:
        forms: For each name, in its one form, how it is written.
    """
    several = {name: sorted(written) for name, written in forms.items() if len(written) > 1}
    for name, written in list(several.items())[:_NAMED]:
        yield f"one class, {name}, is written in {len(written)} ways: {', '.join(map(form, written))}"
    blank = [next(iter(written)) for name, written in forms.items() if name not in several and _have_blanks(written)]
    if blank:
        yield f"blanks around class names are left out, as of {messages.shortened([form(each) for each in blank], _NAMED)}"
    for names in alike(forms)[:_NAMED]:
        yield f"classes that differ in case or form alone: {', '.join(map(form, names))}; if they are one, give them one name"


def about_missing(names: Iterable[str]) -> Iterator[str]:
    """Tell of labels in a table that are what programs write for a missing one; a folder is called so on purpose."""
    for name in sorted(_MISSING.intersection(names)):
        yield f'"{name}" is taken for the name of a class; where the label is missing, leave the field empty'


def _have_blanks(written: Iterable[str]) -> bool:
    return any(each != each.strip() for each in written)
