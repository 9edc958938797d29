"""What the layers of an exported network answer: values inside of its graph, asked for as further outputs. No torch."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto
from onnx.helper import make_tensor_value_info
from onnx.shape_inference import infer_shapes

from cnnkit.engine.onnx_classifier import OnnxNetwork
from cnnkit.engine.session import Session
from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import onnx_model
from cnnkit.nets import graph_dims

#: What changes every value by itself: a layer includes it.
_ELEMENTWISE = frozenset(
    {
        *("Relu", "Clip", "LeakyRelu", "Elu", "Selu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Swish"),
        *("Tanh", "Softplus", "Softsign", "PRelu", "BatchNormalization"),
    }
)


@dataclass(frozen=True, slots=True)
class Value:
    """A layer's name, and the value in the graph that it answers with."""

    name: str
    value: str


class OnnxActivations:
    """An exported network whose layers can be looked at.

    Attributes:
        layers: Those that answer with maps, in order: named as cnn-dims names them, what follows every value included.
        preprocess: How a picture is prepared for it.
    """

    def __init__(self, path: str, *, device: str) -> None:
        """Load a network.

        Raises:
            FormatError: It has no Header, or takes no pictures.
        """
        model = onnx_model.load(path)
        if model.header is None or model.header.preprocess is None:
            raise FormatError(f"{path}: its header does not say how pictures are prepared; make it with cnn-export")
        self.name, self.preprocess, self._device = path, model.header.preprocess, device
        self._proto = onnx_model.parse(model.content, name=path)
        self.layers = _layers(self._proto)
        if not self.layers:
            raise FormatError(f"{path}: no layer of it answers with maps; was the head alone exported?")

    def find(self, wanted: str) -> Value:
        """Find a layer by name, or by number from 0, or from the end.

        Raises:
            UsageError: There is none; the nearest ones are proposed.
        """
        if re.fullmatch("-?[0-9]{1,9}", wanted) and -len(self.layers) <= int(wanted) < len(self.layers):
            return self.layers[int(wanted)]
        for layer in self.layers:
            if wanted in (layer.name, layer.value):
                return layer
        names = [layer.name for layer in self.layers]
        near = difflib.get_close_matches(wanted, names, n=3) or names[:8]
        raise UsageError(f'{self.name} has no layer "{wanted}" with maps; did you mean {" or ".join(near)}?')

    def answers(self, image: NDArray[np.uint8], layers: Sequence[Value]) -> list[NDArray[np.float32]]:
        """Run the network on one picture, (H, W, 3), and give what layers answer, (C, h, w) each."""
        proto = ModelProto()
        proto.CopyFrom(self._proto)
        given = {value.name for value in proto.graph.output}
        wanted = dict.fromkeys(layer.value for layer in layers)
        proto.graph.output.extend(
            make_tensor_value_info(value, TensorProto.FLOAT, None) for value in wanted if value not in given
        )
        session = Session(proto.SerializeToString(), device=self._device, name=self.name)
        network = OnnxNetwork(self.name, session)
        found = network.run(image[None], list(wanted), preprocess=self.preprocess)
        by_value = {value: answer[0].astype(np.float32) for value, answer in zip(wanted, found, strict=True)}
        return [by_value[layer.value] for layer in layers]


def _layers(proto: ModelProto) -> list[Value]:
    inferred = infer_shapes(proto).graph
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.output)
    }
    users: dict[str, list[NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    nodes = list(proto.graph.node)
    first = next((index for index, node in enumerate(nodes) if node.op_type == "Conv"), len(nodes))
    included: set[str] = set()
    found = []
    for node in nodes[first:]:  # what comes before scales the picture
        if not node.output or node.output[0] in included:
            continue
        value = node.output[0]
        while len(following := users.get(value, [])) == 1 and following[0].op_type in _ELEMENTWISE:
            value = following[0].output[0]
            included.add(value)
        shape = shapes.get(value, [])
        if value == "cam":  # what cnn-export --cam adds is no layer
            continue
        if len(shape) == 4 and min(shape[2:]) > 1 and node.op_type != "Transpose":
            found.append(Value(graph_dims.name_of(node), value))
    return found
