"""Run a convolutional base once over pictures and keep what it saw."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.choices import Engine, FeatureDtype
from cnnkit.data import preprocess as preparing
from cnnkit.data.reader import Progress, no_progress
from cnnkit.data.source import Picture
from cnnkit.engine import bases, runner
from cnnkit.engine import device as devices
from cnnkit.engine.bases import Request
from cnnkit.engine.runner import Rates, Skip, raise_bad
from cnnkit.engine.session import Session
from cnnkit.errors import BadPicture, CnnkitError, UsageError
from cnnkit.formats import features, manifest
from cnnkit.formats.header import Header, Kind, Preprocess, made_by
from cnnkit.formats.manifest import Row

log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class Summary:
    """What an extraction came to; `per_second` counts the pictures of this run, decoding included."""

    features: str
    rows: int
    shape: str
    skipped: int
    resumed: int
    seconds: float
    per_second: float


@dataclass(frozen=True, slots=True)
class _Base:
    """A base, ready: from pictures to features, with its Header and where it runs."""

    network: runner.Network
    header: Header
    device: str

    @property
    def preprocess(self) -> Preprocess:
        """How pictures are prepared for it."""
        assert self.header.preprocess is not None
        return self.header.preprocess


def extract(
    pictures: Iterable[Picture],
    output: str | Path,
    *,
    request: Request,
    batch: int = 32,
    jobs: int | None = None,
    dtype: FeatureDtype = FeatureDtype.FLOAT32,
    device: str = "auto",
    engine: Engine = Engine.ONNX,
    resume: bool = False,
    skip: Skip = raise_bad,
    progress: Progress = no_progress,
) -> Summary:
    """Write the features of pictures to `.npy`, `.tsv` and `.json`; memory does not grow with their number.

    Args:
        pictures: What to look at; their labels, parts and groups go into the `.tsv`.
        output: The `.npy`.
        request: Which base.
        batch: Pictures at once.
        jobs: Threads that decode.
        dtype: float16 halves the file.
        device: For the base.
        engine: ONNX Runtime or torch.
        resume: Go on from an interrupted run; the outcome is the same, byte for byte.
        skip: Called for every picture that cannot be used.
        progress: Called after every batch.

    Raises:
        CnnkitError: No picture could be used, or the base cannot be had.
    """
    output = Path(output)
    features.check_neighbours(output)  # the name is wrong before anything is computed
    if not output.parent.is_dir():
        raise CnnkitError(f"{output.parent}: no such folder to write {output.name} into")
    base = _open(request, device=device, engine=engine)
    if isinstance(pictures, Sized):
        batch = max(1, min(batch, len(pictures)))  # a few pictures need not fill up a large batch
    shape = _row_shape(base)
    writer = features.Writer(
        output,
        shape=shape,
        dtype=dtype,
        header=_header(base, engine),
        settings={"batch": batch, "engine": engine.value, "device": base.device},
    )
    started = time.perf_counter()
    if resume and isinstance(pictures, Sequence):
        bad = _bad_of_finished(writer, pictures, preprocess=base.preprocess)
        if bad is not None:
            for path, reason in bad:
                skip(path, reason)
            log.info("%s is complete; nothing to do", output)
            rows = len(pictures) - len(bad)
            return _summary(output, shape, rows=rows, skipped=len(bad), resumed=rows, started=started)
    done = writer.resume(multiple_of=batch) if resume else []
    skipped = 0

    def count(path: str, reason: str) -> None:
        nonlocal skipped
        skipped += 1
        skip(path, reason)

    try:
        with writer:
            left, passed = _after(pictures, done, output, preprocess=base.preprocess, skip=count)
            answers = runner.run(
                left,
                base.preprocess,
                base.network,
                batch=batch,
                jobs=jobs,
                skip=count,
                progress=lambda here, total: progress(passed + here, None if total is None else passed + total),
            )
            for shown, (values, *_) in answers:
                writer.write(values, [_row(picture, output.parent) for picture in shown])
            if not writer.count:
                raise CnnkitError("no picture could be used; nothing written")
    except BaseException as error:
        if writer.count and not isinstance(error, CnnkitError):
            log.info("%d rows are kept in %s.part; --resume goes on after them", writer.count, output)
        raise
    return _summary(output, shape, rows=writer.count, skipped=skipped, resumed=len(done), started=started)


def bench(
    pictures: Sequence[Picture],
    *,
    request: Request,
    batch: int = 32,
    jobs: int | None = None,
    device: str = "auto",
    engine: Engine = Engine.ONNX,
) -> Rates:
    """Measure decoding alone, the base alone, and both together; nothing is written."""
    base = _open(request, device=device, engine=engine)
    batch = max(1, min(batch, len(pictures)))
    log.info("measuring with %d pictures", len(pictures))
    return runner.measure(
        pictures, base.preprocess, base.network, batch=batch, jobs=jobs, shared_cores=base.device == "cpu"
    )


def _open(request: Request, *, device: str, engine: Engine) -> _Base:
    if engine is Engine.TORCH:
        network, header, place = bases.torch_network(request, device=device)
        return _Base(network, header, place.partition(":")[0])
    devices.existing(device)  # before a base is exported, which takes its time
    model = bases.get(request)
    assert model.header is not None
    session = Session(model.content, device=device, name="the base")

    def run(images: NDArray[np.uint8]) -> Sequence[NDArray[Any]]:
        return session.run({"images": images}, ["features"])

    return _Base(run, model.header, session.device.kind)


def _row_shape(base: _Base) -> tuple[int, ...]:
    """Find the shape of one picture's features."""
    size = base.preprocess.size
    return base.network(np.zeros((1, size, size, 3), dtype=np.uint8))[0].shape[1:]


def _header(base: _Base, engine: Engine) -> Header:
    runtime = ("onnxruntime-gpu", "onnxruntime") if engine is Engine.ONNX else ("torch",)
    return Header(
        kind=Kind.FEATURES,
        preprocess=base.preprocess,
        backbone=base.header.backbone,
        made_by=made_by("numpy", "pillow", *runtime),
    )


def _summary(output: Path, shape: Sequence[int], *, rows: int, skipped: int, resumed: int, started: float) -> Summary:
    seconds = time.perf_counter() - started
    rate = (rows - resumed) / seconds
    return Summary(str(output), rows, "x".join(map(str, shape)), skipped, resumed, round(seconds, 2), round(rate, 1))


def _row(picture: Picture, folder: Path) -> Row:
    return Row(manifest.seen_from(folder, picture.path), picture.label, picture.split, picture.group)


def _bad_of_finished(
    writer: features.Writer, pictures: Sequence[Picture], *, preprocess: Preprocess
) -> list[tuple[str, str]] | None:
    """Find out whether an earlier run was through with these very pictures.

    Returns:
        The pictures that it had to leave out, with their reasons; None if there is something to do.
    """
    coming = iter(writer.finished() or [])
    expected = next(coming, None)
    bad: list[tuple[str, str]] = []
    for picture in pictures:
        if expected is not None and _row(picture, writer.path.parent) == expected:
            expected = next(coming, None)
        elif (reason := _flaw(picture, preprocess)) is not None:
            bad.append((picture.path, reason))
        else:
            return None
    return bad if expected is None and len(bad) < len(pictures) else None


def _flaw(picture: Picture, preprocess: Preprocess) -> str | None:
    """Say why a picture cannot be used, if it cannot."""
    try:
        preparing.load(picture.path, preprocess)
    except BadPicture as error:
        return str(error)
    return None


def _after(
    pictures: Iterable[Picture], done: Sequence[Row], output: Path, *, preprocess: Preprocess, skip: Skip
) -> tuple[Iterable[Picture], int]:
    """Find where an interrupted run stopped, naming again the pictures that it had skipped.

    Returns:
        The pictures that are left, and how many were passed.

    Raises:
        UsageError: The pictures are not those that the run began with.
    """
    if not done:
        return pictures, 0
    coming: Iterator[Picture] = iter(pictures)
    passed = 0
    for expected in done:
        for picture in coming:
            passed += 1
            row = _row(picture, output.parent)
            if row == expected:
                break
            reason = _flaw(picture, preprocess)
            if reason is None:
                raise _other_pictures(output, expected, row)
            skip(picture.path, reason)
        else:
            raise _other_pictures(output, expected, None)
    log.info("going on after %d rows", len(done))
    return pictures[passed:] if isinstance(pictures, Sequence) else coming, passed


def _other_pictures(output: Path, expected: Row, found: Row | None) -> UsageError:
    now = "nothing" if found is None else found.path if found.path != expected.path else "another label, part or group"
    return UsageError(
        f"{output}: this run began with other pictures: {expected.path} came next then, now it is {now}; begin anew without --resume"
    )
