"""Images per second of cnn-extract and of two other programs: `python benchmarks/extract.py FOLDER [WEIGHTS [IMAGES [ROUNDS]]]`.

FOLDER contains FOLDER/CLASS/image.jpg; WEIGHTS is a state_dict of MobileNetV2, random by default. All programs average the last map of
MobileNetV2 for the same images, on the CPU; starting and loading are not counted. They alternate, so that a busy machine slows all of
them alike:

- cnn-extract: the rate that it prints, including writing of files;
- plain loop: threads decode a batch, then ONNX Runtime computes it, with the same exported network and its default settings;
- DataLoader: torchvision's ImageFolder and transforms, torch's DataLoader with one worker per core, and torch.

First comes `cnn-extract --bench`: the rates of decoding, of the network and of both, and the share of the possible rate.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image

from cnnkit.engine import onnx_backbone
from cnnkit.engine.config import BackboneSpec
from cnnkit.formats import torch_model

BATCH = 32


def extract(listed: Path, weights: str, output: Path) -> float:
    """Run cnn-extract and return its images per second."""
    words = ["--weights", weights, "--device", "cpu", "--batch", str(BATCH), "--json", "--quiet", "-"]
    return float(_called(listed, [*words, "-o", str(output)])["per_second"])


def bench(listed: Path, weights: str) -> dict[str, float]:
    """Run cnn-extract --bench and return the rates."""
    words = ["--weights", weights, "--device", "cpu", "--batch", str(BATCH), "--json", "--quiet", "-"]
    return _called(listed, [*words, "--bench"])


def _called(listed: Path, words: list[str]) -> dict[str, float]:
    command = [sys.executable, "-m", "cnnkit_tools.cnn_extract", *words]
    with listed.open("rb") as images:
        done = subprocess.run(command, stdin=images, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return] # one object of numbers


def plain_loop(paths: list[str], content: bytes) -> float:
    """Alternate between decoding a batch in threads and computing it."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        session.run(None, {"images": np.zeros((BATCH, 224, 224, 3), np.uint8)})
        started = time.perf_counter()
        rows = []
        for start in range(0, len(paths), BATCH):
            images = np.stack(list(pool.map(_prepared, paths[start : start + BATCH])))
            rows.append(session.run(None, {"images": images})[0])
    return len(np.concatenate(rows)) / (time.perf_counter() - started)


def _prepared(path: str) -> NDArray[np.uint8]:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


def data_loader(folder: str, paths: list[str], weights: str) -> float:
    """Extract as in torchvision's own examples."""
    network = torchvision.models.mobilenet_v2()
    if weights != "none":
        network.load_state_dict(torch_model.load_state(weights))
    network.eval()
    dataset = torchvision.datasets.ImageFolder(
        folder,
        torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms(),
        is_valid_file=set(paths).__contains__,
    )
    loader = torch.utils.data.DataLoader(dataset, BATCH, num_workers=os.cpu_count() or 1)
    with torch.inference_mode():
        network(torch.zeros(BATCH, 3, 224, 224))
        started = time.perf_counter()
        rows = [network.features(images).mean((2, 3)) for images, _ in loader]
    return len(torch.cat(rows)) / (time.perf_counter() - started)


def main() -> None:
    """Print the rates of cnn-extract --bench, then the median rate of each program and how many times slower it is than cnn-extract."""
    folder, weights, images, rounds = (*sys.argv[1:], *["", "none", "1000", "3"][len(sys.argv) - 1 :])
    found = sorted(str(path) for path in Path(folder).glob("*/*.*"))
    if not found:
        sys.exit(__doc__)
    paths = found[:: max(1, len(found) // int(images))][: int(images)]
    content = onnx_backbone.get(BackboneSpec(backbone="mobilenet_v2", weights=weights)).content
    with tempfile.TemporaryDirectory() as made:
        listed = Path(made, "images.txt")
        listed.write_text("\n".join(paths), encoding="utf-8")
        print(f"{len(paths)} images, {os.cpu_count()} cores: images per second")
        print(f"{'decode':>8}  {'network':>8}  {'reached':>8}  {'possible':>8}  share")
        for _ in range(int(rounds)):
            rates = bench(listed, weights)
            print("  ".join(f"{rates[part]:8.1f}" for part in list(rates)[1:5]), f"{rates['share']:6.2f}")
        programs: dict[str, Callable[[], float]] = {
            "cnn-extract": partial(extract, listed, weights, Path(made, "x.npy")),
            "plain loop": partial(plain_loop, paths, content),
            "DataLoader": partial(data_loader, folder, paths, weights),
        }
        seen: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(int(rounds)):
            for name, program in programs.items():
                seen[name].append(program())
    print(f"{'program':<12}  images/s  times slower")
    for name, taken in seen.items():
        print(f"{name:<12}  {median(taken):10.1f}  {median(seen['cnn-extract']) / median(taken):12.2f}")


if __name__ == "__main__":
    main()
