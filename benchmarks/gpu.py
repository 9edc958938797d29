"""Images per second of cnn-extract on a GPU, by --precision: `python benchmarks/gpu.py [DEVICE [IMAGES [BACKBONE...]]]`.

The images are coarse and fine noise, 500 x 375 pixels, as JPEG files. `decode`, `network` and `reached` are those of
`cnn-extract --bench`: decoding, the network, both together. Weights are random. On a CPU only float32 is measured.
"""

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from cnnkit.choices import Precision

COMMAND = Path(sys.executable).with_name("cnn-extract")


def draw(path: Path, seed: int) -> None:
    """Write an image of coarse and fine noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (500, 375), Image.Resampling.BICUBIC
    )
    fine = np.asarray(coarse).astype(np.int16) + random.integers(-12, 13, (375, 500, 1), dtype=np.int16)
    Image.fromarray(np.clip(fine, 0, 255).astype(np.uint8)).save(path, quality=88)


def measure(folder: Path, backbone: str, device: str, precision: Precision) -> dict[str, float]:
    """Run cnn-extract --bench and return its record."""
    words = ["--backbone", backbone, "--weights", "none", "--device", device, "--precision", precision.value]
    done = subprocess.run([COMMAND, folder, "--bench", "--json", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip())
    record: dict[str, float] = json.loads(done.stdout)
    return record


def main(device: str = "cuda", images: str = "2048", *backbones: str) -> None:
    """Write images, measure, print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "noise")
        folder.mkdir()
        with ThreadPoolExecutor() as pool:
            list(pool.map(draw, [folder / f"{index:05d}.jpg" for index in range(int(images))], range(int(images))))
        print("backbone\tprecision\tdecode\tnetwork\treached")
        for backbone in backbones or ("mobilenet_v2", "resnet50"):
            for precision in Precision if device.startswith("cuda") else [Precision.FLOAT32]:
                found = measure(folder, backbone, device, precision)
                print(
                    backbone,
                    precision.value,
                    *(round(found[each]) for each in ("decode", "network", "reached")),
                    sep="\t",
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
