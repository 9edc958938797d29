"""Phone photographs decoded completely and at a reduced size: `python benchmarks/photos.py FOLDER WEIGHTS [IMAGES [ROUNDS]]`.

FOLDER contains FOLDER/CLASS/image.jpg, enlarged here to 12 megapixels with some grain and saved as a phone does (JPEG, quality 90, every
second one turned by its EXIF data); WEIGHTS is a state_dict of MobileNetV2. The two ways alternate in cnn-extract and in cnn-predict, on
the CPU; starting is not counted. Then: how far the values of the images and the predicted probabilities differ.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from cnnkit.choices import Decoding
from cnnkit.data import preprocessing
from cnnkit.formats import onnx_model
from cnnkit.formats.header import Preprocess

WIDE, HIGH = 4032, 3024
WAYS = (Decoding.FULL, Decoding.SCALED)


def enlarge(source: Path, target: Path, *, turned: bool, seed: int) -> None:
    """Write a photograph as a phone would have taken it."""
    with Image.open(source) as opened:
        small = opened.convert("RGB")
    image = small.resize((WIDE, HIGH), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(seed).normal(0, 2, (HIGH, WIDE, 1))
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8)).save(target, quality=90, exif=exif)


def run(command: str, *words: object) -> str:
    """Run a command, and return what it prints."""
    line = [sys.executable, "-m", f"cnnkit_tools.{command}", *map(str, words)]
    return subprocess.run(line, stdout=subprocess.PIPE, check=True, text=True).stdout


def predictions(model: Path, images: Path) -> tuple[float, dict[tuple[str, str], float]]:
    """Return images per second of cnn-predict, without its start, and the probability of each image and class."""
    one = next(images.glob("*/*.jpg"))
    started = time.perf_counter()
    run("cnn_predict", "-m", model, one, "--device", "cpu", "--quiet")
    middle = time.perf_counter()
    rows = run("cnn_predict", "-m", model, images, "--top", "all", "--device", "cpu", "--quiet", "--json").splitlines()
    seconds = time.perf_counter() - middle - (middle - started)
    found = [json.loads(row) for row in rows]
    count = len({row["path"] for row in found})
    return (count - 1) / seconds, {(row["path"], row["label"]): row["probability"] for row in found}


def main() -> None:
    """Print a table of rates, and the differences."""
    folder, weights, images, rounds = (*sys.argv[1:], *["", "", "60", "3"][len(sys.argv) - 1 :])
    found = sorted(Path(folder).glob("*/*.jpg"))
    if not found or not weights:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as made:
        photos = Path(made, "photos")
        for number, path in enumerate(found[:: max(1, len(found) // int(images))][: int(images)]):
            enlarge(path, photos / path.parent.name / path.name, turned=number % 2 == 1, seed=number)
        paths = sorted(photos.glob("*/*.jpg"))
        size = sum(path.stat().st_size for path in paths) / len(paths) / 1e6
        print(f"{len(paths)} photographs of {WIDE} x {HIGH} pixels, {size:.1f} MB each: images per second")
        rates: dict[tuple[str, Decoding], list[float]] = {}
        models = {way: Path(made, f"{way}.onnx") for way in WAYS}
        probabilities = {}
        for number in range(int(rounds)):
            for way in WAYS:
                output = Path(made, f"{way}.npy")
                words = ["--weights", weights, "--device", "cpu", "--decoding", way, "--json", "--quiet", "-o", output]
                done = json.loads(run("cnn_extract", photos, *words))
                rates.setdefault(("cnn-extract", way), []).append(float(done["per_second"]))
            if not number:
                run("cnn_train_head", output, "-o", Path(made, "head.pt"), "--solver", "lbfgs", "--quiet")
                run("cnn_export", Path(made, "head.pt"), "-o", models[WAYS[-1]], "--quiet")
                write_other_way(models)
            for way, model in models.items():
                rate, probabilities[way] = predictions(model, photos)
                rates.setdefault(("cnn-predict", way), []).append(rate)
        print(f"{'command':<12}  {'decoding':<8}  {'median':>7}  {'minimum':>7}  {'maximum':>7}  ratio")
        for (command, way), seen in rates.items():
            ratio = median(seen) / median(rates[command, Decoding.FULL])
            print(f"{command:<12}  {way:<8}  {median(seen):7.1f}  {min(seen):7.1f}  {max(seen):7.1f}  {ratio:5.2f}")
        pixels = {
            way: [preprocessing.load(path, Preprocess(decoding=way)).astype(int) for path in paths] for way in WAYS
        }
        values = np.abs(np.stack(pixels[WAYS[0]]) - np.stack(pixels[WAYS[1]]))
        print(f"values of 0 to 255 differ by {values.mean():.2f} on average, {values.max()} at most")
        one, other = (probabilities[way] for way in WAYS)
        print(f"probabilities differ by at most {max(abs(one[key] - other[key]) for key in one):.4f}")


def write_other_way(models: dict[Decoding, Path]) -> None:
    """Write the same network with a header that says that images are decoded completely."""
    model = onnx_model.load(models[Decoding.SCALED])
    assert model.header is not None
    assert model.header.preprocess is not None
    header = model.header.but(preprocess=replace(model.header.preprocess, decoding=Decoding.FULL))
    proto = onnx_model.parse(model.content, name="scaled.onnx")
    onnx_model.save(models[Decoding.FULL], onnx_model.finished(proto, header))


if __name__ == "__main__":
    main()
