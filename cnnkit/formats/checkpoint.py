"""What an unfinished training leaves beside its model, `model.checkpoint.pt`, to go on from; read with weights_only."""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

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


@contextlib.contextmanager
def taking_up(path: Path) -> Generator[None]:
    """Turn whatever goes wrong while a checkpoint's content is used into an error that names the file: anybody can have written it.

    Raises:
        FormatError: Something is missing, or of another type or shape.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        shown = reason[-1].strip()[:100] if reason else type(error).__name__
        raise FormatError(
            f"{path}: not what a training leaves ({shown}); remove it, or begin anew without --resume"
        ) from error
