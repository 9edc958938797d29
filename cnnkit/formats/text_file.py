"""Write a text that other programs read, such as a page or the results of tests, in one step."""

from pathlib import Path

from cnnkit.formats import atomic


def save(path: str | Path, text: str) -> None:
    """Write a text in UTF-8.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic.writing(path) as file:
        file.write(text.encode())
