"""Classification with exported networks, as cnn-predict does it. No torch, except for test-time augmentation that needs resampling."""

from __future__ import annotations  # help() shows ImageLike, and not all that it stands for

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnkit.api import images as inputs
from cnnkit.api.calls import choice, public
from cnnkit.api.images import Errors, ImageLike
from cnnkit.callbacks import Callbacks
from cnnkit.choices import Crops, Precision, Vote
from cnnkit.data import shards
from cnnkit.data.source import ImageFile
from cnnkit.errors import UsageError
from cnnkit.formats.decimals import shortest
from cnnkit.formats.header import PredictionSets
from cnnkit.formats.predictions import Prediction
from cnnkit.infer import feature_input, predict
from cnnkit.infer.config import ModelSpec, PredictConfig
from cnnkit.infer.predict import ImageOutput, Predictor
from cnnkit.option_fields import DEFAULT_BATCH, check_range, check_ranges


@dataclass(frozen=True, slots=True, eq=False)
class ImagePrediction:
    """The prediction for one image.

    Attributes:
        path: The file, or `image N` for the N-th of images in memory.
        label: The most probable class.
        probability: Its probability, 0 to 1.
        labels: For a model with several labels per image: the classes whose probability is not below their threshold, the most probable
            first. Else None.
        probabilities: That of every class, float32 (classes,), in the order of `Classifier.classes`.
    """

    path: str
    label: str
    probability: float
    labels: tuple[str, ...] | None
    probabilities: NDArray[np.float32] = field(repr=False)
    _output: ImageOutput = field(repr=False)
    _classes: tuple[str, ...] = field(repr=False)
    _thresholds: NDArray[np.float32] | None = field(default=None, repr=False)
    _sets: PredictionSets | None = field(default=None, repr=False)

    @property
    def prediction_set(self) -> tuple[str, ...] | None:
        """Classes in the prediction set, the most probable first, for a model of cnn-calibrate --sets; None for others and for votes."""
        if self._sets is None:
            return None
        return tuple(row.label for row in predict.rows([self._output], self._classes, sets=self._sets))

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The predicted box, (x, y, width, height) in pixels of the upright image; None if it is outside, or the network predicts none."""
        found = self._output.box
        return None if found is None else (found.x, found.y, found.width, found.height)

    @property
    def novelty(self) -> float | None:
        """The distance of the image to the training images, of a network of cnn-calibrate --novelty; None of another."""
        found = self._output.novelty
        return None if found is None else float(found)

    @public
    def top(self, k: int | None = None) -> list[Prediction]:
        """Return the k most probable classes, the best first, as rows that `write_predictions` takes; by default all.

        Raises:
            UsageError: `k` is below 1.
        """
        check_range("k", k, minimum=1)
        most = len(self._classes) if k is None else k
        return list(predict.rows([self._output], self._classes, top=most, thresholds=self._thresholds))


class Classifier:
    """An exported network, loaded once, or several that vote.

    Attributes:
        classes: In the order of `probabilities`.
        thresholds: For a model with several labels per image: the probability of each class from which on it is a label. Else None.
        device: cpu or cuda.
        novelty_threshold: The novelty above which cnn-predict --reject prints ?; None for a network without a novelty.
    """

    @public
    def __init__(
        self,
        model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        weights: str | os.PathLike[str] = "default",
        device: str = "auto",
        batch: int | None = None,
        jobs: int | None = None,
        workers: int = 0,
        precision: str = "float32",
        vote: str = "soft",
        tta: str | None = None,
        views: int | None = None,
        crops: int | None = None,
        seed: int = 0,
        columns: str | os.PathLike[str] | None = None,
    ) -> None:
        """Load networks.

        Args:
            model: A .onnx from cnn-export, or the name of a network of torchvision or timm; or several of the same classes. For a .pt run
                cnn-export first.
            weights: Of a network by name: a state_dict file, default (pretrained) or none (random).
            device: auto, cpu, cuda or cuda:N. cuda runs on the GPU or fails.
            batch: Images that go through the network at once; by default 32, on a GPU 128.
            jobs: Threads that decode images; by default all cores.
            workers: Processes that have these threads; 0 for this process. Images in memory are prepared in this process.
            precision: float32, tf32 or float16, on a GPU.
            vote: soft for the mean of the probabilities of several models or views, hard for the majority.
            tta: Test-time augmentation in the notation, for example "crop 0.9, hflip".
            views: How many views `tta` draws.
            crops: 5 or 10 crops of each image in place of `tta`.
            seed: Of what `tta` draws.
            columns: For a model of cnn-train-head --use, a manifest with its columns; by default those that list the images.

        Raises:
            UsageError: Options contradict each other or the networks.
            FormatError: A file is not a classifier.
            DeviceError: The device does not exist.
            CnnkitError: A file cannot be read, or the classes of the networks differ.
        """
        models = [model] if isinstance(model, str | os.PathLike) else model
        if not models:
            raise UsageError("no model; give a .onnx from cnn-export")
        config = PredictConfig(
            device=device,
            batch=DEFAULT_BATCH if batch is None else batch,
            on_command_line=frozenset() if batch is None else frozenset({"batch"}),
            jobs=jobs,
            workers=workers,
            precision=choice(Precision, precision, "precision"),
            vote=choice(Vote, vote, "vote"),
            tta=tta,
            views=views,
            crops=None if crops is None else choice(Crops, str(crops), "crops"),
            seed=seed,
            columns=None if columns is None else Path(columns),
        )
        check_ranges(config)
        make_copies = None
        if config.needs_torch_views:
            from cnnkit.infer import torch_views  # torch, for other words than flips and crops

            make_copies = torch_views.TorchCopies()
        spec = ModelSpec(weights=os.fspath(weights))
        self._predictor = Predictor([os.fspath(each) for each in models], config, spec=spec, make_copies=make_copies)
        self.classes: tuple[str, ...] = tuple(self._predictor.classes)
        thresholds = self._predictor.thresholds
        self.thresholds: tuple[float, ...] | None = (
            None if thresholds is None else tuple(shortest(each) for each in thresholds)
        )
        self.device: str = self._predictor.device
        self.novelty_threshold: float | None = self._predictor.novelty_threshold

    @public
    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        split: str | None = None,
        shard: str | None = None,
        errors: Errors = "raise",
        progress: Callable[[int, int | None], None] | None = None,
    ) -> list[ImagePrediction]:
        """Predict images.

        Args:
            images: One or several: paths, folders, manifests, Pillow images, or arrays of uint8 (H, W, 3).
            split: Use only this split of folders and manifests.
            shard: Predict only a share, such as 2/8 for the second of eight, with the same bits as in a call for all images.
            errors: raise for an image that cannot be used; skip logs it and leaves it out, a function is called with path and reason.
            progress: Called after every batch with the images done and their number, None if that is unknown.

        Returns:
            One prediction for each image, in order.

        Raises:
            BadImageError: An image cannot be used.
            CnnkitError: A path does not exist.
        """
        found, callbacks = inputs.image_files(images, split=split), inputs.callbacks(errors, progress=progress)
        return list(self._stream(found, callbacks, shard, _tables(images)))

    @public
    def stream(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        split: str | None = None,
        shard: str | None = None,
        errors: Errors = "raise",
    ) -> Iterator[ImagePrediction]:
        """Yield predictions as batches are done, in order, for more images than memory holds. Args, Raises as `predict`."""
        return self._stream(inputs.iterate(images, split=split), inputs.callbacks(errors), shard, _tables(images))

    @public
    def predict_proba(
        self, images: ImageLike | Iterable[ImageLike], *, split: str | None = None
    ) -> NDArray[np.float32]:
        """Return the probability of every class, float32 (images, classes), in the order of `classes`. Args, Raises as `predict`."""
        found = [each.probabilities for each in self.predict(images, split=split)]
        return np.stack(found) if found else np.empty((0, len(self.classes)), dtype=np.float32)

    def _stream(
        self, found: Iterable[ImageFile], callbacks: Callbacks, shard: str | None, listed_in: Sequence[Path]
    ) -> Iterator[ImagePrediction]:
        sets = self._predictor.sets
        outputs = self._predictor.images(found, shard=shards.of(shard), listed_in=listed_in, callbacks=callbacks)
        for output in outputs:
            if output.probabilities is None:
                continue
            thresholds = self._predictor.thresholds
            (best,) = predict.rows([output], self.classes, top=1, thresholds=thresholds)
            assert best.probability is not None
            labels = None
            if thresholds is not None:
                named = predict.rows([output], self.classes, top=None, thresholds=thresholds)
                labels = tuple(row.label for row in named if row.rank)
            yield ImagePrediction(
                output.path,
                best.label,
                best.probability,
                labels,
                output.probabilities,
                output,
                self.classes,
                thresholds,
                sets,
            )


def _tables(images: ImageLike | Iterable[ImageLike]) -> list[Path]:
    """Return the manifests among images that are given as paths."""
    given = [images] if isinstance(images, str | os.PathLike) else images if isinstance(images, list | tuple) else []
    return feature_input.tables([os.fspath(each) for each in given if isinstance(each, str | os.PathLike)])
