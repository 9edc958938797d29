"""Images -> batches -> network -> outputs, overlapped: while the network computes, threads decode the next images."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import files
from cnnkit.callbacks import Progress, Skip, ignore_progress
from cnnkit.data import in_memory, preprocessing, reader
from cnnkit.data.decode import Decoded
from cnnkit.data.source import ImageFile
from cnnkit.engine import batches
from cnnkit.engine.batches import Loader, Squares, Views
from cnnkit.engine.rows import fill_all_cores
from cnnkit.errors import BadImageError, CnnkitError
from cnnkit.formats.header import Preprocess

log = logging.getLogger("cnnkit")

# Batches per measurement: enough to hide start-up, few enough that all measurements see the same load of the machine.
_BATCHES_IN_A_TURN = 8
#: Images of equal shape are collected among this many batches of images.
WINDOW_BATCHES = 16


def batches_in_flight(device: str) -> int:
    """Return how many batches ONNX Runtime should work on at once: on a GPU, one is copied while another is computed."""
    return 2 if device == "cuda" else 1


#: A network as a function: a batch of uint8 (N, height, width, 3) for each preprocessing -> one or more arrays with N rows each. It raises
#: BadImageError for images of a size that it does not accept.
NetworkFunction = Callable[[Sequence[NDArray[Any]]], Sequence[NDArray[Any]]]
#: What a network takes of an image next to its pixels: a row of numbers, from the image's path.
Metadata = Callable[[ImageFile], NDArray[np.float32]]
#: A network's outputs for one image: one array per output, with one row per view.
Outputs = list[NDArray[Any]]
#: All images in the given order, each with its outputs or the reason why it has none.
Results = Generator[tuple[ImageFile, Outputs | BadImageError]]


@dataclass(slots=True)
class _Pending:
    """An image in progress: how many of its views have no outputs yet, and the outputs of the others."""

    image: ImageFile
    missing: int = 0
    parts: list[Outputs] = field(default_factory=list)
    error: BadImageError | None = None

    def result(self) -> tuple[ImageFile, Outputs | BadImageError]:
        if self.error is not None:
            return self.image, self.error
        if len(self.parts) == 1:
            return self.image, self.parts[0]
        return self.image, [np.concatenate(rows) for rows in zip(*self.parts, strict=True)]


def run(
    images: Iterable[ImageFile],
    preprocess: Sequence[Preprocess],
    network: NetworkFunction,
    *,
    batch: int,
    jobs: int | None = None,
    workers: int = 0,
    views: Views | None = None,
    views_done: int = 0,
    first: int = 0,
    in_flight: int = 1,
    metadata: Metadata | None = None,
    progress: Progress = ignore_progress,
) -> Results:
    """Pass images through a network.

    All batches have the same shape (the last one is padded): devices tune themselves to a shape, and the same image in the same row gives
    the same bits. Memory holds a few batches, independent of the number of images.

    Args:
        images: Read ahead by two batches, or one more than are in flight.
        preprocess: The network's own; several if it takes the same images prepared in several ways. Every file is decoded once.
        network: From a batch to its outputs.
        batch: Images per batch; views, if there are several per image.
        jobs: Threads that decode.
        workers: Processes that have these threads; 0 for this process. Images in memory are prepared in this process.
        views: Makes several views of each image, in the threads that decode.
        views_done: Number of views of the first usable image to leave out.
        first: Row of the first batch at which to start, after black ones, so that an image is in the row that it has in a run with more.
        in_flight: Batches that the network works on at once: on a GPU, one is copied while another is computed. The network is called
            from as many threads.
        metadata: Makes a row of numbers for each image, the same for all its views; the network gets them, (N, numbers), as its last input.
        progress: Called after every batch.

    Yields:
        Every image, in order, as soon as all its views have outputs.
    """
    with batches.loader(
        preprocess, batch=batch, jobs=jobs, processes=workers, views=views, in_flight=in_flight
    ) as loader:
        yield from _run(
            images,
            network,
            loader,
            views_done=views_done,
            first=first,
            in_flight=in_flight,
            metadata=metadata,
            progress=progress,
        )


def _run(
    images: Iterable[ImageFile],
    network: NetworkFunction,
    loader: Loader,
    *,
    views_done: int = 0,
    first: int = 0,
    in_flight: int = 1,
    metadata: Metadata | None = None,
    progress: Progress = ignore_progress,
) -> Results:
    """Pass images through a network, as `run` does, with a loader that is used again."""
    total = len(images) if isinstance(images, Sized) else None
    done, batch = 0, loader.batch
    pending: deque[_Pending] = deque()  # in the order of the images
    rows: list[_Pending] = []  # of the next batch
    computing: deque[tuple[list[_Pending], int, int, Future[Sequence[NDArray[Any]]]]] = deque()

    def complete() -> Results:
        while pending and not pending[0].missing:
            yield pending.popleft().result()

    def finish() -> Results:
        members, count, above, future = computing.popleft()
        _hand_out([output[above:] for output in future.result()], members)
        progress(count, total)
        yield from complete()

    with ThreadPoolExecutor(in_flight, thread_name_prefix="network") as executor:

        def submit() -> None:
            nonlocal first
            filled: list[NDArray[Any]] = [*loader.ring.batch(loader.row, batch=batch, first=first)]
            if metadata is not None:
                described = np.stack([metadata(item.image) for item in rows])
                filled.append(np.pad(described, ((first, batch - first - len(rows)), (0, 0))))
            computing.append((rows.copy(), done, first, executor.submit(_outputs, network, filled)))
            rows.clear()
            first = 0

        loader.begin(first)
        try:
            for image, loaded in loader.each(images, views_done=views_done):
                done += 1
                if isinstance(loaded, BadImageError):
                    pending.append(_Pending(image, error=loaded))
                    yield from complete()
                    continue
                pending.append(_Pending(image, missing=loaded))
                item = pending[-1]
                for _ in range(loaded):
                    rows.append(item)
                    loader.row += 1
                    if not loader.row % batch:
                        submit()
                        if len(computing) > in_flight:
                            yield from finish()
            if rows:
                submit()
            while computing:
                yield from finish()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
    progress(done, total)


def _outputs(network: NetworkFunction, filled: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
    """Run a network; outputs that are its inputs are copied, since the next images are written there."""
    outputs = network(filled)
    return [
        output.copy() if any(np.may_share_memory(output, pixels) for pixels in filled) else output for output in outputs
    ]


def _hand_out(outputs: Sequence[NDArray[Any]], members: Sequence[_Pending]) -> None:
    """Assign the rows of a batch to their images; an image's rows are consecutive."""
    start = 0
    for _, group in groupby(members, key=id):
        item, *others = group
        stop = start + 1 + len(others)
        item.parts.append([output[start:stop] for output in outputs])
        item.missing -= stop - start
        start = stop


def usable(results: Results, skip: Skip) -> Generator[tuple[ImageFile, Outputs]]:
    """Yield the images that have outputs, and pass the others to `skip`, in their order."""
    with contextlib.closing(results):  # also where `skip` raises
        for image, outputs in results:
            if isinstance(outputs, BadImageError):
                skip(image.path, str(outputs))
            else:
                yield image, outputs


def in_batches(results: Results, batch: int, *, skip: Skip) -> Iterator[tuple[list[ImageFile], Outputs]]:
    """Group usable images with their outputs into batches.

    Args:
        results: From `run`.
        batch: Images per batch.
        skip: Called for every image that cannot be used.

    Yields:
        Images, and one array per output with their rows.
    """
    found = usable(results, skip)
    while group := list(islice(found, batch)):
        rows = zip(*(outputs for _, outputs in group), strict=True)
        yield [image for image, _ in group], [np.concatenate(each) for each in rows]


@dataclass(frozen=True, slots=True)
class Rates:
    """Images per second: of decoding and resizing, of the network, of both together (`reached`); `share` is `reached / possible`.

    `possible` is 1 / (1/decode + 1/network) if both share the cores, and the smaller of the two if the network runs on a GPU.
    """

    images: int
    decode: float
    network: float
    reached: float
    possible: float
    share: float


def measure(
    images: Sequence[ImageFile],
    preprocess: Sequence[Preprocess],
    network: NetworkFunction,
    *,
    batch: int,
    jobs: int | None = None,
    workers: int = 0,
    views: Views | None = None,
    shared_cores: bool = True,
    in_flight: int = 1,
) -> Rates:
    """Measure how well decoding and the network overlap.

    The three measurements alternate every few batches, so that a temporary load of the machine slows all of them alike. Caches and device
    are warmed up first.

    Args:
        images: The images; those that cannot be decoded are not counted.
        preprocess: As `run`.
        network: As `run`.
        batch: As `run`.
        jobs: As `run`.
        workers: As `run`.
        views: As `run`. Rates are images per second all the same.
        shared_cores: Whether the network runs on the same cores as decoding.
        in_flight: As `run`.

    Raises:
        CnnkitError: None of the images can be used.
    """
    with batches.loader(
        preprocess, batch=batch, jobs=jobs, processes=workers, views=views, in_flight=in_flight
    ) as loader:
        return _measured(images, network, loader, shared_cores=shared_cores, in_flight=in_flight)


def _measured(
    images: Sequence[ImageFile], network: NetworkFunction, loader: Loader, *, shared_cores: bool, in_flight: int
) -> Rates:
    """Measure, as `measure` does, with a loader."""
    batch, per_image = loader.batch, 1 if loader.views is None else 1 + loader.views.copies
    ready = loader.count(images[:batch]) * per_image
    if not ready:
        raise CnnkitError(f"none of the first {batch} images can be used; nothing to measure")
    pixels = [np.resize(array[:ready], (batch, *array.shape[1:])) for array in loader.ring.arrays]
    for _ in range(3):
        network(pixels)
    # Read all files into the page cache, otherwise the first measurement would be slower
    for image in images:
        with contextlib.suppress(OSError), files.open_regular(image.path) as file:
            files.check_size(file)
            while file.read(1 << 20):
                pass

    count, computed = 0, 0.0
    decoding = computing = overlapped = 0.0
    width = _BATCHES_IN_A_TURN * batch
    for start in range(0, len(images), width):
        part = images[start : start + width]
        began = time.perf_counter()
        usable = loader.count(part)
        decoded = time.perf_counter()
        full = max(1, usable * per_image // batch)
        for _ in range(full):
            network(pixels)
        done = time.perf_counter()
        deque(_run(part, network, loader, in_flight=in_flight), maxlen=0)
        overlapped += time.perf_counter() - done
        decoding, computing = decoding + decoded - began, computing + done - decoded
        count, computed = count + usable, computed + full * batch / per_image
    decode, alone, reached = count / decoding, computed / computing, count / overlapped
    possible = 1 / (1 / decode + 1 / alone) if shared_cores else min(decode, alone)
    return Rates(count, decode, alone, reached, possible, reached / possible)


def bench(
    images: Sequence[ImageFile],
    preprocess: Sequence[Preprocess],
    network: NetworkFunction,
    *,
    batch: int,
    advised: int,
    reopen: Callable[[int], NetworkFunction],
    jobs: int | None = None,
    workers: int = 0,
    views: Views | None = None,
    shared_cores: bool = True,
    in_flight: int = 1,
) -> Rates:
    """Measure as `measure`, then the network at several batch sizes, and log their rates and an advised size.

    Args:
        images: As `measure`.
        preprocess: As `measure`.
        network: As `measure`.
        batch: As `measure`.
        advised: The batch size, with any number of images, that the advice is about.
        reopen: Opens the network for another batch size, where a CPU computes it in another way then.
        jobs: As `measure`.
        workers: As `measure`.
        views: As `measure`.
        shared_cores: As `measure`.
        in_flight: As `measure`.

    Raises:
        CnnkitError: None of the images can be used.
    """
    log.info("measuring with %d images", len(images))
    rates = measure(
        images,
        preprocess,
        network,
        batch=batch,
        jobs=jobs,
        workers=workers,
        views=views,
        shared_cores=shared_cores,
        in_flight=in_flight,
    )
    per_image = 1 if views is None else 1 + views.copies
    networks = {shared_cores and fill_all_cores(advised): network}

    def opened(size: int) -> NetworkFunction:
        in_parts = shared_cores and fill_all_cores(size)
        if in_parts not in networks:
            networks[in_parts] = reopen(size)
        return networks[in_parts]

    by_size = batch_rates(preprocess, opened)
    log_batch_rates({size: rate / per_image for size, rate in by_size.items()}, batch=advised)
    return rates


#: Batch sizes that `batch_rates` compares.
BATCH_SIZES = (8, 16, 32, 64, 128)
#: A batch that takes longer, in seconds, is not measured, nor are larger ones.
_LONGEST_BATCH = 2.0
#: Seconds after which no other turn begins.
_LONGEST_RATES = 3.0


def batch_rates(
    preprocess: Sequence[Preprocess], opened: Callable[[int], NetworkFunction], *, sizes: Sequence[int] = BATCH_SIZES
) -> dict[int, float]:
    """Measure the speed of a network at several batch sizes, in turns.

    Args:
        preprocess: As `run`.
        opened: From a batch size to the network as a run with that size opens it.
        sizes: In ascending order.

    Returns:
        The largest rate of each size, in rows per second; without sizes whose batch takes more than two seconds.
    """
    generator = np.random.default_rng(0)
    rates: dict[int, float] = {}
    inputs, networks = {}, {}
    for size in sizes:
        if rates and size / max(rates.values()) > _LONGEST_BATCH:
            break
        shapes = [(size, way.height, way.width, 3) for way in preprocess]
        inputs[size] = [generator.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
        networks[size] = opened(size)
        for _ in range(2):  # the first call is slower
            rates[size] = _rate(networks[size], inputs[size], size)
    end = time.perf_counter() + _LONGEST_RATES
    for _ in range(_BATCHES_IN_A_TURN):
        for size, pixels in inputs.items():
            rates[size] = max(rates[size], _rate(networks[size], pixels, size))
        if time.perf_counter() > end:
            break
    return rates


def _rate(network: NetworkFunction, pixels: Sequence[NDArray[np.uint8]], rows: int) -> float:
    began = time.perf_counter()
    network(pixels)
    return rows / max(time.perf_counter() - began, 1e-9)


def best_batch(rates: Mapping[int, float]) -> int:
    """Return the smallest batch size whose rate is within 5 % of the largest: small batches take less memory."""
    return min(size for size, rate in rates.items() if rate >= 0.95 * max(rates.values()))


def log_batch_rates(rates: Mapping[int, float], *, batch: int) -> None:
    """Log the rates of a network at several batch sizes, and advise one if it is faster than the size in use."""
    listed = ", ".join(f"{size}: {rate:.4g}" for size, rate in rates.items())
    best = best_batch(rates)
    used = rates.get(batch)
    if used is not None and used >= 0.95 * max(rates.values()):
        log.info("the network's images per second by batch size: %s; --batch %d is as fast as any", listed, batch)
    else:
        log.info("the network's images per second by batch size: %s; --batch %d is advised", listed, best)


@dataclass(slots=True)
class _Window:
    """Consecutive images, and the outcome of each."""

    images: list[ImageFile]
    outcomes: dict[int, Outputs | BadImageError] = field(default_factory=dict)

    def results(self) -> Results:
        for place, image in enumerate(self.images):
            yield image, self.outcomes[place]


@dataclass(frozen=True, slots=True)
class _Group:
    """Images of one size (width, height), by their places in a window; after the `last` group the window is done.

    `full` is the number of images to pad the batch to: the most so far of this size if that is enough.
    """

    window: _Window
    size: tuple[int, int]
    places: list[int]
    last: bool
    full: int


def run_native_size(
    images: Iterable[ImageFile],
    preprocess: Preprocess,
    network: NetworkFunction,
    *,
    batch: int,
    jobs: int | None = None,
    views: Views | None = None,
    one_shape: bool = False,
    in_flight: int = 1,
    progress: Progress = ignore_progress,
) -> Results:
    """Pass images through a network at their own sizes, neither distorted nor cropped.

    Images are grouped by size, which is read from the headers of some hundred files before any of them is decoded. A batch has at most as
    many pixels as a batch of the network's own size, so batches of large images are smaller, and memory is that of a few batches.

    Args:
        images: Read ahead by 16 batches.
        preprocess: The network's own, whose size limits the pixels of a batch.
        network: From one batch, of one shape, to its outputs.
        batch: Images, or views, per batch at the network's own size.
        jobs: Threads that decode.
        views: Makes several views of each image, the same number for all, in the threads that decode.
        one_shape: Pad small batches to the largest so far of their size, or to a power of two: a GPU plans every convolution again
            whenever the shape changes (microsoft/onnxruntime#23006).
        in_flight: As `run`.
        progress: Called after every batch.

    Yields:
        Every image, in order.
    """
    total = len(images) if isinstance(images, Sized) else None
    pixels = batch * preprocess.height * preprocess.width

    def at_once(size: tuple[int, int]) -> int:
        return max(1, min(batch, pixels // (size[0] * size[1])))

    def load(group: _Group) -> list[Squares | BadImageError]:
        return [_load_native_size(group.window.images[place], group.size, preprocess, views) for place in group.places]

    passed = 0
    groups = _groups(
        images, at_once, window=WINDOW_BATCHES * batch, views=1 if views is None else 1 + views.copies, jobs=jobs
    )
    per_image = 1 if views is None else 1 + views.copies
    computing: deque[tuple[_Group, Future[list[Outputs | BadImageError]]]] = deque()

    def finish() -> Results:
        nonlocal passed
        group, future = computing.popleft()
        outcomes = group.window.outcomes
        outcomes.update(zip(group.places, future.result(), strict=True))
        progress(passed + len(outcomes), total)
        if group.last:
            passed += len(outcomes)
            yield from group.window.results()

    with ThreadPoolExecutor(in_flight, thread_name_prefix="network") as executor:
        try:
            for group, loaded in reader.each(groups, load, jobs=jobs, ahead=1 + (jobs or reader.usable_cores())):
                assert not isinstance(loaded, BadImageError)
                fill = group.full * per_image if one_shape else 0
                computing.append((group, executor.submit(_outcomes, loaded, network, at_once(group.size), fill=fill)))
                if len(computing) > in_flight:
                    yield from finish()
            while computing:
                yield from finish()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
    progress(passed, total)


def _groups(
    images: Iterable[ImageFile],
    at_once: Callable[[tuple[int, int]], int],
    *,
    window: int,
    views: int,
    jobs: int | None,
) -> Iterator[_Group]:
    """Group images into batches by their sizes, one window after the other."""
    coming = iter(images)
    most: dict[tuple[int, int], int] = {}
    latest = (0, 0)
    while found := list(islice(coming, window)):
        here = _Window(found)
        by_size: dict[tuple[int, int], list[int]] = {}
        sizes = reader.each(found, in_memory.upright_size, jobs=jobs)
        for place, (_, size) in enumerate(sizes):
            if isinstance(size, BadImageError):
                here.outcomes[place] = size
            else:
                by_size.setdefault(size, []).append(place)
        parts: list[tuple[tuple[int, int], list[int], int]] = []
        for size in sorted(
            by_size, key=lambda size: (size != latest, size)
        ):  # start with the size that the last window ended with
            places, step, latest = by_size[size], max(1, at_once(size) // views), size
            for start in range(0, len(places), step):
                some = places[start : start + step]
                most[size] = max(most.get(size, 0), min(step, 1 << (len(some) - 1).bit_length()))
                parts.append((size, some, most[size]))
        parts = parts or [((1, 1), [], 0)]  # no usable image: an empty group reports them in order
        for number, (size, places, full) in enumerate(parts, start=1):
            yield _Group(here, size, places, last=number == len(parts), full=full)


def _load_native_size(
    image: ImageFile, size: tuple[int, int], preprocess: Preprocess, views: Views | None
) -> Squares | BadImageError:
    """Decode an image and make its views at its own size."""
    try:
        own = preprocessing.untouched(preprocess, size)
        decoded: Decoded
        if views is None:
            (decoded,) = in_memory.load(image, [preprocessing.enough(own)])
            made = [preprocessing.prepare(decoded, own)]
        else:
            (original,) = in_memory.read(image, [preprocessing.enough(own)])
            decoded, made = original, list(views(image, original, own))
    except BadImageError as error:
        return error
    if decoded.size != size:
        return BadImageError(
            f"its file header gives {size[0]} x {size[1]} pixels, but it has {decoded.size[0]} x {decoded.size[1]}"
        )
    return made


def _outcomes(
    loaded: list[Squares | BadImageError], network: NetworkFunction, at_once: int, *, fill: int = 0
) -> list[Outputs | BadImageError]:
    """Run the network on images of one shape, padded to `fill` rows; return for each image the outputs of its views, or an error."""
    fill = min(fill, at_once)
    rows = [square for squares in loaded if not isinstance(squares, BadImageError) for square in squares]
    try:
        parts = [_run_batch(network, rows[start : start + at_once], fill) for start in range(0, len(rows), at_once)]
    except BadImageError as error:
        return [squares if isinstance(squares, BadImageError) else error for squares in loaded]
    outputs = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    outcomes: list[Outputs | BadImageError] = []
    start = 0
    for squares in loaded:
        if isinstance(squares, BadImageError):
            outcomes.append(squares)
        else:
            outcomes.append([output[start : start + len(squares)] for output in outputs])
            start += len(squares)
    return outcomes


def _run_batch(network: NetworkFunction, rows: Sequence[NDArray[np.uint8]], fill: int) -> list[NDArray[Any]]:
    """Run the network on one batch, padded with black images to `fill` rows."""
    missing = [np.zeros_like(rows[0])] * (fill - len(rows))
    return [output[: len(rows)] for output in network([np.stack([*rows, *missing])])]
