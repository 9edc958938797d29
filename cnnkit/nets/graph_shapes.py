"""The shape of every value of an ONNX graph, inferred node by node.

onnx infers the output of each node with the graph's own opset, from shapes and, where a graph computes shapes itself, from values. Shapes
that onnx cannot infer are found by running the graph once with ONNX Runtime, on an image of zeros, with shapes as the only outputs.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, defs, numpy_helper
from onnx.helper import (
    make_graph,
    make_model,
    make_opsetid,
    make_tensor_type_proto,
    make_tensor_value_info,
)
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import infer_node_outputs

from cnnkit.formats import onnx_errors
from cnnkit.nets.graph_nodes import BLOCKED, MICROSOFT, MOST_VALUES, STANDARD, Constant
from cnnkit.nets.graph_run import GraphRunError, shapes_by_running

Shape = tuple[int, ...]

_INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING)
# Operators whose output has the shape of their first input. onnx has some only since a later opset; older graphs contain them, too.
_SAME_SHAPE = frozenset(
    {
        *(
            "LayerNormalization",
            "GroupNormalization",
            "RMSNormalization",
            "InstanceNormalization",
            "MultiHeadAttention",
        ),
        *("Gelu", "HardSwish", "Mish", "Swish", "Celu", "Softplus", "Clip", "Dropout", "BatchNormalization"),
    }
)
_OF_FLOATS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM")
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
_OF_UNKNOWN_LENGTH = frozenset({"NonZero", "Unique", "Compress"})
_SEQUENCES = frozenset(
    {
        *("SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceMap", "SplitToSequence"),
        *("Optional", "OptionalGetElement", "Loop", "If", "Scan"),
    }
)
# The shape of their output, and whether later operators accept it, depends on values.
_BY_VALUE = _OF_UNKNOWN_LENGTH | _SEQUENCES | {"NonMaxSuppression"}


class Shapes:
    """Types and shapes of the values so far, and the few values from which shapes are computed."""

    def __init__(self, model: ModelProto, inputs: Mapping[str, tuple[int, Shape]]) -> None:
        """Start with the inputs of a network.

        Args:
            model: The network, with its functions inlined.
            inputs: Element type and shape of each input, by name.
        """
        self.values: dict[str, NDArray[Any]] = {}
        self.reason = ""  # why the last missing shape is unknown
        self._types = {name: make_tensor_type_proto(_kind(element), shape) for name, (element, shape) in inputs.items()}
        self._opsets = {"" if entry.domain in STANDARD else entry.domain: entry.version for entry in model.opset_import}
        self._model = model
        self._inputs = dict(inputs)
        self._run: dict[str, Shape] | None = None
        self._failure = ""  # why running the graph failed

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return int(self._opsets.get("", 1))

    def __getitem__(self, name: str) -> Shape:
        """Return the shape of a value; raise KeyError if it is unknown."""
        shape = self.get(name)
        if shape is None:
            raise KeyError(name)
        return shape

    def get(self, name: str) -> Shape | None:
        """Return the shape of a value, None if it is unknown."""
        kind = self._types.get(name)
        return None if kind is None else _shape(kind)

    def add(self, constants: Mapping[str, Constant]) -> None:
        """Add stored tensors."""
        for name, constant in constants.items():
            self._types[name] = make_tensor_type_proto(_kind(constant.element), constant.dims)
            values = constant.values
            if values is not None:
                self.values[name] = values

    def copy(self, name: str, other: str) -> None:
        """Set all that is known of a value to that of another one, as for the input of a body and of its node."""
        self._types.pop(name, None)
        self.values.pop(name, None)
        if other in self._types:
            self._types[name] = self._types[other]
        if other in self.values:
            self.values[name] = self.values[other]

    def set_shape(self, name: str, shape: Shape, element: int = TensorProto.FLOAT) -> None:
        """Set the shape of a value."""
        self._types[name] = make_tensor_type_proto(_kind(element), shape)
        self.values.pop(name, None)

    def set_number(self, name: str, value: int | bool) -> None:
        """Set a value that is a single number."""
        self.values[name] = np.asarray(value)
        self._types[name] = make_tensor_type_proto(
            TensorProto.BOOL if isinstance(value, bool) else TensorProto.INT64, ()
        )

    def forget(self, name: str) -> None:
        """Delete all that is known of a value."""
        self._types.pop(name, None)
        self.values.pop(name, None)

    def infer(self, node: NodeProto) -> None:
        """Infer type and shape of a node's outputs, and their values if they are few and known."""
        outputs = [name for name in node.output if name]
        for name in outputs:
            self._types.pop(name, None)
            self.values.pop(name, None)
        self.reason = ""
        for name, kind in self._inferred(node).items():
            self._types[name] = kind
        if node.op_type == "Shape" and node.domain in STANDARD:
            self._read_shape(node)
        elif all(name in self.values for name in node.input if name) and node.op_type not in _RANDOM:
            self._evaluate(node)
        for name in outputs:
            if self.get(name) is None and not self.is_no_tensor(name):
                self._fall_back(name, node)

    def _inferred(self, node: NodeProto) -> dict[str, TypeProto]:
        """Infer the types of a node's outputs with onnx; unknown ones are left out."""
        known = {name: self._types[name] for name in node.input if name in self._types}
        if node.op_type in _OF_FLOATS:  # the biases of quantized layers are integers
            known = {name: self._as_floats(kind) for name, kind in known.items()}
        if any(name and name not in known for name in node.input):
            return {}
        if node.op_type == "MultiHeadAttention" or node.domain not in STANDARD:
            return self._like_first(node)
        opset = self.opset
        schema = _schema(node.op_type, opset)
        if schema is None or schema.deprecated:
            like_first = self._like_first(node)
            if like_first or not defs.has(node.op_type):
                return like_first
            schema = defs.get_schema(node.op_type)  # some exporters write operators of later opsets
            opset = schema.since_version
        node, known = _with_all_inputs(node, schema, known)
        data = {
            name: numpy_helper.from_array(np.asarray(self.values[name]), name)
            for name in node.input
            if name in self.values
        }
        try:
            return infer_node_outputs(
                schema,
                node,
                known,
                data,
                opset_imports=[make_opsetid("", opset)],
                ir_version=max(self._model.ir_version, 4),
            )
        except Exception as error:  # onnx's C++ code raises exceptions of many types
            self.reason = onnx_errors.reason(error)
            return {}

    def _as_floats(self, kind: TypeProto) -> TypeProto:
        shape = _shape(kind)
        return kind if shape is None else make_tensor_type_proto(TensorProto.FLOAT, shape)

    def _like_first(self, node: NodeProto) -> dict[str, TypeProto]:
        """Return the type of the first input for an operator that keeps its shape, in opsets that lack the operator."""
        if node.op_type not in _SAME_SHAPE or node.domain not in (*STANDARD, MICROSOFT):
            return {}
        if node.op_type == "MultiHeadAttention":
            shapes = [self.get(name) for name in node.input[:3]]
            if len(shapes) < 3 or any(shape is None or len(shape) != 3 for shape in shapes) or shapes[0] is None:
                return {}
            if shapes[2] is None or shapes[0][-1] != shapes[2][-1]:
                return {}
        return {node.output[0]: self._types[node.input[0]]}

    def is_no_tensor(self, name: str) -> bool:
        """Check whether a value has no shape, such as a sequence or a map."""
        kind = self._types.get(name)
        return kind is not None and kind.WhichOneof("value") not in (None, "tensor_type")

    def _read_shape(self, node: NodeProto) -> None:
        shape = self.get(node.input[0])
        if shape is None:
            return
        attrs = {attribute.name: attribute.i for attribute in node.attribute}
        part = shape[attrs.get("start", 0) : attrs.get("end", len(shape))]
        self.values[node.output[0]] = np.asarray(part, np.int64)
        self._types[node.output[0]] = make_tensor_type_proto(TensorProto.INT64, (len(part),))

    def _evaluate(self, node: NodeProto) -> None:
        """Compute the few values of a node whose inputs are all known."""
        shapes = [self.get(name) for name in node.output if name]
        small = all(shape is not None and math.prod(shape) <= MOST_VALUES for shape in shapes)
        if node.domain not in STANDARD or not (small or node.op_type in _OF_UNKNOWN_LENGTH):
            return
        names = [name for name in dict.fromkeys(node.input) if name]
        graph = make_graph(
            [node],
            "node",
            [make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names],
            [make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output if name],
        )
        model = make_model(graph, opset_imports=[make_opsetid("", self.opset)])
        try:
            results = ReferenceEvaluator(model).run(None, {name: self.values[name] for name in names})
        except Exception:  # onnx may raise anything for what it does not implement; the values stay unknown
            return
        for name, result in zip((name for name in node.output if name), results, strict=True):
            if isinstance(result, np.ndarray | np.generic):
                self.values[name] = np.asarray(result)
                element = numpy_helper.from_array(self.values[name]).data_type
                self._types[name] = make_tensor_type_proto(_kind(element), self.values[name].shape)

    def _fall_back(self, name: str, node: NodeProto) -> None:
        """Take a shape from a run of the graph."""
        if self._run is None:
            self._run = self._ran()
        if name not in self._run and self._failure not in self.reason:
            self.reason = "; ".join(filter(None, (self.reason, self._failure)))
        if name in self._run:
            kind = self._types.get(name)
            element = kind.tensor_type.elem_type if kind is not None else 0
            first = next((self._types[given] for given in node.input if given in self._types), None)
            element = element or (first.tensor_type.elem_type if first is not None else 0) or TensorProto.FLOAT
            self._types[name] = make_tensor_type_proto(element, self._run[name])

    def _ran(self) -> dict[str, Shape]:
        """Run the graph for the shapes of all its values."""
        outputs = [
            name for node in self._model.graph.node if node.op_type not in _SEQUENCES for name in node.output if name
        ]
        try:
            return shapes_by_running(self._model, outputs, self._inputs)
        except GraphRunError as error:
            self._failure = str(error)
            return {}

    def refusal(self, *, run: bool) -> str | None:
        """Return why ONNX Runtime refuses the graph; None if it accepts it, or if that is unknown.

        Args:
            run: Whether to run the graph, on an image of zeros; otherwise it is only loaded.
        """
        if self._run or any(node.domain == BLOCKED for node in self._model.graph.node):
            return None  # the block size depends on the processor that wrote the file: another one refuses valid graphs
        by_value = any(node.op_type in _BY_VALUE for node in self._model.graph.node)  # may fail on zeros
        try:
            shapes_by_running(self._model, (), self._inputs, run=run and not by_value)
        except GraphRunError as error:
            return str(error) if error.refused else None
        return None


def _kind(element: int) -> int:
    """Return FLOAT for small integers and all floats: quantized networks are measured as the float networks they were made from."""
    return element if element in _INTEGERS else TensorProto.FLOAT


def _schema(operator: str, opset: int) -> defs.OpSchema | None:
    try:
        return defs.get_schema(operator, opset, "")
    except defs.SchemaError:
        return None


def _with_all_inputs(
    node: NodeProto, schema: defs.OpSchema, known: dict[str, TypeProto]
) -> tuple[NodeProto, dict[str, TypeProto]]:
    """Fill in an empty tensor for a missing input that the opset requires; exporters omit one of Resize."""
    demanded = [
        place
        for place, (name, formal) in enumerate(zip(node.input, schema.inputs, strict=False))
        if not name and formal.option == defs.OpSchema.FormalParameterOption.Single
    ]
    if not demanded:
        return node, known
    filled = NodeProto()
    filled.CopyFrom(node)
    for place in demanded:
        filled.input[place] = "left out"
    return filled, {**known, "left out": make_tensor_type_proto(TensorProto.FLOAT, (0,))}


def _shape(kind: TypeProto) -> Shape | None:
    if kind.WhichOneof("value") != "tensor_type" or not kind.tensor_type.HasField("shape"):
        return None
    sides = [side.dim_value if side.HasField("dim_value") else -1 for side in kind.tensor_type.shape.dim]
    return tuple(sides) if all(side >= 0 for side in sides) else None
