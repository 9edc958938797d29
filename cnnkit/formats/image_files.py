"""Write images and arrays in one step: readers never see half of one."""

import contextlib
import io
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnkit.errors import UsageError
from cnnkit.formats import atomic


def check_png(path: str | Path, *, option: str) -> None:
    """Check that a name ends in .png and its folder exists, before any work is done.

    Raises:
        UsageError: It has another ending.
        CnnkitError: There is no such folder.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{option} {path}: the image is written as PNG; give it a name that ends in .png")
    atomic.check_folder(path)


def save(path: str | Path, image: Image.Image, **saving: Any) -> None:  # noqa: ANN401 - what Pillow's formats take
    """Write an image, as PNG unless `saving` gives another format."""
    encoded = io.BytesIO()
    image.save(encoded, **{"format": "PNG", **saving})
    with atomic.writing(path) as file:
        file.write(encoded.getvalue())


def create(path: Path, content: bytes) -> None:
    """Write an encoded image to a new file.

    Raises:
        FileExistsError: The file exists.
    """
    with path.open("xb") as file:
        file.write(content)


def save_folder(folder: str | Path, images: Iterable[tuple[str, Image.Image]]) -> None:
    """Write images by name, as PNG, into a folder that appears when all are written; an older folder is replaced."""
    folder = Path(folder)
    with atomic.naming(folder), _work_folder(folder) as work:
        made = Path(work, "made")
        made.mkdir()
        for name, image in images:
            image.save(made / name, "PNG")
        if folder.exists():
            folder.rename(Path(work, "old"))
        made.rename(folder)


def _work_folder(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a temporary folder next to `folder`, and remove those of killed runs: the caller holds the lock of what `folder` is in."""
    prefix = atomic.fitting_name(f".{folder.name}", ".", room=8)
    with contextlib.suppress(OSError):
        for each in folder.parent.iterdir():
            named = each.name.startswith(prefix) and re.fullmatch("[a-z0-9_]{8}", each.name[len(prefix) :])
            if named and each.is_dir() and {path.name for path in each.iterdir()} <= {"made", "old"}:
                shutil.rmtree(each, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent)


def save_array(path: str | Path, values: NDArray[Any]) -> None:
    """Write an array as `.npy`."""
    with atomic.writing(path) as file:
        np.save(file, values, allow_pickle=False)
