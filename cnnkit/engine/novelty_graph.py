"""The novelty of images as an output of an exported network: the distance of `evaluation.novelty`, in ONNX operators. Imports no torch."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from cnnkit.errors import FormatError
from cnnkit.evaluation.novelty import SHORTEST, TrainingFeatures
from cnnkit.formats.onnx_record import NOVELTY

#: The start of the names of all that is added to a graph.
PREFIX = "novelty/"

#: The oldest operator set in which axes are an input of the sums.
_OPSET = 18

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def without(proto: ModelProto) -> ModelProto:
    """Return a copy of a network without an output `novelty` that was added before."""
    bare = ModelProto()
    bare.CopyFrom(proto)
    graph = bare.graph
    for items in (graph.node, graph.initializer):
        kept = [item for item in items if not item.name.startswith(PREFIX)]
        del items[:]
        items.extend(kept)
    outputs = [output for output in graph.output if output.name != NOVELTY]
    del graph.output[:]
    graph.output.extend(outputs)
    return bare


def append(made: ModelProto, original: ModelProto) -> None:
    """Append the novelty of a network, if it has one, to another form of the same network."""
    for items, added in (
        (made.graph.node, original.graph.node),
        (made.graph.initializer, original.graph.initializer),
    ):
        items.extend(item for item in added if item.name.startswith(PREFIX))
    made.graph.output.extend(output for output in original.graph.output if output.name == NOVELTY)


def candidates(proto: ModelProto, shape: tuple[int, ...]) -> list[str]:
    """Return the tensors of a graph that may be the features of images, because they have the shape (batch, *shape)."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    own = [value for value in (*graph.input, *graph.output) if value.name == "features"]
    if own:
        return ["features"]
    found = []
    for value in graph.value_info:
        tensor = value.type.tensor_type
        sides = [side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim]
        if tensor.elem_type in _FLOATS and len(sides) == len(shape) + 1 and tuple(sides[1:]) == shape:
            found.append(value.name)
    return found


def showing(proto: ModelProto, names: Sequence[str]) -> ModelProto:
    """Return a copy of a network with tensors of its graph as further outputs."""
    shown = ModelProto()
    shown.CopyFrom(proto)
    there = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    known = {value.name: value for value in onnx.shape_inference.infer_shapes(proto).graph.value_info}
    shown.graph.output.extend(known[name] for name in names if name not in there)
    return shown


def with_novelty(proto: ModelProto, training: TrainingFeatures, *, features: str, name: str) -> tuple[ModelProto, str]:
    """Return a copy of a network with the output `novelty`, float32 (N,), and the tensor of features in float32 that it is computed from.

    Args:
        proto: From `without`.
        training: From `evaluation.novelty.fit`.
        features: The tensor of features, (N, D) or (N, C, h, w).
        name: The file, for messages.

    Raises:
        FormatError: Its operator set is older than those of cnn-export.
    """
    (opset,) = {item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")}
    if opset < _OPSET:
        raise FormatError(f"{name}: its operator set is {opset}, and a novelty needs {_OPSET}; export it again")
    made = ModelProto()
    made.CopyFrom(proto)
    graph = made.graph
    rank = _rank_of(proto, features)
    add, constant = _adder(graph), _constants(graph)
    along_rows = constant("axis", np.array([1], dtype=np.int64))

    # Also of float32: in another form of the network, the features may be in float16
    given = vectors = add("Cast", [features], "float32", to=TensorProto.FLOAT)
    if rank == 4:  # (N, C, h, w) -> (N, D)
        places = constant("places", np.array([2, 3], dtype=np.int64))
        vectors = add("ReduceMean", [vectors, places], "pooled", keepdims=0)
    length = add("ReduceL2", [vectors, along_rows], "length", keepdims=1)  # (N, 1)
    divisor = add("Max", [length, constant("shortest", np.float32(SHORTEST))], "divisor")
    unit = add("Div", [vectors, divisor], "unit")
    rows = add("Sub", [unit, constant("mean", training.mean)], "centred")  # (N, D)

    axes = add("Cast", [constant("axes", training.axes)], "axes32", to=TensorProto.FLOAT)
    components = add("MatMul", [rows, axes], "components")  # (N, d)
    inside = add("MatMul", [components, add("Transpose", [axes], "axes_turned")], "inside")
    across = add("Mul", [add("Sub", [rows, inside], "outside"), constant("across", training.across)], "outside_scaled")
    along = add("Mul", [components, constant("along", training.along)], "components_scaled")
    places = add("Concat", [across, along], "coordinates", axis=1)  # (N, D + d)

    means = training.classes.astype(np.float64)
    lengths = constant("squared_classes", (means**2).sum(axis=1).astype(np.float32))  # (K,)
    turned = constant("classes", np.ascontiguousarray(training.classes.T))  # (D + d, K)
    products = add("MatMul", [places, add("Cast", [turned], "classes32", to=TensorProto.FLOAT)], "products")
    twice = add("Mul", [products, constant("two", np.float32(2))], "twice")
    nearest = add("ReduceMin", [add("Sub", [lengths, twice], "to_classes"), along_rows], "nearest", keepdims=1)
    squares = add("ReduceSumSquare", [places, along_rows], "squares", keepdims=1)  # (N, 1)
    squared = add("Add", [squares, nearest], "squared")
    positive = add("Max", [squared, constant("zero", np.float32(0))], "positive")
    graph.node.append(
        helper.make_node("Squeeze", [add("Sqrt", [positive], "root"), along_rows], [NOVELTY], name=f"{PREFIX}Squeeze")
    )
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    side = batch.dim_param or (batch.dim_value if batch.HasField("dim_value") else None)
    graph.output.append(helper.make_tensor_value_info(NOVELTY, TensorProto.FLOAT, [side]))
    return made, given


def _rank_of(proto: ModelProto, name: str) -> int:
    """Return the number of axes of a tensor."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    return next(len(value.type.tensor_type.shape.dim) for value in values if value.name == name)


def _adder(graph: GraphProto) -> Callable[..., str]:
    """Return a function that adds a node with one output and returns the output's name."""

    def add(kind: str, inputs: Sequence[str], result: str, **attributes: int) -> str:
        name = f"{PREFIX}{result}"
        node: NodeProto = helper.make_node(kind, list(inputs), [name], name=name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        graph.node.append(node)
        return name

    return add


def _constants(graph: GraphProto) -> Callable[[str, NDArray[np.generic] | np.generic], str]:
    """Return a function that stores a tensor in a graph and returns its name."""

    def constant(name: str, values: NDArray[np.generic] | np.generic) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(values), f"{PREFIX}{name}"))
        return f"{PREFIX}{name}"

    return constant
