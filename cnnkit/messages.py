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
