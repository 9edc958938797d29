"""Columns of metadata for networks that take them next to the image: from a manifest, or measured on the image files. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnkit.data.image_columns import ColumnCodes, Columns
from cnnkit.data.in_memory import MemoryImage
from cnnkit.data.source import ImageFile
from cnnkit.errors import CnnkitError
from cnnkit.formats.header import InputColumn


class ColumnInput:
    """The codes of the columns of all models, for one image after the other."""

    def __init__(
        self, wanted: Sequence[tuple[str, InputColumn]], manifest: str | Path | None, *, own: Sequence[str | Path] = ()
    ) -> None:
        """Find the columns.

        Args:
            wanted: The columns, with the names of their models; two models may take the same.
            manifest: As `Columns`.
            own: As `Columns`.

        Raises:
            UsageError: A column is not in the tables, and cannot be measured.
            OSError: A table cannot be read.
        """
        names = tuple(dict.fromkeys(column.name for _, column in wanted))
        models = ", ".join(dict.fromkeys(model for model, _ in wanted))
        self._columns = Columns(names, manifest, own=own, models=models)
        self._places = [names.index(column.name) for _, column in wanted]
        self._codes = ColumnCodes([column for _, column in wanted])
        self._last: tuple[str, NDArray[np.float32]] | None = None

    def check(self, images: Sequence[ImageFile]) -> None:
        """Check that the tables list all images, before any of them is predicted; nothing is measured.

        Raises:
            CnnkitError: One is not listed.
        """
        if not self._columns.measured:
            for image in images:
                self._columns.row(image.path)

    def __call__(self, image: ImageFile) -> NDArray[np.float32]:
        """Return the codes of an image, (columns,).

        Raises:
            CnnkitError: The image is not in the manifest, or a value is not a number.
        """
        if isinstance(image, MemoryImage):
            raise CnnkitError(f"{image.path} has no file, and the model takes columns of it; give the path of a file")
        return self.of(image.path)

    def of(self, path: str) -> NDArray[np.float32]:
        """Return the codes of the image of a path, as `__call__`."""
        if self._last is None or self._last[0] != path:  # the views of an image come one after the other
            row = self._columns.row(path)
            self._last = path, self._codes([row[place] for place in self._places], path=path)
        return self._last[1]

    def report(self) -> None:
        """Log how many values were not in the training set."""
        self._codes.report()
