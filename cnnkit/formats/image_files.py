"""Images and arrays as files, in one step: a reader never sees half of one."""

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
    """Demand a name that ends in .png, in a folder that is there, before there is anything to write.

    Raises:
        UsageError: It ends otherwise.
        CnnkitError: There is no such folder.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{option} {path}: it is written as PNG; give it a name that ends in .png")
    atomic.check_folder(path)


def save(path: str | Path, image: Image.Image, **saving: Any) -> None:  # noqa: ANN401 - what Pillow's formats take
    """Write an image, as PNG unless `saving` names another format."""
    encoded = io.BytesIO()
    image.save(encoded, **{"format": "PNG", **saving})
    with atomic.writing(path) as file:
        file.write(encoded.getvalue())


def create(path: Path, content: bytes) -> None:
    """Write an encoded image where there is no file yet.

    Raises:
        FileExistsError: There is one.
    """
    with path.open("xb") as file:
        file.write(content)


def save_folder(folder: str | Path, images: Iterable[tuple[str, Image.Image]]) -> None:
    """Write images by name, as PNG, into a folder of their own that appears when all are there; an older one is replaced."""
    folder = Path(folder)
    with atomic.naming(folder), _beside(folder) as beside:
        made = Path(beside, "made")
        made.mkdir()
        for name, image in images:
            image.save(made / name, "PNG")
        if folder.exists():
            folder.rename(Path(beside, "old"))
        made.rename(folder)


def _beside(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a folder to work in, and remove those that runs left which were killed: one run at a time writes what `folder` is in."""
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
