"""The boxes that cnn-cam finds, as a manifest: every command then reads the crops."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnkit import messages
from cnnkit.data import decode
from cnnkit.data.source import ImageFile
from cnnkit.formats import box, manifest
from cnnkit.formats.box import Box
from cnnkit.formats.manifest import ManifestRow


@dataclass(slots=True)
class FoundBoxes:
    """Rows of the manifest `path`: what the source said of each image, the box, and the score of the class of the map."""

    path: Path
    rows: list[ManifestRow] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)

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
        self.rows.append(ManifestRow(path, image.written or image.label, image.split, image.group, digest=image.digest))
        self.scores.append(record["probability"])

    def save(self) -> str | None:
        """Write the manifest in one step, and return a notice about images without a box."""
        known = manifest.columns(self.rows)
        columns = (*known, *([] if "box" in known else ["box"]))
        scores = [None if score is None else f"{score:.6g}" for score in self.scores]
        manifest.save(self.path, manifest.moved(self.rows, self.path.parent), columns=columns, more={"score": scores})
        empty = sum(not box.is_crop(row.path) for row in self.rows)
        if not empty:
            return None
        return f"{self.path}: {messages.count_images(empty)} without evidence for the class: whole, without a box"
