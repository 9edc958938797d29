"""Speed of networks in int8 and float32 on the CPU: `python benchmarks/int8.py [MODEL.pt SOURCE [ROUNDS]]`.

Two networks in ONNX Runtime, batch 32, 224 pixels: MobileNetV2 and ResNet50 with random weights, quantized by what cnn-export --int8
calls, with ranges of random images. With MODEL and SOURCE (labelled, with splits train and val), cnn-export --int8 runs first, and
prints accuracy, and the third network is its result.

float32 and int8 alternate, so that a busy machine slows both alike. Seconds of CPU time count, too: they hardly depend on other programs.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from cnnkit.engine import onnx_backbone
from cnnkit.engine.config import BackboneSpec
from cnnkit.engine.quantize import Quantizer
from cnnkit.engine.session import Session

BATCH = 32


def seconds(contents: dict[str, bytes], *, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds, and the CPU seconds, of each round of each network."""
    sessions = {name: Session(content, device="cpu") for name, content in contents.items()}
    batch = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3), dtype=np.uint8)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contents}
    for number in range(rounds + 1):
        for name, session in sessions.items():
            before, started = time.process_time(), time.perf_counter()
            session.run({"images": batch})
            if number:  # the first round allocates memory
                taken[name].append((time.perf_counter() - started, time.process_time() - before))
    return taken


def quantized(backbone: str) -> dict[str, bytes]:
    """Return a network with random weights in both precisions."""
    content = onnx_backbone.get(BackboneSpec(backbone=backbone, weights="none")).content
    quantizer = Quantizer(content, name=backbone)
    images = np.random.default_rng(1).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    quantizer.calibrate([images])
    return {"float32": content, "int8": quantizer.quantized().SerializeToString()}


def exported(model: str, source: str) -> dict[str, bytes]:
    """Run cnn-export without and with --int8, and return both networks."""
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, words in (("float32", []), ("int8", ["--int8", "--calibrate", source])):
            output = Path(folder, f"{name}.onnx")
            command = [sys.executable, "-m", "cnnkit_tools.cnn_export", model, "-o", str(output), "--device", "cpu"]
            done = subprocess.run([*command, *words], stdout=subprocess.PIPE, check=True, text=True)
            made[name] = output.read_bytes()
    print(done.stdout)
    return made


def main() -> None:
    """Print the median and the least milliseconds for an image, the least CPU milliseconds, and the ratios of float32 to int8."""
    model, source, rounds = (*sys.argv[1:], *["", "", "10"][len(sys.argv) - 1 :])
    networks = {model: exported(model, source)} if model else {}
    networks |= {name: quantized(name) for name in ("mobilenet_v2", "resnet50")}
    print(f"{'network':<16}  precision  median ms  min ms  min CPU ms  ratio of: median   min   CPU")
    for name, contents in networks.items():
        taken = seconds(contents, rounds=int(rounds))
        found = {
            precision: [
                1000 / BATCH * value
                for value in (median(a for a, _ in times), min(a for a, _ in times), min(b for _, b in times))
            ]
            for precision, times in taken.items()
        }
        for precision, row in found.items():
            ratios = [slow / fast for slow, fast in zip(found["float32"], row, strict=True)]
            print(
                f"{Path(name).name:<16}  {precision:<9}  {row[0]:9.2f}  {row[1]:6.2f}  {row[2]:10.2f}",
                f"           {ratios[0]:5.2f} {ratios[1]:5.2f} {ratios[2]:5.2f}",
            )


if __name__ == "__main__":
    main()
