"""Which training a checkpoint belongs to, and what goes wrong while it resumes: the file is named where it is to blame, not the GPU."""

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

# What the parts of a Header are called on the command line.
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

# Longer values are not compared by eye.
_SHOWN = 80


def fingerprint(header: Header, schedule: Schedule) -> dict[str, str]:
    """Name everything that a training's outcome depends on, as its Header tells it, all but the versions that compute it.

    An earlier end of the same training may have another number of epochs, unless its schedule looks ahead.
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
    """Demand that a checkpoint is of the training that is asked for.

    Args:
        checkpoint: The file, for messages.
        kept: Its fingerprint.
        now: That of this run.

    Raises:
        UsageError: It is of another one; the message names the first difference and both values.
    """
    # What was given on the command line comes first; the rest may follow from it
    for name in sorted({**now, **kept}, key=lambda name: not name.startswith("--")):
        if now.get(name) != kept.get(name):
            values = f"{kept.get(name, 'none')}, now {now.get(name, 'none')}"
            raise UsageError(
                f"{checkpoint} is of a training with another value of {name}{f': {values}' if len(values) <= _SHOWN else ''}; "
                "go on with the same, or begin anew without --resume"
            )


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


def copied(content: Any) -> Any:  # noqa: ANN401 - whatever a checkpoint holds
    """Copy tensors to the CPU, wherever they are in a checkpoint: what is trained on changes them."""
    match content:
        case Tensor():
            return content.detach().to("cpu", copy=True)
        case Mapping():
            return {name: copied(each) for name, each in content.items()}
        case list() | tuple():
            return type(content)(copied(each) for each in content)
        case _:
            return content
