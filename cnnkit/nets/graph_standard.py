"""ONNX graphs in standard operators: what quantisation and ONNX Runtime's optimiser wrote is replaced by operators of the same shapes.

Only sizes matter here, so that a quantised convolution, one with its activation fused in and one on blocked channels all become `Conv`, and
nothing else has to know them. Values keep their names, and nodes theirs. What has no counterpart stays as it is.
"""

import contextlib
import heapq
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, inliner, numpy_helper
from onnx.helper import get_attribute_value, make_node

from cnnkit.errors import FormatError
from cnnkit.formats import onnx_errors

MICROSOFT = "com.microsoft"
_BLOCKED = "com.microsoft.nchwc"
_NHWC = "com.ms.internal.nhwc"
STANDARD = ("", "ai.onnx")

_MOST_NODES = 200_000  # in a graph whose functions are written out
_MASKING = -100.0  # what masks add to a score

MOST_VALUES = 64  # of a tensor that may be a shape, the axes of a mean, or a count


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that is stored: its sides, its type, and the tensor for who needs its values."""

    dims: tuple[int, ...]
    element: int
    tensor: TensorProto | None = None
    node: bool = False  # written as a node, not as an initialiser

    @property
    def values(self) -> NDArray[Any] | None:
        """Its values, where they are few."""
        if self.tensor is None or math.prod(self.dims) > MOST_VALUES:
            return None
        return _array(self.tensor)

    @property
    def uniform(self) -> float | None:
        """The value that it holds everywhere; None where it holds several, or what is no number."""
        values = None if self.tensor is None else _array(self.tensor)
        if values is None or values.dtype.kind not in "fiu" or not values.size:
            return None
        return float(values.flat[0]) if bool((values == values.flat[0]).all()) else None

    @property
    def is_repeated_value(self) -> bool:
        """Whether it is a vector of several values that are all the same, as the biases of untrained layers are."""
        length = math.prod(self.dims)
        return length > 1 and length == max(self.dims) and self.uniform is not None

    @property
    def is_mask(self) -> bool:
        """Whether adding it only rules out places, as the masks of windowed attention do: all zeros and large negative values."""
        values = None if self.tensor is None else _array(self.tensor)
        if values is None or not values.size:
            return False
        if values.dtype.kind in "iu":  # quantised: two values as far apart as the type has them
            low, high = int(values.min()), int(values.max())
            return high - low >= -_MASKING and bool(((values == low) | (values == high)).all())
        if values.dtype.kind != "f":
            return False
        return bool(((values == 0) | (values <= _MASKING)).all() and (values != 0).any())

    @property
    def learned(self) -> int:
        """How many of its values were learned.

        Windowed attention adds what it learned for every distance between two places of a window; exporters write it out for all pairs
        of places, (..., heads, places, places).
        """
        count = math.prod(self.dims)
        places = self.dims[-1] if len(self.dims) >= 3 and self.dims[-2] == self.dims[-1] else 0
        side = math.isqrt(places)
        if side < 2 or side * side != places or self.tensor is None:
            return count
        values = _array(self.tensor)
        if values is None:
            return count
        distances = np.arange(side)[:, None] - np.arange(side) + side - 1  # 0 to 2 * (side - 1)
        both = (distances[:, None, :, None] * (2 * side - 1) + distances[None, :, None, :]).reshape(-1)
        pairs = values.reshape(-1, places * places)
        table = np.zeros((len(pairs), (2 * side - 1) ** 2), values.dtype)
        table[:, both] = pairs
        return table.size if bool((table[:, both] == pairs).all()) else count


def _array(tensor: TensorProto) -> NDArray[Any] | None:
    """Read a tensor; None where its content does not fit its sides."""
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError):
        return None


@dataclass(slots=True)
class Standard:
    """A graph in standard operators, or the body of a loop or branch.

    `scales` are values that only turn integers into floats. `blocked` are the weights of convolutions on blocked channels, where the
    file pads what each filter takes in.
    """

    nodes: list[NodeProto]
    constants: dict[str, Constant]
    scales: set[str] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)


def attributes(node: NodeProto) -> dict[str, Any]:
    """Read what a node is set to."""
    return {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}


def inlined(model: ModelProto, *, name: str) -> ModelProto:
    """Write out the functions that a model defines itself.

    Raises:
        FormatError: They call themselves, would make the graph too large, or cannot be written out.
    """
    if not model.functions:
        return model
    functions = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    written_out = sum(_size(node, functions, sizes, (), name) for node in model.graph.node)
    if written_out > _MOST_NODES:
        raise FormatError(
            f"{name}: its functions written out are {written_out} nodes; at most {_MOST_NODES} are measured"
        )
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # onnx raises what its C++ part does
        raise FormatError(f"{name}: its functions cannot be written out: {onnx_errors.reason(error)}") from error


def _size(
    node: NodeProto,
    functions: Mapping[tuple[str, str], FunctionProto],
    sizes: dict[tuple[str, str], int],
    calling: tuple[tuple[str, str], ...],
    name: str,
) -> int:
    """Count the nodes that a node becomes, without writing them out."""
    count = 1 + sum(_size(inner, functions, sizes, calling, name) for graph in graphs(node) for inner in graph.node)
    key = (node.domain, node.op_type)
    if key not in functions:
        return count
    if key in calling:
        raise FormatError(f"{name}: its function {node.op_type} calls itself")
    if len(calling) > 100:
        raise FormatError(f"{name}: its functions call each other more than 100 deep")
    if key not in sizes:
        sizes[key] = sum(_size(inner, functions, sizes, (*calling, key), name) for inner in functions[key].node)
    return count + sizes[key]


def graphs(node: NodeProto) -> Iterator[GraphProto]:
    """Give the bodies that a node holds, of loops and branches."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def standard(graph: GraphProto, *, opset: int, name: str, around: Mapping[str, Constant] | None = None) -> Standard:
    """Replace what is not standard, and find what is stored.

    Args:
        graph: It is read only.
        opset: The version of the standard operators that it is written in.
        name: The file, for messages.
        around: What is stored in the graph that this one is a body of.

    Raises:
        FormatError: A node is not written as its operator demands.
    """
    made = Standard([], dict(around or {}))
    made.constants.update({tensor.name: _stored(tensor) for tensor in graph.initializer})
    for sparse in graph.sparse_initializer:
        made.constants[sparse.values.name] = Constant(tuple(sparse.dims), sparse.values.data_type)
    nodes = in_order(graph.node)
    with well_written(None, name):
        channels = _channels_before_reordering(nodes, made.constants)
    for node in nodes:
        with well_written(node, name):
            _take_up(node, made, channels, opset)
    return made


@contextlib.contextmanager
def well_written(node: NodeProto | None, name: str) -> Generator[None]:
    """Turn what goes wrong with inputs and attributes that are not there, or of another type, into a sentence.

    Raises:
        FormatError: Something of the kind went wrong.
    """
    try:
        yield
    except (IndexError, KeyError, ValueError, TypeError, ZeroDivisionError, AttributeError, OverflowError) as error:
        which = "a node" if node is None else called(node)
        raise FormatError(f"{name}: {which} does not have the inputs and attributes of its operator") from error


def called(node: NodeProto) -> str:
    """Name a node in a message."""
    return onnx_errors.called(node.name, node.op_type)


def _take_up(node: NodeProto, made: Standard, channels: dict[str, int], opset: int) -> None:
    """Take up one node: as a constant, or as the nodes that stand for it."""
    if node.op_type == "Constant" and node.domain in STANDARD and node.output:
        constant = _constant(node)
        if constant is not None:
            made.constants[node.output[0]] = constant
            return
    if node.op_type == "Identity" and node.domain in STANDARD and node.input[0] in made.constants:
        # torch's exporter stores equal weights once, and gives the others by nodes like this
        made.constants[node.output[0]] = made.constants[node.input[0]]
        return
    made.nodes += _replaced(node, made, channels, opset)


def in_order(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Sort nodes so that each comes after those whose values it reads; some converters do not. Nodes of a circle are left out."""
    makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    waits = [{makers[name] for name in names_read(node) if name in makers} for node in nodes]
    if all(max(needed, default=-1) < place for place, needed in enumerate(waits)):
        return list(nodes)
    readers: dict[int, list[int]] = {}
    for place, needed in enumerate(waits):
        for maker in needed:
            readers.setdefault(maker, []).append(place)
    ready = [place for place, needed in enumerate(waits) if not needed]
    found = []
    while ready:
        place = heapq.heappop(ready)
        found.append(nodes[place])
        for reader in readers.get(place, ()):
            waits[reader].discard(place)
            if not waits[reader]:
                heapq.heappush(ready, reader)
    return found


def names_read(node: NodeProto) -> Iterator[str]:
    """Give the names that a node reads, those that its bodies take from around them included."""
    yield from filter(None, node.input)
    for graph in graphs(node):
        for inner in graph.node:
            yield from names_read(inner)
        yield from (value.name for value in graph.output)


def _stored(tensor: TensorProto) -> Constant:
    return Constant(tuple(tensor.dims), tensor.data_type, tensor)


def _constant(node: NodeProto) -> Constant | None:
    """Read a node that only gives a value; None for one of strings."""
    for name, value in attributes(node).items():
        if name == "value" and isinstance(value, TensorProto):
            return Constant(tuple(value.dims), value.data_type, value, node=True)
        if name == "sparse_value":
            return Constant(tuple(value.dims), value.values.data_type, node=True)
        if name in ("value_int", "value_ints", "value_float", "value_floats"):
            element = np.int64 if "int" in name else np.float32
            tensor = numpy_helper.from_array(np.asarray(value, element))
            return Constant(tuple(tensor.dims), tensor.data_type, tensor, node=True)
    return None


# The standard operator for another one, and which of its inputs that takes. Scales and zero points are left out.
_COUNTERPARTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "FusedConv": ("Conv", (0, 1, 2)),
    "NhwcFusedConv": ("Conv", (0, 1, 2)),
    "NhwcConv": ("Conv", (0, 1, 2)),
    "QLinearConv": ("Conv", (0, 3, 8)),
    "QLinearConvTranspose": ("ConvTranspose", (0, 3, 8)),
    "ConvInteger": ("Conv", (0, 1)),
    "QGemm": ("Gemm", (0, 3, 6)),
    "FusedGemm": ("Gemm", (0, 1, 2)),
    "GemmFastGelu": ("MatMul", (0, 1, 2)),
    "QLinearMatMul": ("MatMul", (0, 3)),
    "MatMulInteger": ("MatMul", (0, 1)),
    "MatMulInteger16": ("MatMul", (0, 1)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1, 6)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1, 4)),
    "MatMulNBits": ("MatMul", (0, 1, 5)),
    "FusedMatMul": ("MatMul", (0, 1)),
    "TransposeMatMul": ("MatMul", (0, 1)),
    "FusedMatMulActivation": ("MatMul", (0, 1)),
    "DynamicQuantizeLSTM": ("LSTM", (0, 1, 2, 3, 4, 5, 6, 7)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "MulInteger": ("Mul", (0, 2)),
    "QLinearWhere": ("Where", (0, 1, 4)),
    "QLinearSigmoid": ("Sigmoid", (0,)),
    "QLinearLeakyRelu": ("LeakyRelu", (0,)),
    "QLinearSoftmax": ("Softmax", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "NhwcMaxPool": ("MaxPool", (0,)),
    "MaxpoolWithMask": ("MaxPool", (0,)),
    "BiasGelu": ("Add", (0, 1)),
    "FastGelu": ("Add", (0, 1)),
    "BiasSoftmax": ("Add", (0, 1)),
    "BiasDropout": ("Sum", (0, 1, 2)),
    "BiasAdd": ("Sum", (0, 1, 2)),
    "QuickGelu": ("Sigmoid", (0,)),
    "Gelu": ("Sigmoid", (0,)),
    "ScaledSiLU": ("Sigmoid", (0,)),
    "SimplifiedLayerNormalization": ("Mul", (0, 1)),
    "QuantizeLinear": ("Identity", (0,)),
    "DequantizeLinear": ("Identity", (0,)),
}
_OF_MICROSOFT_ONLY = (
    "QuantizeLinear",
    "DequantizeLinear",
    "Gelu",
)  # standard operators of these names are something else
_KEPT = (
    "kernel_shape",
    "strides",
    "pads",
    "dilations",
    "group",
    "auto_pad",
    "ceil_mode",
    "output_padding",
    "output_shape",
)
_NORM = "_bn_nchwc"  # how ONNX Runtime names a batch normalisation that it turned into a convolution of one factor a channel
_LAST_TO_FIRST, _FIRST_TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def _replaced(node: NodeProto, made: Standard, channels: dict[str, int], opset: int) -> Iterable[NodeProto]:
    """Give the nodes that stand for a node."""
    if node.domain == _BLOCKED:
        return _unblocked(node, made, channels)
    if node.domain in STANDARD and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return [_made("Identity", node, node.input[:1])]
    if node.op_type == "DynamicQuantizeLinear":
        for scale in node.output[1:]:
            made.scales.add(scale)
            made.constants[scale] = Constant((), TensorProto.FLOAT)
        return [_made("Identity", node, node.input[:1], node.output[:1])]
    if node.domain in STANDARD and node.op_type in _OF_MICROSOFT_ONLY:
        return [node]
    if node.domain in (*STANDARD, MICROSOFT, _NHWC):
        special = _SPECIAL.get(node.op_type) if node.domain == MICROSOFT else None
        if special is not None:
            return special(node, opset)
        if node.op_type in _COUNTERPARTS:
            return _counterpart(node, made)
        if node.domain == _NHWC:
            return _with_channels_last(node, [_made(node.op_type, node, node.input, **_kept(node))])
    return [node]


def _made(
    op: str,
    node: NodeProto,
    inputs: Iterable[str],
    outputs: Iterable[str] | None = None,
    **said: Any,  # noqa: ANN401 - what an attribute holds
) -> NodeProto:
    """Make a standard node in the place of another one."""
    outputs = list(node.output if outputs is None else outputs)
    return make_node(op, list(inputs), outputs, name=node.name, **said)


def _kept(node: NodeProto) -> dict[str, Any]:
    return {name: value for name, value in attributes(node).items() if name in _KEPT}


def _counterpart(node: NodeProto, made: Standard) -> Iterable[NodeProto]:
    """Make the standard operator for a quantised or fused one; what is added to its result becomes a node of its own."""
    op, places = _COUNTERPARTS[node.op_type]
    inputs = [node.input[place] if place < len(node.input) else "" for place in places]
    said = attributes(node)
    after: list[NodeProto] = []
    if op == "MatMul":
        inputs, bias = inputs[:2], inputs[2:]
        if node.op_type == "MatMulNBits":
            packed = made.constants.get(inputs[1])
            made.constants[inputs[1]] = Constant(
                (said["K"], said["N"]), packed.element if packed else TensorProto.UINT8
            )
        result = f"{node.output[0]} before its bias" if any(bias) else node.output[0]
        main = _product(node, inputs, result, said)
        after = [_made("Add", node, [result, *bias])] if any(bias) else []
        return [main, *after]
    if op in ("Add", "Sum", "Where", "Mul") and not all(inputs):
        inputs = [name for name in inputs if name]
        op = op if len(inputs) > 1 else "Identity"
    outputs = node.output if op == "LSTM" else node.output[:1]
    kept = _kept(node)
    if op == "Gemm":
        kept = {name: said[name] for name in ("transA", "transB") if name in said}
    if op == "LSTM":
        kept = {name: said[name] for name in ("hidden_size", "direction") if name in said}
        for place in (
            1,
            2,
        ):  # DynamicQuantizeLSTM has (directions, input, 4 hidden), LSTM the sides the other way round
            stored = made.constants.get(inputs[place])
            if stored is not None and len(stored.dims) == 3:
                made.constants[inputs[place]] = Constant(
                    (stored.dims[0], stored.dims[2], stored.dims[1]), stored.element
                )
    if op == "Softmax" and "axis" in said:
        kept = {"axis": said["axis"]}
    if op == "Conv" and node.op_type == "FusedConv" and len(node.input) > 3 and node.input[3]:
        result = f"{node.output[0]} before its sum"
        return [_made(op, node, inputs, [result], **kept), _made("Add", node, [result, node.input[3]])]
    main = _made(op, node, inputs, outputs, **kept)
    weights = made.constants.get(inputs[1]) if op == "Conv" else None
    kernel = tuple(said.get("kernel_shape", ()))
    if weights and kernel and weights.dims[2:] != kernel and weights.dims[1:-1] == kernel:  # (M, kH, kW, C / group)
        made.constants[inputs[1]] = Constant((weights.dims[0], weights.dims[-1], *kernel), weights.element)
    if node.domain == _NHWC or node.op_type.startswith("Nhwc") or said.get("channels_last"):
        nodes = _with_channels_last(node, [main])
        if node.op_type == "NhwcFusedConv" and len(node.input) > 3 and node.input[3]:
            result = f"{node.output[0]} before its sum"
            nodes[-1].output[0] = result
            nodes.append(_made("Add", node, [result, node.input[3]]))
        return nodes
    return [main]


def _product(node: NodeProto, inputs: Sequence[str], result: str, said: Mapping[str, Any]) -> NodeProto:
    """Make a product of matrices; a transposed one is written as the sum that it is."""
    turned = {name: bool(said.get(name)) for name in ("transA", "transB", "transBatchA", "transBatchB")}
    if not any(turned.values()):
        return _made("MatMul", node, inputs, [result])
    left = {(False, False): "...mk", (True, False): "...km", (False, True): "m...k", (True, True): "k...m"}
    right = {(False, False): "...kn", (True, False): "...nk", (False, True): "k...n", (True, True): "n...k"}
    equation = (
        f"{left[turned['transA'], turned['transBatchA']]},{right[turned['transB'], turned['transBatchB']]}->...mn"
    )
    return _made("Einsum", node, inputs, [result], equation=equation)


def _with_channels_last(node: NodeProto, nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Put an operator whose channels stand last between two that move them."""
    (main,) = nodes
    first, last = f"{main.output[0]} from", f"{main.output[0]} to"
    given = [first, *main.input[1:]]
    changed = NodeProto()
    changed.CopyFrom(main)
    del changed.input[:], changed.output[:]
    changed.input.extend(given)
    changed.output.append(last)
    return [
        _made("Transpose", node, [main.input[0]], [first], perm=_LAST_TO_FIRST),
        changed,
        _made("Transpose", node, [last], [main.output[0]], perm=_FIRST_TO_LAST),
    ]


def _mean(node: NodeProto, opset: int) -> Iterable[NodeProto]:
    """QLinearReduceMean, whose axes are an attribute, an input of ReduceMean from opset 18 on."""
    said = attributes(node)
    axes, keep = list(said.get("axes", ())), said.get("keepdims", 1)
    if opset < 18 or not axes:
        kept = {"axes": axes} if axes else {}
        return [_made("ReduceMean", node, node.input[:1], keepdims=keep, **kept)]
    name = f"{node.output[0]} axes"
    return [
        make_node("Constant", [], [name], value_ints=axes),
        _made("ReduceMean", node, [node.input[0], name], keepdims=keep),
    ]


def _concatenated(node: NodeProto, _opset: int) -> Iterable[NodeProto]:
    """QLinearConcat: scale and zero point of the result, then three inputs for each."""
    return [_made("Concat", node, node.input[2::3], axis=attributes(node).get("axis", 1))]


def _skip_normalized(node: NodeProto, _opset: int) -> Iterable[NodeProto]:
    """SkipLayerNormalization, and the one without a mean: a sum, then the normalisation."""
    simplified = node.op_type == "SkipSimplifiedLayerNormalization"
    bias = 3 if simplified else 4
    summed = node.output[3] if len(node.output) > 3 and node.output[3] else f"{node.output[0]} before it is normalised"
    yield _made("Sum", node, [*node.input[:2], *node.input[bias : bias + 1]], [summed])
    if simplified:
        yield _made("Mul", node, [summed, node.input[2]], node.output[:1])
    else:
        yield _made("LayerNormalization", node, [summed, *node.input[2:4]], node.output[:1], axis=-1)


def _attention(node: NodeProto, opset: int) -> Iterable[NodeProto]:
    """Attention and QAttention that project their input themselves: a product with the weights, then the heads."""
    said = attributes(node)
    past = node.input[8:9] if node.op_type == "QAttention" else node.input[4:5]
    if any(past) or said.get("do_rotary"):
        return [node]
    value = node.output[0]
    projected, biased = f"{value} projected", f"{value} projected with bias"
    names = [f"{value} {name}" for name in ("query", "key", "value")]
    sizes = list(said.get("qkv_hidden_sizes", ()))
    split: dict[str, Any] = {"split": sizes} if sizes and opset < 13 else {}
    if sizes and opset >= 13:
        return [node]
    if opset >= 18:
        split = {"num_outputs": 3}
    return [
        _made("MatMul", node, node.input[:2], [projected]),
        _made("Add", node, [projected, node.input[2]], [biased])
        if len(node.input) > 2 and node.input[2]
        else _made("Identity", node, [projected], [biased]),
        _made("Split", node, [biased], names, axis=2, **split),
        make_node("MultiHeadAttention", names, [value], name=node.name, domain=MICROSOFT),
    ]


_SPECIAL: dict[str, Callable[[NodeProto, int], Iterable[NodeProto]]] = {
    "QLinearReduceMean": _mean,
    "QLinearConcat": _concatenated,
    "SkipLayerNormalization": _skip_normalized,
    "SkipSimplifiedLayerNormalization": _skip_normalized,
    "Attention": _attention,
    "QAttention": _attention,
}


def _channels_before_reordering(nodes: Sequence[NodeProto], constants: Mapping[str, Constant]) -> dict[str, int]:
    """Find how many channels blocked values really have, as far back as a ReorderOutput says it.

    ONNX Runtime pads the channels of blocked values; what gives them back to other operators says how many they are.
    """
    known: dict[str, int] = {}
    for node in reversed(nodes):
        if node.domain != _BLOCKED:
            continue
        if node.op_type == "ReorderOutput":
            known[node.input[0]] = attributes(node)["channels"]
        elif node.output[0] in known and node.op_type != "ReorderInput":
            same = list(node.input[3:4] if node.op_type == "Conv" else node.input[:1])
            if node.op_type == "Conv" and _depthwise(node, constants):
                same.append(node.input[0])
            known.update(dict.fromkeys(filter(None, same), known[node.output[0]]))
    return known


def _depthwise(node: NodeProto, constants: Mapping[str, Constant]) -> bool:
    """Tell whether every channel of a blocked convolution has filters of its own."""
    weights = constants[node.input[1]]
    return weights.dims[1] == 1 and attributes(node).get("group", 1) == weights.dims[0]


def _unblocked(node: NodeProto, made: Standard, channels: dict[str, int]) -> Iterable[NodeProto]:
    """Replace an operator on blocked channels by the one that it was made from; its weights lose their padding."""
    said, kept = attributes(node), _kept(node)
    match node.op_type:
        case "ReorderInput" | "ReorderOutput" if said.get("channels_last"):
            order = _LAST_TO_FIRST if node.op_type == "ReorderInput" else _FIRST_TO_LAST
            return [_made("Transpose", node, node.input, perm=order)]
        case "ReorderInput" | "ReorderOutput":
            return [_made("Identity", node, node.input)]
        case "Upsample":
            scales = numpy_helper.from_array(np.asarray(said["scales"], np.float32))
            name = f"{node.output[0]} scales"
            made.constants[name] = _stored(scales)
            return [make_node("Constant", [], [name], value=scales), _made("Resize", node, [node.input[0], "", name])]
        case "Conv":
            return _unblocked_convolution(node, made, channels, kept)
        case _:
            if node.input[0] in channels:
                channels[node.output[0]] = channels[node.input[0]]
            return [_made(node.op_type, node, node.input[:1], node.output[:1], **kept)]


def _unblocked_convolution(
    node: NodeProto, made: Standard, channels: dict[str, int], kept: dict[str, Any]
) -> Iterable[NodeProto]:
    image, weights_name, *bias = node.input[:3]
    weights = made.constants[weights_name]
    depthwise = _depthwise(node, made.constants)
    filters = channels.get(node.output[0]) or (channels.get(image) if depthwise else None)
    filters = filters or weights.dims[0] - _padding(weights)
    channels[node.output[0]] = filters
    if depthwise:
        kept["group"] = filters
    if depthwise and set(weights.dims[1:]) == {1} and node.name.endswith(_NORM):
        made.constants.update({name: replace(made.constants[name], dims=(filters,)) for name in (weights_name, *bias)})
        return [_made("BatchNormalization", node, [image, weights_name, *bias, *bias, weights_name])]
    made.blocked.add(weights_name)
    made.constants[weights_name] = Constant((filters, *weights.dims[1:]), weights.element)
    made.constants.update(
        {name: replace(made.constants[name], dims=(filters,)) for name in bias if name in made.constants}
    )
    if len(node.input) > 3 and node.input[3]:
        result = f"{node.output[0]} before its sum"
        return [_made("Conv", node, node.input[:3], [result], **kept), _made("Add", node, [result, node.input[3]])]
    return [_made("Conv", node, node.input[:3], **kept)]


def _padding(weights: Constant) -> int:
    """Count the filters of zeros that end the last block; blocks are of 4, 8 or 16 by the processor, filters their last side."""
    values = _array(weights.tensor) if weights.tensor is not None else None
    if values is None or not values.size:
        return 0
    found = 0
    for block in (4, 8, 16):
        if weights.dims[0] % block:
            continue
        last = values.reshape(weights.dims[0] // block, -1, block)[-1]
        used = np.flatnonzero(last.any(axis=0))
        found = max(found, block - 1 - int(used[-1]) if used.size else 0)
    return found
