"""Which of the four textbook cases of transfer learning a set of images is, and the command that follows from it.

            similar                                   different
    small   a new head on the backbone's features         a head on features of an earlier layer
    large   all layers trained, from the backbone's own   from scratch

Source: Stanford CS231n, Transfer Learning; Udacity's Deep Learning course, whose table of the four cases this is.
"""

import logging
import random
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnnkit.audit.config import AdviseConfig
from cnnkit.callbacks import Callbacks
from cnnkit.choices import Pool
from cnnkit.data import train_val
from cnnkit.data.source import ImageFile
from cnnkit.data.train_val import DatasetSize, TrainValImages
from cnnkit.engine import device as devices
from cnnkit.engine import multi_layer_features, runner, torch_backbone, torch_device
from cnnkit.engine.config import BackboneSpec
from cnnkit.errors import CnnkitError
from cnnkit.nets.classifier import Extractor

log = logging.getLogger("cnnkit")

#: How many images are looked at: enough for a standard error of 2 or 3 %, in seconds.
SAMPLE = 300

# At least so many images of each class, one for each fold of the cross-validation.
_FOLDS = 5

# The difference of two layers counts from here on, in standard errors: about 95 %.
_CLEARLY = 2.0

_BATCH = 32


class Similarity(StrEnum):
    """Whether the backbone's last layer serves these images, too."""

    SIMILAR = "similar"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Advice:
    """What a set is like, and what to do.

    `accuracy` is that of a logistic regression on the averaged features of a layer of the backbone, cross-validated on the images that
    were looked at, the last layer first; `gain` how much better the best of the earlier layers is, and `gain_error` its standard error.
    """

    pictures: int
    classes: int
    per_class: int
    size: DatasetSize
    looked_at: int
    accuracy: dict[str, float]
    gain: float
    gain_error: float
    similarity: Similarity
    case: str
    command: str


@dataclass(frozen=True, slots=True)
class SourceNames:
    """How the command line names a set: the sources, and those that validate where they are others."""

    words: Sequence[str]
    val: Sequence[str] = ()


def advise(
    data: TrainValImages,
    *,
    sources: SourceNames,
    config: AdviseConfig,
    callbacks: Callbacks | None = None,
) -> Advice:
    """Measure whether a pretrained backbone's last layer serves a set best, and name the case.

    The set is similar to what the backbone was trained on unless an earlier layer is clearly better than the last one: features that
    tell ImageNet's classes apart have then lost what these images would need.

    Args:
        data: The set; the images for training alone are looked at.
        sources: How the command line names it, for the command that is proposed.
        config: The backbone, where it runs, and the seed.
        callbacks: Progress and skipped images.

    Raises:
        UsageError: Random weights, or a backbone without earlier layers to compare with.
        CnnkitError: The weights cannot be had, or a class has too few images.
    """
    callbacks, config = callbacks or Callbacks(), config.checked()
    backbone, weights, seed = config.backbone, config.weights, config.seed
    counts = np.bincount([data.classes.index(image.label or "") for image in data.train])
    chosen_device = torch_device.choose(devices.parse(config.device))
    extractor, header = torch_backbone.build_extractor(BackboneSpec(backbone=backbone, weights=weights, pool=Pool.AVG))
    assert isinstance(extractor, Extractor)
    assert header.preprocess is not None
    layers_extractor = multi_layer_features.MultiLayerExtractor(extractor, size=header.preprocess.size)
    layers_extractor.module.to(chosen_device)
    chosen = _sample(data, seed=seed)

    def network(batches: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        (images,) = batches
        return [output.cpu().numpy() for output in layers_extractor(torch.from_numpy(images).to(chosen_device))]

    labels: list[str] = []
    features: list[list[NDArray[np.float32]]] = []  # by batches, each by layers
    results = runner.run(
        chosen, [header.preprocess], network, batch=_BATCH, jobs=config.jobs, progress=callbacks.progress
    )
    for shown, outputs in runner.in_batches(results, _BATCH, skip=callbacks.skip):
        labels += [image.label or "" for image in shown]
        features.append(outputs)
    if not labels:
        raise CnnkitError("no picture could be used; there is nothing to measure")
    for label in data.classes:  # some may have turned out to be none
        _check_enough(label, labels.count(label))
    callbacks.phase("measuring layers")
    right = _right([np.concatenate(layer) for layer in zip(*features, strict=True)], labels, seed=seed)
    accuracy = {name: round(float(each.mean()), 4) for name, each in zip(layers_extractor.names, right, strict=True)}
    best = max(range(1, len(right)), key=lambda index: right[index].mean())
    gained = right[best] - right[0]  # on the same images: those that both get right or wrong say nothing
    gain, error = float(gained.mean()), float(gained.std()) / len(gained) ** 0.5
    similarity = Similarity.DIFFERENT if gain > _CLEARLY * error else Similarity.SIMILAR
    size = train_val.dataset_size(len(data.train))
    log.info(
        "%s: %s pictures for training, %s than %s; %s: layer %s of %s tells %.1f %% of them apart, its last one %.1f %% (+- %.1f)",
        size,
        f"{len(data.train):,}",
        "no fewer" if size is DatasetSize.LARGE else "fewer",
        f"{train_val.LARGE:,}",
        similarity,
        layers_extractor.names[best],
        backbone,
        100 * right[best].mean(),
        100 * right[0].mean(),
        100 * _CLEARLY * error,
    )
    return Advice(
        pictures=len(data.train),
        classes=len(data.classes),
        per_class=int(counts.min()),
        size=size,
        looked_at=len(labels),
        accuracy=accuracy,
        gain=round(gain, 4),
        gain_error=round(error, 4),
        similarity=similarity,
        case=f"{size} and {similarity}",
        command=_command(
            size,
            similarity,
            sources=sources,
            data=data,
            backbone=["--backbone", backbone, *([] if weights == "default" else ["--weights", weights])],
            layer=layers_extractor.names[best],
        ),
    )


def _sample(data: TrainValImages, *, seed: int) -> list[ImageFile]:
    """Choose as many images of every class, at least one for each fold."""
    each = max(SAMPLE // len(data.classes), _FOLDS)
    chosen = []
    for label in data.classes:
        found = [image for image in data.train if image.label == label]
        _check_enough(label, len(found))
        chosen += random.Random(seed).sample(found, min(each, len(found)))
    return chosen


def _check_enough(label: str, count: int) -> None:
    if count < _FOLDS:
        raise CnnkitError(f"{count} pictures of the class {label}; {_FOLDS} of each are the least to say anything")


def _right(features: Sequence[NDArray[np.float32]], labels: Sequence[str], *, seed: int) -> list[NDArray[np.float64]]:
    """Tell for each layer which images a logistic regression gets right that was fitted on the other folds."""
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    right = []
    for rows in features:
        # As strong a penalty for many features as for few: the logits' scale grows with their number
        model = make_pipeline(StandardScaler(), LogisticRegression(C=10 / rows.shape[1], max_iter=300))
        right.append((cross_val_predict(model, rows, labels, cv=folds) == np.array(labels)).astype(np.float64))
    return right


def _command(
    size: DatasetSize,
    similarity: Similarity,
    *,
    sources: SourceNames,
    data: TrainValImages,
    backbone: Sequence[str],
    layer: str,
) -> str:
    named = shlex.join(backbone)
    train, split = shlex.join(sources.words), data.train[0].split
    prepared: list[str] = []
    if not data.val and split is None:
        prepared = [f"cnn-split {train} --ratio 70,15,15 --manifest split.tsv"]
        train, split = "split.tsv", "train"
    both = " ".join([train, *(f"--val {shlex.quote(each)}" for each in sources.val)])
    match size, similarity:
        case [DatasetSize.SMALL, Similarity.SIMILAR]:
            steps = [f"cnn-finetune {named} {both} -o model.pt --unfreeze none"]
        case [DatasetSize.LARGE, Similarity.SIMILAR]:
            steps = [f"cnn-finetune {named} {both} -o model.pt --warmup-head 5 --unfreeze all"]
        case [DatasetSize.LARGE, Similarity.DIFFERENT]:
            steps = [f"cnn-train --arch {shlex.quote(backbone[1])} {both} -o model.pt"]
        case [DatasetSize.SMALL, Similarity.DIFFERENT]:
            extract = f"cnn-extract {named} --layer {layer}"
            val_split = data.val[0].split if data.val else "val"
            val = shlex.join(sources.val) if sources.val else train
            steps = [
                f"{extract} {train}{f' --split {split}' if split else ''} -o train.npy",
                f"{extract} {val}{f' --split {val_split}' if val_split else ''} -o val.npy",
                "cnn-train-head train.npy --val val.npy -o model.pt",
            ]
    return " && ".join([*prepared, *steps])
