"""From pictures, or their features, to named classes: one exported network or several that vote. No torch."""

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
from cnnkit.engine import onnx_classifier, runner
from cnnkit.engine.onnx_classifier import OnnxClassifier, OnnxNetwork
from cnnkit.engine.runner import Skip, raise_bad
from cnnkit.engine.session import Session
from cnnkit.errors import UsageError
from cnnkit.formats import onnx_model, tsv
from cnnkit.formats.predictions import WITHHELD, Prediction
from cnnkit.infer import feature_rows, foreign, voting
from cnnkit.infer.feature_rows import FeatureRows
from cnnkit.infer.foreign import Description

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
    """Networks that answer together."""

    def __init__(
        self,
        models: Sequence[str | Path],
        *,
        vote: Vote = Vote.SOFT,
        logits: bool = False,
        description: Description | None = None,
        device: str = "auto",
    ) -> None:
        """Load networks.

        Args:
            models: One `.onnx` or more.
            vote: How several come to one answer; the classes are matched by name and have the order of the first one's.
            logits: Answers carry these as well.
            description: Of the networks that carry no Header.
            device: Where they run.

        Raises:
            UsageError: Options contradict each other or the networks.
            CnnkitError: The networks' classes differ.
            FormatError: A file is no classifier.
        """
        if logits and len(models) > 1:
            raise UsageError("a vote has probabilities and no logits; give --logits with a single --model")
        if vote is Vote.HARD and len(models) == 1:
            raise UsageError("--vote hard counts the models behind each class; give --model several times")
        self.models: list[OnnxClassifier] = []
        for path in models:
            # The first network says where it runs; a CPU need not be said twice
            known = bool(self.models) and self.models[0].network.session.device.kind == "cpu"
            self.models.append(_load(path, description or Description(), device="cpu" if known else device))
        if description is not None and description.given() and all(model.header for model in self.models):
            raise UsageError(
                f"{self.models[0].name} carries its own preprocessing and classes; {description.given()[0]} is for networks that "
                "cnnkit did not make"
            )
        if logits and not self.models[0].gives_logits:
            raise UsageError(f"{self.models[0].name} gives probabilities and no logits; drop --logits")
        first = self.models[0]
        self.classes = first.classes
        self._orders = [
            voting.order(model.classes, first.classes, name=model.name, reference_name=first.name)
            for model in self.models
        ]
        self._vote, self._logits = vote, logits

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
            batch: Pictures at once; fewer where there are fewer.
            jobs: Threads that decode.
            skip: Called for every picture that cannot be used.
            progress: Called after every batch.

        Raises:
            UsageError: A model takes features.
        """
        for model in self.models:
            if model.preprocess is None:
                raise UsageError(
                    f"{model.name} is a head and takes features, not pictures; give it a .npy from cnn-extract, "
                    "or export the whole network without --head-only"
                )
        coming = iter(pictures)
        first = list(islice(coming, batch))
        total = len(pictures) if isinstance(pictures, Sequence) else len(first) if len(first) < batch else None
        return self._pictures(
            chain(first, coming),
            batch=_even(batch, total),
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

        ways = list(dict.fromkeys(model.preprocess for model in self.models if model.preprocess is not None))

        def network(*pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
            prepared = dict(zip(ways, pixels, strict=True))
            return self._ask([prepared[model.preprocess] for model in self.models if model.preprocess is not None])

        for shown, arrays in runner.run(noted(), ways, network, batch=batch, jobs=jobs, skip=skip, progress=progress):
            for picture, *values in zip(shown, *arrays, strict=True):
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
        for model in self.models:
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
                arrays = self._ask([filled] * len(self.models))
                for path, *answer in zip(paths, *(array[: len(paths)] for array in arrays), strict=True):
                    yield _answer(path, answer, skip)
                done += len(paths)
                progress(done, total)

    def _ask(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Give what each class gets and the ranking, (N, classes) both, and the logits where they are wanted."""
        answers = [model(values, logits=self._logits) for model, values in zip(self.models, inputs, strict=True)]
        probabilities = [
            answer[0] if order is None else answer[0][:, order]
            for answer, order in zip(answers, self._orders, strict=True)
        ]
        return [*voting.count(probabilities, self._vote), *answers[0][1:]]


def _load(path: str | Path, description: Description, *, device: str) -> OnnxClassifier:
    name = str(path)
    if name.endswith((".pt", ".pth")):
        raise UsageError(f"{name}: prediction takes ONNX; make it with cnn-export {name} -o {Path(name).stem}.onnx")
    model = onnx_model.load(path)
    network = OnnxNetwork(name, Session(model.content, device=device, name=name))
    if model.header is not None:
        return onnx_classifier.ours(network, model.header)
    return foreign.described(network, description, onnx_model.parse(model.content, name=name).graph)


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
