"""Write predictions and a manifest for the benchmark: `make_tables.py FOLDER ROWS`.

There are 10 classes. The images of predictions.tsv and truth.tsv do not exist, as cnn-eval opens none. cnn-split --no-verify opens none
either, but leaves out those that are missing, so that manifest.tsv has files.
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

CLASSES = [f"class{number}" for number in range(10)]
IN_FOLDER = 1000
SPLITS = ("train", "train", "train", "val", "test")


def main(folder: Path, rows: int) -> None:
    """Write predictions.tsv, the most probable class of each image; truth.tsv, a manifest of them; and manifest.tsv, of others."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    truth = rng.integers(len(CLASSES), size=rows)
    logits = rng.normal(size=(rows, len(CLASSES)))
    logits[np.arange(rows), truth] += 2
    powers = np.exp(logits)
    probabilities = powers / powers.sum(axis=1, keepdims=True)  # (rows, classes)
    best, highest = probabilities.argmax(axis=1), probabilities.max(axis=1)
    paths = [f"photos/{CLASSES[label]}/img_{number:07d}.jpg" for number, label in enumerate(truth)]
    _save(
        folder / "truth.tsv",
        "path\tlabel\tsplit\tgroup",
        (
            f"{path}\t{CLASSES[label]}\t{SPLITS[number % 5]}\tg{number // 3}"
            for number, (path, label) in enumerate(zip(paths, truth, strict=True))
        ),
    )
    _save(
        folder / "manifest.tsv",
        "path\tlabel\tgroup\tsha256",
        (
            f"{path}\t{CLASSES[label]}\tg{number // 3}\t{hashlib.sha256(path.encode()).hexdigest()}"
            for number, (path, label) in enumerate(zip(_files(folder, rows), truth, strict=True))
        ),
    )
    _save(
        folder / "predictions.tsv",
        "path\trank\tlabel\tprobability",
        (
            f"{path}\t1\t{CLASSES[label]}\t{value:.6g}"
            for path, label, value in zip(paths, best, highest.tolist(), strict=True)
        ),
    )


def _files(folder: Path, count: int) -> Iterator[str]:
    """Write files that are links to the first of their folder, and yield their paths."""
    for number in range(count):
        inside, place = divmod(number, IN_FOLDER)
        path = f"files/{inside:04d}/{place:04d}.jpg"
        first = folder / f"files/{inside:04d}/0000.jpg"
        if place:
            os.link(first, folder / path)
        else:
            first.parent.mkdir(parents=True)
            first.write_text("not an image", encoding="utf-8")
        yield path


def _save(path: Path, header: str, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{header}\n")
        file.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
