"""An exported classifier as a function: pixels, or features, in; probabilities and logits out. No torch.

What cnn-export writes says by its Header what it takes. A network from elsewhere is looked at: the order of its axes, whether its
output holds probabilities, and whether its batch is fixed; the rest has to be told.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto

from cnnkit.choices import Fit, Interpolation
from cnnkit.data import preprocess as preparing
from cnnkit.engine.session import Session
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import labels, onnx_model
from cnnkit.formats.header import Header, Preprocess

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
_SHAPE_ONLY = frozenset(
    {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Transpose", "QuantizeLinear", "DequantizeLinear"}
)
#: How far a row of probabilities may be from 1 in sum: float16 over many classes.
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Description:
    """What the command line says about a network that carries no Header; None is not said.

    `mean` and `std` are per channel, for values from 0 to 1; `labels` is a file of classes in the order of the outputs.
    """

    size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    labels: Path | None = None
    resize: int | None = None
    fit: Fit | None = None
    interpolation: Interpolation | None = None

    def given(self) -> list[str]:
        """List the options that were given."""
        return [f"--{field.name}" for field in fields(self) if getattr(self, field.name) is not None]


def channels(text: str | None, *, option: str) -> tuple[float, float, float] | None:
    """Read three numbers with commas between them, or one that stands for all three channels.

    Args:
        text: What stood on the command line; None stays None.
        option: Its name, for messages.

    Raises:
        UsageError: It is something else, or a deviation that is not above zero.
    """
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not np.isfinite(numbers).all() or (option == "--std" and min(numbers) <= 0):
        positive = " above zero" if option == "--std" else ""
        raise UsageError(f'{option} "{text}": give three numbers{positive} as in 0.485,0.456,0.406, or one for all channels')
    red, green, blue = numbers * 3 if len(numbers) == 1 else numbers
    return red, green, blue


@dataclass(frozen=True, slots=True)
class _Input:
    """What a network takes: `shape` has None where any number goes."""

    name: str
    dtype: type[np.generic]
    shape: tuple[int | None, ...]
    channels_first: bool

    @property
    def batch(self) -> int | None:
        return self.shape[0]


@dataclass(frozen=True, slots=True)
class _Outputs:
    """Which outputs hold the answer; a network has at least one of the two."""

    probabilities: str | None
    logits: str | None


class OnnxClassifier:
    """A network with named classes.

    Attributes:
        name: The file.
        header: None for a network from elsewhere.
        classes: In the order of the answers' columns.
        preprocess: How pictures are prepared; None for a head, which takes features.
        shape: Of one picture or of one row of features, None where any number goes.
    """

    def __init__(
        self,
        name: str,
        session: Session,
        *,
        header: Header | None,
        classes: tuple[str, ...],
        preprocess: Preprocess | None,
        taken: _Input,
        outputs: _Outputs,
    ) -> None:
        self.name, self.header, self.classes, self.preprocess = name, header, classes, preprocess
        self.shape = taken.shape[1:]
        self.device = session.device
        self._session, self._taken, self._outputs = session, taken, outputs
        self._table = None if preprocess is None or taken.dtype is np.uint8 else _normalisation(preprocess)

    @property
    def gives_logits(self) -> bool:
        """Whether there is anything before the softmax to be had."""
        return self._outputs.logits is not None

    def __call__(
        self, inputs: NDArray[Any], *, logits: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Compute the answers.

        Args:
            inputs: uint8 (N, size, size, 3), or features (N, D) or (N, C, h, w).
            logits: Give those as well.

        Returns:
            Probabilities (N, classes), and logits (N, classes) where asked for.

        Raises:
            FormatError: The network gives another number of classes than it has names.
        """
        wanted = [name for name in (self._outputs.probabilities, self._outputs.logits) if name is not None]
        if not logits:
            wanted = wanted[:1]
        found = {
            name: answer.astype(np.float32, copy=False).reshape(len(inputs), -1)
            for name, answer in zip(wanted, self.run(inputs, wanted), strict=True)
        }
        raw = found.get(self._outputs.logits or "")
        if raw is not None and raw.shape[1] == 1:  # one sigmoid's z stands for two classes with logits 0 and z
            raw = np.concatenate([np.zeros_like(raw), raw], axis=1)
        answer = found.get(self._outputs.probabilities or "")
        if answer is None:
            assert raw is not None
            answer = _softmax(raw)
        elif answer.shape[1] == 1:
            answer = np.concatenate([1 - answer, answer], axis=1)
        if answer.shape[1] != len(self.classes):
            raise FormatError(
                f"{self.name} gives {answer.shape[1]} numbers a picture, but there are {len(self.classes)} classes: "
                f"{', '.join(self.classes[:5])}{', ...' if len(self.classes) > 5 else ''}"
            )
        return answer, raw if logits else None

    def run(self, inputs: NDArray[Any], outputs: list[str]) -> list[NDArray[Any]]:
        """Give some of the network's outputs as they are, in pieces of the batch where that is fixed."""
        size = self._taken.batch or len(inputs)
        pieces = []
        for start in range(0, len(inputs), size):
            piece = inputs[start : start + size]
            if len(piece) < size:
                piece = np.concatenate([piece, np.zeros((size - len(piece), *piece.shape[1:]), dtype=piece.dtype)])
            pieces.append(self._session.run({self._taken.name: self._prepared(piece)}, outputs))
        return [np.concatenate(answers)[: len(inputs)] for answers in zip(*pieces, strict=True)]

    def _prepared(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Give the network what it takes: bytes as they are, or normalised numbers in its own order of axes."""
        if self._table is None:
            return np.ascontiguousarray(inputs, dtype=self._taken.dtype)
        count, height, width, _ = inputs.shape
        ready = np.empty((count, 3, height, width), dtype=self._taken.dtype)
        for channel, values in enumerate(self._table):
            ready[:, channel] = values[inputs[..., channel]]
        return ready if self._taken.channels_first else np.ascontiguousarray(ready.transpose(0, 2, 3, 1))


def _normalisation(preprocess: Preprocess) -> NDArray[np.float32]:
    """What each of the 256 values of a channel becomes, (3, 256); computed as the network of cnn-train-head computes it."""
    mean, std = np.float32(preprocess.mean), np.float32(preprocess.std)
    scale, shift = np.float32(1) / (np.float32(255) * std), -mean / std
    table: NDArray[np.float32] = np.arange(256, dtype=np.float32) * scale[:, None] + shift[:, None]
    return table


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def load(path: str | Path, *, description: Description, device: str = "auto") -> OnnxClassifier:
    """Load a classifier.

    Args:
        path: The `.onnx`.
        description: Used for a network that carries no Header, and for no other.
        device: Where it runs.

    Raises:
        UsageError: It carries no Header, and the description lacks something; or it is no ONNX file by its name.
        FormatError: It is no classifier, or one that cannot be used here.
    """
    name = str(path)
    if name.endswith((".pt", ".pth")):
        raise UsageError(f"{name}: prediction runs on ONNX; cnn-export {name} -o {Path(name).stem}.onnx makes such a file")
    model = onnx_model.load(path)
    session = Session(model.content, device=device, name=name)
    if model.header is not None:
        return _ours(name, session, model.header)
    return _foreign(name, session, description, onnx_model.parse(model.content, name=name).graph)


def _ours(name: str, session: Session, header: Header) -> OnnxClassifier:
    taken = _input(name, session)
    if "probabilities" not in session.outputs or header.classes is None:
        raise FormatError(f"{name}: gives no probabilities of named classes; a classifier comes from cnn-export")
    takes_features = taken.name == "features"
    if not takes_features and header.preprocess is None:
        raise FormatError(f"{name}: its header does not say how pictures are prepared; export it again with cnn-export")
    return OnnxClassifier(
        name,
        session,
        header=header,
        classes=header.classes,
        preprocess=None if takes_features else header.preprocess,
        taken=taken,
        outputs=_Outputs("probabilities", "logits" if "logits" in session.outputs else None),
    )


def _foreign(name: str, session: Session, description: Description, graph: GraphProto) -> OnnxClassifier:
    taken = _input(name, session)
    if len(taken.shape) != 4 or 3 not in (taken.shape[1], taken.shape[3]):
        raise FormatError(
            f"{name}: its input {taken.name} has the shape ({_shown(taken.shape)}), expected pictures with three channels: "
            "(batch, 3, height, width) or (batch, height, width, 3)"
        )
    preprocess = _described(name, taken, description)
    assert description.labels is not None
    classes = labels.load(description.labels)
    probing = OnnxClassifier(
        name,
        session,
        header=None,
        classes=classes,
        preprocess=preprocess,
        taken=taken,
        outputs=_Outputs(None, None),
    )
    probing._outputs = _find_outputs(probing, session.outputs, graph, labels_name=str(description.labels))
    return probing


def _input(name: str, session: Session) -> _Input:
    if len(session.inputs) != 1:
        raise FormatError(f"{name}: takes {len(session.inputs)} inputs ({', '.join(session.inputs)}), expected one")
    ((label, (kind, shape)),) = session.inputs.items()
    if kind not in _DTYPES:
        raise FormatError(f"{name}: its input {label} is {kind}, expected one of {', '.join(_DTYPES)}")
    sizes = tuple(size if isinstance(size, int) else None for size in shape)
    return _Input(label, _DTYPES[kind], sizes, channels_first=len(sizes) == 4 and sizes[1] == 3)


def _shown(shape: tuple[int | None, ...]) -> str:
    return ", ".join("any" if size is None else str(size) for size in shape)


def _described(name: str, taken: _Input, description: Description) -> Preprocess:
    """Put together how pictures are prepared for a network from elsewhere.

    Raises:
        UsageError: Something is missing, or contradicts the network.
    """
    takes_bytes = taken.dtype is np.uint8
    needed = ["--size", "--labels"] if takes_bytes else ["--size", "--mean", "--std", "--labels"]
    missing = [option for option in needed if option not in description.given()]
    if missing:
        raise UsageError(
            f"{name} carries no cnnkit header, so how to prepare pictures and what its classes are must be said: "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        )
    if takes_bytes and (description.mean or description.std):
        raise UsageError(f"{name} takes bytes and normalises them itself; drop --mean and --std")
    size = description.size
    assert size is not None
    sides = taken.shape[2:] if taken.channels_first else taken.shape[1:3]
    if any(side not in (None, size) for side in sides):
        raise UsageError(f"{name} takes pictures of {_shown(sides).replace(', ', ' x ')} pixels, --size says {size}")
    standard = Preprocess(mean=description.mean or (0.0,) * 3, std=description.std or (1.0,) * 3)
    if description.interpolation is not None:
        standard = Preprocess(interpolation=description.interpolation, mean=standard.mean, std=standard.std)
    return preparing.with_size(standard, size=size, resize=description.resize, fit=description.fit)


def _find_outputs(network: OnnxClassifier, names: list[str], graph: GraphProto, *, labels_name: str) -> _Outputs:
    """Find the output with a number for each class, and whether it is a probability, by trying noise and by the last operator.

    A single number beside two classes is the second one's, as Keras' binary networks have it.

    Raises:
        FormatError: No output fits the classes, or the network does not run.
    """
    assert network.preprocess is not None
    size = network.preprocess.size
    noise = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    try:
        answers = network.run(noise, names)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise CnnkitError(
            f"{network.name} does not run on pictures of {size} x {size}: {str(error).splitlines()[0]}; is --size right?"
        ) from error
    widths = {len(network.classes)} | ({1} if len(network.classes) == 2 else set())
    for name, answer in zip(names, answers, strict=True):
        if answer.dtype.kind != "f" or len(answer) != len(noise) or answer[0].size not in widths:
            continue
        rows = answer.reshape(len(noise), -1).astype(np.float64)
        sums_to_one = rows.shape[1] > 1 and bool((rows >= 0).all()) and np.allclose(rows.sum(axis=1), 1, atol=_SUM_TOLERANCE)
        if sums_to_one or _last_operator(graph, name) in ("Softmax", "Sigmoid", "HardSigmoid"):
            return _Outputs(probabilities=name, logits=None)
        return _Outputs(probabilities=None, logits=name)
    shapes = "; ".join(f"{name} {answer.shape[1:]}" for name, answer in zip(names, answers, strict=True))
    raise FormatError(
        f"{network.name} has no output with a number for each of the {len(network.classes)} classes in {labels_name}; "
        f"for one picture it gives {shapes}"
    )


def _last_operator(graph: GraphProto, output: str) -> str:
    """Name the last operator before an output that changes values."""
    made_by = {name: node for node in graph.node for name in node.output}
    node = made_by.get(output)
    while node is not None and node.op_type in _SHAPE_ONLY:
        node = made_by.get(node.input[0])
    return node.op_type if node is not None else ""
