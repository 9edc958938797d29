"""Translate ONNX graphs to standard operators: those of quantization and of ONNX Runtime's optimizer are replaced.

Only shapes and costs matter here: a quantized convolution, one with a fused activation and one on blocked channels all become `Conv`, so
that no other module needs to know them. Values and nodes keep their names. An operator without a counterpart is kept.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper
from onnx.helper import make_node

from cnnkit.nets.graph_nodes import (
    BLOCKED,
    MICROSOFT,
    STANDARD,
    Constant,
    array,
    attributes,
    constant_of,
    in_order,
    stored,
    well_written,
)

_NHWC = "com.ms.internal.nhwc"


@dataclass(slots=True)
class Standard:
    """A graph in standard operators, or the body of a loop or branch.

    `scales` are values that only convert integers to floats. `blocked` are weights of convolutions on blocked channels, whose input
    channels the file pads.
    """

    nodes: list[NodeProto]
    constants: dict[str, Constant]
    scales: set[str] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)


def standard(graph: GraphProto, *, opset: int, name: str, around: Mapping[str, Constant] | None = None) -> Standard:
    """Replace operators that are not standard, and collect the stored tensors.

    Args:
        graph: The graph; it is not changed.
        opset: Version of the standard operators.
        name: The file, for messages.
        around: Stored tensors of the graph around this one, if this one is a body.

    Raises:
        FormatError: A node lacks inputs or attributes of its operator.
    """
    made = Standard([], dict(around or {}))
    made.constants.update({tensor.name: stored(tensor) for tensor in graph.initializer})
    for sparse in graph.sparse_initializer:
        made.constants[sparse.values.name] = Constant(tuple(sparse.dims), sparse.values.data_type)
    nodes = in_order(graph.node)
    with well_written(None, name):
        channels = _channels_before_reordering(nodes, made.constants)
    for node in nodes:
        with well_written(node, name):
            _take_up(node, made, channels, opset)
    return made


def _take_up(node: NodeProto, made: Standard, channels: dict[str, int], opset: int) -> None:
    """Add one node: as a constant, or as the standard nodes that replace it."""
    if node.op_type == "Constant" and node.domain in STANDARD and node.output:
        constant = constant_of(node)
        if constant is not None:
            made.constants[node.output[0]] = constant
            return
    if node.op_type == "Identity" and node.domain in STANDARD and node.input[0] in made.constants:
        # torch's exporter stores equal weights once, and refers to them by such nodes
        made.constants[node.output[0]] = made.constants[node.input[0]]
        return
    made.nodes += _replaced(node, made, channels, opset)


# The standard operator for another one, and which inputs to keep. Scales and zero points are left out.
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
# The standard operators of these names differ
_OF_MICROSOFT_ONLY = ("QuantizeLinear", "DequantizeLinear", "Gelu")
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
_NORM = "_bn_nchwc"  # ONNX Runtime's suffix for a batch normalization converted to a depthwise 1x1 convolution
_LAST_TO_FIRST, _FIRST_TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def _replaced(node: NodeProto, made: Standard, channels: dict[str, int], opset: int) -> Iterable[NodeProto]:
    """Return the standard nodes that replace a node."""
    if node.domain == BLOCKED:
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
    **attrs: Any,  # noqa: ANN401 - values of attributes
) -> NodeProto:
    """Make a standard node that replaces another one."""
    outputs = list(node.output if outputs is None else outputs)
    return make_node(op, list(inputs), outputs, name=node.name, **attrs)


def _kept(node: NodeProto) -> dict[str, Any]:
    return {name: value for name, value in attributes(node).items() if name in _KEPT}


def _counterpart(node: NodeProto, made: Standard) -> Iterable[NodeProto]:
    """Make the standard operator for a quantized or fused one; a fused addition becomes a node of its own."""
    op, places = _COUNTERPARTS[node.op_type]
    inputs = [node.input[place] if place < len(node.input) else "" for place in places]
    attrs = attributes(node)
    after: list[NodeProto] = []
    if op == "MatMul":
        inputs, bias = inputs[:2], inputs[2:]
        if node.op_type == "MatMulNBits":
            packed = made.constants.get(inputs[1])
            made.constants[inputs[1]] = Constant(
                (attrs["K"], attrs["N"]), packed.element if packed else TensorProto.UINT8
            )
        result = f"{node.output[0]} before its bias" if any(bias) else node.output[0]
        main = _product(node, inputs, result, attrs)
        after = [_made("Add", node, [result, *bias])] if any(bias) else []
        return [main, *after]
    if op in ("Add", "Sum", "Where", "Mul") and not all(inputs):
        inputs = [name for name in inputs if name]
        op = op if len(inputs) > 1 else "Identity"
    outputs = node.output if op == "LSTM" else node.output[:1]
    kept = _kept(node)
    if op == "Gemm":
        kept = {name: attrs[name] for name in ("transA", "transB") if name in attrs}
    if op == "LSTM":
        kept = {name: attrs[name] for name in ("hidden_size", "direction") if name in attrs}
        for place in (
            1,
            2,
        ):  # DynamicQuantizeLSTM has (directions, input, 4 hidden), LSTM the sides the other way round
            stored = made.constants.get(inputs[place])
            if stored is not None and len(stored.dims) == 3:
                made.constants[inputs[place]] = Constant(
                    (stored.dims[0], stored.dims[2], stored.dims[1]), stored.element
                )
    if op == "Softmax" and "axis" in attrs:
        kept = {"axis": attrs["axis"]}
    if op == "Conv" and node.op_type == "FusedConv" and len(node.input) > 3 and node.input[3]:
        result = f"{node.output[0]} before its sum"
        return [_made(op, node, inputs, [result], **kept), _made("Add", node, [result, node.input[3]])]
    main = _made(op, node, inputs, outputs, **kept)
    weights = made.constants.get(inputs[1]) if op == "Conv" else None
    kernel = tuple(attrs.get("kernel_shape", ()))
    if weights and kernel and weights.dims[2:] != kernel and weights.dims[1:-1] == kernel:  # (M, kH, kW, C / group)
        made.constants[inputs[1]] = Constant((weights.dims[0], weights.dims[-1], *kernel), weights.element)
    if node.domain == _NHWC or node.op_type.startswith("Nhwc") or attrs.get("channels_last"):
        nodes = _with_channels_last(node, [main])
        if node.op_type == "NhwcFusedConv" and len(node.input) > 3 and node.input[3]:
            result = f"{node.output[0]} before its sum"
            nodes[-1].output[0] = result
            nodes.append(_made("Add", node, [result, node.input[3]]))
        return nodes
    return [main]


def _product(node: NodeProto, inputs: Sequence[str], result: str, attrs: Mapping[str, Any]) -> NodeProto:
    """Make a matrix product; with transposed operands, as an Einsum."""
    turned = {name: bool(attrs.get(name)) for name in ("transA", "transB", "transBatchA", "transBatchB")}
    if not any(turned.values()):
        return _made("MatMul", node, inputs, [result])
    left = {(False, False): "...mk", (True, False): "...km", (False, True): "m...k", (True, True): "k...m"}
    right = {(False, False): "...kn", (True, False): "...nk", (False, True): "k...n", (True, True): "n...k"}
    equation = (
        f"{left[turned['transA'], turned['transBatchA']]},{right[turned['transB'], turned['transBatchB']]}->...mn"
    )
    return _made("Einsum", node, inputs, [result], equation=equation)


def _with_channels_last(node: NodeProto, nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Put an operator with channels last between two transpositions."""
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
    """Replace QLinearReduceMean; its axes are an attribute, but an input of ReduceMean from opset 18 on."""
    attrs = attributes(node)
    axes, keep = list(attrs.get("axes", ())), attrs.get("keepdims", 1)
    if opset < 18 or not axes:
        kept = {"axes": axes} if axes else {}
        return [_made("ReduceMean", node, node.input[:1], keepdims=keep, **kept)]
    name = f"{node.output[0]} axes"
    return [
        make_node("Constant", [], [name], value_ints=axes),
        _made("ReduceMean", node, [node.input[0], name], keepdims=keep),
    ]


def _concatenated(node: NodeProto, _opset: int) -> Iterable[NodeProto]:
    """Replace QLinearConcat; its inputs are scale and zero point of the result, then three for each part."""
    return [_made("Concat", node, node.input[2::3], axis=attributes(node).get("axis", 1))]


def _skip_normalized(node: NodeProto, _opset: int) -> Iterable[NodeProto]:
    """Replace SkipLayerNormalization, or SkipSimplifiedLayerNormalization, by a sum and a normalization."""
    simplified = node.op_type == "SkipSimplifiedLayerNormalization"
    bias = 3 if simplified else 4
    summed = node.output[3] if len(node.output) > 3 and node.output[3] else f"{node.output[0]} before it is normalized"
    yield _made("Sum", node, [*node.input[:2], *node.input[bias : bias + 1]], [summed])
    if simplified:
        yield _made("Mul", node, [summed, node.input[2]], node.output[:1])
    else:
        yield _made("LayerNormalization", node, [summed, *node.input[2:4]], node.output[:1], axis=-1)


def _attention(node: NodeProto, opset: int) -> Iterable[NodeProto]:
    """Replace Attention or QAttention, which project their input, by a product with the weights and the heads."""
    attrs = attributes(node)
    past = node.input[8:9] if node.op_type == "QAttention" else node.input[4:5]
    if any(past) or attrs.get("do_rotary"):
        return [node]
    value = node.output[0]
    projected, biased = f"{value} projected", f"{value} projected with bias"
    names = [f"{value} {name}" for name in ("query", "key", "value")]
    sizes = list(attrs.get("qkv_hidden_sizes", ()))
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
    """Find the numbers of channels of blocked values without padding, going back from each ReorderOutput.

    ONNX Runtime pads the channels of blocked values; ReorderOutput, which converts them back, has the true number.
    """
    known: dict[str, int] = {}
    for node in reversed(nodes):
        if node.domain != BLOCKED:
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
    """Check whether a blocked convolution is depthwise."""
    weights = constants[node.input[1]]
    return weights.dims[1] == 1 and attributes(node).get("group", 1) == weights.dims[0]


def _unblocked(node: NodeProto, made: Standard, channels: dict[str, int]) -> Iterable[NodeProto]:
    """Replace an operator on blocked channels by the standard one, without the padding of its weights."""
    attrs, kept = attributes(node), _kept(node)
    match node.op_type:
        case "ReorderInput" | "ReorderOutput" if attrs.get("channels_last"):
            order = _LAST_TO_FIRST if node.op_type == "ReorderInput" else _FIRST_TO_LAST
            return [_made("Transpose", node, node.input, perm=order)]
        case "ReorderInput" | "ReorderOutput":
            return [_made("Identity", node, node.input)]
        case "Upsample":
            scales = numpy_helper.from_array(np.asarray(attrs["scales"], np.float32))
            name = f"{node.output[0]} scales"
            made.constants[name] = stored(scales)
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
    """Count the filters of zeros at the end of the last block; blocks have 4, 8 or 16 filters, depending on the processor."""
    values = array(weights.tensor) if weights.tensor is not None else None
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
