"""From images, or their features, to class probabilities. No torch."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.callbacks import Callbacks, Skip, ignore_skip
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError, CnnkitError, UsageError
from cnnkit.evaluation.matching import MatchedPredictions
from cnnkit.formats import tsv
from cnnkit.formats.predictions import WITHHELD, Prediction
from cnnkit.infer import ensemble, feature_input
from cnnkit.infer.config import ModelSpec, PredictConfig
from cnnkit.infer.ensemble import Ensemble
from cnnkit.infer.feature_input import FeatureRows
from cnnkit.infer.views import CopyMaker, check_test_views, parse_test_views, single_threaded

log = logging.getLogger("cnnkit")

#: So many images are asked about, those that the predictions are least sure of: there networks differ most.
_PROVENANCE_IMAGES = 8

#: A probability of another device, or of float16, may differ by so much; those of another network, another temperature or a vote do not
#: all stay below.
_PROVENANCE_TOLERANCE = 0.02

_NO_NUMBER = "the network's answer is not a number"


@dataclass(frozen=True, slots=True)
class PredictionWithLogit(Prediction):
    """A prediction with what the class had before the softmax."""

    logit: float | None = None


@dataclass(frozen=True, slots=True)
class ImageOutput:
    """What became of one image; `probabilities` is None where it could not be used.

    `probabilities` (classes,) holds what each class gets, `ranking` (classes,) the classes from the best on, `logits` (classes,).
    """

    path: str
    probabilities: NDArray[np.float32] | None = None
    ranking: NDArray[np.int64] | None = None
    logits: NDArray[np.float32] | None = None


class Predictor:
    """Networks that predict together, from one view of each image or from several."""

    def __init__(
        self,
        models: Sequence[str | Path],
        config: PredictConfig | None = None,
        *,
        spec: ModelSpec | None = None,
        make_copies: CopyMaker | None = None,
    ) -> None:
        """Load networks.

        Args:
            models: One `.onnx` or more; their classes are matched by name and have the order of the first one's.
            config: How several networks, or several views of each image, become one prediction; how many of them go in at once.
            spec: Of the networks that carry no Header; and at what size those are shown images that take any.
            make_copies: From `torch_views`, where `config.needs_torch_views`.

        Raises:
            UsageError: Options contradict each other or the networks.
            CnnkitError: The networks' classes differ.
            FormatError: A file is no classifier.
        """
        config = (config or PredictConfig()).checked(models=len(models))
        views = parse_test_views(
            config.tta, views=config.views, crops=config.crops, seed=config.seed, make_copies=make_copies
        )
        self._ensemble = Ensemble(
            models,
            spec=spec or ModelSpec(),
            logits=config.logits,
            device=config.device,
            precision=config.precision,
        )
        self._batch = config.batch_on(self._ensemble.device)
        self.classes = self._ensemble.classes
        self._config, self._views = config, views
        for model in self._ensemble.models:
            if views is not None and model.preprocess is not None:
                check_test_views(views, model.preprocess, name=model.name, native=self._ensemble.native)

    @property
    def device(self) -> str:
        """The kind of device that the networks run on: cpu or cuda."""
        return self._ensemble.device

    @property
    def takes_features(self) -> bool:
        """Whether one of the networks is a head, which sees no images."""
        return any(model.preprocess is None for model in self._ensemble.models)

    def images(self, images: Iterable[ImageFile], *, callbacks: Callbacks | None = None) -> Iterator[ImageOutput]:
        """Predict images, in their order, as batches are done.

        Args:
            images: Looked at as far as one batch before this returns, then read as predictions are asked for.
            callbacks: `skip` for every image that cannot be used, `progress` after every batch.

        Raises:
            UsageError: A model takes features.
        """
        for model in self._ensemble.models:
            if model.preprocess is None:
                raise UsageError(
                    f"{model.name} is a head and takes features, not pictures; give it a .npy from cnn-extract, "
                    "or export the whole network without --head-only"
                )
        callbacks = callbacks or Callbacks()
        views = 1 if self._views is None else 1 + self._views.copies
        at_once = max(1, self._batch // views)
        coming = iter(images)
        first = list(islice(coming, at_once))
        total = len(images) if isinstance(images, Sequence) else len(first) if len(first) < at_once else None
        return self._images(
            chain(first, coming),
            batch=views * (at_once if self._ensemble.native else _even(at_once, total)),
            callbacks=replace(callbacks, progress=lambda done, _: callbacks.progress(done, total)),
        )

    def _images(self, images: Iterable[ImageFile], *, batch: int, callbacks: Callbacks) -> Iterator[ImageOutput]:
        views = 1 if self._views is None else 1 + self._views.copies
        results = self._ensemble.run(
            images, batch=batch, jobs=self._config.jobs, views=self._views, progress=callbacks.progress
        )
        with single_threaded(self._views), contextlib.closing(results):
            for image, outputs in results:
                if isinstance(outputs, BadImageError):
                    callbacks.skip(image.path, str(outputs))
                    yield ImageOutput(image.path)
                else:
                    (values,) = zip(*self._voted(outputs, views), strict=True)
                    yield _image_output(image.path, values, callbacks.skip)

    def features(self, found: Sequence[FeatureRows], *, callbacks: Callbacks | None = None) -> Iterator[ImageOutput]:
        """Predict rows of features, in their order.

        Args:
            found: From `feature_input.find`.
            callbacks: `skip` for every row whose prediction is not a number, `progress` after every batch.

        Raises:
            UsageError: A model takes images.
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
                feature_input.check(rows, model)
        return self._features(found, callbacks or Callbacks())

    def _features(self, found: Sequence[FeatureRows], callbacks: Callbacks) -> Iterator[ImageOutput]:
        total, done = sum(len(rows.paths) for rows in found), 0
        for rows in found:
            size = _even(self._batch, len(rows.paths))
            for start in range(0, len(rows.paths), size):
                paths = rows.paths[start : start + size]
                values = feature_input.values_of(rows, start, start + size)
                filled = np.zeros((size, *values.shape[1:]), dtype=np.float32)
                filled[: len(values)] = values
                arrays = [
                    array[: len(paths)] for array in self._ensemble.predict([filled] * len(self._ensemble.models))
                ]
                for path, *prediction in zip(paths, *self._voted(arrays, 1), strict=True):
                    yield _image_output(path, prediction, callbacks.skip)
                done += len(paths)
                callbacks.progress(done, total)

    def _voted(self, arrays: Sequence[NDArray[np.float32]], views: int) -> list[NDArray[Any]]:
        """Come to one prediction an image.

        Args:
            arrays: As `Ensemble.predict` gives them; the rows of one image's views stand one behind the other.
            views: How many each has.

        Returns:
            What each class gets and the ranking, (N, classes) both, and the logits where they are wanted.
        """
        models = len(self._ensemble.models)
        ballots = [array[view::views] for array in arrays[:models] for view in range(views)]
        return [*ensemble.count_votes(ballots, self._config.vote), *arrays[models:]]


def _even(batch: int, total: int | None) -> int:
    """Choose the batch that all get, at most `batch`: 33 images go as 17 and 16, not as 32 and 1 with 31 empty places."""
    if not total:
        return batch
    return -(-total // -(-total // batch))


def _image_output(path: str, values: Sequence[NDArray[Any]], skip: Skip) -> ImageOutput:
    if not np.isfinite(values[0]).all():
        skip(path, _NO_NUMBER)
        return ImageOutput(path)
    return ImageOutput(path, *values)


def rows(
    outputs: Iterable[ImageOutput], classes: Sequence[str], *, top: int = 1, min_probability: float = 0.0
) -> Iterator[Prediction]:
    """Write outputs as predictions, the best `top` classes of each image; images that were skipped have none.

    Args:
        outputs: From a Predictor.
        classes: Its classes.
        top: How many; all where there are fewer.
        min_probability: A row below it keeps its probability, and has `?` for its label.

    Yields:
        Rows of rank 1 to `top`; with a logit where outputs carry them.
    """
    for output in outputs:
        if output.probabilities is None or output.ranking is None:
            continue
        for rank, place in enumerate(output.ranking[:top], start=1):
            probability = _number(output.probabilities[place])
            label = classes[place] if probability >= min_probability else WITHHELD
            if output.logits is None:
                yield Prediction(output.path, rank, label, probability)
            else:
                yield PredictionWithLogit(output.path, rank, label, probability, _number(output.logits[place]))


def labels(
    predictions: Iterable[ImageOutput], classes: Sequence[str], *, min_probability: float = 0.0
) -> Iterator[str]:
    """Write one line for every image: its label, `?` below `min_probability`, nothing for one that was skipped.

    So line n always belongs to the n-th image.
    """
    for prediction in predictions:
        best = next(rows([prediction], classes, min_probability=min_probability), None)
        yield "" if best is None else tsv.escape(best.label)


def _number(value: np.float32) -> float:
    """Give the shortest decimal number that means this float32: 0.9871, not 0.9871000051498413."""
    return float(str(value))


def check_provenance(model: Path, predictions: MatchedPredictions, *, name: str) -> None:
    """Demand that a network gives the probabilities that stand in a file.

    A head alone takes features, which the predictions do not name: that it is not checked is said, as where no image is there any more.

    Args:
        model: The `.onnx`.
        predictions: With the probability of every class, in the network's order.
        name: Where they come from, for messages.

    Raises:
        CnnkitError: It gives others.
    """
    predictor = Predictor([model], PredictConfig(device="cpu"))
    least = np.argsort(predictions.confidence, kind="stable")[:_PROVENANCE_IMAGES].tolist()
    if predictor.takes_features:
        log.info("%s takes features: not checked that %s is what it predicts", model, name)
        return
    asked = [ImageFile(predictions.paths[row]) for row in least]
    seen = 0
    for row, prediction in zip(least, predictor.images(asked, callbacks=Callbacks(skip=ignore_skip)), strict=True):
        if prediction.probabilities is None:
            continue
        seen += 1
        said, known = prediction.probabilities, predictions.probabilities[row]
        worst = int(np.abs(said - known).argmax())
        if abs(said[worst] - known[worst]) > _PROVENANCE_TOLERANCE:
            raise CnnkitError(
                f"{name} is not what {model} predicts: {predictions.paths[row]} has {predictions.classes[worst]} "
                f"{known[worst]:.4g} there, and the network says {said[worst]:.4g}; "
                f"predict with cnn-predict -m {model}, without --tta and its like"
            )
    if not seen:
        log.warning(
            "%s: its pictures cannot be read from here, so it is not checked that %s predicts that", name, model
        )
