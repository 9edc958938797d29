"""Check whether the graph of an ONNX file can be run, before any memory is allocated for it.

What the file declares is checked here: sizes of weights and of node outputs, functions, cycles. What a graph computes at run time (the
shape of a constant, the number of iterations of a loop) is not known; `check` returns whether memory or time must be limited then.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.shape_inference import infer_shapes

from cnnkit.errors import FormatError
from cnnkit.formats.onnx_record import Needs
from cnnkit.messages import excerpt

#: The most numbers in one value for one image, 1 GiB of float32; and in one whose size depends on the contents of another value.
LARGEST_VALUE = 2**28
_LARGEST_MADE = 2**26
#: The most nodes after functions are expanded.
_MOST_NODES = 1_000_000
#: The most characters of metadata; a Header with a thousand classes has a hundred thousand.
_MOST_METADATA = 2**25
#: A tensor of up to this many numbers may be a shape, which shape inference needs.
_SHAPE_LIKE = 1024

#: Operators whose output size depends on the contents of an input.
_SIZED_BY_VALUES = frozenset(
    {
        *(
            "ConstantOfShape",
            "Expand",
            "Tile",
            "Range",
            "Resize",
            "Upsample",
            "Pad",
            "OneHot",
            "CenterCropPad",
            "Col2Im",
        ),
        *(
            "RandomNormal",
            "RandomUniform",
            "EyeLike",
            "MaxUnpool",
            "AffineGrid",
            "HannWindow",
            "HammingWindow",
            "BlackmanWindow",
        ),
        "MelWeightMatrix",
    }
)
#: Attributes that operators divide by or use as a length; ONNX Runtime does not check all of them.
_COUNTS = frozenset(
    {
        *("strides", "dilations", "kernel_shape", "group", "num_groups", "groups", "offset_group", "blocksize"),
        *("num_heads", "q_num_heads", "kv_num_heads"),
    }
)
_REPEATING = frozenset({"Loop", "Scan"})

_ITEM_BITS: dict[int, int] = {
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 32),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64, TensorProto.COMPLEX64), 64),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16), 16),
    **dict.fromkeys((TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL), 8),
    TensorProto.COMPLEX128: 128,
}


def check(proto: ModelProto, tensors: Iterable[TensorProto], *, name: str) -> Needs:
    """Raise an error for a graph on which ONNX Runtime would crash, hang, run out of memory, or fail with an obscure message.

    Args:
        proto: The file's content.
        tensors: All of its tensors, at any depth.
        name: The file, for messages.

    Returns:
        What has to be limited at run time.

    Raises:
        FormatError: The graph is refused.
    """
    graph = proto.graph
    if sum(len(entry.key) + len(entry.value) for entry in proto.metadata_props) > _MOST_METADATA:
        raise FormatError(f"{name}: more than {_MOST_METADATA:,} characters of metadata")
    for tensor in tensors:
        _check_tensor(tensor, name=name)
    for sparse in graph.sparse_initializer:
        _check_size(sparse.dims, f"the weights {excerpt(sparse.values.name)}", name=name)
    if not graph.output:
        raise FormatError(f"{name}: a network without an output")
    kept = {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}
    if all(value.name in kept for value in graph.input):
        raise FormatError(f"{name}: a network without an input")
    _check_functions(proto, name=name)
    for node in _nodes(proto):
        _check_counts(node, name=name)
    _check_order(graph, kept, name=name)
    found = _inferred(proto).graph
    _check_sizes(proto, found, name=name)
    return Needs(memory=not _shows_sizes(proto, found), time=any(node.op_type in _REPEATING for node in _nodes(proto)))


def _shows_sizes(proto: ModelProto, found: GraphProto) -> bool:
    known = {value.name: value.type.tensor_type for value in (*found.value_info, *found.output)}
    inputs = {side.dim_param for value in proto.graph.input for side in value.type.tensor_type.shape.dim} - {""}
    for node in _nodes(proto):
        if node.op_type in _REPEATING:
            return False
        if node.op_type in _SIZED_BY_VALUES and not all(
            output in known and _is_known(known[output], inputs) for output in node.output if output
        ):
            return False
    return True


def _nodes(proto: ModelProto) -> Iterator[NodeProto]:
    for graph in (proto.graph, *proto.functions):
        yield from _all_nodes(graph)


def _check_size(dims: Sequence[int], what: str, *, name: str, most: int = 2**31) -> None:
    if any(size < 0 for size in dims) or math.prod(dims) > most:
        raise FormatError(f"{name}: {what} have the shape {'x'.join(map(str, dims))}, which is impossible")


def _check_tensor(tensor: TensorProto, *, name: str) -> None:
    what = f'the weights "{excerpt(tensor.name)}"'
    _check_size(tensor.dims, what, name=name)
    bits = _ITEM_BITS.get(tensor.data_type)
    numbers = (
        tensor.float_data,
        tensor.int32_data,
        tensor.int64_data,
        tensor.double_data,
        tensor.uint64_data,
        tensor.string_data,
    )
    if bits is None or any(numbers):
        return
    expected = math.prod(tensor.dims) * bits // 8
    if len(tensor.raw_data) != expected:
        raise FormatError(
            f"{name}: {what} of shape {'x'.join(map(str, tensor.dims)) or '()'} take {expected:,} bytes, the file has "
            f"{len(tensor.raw_data):,}; is it truncated?"
        )


def _check_counts(node: NodeProto, *, name: str) -> None:
    """Raise an error for a count of 0 or less in an attribute: on some of them ONNX Runtime crashes the process."""
    for attribute in node.attribute:
        values = attribute.ints or ([attribute.i] if attribute.type == AttributeProto.INT else [])
        if attribute.name in _COUNTS and any(value < 1 for value in values):
            raise FormatError(
                f"{name}: {attribute.name} of its {excerpt(node.op_type)} is {', '.join(map(str, values))}, expected 1 or more"
            )


def _check_functions(proto: ModelProto, *, name: str) -> None:
    """Raise an error for recursive functions, and for too many nodes after functions are expanded."""
    functions = {(each.domain, each.name): each for each in proto.functions}
    sizes: dict[tuple[str, str], int] = {}

    def called(nodes: Iterable[NodeProto]) -> list[tuple[str, str]]:
        return [(node.domain, node.op_type) for node in nodes if (node.domain, node.op_type) in functions]

    for start in functions:
        path, entered = [start], {start}
        while path:
            here = path[-1]
            waiting = [each for each in called(_all_nodes(functions[here])) if each not in sizes]
            if here not in sizes and waiting:
                if waiting[0] in entered:
                    raise FormatError(f"{name}: its function {excerpt(waiting[0][1])} calls itself")
                path.append(waiting[0])
                entered.add(waiting[0])
                continue
            sizes[here] = sum(sizes.get((node.domain, node.op_type), 1) for node in _all_nodes(functions[here]))
            entered.discard(path.pop())
    whole = sum(sizes.get((node.domain, node.op_type), 1) for node in _all_nodes(proto.graph))
    if whole > _MOST_NODES:
        raise FormatError(f"{name}: more than {_MOST_NODES:,} nodes after its functions are expanded")


def _all_nodes(graph: GraphProto | FunctionProto) -> list[NodeProto]:
    """Return the nodes of a graph or a function, including those of subgraphs."""
    found: list[NodeProto] = []
    waiting: list[GraphProto | FunctionProto] = [graph]
    while waiting:
        for node in waiting.pop().node:
            found.append(node)
            for attribute in node.attribute:
                waiting.extend([attribute.g] if attribute.HasField("g") else attribute.graphs)
    return found


def _check_order(graph: GraphProto, kept: set[str], *, name: str) -> None:
    """Check that the graph has no cycles, that each value is computed once, and that every output is computed."""
    made_by: dict[str, int] = {}
    for place, node in enumerate(graph.node):
        for output in filter(None, node.output):
            if output in made_by or output in kept:
                raise FormatError(f'{name}: its value "{excerpt(output)}" is computed twice')
            made_by[output] = place
    known = {value.name for value in graph.input} | kept
    for value in graph.output:
        if value.name not in known and value.name not in made_by:
            raise FormatError(f'{name}: no node computes its output "{excerpt(value.name)}"')
    users: list[list[int]] = [[] for _ in graph.node]
    missing = [0] * len(graph.node)
    for place, node in enumerate(graph.node):
        for before in {made_by[value] for value in _taken(node) if value in made_by}:
            users[before].append(place)
            missing[place] += 1
    ready = deque(place for place, count in enumerate(missing) if not count)
    done = 0
    while ready:
        done += 1
        for place in users[ready.popleft()]:
            missing[place] -= 1
            if not missing[place]:
                ready.append(place)
    if done < len(graph.node):
        raise FormatError(f"{name}: some of its nodes form a cycle")


def _taken(node: NodeProto) -> Iterator[str]:
    """Yield the names of values that a node uses, and of outer values that its subgraphs use."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            nodes = _all_nodes(graph)
            own = {value for inner in nodes for value in inner.output}
            yield from (value for inner in nodes for value in inner.input if value not in own)
            yield from (value.name for value in graph.output if value.name not in own)


def _check_sizes(proto: ModelProto, found: GraphProto, *, name: str) -> None:
    """Raise an error for values that are too large, as far as shapes can be inferred."""
    made = {output for node in proto.graph.node if node.op_type in _SIZED_BY_VALUES for output in node.output}
    inputs = {value.name for value in proto.graph.input}
    taken = next((_declared(value.type.tensor_type) for value in _images(proto.graph)), [])
    rows = (taken[0] if taken else None) or 1
    for value in (*proto.graph.input, *proto.graph.output, *found.value_info, *found.output):
        shape = _declared(value.type.tensor_type)
        most = _LARGEST_MADE if value.name in made else LARGEST_VALUE
        batch = rows if shape[:1] == [rows] and value.name not in inputs else 1
        if math.prod(size or 1 for size in shape) // batch > most:
            sides = "x".join("any" if size is None else str(size) for size in shape)
            raise FormatError(
                f'{name}: its value "{excerpt(value.name)}" has the shape {sides}, more than the limit of {most:,} numbers per image'
            )


def _images(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs of a graph without the weights, which old files also list as inputs."""
    kept = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in kept]


def _declared(kind: onnx.TypeProto.Tensor) -> list[int | None]:
    return [side.dim_value if side.HasField("dim_value") else None for side in kind.shape.dim]


def _is_known(kind: onnx.TypeProto.Tensor, inputs: set[str]) -> bool:
    """Return whether every dimension of a value is a number or a dimension of the input."""
    return kind.HasField("shape") and all(
        side.HasField("dim_value") or side.dim_param in inputs for side in kind.shape.dim
    )


def _constant(node: NodeProto) -> TensorProto | None:
    """Return the tensor of a Constant node, as old exporters store weights, or None."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    return next((attribute.t for attribute in node.attribute if attribute.HasField("t")), None)


def _inferred(proto: ModelProto) -> ModelProto:
    """Infer the shapes of all values for one image, without copying the weights; unknown shapes are omitted."""
    light = ModelProto()
    for field, value in proto.ListFields():
        if field.name not in ("graph", "metadata_props", "training_info", "doc_string"):
            if field.is_repeated:
                getattr(light, field.name).extend(value)
            else:
                setattr(light, field.name, value)
    graph = proto.graph
    light.graph.name = graph.name
    light.graph.input.extend(graph.input)
    for value in _images(light.graph):
        if (sides := value.type.tensor_type.shape.dim) and not sides[0].HasField("dim_value"):
            sides[0].dim_value = 1  # one image
    for value in graph.output:  # omit declared shapes, which may be wrong
        light.graph.output.add(name=value.name).type.tensor_type.elem_type = value.type.tensor_type.elem_type
    for node in graph.node:
        weights = _constant(node)
        if weights is None or math.prod(weights.dims) <= _SHAPE_LIKE:
            light.graph.node.append(node)
        else:
            light.graph.input.append(helper.make_tensor_value_info(node.output[0], weights.data_type, weights.dims))
    given = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _SHAPE_LIKE:
            light.graph.initializer.append(tensor)
        elif tensor.name not in given:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        return infer_shapes(light, data_prop=True)
    except Exception:  # an operator or a domain unknown to onnx, or an inconsistent graph
        return ModelProto()
