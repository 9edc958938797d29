"""ONNX Runtime: the right numbers, the device that was asked for or an error, and the proof of where the work is done."""

import logging
import threading
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from cnnkit.engine import device, export, session
from cnnkit.engine.session import Session
from cnnkit.errors import DeviceError, FormatError, UsageError


@pytest.fixture(scope="module")
def network():
    """A small convolutional network in ONNX, and in torch."""
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["images", "w"], ["maps"]), helper.make_node("Relu", ["maps"], ["features"])]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 9, 9])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 4, 7, 7]),
            helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["batch", 4, 7, 7]),
        ],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def content(network):
    """Its bytes."""
    return network.SerializeToString()


def images(batch=2, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, 3, 9, 9)).astype(np.float32)


def test_numbers_are_onnxs(network, content):
    """ONNX Runtime gives what ONNX's own reference gives, for any batch, all outputs or the named ones."""
    opened = Session(content, device="cpu")
    assert opened.outputs == ["features", "maps"]
    assert opened.inputs == {"images": ("tensor(float)", ["batch", 3, 9, 9])}
    for batch in (1, 3):
        expected = ReferenceEvaluator(network).run(None, {"images": images(batch)})
        found = opened.run({"images": images(batch)})
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        (alone,) = opened.run({"images": images(batch)}, ["maps"])
        np.testing.assert_array_equal(alone, found[1])


def test_threads_share_a_session(content):
    """Several threads may run the same session at once and get their own outputs."""
    opened = Session(content, device="cpu")
    expected = [opened.run({"images": images(seed=seed)})[0] for seed in range(8)]
    found = {}

    def work(seed):
        for _ in range(20):
            found[seed] = opened.run({"images": images(seed=seed)})[0]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(8):
        np.testing.assert_array_equal(found[seed], expected[seed])


def test_cores_are_shared_with_the_decoding(content, monkeypatch):
    """On the CPU the network uses the cores that this process may use, or as many as it is told, and never spins."""
    seen = []
    real = onnxruntime.InferenceSession

    def spying(content, options, **words):
        seen.append((options.intra_op_num_threads, options.get_session_config_entry("session.intra_op.allow_spinning")))
        return real(content, options, **words)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spying)
    monkeypatch.setattr(session, "usable_cores", lambda: 3)
    Session(content, device="cpu")
    Session(content, device="cpu", threads=1)
    assert seen == [(3, "0"), (1, "0")]


def test_auto_says_what_it_took(content, monkeypatch, caplog):
    """Without a GPU `auto` runs on the CPU and says so; `cpu` says nothing."""
    monkeypatch.setattr(device, "gpus", lambda: 0)
    with caplog.at_level(logging.INFO, "cnnkit"):
        assert Session(content).device == device.Device("cpu")
        assert [record.message for record in caplog.records] == ["running on the CPU"]
        caplog.clear()
        assert Session(content, device="cpu").device == device.Device("cpu")
    assert not caplog.records


@pytest.mark.parametrize(
    ("count", "wanted", "message"),
    [
        (0, "cuda", "--device cuda:0: no GPU here; use cpu or auto"),
        (2, "cuda:2", "--device cuda:2: there are 2 GPUs, counted from 0; use cpu or auto"),
    ],
)
def test_a_gpu_that_is_not_there_is_an_error(content, monkeypatch, count, wanted, message):
    """`cuda` where there is none fails with what there is and what to do."""
    monkeypatch.setattr(device, "gpus", lambda: count)
    with pytest.raises(DeviceError, match=f"^{message}$"):
        Session(content, device=wanted)


def test_a_gpu_that_does_not_work_is_an_error(content, monkeypatch, caplog):
    """Where the driver shows a GPU on which ONNX Runtime cannot work, `cuda` fails and `auto` warns before it takes the CPU."""
    if device.gpus():
        pytest.skip("there is a GPU that works")
    monkeypatch.setattr(device, "gpus", lambda: 1)
    with pytest.raises(DeviceError, match=r"(put nothing on|does not run on) cuda:0") as caught:
        Session(content, device="cuda", name="the base")
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.INFO, "cnnkit"):
        opened = Session(content, name="the base")
    assert opened.device == device.Device("cpu")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "running on the CPU" in caplog.records[0].message
    np.testing.assert_array_equal(
        opened.run({"images": images()})[0], Session(content, device="cpu").run({"images": images()})[0]
    )


def assigned(**held):
    """A session that holds operators by provider: `assigned(CUDA=["Conv"], CPU=["Shape"])`."""
    parts = [
        SimpleNamespace(
            ep_name=f"{name}ExecutionProvider", get_nodes=lambda ops=ops: [SimpleNamespace(op_type=op) for op in ops]
        )
        for name, ops in held.items()
    ]
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)


def test_the_proof_of_placement(caplog):
    """Shapes may stay on the CPU; whatever multiplies may not, and is named with its count; nothing on the GPU is no GPU run."""
    gpu = device.Device("cuda", 1)
    with caplog.at_level(logging.INFO, "cnnkit"):
        session.check_placement(assigned(CUDA=["Conv", "Relu", "Gemm"], CPU=["Shape"]), gpu, "the base")
    assert [record.message for record in caplog.records] == ["cuda:1 holds 3 of 4 nodes"]
    with pytest.raises(DeviceError, match="the base: ONNX Runtime left 2 Conv, 1 Gemm nodes on the CPU"):
        session.check_placement(assigned(CUDA=["Relu"], CPU=["Conv", "Conv", "Gemm", "Shape"]), gpu, "the base")
    with pytest.raises(DeviceError, match="the base: ONNX Runtime put nothing on cuda:1; are onnxruntime-gpu"):
        session.check_placement(assigned(CPU=["Conv"]), gpu, "the base")


def test_a_network_that_cannot_run_is_named():
    """What ONNX Runtime refuses is one line with the network's name."""
    node = helper.make_node("NoSuchOperator", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "graph", values[:1], values[1:]), ir_version=10)
    for content in (model.SerializeToString(), b"rubbish"):
        with pytest.raises(FormatError, match=r"^model\.onnx: ONNX Runtime cannot run it: ") as caught:
            Session(content, device="cpu", name="model.onnx")
        assert "\n" not in str(caught.value)


def test_unknown_devices(content):
    """A device that is none is a usage error."""
    with pytest.raises(UsageError, match="give auto, cpu, cuda or cuda:N"):
        Session(content, device="gpu")


@pytest.mark.gpu
def test_the_gpu_does_the_work(caplog):
    """On a GPU every convolution is held there, and the numbers are the CPU's within 1e-4."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, groups=32), nn.Hardswish()]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
    example = torch.randn(2, 3, 64, 64)
    content = export.to_onnx(module, example, inputs="images", outputs=["features"]).SerializeToString()
    with caplog.at_level(logging.INFO, "cnnkit"):
        there = Session(content, device="cuda")
        assert Session(content).device == device.Device("cuda")
    assert any("cuda:0 holds" in record.message for record in caplog.records)
    images = {"images": np.random.default_rng(1).standard_normal((16, 3, 64, 64)).astype(np.float32)}
    here = Session(content, device="cpu")
    np.testing.assert_allclose(there.run(images)[0], here.run(images)[0], atol=1e-4)
