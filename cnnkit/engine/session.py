"""ONNX Runtime: where a network runs, the proof that it runs there, and how it shares the cores with decoding. No torch.

What concerns GPUs is written from the documentation and tested with stand-ins; it has not yet run on a GPU.
"""

import contextlib
import io
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from cnnkit.choices import Precision
from cnnkit.data.reader import usable_cores
from cnnkit.engine import bounds, device_errors, half_precision
from cnnkit.engine import device as devices
from cnnkit.errors import DeviceError, FormatError, RunError
from cnnkit.formats import onnx_errors
from cnnkit.formats.onnx_check import NOTHING, Needs

log = logging.getLogger("cnnkit")

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
# What may stay on the CPU in a run on the GPU: arithmetic with shapes, and what moves or renames. Anything else computes, whatever
# it is called: a quantised or fused operator, too, or one of another domain.
_LIGHT = (
    "Abs Add And Cast CastLike Ceil Clip Concat Constant ConstantOfShape Div Equal Expand Flatten Floor Gather GatherElements GatherND "
    "Greater GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg NonZero Not Or Range ReduceMax ReduceMin ReduceProd "
    "ReduceSum Reshape Round ScatterElements ScatterND SequenceAt SequenceConstruct SequenceEmpty SequenceInsert Shape Sign Size Slice "
    "Split SplitToSequence Sqrt Squeeze Sub Tile Transpose Unsqueeze Where Xor"
)
_STANDARD_DOMAINS = ("", "ai.onnx")

# Nothing of ONNX Runtime's own reaches stderr, where it would come with colours and places in its source: what fails raises.
_FATAL = 4
onnxruntime.set_default_logger_severity(_FATAL)


class Session:
    """A network ready to run."""

    def __init__(
        self,
        content: bytes,
        *,
        device: str = "auto",
        name: str = "the network",
        threads: int | None = None,
        precision: Precision = Precision.FLOAT32,
        needs: Needs = NOTHING,
    ) -> None:
        """Load a network onto a device.

        Args:
            content: The bytes of an ONNX file, checked by `onnx_model`.
            device: `auto` takes the GPU where one works and says which it took; `cuda` runs on the GPU or fails.
            name: For messages.
            threads: Cores for the network on the CPU; by default all.
            precision: What a GPU multiplies in.
            needs: What is bounded while it runs, as `onnx_model.load` has it.

        Raises:
            DeviceError: `cuda` was asked for, and ONNX Runtime does not hold the network there.
            FormatError: ONNX Runtime cannot run the network.
            UsageError: No such device, or a precision that a CPU does not have.
        """
        self.name, self._needs = name, needs
        self.device = wanted = devices.existing(device)
        devices.check_precision(precision, wanted)
        if wanted.kind == "auto":
            wanted = devices.Device("cuda" if devices.gpus() else "cpu")
        try:
            self._session = _open(content, wanted, threads=threads, name=name, precision=precision, needs=needs)
        except DeviceError as error:
            if self.device.kind != "auto":
                raise
            devices.check_precision(precision, devices.Device("cpu"), why=str(error))
            log.warning("%s; running on the CPU", error)
            wanted = devices.Device("cpu")
            self._session = _open(content, wanted, threads=threads, name=name, needs=needs)
        if self.device.kind == "auto":
            log.info("running on %s", f"the GPU, {wanted}" if wanted.kind == "cuda" else "the CPU")
        self.device = wanted
        self.inputs = {item.name: (item.type, item.shape) for item in self._session.get_inputs()}
        outputs = self._session.get_outputs()
        self.outputs = [item.name for item in outputs]
        self._bindable = {item.name for item in outputs if item.type.startswith("tensor(")}  # no sequences, no maps
        # Rows of a shape that memory holds, once it did not hold more
        self._most: dict[tuple[tuple[int, ...], ...], int] = {}
        self._lock = threading.Lock()

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> list[NDArray[np.float32]]:
        """Run once; other threads may go on meanwhile, and may run the same session.

        A batch that memory does not hold goes in parts, and all that come after it.

        Args:
            inputs: By their names.
            outputs: Which ones; by default all.

        Raises:
            RunError: The network does not take what it is given.
            MemoryFullError: Memory does not hold a single row.
            FormatError: It has a loop that does not end.
            DeviceError: The GPU fails.
        """
        given = dict(inputs)
        rows = min((len(array) for array in given.values() if array.ndim), default=1)
        shapes = tuple(array.shape[1:] for array in given.values())
        while self._most.get(shapes, rows) >= rows:
            try:
                return self._run_once(given, outputs)
            except FormatError:
                raise
            except Exception as error:  # onnxruntime's exceptions share no base class
                if not (self._can_be_cut(rows) and device_errors.is_out_of_memory(error)):
                    raise self._explained(error, given, rows) from error
            self._cut(rows, shapes)
        pieces, most = [], self._most[shapes]  # which another thread, or a piece, may make smaller meanwhile
        for start in range(0, rows, most):
            pieces.append(self.run({name: array[start : start + most] for name, array in given.items()}, outputs))
        return [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]

    def _can_be_cut(self, rows: int) -> bool:
        """Tell whether a smaller batch is another try: where the network takes any number of rows."""
        return rows > 1 and all(shape and not isinstance(shape[0], int) for _, shape in self.inputs.values())

    def _cut(self, rows: int, shapes: tuple[tuple[int, ...], ...]) -> None:
        with self._lock:  # two threads may have met the limit with the same batch
            half = max(1, rows // 2)
            if self._most.get(shapes, rows) > half:
                self._most[shapes] = half
                log.warning(
                    "the memory of %s does not hold a batch of %d: it goes in parts of %d", self.device, rows, half
                )

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
        """Run with inputs and outputs bound to the device: this thread copies them while another one's batch computes.

        The copies are made of pageable memory: onnxruntime's Python interface puts no array of NumPy's into pinned memory, and to copy a
        batch there first would take as long as the driver's own way through its pinned buffers.
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
        """Say what an error of ONNX Runtime's means: the device, or what the network was given."""
        where = str(self.device) if self.device.kind == "cuda" else None
        found = device_errors.explained(error, where=where)
        if found is not None:
            return found
        shapes = ", ".join(f"{'x'.join(map(str, array.shape))} {array.dtype}" for array in given.values())
        return RunError(f"{self.name} does not take {shapes}", device_errors.reason(error))


def try_gpu() -> None:
    """Find out whether ONNX Runtime computes on the first GPU, with the smallest network.

    Raises:
        DeviceError: It does not.
    """
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
) -> Any:  # noqa: ANN401 - onnxruntime ships no types
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    # Threads that spin while they wait would take the cores from the threads that decode the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads or usable_cores()
    if needs.memory:
        bounds.cap_memory(options)
    providers: list[Any] = [_CPU]
    shortened = False
    if device.kind == "cuda":
        _check_driver()
        _preload()
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
                raise half_precision.refused(name, reason) from error
            raise found or DeviceError(f"{name} does not run on {device}: {reason}") from error
        raise FormatError(f"{name}: ONNX Runtime cannot run it: {_refused(error, content)}") from error
    if device.kind == "cuda":
        check_placement(session, device, name)
    return session


def _refused(error: Exception, content: bytes) -> str:
    """Say which node of a network ONNX Runtime refuses, and why; the graph names what its text leaves out."""
    try:
        nodes = ModelProto.FromString(content).graph.node
    except Exception:  # protobuf's DecodeError: its class depends on which protobuf is installed
        nodes = ()
    return onnx_errors.read(error, nodes).text


def _check_driver() -> None:
    """Compare the driver with what ONNX Runtime was built for, which would say it in its own way, or compute on the CPU."""
    library = f"{onnxruntime.package_name or 'onnxruntime'} {onnxruntime.__version__}"
    if _CUDA not in onnxruntime.get_available_providers():
        raise DeviceError(f"{library} has no code for GPUs; install onnxruntime-gpu in its place (README, GPUs)")
    if (found := devices.driver_too_old(library, onnxruntime.cuda_version)) is not None:
        raise DeviceError(found)


def _preload() -> None:
    """Load the CUDA libraries from the folders of the nvidia packages, where pip put them.

    torch's own copies serve if torch was imported before. What is missing is printed, which is not for stdout; the proof of placement
    finds it.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        onnxruntime.preload_dlls(directory="")
    for line in printed.getvalue().splitlines():
        log.debug("%s", line)


def cuda_options(index: int, precision: Precision) -> dict[str, str]:
    """Give the CUDA provider's options.

    float32 means float32: without TF32, whose ten bits of mantissa would break the promise that every device gives the same
    probabilities to 1e-4, and in NCHW, since NHWC has kernels that take TF32 unasked (microsoft/onnxruntime#21752). What is allowed to
    use tensor cores is laid out for them. float16 needs `use_tf32` as well: the same switch turns tensor cores on for it.
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
    """Ask the session which provider holds which nodes; listing CUDA among the providers proves nothing.

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
    log.info("%s holds %d of %d nodes", device, held[_CUDA], held.total())
