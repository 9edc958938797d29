"""Operators of ONNX graphs, alone: parameters and multiply-accumulates are those computed by hand or by torch; errors and limits."""

import math

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import (
    make_node,
    make_sparse_tensor,
    make_tensor,
)
from onnx_graphs import STEM, STEM_WEIGHT, filled, model

from cnnkit.errors import FormatError
from cnnkit.nets import graph_run

FLAT = [STEM, make_node("GlobalAveragePool", ["maps"], ["mean"]), make_node("Flatten", ["mean"], ["vector"])]


TOKENS = [
    STEM,
    make_node("Reshape", ["maps", "three"], ["rows"]),
    make_node("Transpose", ["rows"], ["tokens"], perm=[0, 2, 1]),
]  # (1, 100, 4)


THREE = {**STEM_WEIGHT, "three": np.asarray([1, 4, 100])}


MS = ("com.microsoft",)


def microsoft(operator, inputs, outputs=("out",), **attrs):
    return make_node(operator, list(inputs), list(outputs), domain="com.microsoft", **attrs)


@pytest.mark.parametrize(
    ("nodes", "weights", "params", "macs"),
    [
        pytest.param(
            [make_node("Gemm", ["vector", "w", "b"], ["out"], transA=0, transB=0)],
            {"w": filled(4, 6), "b": filled(6)},
            *(30, 24),
            id="Gemm without transB",
        ),
        pytest.param(
            [make_node("Gemm", ["w", "vector"], ["out"], transB=1)],
            {"w": filled(6, 4)},
            24,
            24,
            id="Gemm, weights first",
        ),
        pytest.param(
            [make_node("Gemm", ["vector", "w"], ["out"], transA=1, transB=1)],
            {"w": filled(5, 1)},
            *(5, 20),
            id="Gemm with both transposed",
        ),
        pytest.param(
            [make_node("MatMul", ["w", "turned"], ["out"])],
            {"w": filled(7, 4)},
            *(28, 28),
            id="MatMul, weights first",
        ),
        pytest.param(
            [microsoft("FusedMatMul", ["vector", "w"], transB=1)], {"w": filled(6, 4)}, 24, 24, id="FusedMatMul"
        ),
        pytest.param(
            [microsoft("FusedMatMul", ["turned", "w"], transA=1)], {"w": filled(4, 6)}, 24, 24, id="FusedMatMul, transA"
        ),
        pytest.param(
            [microsoft("FusedGemm", ["vector", "w", "b"], activation="Relu", transB=1)],
            {"w": filled(6, 4), "b": filled(6)},
            *(30, 24),
            id="FusedGemm",
        ),
        pytest.param(
            [microsoft("MatMulNBits", ["vector", "w", "scales"], K=4, N=6, bits=4, block_size=16)],
            {"w": np.ones((6, 1, 8), np.uint8), "scales": filled(6)},
            *(24, 24),
            id="MatMulNBits",
        ),
        pytest.param(
            [microsoft("GemmFastGelu", ["vector", "w", "b"])],
            {"w": filled(4, 6), "b": filled(6)},
            *(30, 24),
            id="GemmFastGelu",
        ),
        pytest.param(
            [make_node("MatMul", ["vector", "w"], ["made"]), microsoft("BiasGelu", ["made", "b"])],
            {"w": filled(4, 6), "b": filled(6)},
            *(30, 24),
            id="BiasGelu",
        ),
        pytest.param(
            [make_node("Einsum", ["vector", "w"], ["out"], equation="...c,dc->...d")],
            {"w": filled(6, 4)},
            *(24, 24),
            id="Einsum",
        ),
        pytest.param(
            [make_node("Einsum", ["vector", "v"], ["out"], equation="bc,c->bc")],
            {"v": filled(4)},
            *(4, 0),
            id="Einsum without a sum",
        ),
        pytest.param(
            [make_node("Mul", ["vector", "v"], ["scaled"]), make_node("Add", ["scaled", "two"], ["out"])],
            {"v": filled(4), "two": np.float32(2)},
            *(4, 0),
            id="a learned factor, and a constant number",
        ),
        pytest.param(
            [make_node("Clip", ["vector", "low", "high"], ["out"])],
            {"low": np.float32(0), "high": np.float32(6)},
            *(0, 0),
            id="limits of Clip",
        ),
        pytest.param(
            [make_node("PRelu", ["vector", "slope"], ["out"])],
            {"slope": np.asarray([0.2], np.float32)},
            *(1, 0),
            id="PRelu of one slope",
        ),
    ],
)
def test_dense_operators(measured, nodes, weights, params, macs):
    """Parameters are weights and biases, and every product counts once, whichever operator contains it."""
    turned = make_node("Transpose", ["vector"], ["turned"], perm=[1, 0])
    made = model([*FLAT, turned, *nodes], {**STEM_WEIGHT, **weights}, domains=MS)
    assert measured(made)[:2] == (108 + params, 10_800 + macs)


@pytest.mark.parametrize(
    ("nodes", "weights", "params", "macs", "opset"),
    [
        pytest.param(
            [make_node("LayerNormalization", ["tokens", "gamma", "beta"], ["out"])],
            {"gamma": filled(4), "beta": filled(4)},
            *(8, 0, 17),
            id="LayerNormalization",
        ),
        pytest.param(  # ONNX Runtime writes it into graphs of older opsets
            [make_node("LayerNormalization", ["tokens", "gamma", "beta"], ["out"])],
            {"gamma": filled(4), "beta": filled(4)},
            *(8, 0, 13),
            id="LayerNormalization before opset 17",
        ),
        pytest.param(
            [
                microsoft(
                    "SkipLayerNormalization", ["tokens", "tokens", "gamma", "beta", "bias"], ["out", "", "", "sum"]
                ),
                make_node("Relu", ["sum"], ["more"]),
            ],
            {"gamma": filled(4), "beta": filled(4), "bias": filled(4)},
            *(12, 0, 13),
            id="SkipLayerNormalization",
        ),
        pytest.param(  # projection 100 * 4 * 12, scores and sums 2 * 100 * 100 * 4
            [microsoft("Attention", ["tokens", "w", "b"], num_heads=2)],
            {"w": filled(4, 12), "b": filled(12)},
            *(60, 100 * 48 + 2 * 100 * 100 * 4, 17),
            id="Attention of ONNX Runtime",
        ),
        pytest.param(
            [microsoft("MultiHeadAttention", ["tokens", "tokens", "tokens", "b"], num_heads=2)],
            {"b": filled(12)},
            *(12, 2 * 100 * 100 * 4, 18),
            id="MultiHeadAttention",
        ),
        pytest.param(
            [make_node("Attention", ["tokens"] * 3, ["out"], q_num_heads=2, kv_num_heads=2)],
            {},
            *(0, 2 * 100 * 100 * 4, 23),
            id="Attention of onnx",
        ),
        pytest.param(  # both directions: 100 steps of 4 gates of 5 units, each with 4 inputs and 5 of its own
            [make_node("LSTM", ["steps", "W", "R", "B"], ["out"], hidden_size=5, direction="bidirectional")],
            {"W": filled(2, 20, 4), "R": filled(2, 20, 5), "B": filled(2, 40)},
            *(160 + 200 + 80, 100 * 360, 17),
            id="LSTM",
        ),
    ],
)
def test_operators_on_tokens(measured, nodes, weights, params, macs, opset):
    """Attention, normalizations and recurrent layers, as in onnx and in ONNX Runtime."""
    steps = make_node("Transpose", ["tokens"], ["steps"], perm=[1, 0, 2])
    made = model([*TOKENS, steps, *nodes], {**THREE, **weights}, opset=opset, domains=MS)
    assert measured(made)[:2] == (108 + params, 10_800 + macs)


@pytest.mark.parametrize(
    ("nodes", "weights", "params", "macs", "shape"),
    [
        pytest.param(
            [microsoft("NhwcFusedConv", ["last", "w", "b"], activation="Relu", kernel_shape=[3, 3])],
            {"w": filled(6, 4, 3, 3), "b": filled(6)},
            *(222, 64 * 216, (1, 8, 8, 6)),
            id="channels last",
        ),
        pytest.param(
            [microsoft("NhwcConv", ["last", "w"], kernel_shape=[3, 3], group=2)],
            {"w": filled(6, 3, 3, 2)},
            *(108, 64 * 108, (1, 8, 8, 6)),
            id="filters with channels last",
        ),
        pytest.param(
            [
                make_node("Conv", ["maps", "w"], ["made"]),
                microsoft("FusedConv", ["maps", "w2", "", "made"], kernel_shape=[3, 3]),
            ],
            {"w": filled(2, 4, 3, 3), "w2": filled(2, 4, 3, 3)},
            *(144, 64 * 144, (1, 2, 8, 8)),
            id="a convolution with a fused sum",
        ),
        pytest.param(
            [make_node("ConvTranspose", ["maps", "w", "b"], ["out"], strides=[3, 2], group=2, output_padding=[1, 0])],
            {"w": filled(4, 5, 3, 2), "b": filled(10)},
            *(130, 400 * 30, (1, 10, 31, 20)),
            id="a transposed convolution in groups",
        ),
    ],
)
def test_convolutions(measured, nodes, weights, params, macs, shape):
    """Fused convolutions in both layouts, and transposed ones."""
    last = make_node("Transpose", ["maps"], ["last"], perm=[0, 2, 3, 1])
    _, whole_macs, rows = measured(model([STEM, last, *nodes], {**STEM_WEIGHT, **weights}, domains=MS))
    assert (sum(row.params for row in rows), whole_macs) == (108 + params, 10_800 + macs)
    assert rows[-1].activation_bytes == math.prod(shape) * 4


def test_shared_weights_count_once(measured):
    """A weight that two layers use, also through a cast and a transposition, counts once; its products count twice."""
    nodes = [
        make_node("Conv", ["x", "w", "b"], ["one"], pads=[1, 1, 1, 1]),
        make_node("Conv", ["one", "w", "b"], ["two"], pads=[1, 1, 1, 1]),
        make_node("Flatten", ["two"], ["vector"]),
        make_node("Cast", ["m"], ["other"], to=TensorProto.FLOAT),
        make_node("Transpose", ["other"], ["turned"]),
        make_node("MatMul", ["vector", "m"], ["hidden"]),
        make_node("MatMul", ["hidden", "turned"], ["out"]),
    ]
    weights = {"w": filled(3, 3, 3, 3), "b": filled(3), "m": filled(432, 2)}
    assert measured(model(nodes, weights))[:2] == (81 + 3 + 864, 2 * 144 * 81 + 2 * 864)


@pytest.mark.parametrize("identity", [False, True])
def test_equal_biases_of_untrained_layers_count_in_each(measured, identity):
    """Exporters store a vector of zeros once for all layers; in torch each layer has its own."""
    bias = "copy" if identity else "zeros"
    nodes = [
        make_node("Conv", ["x", "a", "zeros"], ["one"]),
        *([make_node("Identity", ["zeros"], ["copy"])] if identity else []),
        make_node("Conv", ["one", "b", bias], ["out"]),
    ]
    weights = {"a": filled(3, 3, 1, 1), "b": filled(3, 3, 1, 1), "zeros": np.zeros(3, np.float32)}
    assert measured(model(nodes, weights))[0] == 9 + 9 + 3 + 3


def test_image_normalisation_and_masks_are_not_weights(measured):
    """Constants before the first layer normalize the image; attention adds masks."""
    mask = np.where(np.arange(100).reshape(10, 10) % 3, 0, -1e9).astype(np.float32)
    nodes = [
        make_node("Sub", ["x", "mean"], ["centred"]),
        make_node("Conv", ["centred", "stem.weight"], ["maps"]),
        make_node("Add", ["maps", "mask"], ["out"]),
    ]
    assert measured(model(nodes, {**STEM_WEIGHT, "mean": filled(3, 1, 1), "mask": mask}))[0] == 108
    nodes.insert(0, make_node("DequantizeLinear", ["quantised", "scale"], ["mask"]))
    quantised = {"quantised": np.where(mask, -128, 127).astype(np.int8), "scale": np.float32(0.4)}
    assert measured(model(nodes, {**STEM_WEIGHT, "mean": filled(3, 1, 1), **quantised}))[0] == 108


@pytest.mark.parametrize(
    ("mean", "variance", "first", "params"),
    [
        pytest.param(np.zeros(3), np.ones(3), True, 108, id="the image's normalization in cnn-export --int8"),
        pytest.param(np.arange(3), np.ones(3), True, 108 + 6, id="a first layer with statistics"),
        pytest.param(np.zeros(4), np.ones(4), False, 108 + 8, id="after a layer"),
    ],
)
def test_batch_normalization_with_epsilon_zero_is_a_layer(measured, mean, variance, first, params):
    """Only the form in which cnn-export --int8 normalizes the image has no parameters."""
    norm, stem = ["gamma", "beta", "mean", "variance"], "stem.weight"
    nodes = [
        make_node("BatchNormalization", ["x" if first else "maps", *norm], ["norm" if first else "out"], epsilon=0.0),
        make_node("Conv", ["norm" if first else "x", stem], ["out" if first else "maps"]),
    ]
    weights = {"gamma": filled(len(mean)), "beta": filled(len(mean))}
    weights |= {"mean": mean.astype(np.float32), "variance": variance.astype(np.float32)}
    assert measured(model(nodes if first else nodes[::-1], {**STEM_WEIGHT, **weights}))[0] == params


def test_position_biases_of_windows_count_once_per_offset(measured):
    """The 5x5 biases that two heads learned for a window of 3x3 are stored as 9x9 values."""
    places = np.stack(np.meshgrid(np.arange(3), np.arange(3), indexing="ij"), -1).reshape(-1, 2)
    apart = places[:, None] - places + 2
    table = filled(2, 5, 5)
    bias = table[:, apart[..., 0], apart[..., 1]]
    nodes = [
        STEM,
        make_node("MatMul", ["maps", "m"], ["scores"]),
        make_node("Slice", ["scores", "zero", "two", "one"], ["heads"]),
    ]
    nodes += [
        make_node("Slice", ["heads", "zero", "nine", "two"], ["square"]),
        make_node("Add", ["square", "bias"], ["out"]),
    ]
    weights = {**STEM_WEIGHT, "m": filled(10, 9), "bias": bias[None]}
    weights |= {name: np.asarray([value]) for name, value in {"zero": 0, "one": 1, "two": 2, "nine": 9}.items()}
    assert measured(model(nodes, weights))[0] == 108 + 90 + 2 * 25
    weights["bias"] = bias[None] + np.float32(0.5) * (np.arange(9) == 4)  # no longer one value per offset
    assert measured(model(nodes, weights))[0] == 108 + 90 + 2 * 81


def test_sparse_and_packed_weights(measured):
    """A sparse tensor counts like its dense form, a 4-bit one by its number of values."""
    made = model(
        [*FLAT, make_node("MatMul", ["vector", "sparse"], ["out"]), make_node("MatMul", ["vector", "four"], ["more"])],
        STEM_WEIGHT,
        opset=21,
    )
    made.graph.sparse_initializer.append(
        make_sparse_tensor(
            make_tensor("sparse", TensorProto.FLOAT, [2], [1.0, 2.0]),
            make_tensor("places", TensorProto.INT64, [2], [0, 5]),
            [4, 6],
        )
    )
    packed = make_tensor("packed", TensorProto.INT4, [4, 6], [1] * 24)
    made.graph.initializer.extend([packed, make_tensor("scale", TensorProto.FLOAT, [], [0.5])])
    made.graph.node.insert(0, make_node("DequantizeLinear", ["packed", "scale"], ["four"]))
    assert measured(made)[:2] == (108 + 24 + 24, 10_800 + 24 + 24)


# Errors and inputs


@pytest.mark.parametrize(
    ("made", "message"),
    [
        pytest.param(
            model([STEM, make_node("Fold", ["maps"], ["out"], domain="acme")], STEM_WEIGHT, domains=["acme"]),
            "the multiply-accumulates of the operator acme.Fold are unknown",
            id="an operator of another library",
        ),
        pytest.param(
            model([STEM, make_node("NoSuch", ["maps"], ["out"])], STEM_WEIGHT),
            "the multiply-accumulates of the operator NoSuch are unknown",
            id="an unknown operator",
        ),
        pytest.param(
            model([STEM, make_node("MatMul", ["maps", "w"], ["out"])], {**STEM_WEIGHT, "w": filled(7, 2)}),
            r"MatMul is unknown|takes 7 values, but its input has 10",
            id="mismatched sizes",
        ),
        pytest.param(
            model([make_node("Conv", ["x", "w"], ["out"])], {"w": filled(4, 5, 3, 3)}),
            "takes 5 values, but its input has 3",
            id="a convolution with other channels",
        ),
        pytest.param(  # on which ONNX Runtime crashes
            model([make_node("MaxPool", ["x"], ["out"], kernel_shape=[2, 2], strides=[0, 0])]),
            "strides of its MaxPool is 0, 0, expected 1 or more",
            id="a stride of zero",
        ),
        pytest.param(
            model([make_node("Relu", [], ["out"])]),
            "no node of the network depends on its images",
            id="a node without an input",
        ),
        pytest.param(
            model([make_node("Conv", ["x"], ["out"])]),
            "is unknown|does not have the inputs",
            id="a convolution without weights",
        ),
        pytest.param(
            model([make_node("Relu", ["x"], ["out"])], inputs={"n": (TensorProto.FLOAT, (1, 5))}),
            "its input has 2 dimensions",
            id="vectors",
        ),
        pytest.param(
            model(
                [STEM, make_node("Relu", ["maps"], ["out"])],
                STEM_WEIGHT,
                inputs={"x": (TensorProto.FLOAT, (1, 3, 12, 12)), "boxes": (TensorProto.FLOAT, ("n", "m"))},
            ),
            "the size of its input boxes is open",
            id="a second input of an open size",
        ),
        pytest.param(
            model([make_node("Identity", ["x"], ["out"])]),
            "no node of the network depends on its images",
            id="only an Identity",
        ),
    ],
)
def test_rejects_what_cannot_be_measured(measured, made, message):
    """Never a wrong total, and never advice that does not help."""
    with pytest.raises(FormatError, match=message) as caught:
        measured(made)
    assert "--input" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rejects_graph_without_input(measured):
    """Its output is constant."""
    made = model([make_node("Relu", ["w"], ["out"])], {"w": filled(1, 3, 2, 2)})
    del made.graph.input[:]
    with pytest.raises(FormatError, match="without an input"):
        measured(made)


def test_rejects_size_that_layers_do_not_take(measured):
    """The error names the layer and both numbers, and advises another --input."""
    nodes = [make_node("Flatten", ["x"], ["flat"]), make_node("Gemm", ["flat", "w"], ["out"], name="head")]
    made = model(nodes, {"w": filled(432, 2)}, inputs={"x": (TensorProto.FLOAT, ("n", 3, "h", "w"))})
    assert measured(made, size=(12, 12, 3))[:2] == (864, 864)
    with pytest.raises(
        FormatError, match=r"my%20net.onnx: head \(Gemm\) takes 432 values, but its input has 507; give another --input"
    ):
        measured(made, name="my%20net.onnx", size=(13, 13, 3))


def test_several_inputs(measured):
    """Operations on other inputs count; the images are the input with four sides, and all share the batch size."""
    nodes = [
        *FLAT,
        make_node("Gemm", ["facts", "w"], ["more"]),
        make_node("Concat", ["vector", "more"], ["out"], axis=1),
    ]
    inputs = {"facts": (TensorProto.FLOAT, ("n", 7)), "x": (TensorProto.FLOAT, ("n", 3, "h", "w"))}
    params, macs, rows = measured(model(nodes, {**STEM_WEIGHT, "w": filled(7, 2)}, inputs=inputs), size=(12, 12, 3))
    assert (params, macs) == (108 + 14, 10_800 + 14)
    assert rows[-1].shape == (6,)


def test_computed_shapes(measured):
    """Sizes computed with Shape, arithmetic and casts need no ONNX Runtime."""
    nodes = [
        STEM,
        make_node("Shape", ["maps"], ["shape"]),
        make_node("Slice", ["shape", "two", "four", "zero"], ["size"]),
        make_node("Cast", ["size"], ["floats"], to=TensorProto.FLOAT),
        make_node("Mul", ["floats", "factor"], ["larger"]),
        make_node("Cast", ["larger"], ["whole"], to=TensorProto.INT64),
        make_node("Concat", ["ahead", "whole"], ["sizes"], axis=0),
        make_node("Resize", ["maps", "", "", "sizes"], ["resized"], mode="linear"),
        make_node("Conv", ["resized", "w"], ["out"]),
    ]
    constants = {"two": [2], "four": [4], "zero": [0], "ahead": [1, 4]}
    weights = {**STEM_WEIGHT, **{name: np.asarray(value) for name, value in constants.items()}}
    weights |= {"factor": np.float32(2.5), "w": filled(2, 4, 1, 1)}
    params, macs, rows = measured(
        model(nodes, weights, inputs={"x": (TensorProto.FLOAT, ("n", 3, "h", "w"))}), size=(12, 12, 3)
    )
    assert (params, macs, rows[-1].shape) == (108 + 8, 10_800 + 25 * 25 * 8, (25, 25, 2))


def test_onnx_runtime_finds_shapes_that_onnx_cannot(measured):
    """An operator of ONNX Runtime is run once to find the shape of its output."""
    nodes = [
        STEM,
        microsoft("ExpandDims", ["maps", "axis"], ["five"]),
        make_node("Squeeze", ["five", "axes"], ["four"]),
        make_node("Conv", ["four", "w"], ["out"]),
    ]
    weights = {**STEM_WEIGHT, "axis": np.asarray(1, np.int32), "axes": np.asarray([1]), "w": filled(2, 4, 1, 1)}
    assert measured(model(nodes, weights, domains=MS))[:2] == (116, 10_800 + 800)


def test_limits_of_the_run_are_named(measured, monkeypatch):
    """Seconds and memory: the error says that the limit, not the network, is the reason."""
    nodes = [STEM, microsoft("ExpandDims", ["maps", "axis"], ["out"])]
    made = model(nodes, {**STEM_WEIGHT, "axis": np.asarray(1, np.int32)}, domains=MS)
    with monkeypatch.context() as patched:
        patched.setattr(graph_run, "_MOST_SECONDS", 0.01)
        with pytest.raises(FormatError, match=r"ExpandDims is unknown \(.* takes more than 0\.01 seconds, which "):
            measured(made)
    large = model([make_node("Expand", ["x", "sides"], ["out"])], {"sides": np.asarray([9, 3, 12000, 12000])})
    inputs = {"x": (TensorProto.FLOAT, (1, 3, 1, 1))}
    with pytest.raises(graph_run.GraphRunError, match=r"takes more than 4 GB of memory, which is the limit") as caught:
        graph_run.shapes_by_running(large, ["out"], inputs)
    assert not caught.value.refused


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([make_node("LRN", ["maps"], ["out"], name="norm", size=0)], r"norm \(LRN\): expected size > 0"),
        (
            [make_node("MaxPool", ["maps"], ["out"], kernel_shape=[2, 2], pads=[2, 2, 2, 2])],
            "MaxPool: Pad should be smaller than kernel",
        ),
        (  # found only by running it
            [make_node("Conv", ["x", "stem.weight"], ["out"], name="conv", kernel_shape=[5, 5])],
            r"conv \(Conv\): kernel_shape is not compatible with W shape",
        ),
    ],
)
def test_rejects_what_onnx_runtime_refuses(measured, nodes, message):
    """Attributes out of the operator's range, which onnx does not check."""
    with pytest.raises(FormatError, match=rf"model\.onnx: ONNX Runtime cannot run it: {message}"):
        measured(model([STEM, *nodes], STEM_WEIGHT), check=True)


def test_empty_map_costs_nothing(measured):
    """A size of zero is valid."""
    nodes = [
        STEM,
        make_node("Slice", ["maps", "start", "start", "axis"], ["none"]),
        make_node("Conv", ["none", "w"], ["out"]),
    ]
    weights = {**STEM_WEIGHT, "start": np.asarray([0]), "axis": np.asarray([0]), "w": filled(2, 4, 1, 1)}
    params, macs, rows = measured(model(nodes, weights))
    assert (params, macs, rows[-1].activation_bytes) == (116, 10_800, 0)
