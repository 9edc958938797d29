"""The dimensions of an exported network, read off its graph with the onnx package alone.

What is counted, and how receptive fields go through branches, is as in `module_dims`. A layer is named by the module that its
weights come from, where the file still says so, else by its node. Constants before the first layer with weights normalise
the image and are no parameters.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnx import GraphProto, NodeProto, TensorProto
from onnx.helper import get_attribute_value, make_model, make_tensor_value_info
from onnx.shape_inference import infer_shapes

from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import onnx_model
from cnnkit.nets.dims import DimsRow, Window, Windows, shown, unread, whole_map
from cnnkit.nets.notation import LayerKind, Padding
from cnnkit.nets.receptive_field import ReceptiveField, Shape, follow

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_MOST_CONSTANTS = 64  # values of a tensor that may be a shape, or the axes of a mean
_WEIGHTED = ("Conv", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization", "PRelu")
# These move values or rename them, or tell their shape; a Reshape is a layer where it flattens a map.
_PLUMBING = (
    *(
        "Cast",
        "CastLike",
        "Identity",
        "Transpose",
        "Unsqueeze",
        "Squeeze",
        "Slice",
        "Gather",
        "Split",
        "Expand",
        "Reshape",
    ),
    *("Shape", "Size"),
)
_KINDS = {
    "Conv": LayerKind.conv,
    "MaxPool": LayerKind.pool,
    "AveragePool": LayerKind.avgpool,
    "GlobalAveragePool": LayerKind.gap,
    "GlobalMaxPool": LayerKind.gmp,
    "ReduceMean": LayerKind.gap,
    "ReduceMax": LayerKind.gmp,
    "Gemm": LayerKind.dense,
    "BatchNormalization": LayerKind.bn,
    "Flatten": LayerKind.flatten,
    "Reshape": LayerKind.flatten,
    "Dropout": LayerKind.dropout,
    "Pad": LayerKind.pad,
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Clip"), LayerKind.activation),
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish", "Tanh"), LayerKind.activation),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Softplus", "Softsign"), LayerKind.activation),
}


def measure_graph(path: str, *, size: Sequence[int] | None = None, bytes_per_value: int = 4) -> tuple[DimsRow, ...]:
    """Measure every layer of an ONNX network.

    Args:
        path: A file `.onnx`.
        size: Height, width and channels of the images, for what the file leaves open.
        bytes_per_value: Bytes for one value of all images at once.

    Returns:
        One row for every node that computes on the image, in the order of the graph.

    Raises:
        FormatError: The file is no ONNX network, keeps weights in other files, or leaves shapes open that are needed.
        UsageError: The network takes images of another size.
        OSError: It cannot be read.
    """
    graph = onnx_model.parse(onnx_model.load(path).content, name=path).graph
    look, images = _fixed_input(graph, path, size)
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type in _FLOATS}
    shapes = _inferred(graph)
    return tuple(_rows(graph, path, look, shapes, weights, images=images, bytes_per_value=bytes_per_value))


def _fixed_input(graph: GraphProto, path: str, size: Sequence[int] | None) -> tuple[ReceptiveField, int]:
    """Fill in, in place, what the input leaves open; give how it looks at itself, and its images at once."""
    stored = {tensor.name for tensor in graph.initializer}
    value = next((value for value in graph.input if value.name not in stored), None)
    sides = value.type.tensor_type.shape.dim if value else []
    if len(sides) != 4:
        raise FormatError(f"{path}: its input has {len(sides)} dimensions; a network for pictures has 4")
    if size and len(size) != 3:
        raise UsageError(f"{path}: takes pictures, --input says {size[0]}; give H,W,C")
    last = sides[3].dim_value in (1, 3) and sides[1].dim_value not in (1, 3)
    places = (1, 2, 3) if last else (2, 3, 1)
    for name, place, wanted in zip(("height", "width", "channels"), places, size or (0, 0, 0), strict=True):
        fixed = sides[place].dim_value
        if fixed and wanted and fixed != wanted:
            raise UsageError(f"{path}: {name} is {fixed}, --input says {wanted}; drop --input")
        sides[place].dim_value = fixed or wanted
    sides[0].dim_value = sides[0].dim_value or 1
    if not all(side.dim_value for side in sides):
        raise FormatError(f"{path}: leaves the size of its pictures open; give --input H,W,C")
    return ReceptiveField((1, 1), (1, 1), last=last), sides[0].dim_value


def _inferred(graph: GraphProto) -> dict[str, Shape]:
    """Compute the shape of every value, in a graph that loses its weights to this; only their shapes take part."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    named = {value.name for value in graph.input}
    small = [tensor for tensor in graph.initializer if math.prod(tensor.dims) <= _MOST_CONSTANTS]
    for tensor in graph.initializer:
        if math.prod(tensor.dims) > _MOST_CONSTANTS and tensor.name not in named:
            graph.input.append(make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(small)
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    model = make_model(graph)
    inferred = infer_shapes(model, data_prop=True).graph
    for value in itertools.chain(inferred.input, inferred.value_info, inferred.output):
        sides = tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
        if value.type.tensor_type.HasField("shape") and all(sides):
            shapes[value.name] = sides
    return shapes


def _rows(
    graph: GraphProto,
    path: str,
    look: ReceptiveField,
    shapes: Mapping[str, Shape],
    weights: set[str],
    *,
    images: int,
    bytes_per_value: int,
) -> Iterator[DimsRow]:
    """Go along the graph, whose nodes stand in the order in which they run."""
    looks = {next(value.name for value in graph.input if value.name not in weights): look}
    stored = {name: {name} for name in weights}  # which weights a value is made of, for values that are no image
    counted: set[str] = set()
    for node in graph.node:
        inputs = [name for name in node.input if name in looks]
        own = set().union(*(stored.get(name, set()) for name in _weight_inputs(node)))
        if not inputs or node.op_type in ("Shape", "Size"):
            stored.update(dict.fromkeys(node.output, own))
            continue
        made, given = shapes.get(node.output[0]), shapes.get(inputs[0])
        if made is None or given is None:
            raise FormatError(
                f"{path}: the shape behind {node.name or node.op_type} cannot be told; give --input H,W,C"
            )
        windows = _windows(node, looks[inputs[0]].size(given), shapes) if len(given) == 4 else None
        order = _attributes(node).get("perm", ()) if node.op_type == "Transpose" else ()
        shaped = [(shapes[name], looks[name]) for name in inputs if name in shapes]
        found = follow(shaped, made, windows=windows, order=order)
        looks.update(dict.fromkeys((name for name in node.output if name), found))
        if node.op_type in _PLUMBING and not (node.op_type == "Reshape" and len(given) == 4 and len(made) == 2):
            continue
        own = {name for name in own - counted if node.op_type in _WEIGHTED or (counted and math.prod(shapes[name]) > 1)}
        counted |= own
        height, width, channels = found.output(made)
        slides = windows and len(made) == 4 and node.op_type in ("Conv", "MaxPool", "AveragePool")
        yield DimsRow(
            layer=name_of(node),
            kind=_kind(node, shapes),
            height=height,
            width=width,
            channels=channels,
            params=sum(math.prod(shapes[name]) for name in own),
            macs=_macs(node, made, shapes) // images,
            receptive_field=shown(found.field),
            stride=shown(found.step),
            activation_bytes=math.prod(made) // images * bytes_per_value,
            dropped=unread(windows, (given[2], given[3]), (made[2], made[3])) if windows and slides else 0,
        )


def _weight_inputs(node: NodeProto) -> list[str]:
    """Name the inputs that may be weights; running statistics are none, as in torch."""
    return list(node.input[1:3] if node.op_type == "BatchNormalization" else node.input)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}


def _windows(node: NodeProto, size: tuple[int, int], shapes: Mapping[str, Shape]) -> Windows | None:
    """Read the windows that a node slides over a map."""
    if node.op_type in ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"):
        return whole_map(size)
    if node.op_type == "Pad":
        return Window(1), Window(1)
    if node.op_type not in ("Conv", "MaxPool", "AveragePool"):
        return None
    said = _attributes(node)
    kernel = shapes[node.input[1]][2:] if node.op_type == "Conv" else said["kernel_shape"]
    strides, dilations = said.get("strides", (1, 1)), said.get("dilations", (1, 1))
    pads: list[Padding | tuple[int, int]] = [Padding.same, Padding.same]
    if not said.get("auto_pad", b"NOTSET").startswith(b"SAME"):
        top, left, bottom, right = said.get("pads", (0, 0, 0, 0))
        pads = [(top, bottom), (left, right)]
    down, across = (Window(*sides) for sides in zip(kernel, strides, pads, dilations, strict=True))
    return down, across


def _macs(node: NodeProto, made: Shape, shapes: Mapping[str, Shape]) -> int:
    """Count the multiply-accumulates for all images."""
    match node.op_type:
        case "Conv":
            return math.prod(made) * math.prod(shapes[node.input[1]][1:])  # (F, C / groups, kh, kw)
        case "Gemm" | "MatMul":
            first = shapes[node.input[0]]
            return math.prod(made) * (first[-2] if _attributes(node).get("transA") else first[-1])
        case _:
            return 0


def _kind(node: NodeProto, shapes: Mapping[str, Shape]) -> str:
    """Name what a node does: in the notation's words where it has one, else by its operator."""
    if node.op_type == "MatMul":
        return LayerKind.dense if len(shapes[node.input[1]]) == 2 else "matmul"
    return _KINDS.get(node.op_type, node.op_type.lower())


def name_of(node: NodeProto) -> str:
    """Name a node as `--layer` takes it: by its weights, without what our own exports put before the names of a backbone."""
    weights = [name.removesuffix(".weight") for name in node.input if name.endswith(".weight")]
    weights = [name.removeprefix("classifier.").removeprefix("base.") for name in weights]
    return weights[0] if weights else node.name or node.output[0]
