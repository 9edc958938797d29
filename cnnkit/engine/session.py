"""ONNX Runtime sessions: choice of the device, check that the network runs there, and sharing of cores with decoding. Imports no torch.

The GPU code is written from the documentation and tested with stand-ins; it has not yet run on a GPU.
"""

import contextlib
import io
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cnnkit import messages
from cnnkit.choices import Precision
from cnnkit.data.reader import usable_cores
from cnnkit.engine import bounds, device_errors
from cnnkit.engine import device as devices
from cnnkit.engine import rows as by_rows
from cnnkit.errors import DeviceError, FormatError, RunError
from cnnkit.formats import onnx_errors
from cnnkit.formats.onnx_record import NOTHING, Needs

log = logging.getLogger("cnnkit")

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
# Operators that may stay on the CPU in a run on the GPU: arithmetic with shapes, and moving or renaming of data. All others count as
# computation, including quantized or fused operators and those of other domains.
_LIGHT = (
    "Abs Add And Cast CastLike Ceil Clip Concat Constant ConstantOfShape Div Equal Expand Flatten Floor Gather GatherElements GatherND "
    "Greater GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg NonZero Not Or Range ReduceMax ReduceMin ReduceProd "
    "ReduceSum Reshape Round ScatterElements ScatterND SequenceAt SequenceConstruct SequenceEmpty SequenceInsert Shape Sign Size Slice "
    "Split SplitToSequence Sqrt Squeeze Sub Tile Transpose Unsqueeze Where Xor"
)
_STANDARD_DOMAINS = ("", "ai.onnx")

# ONNX Runtime itself must not write to stderr, with colours and places in its source; failures raise exceptions anyway.
_FATAL = 4
onnxruntime.set_default_logger_severity(_FATAL)


class Session:
    """A network that is ready to run."""

    def __init__(
        self,
        content: bytes,
        *,
        device: str = "auto",
        name: str = "the network",
        threads: int | None = None,
        batch: int | None = None,
        precision: Precision = Precision.FLOAT32,
        needs: Needs = NOTHING,
        layouts: bool = True,
    ) -> None:
        """Load a network onto a device.

        Args:
            content: The bytes of an ONNX file, checked by `onnx_model`.
            device: `auto` takes the GPU if one works, and logs the choice; `cuda` runs on the GPU or fails.
            name: For messages.
            threads: Cores for the network on the CPU; by default all.
            batch: Rows of most runs, for a network that takes any number of rows, which do not depend on each other. On the CPU, each core
                then computes a few rows at a time, through all layers.
            precision: Precision of multiplications on a GPU.
            needs: Which limits apply while it runs, from `onnx_model.load`.
            layouts: Let ONNX Runtime choose the order in memory of maps on a CPU, which is faster; see `without_layouts`.

        Raises:
            DeviceError: The device is `cuda`, and ONNX Runtime does not place the network there.
            FormatError: ONNX Runtime cannot run the network.
            UsageError: No such device, or a precision that a CPU does not have.
        """
        self.name, self._needs = name, needs
        self.device = wanted = devices.existing(device)
        devices.check_precision(precision, wanted)
        if wanted.kind == "auto":
            wanted = devices.Device("cuda" if devices.gpus() else "cpu")
        in_parts = by_rows.fill_all_cores(batch or 0)
        threads = 1 if in_parts else threads
        try:
            self._session = _open(
                content, wanted, threads=threads, name=name, precision=precision, needs=needs, layouts=layouts
            )
        except DeviceError as error:
            if self.device.kind != "auto":
                raise
            devices.check_precision(precision, devices.Device("cpu"), why=str(error))
            log.warning("%s; running on the CPU", error, extra=messages.WAITS_FOR_WORK)
            wanted = devices.Device("cpu")
            self._session = _open(content, wanted, threads=threads, name=name, needs=needs, layouts=layouts)
        if self.device.kind == "auto":
            where = f"the GPU, {wanted}" if wanted.kind == "cuda" else "the CPU"
            log.info("running on %s", where, extra=messages.WAITS_FOR_WORK)
        self.device = wanted
        self.inputs = {item.name: (item.type, item.shape) for item in self._session.get_inputs()}
        free = any(not isinstance(side, int) for _, shape in self.inputs.values() for side in shape[1:])
        self._content = content if free and layouts and wanted.kind == "cpu" else None  # for without_layouts
        # Rows of vectors, the features of a head, are not worth a thread
        in_parts &= wanted.kind == "cpu" and any(len(shape) > 2 for _, shape in self.inputs.values())
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="rows") if in_parts else None
        outputs = self._session.get_outputs()
        self.outputs = [item.name for item in outputs]
        self._bindable = {item.name for item in outputs if item.type.startswith("tensor(")}  # no sequences, no maps
        # The largest batch that fits in memory, for each shape that once did not fit
        self._most: dict[tuple[tuple[int, ...], ...], int] = {}
        self._lock = threading.Lock()

    def without_layouts(self) -> "Session":
        """Return the same network for a trial with images that may be too small for it.

        In its own layouts of maps on a CPU, ONNX Runtime divides by zero where pooling leaves no row or no column, and the process ends
        (seen in 1.31.1 with 8 channels on AVX2). Without them it is slower. On a GPU, or for images of one size, it is the session itself.
        """
        if self._content is None:
            return self
        return Session(self._content, device=str(self.device), name=self.name, needs=self._needs, layouts=False)

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> list[NDArray[np.float32]]:
        """Run the network; several threads may run the same session.

        A batch that does not fit in memory is split, and so are later batches of the same shape.

        Args:
            inputs: By their names.
            outputs: Names of the outputs; by default all.

        Raises:
            RunError: The network does not accept the inputs.
            MemoryFullError: Not even a single row fits in memory.
            FormatError: It has a loop that does not end.
            DeviceError: The GPU failed.
        """
        given = dict(inputs)
        rows = min((len(array) for array in given.values() if array.ndim), default=1)
        shapes = tuple(array.shape[1:] for array in given.values())
        while self._most.get(shapes, rows) >= rows:
            try:
                return self._run_rows(given, outputs, rows)
            except FormatError:
                raise
            except Exception as error:  # onnxruntime's exceptions share no base class
                if not (self._can_be_cut(rows) and device_errors.is_out_of_memory(error)):
                    raise self._explained(error, given, rows) from error
            self._cut(rows, shapes)
        pieces, most = [], self._most[shapes]  # another thread, or one of the runs below, may make it smaller
        for start in range(0, rows, most):
            pieces.append(self.run({name: array[start : start + most] for name, array in given.items()}, outputs))
        return [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]

    def _can_be_cut(self, rows: int) -> bool:
        """Return whether the batch can be split: it has several rows, and the network accepts any number of them."""
        return rows > 1 and all(shape and not isinstance(shape[0], int) for _, shape in self.inputs.values())

    def _cut(self, rows: int, shapes: tuple[tuple[int, ...], ...]) -> None:
        with self._lock:  # two threads may have met the limit with the same batch
            half = max(1, rows // 2)
            if self._most.get(shapes, rows) > half:
                self._most[shapes] = half
                log.warning(
                    "a batch of %d does not fit in the memory of %s: splitting it into parts of %d",
                    rows,
                    self.device,
                    half,
                )

    def _run_rows(
        self, given: dict[str, NDArray[Any]], outputs: Sequence[str] | None, rows: int
    ) -> list[NDArray[np.float32]]:
        """Run all rows at once, or a few of them on each core."""
        step = by_rows.ROWS_OF_A_CORE
        if self._pool is None or rows <= step:
            return self._run_once(given, outputs)
        parts = [{name: array[start : start + step] for name, array in given.items()} for start in range(0, rows, step)]
        found = list(self._pool.map(lambda part: self._run_once(part, outputs), parts))
        return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]

    def _run_once(self, given: dict[str, NDArray[Any]], outputs: Sequence[str] | None) -> list[NDArray[np.float32]]:
        with bounds.clock(self.name) if self._needs.time else contextlib.nullcontext() as options:
            wanted = self.outputs if outputs is None else outputs
            if self.device.kind == "cuda" and self._bindable.issuperset(wanted):
                return self._run_bound(given, wanted, options)
            return self._session.run(outputs, given, options)  # type: ignore[no-any-return] # onnxruntime ships no types

    def _run_bound(
        self,
        given: dict[str, NDArray[Any]],
        outputs: Sequence[str],
        options: Any,  # noqa: ANN401 - onnxruntime ships no types
    ) -> list[NDArray[np.float32]]:
        """Run with inputs and outputs bound to the device, so that this thread copies while the batch of another thread is computed.

        The copies are from pageable memory: onnxruntime's Python interface cannot place NumPy arrays in pinned memory, and copying a batch
        there first would take as long as the driver's own copy through its pinned buffers.
        """
        kind, index = self.device.kind, self.device.index
        binding = self._session.io_binding()
        for name, array in given.items():
            there = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), kind, index)
            binding.bind_ortvalue_input(name, there)
        for name in outputs:
            binding.bind_output(name, kind, index)
        self._session.run_with_iobinding(binding, options)
        return binding.copy_outputs_to_cpu()  # type: ignore[no-any-return] # onnxruntime ships no types

    def _explained(self, error: Exception, given: Mapping[str, NDArray[Any]], rows: int) -> Exception:
        """Return the error to raise for an error of ONNX Runtime: about the device, or about the inputs."""
        where = str(self.device) if self.device.kind == "cuda" else None
        found = device_errors.explained(error, where=where)
        if found is not None:
            return found
        shapes = ", ".join(f"{'x'.join(map(str, array.shape))} {array.dtype}" for array in given.values())
        return RunError(f"{self.name} does not take {shapes}", device_errors.reason(error))


def try_gpu() -> None:
    """Run a tiny network on the first GPU with ONNX Runtime.

    Raises:
        DeviceError: That failed.
    """
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "try", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    Session(model.SerializeToString(), device="cuda", name="a trial").run({"x": np.ones((1, 1), dtype=np.float32)})


def _open(
    content: bytes,
    device: devices.Device,
    *,
    threads: int | None,
    name: str,
    precision: Precision = Precision.FLOAT32,
    needs: Needs = NOTHING,
    layouts: bool = True,
) -> Any:  # noqa: ANN401 - onnxruntime ships no types
    options = onnxruntime.SessionOptions()
    if not layouts:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = _FATAL
    # Spinning threads would take cores from the threads that decode the next images
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads or usable_cores()
    # Without VNNI, products of uint8 and int8 would be cut off at 16 bits: int8 networks would lose accuracy. With it, nothing changes
    options.add_session_config_entry("session.x64quantprecision", "1")
    if needs.memory:
        bounds.cap_memory(options)
    providers: list[Any] = [_CPU]
    shortened = False
    if device.kind == "cuda":
        _check_driver()
        _preload()
        from cnnkit.engine import half_precision  # imports onnx, which a network that was checked before does not need

        if half_precision.is_half(content):
            precision = Precision.FLOAT16
        elif precision is Precision.FLOAT16:
            content, shortened = half_precision.converted(content, name=name), True
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.intra_op_num_threads = 1
        providers.insert(0, (_CUDA, cuda_options(device.index, precision)))
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = device_errors.reason(error)
        if device.kind == "cuda":
            found = device_errors.explained(error, where=str(device))
            if shortened and found is None:
                from cnnkit.engine import half_precision

                raise half_precision.refused(name, reason) from error
            raise found or DeviceError(f"{name} does not run on {device}: {reason}") from error
        raise FormatError(f"{name}: ONNX Runtime cannot run it: {_refused(error, content)}") from error
    if device.kind == "cuda":
        check_placement(session, device, name)
    return session


def _refused(error: Exception, content: bytes) -> str:
    """Say which node of a network ONNX Runtime refuses, and why; the graph names what its text leaves out."""
    from onnx import ModelProto

    try:
        nodes = ModelProto.FromString(content).graph.node
    except Exception:  # protobuf's DecodeError: its class depends on which protobuf is installed
        nodes = ()
    return onnx_errors.read(error, nodes).text


def _check_driver() -> None:
    """Check that ONNX Runtime supports GPUs and the driver is recent enough; it would fail less clearly, or run on the CPU."""
    library = f"{onnxruntime.package_name or 'onnxruntime'} {onnxruntime.__version__}"
    if _CUDA not in onnxruntime.get_available_providers():
        raise DeviceError(f"{library} has no code for GPUs; install onnxruntime-gpu in its place (docs/gpu.md)")
    if (found := devices.driver_too_old(library, onnxruntime.cuda_version)) is not None:
        raise DeviceError(found)


def _preload() -> None:
    """Load the CUDA libraries from the nvidia packages that pip installed.

    If torch was imported before, its copies are used. onnxruntime prints missing libraries to stdout, which is captured here; the check of
    the placement fails then.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        onnxruntime.preload_dlls(directory="")
    for line in printed.getvalue().splitlines():
        log.debug("%s", line)


def cuda_options(index: int, precision: Precision) -> dict[str, str]:
    """Return the options of the CUDA provider.

    float32 is computed without TF32, whose ten bits of mantissa would break the promise that probabilities agree to 1e-4 on all
    devices, and in NCHW, since some NHWC kernels use TF32 regardless (microsoft/onnxruntime#21752). tf32 and float16 use NHWC, the
    layout of tensor cores. float16 needs `use_tf32`, too: the same option enables tensor cores for it.
    """
    shorter = precision is not Precision.FLOAT32
    return {
        "device_id": str(index),
        # EXHAUSTIVE tunes again for every shape; DEFAULT is slow. Batches have one shape, and tuning costs seconds.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "fuse_conv_bias": "1",
        "prefer_nhwc": "1" if shorter else "0",
        "use_tf32": "1" if shorter else "0",
    }


def check_placement(session: Any, device: devices.Device, name: str) -> None:  # noqa: ANN401 - onnxruntime ships no types
    """Check which provider runs which nodes: that CUDA is among the session's providers proves nothing.

    Raises:
        DeviceError: A node that computes something is not on the GPU.
    """
    light = frozenset(_LIGHT.split())
    held: Counter[str] = Counter()
    stray: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            held[part.ep_name] += 1
            if part.ep_name != _CUDA and not (node.domain in _STANDARD_DOMAINS and node.op_type in light):
                stray[node.op_type] += 1
    if not held[_CUDA]:
        raise DeviceError(
            f"{name}: ONNX Runtime put nothing on {device}; are onnxruntime-gpu[cuda,cudnn] and a driver for its CUDA version installed?"
        )
    if stray:
        raise DeviceError(
            f"{name}: ONNX Runtime left {', '.join(f'{count} {op}' for op, count in stray.items())} nodes on the CPU"
        )
    log.info("%s runs %d of %d nodes", device, held[_CUDA], held.total())
