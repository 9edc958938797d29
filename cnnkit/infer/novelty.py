"""Novelty as an output of an exported network: a distance fitted to features, its threshold, and a check on images. No torch."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from cnnkit import messages
from cnnkit.choices import NoveltyMethod
from cnnkit.data import preprocessing, reader, split_names
from cnnkit.data.source import ImageFile
from cnnkit.engine import novelty_graph
from cnnkit.engine.onnx_classifier import OnnxNetwork
from cnnkit.engine.session import Session
from cnnkit.errors import BadImageError, CnnkitError, FormatError, UsageError
from cnnkit.evaluation import novelty
from cnnkit.evaluation.novelty import TrainingFeatures
from cnnkit.formats import features, manifest, onnx_model
from cnnkit.formats.header import Header, Novelty, difference
from cnnkit.formats.onnx_record import NOVELTY
from cnnkit.infer.config import NoveltyConfig

log = logging.getLogger("cnnkit")

#: The most validation images that pass through the network to find its features and to check the novelty.
_IMAGES = 16

#: The largest difference between the features of a file and a tensor of the network, as a share of their length, if they are the same.
_SAME_TENSOR = 0.5

#: The mean difference of a novelty, as a share, of a file's features and those of the network, if they are the same. Of MobileNetV2 in int8
#: it is 0.9 % on flowers, with up to 5 % for an image.
_PROVENANCE_TOLERANCE = 0.02

#: The largest difference of a novelty, as a share, of the network and NumPy: by rounding, small networks reach 0.02 % on AVX2.
_TOLERANCE = 1e-3

#: The difference from a file's features that is reported, as of networks in float16 and int8.
_NOTABLE = 1e-3


@dataclass(frozen=True, slots=True)
class NoveltyFit:
    """The novelty of a network: the images that it was measured on, the threshold, and the share of the validation images up to it.

    `bytes` is by how much the network grew; None if none was written.
    """

    method: NoveltyMethod
    components: int
    train: int
    val: int
    threshold: float
    kept: float
    bytes: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Set:
    """Features of a set of images: their file, values (N, ...), classes and paths from the current folder."""

    name: str
    values: NDArray[Any]
    labels: list[str | None]
    paths: list[str]
    header: Header


def add(config: NoveltyConfig, *, model: Path | None = None, output: Path | None = None) -> NoveltyFit:
    """Measure how far validation images are from training images, and write a network that measures the same.

    Args:
        config: The features and the share of validation images to keep.
        model: The network; None only measures.
        output: The file to write.

    Raises:
        UsageError: There are no validation images, or no training images.
        FormatError: A file is broken, or was made by another network.
        CnnkitError: The features do not differ, or the network computes others.
    """
    train, val = _sets(config.checked())
    network = None if model is None else onnx_model.load(model)
    header = None if network is None else onnx_model.check_ours(network, name=str(model), takes="a novelty")
    if header is not None:
        _check_origin(train, header, name=str(model))
    training = novelty.fit(novelty.pooled(train.values), train.labels)
    found = novelty.distances(training, novelty.pooled(val.values))
    limit = novelty.threshold(found, keep=config.keep)
    fitted = NoveltyFit(
        method=NoveltyMethod.MAHALANOBIS,
        components=training.axes.shape[1],
        train=len(train.values),
        val=len(val.values),
        threshold=limit,
        kept=float((found <= limit).mean()),
    )
    if network is None or header is None or output is None:
        return fitted
    record = Novelty(
        fitted.method,
        threshold=limit,
        keep=config.keep,
        train=fitted.train,
        val=fitted.val,
        components=fitted.components,
    )
    bare = novelty_graph.without(onnx_model.parse(network.content, name=str(model)))
    made = _checked(bare, header, training, val, name=str(model))
    content = onnx_model.finished(made, header.but(novelty=record))
    onnx_model.checked(content, name=str(output))
    onnx_model.save(output, content)
    return replace(fitted, bytes=len(content) - len(bare.SerializeToString()))


def _sets(config: NoveltyConfig) -> tuple[_Set, _Set]:
    """Load the features of the training and of the validation images."""
    assert config.novelty is not None
    train = _loaded(config.novelty, split_names.TRAIN_NAMES)
    if config.val is None:
        val = _loaded(config.novelty, split_names.VALIDATION_NAMES, needed=False)
        if val is None:
            raise UsageError(
                f"{config.novelty} has no rows of split val, which give the threshold; add --val FILE.npy, features of the validation set"
            )
    else:
        val = _loaded(config.val, split_names.VALIDATION_NAMES)
    assert train is not None
    assert val is not None
    if differs := difference(val.header, train.header):
        field, *values = differs
        raise FormatError(
            f"{val.name} was made with {field} {values[0]}, {train.name} with {values[1]}; "
            "run cnn-extract with the same settings"
        )
    if train.values.shape[1:] != val.values.shape[1:]:
        raise FormatError(f"{train.name} has rows of {train.values.shape[1:]}, {val.name} of {val.values.shape[1:]}")
    both = {os.path.realpath(path) for path in train.paths} & {os.path.realpath(path) for path in val.paths}
    if both:
        log.warning(
            "%s of %s in the training features, too: they are nearer than new ones, and the threshold is too low",
            messages.count_images(len(both)),
            val.name,
        )
    return train, val


def _loaded(path: Path, split: frozenset[str], *, needed: bool = True) -> _Set | None:
    """Load the rows of a split, or all if no row has one of another name; without augmented views.

    Returns:
        None if they are not `needed`, and no row is of that split.
    """
    found = features.load(path)
    own = [number for number, row in enumerate(found.rows) if not row.view]
    named = {(found.rows[number].split or "").lower() for number in own} - {""}
    if (named & split and len(named) > 1) or not needed:
        own = [number for number in own if (found.rows[number].split or "").lower() in split]
    elif len(named) > 1:
        raise UsageError(f"{path} has rows of the splits {', '.join(sorted(named))}; extract one with --split")
    if not own:
        if not needed:
            return None
        raise CnnkitError(f"{path}: no rows")
    folder = os.path.dirname(path)
    rows = [found.rows[number] for number in own]
    return _Set(
        str(path),
        found.values if len(own) == len(found.values) else found.values[own],
        [row.label for row in rows],
        [manifest.seen_here(folder, row.path) for row in rows],
        found.header,
    )


def _check_origin(train: _Set, header: Header, *, name: str) -> None:
    """Check that features have the backbone and the preprocessing of a network.

    Raises:
        FormatError: They do not.
    """
    own, given = train.header, header
    if given.backbone is not None and own.backbone is not None and given.backbone.weights_sha256 is None:
        own = own.but(backbone=replace(own.backbone, weights_sha256=None))  # trained further; the images decide
    if differs := difference(own, given):
        field, *values = differs
        what = {"name": "backbone", "weights_sha256": "weights"}.get(field, field)
        one, other = (str(value)[:40] for value in values)
        raise FormatError(
            f"{train.name} was made with {what} {one}, {name} with {other}; extract the features with the backbone of the network"
        )


def _checked(bare: ModelProto, header: Header, training: TrainingFeatures, val: _Set, *, name: str) -> ModelProto:
    """Add the novelty to a network, and compare it with that of the features of some validation images.

    Raises:
        CnnkitError: The network computes other features.
        FormatError: Its features cannot be found.
    """
    shape = val.values.shape[1:]
    possible = novelty_graph.candidates(bare, shape)
    takes_features = "features" in {value.name for value in bare.graph.input}
    chosen = sorted({number * len(val.values) // _IMAGES for number in range(_IMAGES)})
    inputs: NDArray[Any]
    if takes_features:
        inputs = np.asarray(val.values[chosen], dtype=np.float32)
    else:
        chosen, inputs = _pixels(val, chosen, header)
    known = np.asarray(val.values[chosen], dtype=np.float32)
    if not possible or not (len(chosen) or possible == ["features"]):
        why = "none of them has their shape" if not possible else "the images of the validation set cannot be read"
        raise FormatError(
            f"{name}: which of its tensors are the features of {val.name} cannot be found, since {why}; "
            "export it with cnn-export --features"
        )
    tensor = possible[0]
    if len(chosen) and not takes_features:
        found = _runner(novelty_graph.showing(bare, possible), header, name=name)(inputs, possible)
        lengths = np.linalg.norm(known.reshape(len(known), -1))
        errors = [float(np.linalg.norm((each - known).reshape(len(known), -1)) / lengths) for each in found]
        tensor = possible[int(np.argmin(errors))]
        if not min(errors) <= _SAME_TENSOR:
            raise _other_features(val, name)
    # In float16, it is another tensor: ONNX Runtime may compute it without rounding
    made, tensor = novelty_graph.with_novelty(bare, training, features=tensor, name=name)
    if not len(chosen):
        log.warning(
            "%s: its images cannot be read from here, so cannot check that %s computes its features", val.name, name
        )
        return made
    expected = novelty.distances(training, novelty.pooled(known))
    outputs = [NOVELTY] if takes_features else [NOVELTY, tensor]
    got, *own = _runner(novelty_graph.showing(made, outputs), header, name=name)(inputs, outputs)
    exact = expected if takes_features else novelty.distances(training, novelty.pooled(own[0]))
    difference_of_graph = float(np.abs(got / np.maximum(exact, 1e-9) - 1).max())
    if not difference_of_graph <= _TOLERANCE:
        raise CnnkitError(
            f"{name}: its novelty differs by {difference_of_graph:.3g} from that of NumPy; nothing written"
        )
    others = np.abs(got / np.maximum(expected, 1e-9) - 1)
    if not others.mean() <= _PROVENANCE_TOLERANCE:
        raise _other_features(val, name)
    if others.max() > _NOTABLE:
        log.info(
            "%s is less exact than %s: on %s, the novelty differs by up to %.1f %%",
            *(name, val.name, messages.count_images(len(chosen)), 100 * float(others.max())),
        )
    return made


def _other_features(val: _Set, name: str) -> CnnkitError:
    word = messages.shell_word(name)
    return CnnkitError(
        f"{name} computes other features than those in {val.name}; export it with --features, and extract both files with "
        f"cnn-extract --backbone {word}"
    )


def _pixels(val: _Set, chosen: Sequence[int], header: Header) -> tuple[list[int], NDArray[np.uint8]]:
    """Decode some of the images, (n, H, W, 3), without those that cannot be read."""
    assert header.preprocess is not None
    load = partial(preprocessing.load, preprocess=header.preprocess)
    images = [ImageFile(val.paths[number]) for number in chosen]
    ready = [
        (number, loaded)
        for number, (_, loaded) in zip(chosen, reader.read(images, load), strict=True)
        if not isinstance(loaded, BadImageError)
    ]
    size = (header.preprocess.height, header.preprocess.width, 3)
    pixels = np.stack([loaded for _, loaded in ready]) if ready else np.empty((0, *size), dtype=np.uint8)
    return [number for number, _ in ready], pixels


def _runner(proto: ModelProto, header: Header, *, name: str) -> Callable[..., list[NDArray[np.float32]]]:
    """Return a function of inputs and names of outputs."""
    session = Session(proto.SerializeToString(), device="cpu", name=name)
    width = len(header.columns or ())
    network = OnnxNetwork(name, session, columns=width)
    preprocess = None if network.input == "features" else header.preprocess

    def run(inputs: NDArray[Any], outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        columns = np.zeros((len(inputs), width), dtype=np.float32) if width else None
        arrays = network.run(inputs, outputs, preprocess=preprocess, columns=columns)
        return [array.astype(np.float32) for array in arrays]

    return run
