"""From pictures, or their features, to named classes: exported networks that vote, and views of a picture. No torch of its own."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.choices import Vote
from cnnkit.data.reader import Progress, no_progress
from cnnkit.data.source import Picture
from cnnkit.engine.runner import Skip, raise_bad
from cnnkit.errors import UsageError
from cnnkit.formats import tsv
from cnnkit.formats.predictions import WITHHELD, Prediction
from cnnkit.infer import feature_rows, tta, voting
from cnnkit.infer.ensemble import Ensemble
from cnnkit.infer.feature_rows import FeatureRows
from cnnkit.infer.foreign import Description
from cnnkit.infer.tta import TestViews

_NO_NUMBER = "the network's answer is not a number"


@dataclass(frozen=True, slots=True)
class PredictionWithLogit(Prediction):
    """A prediction with what the class had before the softmax."""

    logit: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one picture; `probabilities` is None where it could not be used.

    `probabilities` (classes,) holds what each class gets, `ranking` (classes,) the classes from the best on, `logits` (classes,).
    """

    path: str
    probabilities: NDArray[np.float32] | None = None
    ranking: NDArray[np.int64] | None = None
    logits: NDArray[np.float32] | None = None


class Predictor:
    """Networks that answer together, to one view of each picture or to several."""

    def __init__(
        self,
        models: Sequence[str | Path],
        *,
        vote: Vote = Vote.SOFT,
        logits: bool = False,
        description: Description | None = None,
        views: TestViews | None = None,
        device: str = "auto",
    ) -> None:
        """Load networks.

        Args:
            models: One `.onnx` or more.
            vote: How several, or the answers to several views, come to one; the classes are matched by name and have the order of
                the first one's.
            logits: Answers carry these as well.
            description: Of the networks that carry no Header; and at what size those are shown pictures that take any.
            views: Of each picture.
            device: Where they run.

        Raises:
            UsageError: Options contradict each other or the networks.
            CnnkitError: The networks' classes differ.
            FormatError: A file is no classifier.
        """
        if logits and (len(models) > 1 or views is not None):
            raise UsageError(
                "a vote has probabilities and no logits; give --logits with a single --model and one view of each picture"
            )
        if vote is Vote.HARD and len(models) == 1 and views is None:
            raise UsageError(
                "--vote hard counts answers to each class; give --model several times, or views with --tta"
            )
        self._ensemble = Ensemble(models, description=description or Description(), logits=logits, device=device)
        self.classes = self._ensemble.classes
        self._vote, self._views = vote, views
        for model in self._ensemble.models:
            if views is not None and model.preprocess is not None:
                tta.check(views, model.preprocess, name=model.name, native=self._ensemble.native)

    @property
    def takes_features(self) -> bool:
        """Whether one of the networks is a head, which sees no pictures."""
        return any(model.preprocess is None for model in self._ensemble.models)

    def pictures(
        self,
        pictures: Iterable[Picture],
        *,
        batch: int = 32,
        jobs: int | None = None,
        skip: Skip = raise_bad,
        progress: Progress = no_progress,
    ) -> Iterator[Answer]:
        """Answer for pictures, in their order, as batches are done.

        Args:
            pictures: Looked at as far as one batch before this returns, then read as answers are asked for.
            batch: Pictures at once, or views of them; fewer where there are fewer.
            jobs: Threads that decode.
            skip: Called for every picture that cannot be used.
            progress: Called after every batch.

        Raises:
            UsageError: A model takes features.
        """
        for model in self._ensemble.models:
            if model.preprocess is None:
                raise UsageError(
                    f"{model.name} is a head and takes features, not pictures; give it a .npy from cnn-extract, "
                    "or export the whole network without --head-only"
                )
        views = 1 if self._views is None else 1 + self._views.copies
        at_once = max(1, batch // views)
        coming = iter(pictures)
        first = list(islice(coming, at_once))
        total = len(pictures) if isinstance(pictures, Sequence) else len(first) if len(first) < at_once else None
        return self._pictures(
            chain(first, coming),
            batch=views * (at_once if self._ensemble.native else _even(at_once, total)),
            jobs=jobs,
            skip=skip,
            progress=lambda done, _: progress(done, total),
        )

    def _pictures(
        self, pictures: Iterable[Picture], *, batch: int, jobs: int | None, skip: Skip, progress: Progress
    ) -> Iterator[Answer]:
        asked: deque[Picture] = deque()

        def noted() -> Iterator[Picture]:
            for picture in pictures:
                asked.append(picture)
                yield picture

        views = 1 if self._views is None else 1 + self._views.copies
        with tta.one_thread_each(self._views):
            for shown, arrays in self._ensemble.run(
                noted(), batch=batch, jobs=jobs, views=self._views, skip=skip, progress=progress
            ):
                for picture, *values in zip(shown[::views], *self._voted(arrays, views), strict=True):
                    while (earlier := asked.popleft()) is not picture:
                        yield Answer(earlier.path)  # skipped on the way
                    yield _answer(picture.path, values, skip)
            for left in asked:
                yield Answer(left.path)

    def features(
        self,
        found: Sequence[FeatureRows],
        *,
        batch: int = 32,
        skip: Skip = raise_bad,
        progress: Progress = no_progress,
    ) -> Iterator[Answer]:
        """Answer for rows of features, in their order.

        Args:
            found: From `feature_rows.find`.
            batch: Rows at once.
            skip: Called for every row whose answer is not a number.
            progress: Called after every batch.

        Raises:
            UsageError: A model takes pictures.
            FormatError: The features are not what a model was trained on.
        """
        if self._views is not None:
            raise UsageError(
                f"{found[0].name} holds features, of which there are no other views; drop --tta or --crops"
            )
        for model in self._ensemble.models:
            if model.preprocess is not None:
                raise UsageError(
                    f"{found[0].name} holds features, and {model.name} takes pictures; give it those, "
                    "or a head from cnn-export --head-only"
                )
            for rows in found:
                feature_rows.check(rows, model)
        return self._features(found, batch=batch, skip=skip, progress=progress)

    def _features(
        self, found: Sequence[FeatureRows], *, batch: int, skip: Skip, progress: Progress
    ) -> Iterator[Answer]:
        total, done = sum(len(rows.paths) for rows in found), 0
        for rows in found:
            size = _even(batch, len(rows.paths))
            for start in range(0, len(rows.paths), size):
                paths = rows.paths[start : start + size]
                values = feature_rows.values_of(rows, start, start + size)
                filled = np.zeros((size, *values.shape[1:]), dtype=np.float32)
                filled[: len(values)] = values
                arrays = [array[: len(paths)] for array in self._ensemble.ask([filled] * len(self._ensemble.models))]
                for path, *answer in zip(paths, *self._voted(arrays, 1), strict=True):
                    yield _answer(path, answer, skip)
                done += len(paths)
                progress(done, total)

    def _voted(self, arrays: Sequence[NDArray[np.float32]], views: int) -> list[NDArray[Any]]:
        """Come to one answer a picture.

        Args:
            arrays: As `Ensemble.ask` gives them; the rows of one picture's views stand one behind the other.
            views: How many each has.

        Returns:
            What each class gets and the ranking, (N, classes) both, and the logits where they are wanted.
        """
        models = len(self._ensemble.models)
        ballots = [array[view::views] for array in arrays[:models] for view in range(views)]
        return [*voting.count(ballots, self._vote), *arrays[models:]]


def _even(batch: int, total: int | None) -> int:
    """Choose the batch that all get, at most `batch`: 33 pictures go as 17 and 16, not as 32 and 1 with 31 empty places."""
    if not total:
        return batch
    return -(-total // -(-total // batch))


def _answer(path: str, values: Sequence[NDArray[Any]], skip: Skip) -> Answer:
    if not np.isfinite(values[0]).all():
        skip(path, _NO_NUMBER)
        return Answer(path)
    return Answer(path, *values)


def rows(
    answers: Iterable[Answer], classes: Sequence[str], *, top: int = 1, min_probability: float = 0.0
) -> Iterator[Prediction]:
    """Write answers as predictions, the best `top` classes of each picture; pictures that were skipped have none.

    Args:
        answers: From a Predictor.
        classes: Its classes.
        top: How many; all where there are fewer.
        min_probability: A row below it keeps its probability, and has `?` for its label.

    Yields:
        Rows of rank 1 to `top`; with a logit where answers carry them.
    """
    for answer in answers:
        if answer.probabilities is None or answer.ranking is None:
            continue
        for rank, place in enumerate(answer.ranking[:top], start=1):
            probability = _number(answer.probabilities[place])
            label = classes[place] if probability >= min_probability else WITHHELD
            if answer.logits is None:
                yield Prediction(answer.path, rank, label, probability)
            else:
                yield PredictionWithLogit(answer.path, rank, label, probability, _number(answer.logits[place]))


def labels(answers: Iterable[Answer], classes: Sequence[str], *, min_probability: float = 0.0) -> Iterator[str]:
    """Write one line for every picture: its label, `?` below `min_probability`, nothing for one that was skipped.

    So line n always belongs to the n-th picture.
    """
    for answer in answers:
        best = next(rows([answer], classes, min_probability=min_probability), None)
        yield "" if best is None else tsv.escape(best.label)


def _number(value: np.float32) -> float:
    """Give the shortest decimal number that means this float32: 0.9871, not 0.9871000051498413."""
    return float(str(value))
