"""Exported classifiers as functions: pixels or features in, probabilities and logits out. Imports no torch."""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.choices import ChannelOrder, Fit
from cnnkit.data import preprocessing
from cnnkit.engine.config import is_network_name
from cnnkit.engine.session import Session
from cnnkit.errors import BadImageError, FormatError, MemoryFullError, RunError, UsageError
from cnnkit.formats.header import LUMA, Header, Preprocess
from cnnkit.formats.onnx_record import COLUMNS_INPUT, NOVELTY
from cnnkit.messages import excerpt

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


#: Plain images of very different colours: at least some of them activate any network.
_COLOURS = ((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128))


class OnnxNetwork:
    """A network with one input, which converts images to the type and layout of that input; or also with columns of metadata.

    Attributes:
        name: The file.
        session: The ONNX Runtime session.
        input: Name of the input.
        dtype: Type of the input; images are normalized first unless it is uint8.
        shape: Shape of the input, the batch first; None for an axis of any length.
        channels: Number of channels of the input, 3 or 1; None if it does not take images.
        channels_first: Whether the input is (N, channels, H, W).
        order: Order of the channels; set for a network that cnnkit did not make.
        columns: Number of columns that it takes next to the images.
    """

    def __init__(self, name: str, session: Session, *, columns: int = 0) -> None:
        """Read type and shape of the input.

        Args:
            name: The file.
            session: Its session.
            columns: Number of columns that the caller passes; the network has to take them.

        Raises:
            FormatError: Another number of inputs, or one that is not numeric.
        """
        inputs = dict(session.inputs)
        if columns and inputs.pop(COLUMNS_INPUT, None) is None:
            raise FormatError(f"{name}: its header has columns, and its graph has no such input; export it again")
        if len(inputs) != 1:
            remedy = (
                "; only cnn-predict gives it columns, so train a head without --use" if COLUMNS_INPUT in inputs else ""
            )
            raise FormatError(
                f"{name}: takes {len(session.inputs)} inputs ({', '.join(map(excerpt, session.inputs))}), expected one{remedy}"
            )
        self.columns = columns
        ((self.input, (kind, shape)),) = inputs.items()
        if kind not in _DTYPES:
            raise FormatError(
                f"{name}: its input {excerpt(self.input)} is {kind}, expected one of {', '.join(_DTYPES)}"
            )
        self.name, self.session = name, session
        self.dtype = _DTYPES[kind]
        self.shape = tuple(size if isinstance(size, int) else None for size in shape)
        self.order = ChannelOrder.RGB
        self.channels, self.channels_first = _channels(self.shape, takes_bytes=self.dtype is np.uint8)

    @property
    def sides(self) -> tuple[int | None, int | None]:
        """Height and width of the input images; None for a side of any length."""
        height, width = self.shape[2:4] if self.channels_first else self.shape[1:3]
        return height, width

    def for_trials(self) -> "OnnxNetwork":
        """Return the same network for images that may be too small for it, see `Session.without_layouts`."""
        other = copy.copy(self)
        other.session = self.session.without_layouts()
        return other

    def run(
        self,
        inputs: NDArray[Any],
        outputs: Sequence[str],
        *,
        preprocess: Preprocess | None,
        columns: NDArray[np.float32] | None = None,
    ) -> list[NDArray[Any]]:
        """Return some of the network's outputs.

        Args:
            inputs: uint8 (N, size, size, 3), or features (N, D) or (N, C, h, w). They are split if the network has a fixed batch size.
            outputs: Names of the outputs.
            preprocess: Mean and standard deviation of the images; None for features.
            columns: Codes of their columns, (N, columns), for a network that takes them.
        """
        assert (columns is not None) is (self.columns > 0)
        size = self.shape[0] or len(inputs)
        pieces = []
        for start in range(0, len(inputs), size):
            piece = inputs[start : start + size]
            if len(piece) < size:
                piece = np.concatenate([piece, np.zeros((size - len(piece), *piece.shape[1:]), dtype=piece.dtype)])
            if preprocess is not None:
                piece = self._arranged(piece, preprocess)
            given = {self.input: np.ascontiguousarray(piece, dtype=self.dtype)}
            if columns is not None:
                given[COLUMNS_INPUT] = np.zeros((len(piece), self.columns), dtype=np.float32)
                given[COLUMNS_INPUT][: len(columns) - start] = columns[start : start + size]
            pieces.append(self.session.run(given, outputs))
            for name, array in zip(outputs, pieces[-1], strict=True):
                if not isinstance(array, np.ndarray):
                    raise FormatError(f"{self.name}: its output {excerpt(name)} is not an array")
        return [
            np.concatenate([np.atleast_1d(array) for array in arrays])[: len(inputs)]
            for arrays in zip(*pieces, strict=True)
        ]

    def rows(
        self,
        inputs: NDArray[Any],
        outputs: Sequence[str],
        *,
        preprocess: Preprocess | None,
        columns: NDArray[np.float32] | None = None,
    ) -> list[NDArray[Any]]:
        """Return some of the network's outputs, as `run`, and check that each has one row per image, or a number if it is the novelty.

        Raises:
            FormatError: An output does not.
        """
        found = self.run(inputs, outputs, preprocess=preprocess, columns=columns)
        for name, output in zip(outputs, found, strict=True):
            if output.dtype.kind != "f" or (output.ndim > 1) is (name == NOVELTY) or len(output) != len(inputs):
                raise FormatError(
                    f"{self.name}: its output {excerpt(name)} is not a {'' if name == NOVELTY else 'row of '}floating-point "
                    f"number{'' if name == NOVELTY else 's'} for each image"
                )
        return found

    def _arranged(self, pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[Any]:
        """Convert pixels (N, H, W, 3) to the values, channels and order of axes of the network's input."""
        values: NDArray[Any] = pixels
        if self.order is ChannelOrder.GREY and not preprocess.grey:
            values = _luma(pixels)[..., None].repeat(self.channels or 3, axis=3)
            if self.dtype is np.uint8:
                values = (values + 0.5).astype(np.uint8)
        if self.dtype is not np.uint8:
            values = _normalised(values, preprocess, channels_first=self.channels_first)
            if preprocess.grey and not self.channels_first:
                values = values.transpose(0, 2, 3, 1)
        elif self.channels_first:
            values = values.transpose(0, 3, 1, 2)
        if self.order is ChannelOrder.BGR:
            values = np.flip(values, axis=1 if self.channels_first else 3)
        return values


def _channels(shape: tuple[int | None, ...], *, takes_bytes: bool) -> tuple[int | None, bool]:
    """Find the axis of the channels: its length, and whether it comes before height and width."""
    if len(shape) != 4:
        return None, False
    # If several axes fit: cnnkit's own networks take uint8 (N, H, W, 3) or floats (N, C, H, W)
    for channels, axis in ((3, 3), (3, 1), (1, 3), (1, 1)) if takes_bytes else ((3, 1), (1, 1), (3, 3), (1, 3)):
        if shape[axis] == channels:
            return channels, axis == 1
    return None, False


def _luma(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the brightness of pixels, 0 to 255, (N, H, W, 3) -> (N, H, W)."""
    return pixels.astype(np.float32) @ np.array(LUMA, dtype=np.float32)


def _normalised(pixels: NDArray[Any], preprocess: Preprocess, *, channels_first: bool) -> NDArray[np.float32]:
    """Normalize every channel: (N, H, W, 3) -> (N, 3, H, W) or the same layout, or grey (N, 1, H, W).

    The same steps as in the graphs that cnn-export writes.
    """
    mean, std = (np.array(values, dtype=np.float32) for values in (preprocess.mean, preprocess.std))
    scale, shift = np.float32(1) / (np.float32(255) * std), -mean / std
    if preprocess.grey:
        shares = np.array(LUMA, dtype=np.float32)
        luma: NDArray[np.float32] = pixels.astype(np.float32) @ (shares * scale) + shares @ shift  # (N, H, W)
        return luma[:, None]
    if channels_first:
        pixels, scale, shift = pixels.transpose(0, 3, 1, 2), scale[:, None, None], shift[:, None, None]
    # In the memory order of the result: four times as fast as in that of the input
    ready: NDArray[np.float32] = np.multiply(pixels, scale, dtype=np.float32, order="C")
    ready += shift
    return ready


@dataclass(frozen=True, slots=True)
class OutputNames:
    """Names of the outputs; a network has at least one of the first two."""

    probabilities: str | None
    logits: str | None
    box: str | None = None
    novelty: str | None = None


class OnnxClassifier:
    """A network with named classes.

    Attributes:
        name: The file.
        network: The network.
        header: None for a network that cnnkit did not make.
        classes: In the order of the outputs' columns.
        preprocess: Preprocessing of images; None for a head, which takes features.
    """

    def __init__(
        self,
        network: OnnxNetwork,
        *,
        classes: tuple[str, ...],
        preprocess: Preprocess | None,
        outputs: OutputNames,
        header: Header | None = None,
    ) -> None:
        self.name, self.network, self.header = network.name, network, header
        self.classes, self.preprocess = classes, preprocess
        self._outputs = outputs
        self._seen: dict[tuple[int, int], bool] = {}  # (height, width) -> large enough

    @property
    def gives_logits(self) -> bool:
        """Whether the network has an output of logits."""
        return self._outputs.logits is not None

    @property
    def thresholds(self) -> NDArray[np.float32] | None:
        """With several labels per image: the probability from which on each class is a label, (classes,)."""
        if self.header is None or not self.header.multi_label:
            return None
        return np.array(self.header.label_thresholds, dtype=np.float32)

    @property
    def gives_box(self) -> bool:
        """Whether the network has an output of boxes."""
        return self._outputs.box is not None

    @property
    def gives_novelty(self) -> bool:
        """Whether the network has an output of the novelty of images, whose threshold is in the Header."""
        return self._outputs.novelty is not None

    def __call__(
        self,
        inputs: NDArray[Any],
        *,
        logits: bool = False,
        novelty: bool = False,
        columns: NDArray[np.float32] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Compute the outputs.

        Args:
            inputs: As `OnnxNetwork.run`.
            logits: Return the logits, too.
            novelty: Return the novelty, too, of a network that has one.
            columns: As `OnnxNetwork.run`.

        Returns:
            Probabilities (N, classes); with `logits`, logits (N, classes); of a network that predicts boxes, these (N, 4); with `novelty`,
            the novelty (N,).

        Raises:
            FormatError: The number of outputs differs from the number of class names, or a box has not four numbers.
        """
        wanted = [name for name in (self._outputs.probabilities, self._outputs.logits) if name is not None]
        some = wanted if logits else wanted[:1]
        further = [name for name in (self._outputs.box, self._outputs.novelty if novelty else None) if name is not None]
        outputs = self.network.rows(inputs, [*some, *further], preprocess=self.preprocess, columns=columns)
        others = [output.astype(np.float32, copy=False) for output in outputs[len(some) :]]
        if self._outputs.box is not None and others[0].shape[1:] != (4,):
            raise FormatError(
                f"{self.name}: its output {self._outputs.box} has the shape {others[0].shape}, expected (N, 4)"
            )
        return [*self._of_classes(outputs[: len(some)], logits=logits), *others]

    def _of_classes(self, outputs: Sequence[NDArray[Any]], *, logits: bool) -> list[NDArray[np.float32]]:
        """Return probabilities and logits from what the network returned."""
        rows = [output.astype(np.float32, copy=False).reshape(len(output), -1) for output in outputs]
        if self._outputs.probabilities is None:
            raw = _two_logits(rows[0])
            rows = [_softmax(raw), raw]
        else:
            rows = [_two_probabilities(rows[0]), *(_two_logits(row) for row in rows[1:])]
        if rows[0].shape[1] != len(self.classes):
            names = ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
            raise FormatError(
                f"{self.name} gives {rows[0].shape[1]} numbers per image, but has {len(self.classes)} classes: {names}"
            )
        return rows if logits else rows[:1]

    def resized(self, size: str | None, *, fit: Fit | None = None) -> "OnnxClassifier":
        """Return the same classifier for images of another size or fit.

        Args:
            size: `448` or `320x480`; by default its own.
            fit: How images are fitted to that size; by default as in training.

        Raises:
            UsageError: It takes features or images of a fixed size, or the size is too small for it.
        """
        if self.preprocess is None:
            raise UsageError(f"{self.name} is a head and takes features; --size needs a network that takes images")
        preprocess = preprocessing.shown_as(self.preprocess, size=size, fit=fit)
        wanted = (preprocess.height, preprocess.width)
        if any(side not in (None, given) for side, given in zip(self.network.sides, wanted, strict=True)):
            raise self.fixed()
        changed = OnnxClassifier(
            self.network, classes=self.classes, preprocess=preprocess, outputs=self._outputs, header=self.header
        )
        if wanted != (self.preprocess.height, self.preprocess.width):
            try:
                self.on_any(np.zeros((1, *wanted, 3), dtype=np.uint8), columns=self._blank_columns(1))
            except BadImageError as error:
                raise UsageError(f"--size {wanted[0]}x{wanted[1]}: {error}") from error
        return changed

    def _blank_columns(self, rows: int) -> NDArray[np.float32] | None:
        """Return columns for images that only show what the network accepts."""
        return np.zeros((rows, self.network.columns), dtype=np.float32) if self.network.columns else None

    def on_any(
        self,
        images: NDArray[np.uint8],
        *,
        logits: bool = False,
        novelty: bool = False,
        columns: NDArray[np.float32] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Compute the outputs for images of any size, (N, height, width, 3).

        Args, Returns as `__call__`.

        Raises:
            BadImageError: The network does not accept that size.
        """
        assert self.preprocess is not None
        height, width = images.shape[1:3]
        if height < self.preprocess.height or width < self.preprocess.width:
            if not self._sees(height, width):
                raise BadImageError(f"{width} x {height} pixels are too small for {self.name}")
            return self(images, logits=logits, novelty=novelty, columns=columns)
        try:
            return self(images, logits=logits, novelty=novelty, columns=columns)
        except RunError as error:
            raise BadImageError(f"{self.name} does not accept {width} x {height} pixels: {error.reason}") from error
        except MemoryFullError as error:  # a batch of one
            raise BadImageError(f"{width} x {height} pixels are too many for {self.name}: {error}") from error

    @functools.cached_property
    def _for_trials(self) -> "OnnxClassifier":
        return OnnxClassifier(
            self.network.for_trials(),
            classes=self.classes,
            preprocess=self.preprocess,
            outputs=self._outputs,
            header=self.header,
        )

    def _sees(self, height: int, width: int) -> bool:
        """Return whether images of some size are large enough to affect the output.

        If a map in the network becomes empty, ONNX Runtime fails at some layers; at others it takes the mean of nothing for 0, and the
        outputs for all images are equal.
        """
        if any(found and height >= above and width >= across for (above, across), found in self._seen.items()):
            return True
        if (height, width) not in self._seen:
            plain = np.empty((len(_COLOURS), height, width, 3), dtype=np.uint8)
            plain[:] = np.array(_COLOURS, dtype=np.uint8)[:, None, None]
            noise = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
            try:
                drawn = np.concatenate([plain, noise])
                blank = self._blank_columns(len(drawn))
                outputs = self._for_trials(drawn, logits=self.gives_logits, columns=blank)[-1]
            except (RunError, MemoryFullError):
                self._seen[height, width] = False
            else:
                self._seen[height, width] = bool(np.isfinite(outputs).all() and (outputs != outputs[0]).any())
        return self._seen[height, width]

    def fixed(self) -> UsageError:
        """Return the error that it takes only images of one size."""
        height, width = self.network.sides
        whitens = (
            self.header is not None and self.header.backbone is not None and self.header.backbone.whiten is not None
        )
        only = self.gives_box or whitens or is_network_name(self.name)
        remedy = "" if only else "export it again with cnn-export --dynamic-size, or "
        return UsageError(f"{self.name} takes only {_by((height, width))} pixels; {remedy}drop --size")


def _by(sides: tuple[int | None, int | None]) -> str:
    return " x ".join("any" if side is None else str(side) for side in sides)


def _two_logits(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Expand the single logit z of a sigmoid to logits 0 and z of two classes: (N, 1) -> (N, 2)."""
    return np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits


def _two_probabilities(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Expand a single probability, that of the second class, to two: (N, 1) -> (N, 2)."""
    return np.concatenate([1 - probabilities, probabilities], axis=1) if probabilities.shape[1] == 1 else probabilities


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def from_header(network: OnnxNetwork, header: Header) -> OnnxClassifier:
    """Make a classifier of a network and its Header.

    Raises:
        FormatError: It is not a classifier, or the Header does not fit.
    """
    outputs = network.session.outputs
    if "probabilities" not in outputs or header.classes is None:
        raise FormatError(f"{network.name}: no output probabilities, or no class names; cnn-export writes classifiers")
    takes_features = network.input == "features"
    if not takes_features and header.preprocess is None:
        raise FormatError(f"{network.name}: its header has no preprocessing; export it again")
    if header.preprocess is not None and not takes_features:
        wanted = (header.preprocess.height, header.preprocess.width)
        if any(side not in (None, given) for side, given in zip(network.sides, wanted, strict=True)):
            raise FormatError(
                f"{network.name}: its header gives {_by(wanted)} pixels, its input takes {_by(network.sides)}; export it again"
            )
    return OnnxClassifier(
        network,
        classes=header.classes,
        preprocess=None if takes_features else header.preprocess,
        outputs=OutputNames(
            "probabilities",
            "logits" if "logits" in outputs else None,
            "box" if header.box_head is not None and "box" in outputs else None,
            NOVELTY if header.novelty is not None and NOVELTY in outputs else None,
        ),
        header=header,
    )
