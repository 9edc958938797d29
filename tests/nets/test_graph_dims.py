"""Dimensions of ONNX graphs, compared with the torch networks that they were exported from and with graphs made by hand."""

import subprocess
import sys
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from torch import nn

from cnnkit.errors import FormatError, UsageError
from cnnkit.nets import build, dims, graph_dims, module_dims
from cnnkit.nets.notation import parse


def write(path, nodes, weights, *, shape, element=TensorProto.FLOAT, output="out"):
    """Write a graph with an input `x` and weights of ones in the given shapes."""
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = make_graph(
        nodes,
        "network",
        [make_tensor_value_info("x", element, shape)],
        [make_tensor_value_info(output, TensorProto.FLOAT, None)],
        tensors,
    )
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 18)]), path)
    return str(path)


def measures(row):
    return row.shape, row.receptive_field, row.dropped, row.kernel, row.pad


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network as torch module, and as the .onnx file of torch's exporter for any batch size."""
    text = "conv 8 k3 p1 relu, pool 3 s2 p1, conv 6 k3x1 g2 d2, avgpool 2, tanh, conv 4 k1 nobias bn relu, gap, dense 9 relu, dense 5"
    network = build.build(parse(text), channels=3, height=33, width=30).eval()
    for value in network.parameters():  # the exporter omits zeros
        nn.init.uniform_(value, 0.1, 1.0)
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, 33, 30),),
            str(path),
            dynamo=True,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    return network, str(path)


def test_an_exported_network_is_measured_as_the_torch_network(exported):
    """Convolutions and dense layers have the torch modules' names, sizes, parameters, costs and receptive fields."""
    network, path = exported
    graph = {row.layer: row for row in graph_dims.measure_graph(path)}
    modules = {row.layer: row for row in module_dims.measure_module(network, torch.zeros(1, 3, 33, 30))}
    for name in ("conv1", "conv2", "dense1", "dense2"):
        assert graph[name] == modules[name]
    pools = [measures(row) for row in graph.values() if "pool" in row.kind]
    assert pools == [measures(row) for row in modules.values() if "pool" in row.kind]
    total = dims.total(list(graph.values()))
    assert total.macs == dims.total(list(modules.values())).macs
    assert (total.shape, total.receptive_field) == ((5,), dims.total(list(modules.values())).receptive_field)


def test_reading_a_graph_needs_no_torch(exported):
    """An .onnx file is measured with the onnx package alone."""
    code = (
        "import sys; from cnnkit.nets import graph_dims; graph_dims.measure_graph(sys.argv[1]);"
        "sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, exported[1]], check=False).returncode == 0


def test_a_graph_by_hand(tmp_path):
    """Constants that normalize are not parameters, images may be bytes with channels last, branches meet in the larger field."""
    path = write(
        tmp_path / "model.onnx",
        [
            make_node("Cast", ["x"], ["floats"], to=TensorProto.FLOAT),
            make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
            make_node("Mul", ["planes", "std"], ["scaled"]),
            make_node("Sub", ["scaled", "mean"], ["normal"]),
            make_node("Conv", ["normal", "stem.weight", "stem.bias"], ["stem"], strides=[2, 2], auto_pad="SAME_UPPER"),
            make_node(
                "BatchNormalization", ["stem", "gamma", "beta", "running_mean", "running_var"], ["bn"], name="norm"
            ),
            make_node("Conv", ["bn", "wide.weight"], ["wide"], pads=[1, 2, 1, 2], dilations=[1, 2]),
            make_node("Add", ["wide", "bn"], ["sum"]),
            make_node("MaxPool", ["sum"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2], name="pool"),
            make_node("GlobalAveragePool", ["pooled"], ["mean_of_map"]),
            make_node("Flatten", ["mean_of_map"], ["features"]),
            make_node("MatMul", ["features", "head.weight"], ["logits"]),
            make_node("Add", ["logits", "head_bias"], ["out"], name="bias"),
        ],
        {
            "std": ones(3, 1, 1),
            "mean": ones(3, 1, 1),
            "stem.weight": ones(8, 3, 3, 3),
            "stem.bias": ones(8),
            "wide.weight": ones(8, 8, 3, 3),
            **{name: ones(8) for name in ("gamma", "beta", "running_mean", "running_var")},
            "head.weight": ones(8, 5),
            "head_bias": ones(5),
        },
        shape=["N", 21, 23, 3],
        element=TensorProto.UINT8,
    )
    rows = {row.layer: row for row in graph_dims.measure_graph(path, bytes_per_value=2)}
    assert rows["stem"].shape == (11, 12, 8)
    assert (rows["stem"].params, rows["stem"].macs) == (8 * 27 + 8, 11 * 12 * 8 * 27)
    assert rows["norm"].params == 16
    assert (rows["wide"].receptive_field, rows["wide"].stride) == ("7x11", 2)
    assert (rows["pool"].shape, rows["pool"].receptive_field, rows["pool"].dropped) == ((5, 6, 8), "9x13", 12)
    assert (rows["head"].kind, rows["head"].params, rows["head"].macs) == ("dense", 40, 40)
    assert rows["bias"].params == 5
    assert rows["head"].activation_bytes == 10
    total = dims.total(list(rows.values()))
    assert total.params == 8 * 27 + 8 + 16 + 8 * 8 * 9 + 40 + 5
    assert total.receptive_field == "21x23"  # 9 + 4 * 4 and 13 + 5 * 4 with the padding: all of the image


CONV = [make_node("Conv", ["x", "w.weight"], ["out"])]


def test_open_size_needs_the_input_option(tmp_path):
    """Open sides are filled in from the given size; without one, the error names the option."""
    path = write(tmp_path / "open.onnx", CONV, {"w.weight": ones(4, 3, 3, 3)}, shape=["N", 3, "H", "W"])
    (row,) = graph_dims.measure_graph(path, size=(10, 12, 3))
    assert row.shape == (8, 10, 4)
    with pytest.raises(FormatError, match="the size of its images is open; give --input H,W,C"):
        graph_dims.measure_graph(path)


def test_rejects_size_that_contradicts_the_file(tmp_path):
    """The message has both numbers."""
    path = write(tmp_path / "fixed.onnx", CONV, {"w.weight": ones(4, 3, 3, 3)}, shape=[1, 3, 9, 9])
    with pytest.raises(UsageError, match="height is 9, but --input has 10"):
        graph_dims.measure_graph(path, size=(10, 9, 3))


def test_a_fixed_batch_is_counted_for_one_image(tmp_path):
    """Multiply-accumulates and bytes of a network for four images are those of one image."""
    one, four = (
        graph_dims.measure_graph(
            write(tmp_path / f"{batch}.onnx", CONV, {"w.weight": ones(4, 3, 3, 3)}, shape=[batch, 3, 9, 9])
        )
        for batch in (1, 4)
    )
    assert one == four


def test_rejects_external_weights(tmp_path):
    """A model with external data is an error of one line, and the external file is not opened."""
    path = tmp_path / "outside.onnx"
    model = onnx.load(write(path, CONV, {"w.weight": ones(64, 3, 3, 3)}, shape=[1, 3, 9, 9]))
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(FormatError, match="its weights are in other files"):
        graph_dims.measure_graph(str(path))


@pytest.mark.parametrize("content", [b"", b"no network at all", b"\x08\x07"])
def test_rejects_other_files(tmp_path, content):
    """Another file with the ending .onnx is an error that names it."""
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"broken\.onnx"):
        graph_dims.measure_graph(str(path))


def test_rejects_network_for_vectors(tmp_path):
    """A head alone does not take images; the message has the number of dimensions of its input."""
    path = write(tmp_path / "head.onnx", [make_node("MatMul", ["x", "w"], ["out"])], {"w": ones(4, 2)}, shape=["N", 4])
    with pytest.raises(FormatError, match="its input has 2 dimensions"):
        graph_dims.measure_graph(path)
