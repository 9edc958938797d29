"""What goes wrong while a training resumes: the file is named where it is to blame, and not where the GPU is."""

import contextlib
from collections.abc import Generator
from pathlib import Path

from cnnkit.engine import device_errors
from cnnkit.errors import FormatError


@contextlib.contextmanager
def taking_up(path: Path) -> Generator[None]:
    """Turn whatever goes wrong while a checkpoint's content is used into an error that names the file: anybody can have written it.

    Raises:
        FormatError: Something is missing, or of another type or shape.
        RuntimeError: The device is full or broken, as it was raised; the checkpoint may be as good as any.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        if device_errors.explained(error) is not None:
            raise
        reason = str(error).strip().splitlines()
        shown = reason[-1].strip()[:100] if reason else type(error).__name__
        raise FormatError(
            f"{path}: not what a training leaves ({shown}); remove it, or begin anew without --resume"
        ) from error
