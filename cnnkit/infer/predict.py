"""Prediction of class probabilities for images or features. Imports no torch."""

import contextlib
import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import messages
from cnnkit.callbacks import Callbacks, Skip, ignore_skip
from cnnkit.data import box_geometry, box_targets, in_memory, shards
from cnnkit.data.shards import Shard
from cnnkit.data.source import ImageFile
from cnnkit.engine import runner
from cnnkit.engine.runner import Rates
from cnnkit.errors import BadImageError, CnnkitError, UsageError
from cnnkit.evaluation import conformal
from cnnkit.evaluation.matching import MatchedPredictions
from cnnkit.formats import tsv
from cnnkit.formats.box import Box
from cnnkit.formats.decimals import shortest
from cnnkit.formats.header import PredictionSets
from cnnkit.formats.predictions import WITHHELD, LabelPrediction, Prediction
from cnnkit.infer import ensemble, feature_input, label_rows
from cnnkit.infer.column_input import ColumnInput
from cnnkit.infer.config import ModelSpec, PredictConfig
from cnnkit.infer.ensemble import Ensemble
from cnnkit.infer.feature_input import FeatureRows
from cnnkit.infer.views import CopyMaker, check_test_views, parse_test_views, single_threaded
from cnnkit.option_fields import given

log = logging.getLogger("cnnkit")

#: Number of images to predict again, those with the least confident predictions: there networks differ most.
_PROVENANCE_IMAGES = 8

#: The largest difference of a probability due to another device or to float16; another network, temperature or vote differs by more on at
#: least one of the images.
_PROVENANCE_TOLERANCE = 0.02

_NOT_FINITE = "the network's output is not finite"


#: Columns of predictions that only some have, after those of `Prediction`: the logit of the class; the box of the object in pixels of the
#: upright image, None if it is outside of the image; the number of labels in the prediction set; the distance
#: to the training images.
_EXTRAS: dict[str, Any] = {"logit": float | None, "box": str | None, "set_size": int | None, "novelty": float | None}


@functools.cache
def _row_type(*extras: str, base: type[Prediction]) -> type[Prediction]:
    """Return the class of predictions with these further columns."""
    if not extras:
        return base
    fields = [(name, _EXTRAS[name], field(default=None)) for name in extras]
    return make_dataclass("PredictionWithMore", fields, bases=(base,), frozen=True, slots=True)


@dataclass(frozen=True, slots=True)
class ImageOutput:
    """Prediction of one image; `probabilities` is None if the image could not be used.

    `probabilities` (classes,) are the scores of the classes, `ranking` (classes,) the classes from best to worst, `logits` (classes,).
    `box` is in pixels of the upright image; None if it is outside of the image, or the network predicts none, see `has_box`. `novelty` is
    the distance to the training images; None if the network computes none.
    """

    path: str
    probabilities: NDArray[np.float32] | None = None
    ranking: NDArray[np.int64] | None = None
    logits: NDArray[np.float32] | None = None
    box: Box | None = None
    has_box: bool = False
    novelty: np.float32 | None = None


class Predictor:
    """One or several networks that predict the classes of images, from one or several views of each."""

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
            models: One `.onnx` or more; their classes are matched by name, in the order of the first model.
            config: Vote, views, batch, device.
            spec: For networks without a Header; and the image size for networks with a dynamic size.
            make_copies: From `torch_views`, needed if `config.needs_torch_views`.

        Raises:
            UsageError: Options contradict each other or the networks.
            CnnkitError: The networks' classes differ.
            FormatError: A file is not a classifier.
        """
        config = (config or PredictConfig()).checked(models=len(models))
        views = parse_test_views(
            config.tta, views=config.views, crops=config.crops, seed=config.seed, make_copies=make_copies
        )
        self._open = partial(
            Ensemble, models, spec=spec or ModelSpec(), logits=config.logits, precision=config.precision
        )
        self._ensemble = self._open(device=config.device, batch=config.batch_on("cpu"))
        if config.workers and self._ensemble.native:
            raise UsageError("--size native decodes in this process; drop --workers")
        self._batch = config.batch_on(self._ensemble.device)
        self.classes = self._ensemble.classes
        self._config, self._views = config, views
        if self.gives_box and views is not None:
            raise UsageError(
                f"{models[0]} predicts a box, and the boxes of several views cannot vote; drop --tta and --crops"
            )
        self.thresholds = self._thresholds()
        if config.sets:
            self._check_sets(spec or ModelSpec())
        if config.reject:
            self._check_reject(spec or ModelSpec())
        self._columns: ColumnInput | None = None  # of the current images
        for model in self._ensemble.models:
            if views is not None and model.preprocess is not None:
                check_test_views(views, model.preprocess, name=model.name, native=self._ensemble.native)

    def _thresholds(self) -> NDArray[np.float32] | None:
        """Return the thresholds of networks with several labels per image, (classes,): their own, or --min-probability."""
        own = self._ensemble.thresholds
        if own is None:
            return None
        if given(self._config, names=("min_probability",)):
            return np.full(len(self.classes), self._config.min_probability, dtype=np.float32)
        return label_rows.voted_thresholds(own, self._config.vote)

    @property
    def device(self) -> str:
        """The kind of device that the networks run on: cpu or cuda."""
        return self._ensemble.device

    @property
    def gives_box(self) -> bool:
        """Whether the network predicts a box, too."""
        return self._ensemble.gives_box

    @property
    def gives_novelty(self) -> bool:
        """Whether the network computes the novelty of images."""
        return self._ensemble.gives_novelty

    @property
    def novelty_threshold(self) -> float | None:
        """The novelty above which images are unlike the training images; None if the network computes none."""
        header = self._ensemble.models[0].header
        return header.novelty.threshold if self.gives_novelty and header and header.novelty else None

    @property
    def most_novelty(self) -> float | None:
        """The novelty above which a label is withheld; None if none is."""
        return self.novelty_threshold if self._config.reject else None

    @property
    def sets(self) -> PredictionSets | None:
        """Prediction sets of the network; None without any, and for votes of several models or views, which have other probabilities."""
        (header, *others) = (model.header for model in self._ensemble.models)
        return None if header is None or others or self._views is not None else header.sets

    @property
    def takes_features(self) -> bool:
        """Whether one of the networks is a head, which takes features instead of images."""
        return any(model.preprocess is None for model in self._ensemble.models)

    def images(
        self,
        images: Iterable[ImageFile],
        *,
        shard: Shard | None = None,
        listed_in: Sequence[str | Path] = (),
        callbacks: Callbacks | None = None,
    ) -> Iterator[ImageOutput]:
        """Predict images, or a shard of them, in their order, batch by batch.

        Args:
            images: The first batch is read before this returns, the others as predictions are consumed.
            shard: Predict only these; by default the shard that the configuration names.
            listed_in: Tables that list the images, which may have columns that a network takes; `config.columns` has precedence.
            callbacks: `skip` for every image that cannot be used, `progress` after every batch.

        Raises:
            UsageError: A model takes features, or columns that are not known.
        """
        self._demand_images()
        self._columns = self._column_input(listed_in)
        callbacks = callbacks or Callbacks()
        views = 1 if self._views is None else 1 + self._views.copies
        at_once = max(1, self._batch // views)
        shard, before, of_all = shard or shards.of(self._config.shard), 0, None
        if shard is not None:
            images = list(images)
            before, of_all = shard.bounds(len(images))[0], len(images)
            images = shards.share(images, shard)
        if self.gives_box:  # it was trained on whole images, and finds the box itself
            images = box_targets.whole_images(images)
        if self._columns is not None and isinstance(images, Sequence):
            self._columns.check(images)
        coming = iter(images)
        first = list(islice(coming, at_once))
        total = len(images) if isinstance(images, Sequence) else len(first) if len(first) < at_once else None
        size = at_once if self._ensemble.native else _even(at_once, total if of_all is None else of_all)
        return self._images(
            chain(first, coming),
            batch=views * size,
            first=views * (before % size),  # a shard has the batches of a run without shards, and so the same bits
            callbacks=replace(callbacks, progress=lambda done, _: callbacks.progress(done, total)),
        )

    def bench(self, images: Sequence[ImageFile]) -> Rates:
        """Measure the speed of decoding, of the networks, and of both together, with all views; nothing is predicted.

        Args:
            images: The images to measure with.

        Raises:
            UsageError: A model takes features, or images keep their own sizes.
        """
        self._demand_images()
        if self._ensemble.native:
            raise UsageError("--bench measures batches of one size; drop --size native")
        if self.takes_columns:
            raise UsageError("--bench measures networks that take only images; drop it, or train a head without --use")
        views = 1 if self._views is None else 1 + self._views.copies
        with single_threaded(self._views):
            return runner.bench(
                images,
                self._ensemble.ways,
                self._ensemble.network,
                batch=views * _even(max(1, self._batch // views), len(images)),
                advised=self._batch,
                reopen=lambda size: self._open(device=self.device, batch=size).network,
                jobs=self._config.jobs,
                workers=self._config.workers,
                views=self._views,
                shared_cores=self.device == "cpu",
                in_flight=runner.batches_in_flight(self.device),
            )

    def _check_sets(self, spec: ModelSpec) -> None:
        """Check that the network has prediction sets, and gives the probabilities that their threshold is for."""
        name, header = self._ensemble.models[0].name, self._ensemble.models[0].header
        if header is not None:
            header.refuse_several_labels(name, "prediction sets are of one label; drop --sets")
        if header is None or header.sets is None:
            word = messages.shell_word(name)
            raise UsageError(
                f"{name} has no prediction sets; make them with cnn-calibrate --sets 0.95 -m {word} -o SETS.onnx, see cnn-calibrate --help"
            )
        if spec.size is not None:
            raise UsageError(
                f"the prediction sets of {name} are for its own size of images; drop --size, or drop --sets"
            )

    def _check_reject(self, spec: ModelSpec) -> None:
        """Check that the network computes the novelty of images, and for images of the size that its threshold is for."""
        models = self._ensemble.models
        if len(models) > 1:
            raise UsageError(
                "--reject needs the novelty of one model, and several give none; give one --model, or drop it"
            )
        if not self.gives_novelty:
            word = messages.shell_word(models[0].name)
            raise UsageError(
                f"{models[0].name} computes no novelty, which --reject needs; add it with "
                f"cnn-calibrate --novelty train.npy --val val.npy -m {word} -o NOVELTY.onnx"
            )
        if spec.size is not None:
            raise UsageError(
                f"the threshold of the novelty of {models[0].name} is for its own size of images; drop --size, or drop --reject"
            )

    @property
    def takes_columns(self) -> bool:
        """Whether one of the networks takes metadata next to the image."""
        return bool(self._ensemble.columns)

    def _column_input(self, listed_in: Sequence[str | Path]) -> ColumnInput | None:
        """Find the columns that networks take; None if they take none.

        Raises:
            UsageError: There is no such column, or a table is given for networks that take none.
        """
        wanted, given = self._ensemble.columns, self._config.columns
        if not wanted:
            if given is not None:
                raise UsageError(
                    f"--columns {given}: {self._ensemble.models[0].name} takes only images; drop it, or train a head with --use"
                )
            return None
        if self._ensemble.native:
            raise UsageError(f"{wanted[0][0]} takes columns next to the image, and --size native only images; drop it")
        return ColumnInput(wanted, given, own=listed_in)

    def _demand_images(self) -> None:
        """Refuse models that take features."""
        for model in self._ensemble.models:
            if model.preprocess is None:
                raise UsageError(
                    f"{model.name} is a head and takes features, not images; give it a .npy from cnn-extract, "
                    "or export the whole network without --head-only"
                )

    def _images(
        self, images: Iterable[ImageFile], *, batch: int, first: int, callbacks: Callbacks
    ) -> Iterator[ImageOutput]:
        views = 1 if self._views is None else 1 + self._views.copies
        results = self._ensemble.run(
            images,
            batch=batch,
            jobs=self._config.jobs,
            workers=self._config.workers,
            views=self._views,
            first=first,
            metadata=self._columns,
            progress=callbacks.progress,
        )
        with single_threaded(self._views), contextlib.closing(results):
            for image, outputs in results:
                if isinstance(outputs, BadImageError):
                    callbacks.skip(image.path, str(outputs))
                    yield ImageOutput(image.path)
                else:
                    novelty = outputs.pop() if self.gives_novelty else None
                    boxes = outputs.pop() if self.gives_box else None
                    (values,) = zip(*self._voted(outputs, views), strict=True)
                    # The first view is the image without changes, to which the threshold was fitted
                    output = _image_output(
                        image.path, values, callbacks.skip, novelty=None if novelty is None else novelty[0]
                    )
                    yield output if boxes is None else self._with_box(output, image, boxes)
        if self._columns is not None:
            self._columns.report()

    def _with_box(self, output: ImageOutput, image: ImageFile, values: NDArray[np.float32]) -> ImageOutput:
        """Add the box, (1, 4), to an output; the size of the image is read from its file."""
        preprocess = self._ensemble.models[0].preprocess
        if output.probabilities is None or preprocess is None:
            return output
        found = box_geometry.in_image(values[0], in_memory.upright_size(image), preprocess)
        return replace(output, box=found, has_box=True)

    def features(self, found: Sequence[FeatureRows], *, callbacks: Callbacks | None = None) -> Iterator[ImageOutput]:
        """Predict rows of features, in their order.

        Args:
            found: From `feature_input.find`.
            callbacks: `skip` for every row whose prediction is not finite, `progress` after every batch.

        Raises:
            UsageError: A model takes images.
            FormatError: The features are not like those that a model was trained on.
        """
        if self._views is not None:
            raise UsageError(f"{found[0].name} holds features, which have no other views; drop --tta or --crops")
        for model in self._ensemble.models:
            if model.preprocess is not None:
                raise UsageError(
                    f"{found[0].name} holds features, and {model.name} takes images; give it images, "
                    "or use a head from cnn-export --head-only"
                )
            for rows in found:
                feature_input.check(rows, model)
        self._columns = self._column_input(feature_input.tables([rows.name for rows in found]))
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
                columns = None
                if self._columns is not None:
                    coded = np.stack([self._columns.of(path) for path in paths])
                    columns = np.pad(coded, ((0, size - len(paths)), (0, 0)))
                arrays = [
                    array[: len(paths)]
                    for array in self._ensemble.predict([filled] * len(self._ensemble.models), columns)
                ]
                novelty = arrays.pop() if self.gives_novelty else [None] * len(paths)
                for path, distance, *prediction in zip(paths, novelty, *self._voted(arrays, 1), strict=True):
                    yield _image_output(path, prediction, callbacks.skip, novelty=distance)
                done += len(paths)
                callbacks.progress(done, total)
        if self._columns is not None:
            self._columns.report()

    def _voted(self, arrays: Sequence[NDArray[np.float32]], views: int) -> list[NDArray[Any]]:
        """Combine the predictions of models and views into one per image.

        Args:
            arrays: From `Ensemble.predict`; the views of an image are consecutive rows.
            views: Number of views per image.

        Returns:
            Scores and ranking, (N, classes) both, and the logits if requested.
        """
        models = len(self._ensemble.models)
        ballots = [array[view::views] for array in arrays[:models] for view in range(views)]
        if (own := self._ensemble.thresholds) is not None:
            each = [thresholds for thresholds in own for _ in range(views)]
            return [*label_rows.count_votes(ballots, each, self._config.vote), *arrays[models:]]
        return [*ensemble.count_votes(ballots, self._config.vote), *arrays[models:]]


def _even(batch: int, total: int | None) -> int:
    """Choose an equal batch size of at most `batch`: 33 images become batches of 17 and 16 instead of 32 and 1, which is padded."""
    if not total:
        return batch
    return -(-total // -(-total // batch))


def _image_output(
    path: str, values: Sequence[NDArray[Any]], skip: Skip, *, novelty: np.float32 | None = None
) -> ImageOutput:
    if not np.isfinite(values[0]).all() or (novelty is not None and not np.isfinite(novelty)):
        skip(path, _NOT_FINITE)
        return ImageOutput(path)
    probabilities, ranking, *logits = values
    return ImageOutput(path, probabilities, ranking, logits[0] if logits else None, novelty=novelty)


def rows(
    outputs: Iterable[ImageOutput],
    classes: Sequence[str],
    *,
    top: int | None = 1,
    min_probability: float = 0.0,
    most_novelty: float | None = None,
    sets: PredictionSets | None = None,
    need_one: bool = True,
    thresholds: NDArray[np.float32] | None = None,
) -> Iterator[Prediction]:
    """Convert outputs to predictions, the best `top` classes of each image; skipped images have none.

    Args:
        outputs: From a Predictor.
        classes: Its classes.
        top: Number of classes per image; all if there are fewer. With `thresholds`, None for the classes from their thresholds on.
        min_probability: Labels with a lower probability are replaced by `?`.
        most_novelty: Labels of images with a higher novelty are replaced by `?`.
        sets: List at least the classes in the prediction set of the image, and their number in each row.
        need_one: Raise an error if no image can be used; a shard may have none.
        thresholds: Of a Predictor with several labels per image, as all arguments above; see `label_rows.rows`.

    Yields:
        Rows of rank 1 to `top`; with a logit if the outputs have logits.

    Raises:
        CnnkitError: There are images, and none could be used.
    """
    for output in _demanding_one(outputs) if need_one else outputs:
        yield from _rows_of(
            output,
            classes,
            top=top,
            min_probability=min_probability,
            most_novelty=most_novelty,
            sets=sets,
            thresholds=thresholds,
        )


def _rows_of(
    output: ImageOutput,
    classes: Sequence[str],
    *,
    top: int | None,
    min_probability: float,
    most_novelty: float | None = None,
    sets: PredictionSets | None = None,
    thresholds: NDArray[np.float32] | None = None,
) -> Iterator[Prediction]:
    if output.probabilities is not None and output.ranking is not None:
        extras: dict[str, Any] = {}
        if output.logits is not None:
            extras["logit"] = None
        if output.has_box:
            extras["box"] = None if output.box is None else output.box.text()
        if sets is not None:
            extras["set_size"] = _set_size(output.probabilities[output.ranking], sets)
            top = None if top is None else max(top, extras["set_size"])
        novel = False
        if output.novelty is not None:
            extras["novelty"] = shortest(output.novelty)
            novel = most_novelty is not None and extras["novelty"] > most_novelty
        if thresholds is not None:
            yield from label_rows.rows(
                output.path,
                classes,
                _row_type(*extras, base=LabelPrediction),
                probabilities=output.probabilities,
                ranking=output.ranking,
                thresholds=thresholds,
                top=top,
                logits=output.logits,
                extras=extras,
                withheld=novel,
            )
            return
        row = _row_type(*extras, base=Prediction)
        for rank, place in enumerate(output.ranking[:top], start=1):
            probability = shortest(output.probabilities[place])
            label = classes[place] if probability >= min_probability and not novel else WITHHELD
            if output.logits is not None:
                extras["logit"] = shortest(output.logits[place])
            yield row(output.path, rank, label, probability, **extras)


def _set_size(ranked: NDArray[np.float32], sets: PredictionSets) -> int:
    """Return the number of labels in the prediction set of an image, from its probabilities (classes,), the highest first."""
    return int(conformal.sizes(ranked[None].astype(np.float64), sets)[0])


def labels(
    predictions: Iterable[ImageOutput],
    classes: Sequence[str],
    *,
    min_probability: float = 0.0,
    most_novelty: float | None = None,
    need_one: bool = True,
    thresholds: NDArray[np.float32] | None = None,
    top: int | None = None,
) -> Iterator[str]:
    """Yield one line per image: its label, `?` below `min_probability` or above `most_novelty`, an empty line if it was skipped.

    So line n always belongs to the n-th image. With `thresholds`, the line has all labels of the image, and is also empty if there is
    none. `need_one`, `thresholds`, `top` as `rows`.

    Raises:
        CnnkitError: There are images, and none could be used.
    """
    for prediction in _demanding_one(predictions) if need_one else predictions:
        most = 1 if thresholds is None else top
        found = list(
            _rows_of(
                prediction,
                classes,
                top=most,
                min_probability=min_probability,
                most_novelty=most_novelty,
                thresholds=thresholds,
            )
        )
        yield label_rows.line(found) if thresholds is not None else tsv.escape(found[0].label) if found else ""


def _demanding_one(outputs: Iterable[ImageOutput]) -> Iterator[ImageOutput]:
    """Give outputs as they come, and refuse in the end that all were skipped."""
    total, used = 0, False
    for output in outputs:
        total, used = total + 1, used or output.probabilities is not None
        yield output
    if total and not used:
        raise CnnkitError("no image could be used; nothing is predicted")


def check_provenance(model: Path, predictions: MatchedPredictions, *, name: str) -> None:
    """Check that a file of predictions was made by a network, by predicting some of its images again.

    If the network is a head, or the images are not there any more, this cannot be checked, which is logged.

    Args:
        model: The `.onnx`.
        predictions: With the probability of every class, in the network's order.
        name: The file of predictions, for messages.

    Raises:
        CnnkitError: The network gives other probabilities.
    """
    predictor = Predictor([model], PredictConfig(device="cpu"))
    least = np.argsort(predictions.confidence, kind="stable")[:_PROVENANCE_IMAGES].tolist()
    if predictor.takes_features:
        log.info("%s takes features: cannot check that it predicted %s", model, name)
        return
    if predictor.takes_columns:
        log.info("%s takes columns next to the image: cannot check that it predicted %s", model, name)
        return
    images = [ImageFile(predictions.paths[row]) for row in least]
    compared = 0
    for row, prediction in zip(least, predictor.images(images, callbacks=Callbacks(skip=ignore_skip)), strict=True):
        if prediction.probabilities is None:
            continue
        compared += 1
        found, known = prediction.probabilities, predictions.probabilities[row]
        worst = int(np.abs(found - known).argmax())
        if abs(found[worst] - known[worst]) > _PROVENANCE_TOLERANCE:
            raise CnnkitError(
                f"{name} was not predicted by {model}: {predictions.paths[row]} has {predictions.classes[worst]} "
                f"{known[worst]:.4g} in the file, {found[worst]:.4g} from the network; "
                f"predict again with cnn-predict -m {model}, without --tta and --crops"
            )
    if not compared:
        log.warning("%s: its images cannot be read from here, so cannot check that %s predicted them", name, model)
