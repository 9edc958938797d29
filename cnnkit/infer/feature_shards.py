"""Features of shards: what each records of the whole, and how they are joined.

cnn-extract photos/ --shard 1/2 -o part-1.npy       part-1.json: training.shard
cnn-extract photos/ --shard 2/2 -o part-2.npy
cnn-extract --join part-*.npy -o all.npy            the bytes of cnn-extract photos/ -o all.npy
"""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import msgspec

from cnnkit import messages
from cnnkit.data import shards
from cnnkit.data.shards import Shard
from cnnkit.data.source import ImageFile
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import atomic, features, manifest
from cnnkit.formats.features import Features
from cnnkit.formats.header import Header, difference

log = logging.getLogger("cnnkit")

#: Rows that are copied at once.
_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """What the features of a shard record of the whole, as `shard` in `training` of the header.

    `images` is the number of images of all shards, `list_sha256` the beginning of the digest of their list. `batch` and `device` affect
    the last bits of the values, and are the same in all shards. `batch_invariant`: the row of an image in a batch does not affect them.
    """

    number: int
    count: int
    images: int
    list_sha256: str
    batch: int
    device: str
    batch_invariant: bool

    @classmethod
    def of(cls, shard: Shard, images: Sequence[ImageFile], *, batch: int, device: str, batch_invariant: bool) -> Self:
        """Describe a shard of these images."""
        return cls(
            number=shard.number,
            count=shard.count,
            images=len(images),
            list_sha256=shards.list_digest(images),
            batch=batch,
            device=device,
            batch_invariant=batch_invariant,
        )

    def described(self) -> dict[str, Any]:
        """Describe the shard for a Header."""
        return {"shard": asdict(self)}


@dataclass(frozen=True, slots=True)
class JoinSummary:
    """Summary of joined features."""

    features: str
    rows: int
    shape: str
    shards: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Part:
    """The features of one shard; they are read again when they are copied."""

    path: Path
    record: ShardRecord
    header: Header  # without the record, and without classes
    dtype: str
    shape: tuple[int, ...]  # of a row


def join(paths: Sequence[str | Path], output: str | Path, *, skip_unchanged: bool = False) -> JoinSummary:
    """Join the features of all shards, in any order, to the files that one run without shards writes.

    Args:
        paths: The `.npy` of the shards.
        output: The `.npy` to write.
        skip_unchanged: As `features.FeatureWriter`.

    Raises:
        UsageError: No shards are given, or the output is one of them.
        FormatError: A file is not the features of a shard, or is not complete.
        CnnkitError: A shard is missing, is given twice, or belongs to another run.
    """
    started = time.perf_counter()
    output = Path(output)
    features.check_neighbours(output)
    atomic.check_folder(output)
    if not paths:
        raise UsageError("--join: give the features of all shards, such as part-*.npy")
    for path in paths:
        if os.path.realpath(path) == os.path.realpath(output):
            raise UsageError(f"{path}: both a shard and the output; choose another name with -o")
    parts = _ordered([_part(Path(path)) for path in paths])
    one = parts[0]
    several = features.load(one.path).multi_label
    columns = features.columns_of(views=one.header.has_views, several_labels=several)
    with features.FeatureWriter(
        output,
        shape=one.shape,
        dtype=one.dtype,
        header=one.header,
        columns=columns,
        block=_ROWS,
        skip_unchanged=skip_unchanged,
    ) as writer:
        skipped = []
        for part in parts:
            loaded = features.load(part.path)
            _copy(loaded, writer, part.path.parent)
            first, stop = Shard(part.record.number, part.record.count).bounds(part.record.images)
            skipped.append(stop - first - sum(not row.view for row in loaded.rows))
        if not writer.count:
            raise CnnkitError("no shard has an image that could be used; nothing written")
    _log_moved(parts, skipped)
    seconds = time.perf_counter() - started
    return JoinSummary(str(output), writer.count, "x".join(map(str, one.shape)), len(parts), round(seconds, 2))


def _log_moved(parts: Sequence[_Part], skipped: Sequence[int]) -> None:
    """Warn if values may differ from those of one run in their last bits.

    There, images after a skipped one are in another row of their batch than in their shard, which cannot know of it.
    """
    if all(part.record.batch_invariant for part in parts) or parts[0].record.batch == 1 or not any(skipped[:-1]):
        return
    log.warning(
        "%s skipped in shards before the last: the last bits of later values can differ from those of one run, because this backbone gives "
        "an image slightly other values in another row of a batch; remove these images, or extract with --batch 1, for the same bytes",
        f"{messages.count_images(sum(skipped[:-1]))}",
    )


def _part(path: Path) -> _Part:
    """Read what a shard is, and check that it is complete."""
    if path.suffix == ".npy" and path.with_name(f"{path.name}.part").exists():
        raise FormatError(f"{path}: not complete; run the same command again with --resume")
    loaded = features.load(path)
    training = dict(loaded.header.training)
    raw = training.pop("shard", None)
    if raw is None:
        raise FormatError(f"{path}: not a shard; give files from cnn-extract --shard I/N")
    try:
        record = msgspec.convert(raw, ShardRecord)
    except msgspec.ValidationError as error:
        raise FormatError(f"{path}: broken record of its shard ({error}); extract it again") from error
    if not 1 <= record.number <= record.count:
        raise FormatError(f"{path}: broken record of its shard ({record.number}/{record.count}); extract it again")
    header = loaded.header.but(training=training, classes=None)
    return _Part(path, record, header, loaded.values.dtype.name, loaded.values.shape[1:])


def _ordered(parts: Sequence[_Part]) -> list[_Part]:
    """Check that parts are all shards of one run, and return them in order.

    Raises:
        CnnkitError: As `join`.
    """
    runs: dict[tuple[object, ...], list[_Part]] = {}
    for part in parts:
        record = replace(part.record, number=1, batch_invariant=False)
        runs.setdefault((record, str(part.header), part.dtype, part.shape), []).append(part)
    (most, *others) = sorted(runs.values(), key=len, reverse=True)
    if others:
        foreign, known = others[0][0], most[0]
        raise CnnkitError(f"{foreign.path} is a shard of another run than {known.path}: {_difference(foreign, known)}")
    numbered: dict[int, _Part] = {}
    for part in parts:
        known = numbered.setdefault(part.record.number, part)
        if known is not part:
            raise CnnkitError(
                f"{known.path} and {part.path} are both shard {part.record.number}/{part.record.count}; drop one of them"
            )
    count = parts[0].record.count
    missing = [f"{number}/{count}" for number in range(1, min(count, len(parts) + 8) + 1) if number not in numbered]
    if len(numbered) < count:
        lacking = count - len(numbered)
        named = ", ".join(missing[:8]) + (f" and {lacking - 8} more" if lacking > 8 else "")
        raise CnnkitError(
            f"shard {named} is missing; extract it with --shard {missing[0]}"
            if lacking == 1
            else f"shards {named} are missing; extract each with --shard, such as --shard {missing[0]}"
        )
    return [numbered[number] for number in sorted(numbered)]


def _difference(one: _Part, other: _Part) -> str:
    """Name the first difference between the runs of two shards."""
    for name, what in (
        ("count", "shards"),
        ("images", "images"),
        ("list_sha256", "list of images, with digest"),
        ("batch", "batch"),
        ("device", "device"),
    ):
        here, there = getattr(one.record, name), getattr(other.record, name)
        if here != there:
            return f"{what} {here} and {there}"
    found = difference(one.header, other.header)
    if found is not None:
        name, here, there = found
        return f"{name} {here} and {there}"
    for what, here, there in (
        ("dtype", one.dtype, other.dtype),
        ("shape", one.shape, other.shape),
        ("settings", one.header.training, other.header.training),
        ("versions", one.header.made_by, other.header.made_by),
    ):
        if here != there:
            return f"{what} {here} and {there}"
    return "other headers"


def _copy(part: Features, writer: features.FeatureWriter, folder: Path) -> None:
    """Write the rows of a part, with paths relative to the folder of the output."""
    target = writer.path.parent
    moves = os.path.realpath(folder) != os.path.realpath(target)
    for start in range(0, len(part.rows), _ROWS):
        rows = part.rows[start : start + _ROWS]
        if moves:
            rows = [
                replace(row, path=manifest.seen_from(target, manifest.seen_here(str(folder), row.path))) for row in rows
            ]
        writer.write(part.values[start : start + _ROWS], rows)
