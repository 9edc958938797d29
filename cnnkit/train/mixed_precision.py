"""The type that a training computes in, and the layers that compute in float32 nevertheless."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cnnkit.choices import Amp
from cnnkit.errors import UsageError

#: Of torch.conv2d: images, weight, bias, stride, padding, dilation, groups.
_CONV2D_ARGUMENTS = 7

#: The largest block of input channels of oneDNN's convolutions, of processors with AVX-512; with AVX2 it is 8.
_BLOCK = 16


@dataclass(frozen=True, slots=True)
class Precision:
    """The type that autocast computes in; None for float32.

    The frozen part and the validation use it on a GPU; on a CPU they use float32, as the exported network does.
    """

    device: torch.device
    dtype: torch.dtype | None = None

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute convolutions and dense layers in the shorter type, where it is faster, and without oneDNN's faults."""
        with contextlib.ExitStack() as stack:
            if self.device.type == "cpu":
                stack.enter_context(_StridedPointwiseOfPixels())
            if self.dtype is not None:
                stack.enter_context(torch.autocast(self.device.type, self.dtype))
                if self.device.type == "cpu":
                    stack.enter_context(_StridedDepthwiseInFloat32())
            yield

    @contextlib.contextmanager
    def untrained(self) -> Iterator[None]:
        """For parts that are not trained: compute in the shorter type on a GPU, else strictly in float32, without TF32."""
        if self.dtype is not None and self.device.type == "cuda":
            with self.autocast():
                yield
        else:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                yield

    def scaler(self) -> torch.amp.GradScaler:
        """Make the scaler that keeps float16's gradients from becoming zero; with other types it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)


def choose_precision(amp: Amp, device: torch.device) -> Precision:
    """Resolve `--amp`; `auto` is bf16 if the hardware computes in it, else float16 on a GPU and float32 on a CPU.

    Raises:
        UsageError: float16 on a CPU, where it is not faster.
    """
    match amp:
        case Amp.OFF:
            return Precision(device)
        case Amp.BF16:
            return Precision(device, torch.bfloat16)
        case Amp.FP16:
            if device.type != "cuda":
                raise UsageError("--amp fp16 needs a GPU; on a CPU use --amp bf16 or off")
            return Precision(device, torch.float16)
        case Amp.AUTO if device.type == "cuda":
            return Precision(device, torch.bfloat16 if _gpu_has_bf16(device) else torch.float16)
        case Amp.AUTO:
            return Precision(device, torch.bfloat16 if _processor_has_bf16() else None)


def _gpu_has_bf16(device: torch.device) -> bool:
    """Check whether a GPU, not necessarily the first one, has tensor cores for bf16."""
    if torch.version.hip is not None:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cuda.get_device_capability(device) >= (8, 0))


def _processor_has_bf16() -> bool:
    """Check whether the CPU multiplies in bf16; emulation would be slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # no public names yet


class _OfConv2d(TorchFunctionMode):
    """Compute the convolutions of nn.Conv2d with `conv2d`, and everything else as torch does."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what torch's functions return
        if func is not torch.conv2d or kwargs or len(args) != _CONV2D_ARGUMENTS:  # as nn.Conv2d calls it
            return func(*args, **(kwargs or {}))
        return self.conv2d(*args)

    def conv2d(self, images: Tensor, weight: Tensor, *others: Any) -> Tensor:  # noqa: ANN401 - numbers and a tensor
        """Compute what torch.conv2d does; `others` are bias, stride, padding, dilation and groups."""
        raise NotImplementedError


class _StridedPointwiseOfPixels(_OfConv2d):
    """Compute 1x1 convolutions with strides and few input channels as those without strides of every s-th pixel, which are equal.

    For the gradient of their weights, oneDNN copies these pixels to a workspace that is too small if a block has more channels than the
    image: the process crashes, or the gradient is wrong (github.com/uxlfoundation/oneDNN/issues/6035; seen in torch 2.14 on AVX2).
    """

    def conv2d(self, images: Tensor, weight: Tensor, *others: Any) -> Tensor:  # noqa: ANN401 - as above
        """Compute what torch.conv2d does."""
        bias, stride, padding, dilation, groups = others
        down, across = (stride, stride) if isinstance(stride, int) else stride
        strided = max(down, across) > 1 and tuple(weight.shape[2:]) == (1, 1)
        if not strided or weight.shape[1] >= _BLOCK or groups > 1 or padding not in (0, (0, 0), "valid"):
            return torch.conv2d(images, weight, *others)
        pixels = images[..., ::down, ::across]  # (N, C, H, W) -> (N, C, ceil(H / down), ceil(W / across))
        return torch.conv2d(pixels, weight, bias, 1, padding, dilation, groups)


class _StridedDepthwiseInFloat32(_OfConv2d):
    """Compute depthwise convolutions with strides in float32 under the CPU's autocast; their outputs stay in the shorter type.

    For the gradient of their inputs in bf16, oneDNN has only its reference kernel, which takes over ten times as long as float32.
    """

    def conv2d(self, images: Tensor, weight: Tensor, *others: Any) -> Tensor:  # noqa: ANN401 - as above
        """Compute what torch.conv2d does."""
        _, stride, _, _, groups = others
        largest = stride if isinstance(stride, int) else max(stride)
        if groups == 1 or weight.shape[1] > 1 or largest == 1 or not images.requires_grad:
            return torch.conv2d(images, weight, *others)
        with torch.autocast("cpu", enabled=False):
            made = torch.conv2d(images.float(), weight, *others)
        return made.to(torch.get_autocast_dtype("cpu"))
