"""The forms in which a model is exported, whole or its head alone: what goes in, and what it is compared with."""

from collections.abc import Iterable, Iterator, Sized
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnkit.choices import ExportInput
from cnnkit.data import preprocess as preparing
from cnnkit.data import reader
from cnnkit.data.reader import Progress
from cnnkit.data.source import Picture
from cnnkit.engine import export
from cnnkit.engine.export import Answers, HeadAnswers
from cnnkit.engine.runner import Skip
from cnnkit.errors import BadPicture, CnnkitError
from cnnkit.formats.header import Header
from cnnkit.nets import classifier
from cnnkit.nets.classifier import Classifier


class WholeExport:
    """A whole network on its way: what is exported, and what it is compared with."""

    input_name = "images"

    def __init__(
        self, network: Classifier, kind: ExportInput, *, features: bool, cam: bool, half: bool, dynamic: bool
    ) -> None:
        self.normalised = kind is ExportInput.FLOAT
        self.module = Answers(network, normalised=self.normalised, features=features, cam=cam, half=half).eval()
        # Compared with float32, whatever is exported: that is what float16 costs
        self.reference: nn.Module = Answers(network, normalised=self.normalised, features=features, cam=cam).eval()
        self.size, self.channels = network.preprocess.size, network.preprocess.channels
        sides = (2, 3) if self.normalised else (1, 2)
        self.free = export.BATCH | (dict(zip(sides, ("height", "width"), strict=True)) if dynamic else {})
        #: What it is exported with, and what else it is compared at (height, width): half as large again, a rectangle, and odd sides.
        self.traced = (self.size + self.size // 2, self.size) if dynamic else None
        odd = self.size + 1 + self.size % 2
        self.others = [(self.traced[0], self.traced[0]), self.traced, (odd, odd)] if self.traced else []

    def example(self, batch: int, sides: tuple[int, int] | None = None) -> Tensor:
        """Draw inputs, of the network's own size unless others are said."""
        height, width = sides or (self.size, self.size)
        shape = (self.channels, height, width) if self.normalised else (height, width, 3)
        dtype = np.dtype(np.float32 if self.normalised else np.uint8)
        return torch.from_numpy(export.random_inputs(shape, dtype, batch=batch))


class HeadExport:
    """A head on its way."""

    input_name = "features"
    normalised = False
    free = export.BATCH
    traced = None
    others: tuple[tuple[int, int], ...] = ()

    def __init__(self, network: Classifier) -> None:
        self.module = HeadAnswers(network.head).eval()
        self.reference: nn.Module = self.module
        extractor = classifier.Extractor(network.base, preprocess=network.preprocess, pool=network.pool.pool).eval()
        self.shape = classifier.feature_shape(extractor, network.preprocess)

    def example(self, batch: int, _sides: tuple[int, int] | None = None) -> Tensor:
        """Draw features."""
        return torch.from_numpy(export.random_inputs(self.shape, np.dtype(np.float32), batch=batch))


def check_any_size(network: Classifier, header: Header, *, name: str) -> None:
    """Demand of a network that pictures of any size go through it.

    Raises:
        CnnkitError: A part of it fixes the size; the message names the part and the size.
    """
    size = network.preprocess.size
    larger = torch.zeros(1, 2 * size, 2 * size, 3, dtype=torch.uint8)
    fixed = f"{name} takes pictures of {size}x{size} alone"
    remedy = "--dynamic-size needs global pooling (gap, or --pool avg) before the first dense layer"
    assert header.backbone is not None
    with torch.no_grad():
        try:
            maps = network.base(network.normalise(larger))
        except (AssertionError, RuntimeError) as error:
            if header.backbone.notation is None:
                reason = f"{header.backbone.name} is made for one size; --dynamic-size needs a base of convolutions"
            else:
                reason = f"its base ({header.backbone.notation}) reads flattened maps; {remedy}"
            raise CnnkitError(f"{fixed}: {reason}") from error
        try:
            network.head(network.pool(maps))
        except RuntimeError as error:
            features = network.features(larger[:, :size, :size])
            shape = "x".join(map(str, features.shape[1:]))
            raise CnnkitError(f"{fixed}: its head ({header.head}) reads {shape} values of a map; {remedy}") from error


def batches(
    verify: Iterable[Picture],
    network: Classifier,
    *,
    batch: int,
    jobs: int | None,
    normalised: bool,
    skip: Skip,
    progress: Progress,
) -> Iterator[NDArray[Any]]:
    """Read real pictures in batches; the last one may be smaller, which is a batch size more that is compared."""
    good: list[NDArray[np.uint8]] = []
    total = len(verify) if isinstance(verify, Sized) else None

    def stacked() -> NDArray[Any]:
        pixels = np.stack(good)
        return network.normalise(torch.from_numpy(pixels)).contiguous().numpy() if normalised else pixels

    done = 0
    ready = reader.read(verify, partial(preparing.load, preprocess=network.preprocess), jobs=jobs, ahead=2 * batch)
    for done, (picture, loaded) in enumerate(ready, start=1):
        if isinstance(loaded, BadPicture):
            skip(picture.path, str(loaded))
            continue
        good.append(loaded)
        if len(good) == batch:
            yield stacked()
            progress(done, total)
            good = []
    if good:
        yield stacked()
        progress(done, total)
