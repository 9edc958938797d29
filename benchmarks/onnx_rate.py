"""Measure a network alone in ONNX Runtime on the CPU: onnx_rate.py MODEL BATCHES. Prints milliseconds, and those of the CPU, per image."""

import sys
import time
from pathlib import Path

import numpy as np

from cnnkit.engine.session import Session

BATCH = 32


def main(model: Path, batches: int) -> None:
    """Run batches of 32 random images; the first one does not count."""
    session = Session(model.read_bytes(), device="cpu")
    batch = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3), dtype=np.uint8)
    session.run({"images": batch})  # allocates memory
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(batches):
        session.run({"images": batch})
    spent = time.perf_counter() - wall, time.process_time() - cpu
    print(*(1000 * seconds / BATCH / batches for seconds in spent))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
