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
from cnnkit.errors import BadPicture
from cnnkit.nets import classifier
from cnnkit.nets.classifier import Classifier


class WholeExport:
    """A whole network on its way: what is exported, and what it is compared with."""

    input_name = "images"

    def __init__(self, network: Classifier, kind: ExportInput, *, features: bool, cam: bool, half: bool) -> None:
        self.normalised = kind is ExportInput.FLOAT
        self.module = Answers(network, normalised=self.normalised, features=features, cam=cam, half=half).eval()
        # Compared with float32, whatever is exported: that is what float16 costs
        self.reference: nn.Module = Answers(network, normalised=self.normalised, features=features, cam=cam).eval()
        self.size, self.channels = network.preprocess.size, network.preprocess.channels

    def example(self, batch: int) -> Tensor:
        """Draw inputs."""
        shape = (self.channels, self.size, self.size) if self.normalised else (self.size, self.size, 3)
        dtype = np.dtype(np.float32 if self.normalised else np.uint8)
        return torch.from_numpy(export.random_inputs(shape, dtype, batch=batch))


class HeadExport:
    """A head on its way."""

    input_name = "features"
    normalised = False

    def __init__(self, network: Classifier) -> None:
        self.module = HeadAnswers(network.head).eval()
        self.reference: nn.Module = self.module
        extractor = classifier.Extractor(network.base, preprocess=network.preprocess, pool=network.pool.pool).eval()
        self.shape = classifier.feature_shape(extractor, network.preprocess)

    def example(self, batch: int) -> Tensor:
        """Draw features."""
        return torch.from_numpy(export.random_inputs(self.shape, np.dtype(np.float32), batch=batch))


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
