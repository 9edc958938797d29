"""ONNX graphs of whole networks as exporters, quantizers and optimizers write them: parameters and multiply-accumulates are torch's."""

import collections
import contextlib
import copy
import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from onnx import TensorProto
from onnx.helper import (
    make_node,
    make_tensor,
    make_tensor_value_info,
)
from onnx_graphs import filled, model
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch.utils.flop_counter import FlopCounterMode

from cnnkit.nets import dims, graph_dims, module_dims

NEWEST = 24  # the newest opset that onnxruntime and onnx both support


LEVELS = onnxruntime.GraphOptimizationLevel


def flops(network, *shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(shape))
    return counter.get_total_flops() // 2


# The same small network at every opset: stride, groups, a transposed convolution, upsampling, pooling and two dense layers.


class Everything(torch.nn.Module):
    """The network in the graphs of `everything`."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.transposed = torch.nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.larger = torch.nn.Upsample(scale_factor=2)
        self.pool = torch.nn.MaxPool2d(2)
        self.hidden = torch.nn.Linear(6, 10)
        self.head = torch.nn.Linear(10, 5, bias=False)

    def forward(self, x):
        maps = self.transposed(self.depthwise(torch.relu(self.norm(self.first(x)))))
        return self.head(self.hidden(self.pool(self.larger(maps)).mean((2, 3))))


def everything(opset, dtype=np.float32):
    """Make the network as exporters write it at an opset."""
    element = (
        TensorProto.DOUBLE if dtype is np.float64 else TensorProto.FLOAT16 if dtype is np.float16 else TensorProto.FLOAT
    )
    scales = np.asarray([1, 1, 2, 2], np.float32)
    if opset < 9:
        enlarge = make_node("Upsample", ["transposed"], ["larger"], mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
    elif opset < 10:
        enlarge = make_node("Upsample", ["transposed", "scales"], ["larger"], mode="nearest")
    elif opset < 11:
        enlarge = make_node("Resize", ["transposed", "scales"], ["larger"], mode="nearest")
    else:
        enlarge = make_node("Resize", ["transposed", "", "scales"], ["larger"], mode="nearest")
    zero = make_node(
        "Constant", [], ["amounts"], value=make_tensor("a", TensorProto.INT64, [8], [0, 0, 1, 1, 0, 0, 0, 0])
    )
    pad = (
        [make_node("Pad", ["x"], ["padded"], pads=[0, 0, 1, 1, 0, 0, 0, 0])]
        if opset < 11
        else [zero, make_node("Pad", ["x", "amounts"], ["padded"])]
    )
    if opset < 10:
        cut = make_node("Slice", ["features"], ["sliced"], axes=[1], starts=[0], ends=[6])
    else:
        cut = make_node("Slice", ["features", "starts", "ends", "axes"], ["sliced"])
    nodes = [
        *pad,
        make_node(
            "Conv",
            ["padded", "first.weight", "first.bias"],
            ["first"],
            strides=[2, 2],
            pads=[0, 0, 1, 1],
            kernel_shape=[3, 3],
        ),
        make_node("BatchNormalization", ["first", "gamma", "beta", "mean", "variance"], ["norm"]),
        make_node("Relu", ["norm"], ["relu"]),
        make_node("Conv", ["relu", "depthwise.weight"], ["depthwise"], pads=[1, 1, 1, 1], group=8, kernel_shape=[3, 3]),
        make_node(
            "ConvTranspose",
            ["depthwise", "transposed.weight", "transposed.bias"],
            ["transposed"],
            strides=[2, 2],
            group=2,
            kernel_shape=[2, 2],
        ),
        enlarge,
        make_node("MaxPool", ["larger"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        make_node("GlobalAveragePool", ["pool"], ["mean of map"]),
        make_node("Shape", ["mean of map"], ["shape"]),
        make_node("Gather", ["shape", "zeroth"], ["batch"], axis=0),
        make_node("Concat", ["batch", "rest"], ["flat shape"], axis=0),
        make_node("Reshape", ["mean of map", "flat shape"], ["features"]),
        cut,
        make_node("Gemm", ["sliced", "hidden.weight", "hidden.bias"], ["hidden"], transB=1),
        make_node("MatMul", ["hidden", "head.weight"], ["out"]),
    ]
    weights = {
        "first.weight": filled(8, 3, 3, 3, dtype=dtype),
        "first.bias": filled(8, dtype=dtype),
        **{name: filled(8, dtype=dtype) for name in ("gamma", "beta", "mean", "variance")},
        "depthwise.weight": filled(8, 1, 3, 3, dtype=dtype),
        "transposed.weight": filled(8, 3, 2, 2, dtype=dtype),
        "transposed.bias": filled(6, dtype=dtype),
        "scales": scales,
        "zeroth": np.asarray([0]),
        "rest": np.asarray([-1]),
        **({} if opset < 10 else {"starts": np.asarray([0]), "ends": np.asarray([6]), "axes": np.asarray([1])}),
        "hidden.weight": filled(10, 6, dtype=dtype),
        "hidden.bias": filled(10, dtype=dtype),
        "head.weight": filled(10, 5, dtype=dtype),
    }
    made = model(nodes, weights, opset=opset, element=element, ir=3 if opset < 10 else 8)
    if opset < 10:  # in old files, stored tensors are inputs, too
        for tensor in made.graph.initializer:
            made.graph.input.append(make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return made


@pytest.fixture(scope="module")
def wanted():
    """Parameters and multiply-accumulates of the network in torch."""
    network = Everything().eval()
    return sum(value.numel() for value in network.parameters()), flops(network, 1, 3, 12, 12)


@pytest.mark.parametrize("opset", [*range(7, NEWEST + 1), onnx.defs.onnx_opset_version()])
def test_every_opset(measured, wanted, opset):
    """Pad, Slice, Upsample, Resize and computed shapes have the meaning of the file's opset."""
    params, macs, rows = measured(everything(opset))
    assert (params, macs) == wanted
    assert {row.layer: row.shape for row in rows}["transposed"] == (12, 12, 6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_in_half_and_double_precision(measured, wanted, dtype):
    """The number of parameters is the same."""
    assert measured(everything(17, dtype))[:2] == wanted


class _Images(CalibrationDataReader):
    def __init__(self, shape):
        self.left = [{"x": np.full(shape, value, np.float32)} for value in (0.1, 0.9)]

    def get_next(self):
        return self.left.pop() if self.left else None


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The network at opset 13 as a file, with its batch normalization folded, as every optimizer does."""
    path = tmp_path_factory.mktemp("forms") / "plain.onnx"
    onnx.save(everything(13), path)
    return path


def optimized(path, level):
    """Save the graph that ONNX Runtime's optimizer makes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 4
    made = path.with_name(f"{path.stem}-{level.name}.onnx")
    options.optimized_model_filepath = str(made)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return made


def operators(path):
    return collections.Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in onnx.load(path).graph.node)


def whole(path):
    total = dims.total(graph_dims.measure_graph(str(path)))
    return total.params, total.macs


def without_norm(wanted):
    """Counts after a normalization is folded: its shift remains as the bias of the convolution, its factors are in the weights."""
    params, macs = wanted
    return params - 16, macs


@pytest.mark.parametrize(
    ("level", "operator"),
    [
        (LEVELS.ORT_ENABLE_BASIC, "Conv"),
        (LEVELS.ORT_ENABLE_EXTENDED, "com.microsoft.FusedConv"),
        (LEVELS.ORT_ENABLE_ALL, "com.microsoft.nchwc.Conv"),
    ],
)
def test_graphs_optimised_by_onnx_runtime(plain, wanted, level, operator):
    """Fused operators and blocked channels have the same weights and multiply-accumulates."""
    path = optimized(plain, level)
    if operator not in operators(path):
        pytest.skip("this processor has no blocked channels")
    assert whole(path) == without_norm(wanted)


def test_norm_on_blocked_channels_is_not_a_convolution(tmp_path):
    """ONNX Runtime writes a normalization that it cannot fold as a depthwise convolution; it has no multiply-accumulates."""
    nodes = [
        make_node("Conv", ["x", "stem.weight"], ["maps"]),
        make_node("BatchNormalization", ["maps", "gamma", "beta", "mean", "variance"], ["norm"]),
        make_node("Relu", ["norm"], ["relu"]),
        make_node("Conv", ["relu", "w"], ["made"], pads=[1, 1, 1, 1]),
        make_node("Concat", ["maps", "made"], ["out"], axis=1),
    ]
    weights = {"stem.weight": filled(16, 3, 3, 3), "w": filled(16, 16, 3, 3)}
    weights |= {name: filled(16) for name in ("gamma", "beta", "mean", "variance")}
    onnx.save(model(nodes, weights, inputs={"x": (TensorProto.FLOAT, (1, 3, 12, 12))}), tmp_path / "plain.onnx")
    wanted = (16 * 27 + 32 + 16 * 16 * 9, 100 * (16 * 27 + 16 * 16 * 9))
    assert whole(tmp_path / "plain.onnx") == wanted
    assert whole(optimized(tmp_path / "plain.onnx", LEVELS.ORT_ENABLE_ALL)) == wanted


@pytest.mark.parametrize(
    (
        "form",
        "per_channel",
    ),  # onnxruntime's quantizer cannot quantize grouped transposed convolutions per channel as QDQ
    [(QuantFormat.QDQ, False), (QuantFormat.QOperator, False), (QuantFormat.QOperator, True)],
)
@pytest.mark.parametrize("level", [None, LEVELS.ORT_ENABLE_ALL])
def test_int8_networks(plain, wanted, form, per_channel, level):
    """A quantized network has the parameters of the float one, without scales and zero points."""
    path = plain.with_name(f"{form.name}-{per_channel}.onnx")
    quantize_static(
        str(optimized(plain, LEVELS.ORT_ENABLE_BASIC)),
        str(path),
        _Images((1, 3, 12, 12)),
        quant_format=form,
        per_channel=per_channel,
    )
    assert whole(path if level is None else optimized(path, level)) == without_norm(wanted)


@pytest.mark.parametrize("level", [None, LEVELS.ORT_ENABLE_ALL])
def test_dynamically_quantised_networks(plain, wanted, level):
    """Of integer operators whose scales depend on the image only the weights count."""
    path = plain.with_name("dynamic.onnx")
    quantize_dynamic(str(optimized(plain, LEVELS.ORT_ENABLE_BASIC)), str(path), per_channel=True)
    assert "ConvInteger" in operators(path)
    assert whole(path if level is None else optimized(path, level)) == without_norm(wanted)


def test_half_precision_with_casts_at_the_end_of_the_file(plain, wanted):
    """Nodes that are not in the order in which they run are sorted."""
    path = plain.with_name("half.onnx")
    onnx.save(convert_float_to_float16(onnx.load(plain), keep_io_types=True), path)
    assert whole(path) == wanted


def test_operators_missing_in_onnx_runtime_are_counted(measured, wanted):
    """It has no convolution of doubles on the CPU, and only blocks of this processor's size."""
    assert measured(everything(17, np.float64), check=True)[:2] == wanted
    blocked = make_node("Conv", ["x", "w"], ["out"], domain="com.microsoft.nchwc")
    made = model([blocked], {"w": filled(8, 3, 3, 3)}, domains=["com.microsoft.nchwc"])
    assert measured(made, check=True)[:2] == (216, 21_600)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
def test_published_networks_have_the_counts_of_torch(name, tmp_path):
    """Exported at the newest and at old opsets, in half precision and optimized, they have torch's parameters and multiply-accumulates."""
    network = torchvision.models.get_model(name, weights=None, num_classes=10).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    rows = module_dims.measure_module(copy.deepcopy(network).to("meta"), torch.empty(1, 3, 64, 64, device="meta"))
    norms = sum(part.num_features for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d))
    wanted = (dims.total(rows).params - norms, dims.total(rows).macs)  # folded, except for the shift
    for opset in (9, 17):
        path = tmp_path / f"{opset}.onnx"
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(network, (torch.zeros(1, 3, 64, 64),), str(path), dynamo=False, opset_version=opset)
        assert whole(path) == wanted
        assert whole(optimized(path, LEVELS.ORT_ENABLE_ALL)) == wanted
        half = path.with_name("half.onnx")
        onnx.save(convert_float_to_float16(onnx.load(path)), half)
        assert whole(half) == wanted
