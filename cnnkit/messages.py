"""Helpers for messages: shortened lists, counts, suggestions."""

import os
import re
import shlex
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

#: For `extra` of a log record that is of interest once the work begins, not before an error of the options: the device, ignored files.
WAITS_FOR_WORK = {"waits_for_work": True}

#: For `extra` of a log record about work that takes seconds; it is printed at once, after the delayed ones.
BEGINS_WORK = {"begins_work": True}


def proposal(word: str, known: Collection[str], *, foreign: Mapping[str, str]) -> str:
    """Suggest the known word most similar to an unknown one; empty if none is similar.

    Args:
        word: The unknown word.
        known: The known words.
        foreign: Words of other libraries, with ours.
    """
    near = [foreign[word]] if word in foreign else similar(word, known, most=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggest up to three similar known words; empty if none is similar."""
    near = similar(word, known)
    return f"did you mean {' or '.join(near)}?" if near else ""


#: The least similarity of two words, by difflib: three letters of four, six of eight.
_ALIKE = 0.75
#: The least length of a word that is recognized as the beginning of another.
_BEGINNING = 3


def similar(word: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """Return the known words that a word may mean if it is misspelt, in another case, or abbreviated; the most similar first.

    The word itself is never returned, in any Unicode form and with any spaces around it, and nothing for a number: 10 does not mean 100.
    """
    from difflib import SequenceMatcher  # imported only for an error, so that cnn-dims starts quickly

    plain = _plain(word)
    if not plain or plain.isdecimal():
        return []
    found: dict[str, float] = {}
    matcher = SequenceMatcher(b=plain.casefold(), autojunk=False)
    for other in known:
        one, same = _plain(other).casefold(), _plain(other) == plain
        matcher.set_seq1(one)
        if same or not one:
            continue
        if matcher.real_quick_ratio() >= _ALIKE and matcher.quick_ratio() >= _ALIKE and matcher.ratio() >= _ALIKE:
            found[other] = matcher.ratio()
        elif _exchanged(one, plain.casefold()) or _begins(one, plain.casefold()):
            found[other] = _ALIKE
    return sorted(found, key=lambda other: (found[other], -len(other), other), reverse=True)[:most]


def _plain(word: str) -> str:
    return unicodedata.normalize("NFC", word.strip())


def _exchanged(one: str, other: str) -> bool:
    """Return whether two adjacent letters are swapped: cta for cat."""
    differing = [place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    if len(one) != len(other) or len(differing) != 2 or differing[1] != differing[0] + 1:
        return False
    first, second = differing
    return one[first] == other[second] and one[second] == other[first]


def _begins(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return len(shorter) >= _BEGINNING and longer.startswith(shorter)


def shortened(names: Sequence[str], most: int) -> str:
    """List the first names, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def count_images(count: int) -> str:
    """Count images: "1 image", "2,000 images"."""
    return "1 image" if count == 1 else f"{count:,} images"


def count_epochs(count: int) -> str:
    """Count epochs: "1 epoch", "5 epochs"."""
    return "1 epoch" if count == 1 else f"{count:,} epochs"


def shell_word(name: str) -> str:
    """Quote a file name as one word for a shell that is not an option; FILE for standard input."""
    if name == "standard input":
        return "FILE"
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


def output_name(given: str | os.PathLike[str], extension: str) -> str:
    """Propose an output file, as a word for a shell: the given path with another extension, FILE if it has no name, as `.` and `/`."""
    path = Path(given)
    return shell_word(str(path.with_suffix(extension))) if path.name.strip(".") else f"FILE{extension}"


#: C0 and C1 control characters and DEL, which terminals interpret; marks that reorder text; line separators; bytes that are not UTF-8.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Replace characters that a terminal would interpret by escapes: ESC by \x1b, a byte that is not UTF-8 by \xff."""
    return UNSAFE.sub(lambda match: _escaped(match[0]), text)


def excerpt(text: str, most: int = 80) -> str:
    """Return the beginning of a text from a file, as `printable`."""
    shown = printable(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def _escaped(letter: str) -> str:
    byte = ord(letter) - 0xDC00  # a byte that is not UTF-8, decoded by surrogateescape
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else letter.encode("unicode_escape").decode()
