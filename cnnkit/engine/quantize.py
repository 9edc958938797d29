"""Quantization of exported networks to int8 with ONNX Runtime's quantizer. Imports no torch; importing it takes a second.

Weights become int8 with a scale for each output channel, activations uint8 with a range measured on images. Normalization and whitening
stay in float32, as does all from the layers of the outputs on: pooled features, the last dense layer, softmax. More layers can, by
their errors.
"""

import contextlib
import logging
import tempfile
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime import quantization

from cnnkit.engine.session import Session
from cnnkit.errors import CnnkitError
from cnnkit.nets import graph_dims

#: Operators with weights: the layers that can stay in float32 one by one.
_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
#: Operators that compute on int8; Clip and Relu become part of the layer before them.
_QUANTIZED = (
    *("Conv", "Gemm", "MatMul"),
    *("Add", "Clip", "Concat", "Relu"),
    *("AveragePool", "GlobalAveragePool", "MaxPool"),
)
#: Functions that are applied to the output of a layer before its error is measured.
_ACTIVATIONS = frozenset({"Clip", "Relu"})
_STANDARD_DOMAINS = ("", "ai.onnx")
#: Passes of each network in a measurement of speed.
_PASSES = 5


class Quantizer:
    """A network in float32, prepared for quantization: `layers` are the names of those that can become int8, in their order.

    `calibrate` comes first, then `quantized` as often as needed.
    """

    def __init__(self, content: bytes, *, name: str) -> None:
        """Prepare a network: ONNX Runtime folds batch normalization into convolutions, and infers the shapes.

        Args:
            content: A network of cnn-export in float32.
            name: The file, for messages.

        Raises:
            CnnkitError: ONNX Runtime cannot do that, or no layer is left to quantize.
        """
        self._name = name
        with tempfile.TemporaryDirectory(prefix="cnnkit-") as folder:
            given, made = Path(folder, "float32.onnx"), Path(folder, "prepared.onnx")
            given.write_bytes(content)
            with _explained(name):
                # The shapes that symbolic inference adds are not needed, and it would import sympy
                quantization.quant_pre_process(given, made, skip_symbolic_shape=True)
                self._float32 = onnx.load_model_from_string(made.read_bytes())
        _normalize_by_channel(self._float32.graph)
        for number, node in enumerate(self._float32.graph.node):
            node.name = node.name or f"node{number}"
        self._always_float32 = _outer_nodes(self._float32.graph) | _unshared(self._float32.graph)
        self._nodes = {
            graph_dims.name_of(node): node
            for node in self._float32.graph.node
            if _is_layer(node) and node.name not in self._always_float32 and _has_weights(node, self._weights)
        }
        if not self._nodes:
            raise CnnkitError(
                f"{name} has no layer between the first and the last, and those stay in float32; export it without --int8"
            )
        self._ranges: Any = None

    @property
    def layers(self) -> list[str]:
        """The names of the layers that can become int8, as in cnn-dims."""
        return list(self._nodes)

    @property
    def outer_layers(self) -> list[str]:
        """The names of the layers that always stay in float32."""
        graph = self._float32.graph
        outer = [node for node in graph.node if _is_layer(node) and node.name in self._always_float32]
        return [graph_dims.name_of(node) for node in outer]

    @property
    def _weights(self) -> set[str]:
        return {tensor.name for tensor in self._float32.graph.initializer}

    def calibrate(self, batches: Iterable[NDArray[Any]]) -> None:
        """Find the range of every activation: the least and the greatest value on some images.

        Only these two are kept of a batch, so memory does not grow with the number of images.

        Args:
            batches: Inputs of the network, the batch first.

        Raises:
            CnnkitError: ONNX Runtime fails.
        """
        (taken,) = self._float32.graph.input
        with tempfile.TemporaryDirectory(prefix="cnnkit-") as folder:
            given = Path(folder, "prepared.onnx")
            given.write_bytes(self._float32.SerializeToString())
            with _explained(self._name):
                calibrator = quantization.create_calibrator(
                    given,
                    list(_QUANTIZED),
                    augmented_model_path=str(Path(folder, "with-ranges.onnx")),
                    calibrate_method=quantization.CalibrationMethod.MinMax,
                )
                for batch in batches:
                    calibrator.collect_data(_OneBatch({taken.name: batch}))
                self._ranges = calibrator.compute_data()

    def quantized(self, float32: Collection[str] = ()) -> ModelProto:
        """Return the network in int8; inputs and outputs keep names and types.

        Args:
            float32: Names of layers that stay in float32.

        Raises:
            CnnkitError: ONNX Runtime's quantizer fails.
        """
        kept = {self._nodes[name].name for name in float32} | self._always_float32
        # Symmetric weights and asymmetric activations have the fastest kernels on x86: with int8 activations or uint8 weights,
        # MobileNetV2 is as slow as in float32
        with _explained(self._name), _quiet():
            quantizer = quantization.QDQQuantizer(
                _copy(self._float32),
                True,  # per channel; the names of the parameters have changed between versions
                False,  # all eight bits
                quantization.QuantType.QInt8,
                quantization.QuantType.QUInt8,
                self._ranges,
                [],
                sorted(kept),
                list(_QUANTIZED),
                {},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        made: ModelProto = quantizer.model.model
        used = {node.domain for node in made.graph.node} | set(_STANDARD_DOMAINS)
        versions = [each for each in made.opset_import if each.domain in used]
        del made.opset_import[:], made.graph.value_info[:]
        made.opset_import.extend(versions)
        made.producer_name, made.producer_version = "", ""
        return made

    def errors(self, batches: Iterable[NDArray[Any]], *, device: str = "cpu") -> dict[str, float]:
        """Measure the error of the output of each layer if only this layer is quantized.

        Each layer is computed twice from the same input: in float32, and from rounded input and weights. The error is the norm of the
        difference of both outputs, relative to that of the output in float32. One pass computes all layers.

        Args:
            batches: Inputs of the network, the batch first.
            device: As `Session`.

        Returns:
            An error for each layer of `layers`.
        """
        session = Session(self._with_errors().SerializeToString(), device=device, name=self._name)
        (taken,) = session.inputs
        wanted = [each for each in session.outputs if each.startswith(("difference/", "square/"))]
        sums = np.zeros(len(wanted))
        for batch in batches:
            sums += np.array(session.run({taken: batch}, wanted), dtype=np.float64)
        found = dict(zip(wanted, sums, strict=True))
        return {
            name: float(np.sqrt(found[f"difference/{node.name}"] / max(found[f"square/{node.name}"], 1e-30)))
            for name, node in self._nodes.items()
        }

    def _with_errors(self) -> ModelProto:
        """Return the float32 network with an int8 copy of each layer next to it, and outputs that compare both.

        The copies come from the quantized network; they take the activations of the float32 network, rounded.
        """
        made = _copy(self._float32)
        both, quantized = made.graph, self.quantized().graph
        weights = self._weights
        layers = {node.name: node for node in self._nodes.values()}
        both.initializer.extend(tensor for tensor in quantized.initializer if tensor.name not in weights)
        copied: set[str] = set()
        for node in quantized.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear") and node.name not in layers:
                continue
            copy = both.node.add()
            copy.CopyFrom(node)
            copy.name = f"int8/{node.name}"
            copy.input[:] = [f"int8/{name}" if name in copied else name for name in node.input]
            if node.name in layers:  # the next copy takes the activation of the float32 network, not of this one
                copy.output[:] = [f"int8/{name}" for name in layers[node.name].output]
            else:
                copy.output[:] = [f"int8/{name}" for name in node.output]
                copied.update(node.output)
        users = _users(self._float32.graph)
        for node in self._nodes.values():
            self._compare(both, node, users)
        return made

    def _compare(self, graph: GraphProto, node: NodeProto, users: Mapping[str, Sequence[NodeProto]]) -> None:
        """Add the sums of squares of a layer's output and of its copy's difference, after the layer's activation."""
        (output, *_) = node.output
        copy = f"int8/{output}"
        following = users.get(output, [])
        if len(following) == 1 and following[0].op_type in _ACTIVATIONS:
            activation = graph.node.add()
            activation.CopyFrom(following[0])
            activation.name = f"int8/{activation.name}"
            activation.input[0], activation.output[0] = copy, f"{copy}/activation"
            output, copy = following[0].output[0], f"{copy}/activation"
        nodes = [
            helper.make_node("Sub", [output, copy], [f"{copy}/difference"]),
            helper.make_node("ReduceSumSquare", [f"{copy}/difference"], [f"difference/{node.name}"], keepdims=0),
            helper.make_node("ReduceSumSquare", [output], [f"square/{node.name}"], keepdims=0),
        ]
        graph.node.extend(nodes)
        for made in nodes[1:]:
            graph.output.append(helper.make_tensor_value_info(made.output[0], TensorProto.FLOAT, []))


def rates(sessions: Sequence[Session], batch: NDArray[Any]) -> list[float]:
    """Measure the images per second of several networks on the same batch; they alternate, and the fastest pass counts."""
    least = [float("inf")] * len(sessions)
    for number in range(_PASSES + 1):  # the first pass allocates memory
        for place, session in enumerate(sessions):
            (taken,) = session.inputs
            started = time.perf_counter()
            session.run({taken: batch}, ["probabilities"])
            if number:
                least[place] = min(least[place], time.perf_counter() - started)
    return [len(batch) / seconds for seconds in least]


class _OneBatch(quantization.CalibrationDataReader):  # type: ignore[misc] # onnxruntime ships no types
    """A batch as ONNX Runtime's calibration takes it."""

    def __init__(self, batch: dict[str, NDArray[Any]]) -> None:
        self._left = [batch]

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the batch, then None."""
        return self._left.pop() if self._left else None


def _normalize_by_channel(graph: GraphProto) -> None:
    """Replace scale and shift of the image by a batch normalization of the same values.

    ONNX Runtime computes int8 with the channels last, and moves element-wise operators along: scaling rows of three channels takes it as
    long as a quarter of MobileNetV2. It does not move batch normalization.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    users = _users(graph)
    for place, scaling in enumerate(graph.node):
        scaled = users.get(scaling.output[0], [])
        if scaling.op_type != "Mul" or [node.op_type for node in scaled] != ["Add"]:
            continue
        (shifting,) = scaled
        constants = [[name for name in node.input if name in weights] for node in (scaling, shifting)]
        if [len(names) for names in constants] != [1, 1]:
            continue
        scale, shift = (numpy_helper.to_array(weights[name]) for (name,) in constants)
        if scale.shape != shift.shape or scale.shape[-3:] != (scale.size, 1, 1):
            continue
        (image,) = (name for name in scaling.input if name not in weights)
        values = {"scale": scale, "shift": shift, "mean": np.zeros_like(scale), "variance": np.ones_like(scale)}
        names = [f"{scaling.name}/{kind}" for kind in values]
        graph.initializer.extend(map(numpy_helper.from_array, (value.ravel() for value in values.values()), names))
        made = helper.make_node(
            "BatchNormalization",
            [image, *names],
            [shifting.output[0]],
            name=f"{scaling.name}/normalization",
            epsilon=0.0,
        )
        graph.node.remove(shifting)
        graph.node[place].CopyFrom(made)
        for (name,) in constants:
            if len(users[name]) == 1:
                graph.initializer.remove(weights[name])
        return


def _outer_nodes(graph: GraphProto) -> set[str]:
    """Return the names of the nodes between the input and the first layers, and from the last layers to the outputs.

    Of `features` only what follows its layer and activation: they belong to the backbone.
    """
    weights = {tensor.name for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    users = _users(graph)
    found: set[str] = set()

    def after(names: Iterable[str]) -> None:
        waiting = list(names)
        while waiting:
            for node in users.get(waiting.pop(), []):
                if node.name not in found and not _is_layer(node):
                    found.add(node.name)
                    waiting += node.output

    def before(names: Iterable[str], *, layers: bool) -> None:
        waiting = list(names)
        while waiting:
            node = makers.get(waiting.pop())
            if node is None or node.name in found or node.op_type in _ACTIVATIONS:
                continue
            is_layer = _is_layer(node)
            joins = node.op_type == "Add" and not weights.intersection(node.input)  # a residual connection
            if not joins and (layers or not is_layer):
                found.add(node.name)
                waiting += () if is_layer else node.input

    names = [value.name for value in graph.output]
    after(value.name for value in graph.input)
    before((name for name in names if name != "features"), layers=True)
    before((name for name in names if name == "features"), layers=False)
    return found


def _users(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Return the nodes that take each value."""
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


def _unshared(graph: GraphProto) -> set[str]:
    """Return the names of products with a matrix for every position: ONNX Runtime has none in int8 with a scale for each channel."""
    sizes = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    return {node.name for node in graph.node if node.op_type == "MatMul" and sizes.get(node.input[1], 0) > 2}


def _is_layer(node: NodeProto) -> bool:
    """Return whether a node is a layer that multiplies by weights, rather than part of the preparation of images."""
    return node.op_type in _LAYERS and not graph_dims.whitens(node)


def _has_weights(node: NodeProto, weights: Collection[str]) -> bool:
    """Return whether a layer multiplies by stored weights, unlike the products of attention."""
    return len(node.input) > 1 and node.input[1] in weights


def _copy(proto: ModelProto) -> ModelProto:
    made = ModelProto()
    made.CopyFrom(proto)
    return made


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Silence what ONNX Runtime's quantizer writes to Python's root logger, for programmers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what ONNX Runtime's quantizer raises, exceptions of many kinds, into one line."""
    try:
        yield
    except (CnnkitError, MemoryError, OSError):
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        version = onnxruntime.__version__
        raise CnnkitError(
            f"{name}: ONNX Runtime {version} cannot quantize it: {reason}; export it without --int8"
        ) from error
