"""What messages share: lists cut short, counts, proposals."""

import re
import shlex
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence


def proposal(word: str, known: Collection[str], *, foreign: Mapping[str, str]) -> str:
    """Propose the known word nearest to an unknown one, or nothing.

    Args:
        word: What was written.
        known: What can be written.
        foreign: What other libraries call our words.
    """
    near = [foreign[word]] if word in foreign else similar(word, known, most=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """Ask whether one of the known words was meant, up to three of them, or give nothing where none is near."""
    near = similar(word, known)
    return f"did you mean {' or '.join(near)}?" if near else ""


#: How alike two words must be, by difflib: three letters of four, six of eight.
_ALIKE = 0.75
#: A word this long may be the beginning of another.
_BEGINNING = 3


def similar(word: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """Return the known words that a word may stand for: misspelt, in other letters of case, or cut short; the most alike first.

    Never the word itself, in whatever Unicode form and with whatever blanks around, and nothing for a number: 10 is not meant as 100.
    """
    from difflib import SequenceMatcher  # only on the way to an error: cnn-dims starts quickly

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
    return sorted(found, key=lambda other: (found[other], other), reverse=True)[:most]


def _plain(word: str) -> str:
    return unicodedata.normalize("NFC", word.strip())


def _exchanged(one: str, other: str) -> bool:
    """Return whether two neighbouring letters are exchanged: cta for cat."""
    differing = [place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    if len(one) != len(other) or len(differing) != 2 or differing[1] != differing[0] + 1:
        return False
    first, second = differing
    return one[first] == other[second] and one[second] == other[first]


def _begins(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return len(shorter) >= _BEGINNING and longer.startswith(shorter)


def shortened(names: Sequence[str], most: int) -> str:
    """List the first of many names, and say how many there are more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def count_images(count: int) -> str:
    """Count images: "1 image", "2,000 images"."""
    return "1 image" if count == 1 else f"{count:,} images"


def shell_word(name: str) -> str:
    """Write the name of a file as a word of a shell's command line, which stays one word, and no option; FILE for standard input."""
    if name == "standard input":
        return "FILE"
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


#: C0 and C1 control characters and DEL, which terminals obey; marks that reorder text; line separators; bytes that are not UTF-8.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Show what a terminal would obey as an escape: ESC as \x1b, a byte that is not UTF-8 as \xff."""
    return UNSAFE.sub(lambda match: _escaped(match[0]), text)


def excerpt(text: str, most: int = 80) -> str:
    """Show the beginning of what a file contains, as `printable`."""
    shown = printable(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def _escaped(letter: str) -> str:
    byte = ord(letter) - 0xDC00  # of a name that is not UTF-8, as surrogateescape reads it
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else letter.encode("unicode_escape").decode()
