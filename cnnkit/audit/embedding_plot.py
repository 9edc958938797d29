"""A map of features as an image: a point for each image, coloured by class, or the images themselves."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from cnnkit.audit.embedding import Embedding
from cnnkit.callbacks import Skip, raise_skip
from cnnkit.choices import EmbedMethod
from cnnkit.data import reader
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError
from cnnkit.explain import contact_sheets
from cnnkit.formats import figures, picture_style
from cnnkit.messages import printable

#: Width of the map, and the least and the greatest height, in inches.
_WIDTH, _HEIGHTS = 9.0, (4.5, 9.0)
#: Share of the map that is free on each side.
_MARGIN = 0.04
#: With ten colours, enough for 120 classes.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
#: The areas of markers that look smaller or larger than others.
_AREAS = {"*": 1.8, "D": 0.7}
#: Images whose class is unknown, or one of too many.
_OTHER = "#c4c4c4"
_LONGEST_NAME = 32  # letters
_LETTER, _SYMBOL = 0.068, 0.42  # inches: a letter of the legend, and a symbol with its gaps
_FONT, _TITLE_FONT = 8, 11  # points
#: Inches from the map to the legend, with and without labels of the axis.
_LABELLED, _UNLABELLED = 0.6, 0.15
#: Sides of thumbnails in pixels; the first is taken with which half of the images, or that many, have room.
_SIDES, _ENOUGH = (160, 128, 96, 80, 64, 48, 36, 28), 150
#: The frame of a thumbnail, in the colour of its class, and the gap to the next one, in pixels.
_FRAME, _GAP = 2, 2


@dataclass(frozen=True, slots=True)
class ClassStyle:
    """A class, or None for all images without one in the legend; its colour and marker; and the number of its images."""

    name: str | None
    colour: str
    marker: str
    count: int

    @property
    def area(self) -> float:
        """The factor of the marker's area."""
        return _AREAS.get(self.marker, 1.0)

    @property
    def words(self) -> str:
        """The text of the legend."""
        if self.name is None:
            return f"other ({self.count})"
        return picture_style.cut(self.name, _LONGEST_NAME)


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image that is drawn at its point, with its frame."""

    index: int
    image: Image.Image


def styles(labels: Sequence[str | None]) -> list[ClassStyle]:
    """Give each class a colour and a marker, in the order of the names; of more than 120 classes, the largest ones."""
    counts = Counter(label for label in labels if label is not None)
    most = len(picture_style.DISTINCT) * len(_MARKERS)
    kept = sorted(name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most])
    found = [
        ClassStyle(
            name,
            picture_style.DISTINCT[number % len(picture_style.DISTINCT)],
            _MARKERS[number // len(picture_style.DISTINCT)],
            counts[name],
        )
        for number, name in enumerate(kept)
    ]
    others = len(labels) - sum(each.count for each in found)
    return [*found, *([ClassStyle(None, _OTHER, "o", others)] if others else [])]


def save(path: Path, embedding: Embedding, *, name: str, thumbnails: Sequence[Thumbnail] = ()) -> None:
    """Write a drawing of a map atomically; the same map gives the same bytes.

    Args:
        path: Its ending selects the format: .png, .svg or .pdf.
        embedding: The map.
        name: Of the features, for the title.
        thumbnails: From `thumbnails_of`.

    Raises:
        UsageError: Another ending.
        OSError: The file cannot be written.
    """
    figures.save(path, lambda: render(embedding, name=name, thumbnails=thumbnails))


def render(embedding: Embedding, *, name: str, thumbnails: Sequence[Thumbnail] = ()) -> Figure:
    """Draw a map: one unit has the same length along both axes.

    Returns:
        A figure outside of pyplot, so nothing has to be closed.
    """
    places = _places(embedding)
    frame = MapFrame.around(places)
    labels = [point.label for point in embedding.points]
    legend = styles(labels)
    figure = Figure(figsize=(_WIDTH, frame.height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    known = {style.name: number for number, style in enumerate(legend)}
    of_point = np.array([known.get(label, known.get(None, -1)) for label in labels])
    area = float(np.clip(14000 / len(places), 8, 45))
    # Images without a class are drawn first, below the others
    for number in sorted(range(len(legend)), key=lambda number: legend[number].name is not None):
        style, chosen = legend[number], places[of_point == number]
        across, up = chosen.T
        axes.scatter(
            across,
            up,
            s=area * style.area,
            color=style.colour,
            marker=style.marker,
            linewidths=0.3,
            edgecolors="white",
            zorder=2,
        )
    for each in thumbnails:
        _draw(axes, each, legend[of_point[each.index]].colour, places[each.index], frame.unit)
    axes.set(xlim=frame.across, ylim=frame.down)
    axes.spines[["top", "right"]].set_visible(False)
    _label(axes, embedding, name)
    if len(legend) > 1 or legend[0].name is not None:
        _add_legend(axes, legend, below=_LABELLED if embedding.shares else _UNLABELLED)
    return figure


def _places(embedding: Embedding) -> NDArray[np.float64]:
    return np.array([(point.x, point.y) for point in embedding.points])


@dataclass(frozen=True, slots=True)
class MapFrame:
    """The part of the plane that is drawn.

    Attributes:
        across: Its limits along x.
        down: Its limits along y.
        height: Its height in inches.
        unit: The length of a pixel.
    """

    across: tuple[float, float]
    down: tuple[float, float]
    height: float
    unit: float

    @classmethod
    def around(cls, places: NDArray[np.float64]) -> "MapFrame":
        """Return the part around points, (N, 2), with a margin."""
        low, high = places.min(0), places.max(0)
        middle, (width, height) = (low + high) / 2, np.maximum(high - low, 1e-12).tolist()
        inches = min(max(_WIDTH * height / width, _HEIGHTS[0]), _HEIGHTS[1])
        scale = max(width / _WIDTH, height / inches) * (1 + 2 * _MARGIN)  # length of an inch
        (left, right), (bottom, top) = (
            (float(centre) - scale * inch / 2, float(centre) + scale * inch / 2)
            for centre, inch in zip(middle, (_WIDTH, inches), strict=True)
        )
        return cls((left, right), (bottom, top), inches, scale / figures.DPI)


def _label(axes: Axes, embedding: Embedding, name: str) -> None:
    """Write the title, and the axes of PCA; those of t-SNE have no unit."""
    record = embedding.record
    method = "t-SNE" if record.method == EmbedMethod.TSNE else "PCA"
    title = f"{method} of {printable(name)}: {record.images} images, trustworthiness {record.trustworthiness:.2f}"
    axes.set_title(title, loc="left", fontsize=_TITLE_FONT, parse_math=False)
    if embedding.shares is None:
        axes.set(xticks=[], yticks=[])
        return
    words = (
        f"component {number}, {100 * share:.1f} % of the variance"
        for number, share in enumerate(embedding.shares, start=1)
    )
    axes.set(**dict(zip(("xlabel", "ylabel"), words, strict=True)))


def _add_legend(axes: Axes, legend: Sequence[ClassStyle], *, below: float) -> None:
    """Put the legend a distance in inches below the map, in as many columns as have room."""
    longest = max(picture_style.columns(style.words) for style in legend)
    columns = min(len(legend), max(1, int(_WIDTH / (_SYMBOL + _LETTER * longest))))
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=style.marker,
            markersize=6 * style.area**0.5,
            color=style.colour,
            mec="white",
            mew=0.3,
        )
        for style in legend
    ]
    # Names are set afterwards: a legend leaves out those that begin with "_"
    figure = axes.get_figure(root=True)
    assert figure is not None
    drawn = axes.legend(
        handles=handles,
        labels=[" " * picture_style.columns(style.words) for style in legend],
        loc="upper left",
        bbox_to_anchor=(0, -below / figure.get_figheight()),
        borderaxespad=0,
        ncols=columns,
        fontsize=_FONT,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    for text, style in zip(drawn.get_texts(), legend, strict=True):
        text.set(text=style.words, parse_math=False)


# ---------------------------------------------------------------- thumbnails


def thumbnails_of(
    embedding: Embedding, *, seed: int = 0, jobs: int | None = None, skip: Skip = raise_skip
) -> list[Thumbnail]:
    """Choose images that do not cover each other at their points, and read them.

    Args:
        embedding: The map.
        seed: Draws the order in which images get a place.
        jobs: Threads that decode.
        skip: Called for an image that cannot be read; its point is drawn.
    """
    places = _places(embedding)
    order = np.random.default_rng(seed).permutation(len(places))
    chosen, side = fitting(places[order] / MapFrame.around(places).unit)
    indices = np.sort(order[chosen]).tolist()

    load = partial(contact_sheets.load_thumbnail, side=side)
    images = (ImageFile(embedding.points[index].path) for index in indices)
    found = []
    for index, (image, loaded) in zip(indices, reader.read(images, load, jobs=jobs), strict=True):
        if isinstance(loaded, BadImageError):
            skip(image.path, str(loaded))
        else:
            found.append(Thumbnail(index, loaded))
    return found


def fitting(places: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
    """Choose thumbnails that do not cover each other: the largest with which half of the points, or 150, have room.

    Args:
        places: Of the points in pixels, (N, 2), in the order in which they get a place.

    Returns:
        The chosen points, by number; and the side of a thumbnail in pixels.
    """
    wanted = min(_ENOUGH, (len(places) + 1) // 2)
    chosen, side = np.zeros(0, dtype=np.int64), _SIDES[-1]
    for side in _SIDES:
        apart = side + 2 * _FRAME + _GAP
        kept: list[int] = []
        remaining = np.arange(len(places))
        while len(remaining):
            kept.append(int(remaining[0]))
            remaining = remaining[np.abs(places[remaining] - places[kept[-1]]).max(1) >= apart]
        chosen = np.array(kept)
        if len(chosen) >= wanted:
            break
    return chosen, side


def _draw(axes: Axes, shown: Thumbnail, colour: str, place: NDArray[np.float64], unit: float) -> None:
    """Draw a thumbnail around its point, in pixels of the figure."""
    framed = Image.new("RGB", (shown.image.width + 2 * _FRAME, shown.image.height + 2 * _FRAME), colour)
    framed.paste(shown.image, (_FRAME, _FRAME))
    x, y, right, up = place[0], place[1], framed.width * unit / 2, framed.height * unit / 2
    pixels: Any = np.asarray(framed)
    axes.imshow(pixels, extent=(x - right, x + right, y - up, y + up), interpolation="nearest", aspect="auto", zorder=3)
