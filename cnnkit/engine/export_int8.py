"""Export in int8: ranges from images of the training split, accuracy from those of the validation split, and the layers to keep in float32.

Imports no torch.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from cnnkit import messages
from cnnkit.callbacks import Callbacks
from cnnkit.data import preprocessing, reader, split_names
from cnnkit.data.source import ImageFile
from cnnkit.engine.config import ExportConfig
from cnnkit.engine.quantize import Quantizer, rates
from cnnkit.engine.session import Session
from cnnkit.errors import BadImageError, CnnkitError
from cnnkit.evaluation import metrics
from cnnkit.formats.header import Header

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
class _Accuracy:
    """What a network computes for the held-out images."""

    probabilities: NDArray[np.float32]  # (N, classes)
    truth: NDArray[np.int64]  # (N,)

    @property
    def prediction(self) -> NDArray[np.int64]:
        classes: NDArray[np.int64] = self.probabilities.argmax(1)
        return classes

    @property
    def share(self) -> float:
        return float((self.prediction == self.truth).mean())

    @property
    def log_loss(self) -> float | None:
        return metrics.log_loss(self.truth, self.probabilities.astype(np.float64))


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
        self._calibration, self._held_out = divided(images, self._numbers, source=source)
        self._source = source
        self._float32 = content
        self._quantizer = Quantizer(content, name=name)

    def made(self) -> tuple[bytes, list[NetworkMeasures]]:
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
                "accuracy is measured on only %s, one of which is a larger share than --max-drop %g; calibrate on more images",
                messages.count_images(len(before.truth)),
                self._config.max_drop,
            )
        kept: list[str] = []
        if not self._holds(before, after):
            kept, graph, after = self._with_float32_layers(before, after)
        record, content = self._finished(graph, before, after, kept)
        sample = np.stack([pixels for _, pixels in self._pixels(_spread(self._calibration, self._config.batch))])
        speeds = rates([float32, self._session(content)], self._arranged(sample))
        return content, [
            self._measures("float32", before, before, size=len(self._float32), speed=speeds[0], layers=0),
            self._measures("int8", before, after, size=len(content), speed=speeds[1], layers=record),
        ]

    def _holds(self, before: _Accuracy, after: _Accuracy) -> bool:
        # Shares of the same images: their difference is a multiple of 1/N, apart from rounding
        return before.share - after.share <= self._config.max_drop + 1e-9

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
            raise CnnkitError(
                f"in int8, {half}, accuracy on {messages.count_images(len(self._held_out))} drops from {before.share:.4g} to "
                f"{worst.share:.4g}, more than --max-drop {self._config.max_drop:g}; nothing written. "
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
            "accuracy_float32": before.share,
            "accuracy": after.share,
            "log_loss_float32": before.log_loss,
            "log_loss": after.log_loss,
            "top1_agreement": _agreement(before, after),
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
            content = self._checked(copy, self._header.but(training=training))
        log.info("layers in float32: %s", messages.shortened(float32, 8))
        return len(self._quantizer.layers) - len(kept), content

    def _measures(
        self, network: str, before: _Accuracy, after: _Accuracy, *, size: int, speed: float, layers: int
    ) -> NetworkMeasures:
        return NetworkMeasures(
            network=network,
            rows=len(after.truth),
            accuracy=after.share,
            log_loss=after.log_loss,
            top1_agreement=_agreement(before, after),
            bytes=size,
            per_second=round(speed, 1),
            int8_layers=layers,
        )

    def _session(self, content: bytes) -> Session:
        return Session(content, device="cpu", name="the exported network")  # in int8 only CPUs are faster

    def _accuracies(self, sessions: Sequence[Session]) -> list[_Accuracy]:
        """Run networks on the held-out images, which are decoded once for all of them, one batch at a time."""
        found: list[list[NDArray[np.float32]]] = [[] for _ in sessions]
        good: list[ImageFile] = []
        for images, inputs in self._batches(self._held_out):
            good += images
            for session, rows in zip(sessions, found, strict=True):
                (taken,) = session.inputs
                rows += session.run({taken: inputs}, ["probabilities"])
        if not good:
            raise CnnkitError(f"{self._source}: no image could be used to measure accuracy on; nothing written")
        self._held_out = good  # unreadable images are reported once
        truth = np.array([self._numbers[image.label or ""] for image in good], dtype=np.int64)
        return [_Accuracy(np.concatenate(rows), truth) for rows in found]

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


def divided(
    images: Sequence[ImageFile], classes: Collection[str], *, source: str
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Divide images into those to calibrate on, at most `CALIBRATION_IMAGES`, and labelled ones to measure accuracy on.

    Args:
        images: With splits, those of train and val count; without, every other image is held out.
        classes: Of the model.
        source: Their name, for messages.

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


def _agreement(before: _Accuracy, after: _Accuracy) -> float:
    return float((before.prediction == after.prediction).mean())


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"
