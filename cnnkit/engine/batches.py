"""Batches that the network reads, into which images are decoded directly: by threads, or by other processes that share the memory."""

import logging
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cnnkit.data import in_memory, preprocessing, reader, workers
from cnnkit.data.decode import Original
from cnnkit.data.in_memory import MemoryImage
from cnnkit.data.shared_memory import SharedBytes
from cnnkit.data.source import ImageFile
from cnnkit.data.worker import Result
from cnnkit.data.workers import Workers
from cnnkit.errors import BadImageError
from cnnkit.formats.header import Preprocess

log = logging.getLogger("cnnkit")

#: Arrays of one image, (height, width, 3): one per preprocessing, or one per view.
Squares = list[NDArray[np.uint8]]

#: Images, per thread of the workers, that are read ahead at least: small ones are sent to workers in groups.
_AHEAD_OF_WORKERS = 8


class Views(Protocol):
    """Makes the views of an image that go through the network: the prepared image itself, and copies made from it."""

    @property
    def copies(self) -> int:
        """The largest number of copies, without the prepared image itself."""

    def count(self, image: ImageFile) -> int:
        """Return the number of views of an image."""

    def __call__(self, image: ImageFile, original: Original, preprocess: Preprocess) -> Sequence[NDArray[np.uint8]]:
        """Return the views, all of one shape, the unchanged one first; the number does not depend on `preprocess`."""


def load_views(image: ImageFile, *, ways: Sequence[Preprocess], views: Views | None) -> list[Squares]:
    """Decode an image once, and prepare it in several ways.

    Returns:
        For each view, one array per preprocessing.

    Raises:
        BadImageError: It cannot be used.
    """
    enough = [preprocessing.enough(way) for way in ways]
    if views is None:
        decoded = in_memory.load(image, enough)
        return [[preprocessing.prepare(each, way) for each, way in zip(decoded, ways, strict=True)]]
    originals = in_memory.read(image, enough)
    made = (views(image, original, way) for original, way in zip(originals, ways, strict=True))
    return [list(view) for view in zip(*made, strict=True)]


class Ring:
    """Rows of some batches, which are used again and again: row number `row` is at `row % rows`.

    Attributes:
        arrays: One per preprocessing, (rows, height, width, 3).
        shared: The memory, if other processes write to it, too.
    """

    def __init__(self, ways: Sequence[Preprocess], rows: int, *, shared: bool) -> None:
        """Reserve memory, which is taken when it is first written to."""
        shapes: list[tuple[int, ...]] = [(rows, way.height, way.width, 3) for way in ways]
        self.rows, self._shapes = rows, shapes
        self.shared = SharedBytes(sum(map(math.prod, shapes))) if shared else None
        self.arrays = self._shared_arrays(self.shared) if self.shared is not None else list(map(_empty, shapes))

    @classmethod
    def _attached(cls, rows: int, shapes: list[tuple[int, ...]], shared: SharedBytes) -> "Ring":
        self = cls.__new__(cls)
        self.rows, self._shapes, self.shared = rows, shapes, shared
        self.arrays = self._shared_arrays(shared)
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return self._attached, (self.rows, self._shapes, self.shared)

    def _shared_arrays(self, shared: SharedBytes) -> list[NDArray[np.uint8]]:
        arrays, start = [], 0
        for shape in self._shapes:
            size = math.prod(shape)
            arrays.append(np.frombuffer(shared.bytes, np.uint8, count=size, offset=start).reshape(shape))
            start += size
        return arrays

    def write(self, row: int, squares: Squares) -> None:
        """Write one view of an image."""
        for array, square in zip(self.arrays, squares, strict=True):
            assert square.shape == array.shape[1:]
            array[row % self.rows] = square

    def move(self, source: int, target: int) -> None:
        """Copy a row."""
        for array in self.arrays:
            array[target % self.rows] = array[source % self.rows]

    def batch(self, end: int, *, batch: int, first: int) -> list[NDArray[np.uint8]]:
        """Return the batch that ends before row `end`, (batch, height, width, 3), black in its first rows and after `end`."""
        start = (end - 1) // batch * batch
        found = []
        for array in self.arrays:
            pixels = array[start % self.rows :][:batch]
            pixels[:first] = 0
            pixels[end - start :] = 0
            found.append(pixels)
        return found


def _empty(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.empty(shape, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class _Task:
    """An image, and the row that its views are written to; without one they are returned."""

    image: ImageFile
    row: int | None
    count: int  # of views


def _load(task: _Task, *, ring: Ring, ways: Sequence[Preprocess], views: Views | None) -> list[Squares] | None:
    loaded = load_views(task.image, ways=ways, views=views)
    assert len(loaded) == task.count
    if task.row is None:
        return loaded
    for row, squares in enumerate(loaded, start=task.row):
        ring.write(row, squares)
    return None


@dataclass(slots=True)
class Loader:
    """Decodes images into the rows of a ring, ahead of the network.

    An image gets the row that it has if all images before it can be used. If one cannot, the images after it that are in progress are
    copied to the rows before, and the next ones are returned instead of written, until there is no gap any more.

    Attributes:
        row: The next row of a batch.
    """

    ring: Ring
    ways: Sequence[Preprocess]
    views: Views | None
    batch: int
    jobs: int | None
    ahead: int
    workers: Workers | None
    row: int = 0
    _in_progress: int = field(default=0)  # rows of images that are being decoded
    _end: int = field(default=0)  # after the last row that was given to an image

    def begin(self, first: int) -> None:
        """Begin with row `first` of a batch."""
        assert not self._in_progress
        self.row = self._end = first

    def each(
        self, images: Iterable[ImageFile], *, views_done: int = 0
    ) -> Iterator[tuple[ImageFile, int | BadImageError]]:
        """Load images.

        Args:
            images: In order.
            views_done: Number of views of the first usable image to leave out.

        Yields:
            Every image in order, with the number of views to be taken by `take`, or its error.
        """
        ring = self.ring
        load = partial(_load, ring=ring, ways=self.ways, views=self.views)
        for task, found in reader.each(
            map(self._task, images), load, jobs=self.jobs, ahead=self.ahead, elsewhere=self._elsewhere
        ):
            loaded = workers.value_of(found) if isinstance(found, Result) else found
            self._in_progress -= task.count
            if isinstance(loaded, BadImageError):
                yield task.image, loaded
                continue
            for number in range(views_done, task.count):
                target = self.row + number - views_done
                if loaded is not None:
                    ring.write(target, loaded[number])
                elif task.row is not None and task.row + number != target:
                    ring.move(task.row + number, target)
            yield task.image, task.count - views_done
            views_done = 0

    def count(self, images: Iterable[ImageFile]) -> int:
        """Load images into rows from 0, and return how many can be used."""
        self.begin(0)
        usable = 0
        for _, loaded in self.each(images):
            if not isinstance(loaded, BadImageError):
                usable += 1
                self.row += loaded
        return usable

    def _task(self, image: ImageFile) -> _Task:
        count = 1 if self.views is None else self.views.count(image)
        row = self.row + self._in_progress
        self._in_progress += count
        if row < self._end:
            return _Task(image, None, count)
        self._end = row + count
        return _Task(image, row, count)

    def _elsewhere(self, task: _Task) -> "Future[Result] | None":
        if self.workers is None or isinstance(task.image, MemoryImage):
            return None
        return self.workers.submit(task)


@contextmanager
def loader(
    ways: Sequence[Preprocess],
    *,
    batch: int,
    jobs: int | None = None,
    processes: int = 0,
    views: Views | None = None,
    in_flight: int = 1,
) -> Generator[Loader]:
    """Start what decodes images for `runner.run`, whose arguments these are; at most one process per thread."""
    decoders = jobs or reader.usable_cores()
    if processes > decoders:  # each would only take memory, and turns on the cores
        log.info("decoding in %d of %d workers, one per thread or core", decoders, processes)
        processes = decoders
    most = 1 if views is None else 1 + views.copies
    ahead = (1 + in_flight) * max(-(-batch // most), decoders)
    if processes and views is None:
        ahead = max(ahead, _AHEAD_OF_WORKERS * decoders)
    # The network has `in_flight` batches and one that waits; one is filled; and the images read ahead
    rows = (3 + in_flight) * batch + (ahead + 1) * most
    ring = Ring(ways, -(-rows // batch) * batch, shared=processes > 0)
    try:
        if not processes:
            yield Loader(ring, ways, views, batch, jobs, ahead, None)
            return
        assert ring.shared is not None
        load = partial(_load, ring=ring, ways=ways, views=views)
        with Workers(load, count=processes, threads=decoders, shared=[ring.shared]) as started:
            yield Loader(ring, ways, views, batch, jobs, ahead, started)
    finally:
        if ring.shared is not None:
            ring.shared.close()
