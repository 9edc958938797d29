"""Shared by the training commands: reading their sources, and printing their result."""

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
    """Find the training and validation images that the command line names.

    Raises:
        UsageError: There is no source and standard input is a terminal, or as `input.stdin` or `train_val.find`.
        CnnkitError: As `train_val.find`.
    """
    from cnnkit.data import search_log, train_val

    if not sources:
        refuse_terminal("a folder or a manifest", "a manifest")
    listed = stdin() if "-" in [*(sources or ["-"]), *(val or [])] else None
    heard = search_log.SearchLog(opens=True, unread=current().passed_over)
    try:
        return train_val.find(
            sources or ["-"], val or [], hold_out=hold_out, stdin=listed, folders=folders, search=heard
        )
    finally:  # also after an error: how folders were read may be its cause
        heard.say()


def is_first() -> bool:
    """Return whether this process writes and prints, as one of several under torchrun or the only one."""
    return rank() == 0


def conclude(result: Any, as_json: bool) -> None:  # noqa: ANN401 - a record
    """Print the result of a training, in the first process only."""
    if rank() == 0:
        emit([result], as_json)


def model_first(words: list[str] | None, *, unless: str | None) -> tuple[Path | None, list[str]]:
    """Split the arguments of a command into a model and the sources.

    Args:
        words: A model and sources; only sources if `unless` is given.
        unless: The --backbone that replaces the model.

    Raises:
        UsageError: The first word is not a model.
    """
    words = list(words or [])
    if unless is not None:
        if words and words[0].endswith(".pt"):
            raise UsageError(f"both {words[0]} and --backbone {unless} are given; start from one of them")
        return None, words
    if not words or not words[0].endswith(".pt"):
        if words and words[0].endswith(".pth"):
            raise UsageError(f"{words[0]} has weights only; use --backbone NAME --weights {words[0]}")
        raise UsageError(
            f"{f'{words[0]}: not a model' if words else 'no model'}; give MODEL.pt first, or --backbone NAME"
        )
    return Path(words[0]), words[1:]
