"""What the layers of a network answer to a picture, channel by channel.

OUT/block1_conv1.png            all channels side by side
OUT/block1_conv1/007.png        each by itself
OUT/block1_conv1.npy            with `raw`: what the layer answers, float32 (C, h, w)
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnkit.choices import Fit, MapScale
from cnnkit.data import images, preprocess, tree
from cnnkit.errors import UsageError
from cnnkit.explain import colours, mosaic, numbering
from cnnkit.formats import pictures as files
from cnnkit.formats.header import Preprocess

log = logging.getLogger("cnnkit")

#: A channel is silent if it stays below this share of the layer's largest value.
_SILENT = 1e-6


class Named(Protocol):
    """A layer."""

    @property
    def name(self) -> str:
        """As the user calls it."""


class Activations(Protocol):
    """A network whose layers can be looked at."""

    preprocess: Preprocess

    @property
    def layers(self) -> Sequence[Any]:
        """Those that answer with maps, in order."""

    def find(self, wanted: str) -> Any:  # noqa: ANN401 - a layer, as the network has them
        """Find one by name or number."""

    def answers(self, image: NDArray[np.uint8], layers: Sequence[Any]) -> list[NDArray[np.float32]]:
        """Give what layers answer to one picture, (H, W, 3) -> (C, h, w) each."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a layer answers to a picture; `silent` is the share of channels without any response, `zeros` that of values."""

    layer: str
    shape: str
    silent: float
    zeros: float
    mean: float
    maximum: float
    most_active: int  # the channel with the largest mean
    mosaic: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How maps are drawn, and where to; `channels` as `numbering.parse` reads them."""

    output: Path | None = None
    scale: MapScale = MapScale.CHANNEL
    channels: str | None = None
    colormap: str = "viridis"
    raw: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked before a network is loaded.

        Raises:
            UsageError: No such colour map, or arrays without a place.
            CnnkitError: The folder is not empty.
        """
        colours.table(self.colormap)
        if self.output is not None:
            tree.check_free(self.output, force=self.force)
        elif self.raw:
            raise UsageError("--raw writes arrays beside the mosaics; say where with -o DIR")


def open_model(
    model: str,
    *,
    weights: str = "default",
    size: str | None = None,
    fit: Fit | None = None,
    device: str = "auto",
) -> Activations:
    """Load a network.

    Args:
        model: A `.pt`, an `.onnx`, or a network's name; else as `opening.network`.

    Raises:
        UsageError: As `opening.network`, or an exported network is to take another size.
    """
    if size is not None:
        preprocess.sides(size)
    if model.endswith((".pt", ".onnx")):
        Path(model).stat()  # before anything heavy is loaded
    if model.endswith(".onnx"):
        if size is not None or fit is not None or weights != "default":
            raise UsageError(f"{model} is exported and fixed; --size, --fit and --weights go with a .pt or a name")
        from cnnkit.explain.onnx_activations import OnnxActivations

        return OnnxActivations(model, device=device)
    from cnnkit.explain import activations, opening

    return activations.TorchActivations(opening.network(model, weights=weights, size=size, fit=fit, device=device)[0])


def explain(network: Activations, picture: str | Path, layers: Sequence[str], *, drawing: Drawing) -> Iterator[Record]:
    """Draw what layers answer to a picture.

    Args:
        network: From `open_model`.
        picture: The file.
        layers: Names or numbers; `all` for all that have maps.
        drawing: How, and where to.

    Returns:
        A record for each layer, as it is drawn.

    Raises:
        UsageError: There is no such layer or channel, or no such colour map; a layer answers with a vector.
        CnnkitError: The picture cannot be used, or the folder holds it.
    """
    palette = colours.table(drawing.colormap)
    named = {layer.name: layer for layer in map(network.find, (each for each in layers if each != "all"))}
    chosen = network.layers if "all" in layers else list(named.values())
    if drawing.output is not None:
        tree.check_apart(drawing.output, [str(picture)], to_be="looked into")
    image = preprocess.prepare(images.demanded(picture), network.preprocess)
    answers = network.answers(image, chosen)
    for layer, maps in zip(chosen, answers, strict=True):
        if maps.ndim != 3:
            raise UsageError(f"{layer.name} answers with a vector of {maps.size}, which is no map")
        numbering.parse(drawing.channels, len(maps), option="--channels", of=layer.name)
    return (_explained(layer.name, maps, drawing, palette) for layer, maps in zip(chosen, answers, strict=True))


def _explained(name: str, maps: NDArray[np.float32], drawing: Drawing, palette: NDArray[np.uint8]) -> Record:
    strength = np.abs(maps).max((1, 2))  # (C,)
    return Record(
        layer=name,
        shape="x".join(map(str, maps.shape)),
        silent=float(np.mean(strength <= _SILENT * strength.max())),
        zeros=float(np.mean(np.abs(maps) <= _SILENT * strength.max())),
        mean=float(maps.mean()),
        maximum=float(maps.max()),
        most_active=int(maps.mean((1, 2)).argmax()),
        mosaic=None if drawing.output is None else str(_draw(name, maps, drawing, palette)),
    )


def _draw(name: str, maps: NDArray[np.float32], drawing: Drawing, palette: NDArray[np.uint8]) -> Path:
    """Write the pictures of a layer.

    Returns:
        The mosaic's path.
    """
    assert drawing.output is not None
    numbers = numbering.parse(drawing.channels, len(maps), option="--channels", of=name)
    tiles = list(colours.coloured(scaled(maps, drawing.scale)[numbers], palette))  # (h, w, 3) each
    base = drawing.output / name.replace("/", "_")
    drawing.output.mkdir(parents=True, exist_ok=True)
    digits = max(3, len(str(len(maps) - 1)))
    singles = ((f"{number:0{digits}d}.png", mosaic.single(tile)) for number, tile in zip(numbers, tiles, strict=True))
    files.save_folder(base, singles)
    if drawing.raw:
        files.save_array(f"{base}.npy", maps)
    file = Path(f"{base}.png")
    files.save(file, mosaic.mosaic(tiles))
    return file


def scaled(maps: NDArray[np.float32], scale: MapScale) -> NDArray[np.float32]:
    """Bring values to 0 to 1, (C, h, w): by each channel's own range, or by that of the layer. What does not change becomes 0."""
    axes = (1, 2) if scale is MapScale.CHANNEL else (0, 1, 2)
    low, high = maps.min(axes, keepdims=True), maps.max(axes, keepdims=True)
    spread = np.where(high > low, high - low, 1)
    shares: NDArray[np.float32] = ((maps - low) / spread).astype(np.float32)
    return shares
