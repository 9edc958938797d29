"""Augmented copies in tar archives.

Which copy is in which archive is known when all are made: each archive has copies of all classes, in an order that depends on their names
only. Until then the copies are in a temporary file without a name, which takes as much space as the archives.
"""

import contextlib
import io
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from cnnkit.callbacks import Progress, ignore_progress
from cnnkit.data import augment_plan
from cnnkit.data.augment_plan import PlannedCopy
from cnnkit.data.shards import Shard
from cnnkit.errors import CnnkitError
from cnnkit.formats import image_formats, label_sets, tar_shards


class ArchivedCopies:
    """Copies that are to be written to archives, in the order in which they were made."""

    def __init__(
        self,
        held: IO[bytes],
        *,
        per: int,
        shard: Shard | None,
        labels: Iterable[str | None],
        earlier: Iterable[str] = (),
    ) -> None:
        """Begin without copies.

        Args:
            held: A file for their contents.
            per: Number of copies in each archive.
            shard: Of the images; archives of all shards have different names.
            labels: Of images in other shards, or of all images.
            earlier: Paths of copies in the shards before, whose names are not used here.
        """
        self._held, self._per = held, per
        self._part = "" if shard is None else f"{shard.number:0{len(str(shard.count))}d}of{shard.count}"
        self._labels = set(labels)
        self._samples = tar_shards.MemberNames()
        for path in earlier:
            self._samples.add(path, b"")
        self._paths: set[str] = set()
        self._names: list[str] = []
        self._splits: list[str | None] = []
        self._bounds = array("Q", [0])  # in the file: content, record, content, record, ...

    def add(self, copy: PlannedCopy, record: Mapping[str, Any], content: bytes) -> None:
        """Add a copy.

        Args:
            copy: With its path in a folder of all copies.
            record: Of `augment_plan.record`.
            content: The encoded image.

        Raises:
            CnnkitError: Another copy has the same path, or the split cannot be part of a file name.
        """
        if copy.path in self._paths:
            raise augment_plan.claimed_twice(copy)
        split = copy.source.split
        if split is not None and (not split or split.startswith(".") or {os.sep, "/", "\0"} & set(split)):
            raise CnnkitError(f"split {split!r} cannot be the name of an archive; rename it in the manifest")
        self._names.append(self._samples.add(copy.path, content[: image_formats.HEAD]))
        self._splits.append(split)
        self._labels.add(copy.source.label)
        self._paths.add(copy.path)
        for each in (content, json.dumps(record).encode()):
            self._held.write(each)
            self._bounds.append(self._bounds[-1] + len(each))

    def write(
        self, folder: Path, *, check: Callable[[str], None], progress: Progress = ignore_progress
    ) -> Iterator[dict[str, Any]]:
        """Write the archives, and then yield the record of each copy with its path in its archive.

        Args:
            folder: Of the archives.
            check: Called with the name of each archive before the first one is written.
            progress: Called with the number of copies written, and the total.
        """
        self._held.flush()
        places = tar_shards.places(self._names, self._splits, per=self._per, part=self._part)
        for archive in sorted({place.partition("/")[0] for place in places}):
            check(archive)
        tar_shards.write(folder, places, self._sample, labels=self._labels, progress=progress)
        for number, place in enumerate(places):
            yield {**self._record(number), "path": place}

    def _sample(self, number: int) -> tar_shards.Sample:
        # The source is relative to the folder, which archives do not stay in
        fields = {key: value for key, value in self._record(number).items() if key != "source"}
        if "labels" in fields:
            fields["labels"] = list(label_sets.parse(fields["labels"]))
        return tar_shards.Sample(partial(io.BytesIO, self._read(2 * number)), fields)

    def _record(self, number: int) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self._read(2 * number + 1))
        return record

    def _read(self, place: int) -> bytes:
        first, stop = self._bounds[place : place + 2]
        return os.pread(self._held.fileno(), stop - first, first)


@contextlib.contextmanager
def archived(
    workshop: Path,
    *,
    per: int | None,
    shard: Shard | None,
    labels: Iterable[str | None],
    earlier: Iterable[str] = (),
) -> Generator[ArchivedCopies | None]:
    """Make an `ArchivedCopies`, whose file is removed at the end or when the process is killed; None without `per`.

    Args:
        workshop: A folder on the disk of the archives.
        per: As `ArchivedCopies`.
        shard: As `ArchivedCopies`.
        labels: As `ArchivedCopies`.
        earlier: As `ArchivedCopies`.
    """
    if per is None:
        yield None
        return
    with tempfile.TemporaryFile(dir=workshop) as held:
        yield ArchivedCopies(held, per=per, shard=shard, labels=labels, earlier=earlier)
