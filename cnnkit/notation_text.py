"""What notations share: `@file`, comments, proposals for words that mean nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cnnkit import files
from cnnkit.errors import NotationError

T = TypeVar("T")


def read(text: str, parse: Callable[[str], T], *, holds: str) -> T:
    """Parse a notation, or what is in the file that `@` names.

    Args:
        text: The notation, or `@` and the name of a file that holds it.
        parse: From the notation to its meaning.
        holds: What such a file holds, for messages: "layers, one a line".

    Raises:
        NotationError: The file cannot be read, or `parse` objects; the message then begins with the file.
    """
    if not text.strip().startswith("@"):
        return parse(text)
    file = Path(text.strip()[1:])
    try:
        with files.open_text(file) as opened:
            text = opened.read().decode("utf-8-sig")
        return parse(text.replace("\r\n", "\n").replace("\r", "\n"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file in UTF-8"
        raise NotationError(f"{file}: {reason}; give a file that holds {holds}") from error
    except NotationError as error:
        raise NotationError(f"{file}: {error}") from error


def bare(text: str) -> str:
    """Give a notation on one line: without comments, in small letters, with commas for new lines."""
    return ",".join(line.partition("#")[0] for line in text.split("\n")).lower()
