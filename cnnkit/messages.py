"""What messages share: lists cut short, counts, proposals."""

from collections.abc import Collection, Iterable, Mapping, Sequence


def proposal(word: str, known: Collection[str], *, foreign: Mapping[str, str]) -> str:
    """Propose the known word nearest to an unknown one, or nothing.

    Args:
        word: What was written.
        known: What can be written.
        foreign: What other libraries call our words.
    """
    from difflib import get_close_matches  # only on the way to an error: cnn-dims starts quickly

    near = [foreign[word]] if word in foreign else get_close_matches(word, known, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """Ask whether one of the known words was meant, up to three of them, or give nothing where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else ""


def shortened(names: Sequence[str], most: int) -> str:
    """List the first of many names, and say how many there are more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def count_images(count: int) -> str:
    """Count images: "1 picture", "2,000 pictures"."""
    return "1 picture" if count == 1 else f"{count:,} pictures"


def printable(text: str, most: int = 80) -> str:
    """Show what a file contains on one line: control characters and what is not UTF-8 escaped, the end left out where it is long."""
    shown = "".join(letter if letter.isprintable() else _escaped(letter) for letter in text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def _escaped(letter: str) -> str:
    byte = ord(letter) - 0xDC00  # of a name that is not UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else letter.encode("unicode_escape").decode()
