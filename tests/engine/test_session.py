"""ONNX Runtime sessions: correct outputs, the requested device or an error, and the check of the placement."""

import logging
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import quantize_dynamic
from torch import nn

from cnnkit.choices import Precision
from cnnkit.engine import bounds, device, export, half_precision, session
from cnnkit.engine.session import Session
from cnnkit.errors import DeviceError, FormatError, MemoryFullError, RunError, UsageError
from cnnkit.formats.onnx_record import Needs


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


@pytest.mark.parametrize(("rows", "parts"), [(1, [1]), (4, [4]), (7, [3, 4]), (16, [4] * 4), (18, [2, 4, 4, 4, 4])])
def test_each_core_computes_a_few_rows(network, content, monkeypatch, rows, parts):
    """On the CPU, if a batch has four rows for each core; the outputs are those of the whole batch."""
    monkeypatch.setattr("cnnkit.engine.rows.usable_cores", lambda: 2)
    opened, at_once = Session(content, device="cpu", batch=16), []
    real = Session._run_once

    def run(self, given, outputs):
        at_once.append(len(given["images"]))
        return real(self, given, outputs)

    monkeypatch.setattr(Session, "_run_once", run)
    found = opened.run({"images": images(rows)})
    assert sorted(at_once) == parts
    for one, other in zip(found, ReferenceEvaluator(network).run(None, {"images": images(rows)}), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr("cnnkit.engine.rows.usable_cores", lambda: 5)
    at_once.clear()
    Session(content, device="cpu", batch=16).run({"images": images(16)})
    assert at_once == [16]


def test_errors_of_rows_are_those_of_the_batch(content, monkeypatch):
    """A wrong shape, and a batch that does not fit in memory."""
    monkeypatch.setattr("cnnkit.engine.rows.usable_cores", lambda: 2)
    opened = Session(content, device="cpu", batch=16)
    with pytest.raises(RunError, match="the network does not take 16x3x9x8 float32"):
        opened.run({"images": images(16)[..., :8]})
    real = Session._run_once

    def run(self, given, outputs):
        if len(given["images"]) > 2:
            raise MemoryError
        return real(self, given, outputs)

    monkeypatch.setattr(Session, "_run_once", run)
    assert len(opened.run({"images": images(16)})[0]) == 16


def test_outputs_match_the_onnx_reference(network, content):
    """For any batch, all outputs or named ones."""
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
    """Several threads may run the same session at once, and each gets its own outputs."""
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


def test_cores_are_shared_with_decoding(content, monkeypatch):
    """On the CPU the network uses the cores of this process, or the given number, and threads never spin."""
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


def test_auto_logs_the_device(content, monkeypatch, caplog):
    """Without a GPU, `auto` runs on the CPU and logs it; `cpu` logs nothing."""
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
        (0, "cuda", "--device cuda: no GPU here; use cpu or auto"),
        (2, "cuda:2", "--device cuda:2: there are 2 GPUs, counted from 0; use cpu or auto"),
    ],
)
def test_missing_gpu_is_an_error(content, monkeypatch, count, wanted, message):
    """`cuda` without a GPU fails; the message has the number of GPUs and the remedy."""
    monkeypatch.setattr(device, "gpus", lambda: count)
    with pytest.raises(DeviceError, match=f"^{message}$"):
        Session(content, device=wanted)


def test_gpu_that_does_not_work_is_an_error(content, monkeypatch, caplog):
    """If the driver has a GPU that ONNX Runtime cannot use, `cuda` fails, and `auto` warns before it takes the CPU."""
    if device.gpus():
        pytest.skip("there is a GPU that works")
    monkeypatch.setattr(device, "gpus", lambda: 1)
    with pytest.raises(DeviceError, match=r"(put nothing on|does not run on) cuda:0") as caught:
        Session(content, device="cuda", name="the backbone")
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.INFO, "cnnkit"):
        opened = Session(content, name="the backbone")
    assert opened.device == device.Device("cpu")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "running on the CPU" in caplog.records[0].message
    np.testing.assert_array_equal(
        opened.run({"images": images()})[0], Session(content, device="cpu").run({"images": images()})[0]
    )


def assigned(**held):
    """A session with operators by provider: `assigned(CUDA=["Conv"], CPU=["Shape"])`."""
    parts = [
        SimpleNamespace(
            ep_name=f"{name}ExecutionProvider",
            get_nodes=lambda ops=ops: [
                SimpleNamespace(op_type=op.rpartition(":")[2], domain=op.rpartition(":")[0]) for op in ops
            ],
        )
        for name, ops in held.items()
    ]
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)


def test_placement_is_checked(caplog):
    """Arithmetic with shapes may stay on the CPU; other operators may not, and are named with their count, as is a GPU without any node."""
    gpu = device.Device("cuda", 1)
    with caplog.at_level(logging.INFO, "cnnkit"):
        session.check_placement(assigned(CUDA=["Conv", "Relu", "Gemm"], CPU=["Shape"]), gpu, "the backbone")
    assert [record.message for record in caplog.records] == ["cuda:1 runs 3 of 4 nodes"]
    with pytest.raises(DeviceError, match="the backbone: ONNX Runtime left 2 Conv, 1 Gemm nodes on the CPU"):
        session.check_placement(assigned(CUDA=["Relu"], CPU=["Conv", "Conv", "Gemm", "Shape"]), gpu, "the backbone")
    with pytest.raises(DeviceError, match="the backbone: ONNX Runtime put nothing on cuda:1; are onnxruntime-gpu"):
        session.check_placement(assigned(CPU=["Conv"]), gpu, "the backbone")


@pytest.mark.parametrize(
    "operator",
    [
        *[
            "QLinearConv",
            "ConvInteger",
            "MatMulInteger",
            "QLinearMatMul",
            "Einsum",
            "LSTM",
            "GRU",
            "RNN",
            "Resize",
            "TopK",
            "Loop",
        ],
        *[
            "com.microsoft:QGemm",
            "com.microsoft:FusedConv",
            "com.microsoft.nchwc:Conv",
            "com.microsoft:Reshape",
            "mine:Add",
        ],
    ],
)
def test_unknown_operators_must_run_on_the_gpu(operator):
    """Quantized, fused and recurrent operators, those of other domains, and future ones."""
    gpu = device.Device("cuda")
    with pytest.raises(DeviceError, match=rf"left 1 {operator.rpartition(':')[2]} nodes on the CPU"):
        session.check_placement(assigned(CUDA=["Conv", "Relu"], CPU=["Shape", "ai.onnx:Gather", operator]), gpu, "net")


def test_float32_is_strict_and_float16_uses_tensor_cores():
    """float32 uses TF32 neither by its option nor by a layout with TF32 kernels; float16 needs both."""
    strict, fast, half = (session.cuda_options(1, each) for each in Precision)
    assert (strict["use_tf32"], strict["prefer_nhwc"]) == ("0", "0")
    assert (fast["use_tf32"], fast["prefer_nhwc"]) == (half["use_tf32"], half["prefer_nhwc"]) == ("1", "1")
    for options in (strict, fast, half):
        assert options["device_id"] == "1"
        assert (options["fuse_conv_bias"], options["cudnn_conv_algo_search"]) == ("1", "HEURISTIC")


def test_gpu_precision_follows_the_weights(content, pretended_gpu):
    """float16 weights use tensor cores by themselves, float32 weights on request; --precision float16 converts them."""
    half = half_precision.converted(content, name="net")
    for given, precision, tf32, float16 in (
        (content, Precision.FLOAT32, "0", False),
        (content, Precision.TF32, "1", False),
        (content, Precision.FLOAT16, "1", True),
        (half, Precision.FLOAT32, "1", True),
        (half, Precision.FLOAT16, "1", True),
    ):
        Session(given, device="cuda", precision=precision)
        got, provider, options = pretended_gpu.pop()
        assert (provider, options["use_tf32"], options["prefer_nhwc"]) == ("CUDAExecutionProvider", tf32, tf32)
        assert half_precision.is_half(got) is float16


def test_rejects_reduced_precision_on_a_cpu(content, monkeypatch):
    """The reason is given: --device cpu, no GPU, or one that does not work."""
    monkeypatch.setattr(device, "gpus", lambda: 0)
    for wanted, reason in (("cpu", "--device cpu"), ("auto", "no GPU here")):
        with pytest.raises(UsageError, match=rf"^--precision tf32 needs a GPU; .*\({reason}\); drop it$"):
            Session(content, device=wanted, precision=Precision.TF32)
    monkeypatch.setattr(device, "gpus", lambda: 1)
    monkeypatch.setattr(device, "driver_version", lambda: (12, 8))
    with pytest.raises(UsageError, match=r"the NVIDIA driver supports CUDA 12\.8"):
        Session(content, precision=Precision.TF32)
    Session(content, device="cpu", precision=Precision.FLOAT32)


def test_old_driver_is_detected_first(content, monkeypatch, caplog):
    """The CUDA versions of driver and ONNX Runtime, with the remedy; `auto` takes the CPU."""
    monkeypatch.setattr(device, "gpus", lambda: 1)
    monkeypatch.setattr(device, "driver_version", lambda: (11, 4))
    expected = (
        rf"the NVIDIA driver supports CUDA 11\.4, onnxruntime-gpu {onnxruntime.__version__} needs CUDA 1\d: install"
    )
    with pytest.raises(DeviceError, match=expected):
        Session(content, device="cuda")
    with caplog.at_level(logging.INFO, "cnnkit"):
        assert Session(content).device == device.Device("cpu")
    warning, info = caplog.records
    assert re.match(rf"{expected}.*; running on the CPU$", warning.message)
    assert info.message == "running on the CPU"


def test_onnxruntime_without_gpu_support(content, monkeypatch):
    """The CPU package has no CUDA provider."""
    monkeypatch.setattr(device, "gpus", lambda: 1)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match=r"has no code for GPUs; install onnxruntime-gpu in its place"):
        Session(content, device="cuda")


def test_onnxruntime_writes_nothing_to_the_terminal(content, monkeypatch, capfd):
    """Neither if its GPU libraries do not load, nor if a run fails, nor about missing libraries."""
    if device.gpus():
        pytest.skip("there is a GPU that works")
    monkeypatch.setattr(device, "gpus", lambda: 1)
    monkeypatch.setattr(device, "driver_version", lambda: (99, 0))
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda **_: sys.stdout.write("Failed to load\n"))
    with pytest.raises(DeviceError):
        Session(content, device="cuda")
    opened = Session(content, device="cpu")
    with pytest.raises(RunError):
        opened.run({"images": images()[:, :, :4]})
    assert capfd.readouterr() == ("", "")


class Failing:
    """Stands for a session on a GPU that fails with a message at one step of a run if a batch is too large."""

    def __init__(self, real, message, *, most=0, step="run"):
        self.real, self.message, self.most, self.step = real, message, most, step
        self.seen, self.options = [], []

    def io_binding(self):
        binding = self.real.io_binding()
        copy = binding.copy_outputs_to_cpu

        def copied():
            outputs = copy()
            self.fail("download", len(outputs[0]))
            return outputs

        binding.copy_outputs_to_cpu = copied
        return binding

    def run_with_iobinding(self, binding, options):
        self.options.append(options)
        self.real.run_with_iobinding(binding, options)
        (shape,) = {value.shape()[0] for value in binding.get_outputs()}
        self.fail("run", shape)

    def fail(self, step, rows):
        if step == "upload":
            self.seen.append(rows)
        if step == self.step and rows > self.most:
            raise RuntimeError(self.message)


FULL = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Name:'c' Status Message: "
FULL += "/onnxruntime_src/bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 51380224"


@pytest.fixture
def on_gpu(content, monkeypatch, bound_to_cpu):
    """Make a session that takes the CPU for its GPU and fails with a message above some rows."""

    def make(message, *, most=0, step="run", **words):
        opened = Session(content, device="cpu", name="net.onnx", **words)
        opened.device = device.Device("cuda", 1)
        failing = opened._session = Failing(opened._session, message, most=most, step=step)
        there = onnxruntime.OrtValue.ortvalue_from_numpy

        def uploaded(array, kind, index):
            assert (kind, index) == ("cuda", 1)
            failing.fail("upload", len(array))
            return there(array, kind, index)

        monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", staticmethod(uploaded))
        return opened, failing

    return make


@pytest.mark.parametrize("step", ["upload", "run", "download"])
def test_batch_that_does_not_fit_is_split(on_gpu, content, caplog, step):
    """Halved until it fits, with a warning each time, and remembered for later batches; the outputs are those of the whole batch."""
    opened, failing = on_gpu(FULL, most=3, step=step)
    expected = Session(content, device="cpu").run({"images": images(batch=13)})
    for one, other in zip(opened.run({"images": images(batch=13)}), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert failing.seen == [13, 6, 3, 3, 3, 3, 1]
    assert [record.message for record in caplog.records] == [
        "a batch of 13 does not fit in the memory of cuda:1: splitting it into parts of 6",
        "a batch of 6 does not fit in the memory of cuda:1: splitting it into parts of 3",
    ]
    opened.run({"images": images(batch=5)})
    assert failing.seen[7:] == [3, 2]


def test_row_that_does_not_fit_is_an_error(on_gpu):
    """A single row advises smaller options."""
    opened, _ = on_gpu(FULL)
    with pytest.raises(
        MemoryFullError,
        match=r"^the memory of cuda:1 is full \(.*Failed to allocate.*\); give a smaller --batch or --size",
    ):
        opened.run({"images": images(batch=2)})


def test_failing_gpu_does_not_split_batches(on_gpu):
    """The message has the reason, and the remedy is another device."""
    opened, failing = on_gpu(
        "CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR ; GPU=1 ; hostname=h ; file=/src/conv.cc ; line=1"
    )
    with pytest.raises(
        DeviceError, match=r"^cuda:1 failed: CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR.*; use --device cpu$"
    ) as caught:
        opened.run({"images": images(batch=8)})
    assert "--batch" not in str(caught.value)
    assert failing.seen == [8]


@pytest.mark.parametrize(
    "message",
    [
        "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: images",
        "[ONNXRuntimeError] : 1 : FAIL : CUDNN failure 2000: CUDNN_STATUS_BAD_PARAM ; expr=cudnnSetPoolingNdDescriptor",
    ],
)
def test_rejected_shape_is_an_error_of_the_input(on_gpu, message):
    """As on the CPU, so that a caller with many images can skip this one."""
    opened, _ = on_gpu(message)
    with pytest.raises(RunError, match=r"^net\.onnx does not take 2x3x9x9 float32: ") as caught:
        opened.run({"images": images()})
    assert "--batch" not in str(caught.value)


def test_rejected_shape_lists_the_dimensions(content):
    """ONNX Runtime's list of dimensions is part of the message."""
    with pytest.raises(RunError, match=r"the network does not take 2x3x4x9 float32: .*index: 2 Got: 4 Expected: 9$"):
        Session(content, device="cpu").run({"images": images()[:, :, :4]})


@pytest.mark.parametrize("time", [True, False])
def test_time_limit_applies_on_a_gpu(on_gpu, monkeypatch, wait_for, time):
    """If the network has a loop, the run options that end it are passed with the binding."""
    opened, failing = on_gpu("", most=99, needs=Needs(memory=False, time=time))
    opened.run({"images": images()})
    (options,) = failing.options
    assert (options is not None) is time
    if time:

        def run(_binding, options):
            wait_for(lambda: options.terminate)
            raise RuntimeError("Exiting due to terminate flag being set to true.")

        monkeypatch.setattr(bounds, "LONGEST", 0.01)
        monkeypatch.setattr(failing, "run_with_iobinding", run)
        with pytest.raises(FormatError, match=r"^net\.onnx: stopped after 0\.01 seconds in one batch"):
            opened.run({"images": images()})


def test_outputs_that_are_not_tensors_are_not_bound(bound_to_cpu):
    """A sequence cannot be bound to a device; it is returned as on the CPU."""
    nodes = [helper.make_node("SequenceConstruct", ["images", "images"], ["both"])]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 9, 9])
    made = helper.make_tensor_sequence_value_info("both", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "graph", [given], [made]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    opened = Session(model.SerializeToString(), device="cpu")
    opened.device = device.Device("cuda")
    ((one, other),) = opened.run({"images": images()})
    np.testing.assert_array_equal(one, images())
    np.testing.assert_array_equal(other, images())


def test_network_that_fails_in_float16_names_the_remedy(content, pretended_gpu, monkeypatch):
    """ONNX Runtime may refuse the converted network; with auto as well, where a CPU would be no remedy."""
    monkeypatch.setattr(half_precision, "converted", lambda *_, **__: b"rubbish")
    for wanted in ("cuda", "auto"):
        with pytest.raises(UsageError, match=r"^net cannot be converted to float16 \(.*\); use --precision tf32$"):
            Session(content, device=wanted, name="net", precision=Precision.FLOAT16)


def test_bound_inputs_and_outputs_give_the_same(content):
    """All outputs or named ones, also for arrays that are not contiguous; on the CPU, which binds in the same way."""
    opened = Session(content, device="cpu")
    given = {"images": images(batch=6)[::2]}
    for found, expected in zip(
        opened._run_bound(given, ["maps", "features"], None), opened.run(given, ["maps", "features"]), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_network_that_cannot_run_is_named():
    """The error of ONNX Runtime is one line with the network's name."""
    node = helper.make_node("NoSuchOperator", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "graph", values[:1], values[1:]), ir_version=10)
    for content in (model.SerializeToString(), b"rubbish"):
        with pytest.raises(FormatError, match=r"^model\.onnx: ONNX Runtime cannot run it: ") as caught:
            Session(content, device="cpu", name="model.onnx")
        assert "\n" not in str(caught.value)


def test_rejects_unknown_devices(content):
    """An unknown device is a usage error."""
    with pytest.raises(UsageError, match="give auto, cpu, cuda or cuda:N"):
        Session(content, device="gpu")


@pytest.mark.gpu
def test_gpu_runs_the_network(caplog):
    """On a GPU every convolution is placed there, and outputs match the CPU's within 1e-4."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, groups=32), nn.Hardswish()]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
    example = torch.randn(2, 3, 64, 64)
    content = export.to_onnx(module, example, inputs="images", outputs=["features"]).SerializeToString()
    with caplog.at_level(logging.INFO, "cnnkit"):
        there = Session(content, device="cuda")
        assert Session(content).device == device.Device("cuda")
    assert any("cuda:0 runs" in record.message for record in caplog.records)
    images = {"images": np.random.default_rng(1).standard_normal((16, 3, 64, 64)).astype(np.float32)}
    here = Session(content, device="cpu")
    np.testing.assert_allclose(there.run(images)[0], here.run(images)[0], atol=1e-4)


@pytest.mark.gpu
def test_two_threads_share_a_gpu(content):
    """One batch is copied while the other is computed; every output is that of its own input."""
    there, here = Session(content, device="cuda"), Session(content, device="cpu")
    given = [{"images": images(batch=64, seed=seed)} for seed in range(20)]
    with ThreadPoolExecutor(2) as threads:
        for found, each in zip(threads.map(there.run, given), given, strict=True):
            np.testing.assert_allclose(found[0], here.run(each)[0], atol=1e-4)


@pytest.mark.gpu
def test_int8_on_a_gpu_is_refused_or_right(network, tmp_path):
    """Operators that stay on the CPU are named; if all of them are on the GPU, the outputs are those of the CPU."""
    path = tmp_path / "int8.onnx"
    onnx.save(network, tmp_path / "net.onnx")
    quantize_dynamic(tmp_path / "net.onnx", path)
    try:
        found = Session(path.read_bytes(), device="cuda", name="int8.onnx").run({"images": images()})
    except DeviceError as error:
        assert re.match(r"int8\.onnx: ONNX Runtime left .* nodes on the CPU$", str(error))  # noqa: PT017 - either will do
    else:
        expected = Session(path.read_bytes(), device="cpu").run({"images": images()})
        np.testing.assert_allclose(found[0], expected[0], atol=1e-4)


def test_int8_products_are_exact_without_vnni():
    """On processors with AVX2 only, ONNX Runtime adds pairs of products in 16 bits by default: 2 * 255 * 127 would become 32,767."""
    arrays = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "whole": np.int8(0),
        "large": np.float32(2**16),
        "weights": np.full((16, 16, 1, 1), 127, dtype=np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["weights", "one", "whole"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1]),
        helper.make_node("QuantizeLinear", ["y", "large", "zero"], ["z"]),
        helper.make_node("DequantizeLinear", ["z", "large", "zero"], ["maps"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 16, None, None]) for name in ("images", "maps")
    ]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()]
    graph = helper.make_graph(nodes, "int8", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (found,) = Session(model.SerializeToString(), device="cpu").run({"images": np.full((1, 16, 4, 4), 255, np.float32)})
    assert np.unique(found / 2**16).tolist() == [round(16 * 255 * 127 / 2**16)]
