"""What makes a training this one and no other, so that an unfinished one is gone on with and not mixed up. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path

from cnnkit.choices import Schedule
from cnnkit.errors import UsageError
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


def mark(header: Header, schedule: Schedule) -> dict[str, str]:
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


def refuse_another(checkpoint: Path, kept: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Demand that a checkpoint is of the training that is asked for.

    Args:
        checkpoint: The file, for messages.
        kept: Its mark.
        now: That of what is asked for.

    Raises:
        UsageError: It is of another one; the message names the first difference and both values.
    """
    # What was said on the command line comes first; the rest may follow from it
    for name in sorted({**now, **kept}, key=lambda name: not name.startswith("--")):
        if now.get(name) != kept.get(name):
            values = f"{kept.get(name, 'none')}, now {now.get(name, 'none')}"
            raise UsageError(
                f"{checkpoint} is of a training with another value of {name}{f': {values}' if len(values) <= _SHOWN else ''}; "
                "go on with the same, or begin anew without --resume"
            )
