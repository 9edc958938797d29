#!/usr/bin/env python3
"""Paste handwritten digits at random places and in random sizes on a grey canvas, and list them with their boxes.

usage: paste_digits.py IMAGES.gz LABELS.gz FOLDER [COUNT] [SIDE]

IMAGES and LABELS are MNIST's idx files. FOLDER gets COUNT images of SIDE x SIDE pixels (by default 5000, 40), one digit in each, and
boxes.tsv: path, label, split (of ten images: eight train, one val, one test) and box, x,y,width,height in pixels.
"""

import csv
import gzip
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SEED = 0
SMALLEST, LARGEST = 0.4, 0.8  # side of the digit's frame, as a share of the canvas
CLUTTER = 6  # short strokes, so that not every bright pixel is the digit's


def read_idx(path: str) -> np.ndarray:
    """Read an idx file: two zeros, the type (8 is uint8), the number of axes, their lengths as big-endian int32, the values."""
    with gzip.open(path) as file:
        content = file.read()
    axes = content[3]
    shape = np.frombuffer(content, ">i4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def pasted(digit: np.ndarray, side: int, random: np.random.Generator) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Return a canvas with the digit, and the box around its visible pixels."""
    size = int(random.integers(round(SMALLEST * side), round(LARGEST * side) + 1))
    small = np.asarray(Image.fromarray(digit).resize((size, size), Image.Resampling.BILINEAR))
    x, y = (int(place) for place in random.integers(0, side - size + 1, 2))
    canvas = random.integers(0, 64, (side, side), dtype=np.uint8)  # noise
    for _ in range(CLUTTER):
        left, top = random.integers(0, side - 6, 2)
        across = bool(random.integers(2))
        canvas[top : top + (1 if across else 5), left : left + (5 if across else 1)] = 160
    here = canvas[y : y + size, x : x + size]
    np.maximum(here, small, out=here)
    rows, columns = (np.flatnonzero((small > small.max() / 2).any(axis)) for axis in (1, 0))
    box = x + columns[0], y + rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    return Image.fromarray(canvas), tuple(map(int, box))


def main() -> None:
    if len(sys.argv) < 4 or "--help" in sys.argv:
        sys.exit(__doc__)
    digits, labels, folder = read_idx(sys.argv[1]), read_idx(sys.argv[2]), Path(sys.argv[3])
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 5000
    side = int(sys.argv[5]) if len(sys.argv) > 5 else 40
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(SEED)
    with (folder / "boxes.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["path", "label", "split", "box"])
        for number in range(count):
            image, box = pasted(digits[number % len(digits)], side, random)
            name = f"{number:05d}.png"
            image.save(folder / name)
            split = {8: "val", 9: "test"}.get(number % 10, "train")
            table.writerow([name, labels[number % len(digits)], split, ",".join(map(str, box))])


if __name__ == "__main__":
    main()
