"""Write 5 augmented copies of each image with torchvision, in a process per core: torchvision_augment.py FOLDER OUTPUT."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image
from torchvision import transforms

change = transforms.Compose(
    [
        transforms.RandomAffine(
            40, (0.2, 0.2), (0.8, 1.2), shear=11, interpolation=transforms.InterpolationMode.BILINEAR
        ),
        transforms.RandomHorizontalFlip(),
    ]
)


def augment(path: Path) -> None:
    """Write the copies of an image."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    for number in range(5):
        change(image).save(f"{sys.argv[2]}/{path.stem}~{number}.jpg", quality=95)


if __name__ == "__main__":
    os.makedirs(sys.argv[2])
    with ProcessPoolExecutor() as pool:
        list(pool.map(augment, sorted(Path(sys.argv[1]).glob("*/*")), chunksize=8))
