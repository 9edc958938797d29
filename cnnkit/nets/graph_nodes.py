"""Nodes, stored tensors and functions of ONNX graphs."""

import contextlib
import heapq
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, inliner, numpy_helper
from onnx.helper import get_attribute_value

from cnnkit.errors import FormatError
from cnnkit.formats import onnx_errors

MICROSOFT = "com.microsoft"
BLOCKED = "com.microsoft.nchwc"
STANDARD = ("", "ai.onnx")

MOST_VALUES = 64  # of a tensor that may be a shape, the axes of a mean, or a count
_MOST_NODES = 200_000  # in a graph with its functions inlined
_MASKING = -100.0  # the value that masks add to a score


@dataclass(frozen=True, slots=True)
class Constant:
    """A stored tensor: its sides, its type, and the tensor itself if its values are needed."""

    dims: tuple[int, ...]
    element: int
    tensor: TensorProto | None = None
    node: bool = False  # stored in a node, not as an initializer

    @property
    def values(self) -> NDArray[Any] | None:
        """Its values, if they are few."""
        if self.tensor is None or math.prod(self.dims) > MOST_VALUES:
            return None
        return array(self.tensor)

    @property
    def uniform(self) -> float | None:
        """The value of all its elements; None if they differ or are not numbers."""
        values = None if self.tensor is None else array(self.tensor)
        if values is None or values.dtype.kind not in "fiu" or not values.size:
            return None
        return float(values.flat[0]) if bool((values == values.flat[0]).all()) else None

    @property
    def is_repeated_value(self) -> bool:
        """Whether it is a vector that repeats one value, such as the biases of an untrained layer."""
        length = math.prod(self.dims)
        return length > 1 and length == max(self.dims) and self.uniform is not None

    @property
    def is_mask(self) -> bool:
        """Whether it only masks positions when added, as in windowed attention: zeros and large negative values."""
        values = None if self.tensor is None else array(self.tensor)
        if values is None or not values.size:
            return False
        if values.dtype.kind in "iu":  # quantized: two values, far apart
            low, high = int(values.min()), int(values.max())
            return high - low >= -_MASKING and bool(((values == low) | (values == high)).all())
        if values.dtype.kind != "f":
            return False
        return bool(((values == 0) | (values <= _MASKING)).all() and (values != 0).any())

    @property
    def learned(self) -> int:
        """How many of its values were learned.

        Windowed attention learns a bias for every offset between two positions of a window; exporters store it for all pairs of
        positions, (..., heads, positions, positions).
        """
        count = math.prod(self.dims)
        places = self.dims[-1] if len(self.dims) >= 3 and self.dims[-2] == self.dims[-1] else 0
        side = math.isqrt(places)
        if side < 2 or side * side != places or self.tensor is None:
            return count
        values = array(self.tensor)
        if values is None:
            return count
        distances = np.arange(side)[:, None] - np.arange(side) + side - 1  # 0 to 2 * (side - 1)
        both = (distances[:, None, :, None] * (2 * side - 1) + distances[None, :, None, :]).reshape(-1)
        pairs = values.reshape(-1, places * places)
        table = np.zeros((len(pairs), (2 * side - 1) ** 2), values.dtype)
        table[:, both] = pairs
        return table.size if bool((table[:, both] == pairs).all()) else count


def array(tensor: TensorProto) -> NDArray[Any] | None:
    """Read a tensor; None if its content does not fit its sides."""
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError):
        return None


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return the attributes of a node."""
    return {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}


def graphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the bodies of a node: branches, or the body of a loop."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


@contextlib.contextmanager
def well_written(node: NodeProto | None, name: str) -> Generator[None]:
    """Convert exceptions from missing or wrong inputs and attributes of a node to a FormatError.

    Raises:
        FormatError: There was such an exception.
    """
    try:
        yield
    except (IndexError, KeyError, ValueError, TypeError, ZeroDivisionError, AttributeError, OverflowError) as error:
        which = "a node" if node is None else called(node)
        raise FormatError(f"{name}: {which} does not have the inputs and attributes of its operator") from error


def called(node: NodeProto) -> str:
    """Name a node in a message."""
    return onnx_errors.called(node.name, node.op_type)


def in_order(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Sort nodes so that each comes after those whose values it reads; some converters do not. Cycles are left out."""
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
    """Yield the names that a node reads, including those that its bodies read from the graph around them."""
    yield from filter(None, node.input)
    for graph in graphs(node):
        for inner in graph.node:
            yield from names_read(inner)
        yield from (value.name for value in graph.output)


def stored(tensor: TensorProto) -> Constant:
    """Return an initializer as a constant."""
    return Constant(tuple(tensor.dims), tensor.data_type, tensor)


def constant_of(node: NodeProto) -> Constant | None:
    """Return the value of a Constant node; None for strings."""
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


def inlined(model: ModelProto, *, name: str) -> ModelProto:
    """Inline the functions that a model defines.

    Raises:
        FormatError: A function calls itself, the graph would become too large, or onnx cannot inline them.
    """
    if not model.functions:
        return model
    functions = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    nodes = sum(_size(node, functions, sizes, (), name) for node in model.graph.node)
    if nodes > _MOST_NODES:
        raise FormatError(
            f"{name}: with its functions inlined it has {nodes} nodes; at most {_MOST_NODES} are measured"
        )
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # onnx's C++ code raises exceptions of many types
        raise FormatError(f"{name}: its functions cannot be inlined: {onnx_errors.reason(error)}") from error


def _size(
    node: NodeProto,
    functions: Mapping[tuple[str, str], FunctionProto],
    sizes: dict[tuple[str, str], int],
    calling: tuple[tuple[str, str], ...],
    name: str,
) -> int:
    """Count the nodes of a node with its functions inlined, without inlining them."""
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
