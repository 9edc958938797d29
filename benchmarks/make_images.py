"""Write images for the benchmark.

make_images.py fields FOLDER COUNT WIDTH HEIGHT   smooth random fields, which JPEG compresses as photographs, in two classes
make_images.py phone FOLDER COUNT SOURCE          photographs of SOURCE/CLASS/ enlarged to 12 megapixels with grain, as a phone saves
                                                  them: JPEG of quality 90, every second one turned by its EXIF data
make_images.py small FOLDER COUNT SOURCE SIZE     JPEG files, SIZE pixels square, from SOURCE/CLASS/, of different content by their ends
                                                  alone
"""

import io
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDE, HIGH = 4032, 3024
T = TypeVar("T")


def write_field(number: int, *, folder: Path, width: int, height: int) -> None:
    """Write an image whose spectrum falls with the frequency, as that of photographs does."""
    rng = np.random.default_rng(number)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    channels = [_field(rng, frequency, (height, width)) for _ in range(2)]
    grey = channels[0] * 45 + rng.normal(0, 2, (height, width))
    label = number % 2
    tint = channels[1] * 12 + (20 if label else -20)
    pixels = np.stack([110 + grey + tint, 110 + grey, 110 + grey - tint], axis=-1)
    path = folder / f"class{label}" / f"{number:05d}.jpg"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def _field(rng: np.random.Generator, frequency: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return a random field with mean 0 and standard deviation 1."""
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=size)) / frequency**1.2, s=size)
    scaled: NDArray[np.float64] = (field - field.mean()) / field.std()
    return scaled


def write_phone_photo(numbered: tuple[int, Path], *, folder: Path) -> None:
    """Write a photograph as a phone would have taken it."""
    number, source = numbered
    with Image.open(source) as opened:
        image = opened.convert("RGB").resize((WIDE, HIGH), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(number).normal(0, 2, (HIGH, WIDE, 1))
    exif = Image.Exif()
    exif[0x0112] = 6 if number % 2 else 1
    target = folder / source.parent.name / f"{number:05d}.jpg"
    Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8)).save(target, quality=90, exif=exif)


def write_small(folder: Path, count: int, sources: Sequence[Path], size: int) -> None:
    """Write many small images: after its end, a JPEG file may contain anything."""
    contents = []
    for source in sources:
        with Image.open(source) as opened, io.BytesIO() as buffer:
            opened.convert("RGB").resize((size, size)).save(buffer, "JPEG")
            contents.append(buffer.getvalue())
        (folder / source.parent.name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        place = number % len(sources)
        path = folder / sources[place].parent.name / f"{number:06d}.jpg"
        path.write_bytes(contents[place] + str(number).encode())


def in_processes(write: "Callable[[T], None]", each: list[T]) -> None:
    """Call a function for each element in a process per core."""
    with ProcessPoolExecutor() as pool:
        for _ in pool.map(write, each, chunksize=4):
            pass


def main(kind: str, folder: Path, count: int, *more: str) -> None:
    """Write the images."""
    if kind == "fields":
        for label in range(2):
            (folder / f"class{label}").mkdir(parents=True)
        width, height = map(int, more)
        in_processes(partial(write_field, folder=folder, width=width, height=height), list(range(count)))
        return
    found = sorted(path for path in Path(more[0]).glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if kind == "small":
        write_small(folder, count, found, int(more[1]))
        return
    chosen = found[:: max(1, len(found) // count)][:count]
    for path in chosen:
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
    in_processes(partial(write_phone_photo, folder=folder), list(enumerate(chosen)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
