"""Networks that cnnkit did not make: what the file does not say is given as options, the rest is read from the graph."""

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

#: Operators that leave values what they are, and those that do so nearly.
_SAME = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout"})
_PASSING = _SAME | {"Transpose", "Clip", "QuantizeLinear", "DequantizeLinear"}
_SOFTMAX = frozenset({"Softmax", "QLinearSoftmax"})
_SIGMOID = frozenset({"Sigmoid", "HardSigmoid", "QLinearSigmoid"})
#: What comes out of these is no probability, whatever its values are.
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
#: What makes something else of probabilities together with a constant, as percentages.
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg"})
#: How far a row of probabilities may be from 1 in sum: what float16 loses over many classes.
_SUM_TOLERANCE = 1e-3

_ROUNDED_TOLERANCE = 0.05  # of a softmax in float16, or of quantised weights

#: What the names of outputs tell, the better first; an output that none of them fits stands before the last two.
_NAMES = (r"logit", r"prob|softmax|sigmoid|score|predict|class")
_OTHER_NAMES = (r"embed|feat|hidden|pool|latent|represent|penult|token", r"aux")

#: How many images the outputs are tried with.
_TRIED = 4


class Meaning(Enum):
    """What the numbers of an output are."""

    LOGITS = auto()
    PROBABILITIES = auto()  # of which one class is right: they sum to 1
    INDEPENDENT = auto()  # a probability for each class by itself, as sigmoids give them


def from_spec(network: OnnxNetwork, spec: ModelSpec, graph: GraphProto) -> OnnxClassifier:
    """Take a network for what the command line says it is, and for what it shows itself.

    Args:
        network: Anything that takes one image array; the order of its channels is set.
        spec: The rest.
        graph: The network's own.

    Raises:
        UsageError: Something is missing from the spec, or contradicts the network.
        FormatError: The network takes no images, does not run, or has no output for the classes.
    """
    if network.channels is None:
        shown = ", ".join("any" if size is None else str(size) for size in network.shape)
        raise FormatError(
            f"{network.name}: its input {excerpt(network.input)} has the shape ({shown}), expected images with three channels or one: "
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
    """Put together how images are prepared."""
    takes_bytes = network.dtype is np.uint8
    needed = ["--size", "--labels"] if takes_bytes else ["--size", "--mean", "--std", "--labels"]
    missing = [option for option in needed if option not in given(spec)]
    if missing:
        raise UsageError(
            f"{network.name} carries no cnnkit header, which would say how pictures are prepared and what the classes are; "
            f"say also {', '.join(missing)}"
        )
    if takes_bytes and (spec.mean or spec.std or spec.range):
        raise UsageError(f"{network.name} takes bytes and normalises them itself; drop --mean and --std, and --range")
    if not (spec.size or "").isdecimal() or not int(spec.size or 0):
        raise UsageError(
            f'{network.name} carries no cnnkit header; --size is the side of its input then, a number of pixels, not "{spec.size}"'
        )
    size = int(spec.size or 0)
    if any(side not in (None, size) for side in network.sides):
        raise UsageError(f"{network.name} takes {' x '.join(map(str, network.sides))} pixels, --size says {size}")
    mean = parse_channels(spec.mean, option="--mean") or (0.0, 0.0, 0.0)
    std = parse_channels(spec.std, option="--std") or (1.0, 1.0, 1.0)
    if network.channels == 1 and len(set(mean)) + len(set(std)) > 2:
        raise UsageError(f"{network.name} takes one channel; give one number each for --mean and --std")
    if network.order is ChannelOrder.BGR:  # here and where the margin is painted, red comes first
        mean, std = mean[::-1], std[::-1]
    red, green, blue = (value / spec.white for value in mean)
    plain = Preprocess(
        interpolation=spec.interpolation or Interpolation.BILINEAR,
        mean=(red, green, blue),
        std=tuple(value / spec.white for value in std),
        grey=network.channels == 1 and not takes_bytes,
    )
    return preprocessing.with_size(plain, size=size, resize=spec.resize, fit=spec.fit)


@dataclass(frozen=True, slots=True)
class _Tried:
    """An output, and what it gave for `_TRIED` images; None where that is no array."""

    name: str
    values: NDArray[Any] | None

    @property
    def width(self) -> int | None:
        """How many numbers each image gets; None where they are no floating-point numbers, or not by image."""
        values = self.values
        if values is None or values.dtype.kind != "f" or values.ndim < 2 or len(values) != _TRIED:
            return None
        return int(values[0].size)

    def __str__(self) -> str:
        if self.values is None:
            return f"{excerpt(self.name)} (no array)"
        by_image = self.values.ndim > 0 and len(self.values) == _TRIED
        shape = self.values.shape[1:] if by_image else self.values.shape
        numbers = f"shape {shape}".replace(",)", ")") if shape else "one number"
        return f"{excerpt(self.name)} ({self.values.dtype}, {numbers}{'' if by_image else f' for {_TRIED} images'})"


def _tried(network: OnnxNetwork, preprocess: Preprocess, graph: GraphProto) -> list[_Tried]:
    """Run a network once, on four images from black to strong noise, and give what all of its outputs give."""
    size = preprocess.size
    strength = np.linspace(0, 1, _TRIED).reshape(_TRIED, 1, 1, 1)
    noise = np.random.default_rng(0).uniform(0, 256, (_TRIED, size, size, 3)) * strength
    arrays = [value.name for value in graph.output if value.type.WhichOneof("value") == "tensor_type"]
    try:
        values = network.run(noise.astype(np.uint8), arrays, preprocess=preprocess) if arrays else []
    except RunError as error:
        raise FormatError(f"{network.name} does not run on {size} x {size} pixels: {error.reason}") from error
    found: dict[str, NDArray[Any]] = dict(zip(arrays, values, strict=True))
    return [_Tried(name, found.get(name)) for name in network.session.outputs]


def _chosen(tried: Iterable[_Tried], graph: GraphProto, spec: ModelSpec, *, classes: int, name: str) -> OutputNames:
    """Choose the output that has a number for each class, and the one that it is the softmax or the sigmoid of.

    Raises:
        UsageError: `--output` names none.
        FormatError: None has as many numbers.
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
    chosen = min(wanted, key=lambda output: _rank(output, made_by))  # of equals, the first
    pairs = {output: _logits_of(output, fitting, made_by) for output in fitting}
    probabilities = next((output for output, logits in pairs.items() if logits == chosen), chosen)
    logits = pairs[probabilities]
    if spec.output is None and len(fitting) > len({probabilities, logits} - {None}):
        log.warning(
            "%s has the outputs %s with %d numbers an image: taking %s; --output NAME takes another",
            name,
            " and ".join(map(excerpt, fitting)),
            classes,
            excerpt(chosen),
        )
    meaning = _meaning(known[probabilities], made_by, name=name)
    if meaning is Meaning.INDEPENDENT and known[probabilities].width != 1:
        log.warning(
            "%s gives a probability for each class by itself (%s is not a softmax): those of an image do not sum to 1",
            name,
            excerpt(probabilities),
        )
    return OutputNames(None, probabilities) if meaning is Meaning.LOGITS else OutputNames(probabilities, logits)


def _none_fits(
    known: Mapping[str, _Tried], made_by: Mapping[str, NodeProto], spec: ModelSpec, *, classes: int, name: str
) -> str:
    asked = [known[spec.output]] if spec.output is not None else list(known.values())
    numbers = [each for each in asked if _operator(each.name, made_by) in ("ArgMax", "TopK")]
    remedy = (
        f"; {excerpt(numbers[0].name)} names the best class alone, export the network without its {_operator(numbers[0].name, made_by)}"
        if numbers
        else ""
    )
    return (
        f"{name} gives {' and '.join(map(str, asked))} for one image, but {spec.labels} has {classes} classes: "
        f"an output of {classes} floating-point numbers an image is needed{remedy}"
    )


def _rank(output: str, made_by: Mapping[str, NodeProto]) -> int:
    """Say how likely an output has a number for each class, by its name and by what it comes from; the lower, the likelier."""
    name = output.lower()
    for place, pattern in reversed(list(enumerate(_OTHER_NAMES))):
        if re.search(pattern, name):
            return len(_NAMES) + 1 + place
    for place, pattern in enumerate(_NAMES):
        if re.search(pattern, name):
            return place
    return len(_NAMES) - 1 if _operator(output, made_by) in (*_SOFTMAX, *_SIGMOID, "LogSoftmax") else len(_NAMES)


def _meaning(output: _Tried, made_by: Mapping[str, NodeProto], *, name: str) -> Meaning:
    """Tell what an output's numbers are: by the operator that they come from, and by their values where that does not tell.

    Raises:
        FormatError: They are logarithms of sigmoids, a softmax over something else than the classes, or a multiple of probabilities.
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
        return Meaning.LOGITS  # of a softmax: its softmax is what the logarithm was taken of
    inside = bool((rows >= 0).all() and (rows <= 1 + _SUM_TOLERANCE).all())
    if inside and rows.shape[1] > 1 and np.allclose(rows.sum(axis=1), 1, atol=_SUM_TOLERANCE):
        return Meaning.PROBABILITIES
    if _changes_probabilities(output.name, made_by):
        if not inside:
            raise FormatError(
                f"{name}: {excerpt(output.name)} is made of probabilities by {operator}, and is neither these nor logits; "
                f"export the network without its {operator}"
            )
        return Meaning.INDEPENDENT
    return Meaning.INDEPENDENT if inside and operator not in _NO_PROBABILITY else Meaning.LOGITS


def _check_sums(rows: NDArray[np.float64], what: str) -> None:
    """Demand that a softmax is one over the classes: of another axis the sums for an image are not 1, however it is shown.

    Raises:
        FormatError: It is not.
    """
    sums = rows.sum(axis=1)
    wrong = sums[np.abs(sums - 1) > _ROUNDED_TOLERANCE]  # NaN is another fault, which every image shows
    if wrong.size:
        raise FormatError(
            f"{what} is a softmax over something else than the classes: the numbers of an image sum to {wrong[0]:.3g}; "
            "export the network with a softmax over its classes, or without one"
        )


def _changes_probabilities(output: str, made_by: Mapping[str, NodeProto]) -> bool:
    """Tell whether an output is arithmetic with probabilities and constants alone."""
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
    """Name the output that another one is the softmax or the sigmoid of."""
    node = _maker(output, made_by)
    if node is None or node.op_type not in (*_SOFTMAX, *_SIGMOID):
        return None
    before = _maker(node.input[0], made_by, _SAME)
    return next((each for each in outputs if before is not None and _maker(each, made_by, _SAME) is before), None)
