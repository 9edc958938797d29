"""From a model file to an ONNX file that has been seen to compute the same: the file appears only when the check has passed."""

from collections.abc import Iterable, Iterator, Sized
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnkit.choices import ExportInput
from cnnkit.data import preprocess as preparing
from cnnkit.data import reader
from cnnkit.data.source import Picture
from cnnkit.engine import export
from cnnkit.engine.export import Answers, HeadAnswers, Parity
from cnnkit.engine.runner import Progress, Skip, no_progress
from cnnkit.engine.session import Session
from cnnkit.errors import BadPicture, CnnkitError, UsageError
from cnnkit.formats import bundle, onnx_model
from cnnkit.formats.header import Kind, made_by
from cnnkit.nets import classifier
from cnnkit.nets.classifier import Classifier

#: The largest difference of a probability that passes, unless the user says otherwise.
TOLERANCE = 1e-4
#: The same for float16, whose own steps near 1 are 1e-3.
HALF_TOLERANCE = 1e-2


def export_model(
    model: str | Path,
    output: str | Path,
    *,
    verify: Iterable[Picture] | None = None,
    verify_name: str = "pictures",
    input_kind: ExportInput = ExportInput.UINT8,
    features: bool = False,
    cam: bool = False,
    head_only: bool = False,
    half: bool = False,
    opset: int | None = None,
    tolerance: float | None = None,
    batch: int = 32,
    jobs: int | None = None,
    device: str = "auto",
    skip: Skip,
    progress: Progress = no_progress,
) -> list[Parity]:
    """Export a model, compare ONNX Runtime with torch, and write the file if they agree.

    Args:
        model: A `.pt`.
        output: The `.onnx`.
        verify: Real pictures to compare on, beside random ones.
        verify_name: What they are called in the record.
        input_kind: uint8 pictures (N, H, W, 3), or normalised float32 (N, 3, H, W).
        features: Also give what the head reads.
        cam: Also give the class activation maps.
        head_only: Take features in place of pictures.
        half: float16 inside, float32 outside.
        opset: ONNX operator set.
        tolerance: The largest difference of a probability that passes.
        batch: The largest batch compared.
        jobs: Threads that decode.
        device: Where ONNX Runtime runs for the comparison.
        skip: Called for every picture that cannot be used.
        progress: Called after every batch of pictures.

    Returns:
        One record for each comparison: random inputs at batch 1, 2 and `batch`, then the pictures.

    Raises:
        CnnkitError: The difference is above the tolerance, or the graph is not valid; nothing is written.
        UsageError: The options contradict each other.
    """
    if Path(output).suffix != ".onnx":
        raise UsageError(f"{output}: a network is written to a .onnx file")
    if head_only and (features or cam or half or verify is not None or input_kind is not ExportInput.UINT8):
        raise UsageError(
            "--head-only takes features: --features, --cam, --fp16, --input and --verify go with a whole network"
        )
    loaded = bundle.load(model)
    network = classifier.from_header(loaded.header, loaded.state, name=str(model))
    made = (
        _HeadExport(network) if head_only else _WholeExport(network, input_kind, features=features, cam=cam, half=half)
    )
    header = loaded.header.but(kind=Kind.ONNX, made_by=loaded.header.made_by | made_by("torch", "onnx", "onnxscript"))
    proto = export.to_onnx(made.module, made.example(2), inputs=made.input_name, outputs=made.module.names, opset=opset)
    content = export.finished(proto, header)
    session = Session(content, device=device, name=f"the exported {Path(model).name}")

    records = [
        export.compare(made.reference, session, iter([made.example(size).numpy()]), source="random", classes=True)
        for size in sorted({1, 2, batch})
    ]
    if verify is not None:
        pixels = _batches(
            verify, network, batch=batch, jobs=jobs, normalised=made.normalised, skip=skip, progress=progress
        )
        record = export.compare(made.reference, session, pixels, source=verify_name, classes=True)
        if not record.rows:
            raise CnnkitError(f"{verify_name}: no picture could be used to compare on; nothing written")
        records.append(record)
    bound = tolerance if tolerance is not None else HALF_TOLERANCE if half else TOLERANCE
    worst = max(records, key=lambda record: record.max_difference)
    if not worst.max_difference <= bound:
        raise CnnkitError(
            f"ONNX Runtime and torch differ by {worst.max_difference:.3g} on {worst.source} at batch {worst.batch}, "
            f"more than --tolerance {bound:g}; nothing written"
        )
    onnx_model.save(output, content)
    return records


class _WholeExport:
    """A whole network on its way: what is exported, and what it is compared with."""

    input_name = "images"

    def __init__(self, network: Classifier, kind: ExportInput, *, features: bool, cam: bool, half: bool) -> None:
        self.normalised = kind is ExportInput.FLOAT
        self.module = Answers(network, normalised=self.normalised, features=features, cam=cam, half=half).eval()
        # Compared with float32, whatever is exported: that is what float16 costs
        self.reference: nn.Module = Answers(network, normalised=self.normalised).eval()
        self.size = int(network.preprocess.size)

    def example(self, batch: int) -> Tensor:
        """Draw inputs."""
        shape = (3, self.size, self.size) if self.normalised else (self.size, self.size, 3)
        dtype = np.dtype(np.float32 if self.normalised else np.uint8)
        return torch.from_numpy(export.random_inputs(shape, dtype, batch=batch))


class _HeadExport:
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


def _batches(
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
    done = 0

    def stacked() -> NDArray[Any]:
        pixels = np.stack(good)
        return network.normalise(torch.from_numpy(pixels)).contiguous().numpy() if normalised else pixels

    for picture, loaded in reader.read(
        verify, partial(preparing.load, preprocess=network.preprocess), jobs=jobs, ahead=2 * batch
    ):
        if isinstance(loaded, BadPicture):
            skip(picture.path, str(loaded))
            continue
        good.append(loaded)
        if len(good) == batch:
            yield stacked()
            done += len(good)
            progress(done, total)
            good = []
    if good:
        yield stacked()
