"""Write the 1,797 handwritten digits that come with scikit-learn as PNG files, one folder per class.

    python write_digits.py digits/   ->   digits/0/0000.png  digits/1/0001.png  ...

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def main(folder: Path) -> None:
    """Write every digit as an 8x8 grey image, its 17 levels spread over 0 to 255."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(place / f"{number:04d}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Write scikit-learn's handwritten digits as PNG files, one folder per class."
    )
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
