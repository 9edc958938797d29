"""What an unfinished training leaves beside its model, `model.checkpoint.pt`, to go on from; read with weights_only."""

from pathlib import Path
from typing import Any

from cnnkit.errors import FormatError
from cnnkit.formats import atomic, torch_model

#: Counts the changes that make older checkpoints unreadable.
VERSION = 1


def path_for(model: Path) -> Path:
    """Name the checkpoint of a model."""
    return model.with_suffix(".checkpoint.pt")


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint in one step: until it is whole, the one before stays."""
    with atomic.writing(path) as file:
        file.write(torch_model.serialised({"checkpoint": VERSION, **content}))


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        FormatError: It is none, or of another version.
    """
    try:
        content = torch_model.read(path)
    except FormatError as error:
        raise FormatError(f"{error}; or begin anew without --resume") from error
    if not isinstance(content, dict) or content.get("checkpoint") != VERSION:
        raise FormatError(f"{path}: no checkpoint of this version; remove it, or begin anew without --resume")
    return content
