"""What the commands share which train: their images and what they print in the end."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnkit.choices import FolderReading
from cnnkit.cli.input import refuse_terminal, stdin
from cnnkit.cli.invocation import current, rank
from cnnkit.cli.output import emit
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    from cnnkit.data.train_val import TrainValImages


def labelled_images(
    sources: list[str] | None,
    *,
    val: list[str] | None,
    hold_out: str | None = None,
    folders: FolderReading | None = None,
) -> "TrainValImages":
    """Find the images that the words on the command line name, for training and for validation.

    Raises:
        UsageError: There is no source, and standard input is a terminal, or as `input.stdin`; or as `train_val.find`.
        CnnkitError: As `train_val.find`.
    """
    from cnnkit.data import search_log, train_val

    if not sources:
        refuse_terminal("a folder or a manifest", "a manifest")
    listed = stdin() if "-" in [*(sources or ["-"]), *(val or [])] else None
    heard = search_log.SearchLog(unread=current().passed_over)
    try:
        return train_val.find(
            sources or ["-"], val or [], hold_out=hold_out, stdin=listed, folders=folders, search=heard
        )
    finally:  # how folders were read may be what was wrong
        heard.say()


def conclude(result: Any, as_json: bool) -> None:  # noqa: ANN401 - a record
    """Print what a training came to; of several processes the first one does."""
    if rank() == 0:
        emit([result], as_json)


def model_first(words: list[str] | None, *, unless: str | None) -> tuple[Path | None, list[str]]:
    """Take a model off the front of the words on the command line.

    Args:
        words: A model and sources; sources alone where `unless` is given.
        unless: What stands in the model's place.

    Raises:
        UsageError: The first word is no model.
    """
    words = list(words or [])
    if unless is not None:
        if words and words[0].endswith(".pt"):
            raise UsageError(f"start either from {words[0]} or from --backbone {unless}")
        return None, words
    if not words or not words[0].endswith(".pt"):
        if words and words[0].endswith(".pth"):
            raise UsageError(f"{words[0]} is weights alone; start with --backbone NAME --weights {words[0]}")
        raise UsageError(
            f"{f'{words[0]} is no model' if words else 'no model given'}: begin with MODEL.pt, or start from --backbone NAME"
        )
    return Path(words[0]), words[1:]
