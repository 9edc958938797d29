"""Pictures at their own sizes through a network that takes any: in batches of equal shape, and the answers in the order of the pictures."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.data import images, reader
from cnnkit.data import preprocess as preparing
from cnnkit.data.reader import Progress, no_progress
from cnnkit.data.source import Picture
from cnnkit.engine.runner import Skip, Squares, Views, raise_bad
from cnnkit.errors import BadPicture
from cnnkit.formats.header import Preprocess

#: Pictures of equal shape are looked for among so many batches' worth.
_WINDOW = 16

#: uint8 (N, height, width, 3) -> arrays with N rows each. It raises BadPicture where it does not take pictures of that shape.
Network = Callable[[NDArray[np.uint8]], Sequence[NDArray[Any]]]


@dataclass(slots=True)
class _Window:
    """Pictures that follow one another, and what became of each: the rows of its views, or why it has none."""

    pictures: list[Picture]
    outcomes: dict[int, list[NDArray[Any]] | str] = field(default_factory=dict)

    def given(self, skip: Skip) -> Iterator[tuple[list[Picture], list[NDArray[Any]]]]:
        """Give the answers in the order of the pictures, and name those that have none."""
        shown: list[Picture] = []
        rows: list[list[NDArray[Any]]] = []
        for place, picture in enumerate(self.pictures):
            outcome = self.outcomes[place]
            if isinstance(outcome, str):
                skip(picture.path, outcome)
            else:
                shown += [picture] * len(outcome[0])
                rows.append(outcome)
        if shown:
            yield shown, [np.concatenate(arrays) for arrays in zip(*rows, strict=True)]


@dataclass(frozen=True, slots=True)
class _Group:
    """Pictures of one size (width, height) by their places in a window; after the last one the window is done."""

    window: _Window
    size: tuple[int, int]
    places: list[int]
    last: bool


def run(
    pictures: Iterable[Picture],
    preprocess: Preprocess,
    network: Network,
    *,
    batch: int,
    jobs: int | None = None,
    views: Views | None = None,
    skip: Skip = raise_bad,
    progress: Progress = no_progress,
) -> Iterator[tuple[list[Picture], list[NDArray[Any]]]]:
    """Send pictures through a network as they are, undistorted and uncropped.

    The heads of some hundred files tell which are of one size, before any of them is decoded. A batch holds no more pixels than one of
    the network's own size does, so large pictures go in smaller batches, and memory is that of a few batches.

    Args:
        pictures: Read as far ahead as 16 batches.
        preprocess: The network's own, whose size says how large a batch is.
        network: From a batch of one shape to its answers.
        batch: Pictures, or views, of the network's own size at once.
        jobs: Threads that decode.
        views: Of each picture; made in the threads that decode. As many for each.
        skip: Called for every picture that cannot be used, in its turn.
        progress: Called after every batch.

    Yields:
        Good pictures, each as often as it has views, and the network's answers for them.
    """
    total = len(pictures) if isinstance(pictures, Sized) else None
    pixels = batch * preprocess.height * preprocess.width

    def at_once(size: tuple[int, int]) -> int:
        return max(1, min(batch, pixels // (size[0] * size[1])))

    def load(group: _Group) -> list[Squares | BadPicture]:
        return [_loaded(group.window.pictures[place], group.size, preprocess, views) for place in group.places]

    passed = 0
    groups = _groups(
        pictures, at_once, window=_WINDOW * batch, views=1 if views is None else 1 + views.copies, jobs=jobs
    )
    for group, loaded in reader.each(groups, load, jobs=jobs, ahead=1 + (jobs or reader.usable_cores())):
        assert not isinstance(loaded, BadPicture)
        outcomes = group.window.outcomes
        outcomes.update(zip(group.places, _answered(loaded, network, at_once(group.size)), strict=True))
        progress(passed + len(outcomes), total)
        if group.last:
            passed += len(outcomes)
            yield from group.window.given(skip)
    progress(passed, total)


def _groups(
    pictures: Iterable[Picture], at_once: Callable[[tuple[int, int]], int], *, window: int, views: int, jobs: int | None
) -> Iterator[_Group]:
    """Deal pictures out to batches by their sizes, one window after the other."""
    coming = iter(pictures)
    while found := list(islice(coming, window)):
        here = _Window(found)
        by_size: dict[tuple[int, int], list[int]] = {}
        sizes = reader.read(found, images.upright_size, jobs=jobs)
        for place, (_, size) in enumerate(sizes):
            if isinstance(size, BadPicture):
                here.outcomes[place] = str(size)
            else:
                by_size.setdefault(size, []).append(place)
        parts: list[tuple[tuple[int, int], list[int]]] = []
        for size, places in by_size.items():
            step = max(1, at_once(size) // views)
            parts += [(size, places[start : start + step]) for start in range(0, len(places), step)]
        parts = parts or [((1, 1), [])]  # none of them can be used, which is to be said in its turn
        for number, (size, places) in enumerate(parts, start=1):
            yield _Group(here, size, places, last=number == len(parts))


def _loaded(
    picture: Picture, size: tuple[int, int], preprocess: Preprocess, views: Views | None
) -> Squares | BadPicture:
    """Decode a picture and make its views, all of its own size."""
    try:
        own = preparing.untouched(preprocess, size)
        if views is None:
            image = images.load(picture.path)
            made = [preparing.prepare(image, own)]
        else:
            original = images.read(picture.path)
            image = original.image
            made = list(views(picture, original, own))
    except BadPicture as error:
        return error
    if image.size != size:
        return BadPicture(f"its head says {size[0]} x {size[1]} pixels, and it has {image.width} x {image.height}")
    return made


def _answered(loaded: list[Squares | BadPicture], network: Network, at_once: int) -> list[list[NDArray[Any]] | str]:
    """Ask about pictures of one shape: for each the answers for its views, or why there are none."""
    good = [squares for squares in loaded if not isinstance(squares, BadPicture)]
    rows = [square for squares in good for square in squares]
    try:
        parts = [network(np.stack(rows[start : start + at_once])) for start in range(0, len(rows), at_once)]
    except BadPicture as error:
        return [str(squares if isinstance(squares, BadPicture) else error) for squares in loaded]
    answers = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    outcomes: list[list[NDArray[Any]] | str] = []
    start = 0
    for squares in loaded:
        if isinstance(squares, BadPicture):
            outcomes.append(str(squares))
        else:
            outcomes.append([array[start : start + len(squares)] for array in answers])
            start += len(squares)
    return outcomes
