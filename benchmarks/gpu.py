"""Images per second on a GPU, for `make test-gpu`: `python benchmarks/gpu.py [DEVICE [IMAGES [BACKBONE...]]]`.

- cnn-extract by --precision. The images are coarse and fine noise, 500 x 375 pixels, as JPEG files. `decode`, `network` and `reached` are
  those of `cnn-extract --bench`: decoding, the network, both together. Weights are random. On a CPU only float32 is measured.
- Training steps on random images in memory, by --amp and memory layout.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from rows_training import CONVNET
from torch import nn

from cnnkit.choices import Amp, Precision
from cnnkit.nets import build, notation
from cnnkit.train.loop import TrainStep
from cnnkit.train.mixed_precision import choose_precision
from cnnkit.train.optim import Criterion

COMMAND = Path(sys.executable).with_name("cnn-extract")
SECONDS = 5


def draw(path: Path, seed: int) -> None:
    """Write an image of coarse and fine noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (500, 375), Image.Resampling.BICUBIC
    )
    fine = np.asarray(coarse).astype(np.int16) + random.integers(-12, 13, (375, 500, 1), dtype=np.int16)
    Image.fromarray(np.clip(fine, 0, 255).astype(np.uint8)).save(path, quality=88)


def extraction_rates(folder: Path, backbone: str, device: str, precision: Precision) -> dict[str, float]:
    """Run cnn-extract --bench and return its record."""
    words = ["--backbone", backbone, "--weights", "none", "--device", device, "--precision", precision.value]
    done = subprocess.run([COMMAND, folder, "--bench", "--json", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip())
    record: dict[str, float] = json.loads(done.stdout)
    return record


def training_rate(
    module: nn.Module, *, size: int, batch: int, amp: Amp, channels_last: bool, device: torch.device
) -> float:
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


def training(device: torch.device) -> None:
    """Print one row of training steps per network, number format and memory layout."""
    networks: dict[str, tuple[Callable[[], nn.Module], int]] = {
        "convnet, 150": (lambda: build.build(notation.parse(CONVNET), channels=3, height=150, width=150), 150),
        "mobilenet_v2, 224": (lambda: torchvision.models.mobilenet_v2(num_classes=2), 224),
    }
    print("network", "amp", "layout", "per_second", sep="\t")
    for name, (make, size) in networks.items():
        for amp in (Amp.OFF, Amp.BF16):
            for channels_last in (False, True):
                found = training_rate(make(), size=size, batch=32, amp=amp, channels_last=channels_last, device=device)
                print(name, amp.value, "NHWC" if channels_last else "NCHW", f"{found:.1f}", sep="\t", flush=True)


def main(device: str = "cuda", images: str = "2048", *backbones: str) -> None:
    """Write images, measure, print two tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "noise")
        folder.mkdir()
        with ThreadPoolExecutor() as pool:
            list(pool.map(draw, [folder / f"{index:05d}.jpg" for index in range(int(images))], range(int(images))))
        print("backbone\tprecision\tdecode\tnetwork\treached")
        for backbone in backbones or ("mobilenet_v2", "resnet50"):
            for precision in Precision if device.startswith("cuda") else [Precision.FLOAT32]:
                found = extraction_rates(folder, backbone, device, precision)
                print(
                    backbone,
                    precision.value,
                    *(round(found[each]) for each in ("decode", "network", "reached")),
                    sep="\t",
                )
    training(torch.device(device))


if __name__ == "__main__":
    main(*sys.argv[1:])
