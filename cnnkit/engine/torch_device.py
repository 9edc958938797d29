"""torch's device and precision, splitting of batches that do not fit in memory, deterministic algorithms, and threads.

The GPU code is written from the documentation and tested with stand-ins; it has not yet run on a GPU.
"""

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit import messages
from cnnkit.choices import Precision
from cnnkit.data.reader import usable_cores
from cnnkit.engine import device as devices
from cnnkit.engine import device_errors
from cnnkit.engine.device import Device
from cnnkit.engine.rows import ROWS_OF_A_CORE
from cnnkit.errors import CnnkitError, DeviceError
from cnnkit.nets.build import WEIGHTED
from cnnkit.nets.layer_modules import LocallyConnected2d

log = logging.getLogger("cnnkit")


def choose(device: Device) -> torch.device:
    """Convert `--device` to a torch device; the choice of `auto` is logged.

    Raises:
        DeviceError: torch cannot use that GPU.
    """
    if device.kind == "cpu":
        return torch.device("cpu")
    count = gpu_count()
    wanted = torch.device("cuda", device.index)
    reason = _unusable(wanted, count)
    if device.kind == "auto":
        if reason is not None and devices.gpus():  # there is one, so say why it is not used
            log.warning("%s; running on the CPU", reason, extra=messages.WAITS_FOR_WORK)
        log.info("running on %s", "the CPU" if reason else "the GPU, cuda:0", extra=messages.WAITS_FOR_WORK)
        return torch.device("cpu") if reason else wanted
    if reason is not None:
        raise DeviceError(f"--device {device.typed or device}: {reason}; use cpu or auto")
    return wanted


def gpu_count() -> int:
    """Count the GPUs that torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _unusable(device: torch.device, count: int) -> str | None:
    """Return why torch cannot use a GPU; None if it can."""
    if torch.version.cuda is None:
        return "torch is installed without CUDA"
    if (found := devices.driver_too_old(f"torch {torch.__version__}", torch.version.cuda)) is not None:
        return found
    if not count:
        return "torch sees no GPU"
    if device.index >= count:
        return f"torch sees {count} GPU{'s' if count > 1 else ''}, counted from 0"
    return _too_old(device)


def _too_old(device: torch.device) -> str | None:
    """Return a message if torch has no code for a GPU this old, on which the first kernel would fail; None otherwise."""
    built = [int(number) for name in torch.cuda.get_arch_list() for number in re.findall(r"_(\d+)", name)]
    major, minor = torch.cuda.get_device_capability(device)
    if not built or 10 * major + minor >= min(built):
        return None
    return (
        f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, and torch {torch.__version__} is built for "
        f"{min(built) // 10}.{min(built) % 10} and later (docs/gpu.md)"
    )


@contextlib.contextmanager
def multiplying_in(precision: Precision, device: torch.device) -> Generator[None]:
    """Set the precision of multiplications on a GPU; float32 is strict, without TF32, as in ONNX Runtime."""
    if device.type != "cuda":
        yield
        return
    shorter = precision is not Precision.FLOAT32
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = shorter
    half = precision is Precision.FLOAT16
    try:
        with (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=shorter),
            torch.autocast("cuda", torch.float16, enabled=half),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def in_parts(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function that halves a batch, repeatedly, as long as it does not fit in memory."""
    return functools.partial(_in_parts, network)


def _in_parts(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    try:
        return network(images)
    except Exception as error:  # full memory raises several kinds
        if len(images) == 1 or not device_errors.is_out_of_memory(error):
            raise
    # Outside the except clause, since the error's traceback keeps the tensors of the failed attempt
    release_memory()
    return torch.cat([_in_parts(network, half) for half in images.tensor_split(2)])


@contextlib.contextmanager
def on_all_cores(network: Callable[..., tuple[Tensor, ...]]) -> Generator[Callable[..., tuple[Tensor, ...]]]:
    """Run a network on the CPU in parts of a few rows, each on one core; torch's number of threads is restored.

    Args:
        network: In eval mode: rows do not depend on each other. Several inputs have as many rows.

    Yields:
        The same function, computed in inference mode. Its results do not depend on the number of cores.
    """

    def part(rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.inference_mode():  # a setting of the thread
            return network(*rows)

    def parts(inputs: tuple[Tensor, ...]) -> Iterable[tuple[Tensor, ...]]:
        return zip(*(torch.split(each, ROWS_OF_A_CORE) for each in inputs), strict=True)

    workers = usable_cores()
    with threads(1), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield lambda *inputs: tuple(map(torch.cat, zip(*pool.map(part, parts(inputs)), strict=True)))


def release_memory() -> None:
    """Free the GPU memory that torch caches, also after a failed call."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # torch ships it untyped
        torch.cuda.empty_cache()


def upload(values: Tensor | Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy values to a device without waiting for it: a GPU copies asynchronously from pinned memory."""
    tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype)
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_cuda else tensor.pin_memory()).to(device, non_blocking=True)


# torch's error for an operation without a deterministic algorithm on a GPU.
_NO_SAME_BYTES = re.compile(r"(\w+) does not have a deterministic implementation")


@contextlib.contextmanager
def algorithms(*, deterministic: bool) -> Generator[None]:
    """Let cuDNN search for the fastest algorithms, or require deterministic ones; previous settings are restored.

    cuBLAS reads its environment variable when CUDA starts, so this must come before the first tensor goes to a GPU.

    Raises:
        CnnkitError: A layer or an augmentation has no deterministic algorithm.
    """
    if not deterministic:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            yield
        return
    variable = "CUBLAS_WORKSPACE_CONFIG"
    known = os.environ.get(variable)
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined] # a property of the module
    os.environ.setdefault(variable, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # an attribute, as documented
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            yield
    except Exception as error:
        if (found := _NO_SAME_BYTES.search(str(error))) is None:
            raise
        raise CnnkitError(
            f"--deterministic: torch has no deterministic algorithm for {found[1]}; drop it, or use other layers"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined] # as above
        if known is None:
            del os.environ[variable]


# Multiplications per step above which several cores are faster than one. With fewer, they mostly wait for one another: on a busy machine,
# ten times as long as they work.
_WORTH_SHARING = 50_000_000


def threads_for(module: nn.Module, inputs: Tensor) -> int | None:
    """Return how many cores a training step should use, as the argument of `threads`: one if the step is too small to share.

    Args:
        module: The trained module; it runs once, on one row.
        inputs: A batch, (N, ...).
    """
    if inputs.device.type != "cpu":
        return None
    return 1 if len(inputs) * multiplications(module, inputs[:1]) < _WORTH_SHARING else None


def multiplications(module: nn.Module, inputs: Tensor) -> int:
    """Count the multiplications of convolutions and dense layers in a forward pass, as cnn-dims does."""
    counted = 0

    def count(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal counted
        assert isinstance(layer, WEIGHTED)
        if isinstance(layer, LocallyConnected2d):  # each weight is used once
            counted += len(made) * layer.weight.numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            counted += given[0].numel() * layer.weight[0].numel()
        else:
            counted += made.numel() * layer.weight[0].numel()

    layers = [layer for layer in module.modules() if isinstance(layer, WEIGHTED)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    training = module.training
    try:
        with torch.no_grad():
            module.eval()(inputs)
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return counted


@contextlib.contextmanager
def threads(count: int | None) -> Generator[None]:
    """Let torch use `count` cores, None for the current number; the previous number is restored."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
