"""What the notations of layers and augmentations share: `@file` and comments."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cnnkit import files
from cnnkit.errors import NotationError

T = TypeVar("T")


def read(text: str, parse: Callable[[str], T], *, holds: str) -> T:
    """Parse a notation, or the content of the file that `@` names.

    Args:
        text: The notation, or `@` and the name of a file that holds it.
        parse: Parser of the notation.
        holds: The content of such a file, for messages: "layers, one per line".

    Raises:
        NotationError: The file cannot be read, or `parse` fails; the message then begins with the file.
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
    """Return a notation on one line: in lower case, without comments, with commas for new lines."""
    return ",".join(line.partition("#")[0] for line in text.split("\n")).lower()
