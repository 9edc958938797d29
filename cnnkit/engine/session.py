"""ONNX Runtime: where a network runs, the proof that it runs there, and how it shares the cores with decoding. No torch."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cnnkit.data.reader import usable_cores
from cnnkit.engine import device as devices
from cnnkit.errors import DeviceError, FormatError

log = logging.getLogger("cnnkit")

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
# What has to be on the GPU for a run to deserve the name; shapes and the like may stay on the CPU.
_HEAVY = frozenset(
    {"Conv", "FusedConv", "Gemm", "FusedMatMul", "MatMul", "ConvTranspose", "Attention", "MultiHeadAttention"}
)


class Session:
    """A network ready to run."""

    def __init__(
        self, content: bytes, *, device: str = "auto", name: str = "the network", threads: int | None = None
    ) -> None:
        """Load a network onto a device.

        Args:
            content: The bytes of an ONNX file, checked by `onnx_model`.
            device: `auto` takes the GPU where one works and says which it took; `cuda` runs on the GPU or fails.
            name: For messages.
            threads: Cores for the network on the CPU; by default all.

        Raises:
            DeviceError: `cuda` was asked for, and ONNX Runtime does not hold the network there.
            FormatError: ONNX Runtime cannot run the network.
            UsageError: No such device.
        """
        self.device = wanted = devices.existing(device)
        if wanted.kind == "auto":
            wanted = devices.Device("cuda" if devices.gpus() else "cpu")
        try:
            self._session = _open(content, wanted, threads=threads, name=name)
        except DeviceError as error:
            if self.device.kind != "auto":
                raise
            log.warning("%s; running on the CPU", error)
            wanted = devices.Device("cpu")
            self._session = _open(content, wanted, threads=threads, name=name)
        if self.device.kind == "auto":
            log.info("running on %s", f"the GPU, {wanted}" if wanted.kind == "cuda" else "the CPU")
        self.device = wanted
        self.inputs = {item.name: (item.type, item.shape) for item in self._session.get_inputs()}
        self.outputs = [item.name for item in self._session.get_outputs()]

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None, *, quiet: bool = False
    ) -> list[NDArray[np.float32]]:
        """Run once; other threads may go on meanwhile, and may run the same session.

        Args:
            inputs: By their names.
            outputs: Which ones; by default all.
            quiet: A failure is expected, and ONNX Runtime is not to write about it on stderr.
        """
        options = None
        if quiet:
            options = onnxruntime.RunOptions()
            options.log_severity_level = 4
        try:
            return self._session.run(outputs, dict(inputs), options)  # type: ignore[no-any-return] # onnxruntime ships no types
        except Exception as error:  # onnxruntime's exceptions share no base class
            if self.device.kind != "cuda":
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DeviceError(f"{self.device}: {reason}; give a smaller --batch, or --device cpu") from error


def _open(content: bytes, device: devices.Device, *, threads: int | None, name: str) -> Any:  # noqa: ANN401 - onnxruntime ships no types
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that spin while they wait would take the cores from the threads that decode the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads or usable_cores()
    providers: list[Any] = [_CPU]
    if device.kind == "cuda":
        # From the folders of the nvidia packages, where pip put them; torch's own copies serve if torch was imported before.
        onnxruntime.preload_dlls(directory="")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.intra_op_num_threads = 1
        providers.insert(0, (_CUDA, _cuda_options(device.index)))
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if device.kind == "cuda":
            raise DeviceError(f"{name} does not run on {device}: {reason}") from error
        raise FormatError(f"{name}: ONNX Runtime cannot run it: {reason}") from error
    if device.kind == "cuda":
        check_placement(session, device, name)
    return session


def _cuda_options(index: int) -> dict[str, str]:
    return {
        "device_id": str(index),
        # EXHAUSTIVE tunes again for every shape; DEFAULT is slow. Batches have one shape, and tuning costs seconds.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "prefer_nhwc": "1",
        "use_tf32": "0",  # ten bits of mantissa would break the promise that every device gives the same probabilities to 1e-4
    }


def check_placement(session: Any, device: devices.Device, name: str) -> None:  # noqa: ANN401 - onnxruntime ships no types
    """Ask the session which provider holds which nodes; listing CUDA among the providers proves nothing.

    Raises:
        DeviceError: A node that computes something is not on the GPU.
    """
    held: Counter[str] = Counter()
    stray: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            held[part.ep_name] += 1
            if part.ep_name != _CUDA and node.op_type in _HEAVY:
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
