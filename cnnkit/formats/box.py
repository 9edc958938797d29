"""Boxes in images, and paths of crops.

A manifest's column `box` is `x,y,width,height`, in pixels of the upright image: the left top corner and the size.

A crop of a file has a path, too, as a file in an archive has: `photos/1.jpg#xywh=160,120,320,240`, the spatial fragment of the W3C's
Media Fragments. Manifests are read with such paths and written with a column `box`; files are opened without the fragment
(`files.whole_file`), and `data.decode` crops. So the path identifies the crop in all outputs, and can be given again to every command.
"""

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from cnnkit import files, messages
from cnnkit.errors import FormatError

#: What separates the numbers of a box; JSON and Python write brackets around them.
_SEPARATOR = re.compile(r"\s*,\s*|\s+")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in an image.

    Attributes:
        x: Left edge, in pixels of the upright image; 0 is the left edge of the image.
        y: Top edge.
        width: Width in pixels.
        height: Height in pixels.
    """

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def parse(cls, text: str) -> "Box":
        """Read `x,y,width,height`; a width or height of 0 or less is read, too: see `area`.

        Raises:
            FormatError: It is not four numbers.
        """
        words = _SEPARATOR.split(text.strip().strip("[]()").strip())
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            numbers = []
        if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
            raise FormatError(
                f'box "{messages.excerpt(text)}" is not x,y,width,height in pixels of the image; '
                "write four numbers such as 160,120,320,240, or leave the field empty for the whole image"
            )
        return cls(*numbers)

    @classmethod
    def of_edges(cls, left: float, top: float, right: float, bottom: float) -> "Box":
        """Return the box between four edges."""
        return cls(left, top, right - left, bottom - top)

    def text(self) -> str:
        """Return the shortest `x,y,width,height` that `parse` reads as the same numbers."""
        return ",".join(map(_number, (self.x, self.y, self.width, self.height)))

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    @property
    def area(self) -> float:
        """Area in pixels; 0 if the width or the height is not positive."""
        return max(self.width, 0.0) * max(self.height, 0.0)

    def clipped(self, size: tuple[int, int]) -> "Box | None":
        """Return the part of the box that is in an image of a size (width, height); None if there is none."""
        left, top, right, bottom = self.edges
        if left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1]:
            return self if self.area else None  # the same numbers, without rounding errors
        left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, size[0]), min(bottom, size[1])
        return Box.of_edges(left, top, right, bottom) if self.area and left < right and top < bottom else None

    def pixels(self, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """Return the whole pixels of an image of a size (width, height) that are nearest to the box, at least one.

        Returns:
            left, top, right, bottom; half-open, as for `PIL.Image.Image.crop`. None if the box is outside of the image or has no area.
        """
        inside = self.clipped(size)
        if inside is None:
            return None
        left, top, right, bottom = (math.floor(edge + 0.5) for edge in inside.edges)
        left, top = min(left, size[0] - 1), min(top, size[1] - 1)
        return left, top, max(right, left + 1), max(bottom, top + 1)

    def with_margin(self, share: float) -> "Box":
        """Widen the box on each side by a share of its longer side, rounded to whole pixels."""
        margin = math.floor(share * max(self.width, self.height) + 0.5) if self.area else 0
        return Box(self.x - margin, self.y - margin, self.width + 2 * margin, self.height + 2 * margin)

    def iou(self, other: "Box") -> float:
        """Return the intersection over union of two boxes; 0 if one has no area."""
        one, two = self.edges, other.edges
        across = min(one[2], two[2]) - max(one[0], two[0])
        down = min(one[3], two[3]) - max(one[1], two[1])
        if across <= 0 or down <= 0 or not self.area or not other.area:
            return 0.0
        common = across * down
        return common / (self.area + other.area - common)


def _number(value: float) -> str:
    """Return a number in decimals, without an exponent: the shortest that is read as the same float."""
    if value == int(value):
        return str(int(value))
    return format(Decimal(repr(value)), "f")


def of_path(path: str, box: Box | None) -> str:
    """Return the path of a crop; of the file if there is no box."""
    return path if box is None else f"{path}{files.CROP}{box.text()}"


def divided(path: str) -> tuple[str, Box | None]:
    """Divide the path of a crop into that of the file and the box, without looking at files; None for the whole image."""
    place = files.start_of_box(path)
    return (path, None) if place is None else (path[:place], Box.parse(path[place + len(files.CROP) :]))


def normal_path(path: str) -> str:
    """Return the path of a crop with the numbers as `Box.text` writes them: 2 for 2.0; any other path, and that of a file, as it is."""
    if not is_crop(path) or os.path.lexists(path):
        return path
    return of_path(*divided(path))


def whole_path(path: str) -> str:
    """Return the path of the file in that of a crop, as `divided`, without reading the box; any other path as it is."""
    return path[: files.start_of_box(path)] if files.CROP in path else path


def is_crop(path: str) -> bool:
    """Return whether a path is that of a crop."""
    return files.CROP in path and files.start_of_box(path) is not None


def file_name(path: str) -> str:
    """Return the name of a file that is made of an image: its own, and of a crop with the box: 1@160,120,320,240.jpg."""
    whole, found = divided(path)
    name = os.path.basename(whole)
    if found is None:
        return name
    stem, extension = os.path.splitext(name)
    return f"{stem}@{found.text()}{extension}"


def any_crop(paths: Iterable[str]) -> bool:
    """Return whether one of the paths is that of a crop."""
    return any(map(is_crop, paths))
