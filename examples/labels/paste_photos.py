#!/usr/bin/env python3
"""Paste up to three photographs on one image, which then has the labels of all of them: a set of images with several labels.

usage: paste_photos.py FOLDER [COUNT] PHOTOS...

Each of PHOTOS is a folder of class folders, PHOTOS/CLASS/image.jpg. FOLDER gets COUNT images (by default 2000) of 320 x 320 pixels: one
to three photographs, or in one of twenty images none, in the quarters of a plain canvas; one of four images in grey. labels.tsv lists them:
path, and labels, the classes of the photographs and `grey`. Each photograph is used once, so that splits of the images have no
photograph in common.
"""

import random
import sys
from pathlib import Path

from PIL import Image

SEED = 0
SIDE = 160  # of a quarter
CORNERS = ((0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE))


def square(path: Path) -> Image.Image:
    """Read a photograph, and cut the largest square out of its middle."""
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    folder, *words = sys.argv[1:]
    count = int(words.pop(0)) if words[0].isdecimal() else 2000
    photos = sorted(
        path for word in words for path in Path(word).glob("*/*") if path.suffix.lower() in (".jpg", ".png")
    )
    drawn = random.Random(SEED)
    drawn.shuffle(photos)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    lines = ["path\tlabels"]
    for number in range(count):
        pasted = 0 if drawn.random() < 0.05 else drawn.randint(1, 3)
        if pasted > len(photos):
            break
        chosen = [photos.pop() for _ in range(pasted)]
        image = Image.new("RGB", (2 * SIDE, 2 * SIDE), tuple(drawn.randrange(256) for _ in range(3)))
        for path, corner in zip(chosen, drawn.sample(CORNERS, pasted), strict=True):
            image.paste(square(path), corner)
        labels = {path.parent.name for path in chosen}
        if drawn.random() < 0.25:
            image = image.convert("L").convert("RGB")
            labels.add("grey")
        image.save(target / f"{number:04d}.jpg", quality=90)
        lines.append(f"{number:04d}.jpg\t{';'.join(sorted(labels))}")
    (target / "labels.tsv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
