"""Contact sheets: images in a grid; for augmented copies one row per image, the original first, then its copies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from cnnkit.data.source import ImageFile
from cnnkit.formats import image_files

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Cells of one size in rows and columns, on white. All in pixels, horizontal before vertical.

    Attributes:
        cell: Size of a cell.
        gap: Gap between two cells.
        margin: Margin around the grid.
        after_first: Extra gap after the first column.
    """

    cell: tuple[int, int]
    gap: tuple[int, int]
    margin: int = 0
    after_first: int = 0

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Return the left and the upper edge of a cell."""
        left = self.margin + column * (self.cell[0] + self.gap[0]) + (self.after_first if column else 0)
        return left, self.margin + row * (self.cell[1] + self.gap[1])

    def size(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the size of the grid with its margins."""
        width = columns * (self.cell[0] + self.gap[0]) - self.gap[0] + self.after_first
        height = rows * (self.cell[1] + self.gap[1]) - self.gap[1]
        return width + 2 * self.margin, height + 2 * self.margin

    def place(
        self, sheet: Image.Image, image: Image.Image, row: int, column: int, *, origin: tuple[int, int] = (0, 0)
    ) -> None:
        """Paste an image into the middle of a cell; `origin` is the grid's upper left corner on the sheet."""
        left, top = self.corner(row, column)
        x, y = (self.cell[0] - image.width) // 2, (self.cell[1] - image.height) // 2
        sheet.paste(image, (origin[0] + left + x, origin[1] + top + y))

    def draw(self, rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
        """Draw rows of images; the rows may differ in length."""
        sheet = Image.new("RGB", self.size(len(rows), max(map(len, rows))), "white")
        for row, images in enumerate(rows):
            for column, image in enumerate(images):
                self.place(sheet, image, row, column)
        return sheet


def in_rows(items: Sequence[T], across: int) -> list[Sequence[T]]:
    """Cut a list into rows."""
    return [items[start : start + across] for start in range(0, len(items), across)]


# ---------------------------------------------------------------- augmented copies

#: Longer side of a thumbnail, and the gap between thumbnails, in pixels.
SIDE, GAP = 128, 6
#: Maximum number of rows, and of copies in a row.
MOST_ROWS, MOST_COPIES = 12, 9


def thumbnail(image: Image.Image) -> Image.Image:
    """Shrink an image to a thumbnail; smaller images stay as they are."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    return small


def choose(images: Sequence[ImageFile]) -> list[ImageFile]:
    """Choose the images to show: the same number of each class, at even distances in its list.

    If there are more classes than rows, the classes are chosen at even distances, too.
    """
    classes: dict[str | None, list[ImageFile]] = {}
    for image in images:
        classes.setdefault(image.label, []).append(image)
    held = _evenly(list(classes.values()), min(len(classes), MOST_ROWS))
    rows = [0] * len(held)
    for _ in range(min(MOST_ROWS, len(images))):  # a row for the class with the fewest rows that has another image
        free = [number for number, each in enumerate(held) if rows[number] < len(each)]
        rows[min(free, key=rows.__getitem__)] += 1
    return [image for each, count in zip(held, rows, strict=True) for image in _evenly(each, count)]


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """Choose items at even distances, including the first and the last."""
    return [items[number * (len(items) - 1) // max(count - 1, 1)] for number in range(count)]


def save(path: str | Path, rows: Sequence[Sequence[Image.Image]]) -> None:
    """Draw thumbnails in rows on white, and write them as PNG."""
    # A wider gap separates the originals from the copies
    grid = Grid(cell=(SIDE, SIDE), gap=(GAP, GAP), margin=GAP, after_first=2 * GAP)
    image_files.save(path, grid.draw(rows))
