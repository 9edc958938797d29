"""Networks without a cnnkit header: preprocessing and classes come from options, the meaning of the outputs from the graph."""

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto

from cnnkit.choices import ChannelOrder, Interpolation
from cnnkit.data import preprocessing
from cnnkit.engine.onnx_classifier import OnnxClassifier, OnnxNetwork, OutputNames
from cnnkit.errors import FormatError, RunError, UsageError
from cnnkit.formats import labels
from cnnkit.formats.header import Preprocess
from cnnkit.infer.config import ModelSpec, parse_channels
from cnnkit.messages import excerpt
from cnnkit.option_fields import given

log = logging.getLogger("cnnkit")

#: Operators that do not change values, and those that hardly do.
_SAME = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout"})
_PASSING = _SAME | {"Transpose", "Clip", "QuantizeLinear", "DequantizeLinear"}
_SOFTMAX = frozenset({"Softmax", "QLinearSoftmax"})
_SIGMOID = frozenset({"Sigmoid", "HardSigmoid", "QLinearSigmoid"})
#: Outputs of these operators are not probabilities, whatever their values.
_NO_PROBABILITY = frozenset(
    {
        *("LogSoftmax", "Gemm", "MatMul", "Conv", "Add", "Sub", "Sum", "BatchNormalization", "Relu", "LeakyRelu"),
        *(
            "FusedGemm",
            "FusedMatMul",
            "FusedConv",
            "QGemm",
            "QLinearMatMul",
            "QLinearConv",
            "QLinearAdd",
            "MatMulInteger",
        ),
        *("GlobalAveragePool", "AveragePool", "ReduceMean", "QLinearGlobalAveragePool", "QLinearAveragePool"),
    }
)
#: Operators that turn probabilities and a constant into something else, such as percentages.
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg"})
#: How far the sum of probabilities may be from 1, because of float16 rounding over many classes.
_SUM_TOLERANCE = 1e-3

_ROUNDED_TOLERANCE = 0.05  # for a softmax in float16, or with quantized weights

#: Patterns in names of outputs, most likely first; an output that matches none ranks between the two lists.
_NAMES = (r"logit", r"prob|softmax|sigmoid|score|predict|class")
_OTHER_NAMES = (r"embed|feat|hidden|pool|latent|represent|penult|token", r"aux")

#: Number of images in the trial run.
_TRIED = 4


class Meaning(Enum):
    """Meaning of an output's numbers."""

    LOGITS = auto()
    PROBABILITIES = auto()  # of exclusive classes: they sum to 1
    INDEPENDENT = auto()  # an independent probability of each class, from sigmoids


def from_spec(network: OnnxNetwork, spec: ModelSpec, graph: GraphProto) -> OnnxClassifier:
    """Make a classifier of a network without a Header, from the command line and a trial run.

    Args:
        network: Takes one array of images; the order of its channels is set here.
        spec: Preprocessing, classes and output.
        graph: The network's graph.

    Raises:
        UsageError: The spec is incomplete, or contradicts the network.
        FormatError: The network does not take images, does not run, or has no output with one number per class.
    """
    if network.channels is None:
        shown = ", ".join("any" if size is None else str(size) for size in network.shape)
        raise FormatError(
            f"{network.name}: its input {excerpt(network.input)} has the shape ({shown}), expected images with three channels or one, "
            "(batch, 3, height, width) or (batch, height, width, 3)"
        )
    network.order = _order(network, spec)
    preprocess = _preprocess(network, spec)
    assert spec.labels is not None
    classes = labels.load(spec.labels)
    outputs = _chosen(_tried(network, preprocess, graph), graph, spec, classes=len(classes), name=network.name)
    return OnnxClassifier(network, classes=classes, preprocess=preprocess, outputs=outputs)


def _order(network: OnnxNetwork, spec: ModelSpec) -> ChannelOrder:
    if network.channels == 1:
        if spec.channels not in (None, ChannelOrder.GREY):
            raise UsageError(f"{network.name} takes one channel; drop --channels {spec.channels}")
        return ChannelOrder.GREY
    return spec.channels or ChannelOrder.RGB


def _preprocess(network: OnnxNetwork, spec: ModelSpec) -> Preprocess:
    """Make the preprocessing from the options."""
    takes_bytes = network.dtype is np.uint8
    needed = ["--size", "--labels"] if takes_bytes else ["--size", "--mean", "--std", "--labels"]
    missing = [option for option in needed if option not in given(spec)]
    if missing:
        raise UsageError(
            f"{network.name} has no cnnkit header with preprocessing and classes; give also {', '.join(missing)}"
        )
    if takes_bytes and (spec.mean or spec.std or spec.range):
        raise UsageError(f"{network.name} takes uint8 and normalizes it itself; drop --mean, --std and --range")
    if not (spec.size or "").isdecimal() or not int(spec.size or 0):
        raise UsageError(
            f'{network.name} has no cnnkit header; --size must be the side of its input in pixels, not "{spec.size}"'
        )
    size = int(spec.size or 0)
    if any(side not in (None, size) for side in network.sides):
        raise UsageError(f"{network.name} takes {' x '.join(map(str, network.sides))} pixels; --size is {size}")
    mean = parse_channels(spec.mean, option="--mean") or (0.0, 0.0, 0.0)
    std = parse_channels(spec.std, option="--std") or (1.0, 1.0, 1.0)
    if network.channels == 1 and len(set(mean)) + len(set(std)) > 2:
        raise UsageError(f"{network.name} takes one channel; give --mean and --std one number each")
    if network.order is ChannelOrder.BGR:  # Preprocess has red first
        mean, std = mean[::-1], std[::-1]
    red, green, blue = (value / spec.white for value in mean)
    plain = Preprocess(
        interpolation=spec.interpolation or Interpolation.BILINEAR,
        mean=(red, green, blue),
        std=tuple(value / spec.white for value in std),
        grey=network.channels == 1 and not takes_bytes,
    )
    return preprocessing.with_size(plain, size=size, resize=spec.resize, fit=spec.fit, decoding=spec.decoding)


@dataclass(frozen=True, slots=True)
class _Tried:
    """An output and its values for `_TRIED` images; None if these are not an array."""

    name: str
    values: NDArray[Any] | None

    @property
    def width(self) -> int | None:
        """Numbers per image; None if they are not floating-point, or there is not one row per image."""
        values = self.values
        if values is None or values.dtype.kind != "f" or values.ndim < 2 or len(values) != _TRIED:
            return None
        return int(values[0].size)

    def __str__(self) -> str:
        if self.values is None:
            return f"{excerpt(self.name)} (not an array)"
        by_image = self.values.ndim > 0 and len(self.values) == _TRIED
        shape = self.values.shape[1:] if by_image else self.values.shape
        numbers = f"shape {shape}".replace(",)", ")") if shape else "one number"
        return f"{excerpt(self.name)} ({self.values.dtype}, {numbers}{'' if by_image else f' for {_TRIED} images'})"


def _tried(network: OnnxNetwork, preprocess: Preprocess, graph: GraphProto) -> list[_Tried]:
    """Run a network once, on four images from black to strong noise, and return all of its outputs."""
    size = preprocess.size
    strength = np.linspace(0, 1, _TRIED).reshape(_TRIED, 1, 1, 1)
    noise = np.random.default_rng(0).uniform(0, 256, (_TRIED, size, size, 3)) * strength
    arrays = [value.name for value in graph.output if value.type.WhichOneof("value") == "tensor_type"]
    try:
        trial = network.for_trials()
        values = trial.run(noise.astype(np.uint8), arrays, preprocess=preprocess) if arrays else []
    except RunError as error:
        raise FormatError(f"{network.name} does not run on {size} x {size} pixels: {error.reason}") from error
    found: dict[str, NDArray[Any]] = dict(zip(arrays, values, strict=True))
    return [_Tried(name, found.get(name)) for name in network.session.outputs]


def _chosen(tried: Iterable[_Tried], graph: GraphProto, spec: ModelSpec, *, classes: int, name: str) -> OutputNames:
    """Choose the output with one number per class, and the output of logits that it is the softmax or the sigmoid of.

    Raises:
        UsageError: `--output` is not an output.
        FormatError: No output has one number per class.
    """
    known = {each.name: each for each in tried}
    if spec.output is not None and spec.output not in known:
        raise UsageError(f"{name} has no output {spec.output}; its outputs are {', '.join(map(excerpt, known))}")
    made_by = {value: node for node in graph.node for value in node.output}
    widths = {classes} | ({1} if classes == 2 else set())
    fitting = [each.name for each in known.values() if each.width in widths]
    wanted = [output for output in fitting if spec.output in (None, output)]
    if not wanted:
        raise FormatError(_none_fits(known, made_by, spec, classes=classes, name=name))
    chosen = min(wanted, key=lambda output: _rank(output, made_by))  # the first of equal rank
    pairs = {output: _logits_of(output, fitting, made_by) for output in fitting}
    probabilities = next((output for output, logits in pairs.items() if logits == chosen), chosen)
    logits = pairs[probabilities]
    if spec.output is None and len(fitting) > len({probabilities, logits} - {None}):
        log.warning(
            "%s has the outputs %s with %d numbers per image: using %s; choose another with --output NAME",
            name,
            " and ".join(map(excerpt, fitting)),
            classes,
            excerpt(chosen),
        )
    meaning = _meaning(known[probabilities], made_by, name=name)
    if meaning is Meaning.INDEPENDENT and known[probabilities].width != 1:
        log.warning(
            "%s gives independent probabilities (%s is not a softmax): those of an image do not sum to 1",
            name,
            excerpt(probabilities),
        )
    return OutputNames(None, probabilities) if meaning is Meaning.LOGITS else OutputNames(probabilities, logits)


def _none_fits(
    known: Mapping[str, _Tried], made_by: Mapping[str, NodeProto], spec: ModelSpec, *, classes: int, name: str
) -> str:
    candidates = [known[spec.output]] if spec.output is not None else list(known.values())
    numbers = [each for each in candidates if _operator(each.name, made_by) in ("ArgMax", "TopK")]
    remedy = (
        f"; {excerpt(numbers[0].name)} is only the best class, export the network without its {_operator(numbers[0].name, made_by)}"
        if numbers
        else ""
    )
    return (
        f"{name} gives {' and '.join(map(str, candidates))} for one image, but {spec.labels} has {classes} classes: "
        f"one output must have {classes} floating-point numbers per image{remedy}"
    )


def _rank(output: str, made_by: Mapping[str, NodeProto]) -> int:
    """Rank an output by its name and operator; the lower, the more likely it is that of the classes."""
    name = output.lower()
    for place, pattern in reversed(list(enumerate(_OTHER_NAMES))):
        if re.search(pattern, name):
            return len(_NAMES) + 1 + place
    for place, pattern in enumerate(_NAMES):
        if re.search(pattern, name):
            return place
    return len(_NAMES) - 1 if _operator(output, made_by) in (*_SOFTMAX, *_SIGMOID, "LogSoftmax") else len(_NAMES)


def _meaning(output: _Tried, made_by: Mapping[str, NodeProto], *, name: str) -> Meaning:
    """Find the meaning of an output by its operator or, if that is not conclusive, by its values.

    Raises:
        FormatError: The values are logarithms of sigmoids, a softmax over another axis than the classes, or a multiple of probabilities.
    """
    operator = _operator(output.name, made_by)
    assert output.values is not None
    rows = output.values.reshape(_TRIED, -1).astype(np.float64)
    if operator in _SOFTMAX:
        quantised = _maker(output.name, made_by, _PASSING - {"DequantizeLinear"})
        if quantised is not None and quantised.op_type in _SOFTMAX:
            _check_sums(rows, f"{name}: {excerpt(output.name)}")
        return Meaning.PROBABILITIES
    if operator in _SIGMOID:
        return Meaning.INDEPENDENT
    if operator == "Log":
        node = _maker(output.name, made_by)
        if node is not None and _operator(node.input[0], made_by) in _SIGMOID:
            raise FormatError(
                f"{name}: {excerpt(output.name)} has the logarithms of sigmoids; export the network without them"
            )
        return Meaning.LOGITS  # the softmax of a log-softmax is the original softmax
    inside = bool((rows >= 0).all() and (rows <= 1 + _SUM_TOLERANCE).all())
    if inside and rows.shape[1] > 1 and np.allclose(rows.sum(axis=1), 1, atol=_SUM_TOLERANCE):
        return Meaning.PROBABILITIES
    if _changes_probabilities(output.name, made_by):
        if not inside:
            raise FormatError(
                f"{name}: {excerpt(output.name)} is computed from probabilities by {operator}, and is neither these nor logits; "
                f"export the network without its {operator}"
            )
        return Meaning.INDEPENDENT
    return Meaning.INDEPENDENT if inside and operator not in _NO_PROBABILITY else Meaning.LOGITS


def _check_sums(rows: NDArray[np.float64], what: str) -> None:
    """Check that a softmax is over the classes: over another axis, the numbers of an image do not sum to 1.

    Raises:
        FormatError: It is over another axis.
    """
    sums = rows.sum(axis=1)
    wrong = sums[np.abs(sums - 1) > _ROUNDED_TOLERANCE]  # NaN is another error, reported for each image
    if wrong.size:
        raise FormatError(
            f"{what} is a softmax over another axis than the classes: the numbers of an image sum to {wrong[0]:.3g}; "
            "export the network with a softmax over its classes, or without one"
        )


def _changes_probabilities(output: str, made_by: Mapping[str, NodeProto]) -> bool:
    """Return whether an output is arithmetic with only probabilities and constants."""
    node = _maker(output, made_by)
    if node is None or node.op_type not in _ARITHMETIC:
        return False
    computed = [_operator(each, made_by) for each in node.input if _operator(each, made_by) not in ("", "Constant")]
    return bool(computed) and all(each in (*_SOFTMAX, *_SIGMOID) for each in computed)


def _maker(output: str, made_by: Mapping[str, NodeProto], passing: Collection[str] = _PASSING) -> NodeProto | None:
    """Find the last node before an output that changes values."""
    node = made_by.get(output)
    while node is not None and node.op_type in passing:
        node = made_by.get(node.input[0])
    return node


def _operator(output: str, made_by: Mapping[str, NodeProto]) -> str:
    node = _maker(output, made_by)
    return node.op_type if node is not None else ""


def _logits_of(output: str, outputs: Iterable[str], made_by: Mapping[str, NodeProto]) -> str | None:
    """Return the output that another one is the softmax or the sigmoid of."""
    node = _maker(output, made_by)
    if node is None or node.op_type not in (*_SOFTMAX, *_SIGMOID):
        return None
    before = _maker(node.input[0], made_by, _SAME)
    return next((each for each in outputs if before is not None and _maker(each, made_by, _SAME) is before), None)
