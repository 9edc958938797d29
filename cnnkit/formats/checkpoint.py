"""The checkpoint of an unfinished training, `model.checkpoint.pt` next to the model, for --resume; read with weights_only."""

from pathlib import Path
from typing import Any

from cnnkit.errors import FormatError
from cnnkit.formats import atomic, torch_model

#: Raised by every change that makes older checkpoints unreadable.
VERSION = 1


def path_for(model: Path) -> Path:
    """Return the path of a model's checkpoint."""
    return model.with_suffix(".checkpoint.pt")


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint in one step: the previous one stays until the new one is complete."""
    with atomic.writing(path) as file:
        file.write(torch_model.serialised({"checkpoint": VERSION, **content}))


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        FormatError: It is not a checkpoint, or of another version.
    """
    try:
        content = torch_model.read(path)
    except FormatError as error:
        raise FormatError(f"{error}; or start over without --resume") from error
    if not isinstance(content, dict) or content.get("checkpoint") != VERSION:
        raise FormatError(f"{path}: not a checkpoint of this version; remove it, or start over without --resume")
    return content
