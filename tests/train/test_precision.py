"""Which numbers a training computes in, on which device."""

import pytest
import torch

from cnnkit.choices import Amp
from cnnkit.errors import UsageError
from cnnkit.train import loop

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("has", [True, False])
def test_auto_takes_bf16_where_the_hardware_computes_in_it(monkeypatch, has):
    """Else float32 on a processor, and float16 on a GPU."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    asked = []
    capability = {True: (8, 0), False: (7, 5)}[has]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    assert loop.choose_precision(Amp.AUTO, CPU).dtype is (torch.bfloat16 if has else None)
    second = torch.device("cuda", 1)
    assert loop.choose_precision(Amp.AUTO, second).dtype is (torch.bfloat16 if has else torch.float16)
    assert asked == [second]  # the device that was chosen, not the first one


def test_what_is_asked_for_is_taken():
    """float16 is scaled, the others are not; a processor has no use for it."""
    assert loop.choose_precision(Amp.OFF, GPU).dtype is None
    for device in (CPU, GPU):
        assert loop.choose_precision(Amp.BF16, device).dtype is torch.bfloat16
    assert loop.choose_precision(Amp.FP16, GPU).dtype is torch.float16
    with pytest.raises(UsageError, match=r"^--amp fp16 is for GPUs; "):
        loop.choose_precision(Amp.FP16, CPU)
    assert not loop.choose_precision(Amp.BF16, CPU).scaler().is_enabled()


def test_layers_compute_in_the_shorter_numbers_and_weights_stay():
    """Under autocast a dense layer outputs in bf16, or in float32 where nothing is cast."""
    layer = torch.nn.Linear(4, 4)
    for amp, dtype in ((Amp.BF16, torch.bfloat16), (Amp.OFF, torch.float32)):
        with loop.choose_precision(amp, CPU).autocast():
            assert layer(torch.ones(1, 4)).dtype is dtype
    assert layer.weight.dtype is torch.float32
