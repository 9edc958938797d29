"""Shards: fixed shares of the images of a command, so that several machines divide them without a coordinator.

    --shard 2/8      the second of eight consecutive blocks of the images, in their order
    --shard auto     number and count from the variables of torchrun, SLURM or Kubernetes

Blocks are consecutive and their lengths differ by at most one, so the outputs of all shards, in order, are the output of one run.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cnnkit import messages
from cnnkit.data.source import ImageFile
from cnnkit.errors import UsageError

log = logging.getLogger("cnnkit")

T = TypeVar("T")

_ARRAY = "SLURM_ARRAY_TASK_"

#: Variables with the number of a process, from 0, and the number of processes.
_RANKS = (
    ("RANK", "WORLD_SIZE"),  # torchrun
    ("SLURM_PROCID", "SLURM_NTASKS"),  # srun
    ("JOB_COMPLETION_INDEX", "JOB_COMPLETION_COUNT"),  # Kubernetes; the manifest of the job sets the second one
)


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` shards, numbered from 1; `origin` names the variables that it is from."""

    number: int
    count: int
    origin: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """Return it as it is written after --shard."""
        return f"{self.number}/{self.count}"

    def bounds(self, total: int) -> tuple[int, int]:
        """Return the first place of this shard, and the place after its last, of `total` items."""
        return (self.number - 1) * total // self.count, self.number * total // self.count

    def share(self, items: Sequence[T]) -> list[T]:
        """Return the items of this shard."""
        first, stop = self.bounds(len(items))
        return list(items[first:stop])


def parse(text: str, environment: Mapping[str, str] | None = None) -> Shard:
    """Read `2/8`, or `auto`.

    Args:
        text: The value of --shard.
        environment: Variables for `auto`; by default those of the process.

    Raises:
        UsageError: It is something else, or the variables do not describe one of several shards.
    """
    if text == "auto":
        return _found(os.environ if environment is None else environment)
    match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None:
        raise UsageError(f'--shard "{text}": give I/N, such as 2/8 for the second of eight, or auto')
    number, count = map(int, match.groups())
    if not count:
        raise UsageError(f"--shard {text}: give the number of shards after the slash, 1 or more")
    if not 1 <= number <= count:
        from_zero = f"; for a rank, which counts from 0, add 1, as in --shard $((RANK + 1))/{count}"
        raise UsageError(f"--shard {text}: shards are 1/{count} to {count}/{count}{'' if number else from_zero}")
    return Shard(number, count)


def of(text: str | None) -> Shard | None:
    """Return the shard of an option that may be missing; Raises as `parse`."""
    return None if text is None else parse(text)


def _found(environment: Mapping[str, str]) -> Shard:
    """Find the shard in variables, the first pair of `_RANKS` that is set; a SLURM array comes before the tasks of a job.

    A pair of a single process, as a launcher inside of another one sets it, gives way to one of several.
    """
    ranked = [pair for pair in _RANKS if environment.get(pair[0]) and environment.get(pair[1])]
    ranked.sort(key=lambda pair: environment[pair[1]] == "1")  # stable
    array = environment.get(f"{_ARRAY}ID") and environment.get(f"{_ARRAY}COUNT")
    several = [pair for pair in ranked if environment[pair[1]] != "1"]
    if array and several:
        raise UsageError(
            f"--shard auto: both {_ARRAY}ID and {several[0][0]} are set, an array of jobs with several tasks each; "
            "give --shard I/N"
        )
    if array:
        return _of_array(environment)
    if not ranked:
        half = next((pair for pair in _RANKS if environment.get(pair[0])), None)
        if half is not None:
            raise UsageError(f"--shard auto: {half[0]} is set, but not {half[1]}; set it to the number of shards")
        names = ", ".join("/".join(pair) for pair in (_RANKS[0], (f"{_ARRAY}ID", f"{_ARRAY}COUNT"), *_RANKS[1:]))
        raise UsageError(f"--shard auto: none of {names} is set; give --shard I/N, such as 1/8")
    index, count = ranked[0]
    number, total = (_number(environment, name) for name in (index, count))
    if not number < total:
        raise UsageError(f"--shard auto: {index} is {number}, and {count} only {total}; give --shard I/N")
    for _, others in ranked[1:]:
        if (outer := _number(environment, others)) > total:  # torchrun of one job has at least a process in each task
            raise UsageError(
                f"--shard auto: {count} is {total}, but {others} {outer}: each of {outer} tasks starts {total} processes, "
                "which do not know of the others; give --shard I/N"
            )
    return Shard(number + 1, total, f"{index}={number}, {count}={total}")


def _of_array(environment: Mapping[str, str]) -> Shard:
    """Return the shard of a task of a SLURM array; only a whole array, from 0 or 1, shows how many shards there are.

    Raises:
        UsageError: Some tasks of an array are run again, whose count is not the number of shards.
    """
    task, count = (_number(environment, f"{_ARRAY}{name}") for name in ("ID", "COUNT"))
    first, step = (
        _number(environment, f"{_ARRAY}{name}", default=default) for name, default in (("MIN", 0), ("STEP", 1))
    )
    last = _number(environment, f"{_ARRAY}MAX", default=first + (count - 1) * step)
    place, rest = divmod(task - first, max(1, step))
    whole = count > 1 and first <= 1 and last == first + (count - 1) * step
    if not whole or rest or not 0 <= place < count:
        raise UsageError(
            f"--shard auto: task {task} of an array with {_ARRAY}COUNT={count}, tasks {first} to {last}, which is not "
            f"a whole array from 0 or 1; to run shards again, give the number of all: --shard ${_ARRAY}ID/N"
        )
    return Shard(place + 1, count, f"{_ARRAY}ID={task}, {_ARRAY}COUNT={count}")


def _number(environment: Mapping[str, str], name: str, *, default: int = 0) -> int:
    text = environment.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(f'--shard auto: {name} is "{text}", which is not a number; give --shard I/N')
    return int(text)


def share(images: Sequence[ImageFile], shard: Shard) -> list[ImageFile]:
    """Return the images of a shard, and log which they are."""
    first, stop = shard.bounds(len(images))
    name = f"shard {shard}" if shard.origin is None else f"shard {shard} ({shard.origin})"
    if first == stop:
        log.info("%s: none of %s", name, messages.count_images(len(images)))
    else:
        log.info("%s: images %s to %s of %s", name, f"{first + 1:,}", f"{stop:,}", f"{len(images):,}")
    return shard.share(images)


def list_digest(images: Iterable[ImageFile]) -> str:
    """Return the same text for equal lists: paths as given, labels, splits and groups, in order."""
    digest = hashlib.sha256()
    for image in images:
        labels = () if image.labels is None else (image.labels,)
        fields = (image.path, image.label, image.split, image.group, *labels)
        digest.update(repr(fields).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:16]
