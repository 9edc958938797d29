"""Export in int8: ranges from images of the training split, accuracy from those of the validation split, and the layers to keep in float32.

Imports no torch.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from cnnkit import messages
from cnnkit.callbacks import Callbacks
from cnnkit.data import preprocessing, reader, split_names
from cnnkit.data.source import ImageFile
from cnnkit.engine.config import ExportConfig
from cnnkit.engine.quantize import Quantizer, rates
from cnnkit.engine.session import Session
from cnnkit.errors import BadImageError, CnnkitError
from cnnkit.evaluation import label_metrics, label_thresholds, metrics
from cnnkit.formats.decimals import shortest
from cnnkit.formats.header import Header
from cnnkit.formats.onnx_record import THRESHOLDS

log = logging.getLogger("cnnkit")

#: The most images whose activations are measured, spread evenly over those of the split: more change the ranges little.
CALIBRATION_IMAGES = 256
#: The most of them on which the errors of layers are measured.
_ERROR_IMAGES = 32


@dataclass(frozen=True, slots=True)
class NetworkMeasures:
    """A network on held-out images: `top1_agreement` with float32, `bytes` of its file, `per_second` images on the CPU."""

    network: str
    rows: int
    accuracy: float
    log_loss: float | None
    top1_agreement: float
    bytes: int
    per_second: float
    int8_layers: int


@dataclass(frozen=True, slots=True)
class LabelNetworkMeasures:
    """The same of several labels per image.

    `log_loss` is the mean over all pairs of image and label, `agreement` the share of images with the same labels as in float32.
    """

    network: str
    rows: int
    mAP: float
    f1_micro: float
    log_loss: float | None
    agreement: float
    bytes: int
    per_second: float
    int8_layers: int


@dataclass(frozen=True, slots=True)
class _Accuracy:
    """What a network computes for the held-out images; `thresholds` are those of several labels per image."""

    probabilities: NDArray[np.float32]  # (N, classes)
    truth: NDArray[Any]  # (N,), of several labels (N, classes)
    thresholds: NDArray[np.float32] | None

    @property
    def prediction(self) -> NDArray[Any]:
        classes: NDArray[Any] = (
            self.probabilities.argmax(1) if self.thresholds is None else self.probabilities >= self.thresholds
        )
        return classes

    def measures(self) -> dict[str, float]:
        """Return the measures by name; int8 may lower the first one by --max-drop."""
        if self.thresholds is None:
            return {"accuracy": float((self.prediction == self.truth).mean())}
        one = np.ones((1, len(self.truth)))
        found = label_metrics.weighted(self.truth, self.prediction, self.probabilities.astype(np.float64), one)
        return {"mAP": float(found.mAP[0]), "f1_micro": float(found.f1_micro[0])}

    def main(self) -> tuple[str, float]:
        """Return the measure that --max-drop is about, and its value."""
        return next(iter(self.measures().items()))

    def log_loss(self) -> float | None:
        probabilities = self.probabilities.astype(np.float64)
        if self.thresholds is None:
            return metrics.log_loss(self.truth, probabilities)
        pairs = np.column_stack([1 - probabilities.ravel(), probabilities.ravel()])  # a label is there, or not
        return metrics.log_loss(self.truth.ravel().astype(np.int64), pairs)

    def agreement(self, other: "_Accuracy") -> float:
        """Return the share of images with the same class, or the same labels."""
        same = (self.prediction == other.prediction).reshape(len(self.truth), -1)
        return float(same.all(axis=1).mean())


class Int8Export:
    """Quantization of one exported network."""

    def __init__(
        self,
        content: bytes,
        header: Header,
        images: Sequence[ImageFile],
        config: ExportConfig,
        *,
        name: str,
        source: str,
        arranged: Callable[[NDArray[np.uint8]], NDArray[Any]],
        checked: Callable[[ModelProto, Header], bytes],
        callbacks: Callbacks,
    ) -> None:
        """Divide the images and prepare the network.

        Args:
            content: The network in float32, as exported.
            header: Its Header.
            images: Labelled, of splits train and val; without splits, every other one is held out.
            config: The options.
            name: The model, for messages.
            source: The images, for messages.
            arranged: Converts uint8 (N, H, W, 3) to the input of the network.
            checked: Makes the bytes of a file from a graph and a Header.
            callbacks: As `export_model`.

        Raises:
            CnnkitError: No image can be used, or the network cannot be quantized.
        """
        self._header, self._config, self._callbacks = header, config, callbacks
        self._arranged, self._checked = arranged, checked
        self._numbers = {label: number for number, label in enumerate(header.classes or ())}
        self._calibration, self._held_out = divided(images, self._numbers, source=source, several=header.multi_label)
        self._thresholds = np.array(header.label_thresholds, np.float32) if header.multi_label else None
        self._source = source
        self._float32 = content
        self._quantizer = Quantizer(content, name=name)

    def made(self) -> tuple[bytes, list[NetworkMeasures] | list[LabelNetworkMeasures]]:
        """Quantize: all layers, or if accuracy drops too much, without the layers with the largest errors.

        Returns:
            The bytes to write, and one record for float32 and for int8.

        Raises:
            CnnkitError: Accuracy drops too much even with half of the layers in float32, or no image could be read.
        """
        callbacks, quantizer = self._callbacks, self._quantizer
        callbacks.phase("calibrating")
        quantizer.calibrate(self._read_calibration())
        if not self._calibration:
            raise CnnkitError(f"{self._source}: no image could be used to calibrate on; nothing written")
        callbacks.phase("measuring accuracy")
        float32 = self._session(self._float32)
        graph = quantizer.quantized()
        before, after = self._accuracies([float32, self._session(graph.SerializeToString())])
        if 0 < self._config.max_drop < 1 / len(before.truth):
            log.warning(
                "%s is measured on only %s, one of which is a larger share than --max-drop %g; calibrate on more images",
                before.main()[0],
                messages.count_images(len(before.truth)),
                self._config.max_drop,
            )
        kept: list[str] = []
        if not self._holds(before, after):
            kept, graph, after = self._with_float32_layers(before, after)
        if self._thresholds is not None:
            callbacks.phase("choosing thresholds")
            after = replace(after, thresholds=self._matching(graph))
            self._warn_of_thresholds(before, after)
        layers, content = self._finished(graph, before, after, kept)
        sample = np.stack([pixels for _, pixels in self._pixels(_spread(self._calibration, self._config.batch))])
        speeds = rates([float32, self._session(content)], self._arranged(sample))
        networks = [
            ("float32", before, len(self._float32), speeds[0], 0),
            ("int8", after, len(content), speeds[1], layers),
        ]
        return content, self._measured(networks, before)

    def _holds(self, before: _Accuracy, after: _Accuracy) -> bool:
        # Accuracies of the same images differ by multiples of 1/N, apart from rounding
        return before.main()[1] - after.main()[1] <= self._config.max_drop + 1e-9

    def _matching(self, graph: ModelProto) -> NDArray[np.float32]:
        """Return the thresholds with which the network in int8 gives the labels of float32 most often, by the F1 score of each class.

        They are chosen on the images of the calibration, whose true labels are not needed; a threshold that no other one beats stays.
        """
        assert self._thresholds is not None
        sessions = [self._session(self._float32), self._session(graph.SerializeToString())]
        (wanted, found), _ = self._probabilities(sessions, self._calibration)
        chosen = label_thresholds.best(found, wanted >= self._thresholds, near=self._header.label_thresholds)
        matching = np.array(chosen, np.float32)
        if changed := int((matching != self._thresholds).sum()):
            log.info("%d of %d thresholds are chosen again, for the labels of float32", changed, len(matching))
        return matching

    def _warn_of_thresholds(self, before: _Accuracy, after: _Accuracy) -> None:
        """Warn where the labels of int8 are worse than those of float32, whose thresholds may fit the held-out images best."""
        value, lower = before.measures()["f1_micro"], after.measures()["f1_micro"]
        if value - lower > self._config.max_drop:
            log.warning(
                "micro F1 drops from %.4g to %.4g; compare both on test images with cnn-eval --baseline: thresholds of float32 that were "
                "chosen on the held-out images are the best for these",
                value,
                lower,
            )

    def _with_float32_layers(self, before: _Accuracy, worst: _Accuracy) -> tuple[list[str], ModelProto, _Accuracy]:
        """Keep the layers with the largest errors in float32: 1, 2, 4, ... of them, then fewer if that suffices."""
        quantizer = self._quantizer
        self._callbacks.phase("measuring layers")
        sample = _spread(self._calibration, _ERROR_IMAGES)
        errors = quantizer.errors(self._arranged(np.stack([pixels])) for _, pixels in self._pixels(sample))
        order = sorted(quantizer.layers, key=lambda layer: errors[layer], reverse=True)
        most = len(order) // 2
        best: tuple[list[str], ModelProto, _Accuracy] | None = None
        fails, count = 0, min(1, most)
        while count > fails:
            self._callbacks.phase(f"measuring accuracy with {_layers(count)} in float32")
            graph = quantizer.quantized(order[:count])
            (after,) = self._accuracies([self._session(graph.SerializeToString())])
            if self._holds(before, after):
                best = order[:count], graph, after
                count = (fails + count) // 2
            else:
                worst, fails = after, count
                count = min(2 * count, most) if best is None else (count + len(best[0])) // 2
        if best is None:
            half = f"also with {most} of {len(order)} layers in float32" if most else "with its only layer"
            (name, value), (_, lower) = before.main(), worst.main()
            raise CnnkitError(
                f"in int8, {half}, {name} on {messages.count_images(len(self._held_out))} drops from {value:.4g} to {lower:.4g}, "
                f"more than --max-drop {self._config.max_drop:g}; nothing written. "
                "Give a larger --max-drop, or export without --int8 or with --fp16"
            )
        return best

    def _finished(
        self,
        graph: ModelProto,
        before: _Accuracy,
        after: _Accuracy,
        kept: Collection[str],
    ) -> tuple[int, bytes]:
        """Return the number of int8 layers and the bytes of the file, whose Header contains their number."""
        float32 = [*self._quantizer.outer_layers, *(layer for layer in self._quantizer.layers if layer in kept)]
        record: dict[str, Any] = {
            "calibration_images": len(self._calibration),
            "images": len(after.truth),
            **{f"{name}_float32": value for name, value in before.measures().items()},
            **after.measures(),
            "log_loss_float32": before.log_loss(),
            "log_loss": after.log_loss(),
            "top1_agreement" if self._thresholds is None else "agreement": before.agreement(after),
            "bytes_float32": len(self._float32),
            "bytes": 0,
            "float32_layers": float32,
        }
        content = b""
        while record["bytes"] != len(content) or not content:
            record["bytes"] = len(content)
            training = {**self._header.training, "int8": record}
            copy = ModelProto()
            copy.CopyFrom(graph)
            header = self._header.but(training=training)
            if after.thresholds is not None:
                _set_thresholds(copy, after.thresholds)
                header = header.but(thresholds=tuple(map(shortest, after.thresholds)))
            content = self._checked(copy, header)
        log.info("layers in float32: %s", messages.shortened(float32, 8))
        return len(self._quantizer.layers) - len(kept), content

    def _measured(
        self, networks: Sequence[tuple[str, _Accuracy, int, float, int]], before: _Accuracy
    ) -> list[NetworkMeasures] | list[LabelNetworkMeasures]:
        """Return a record for each network: name, what it computes, bytes, images per second, and layers in int8."""
        fields = [
            {
                "network": name,
                "rows": len(found.truth),
                **found.measures(),
                "log_loss": found.log_loss(),
                "top1_agreement" if self._thresholds is None else "agreement": before.agreement(found),
                "bytes": size,
                "per_second": round(speed, 1),
                "int8_layers": layers,
            }
            for name, found, size, speed, layers in networks
        ]
        if self._thresholds is None:
            return [NetworkMeasures(**each) for each in fields]  # type: ignore[arg-type]
        return [LabelNetworkMeasures(**each) for each in fields]  # type: ignore[arg-type]

    def _session(self, content: bytes) -> Session:
        return Session(content, device="cpu", name="the exported network")  # in int8 only CPUs are faster

    def _accuracies(self, sessions: Sequence[Session]) -> list[_Accuracy]:
        """Measure networks on the held-out images."""
        found, good = self._probabilities(sessions, self._held_out)
        if not good:
            raise CnnkitError(f"{self._source}: no image could be used to measure accuracy on; nothing written")
        self._held_out = good  # unreadable images are reported once
        truth = self._truth(good)
        return [_Accuracy(each, truth, self._thresholds) for each in found]

    def _probabilities(
        self, sessions: Sequence[Session], images: Sequence[ImageFile]
    ) -> tuple[list[NDArray[np.float32]], list[ImageFile]]:
        """Run networks on images, which are decoded once for all of them, one batch at a time.

        Returns:
            The probabilities of each network, (N, classes), and the N images that can be read.
        """
        found: list[list[NDArray[np.float32]]] = [[] for _ in sessions]
        good: list[ImageFile] = []
        for some, inputs in self._batches(images):
            good += some
            for session, rows in zip(sessions, found, strict=True):
                (taken,) = session.inputs
                rows += session.run({taken: inputs}, ["probabilities"])
        return [np.concatenate(rows) for rows in found if rows], good

    def _truth(self, images: Sequence[ImageFile]) -> NDArray[Any]:
        """Return the numbers of the classes, (N,); of several labels whether each image has each class, (N, classes)."""
        numbers = [[self._numbers[label] for label in _labels(image) or ()] for image in images]
        if self._thresholds is None:
            return np.array(numbers, np.int64)[:, 0]
        truth = np.zeros((len(images), len(self._numbers)), bool)
        for row, places in enumerate(numbers):
            truth[row, places] = True
        return truth

    def _read_calibration(self) -> Iterator[NDArray[Any]]:
        good: list[ImageFile] = []
        for images, inputs in self._batches(self._calibration):
            good += images
            yield inputs
        self._calibration = good

    def _batches(self, images: Sequence[ImageFile]) -> Iterator[tuple[list[ImageFile], NDArray[Any]]]:
        """Yield images and the input for them, in batches."""
        held: list[tuple[ImageFile, NDArray[np.uint8]]] = []
        size = self._config.batch

        def ready() -> tuple[list[ImageFile], NDArray[Any]]:
            return [image for image, _ in held], self._arranged(np.stack([pixels for _, pixels in held]))

        done = 0
        for done, pair in enumerate(self._pixels(images), start=1):
            held.append(pair)
            if len(held) == size:
                yield ready()
                self._callbacks.progress(done, len(images))
                held = []
        if held:
            yield ready()
            self._callbacks.progress(done, len(images))

    def _pixels(self, images: Sequence[ImageFile]) -> Iterator[tuple[ImageFile, NDArray[np.uint8]]]:
        """Yield images with their pixels (H, W, 3), without those that cannot be read."""
        assert self._header.preprocess is not None
        load = partial(preprocessing.load, preprocess=self._header.preprocess)
        for image, loaded in reader.read(images, load, jobs=self._config.jobs, ahead=2 * self._config.batch):
            if isinstance(loaded, BadImageError):
                self._callbacks.skip(image.path, str(loaded))
            else:
                yield image, loaded


def _set_thresholds(graph: ModelProto, thresholds: NDArray[np.float32]) -> None:
    """Replace the thresholds of several labels in a graph."""
    (weight,) = (each for each in graph.graph.initializer if each.name == THRESHOLDS)
    weight.CopyFrom(numpy_helper.from_array(thresholds, THRESHOLDS))


def _labels(image: ImageFile) -> tuple[str, ...] | None:
    """Return the labels of an image, or its only one; None if unknown."""
    if image.labels is not None:
        return image.labels
    return None if image.label is None else (image.label,)


def divided(
    images: Sequence[ImageFile], classes: Collection[str], *, source: str, several: bool = False
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Divide images into those to calibrate on, at most `CALIBRATION_IMAGES`, and labelled ones to measure accuracy on.

    Args:
        images: With splits, those of train and val count; without, every other image is held out.
        classes: Of the model.
        source: Their name, for messages.
        several: Whether the model has several labels per image.

    Raises:
        CnnkitError: One of the two would be empty.
    """
    if any(image.split for image in images):
        names = sorted({image.split for image in images if image.split})
        used = [image for image in images if (image.split or "").lower() in split_names.TRAIN_NAMES]
        held_out = [image for image in images if (image.split or "").lower() in split_names.VALIDATION_NAMES]
        for role, found in (("train", used), ("val", held_out)):
            if not found:
                raise CnnkitError(
                    f"{source}: no images of split {role}, only {', '.join(names)}; --int8 measures ranges on train and accuracy on val: "
                    "make them with cnn-split --ratio 8,2, or give images without splits"
                )
        if left := len(images) - len(used) - len(held_out):
            log.info("%s: %s not in train or val left out", source, messages.count_images(left))
    else:
        if len(images) < 2:
            raise CnnkitError(f"{source}: only one image; --int8 measures ranges and accuracy on different images")
        used, held_out = list(images[::2]), list(images[1::2])
        log.info("%s has no splits: ranges are measured on every other image, accuracy on the rest", source)
    if several:
        known = [(image, _labels(image)) for image in held_out]
        labelled = [image for image, labels in known if labels is not None and {*labels} <= {*classes}]
        labelled = labelled if any(map(_labels, labelled)) else []  # else no measure is defined
    else:
        labelled = [image for image in held_out if image.label in classes]
    if len(labelled) < len(held_out):
        left_out = messages.count_images(len(held_out) - len(labelled))
        log.warning("%s: %s without a class of the model left out of the accuracy", source, left_out)
    if not labelled:
        raise CnnkitError(
            f"{source}: no held-out image has a class of the model ({messages.shortened(list(classes), 5)}); "
            "--int8 measures accuracy on labelled images: give a folder of class folders, or a manifest with labels"
        )
    there = {os.path.abspath(image.path) for image in labelled}
    used = [image for image in used if os.path.abspath(image.path) not in there]
    if not used:
        raise CnnkitError(f"{source}: no image is left to calibrate on; --int8 needs images that are not held out")
    return _spread(used, CALIBRATION_IMAGES), labelled


def _spread(images: Sequence[ImageFile], most: int) -> list[ImageFile]:
    """Return a number of images at most, at equal distances: sources are sorted by class."""
    count = min(most, len(images))
    return [images[number * len(images) // count] for number in range(count)]


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"
