"""Centres of the cells of a map in an ONNX graph, computed from its input on with the onnx package alone."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper
from onnx.helper import get_attribute_value, make_tensor_value_info
from onnx.shape_inference import infer_shapes

from cnnkit.nets.cell_centres import Along, CellCentres, TracedMap, merged
from cnnkit.nets.dims import Window
from cnnkit.nets.notation import Padding

#: Initializers of more values than this are weights, of which only the shapes are used.
_MOST_CONSTANTS = 64
#: Operators that compute sizes and paddings; none whose output can be much larger than its inputs.
_ARITHMETIC = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Neg", "Floor", "Ceil", "Cast", "Identity", "Constant"),
        *("Squeeze", "Unsqueeze", "Reshape", "Concat", "Gather", "Slice"),
    }
)
_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger")
_POOLS = ("MaxPool", "AveragePool", "LpPool", "QLinearAveragePool")
_PYTORCH = b"pytorch_half_pixel"  # an output of one pixel is the first pixel
#: How an interpolation maps coordinates; without `tf_crop_and_resize`, whose region is an input.
_COORDINATES = (
    *(b"half_pixel", b"half_pixel_symmetric", b"tf_half_pixel_for_nn", _PYTORCH),
    *(b"asymmetric", b"align_corners"),
)
#: Operators whose output has no height and width, or one value for all positions.
_ENDS = (
    *("Shape", "Size", "Flatten", "Gemm"),
    *("GlobalAveragePool", "GlobalMaxPool", "QLinearGlobalAveragePool", "ReduceMean", "ReduceMax", "ReduceSum"),
)


def centres_of(model: ModelProto, value: str, *, size: tuple[int, int]) -> CellCentres | None:
    """Find the centres of the cells of a map.

    Args:
        model: A network whose first input is (N, H, W, 3), or (N, C, H, W).
        value: The map, by its name in the graph.
        size: Height and width of the images.

    Returns:
        The centres; None if the graph moves cells with operators that are not supported here.
    """
    graph, constants = _lean(model.graph)
    stored = {tensor.name for tensor in model.graph.initializer}
    images = next((each for each in graph.input if each.name not in stored), None)
    sides = images.type.tensor_type.shape.dim if images is not None else []
    if images is None or len(sides) != 4:
        return None
    last = sides[3].dim_value in (1, 3) and sides[1].dim_value not in (1, 3)
    axes = (-3, -2) if last else (-2, -1)
    sides[0].dim_value = 1
    for axis, wanted in zip(axes, size, strict=True):
        sides[axis + 4].dim_value = wanted
    shapes = _folded(graph, model, constants)
    traced = {images.name: TracedMap(axes=axes)}
    for node in graph.node:
        inputs = [name for name in node.input if name in traced]
        if inputs and node.op_type not in _ENDS:
            found = _followed(node, inputs, traced, shapes, constants)
            if found is not None:
                traced.update(dict.fromkeys((name for name in node.output if name), found))
    found = traced.get(value)
    return None if found is None else CellCentres(found.rows, found.columns, size)


def _lean(whole: GraphProto) -> tuple[GraphProto, dict[str, NDArray[Any]]]:
    """Return a copy of a graph with its weights replaced by inputs of their shapes, and the values of its constants."""
    graph, constants = GraphProto(), dict[str, NDArray[Any]]()
    graph.name = whole.name
    graph.node.extend(whole.node)
    graph.input.extend(whole.input)
    graph.output.extend(whole.output)
    named = {each.name for each in whole.input}
    for tensor in whole.initializer:
        if math.prod(tensor.dims) <= _MOST_CONSTANTS and not tensor.external_data:
            graph.initializer.append(tensor)
            constants[tensor.name] = numpy_helper.to_array(tensor)
        elif tensor.name not in named:
            graph.input.append(make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    return graph, constants


def _folded(graph: GraphProto, model: ModelProto, constants: dict[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """Evaluate what a graph computes from shapes alone, such as the padding of `same`, and return the shapes of all values.

    The shapes after a computed padding depend on its value, so evaluation and shape inference alternate until nothing new is found.
    """
    while True:
        shapes, found = _shapes(graph, model), dict[str, NDArray[Any]]()
        for node in graph.node:
            if len(node.output) != 1 or node.output[0] in constants:
                continue
            if node.op_type == "Shape" and node.input[0] in shapes:
                attrs = {each.name: get_attribute_value(each) for each in node.attribute}
                sides = shapes[node.input[0]][attrs.get("start", 0) : attrs.get("end")]
                found[node.output[0]] = constants[node.output[0]] = np.array(sides, dtype=np.int64)
            elif node.op_type in _ARITHMETIC and all(name in constants for name in node.input if name):
                value = _computed(node, {name: constants[name] for name in node.input if name})
                if value is not None and value.size <= _MOST_CONSTANTS:
                    found[node.output[0]] = constants[node.output[0]] = value
        news = found.keys() - {node.output[0] for node in graph.node if node.op_type == "Constant"}
        left = [node for node in graph.node if node.output[0] not in found]
        if news.isdisjoint(name for node in left for name in node.input):
            return shapes
        del graph.node[:]
        graph.node.extend(left)
        graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in found.items())


def _computed(node: NodeProto, given: dict[str, NDArray[Any]]) -> NDArray[Any] | None:
    from onnx.reference import ReferenceEvaluator  # here, since the import is slow and most graphs do not need it

    with contextlib.suppress(Exception):  # an operator of the reference may raise anything: the value stays unknown
        (value,) = ReferenceEvaluator(node).run(None, given)
        return np.asarray(value)
    return None


def _shapes(graph: GraphProto, model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Infer the shapes of values with the file's own opset; unknown ones are left out."""
    lean = ModelProto(ir_version=model.ir_version, graph=graph, opset_import=model.opset_import)
    lean.functions.extend(model.functions)
    try:
        inferred = infer_shapes(lean, data_prop=True).graph
    except Exception:  # onnx raises many types; unknown shapes are handled by the caller
        inferred = graph
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        sides = tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
        if value.type.tensor_type.HasField("shape") and all(sides):
            found[value.name] = sides
    return found


def _followed(
    node: NodeProto,
    inputs: Sequence[str],
    traced: Mapping[str, TracedMap],
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, NDArray[Any]],
) -> TracedMap | None:
    before, attrs = traced[inputs[0]], {each.name: get_attribute_value(each) for each in node.attribute}
    given, made = shapes.get(inputs[0]), shapes.get(node.output[0])
    match node.op_type:
        case kind if kind in (*_CONVOLUTIONS, *_POOLS, "ConvTranspose"):
            return _windowed(node, before, attrs, given, made, shapes)
        case "Transpose":
            return before.permuted([int(axis) for axis in attrs.get("perm", ())] or [3, 2, 1, 0])
        case "Pad":
            pads = attrs.get("pads") or _values(constants, node.input[1:2])
            axes = _values(constants, node.input[3:4])
            return None if pads is None or given is None else _padded(before, pads, axes, len(given))
        case "Slice":
            return _sliced(node, before, attrs, given, constants)
        case "Reshape" | "Squeeze" | "Unsqueeze":
            return before if _keeps_places(before, given, made) else None
        case "MatMul" if before.axes == (-2, -1) or node.input[1] in traced:
            return None  # sums over columns; with channels last it works at each position
        case "Resize" | "Upsample" | "DepthToSpace" | "SpaceToDepth":
            return None if given is None or made is None else _resized(node, before, attrs, given, made)
    if made is None or any(name not in shapes for name in inputs):
        return before  # an unknown operator: most are elementwise
    return merged([(shapes[name], traced[name]) for name in inputs], made)


def _keeps_places(before: TracedMap, given: tuple[int, ...] | None, made: tuple[int, ...] | None) -> bool:
    """Check whether a reshaped map has the same cells: the sides from its height on are unchanged, as in a channel shuffle."""
    first = min(before.axes)
    return given is not None and made is not None and len(made) >= -first and made[first:] == given[first:]


def _resized(
    node: NodeProto, before: TracedMap, attrs: Mapping[str, Any], given: tuple[int, ...], made: tuple[int, ...]
) -> TracedMap | None:
    # Before opset 11 there was one mode: Upsample, and Resize with the scales as its only other input
    usual = b"asymmetric" if node.op_type == "Upsample" or len(node.input) == 2 else b"half_pixel"
    mode = attrs.get("coordinate_transformation_mode", usual)
    if mode not in _COORDINATES:
        return None
    corners = mode == b"align_corners"
    # Nearest neighbours tile in any case
    starts = mode == b"asymmetric" and attrs.get("mode", b"nearest") != b"nearest"
    sides = zip((before.rows, before.columns), before.size(given), before.size(made), strict=True)
    rows, columns = (
        side.resampled(count, many, align_corners=corners, align_starts=starts or (many == 1 and mode == _PYTORCH))
        for side, count, many in sides
    )
    return TracedMap(rows, columns, before.axes)


def _windowed(
    node: NodeProto,
    before: TracedMap,
    attrs: Mapping[str, Any],
    given: tuple[int, ...] | None,
    made: tuple[int, ...] | None,
    shapes: Mapping[str, tuple[int, ...]],
) -> TracedMap | None:
    weight = node.input[{"QLinearConv": 3}.get(node.op_type, 1)] if len(node.input) > 1 else ""
    kernel = attrs.get("kernel_shape") or shapes.get(weight, ())[2:]
    if len(kernel) != 2:
        return None
    strides, dilations = attrs.get("strides") or (1, 1), attrs.get("dilations") or (1, 1)
    pads, automatic = attrs.get("pads") or (0, 0, 0, 0), attrs.get("auto_pad", b"NOTSET")
    sides = []
    for number, side in enumerate((before.rows, before.columns)):
        window = Window(kernel[number], strides[number], Padding.same, dilations[number])
        start = pads[number]
        if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
            if given is None or made is None:
                return None
            if node.op_type == "ConvTranspose":
                counted = (before.size(given)[number] - 1) * strides[number] + window.span - before.size(made)[number]
                ends = max(counted, 0) // 2, -(-max(counted, 0) // 2)
            else:
                ends = window.pads(before.size(given)[number])
            start = ends[0] if automatic == b"SAME_UPPER" else ends[1]
        follow = side.transposed if node.op_type == "ConvTranspose" else side.windowed
        sides.append(follow(window.span, stride=strides[number], before=start))
    rows, columns = sides
    return TracedMap(rows, columns, before.axes)


def _values(constants: Mapping[str, NDArray[Any]], names: Sequence[str]) -> list[int] | None:
    """Return the values of the first of these inputs; None if there is none or its values are unknown."""
    found = constants.get(names[0]) if names else None
    return None if found is None else [int(value) for value in found.ravel()]


def _padded(before: TracedMap, pads: Sequence[Any], axes: Sequence[Any] | None, count: int) -> TracedMap:
    places = [int(axis) % count - count for axis in axes] if axes is not None else list(range(-count, 0))
    starts = dict(zip(places, map(int, pads), strict=False))
    rows, columns = (
        side.sliced(-starts.get(axis, 0)) for side, axis in zip((before.rows, before.columns), before.axes, strict=True)
    )
    return TracedMap(rows, columns, before.axes)


def _sliced(
    node: NodeProto,
    before: TracedMap,
    attrs: Mapping[str, Any],
    given: tuple[int, ...] | None,
    constants: Mapping[str, NDArray[Any]],
) -> TracedMap | None:
    starts = attrs.get("starts") or _values(constants, node.input[1:2])
    if given is None or starts is None:
        return None
    axes = attrs.get("axes") or _values(constants, node.input[3:4]) or range(len(starts))
    steps = _values(constants, node.input[4:5]) or [1] * len(starts)
    sides: dict[int, Along] = dict(zip(before.axes, (before.rows, before.columns), strict=True))
    for axis, start, step in zip(axes, starts, steps, strict=True):
        place, count = int(axis) % len(given) - len(given), given[int(axis)]
        if place in sides:
            first = max(int(start) + count, 0) if start < 0 else min(int(start), count)
            sides[place] = sides[place].sliced(first, int(step))
    rows, columns = (sides[axis] for axis in before.axes)
    return TracedMap(rows, columns, before.axes)
