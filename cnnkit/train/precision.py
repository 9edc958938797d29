"""In which numbers the steps of a training compute; the weights themselves, and validation, stay float32."""

import contextlib
from dataclasses import dataclass

import torch

from cnnkit.choices import Amp
from cnnkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Precision:
    """What autocast computes in; float32 where there is nothing to cast."""

    device: torch.device
    dtype: torch.dtype | None = None

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Let convolutions and dense layers compute in the shorter numbers."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Make the scaler that keeps float16's gradients from becoming zero; in other numbers it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)


def choose(amp: Amp, device: torch.device) -> Precision:
    """Take what was asked for; `auto` takes bf16 wherever the hardware computes in it, else float16 on a GPU and float32 on a processor.

    Raises:
        UsageError: float16 on a processor, which has no use for it.
    """
    match amp:
        case Amp.OFF:
            return Precision(device)
        case Amp.BF16:
            return Precision(device, torch.bfloat16)
        case Amp.FP16:
            if device.type != "cuda":
                raise UsageError("--amp fp16 is for GPUs; a processor computes in bf16 or not shorter at all")
            return Precision(device, torch.float16)
        case Amp.AUTO if device.type == "cuda":
            whole = torch.cuda.is_bf16_supported(including_emulation=False)
            return Precision(device, torch.bfloat16 if whole else torch.float16)
        case Amp.AUTO:
            return Precision(device, torch.bfloat16 if _processor_has_bf16() else None)


def _processor_has_bf16() -> bool:
    """Tell whether the processor multiplies in bf16: emulated it would be slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # no public names yet
