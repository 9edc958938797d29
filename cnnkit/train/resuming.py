"""Fingerprint of a training run, so that --resume refuses another run's checkpoint; and errors that name an unusable checkpoint."""

import contextlib
import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cnnkit.choices import Schedule
from cnnkit.engine import device_errors
from cnnkit.errors import FormatError, UsageError
from cnnkit.formats.header import Header

# Names of the Header's fields in fingerprints, which checkpoints store.
_OPTIONS = {
    "the preprocess's size": "--size",
    "the preprocess's fit": "--fit",
    "the preprocess's grey": "--grey",
    "the backbone's notation": "--layers",
    "the backbone's name": "the network",
    "--command": "the command",
    "--from": "the model at the start",
    "--pictures": "the pictures",
}

# How messages name fields whose stored name is an older word.
_IN_MESSAGES = {"the pictures": "the images"}

# Longer values are left out of messages.
_SHOWN = 80


def fingerprint(header: Header, schedule: Schedule) -> dict[str, str]:
    """Return everything in a Header that a training's result depends on, except the versions of the libraries.

    The number of epochs is included only if the schedule depends on it: else a training can be resumed with more epochs.
    """
    record = json.loads(header.to_json())
    training = record.pop("training")
    for name in ("rows", *(() if schedule.depends_on_epochs else ("epochs",))):
        training.pop(name, None)
    del record["made_by"]
    named = {f"--{name.replace('_', '-')}": value for name, value in training.items()}
    for part, value in record.items():
        if isinstance(value, dict):
            named |= {f"the {part}'s {name}": each for name, each in value.items()}
        else:
            named[f"the {part}"] = value
    return {
        _OPTIONS.get(name, name): value if isinstance(value, str) else json.dumps(value)
        for name, value in named.items()
        if value is not None
    }


def check_same_run(checkpoint: Path, kept: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Check that a checkpoint belongs to this training.

    Args:
        checkpoint: The file, for messages.
        kept: Its fingerprint.
        now: The fingerprint of this run.

    Raises:
        UsageError: It belongs to another one; the message names the first difference and both values.
    """
    # Options come first; other differences may follow from them
    for name in sorted({**now, **kept}, key=lambda name: not name.startswith("--")):
        if now.get(name) != kept.get(name):
            values = f"{kept.get(name, 'none')}, now {now.get(name, 'none')}"
            shown = _IN_MESSAGES.get(name, name) + (f": {values}" if len(values) <= _SHOWN else "")
            raise UsageError(
                f"{checkpoint} is of a training with another value of {shown}; "
                "give the same value, or start over without --resume"
            )


@contextlib.contextmanager
def restoring(path: Path) -> Generator[None]:
    """Turn errors while a checkpoint is restored into an error that names the file, which may have any content.

    Raises:
        FormatError: Something is missing, or of another type or shape.
        RuntimeError: The device is full or broken: raised unchanged, as the checkpoint may be intact.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        if device_errors.explained(error) is not None:
            raise
        reason = str(error).strip().splitlines()
        shown = reason[-1].strip()[:100] if reason else type(error).__name__
        raise FormatError(
            f"{path}: not a usable checkpoint ({shown}); remove it, or start over without --resume"
        ) from error


def copied(content: Any) -> Any:  # noqa: ANN401 - any content of a checkpoint
    """Copy a checkpoint's content, its tensors to the CPU, because training on changes them in place."""
    match content:
        case Tensor():
            return content.detach().to("cpu", copy=True)
        case Mapping():
            return {name: copied(each) for name, each in content.items()}
        case list() | tuple():
            return type(content)(copied(each) for each in content)
        case _:
            return content
