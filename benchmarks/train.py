"""Images per second in training, by number format and memory layout; and the time saved by running the frozen part once.

python benchmarks/train.py                        training steps on random images, two networks, all number formats
python benchmarks/train.py WEIGHTS PHOTOS...      epochs of cnn-finetune, with and without cached features of the frozen part
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import nn

from cnnkit.choices import Amp
from cnnkit.formats import history
from cnnkit.nets import build, notation
from cnnkit.train.loop import TrainStep
from cnnkit.train.mixed_precision import choose_precision
from cnnkit.train.optim import Criterion

# The textbook's network, chapter 5.2
CONVNET = """conv 32 k3 relu, pool 2, conv 64 k3 relu, pool 2, conv 128 k3 relu, pool 2, conv 128 k3 relu, pool 2,
flatten, dense 512 relu, dense 2"""
COMMAND = Path(sys.executable).with_name("cnn-finetune")
SECONDS = 5


def rate(module: nn.Module, *, size: int, batch: int, amp: Amp, channels_last: bool, device: torch.device) -> float:
    """Measure training steps on one batch of random images, in images per second."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = module.to(device).to(memory_format=layout)
    inputs = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=layout)
    targets = torch.arange(batch, device=device) % 2
    step = TrainStep(
        module, Criterion(), torch.optim.Adam(module.parameters()), precision=choose_precision(amp, device)
    )
    for _ in range(3):  # these warm up
        step(inputs, targets)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        for _ in range(5):
            step(inputs, targets)
        count += 5 * batch
    return count / (time.perf_counter() - started)


def steps() -> None:
    """Print one row per network, number format and memory layout."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks: dict[str, tuple[Callable[[], nn.Module], int]] = {
        "convnet, 150": (lambda: build.build(notation.parse(CONVNET), channels=3, height=150, width=150), 150),
        "mobilenet_v2, 224": (lambda: torchvision.models.mobilenet_v2(num_classes=2), 224),
    }
    print("network", "amp", "layout", "per_second", sep="\t")
    for name, (make, size) in networks.items():
        for amp in (Amp.OFF, Amp.BF16):
            for channels_last in (False, True):
                found = rate(make(), size=size, batch=32, amp=amp, channels_last=channels_last, device=device)
                print(name, amp.value, "NHWC" if channels_last else "NCHW", f"{found:.1f}", sep="\t", flush=True)


def cached(weights: str, photos: list[str]) -> None:
    """Print the seconds of the first and the later epochs, and the total, with and without cached features of the frozen part."""
    backbone = ["--backbone", "mobilenet_v2", "--weights", weights, "--warmup-head", "1", "--unfreeze", "features.16"]
    print("views", "first_epoch", "later_epochs", "total", sep="\t")
    with tempfile.TemporaryDirectory() as folder:
        # The first run also exports the frozen part, which is cached for the others
        for views in ("1", "0", "1"):
            model = Path(folder, f"views{views}.pt")
            words = [*backbone, "--epochs", "5", "--views", views, "--json", "-q"]
            done = subprocess.run(
                [COMMAND, *photos, "-o", model, *words], check=True, stdout=subprocess.PIPE, text=True
            )
            _, first, *later = [row.seconds or 0.0 for row in history.read(model.with_suffix(".csv"))]
            everything = json.loads(done.stdout.splitlines()[-1])["seconds"]
            mean = sum(later) / len(later)
            print(views, f"{first:.2f}", f"{mean:.2f}", f"{everything:.1f}", sep="\t", flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        cached(sys.argv[1], sys.argv[2:])
    else:
        steps()
