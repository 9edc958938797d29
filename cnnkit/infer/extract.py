"""Run a convolutional backbone once over images and save the features; an interrupted run can be resumed."""

import contextlib
import logging
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.callbacks import Callbacks, Skip
from cnnkit.choices import Engine, Precision
from cnnkit.data import augment_notation, preprocessing, shards, split_names
from cnnkit.data.shards import Shard
from cnnkit.data.source import ImageFile, with_label_lists
from cnnkit.engine import device as devices
from cnnkit.engine import onnx_backbone, runner
from cnnkit.engine.config import BackboneSpec
from cnnkit.engine.runner import Rates
from cnnkit.engine.session import Session
from cnnkit.errors import BadImageError, CnnkitError, FormatError, UsageError, WorkerError
from cnnkit.formats import atomic, features
from cnnkit.formats.header import ArtefactKind, Header, Preprocess, made_by
from cnnkit.formats.manifest import ManifestRow
from cnnkit.infer.config import ExtractConfig
from cnnkit.infer.feature_shards import ShardRecord
from cnnkit.infer.feature_update import Update
from cnnkit.infer.views import ExtractViews, rows_of

log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class ExtractSummary:
    """Summary of an extraction; `per_second` is the rate of this run, in rows, decoding included."""

    features: str
    rows: int
    shape: str
    skipped: int
    resumed: int
    seconds: float
    per_second: float


@dataclass(frozen=True, slots=True)
class _Backbone:
    """A loaded backbone: the function from images to features, its Header and its device."""

    network: runner.NetworkFunction
    header: Header
    device: str
    in_flight: int = 1

    @property
    def preprocess(self) -> Preprocess:
        """Its preprocessing."""
        assert self.header.preprocess is not None
        return self.header.preprocess


def extract(
    images: Iterable[ImageFile],
    output: str | Path,
    config: ExtractConfig | None = None,
    *,
    spec: BackboneSpec,
    callbacks: Callbacks | None = None,
) -> ExtractSummary:
    """Write the features of images to `.npy`, `.tsv` and `.json`; memory does not grow with their number.

    Args:
        images: Their labels, splits and groups go into the `.tsv`.
        output: The `.npy`.
        config: Settings. With views, an image has one row per view, consecutively, numbered in the column `view` of the `.tsv`.
        spec: The backbone.
        callbacks: `skip` for every image that cannot be used, `progress` after every batch.

    With `config.shard`, only the rows of one share of the images are written; `feature_shards.join` joins them.

    Raises:
        CnnkitError: No image could be used, except in a shard; or the backbone is not available.
    """
    config, callbacks = (config or ExtractConfig()).checked(), callbacks or Callbacks()
    output = Path(output)
    features.check_neighbours(output)  # before anything is computed
    atomic.check_folder(output)
    views = _views(config)
    shard = shards.of(config.shard)
    if shard is not None or config.update:
        images = list(images)
    backbone = _open_backbone(spec, config)
    batch = _batch_size(config.batch_on(backbone.device), images, views)
    images, several = with_label_lists(images)
    record, first = None, 0
    if shard is not None:
        assert isinstance(images, list)
        record = ShardRecord.of(
            shard,
            images,
            batch=batch,
            device=backbone.device,
            batch_invariant=_is_batch_invariant(backbone, batch),
        )
        before = images[: shard.bounds(len(images))[0]]
        first = (len(before) if views is None else sum(len(views.of(image)) for image in before)) % batch
        images = shards.share(images, shard)
    writer = _writer(output, backbone, config, batch=batch, views=views, record=record, several=several)
    if views is not None and isinstance(images, Sequence):
        _log_plain_splits(images)
    started = time.perf_counter()
    if config.resume and isinstance(images, Sequence):
        complete = _summary_if_complete(writer, images, backbone, views=views, skip=callbacks.skip, started=started)
        if complete is not None:
            return complete
    done = writer.resume(multiple_of=batch) if config.resume else []
    update = None
    if config.update:
        assert isinstance(images, list)
        invariant = batch == 1 or _is_batch_invariant(backbone, batch)
        update = Update.begin(writer, images, jobs=config.jobs, usable=invariant)
    labels = {label for row in done for label in _labels(row)}
    skipped = 0

    def count(path: str, reason: str) -> None:
        nonlocal skipped
        skipped += 1
        callbacks.skip(path, reason)

    callbacks.phase("extracting")
    with _log_kept_rows(writer, batch), writer, _one_thread_each(views, config.engine):
        left, passed, views_done = _remaining(
            images, done, output, preprocess=backbone.preprocess, views=views, skip=count
        )

        def count_rows(image: ImageFile) -> int:
            return 1 if views is None else len(views.of(image))

        if update is not None:
            left = update.new(images, count_rows)
        results = runner.run(
            left,
            [backbone.preprocess],
            backbone.network,
            batch=batch,
            jobs=config.jobs,
            workers=config.workers,
            views=views,
            views_done=views_done,
            first=first,  # resumed after whole batches
            in_flight=backbone.in_flight,
            progress=lambda here, total: callbacks.progress(passed + here, None if total is None else passed + total),
        )
        if update is not None:
            results = update.merged(images, count_rows, results)
        for image, (values, *_) in runner.usable(results, count):
            rows = rows_of(image, output.parent, views)
            writer.write(values, rows[-len(values) :])  # the first image already has `views_done` views
            labels.update(_labels(image))
            if update is not None:
                update.wrote(image, rows[0].path)
        if not writer.count and shard is None:
            raise CnnkitError("no image could be used; nothing written")
        _log_lost_classes(images, labels)
    if update is not None:
        update.save()
    resumed = len(done) if update is None else update.kept
    return _summary(writer, rows=writer.count, skipped=skipped, resumed=resumed, started=started)


class Extractor:
    """A backbone, loaded once, that returns the features of images instead of writing them.

    Attributes:
        header: Describes the features, as the `.json` next to a `.npy` does.
    """

    def __init__(self, config: ExtractConfig | None = None, *, spec: BackboneSpec) -> None:
        """Load a backbone.

        Args:
            config: Its dtype, engine, device, precision, batch, jobs and workers; views need files.
            spec: Which backbone.

        Raises:
            UsageError: There is no such backbone, or `config` has views or a shard.
            CnnkitError: The backbone cannot be had.
        """
        self._config = (config or ExtractConfig()).checked()
        if self._config.views is not None:
            raise UsageError("augmented views are extracted to files; use cnn-extract --views")
        if self._config.shard is not None:
            raise UsageError("shards are extracted to files; use cnn-extract --shard")
        self._backbone = _open_backbone(spec, self._config)
        self.header = _header(self._backbone, self._config)

    def extract(
        self, images: Iterable[ImageFile], *, shard: Shard | None = None, callbacks: Callbacks | None = None
    ) -> features.Features:
        """Compute the features of images, the same numbers that `extract` writes.

        Args:
            images: Their labels, splits and groups become those of the rows. Of an iterator, a few batches are in memory.
            shard: Compute only the rows of these, to the last bit as in one run over all images.
            callbacks: `skip` for every image that cannot be used, `progress` after every batch.

        Returns:
            The features in memory; paths of rows open from the current folder.

        Raises:
            CnnkitError: No image could be used, except in a shard.
        """
        config, backbone, callbacks = self._config, self._backbone, callbacks or Callbacks()
        batch = config.batch_on(backbone.device)
        if shard is not None:
            images = list(images)
        elif not isinstance(images, Sequence):
            coming = iter(images)
            begun = list(islice(coming, batch + 1))
            images = begun if len(begun) <= batch else chain(begun, coming)
        batch, first = _batch_size(batch, images, None), 0
        if shard is not None:
            assert isinstance(images, list)
            first = shard.bounds(len(images))[0] % batch
            images = shards.share(images, shard)
        results = runner.run(
            images,
            [backbone.preprocess],
            backbone.network,
            batch=batch,
            jobs=config.jobs,
            workers=config.workers,
            first=first,
            in_flight=backbone.in_flight,
            progress=callbacks.progress,
        )
        values, rows = [], []
        for image, (row_values, *_) in runner.usable(results, callbacks.skip):
            values.append(row_values.astype(config.dtype.value))
            rows.append(ManifestRow(image.path, image.label, image.split, image.group, labels=image.labels))
        if not rows and shard is None:
            raise CnnkitError("no image could be used")
        if not rows:
            values.append(np.empty((0, *_row_shape(backbone)), dtype=config.dtype.value))
        classes = tuple(sorted({label for row in rows for label in _labels(row) if label is not None})) or None
        return features.Features(np.concatenate(values), rows, self.header.but(classes=classes))


def bench(images: Sequence[ImageFile], config: ExtractConfig | None = None, *, spec: BackboneSpec) -> Rates:
    """Measure the speed of decoding, of the backbone, and of both together; nothing is written.

    Args:
        images: The images to measure with.
        config: Only engine, device, precision, batch, jobs and workers are used.
        spec: The backbone.
    """
    config = (config or ExtractConfig()).checked()
    backbone = _open_backbone(spec, config)
    batch = config.batch_on(backbone.device)

    def reopen(size: int) -> runner.NetworkFunction:
        if config.engine is Engine.TORCH:
            return backbone.network
        return _open_backbone(spec, replace(config, batch=size, device=backbone.device)).network

    return runner.bench(
        images,
        [backbone.preprocess],
        backbone.network,
        batch=max(1, min(batch, len(images))),
        advised=batch,
        reopen=reopen,
        jobs=config.jobs,
        workers=config.workers,
        shared_cores=backbone.device == "cpu",
        in_flight=backbone.in_flight,
    )


def _views(config: ExtractConfig) -> ExtractViews | None:
    """Return the views of each image; None if there is only the unchanged one.

    Raises:
        UsageError: The augmentation changes nothing.
        NotationError: It has an unknown word.
    """
    if config.views is None or config.augment is None:
        return None
    augmentation = augment_notation.parse_required(config.augment)
    from cnnkit.infer import torch_views  # an extraction without views imports no torch

    return ExtractViews(augmentation, config.views, config.seed, torch_views.TorchCopies())


def _open_backbone(spec: BackboneSpec, config: ExtractConfig) -> _Backbone:
    if config.engine is Engine.TORCH:
        from cnnkit.engine import torch_backbone  # ONNX Runtime needs no torch

        network, header, chosen = torch_backbone.load(spec, device=config.device, precision=config.precision)
        return _Backbone(_finite(network, config.precision), header, chosen.partition(":")[0])
    devices.existing(config.device)  # before a backbone is exported, which takes long
    model = onnx_backbone.get(spec)
    assert model.header is not None
    session = Session(
        model.content,
        device=config.device,
        name="the backbone",
        batch=config.batch_on("cpu"),
        precision=config.precision,
        needs=model.needs,
    )

    def run(batches: Sequence[NDArray[np.uint8]]) -> Sequence[NDArray[Any]]:
        (images,) = batches
        (features,) = session.run({"images": images}, ["features"])
        if not isinstance(features, np.ndarray) or features.ndim < 2 or len(features) != len(images):
            raise FormatError(f"{spec.backbone}: its output features is not a row of numbers for each image")
        return [features]

    kind = session.device.kind
    return _Backbone(_finite(run, config.precision), model.header, kind, in_flight=runner.batches_in_flight(kind))


def _finite(network: runner.NetworkFunction, precision: Precision) -> runner.NetworkFunction:
    """Refuse features with infinite values: float16 overflows above 65,504 anywhere in the network."""
    if precision is not Precision.FLOAT16:
        return network

    def checked(batches: Sequence[NDArray[np.uint8]]) -> Sequence[NDArray[Any]]:
        outputs = network(batches)
        if not all(np.isfinite(output).all() for output in outputs):
            raise CnnkitError("the backbone has values too large for float16; use --precision tf32")
        return outputs

    return checked


def _is_batch_invariant(backbone: _Backbone, batch: int) -> bool:
    """Measure whether an image has the same features, to the last bit, in every row of a batch.

    Maps whose size is not a multiple of a vector register begin at other alignments in each row, and their sums are added up in another
    order.
    """
    size = backbone.preprocess.size
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    (values,) = backbone.network([np.repeat(image, batch, axis=0)])
    return all(row.tobytes() == values[0].tobytes() for row in values[1:])


def _row_shape(backbone: _Backbone) -> tuple[int, ...]:
    """Return the shape of one image's features.

    Raises:
        UsageError: They are neither a vector nor a map.
    """
    size = backbone.preprocess.size
    shape = backbone.network([np.zeros((1, size, size, 3), dtype=np.uint8)])[0].shape[1:]
    if len(shape) not in (1, 3):
        raise UsageError(
            f"the layer outputs {'x'.join(map(str, shape))}, neither a vector nor a map; "
            "for the tokens of a vision transformer give --pool cls, avg or cls+avg"
        )
    return shape


def _header(
    backbone: _Backbone, config: ExtractConfig, views: ExtractViews | None = None, record: ShardRecord | None = None
) -> Header:
    runtime = ("onnxruntime-gpu", "onnxruntime") if config.engine is Engine.ONNX else ("torch",)
    precision = {} if config.precision is Precision.FLOAT32 else {"precision": config.precision.value}
    return Header(
        kind=ArtefactKind.FEATURES,
        preprocess=backbone.preprocess,
        backbone=backbone.header.backbone,
        training=({} if views is None else views.described())
        | precision
        | ({} if record is None else record.described()),
        made_by=made_by("numpy", "pillow", *runtime),
    )


def _batch_size(batch: int, images: Iterable[ImageFile], views: ExtractViews | None) -> int:
    """Limit the batch size to the number of rows, since batches are padded."""
    if not isinstance(images, Sized):
        return batch
    return max(1, min(batch, len(images) * (1 if views is None else 1 + views.copies)))


def _writer(
    output: Path,
    backbone: _Backbone,
    config: ExtractConfig,
    *,
    batch: int,
    views: ExtractViews | None,
    record: ShardRecord | None,
    several: bool,
) -> features.FeatureWriter:
    return features.FeatureWriter(
        output,
        shape=_row_shape(backbone),
        dtype=config.dtype,
        header=_header(backbone, config, views, record),
        settings={"batch": batch, "engine": config.engine.value, "device": backbone.device},
        columns=features.columns_of(views=views is not None, several_labels=several),
        block=batch,
        skip_unchanged=config.skip_unchanged,
    )


def _summary_if_complete(
    writer: features.FeatureWriter,
    images: Sequence[ImageFile],
    backbone: _Backbone,
    *,
    views: ExtractViews | None,
    skip: Skip,
    started: float,
) -> ExtractSummary | None:
    """Return the summary of an earlier run with the same images if it is complete, otherwise None."""
    bad = _bad_images_if_complete(writer, images, preprocess=backbone.preprocess, views=views)
    if bad is None:
        return None
    for path, reason in bad:
        skip(path, reason)
    log.info("%s is complete; nothing to do", writer.path)
    rows = len(writer.finished() or ())
    return _summary(writer, rows=rows, skipped=len(bad), resumed=rows, started=started)


@contextlib.contextmanager
def _log_kept_rows(writer: features.FeatureWriter, batch: int) -> Generator[None]:
    try:
        yield
    except BaseException as error:
        kept = writer.count - writer.count % batch
        if kept and (isinstance(error, WorkerError) or not isinstance(error, CnnkitError)):
            log.info("%d rows are kept in %s.part; continue with --resume", kept, writer.path)
        raise


def _summary(
    writer: features.FeatureWriter, *, rows: int, skipped: int, resumed: int, started: float
) -> ExtractSummary:
    seconds = time.perf_counter() - started
    rate = (rows - resumed) / seconds
    shape = "x".join(map(str, writer.shape))
    return ExtractSummary(str(writer.path), rows, shape, skipped, resumed, round(seconds, 2), round(rate, 1))


def _labels(row: ImageFile | ManifestRow) -> Sequence[str | None]:
    return (row.label,) if row.labels is None else row.labels


def _log_lost_classes(images: Iterable[ImageFile], kept: Collection[str | None]) -> None:
    """Warn of classes without a usable image, which the output does not show."""
    if isinstance(images, Sequence):
        given = {label for image in images for label in _labels(image) if label is not None}
        for label in sorted(given - set(kept)):
            log.warning("class %s is missing: none of its images can be used", label)


def _log_plain_splits(images: Sequence[ImageFile]) -> None:
    """Log the splits that are not augmented."""
    splits = [split for split in map(split_names.held_out_split, images) if split is not None]
    if splits:
        names = " and ".join(sorted(set(splits)))
        log.info("%d images of %s are not augmented; only training images are", len(splits), names)


def _one_thread_each(views: ExtractViews | None, engine: Engine) -> AbstractContextManager[None]:
    """Restrict torch to one core per thread that makes views, unless torch also computes the features."""
    if views is None or engine is Engine.TORCH:
        return contextlib.nullcontext()
    return views.make_copies.single_threaded()


def _bad_images_if_complete(
    writer: features.FeatureWriter, images: Sequence[ImageFile], *, preprocess: Preprocess, views: ExtractViews | None
) -> list[tuple[str, str]] | None:
    """Check whether an earlier run with the same images is complete.

    Returns:
        The images that it skipped, with the reasons; None if it is not complete.
    """
    listed = writer.finished()
    if listed is None:
        return None
    at = 0
    bad: list[tuple[str, str]] = []
    for image in images:
        rows = rows_of(image, writer.path.parent, views)
        if listed[at : at + len(rows)] == rows:
            at += len(rows)
        elif (reason := _load_error(image, preprocess)) is not None:
            bad.append((image.path, reason))
        else:
            return None
    return bad if at == len(listed) else None


def _load_error(image: ImageFile, preprocess: Preprocess) -> str | None:
    """Return why an image cannot be used; None if it can."""
    try:
        preprocessing.load(image.path, preprocess)
    except BadImageError as error:
        return str(error)
    return None


def _remaining(
    images: Iterable[ImageFile],
    done: Sequence[ManifestRow],
    output: Path,
    *,
    preprocess: Preprocess,
    views: ExtractViews | None,
    skip: Skip,
) -> tuple[Iterable[ImageFile], int, int]:
    """Find where an interrupted run stopped, and report again the images that it skipped.

    Returns:
        The remaining images, the number of images before them, and the number of views of the first remaining one that are done.

    Raises:
        UsageError: The images differ from those of the interrupted run.
    """
    if not done:
        return images, 0, 0
    coming: Iterator[ImageFile] = iter(images)
    passed = at = 0
    for image in coming:
        passed += 1
        rows = rows_of(image, output.parent, views)
        here = list(done[at : at + len(rows)])
        if here != rows[: len(here)]:
            reason = _load_error(image, preprocess)
            if reason is None:
                raise _other_images(output, done[at], rows[0])
            skip(image.path, reason)
            continue
        at += len(here)
        if at == len(done):
            break
    else:
        raise _other_images(output, done[at], None)
    log.info("resuming after %d rows", len(done))
    views_done = len(here) % len(rows)  # the last batch may have ended in the middle of an image
    if views_done and _load_error(image, preprocess) is not None:
        raise _other_images(output, done[-1], None)
    if views_done:
        passed, coming = passed - 1, chain([image], coming)
    return images[passed:] if isinstance(images, Sequence) else coming, passed, views_done


def _other_images(output: Path, expected: ManifestRow, found: ManifestRow | None) -> UsageError:
    now = "nothing" if found is None else found.path if found.path != expected.path else "another label, split or group"
    return UsageError(
        f"{output}: the interrupted run had other images: expected {expected.path} next, found {now}; start over without --resume"
    )
