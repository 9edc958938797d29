"""The boxes that cnn-cam finds, as a manifest: every command then reads the crops."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnkit import messages
from cnnkit.data import decode
from cnnkit.data.image_columns import Columns
from cnnkit.data.source import ImageFile
from cnnkit.formats import box, manifest
from cnnkit.formats.box import Box
from cnnkit.formats.manifest import ManifestRow


@dataclass(slots=True)
class FoundBoxes:
    """Rows of the manifest `path`: what the source said of each image, the box, and the score of the class of the map.

    `listed_in` are tables that list the images, whose further columns are kept.
    """

    path: Path
    listed_in: Sequence[Path] = ()
    rows: list[ManifestRow] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    _kept: dict[str, list[str | None]] = field(default_factory=dict)
    _columns: Columns | None = None

    def __post_init__(self) -> None:
        """Read the further columns.

        Raises:
            FormatError: A table cannot be used.
            OSError: It cannot be read.
        """
        names = dict.fromkeys(name for table in self.listed_in for name in manifest.further_columns(table))
        names.pop("score", None)  # of an earlier manifest of boxes
        if names:
            self._columns = Columns(tuple(names), None, own=self.listed_in)
            self._kept = {name: [] for name in names}

    def add(self, image: ImageFile, record: dict[str, Any]) -> None:
        """Add an image, with the record of its map.

        Raises:
            BadImageError: The image is a crop, and its file cannot be read any more.
        """
        whole = box.whole_path(image.path)
        found = None
        if record["box"] is not None:
            left, top = decode.place_of(image.path)
            found = Box.parse(record["box"])
            found = Box(found.x + left, found.y + top, found.width, found.height)
        path = image.path if found is None else box.of_path(whole, found)  # without evidence, all of the image
        label = image.written or image.label
        self.rows.append(ManifestRow(path, label, image.split, image.group, digest=image.digest, labels=image.labels))
        self.scores.append(record["probability"])
        values = {} if self._columns is None else self._columns.listed(image.path)
        for name, column in self._kept.items():
            column.append(values.get(name))

    def save(self) -> str | None:
        """Write the manifest in one step, and return a notice about images without a box."""
        known = manifest.columns(self.rows)
        columns = (*known, *([] if "box" in known else ["box"]))
        scores = [None if score is None else f"{score:.6g}" for score in self.scores]
        manifest.save(
            self.path,
            manifest.moved(self.rows, self.path.parent),
            columns=columns,
            more={**self._kept, "score": scores},
        )
        empty = sum(not box.is_crop(row.path) for row in self.rows)
        if not empty:
            return None
        return f"{self.path}: {messages.count_images(empty)} without evidence for the class: whole, without a box"
