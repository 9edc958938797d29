"""Small ONNX models, for the tests of graphs."""

import math

import numpy as np
from onnx import TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info


def filled(*shape, dtype=np.float32):
    """Return weights with different values, none of them zero."""
    return (np.arange(1, math.prod(shape) + 1) / 7).astype(dtype).reshape(shape)


STEM = make_node("Conv", ["x", "stem.weight"], ["maps"])
STEM_WEIGHT = {"stem.weight": filled(4, 3, 3, 3)}  # 12x12 to 10x10, 108 weights, 10,800 multiply-accumulates


def model(
    nodes,
    weights=None,
    *,
    opset=17,
    inputs=None,
    outputs=("out",),
    element=TensorProto.FLOAT,
    ir=8,
    functions=(),
    domains=(),
):
    """Make a model; by default with an input `x` of 1x3x12x12."""
    given = inputs or {"x": (element, (1, 3, 12, 12))}
    graph = make_graph(
        nodes,
        "network",
        [make_tensor_value_info(name, kind, shape) for name, (kind, shape) in given.items()],
        [make_tensor_value_info(name, element, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    opsets = [make_opsetid("", opset), *(make_opsetid(domain, 1) for domain in domains)]
    return make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions))
