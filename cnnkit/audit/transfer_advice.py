"""Which of the four textbook cases of transfer learning applies to a dataset, and the command for it.

            similar                                       different
    small   a head on the features of the backbone        a head on the features of an earlier layer
    large   fine-tuning of all layers                     training from scratch

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
from cnnkit.data import train_val
from cnnkit.data.source import ImageFile
from cnnkit.data.train_val import DatasetSize, TrainValImages
from cnnkit.engine import device as devices
from cnnkit.engine import multi_layer_features, runner, torch_backbone, torch_device
from cnnkit.engine.config import BackboneSpec
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.nets.classifier import Extractor

log = logging.getLogger("cnnkit")

#: Images in the sample: enough for a standard error of 2 or 3 %, in seconds.
SAMPLE = 300

# Folds of the cross-validation, and so the minimum number of images of each class.
_FOLDS = 5

# The minimum difference of two layers, in standard errors: about 95 % confidence.
_CLEARLY = 2.0

_BATCH = 32


class Similarity(StrEnum):
    """Whether the last layer of the backbone suits the images."""

    SIMILAR = "similar"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Advice:
    """The case of transfer learning, its measurements, and the command.

    `accuracy` is that of a logistic regression on the averaged features of a layer of the backbone, cross-validated on `sampled`
    images, the last layer first; `gain` is by how much the best earlier layer is better, `gain_error` its standard error.
    """

    images: int
    classes: int
    per_class: int
    size: DatasetSize
    sampled: int
    accuracy: dict[str, float]
    gain: float
    gain_error: float
    similarity: Similarity
    case: str
    command: str


@dataclass(frozen=True, slots=True)
class SourceNames:
    """The sources of the command line, and those of a separate validation set."""

    words: Sequence[str]
    val: Sequence[str] = ()


def advise(
    data: TrainValImages,
    *,
    sources: SourceNames,
    config: AdviseConfig,
    callbacks: Callbacks | None = None,
) -> Advice:
    """Measure whether the last layer of a pretrained backbone is the best one for a dataset, and name the case.

    If an earlier layer is clearly better than the last one, the set differs from what the backbone was trained on: features that separate
    the classes of ImageNet have lost what these images need. Otherwise it is similar.

    Args:
        data: The set; only its training images are used.
        sources: Its names on the command line, for the proposed command.
        config: The backbone, the device and the seed.
        callbacks: Progress and skipped images.

    Raises:
        UsageError: Random weights, or a backbone without earlier layers to compare with.
        CnnkitError: The weights are not available, or a class has too few images.
    """
    callbacks, config = callbacks or Callbacks(), config.checked()
    backbone, weights, seed = config.backbone, config.weights, config.seed
    if data.multi_label:
        raise UsageError(
            "cnn-advise measures the accuracy of one label per image, and these have several; train a head on them"
        )
    counts = np.bincount([data.classes.index(image.label or "") for image in data.train])
    chosen_device = torch_device.choose(devices.parse(config.device))
    extractor, header = torch_backbone.build_extractor(BackboneSpec(backbone=backbone, weights=weights))
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
        raise CnnkitError("none of the sampled images can be used; cnn-check finds the reasons")
    for label in data.classes:  # some images may have been skipped
        _check_enough(label, labels.count(label))
    callbacks.phase("measuring layers")
    right = _right([np.concatenate(layer) for layer in zip(*features, strict=True)], labels, seed=seed)
    accuracy = {name: round(float(each.mean()), 4) for name, each in zip(layers_extractor.names, right, strict=True)}
    best = max(range(1, len(right)), key=lambda index: right[index].mean())
    gained = right[best] - right[0]  # paired, on the same images
    gain, error = float(gained.mean()), float(gained.std()) / len(gained) ** 0.5
    similarity = Similarity.DIFFERENT if gain > _CLEARLY * error else Similarity.SIMILAR
    size = train_val.dataset_size(len(data.train))
    log.info(
        "%s: %s training images, %s %s; %s: accuracy %.1f %% with layer %s of %s, %.1f %% with its last layer "
        "(gain %.1f points, standard error %.1f)",
        size,
        f"{len(data.train):,}",
        "at least" if size is DatasetSize.LARGE else "fewer than",
        f"{train_val.LARGE:,}",
        similarity,
        100 * right[best].mean(),
        layers_extractor.names[best],
        backbone,
        100 * right[0].mean(),
        100 * gain,
        100 * error,
    )
    return Advice(
        images=len(data.train),
        classes=len(data.classes),
        per_class=int(counts.min()),
        size=size,
        sampled=len(labels),
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
    """Sample the same number of images of each class, at least one for each fold."""
    each = max(SAMPLE // len(data.classes), _FOLDS)
    chosen = []
    for label in data.classes:
        found = [image for image in data.train if image.label == label]
        _check_enough(label, len(found))
        chosen += random.Random(seed).sample(found, min(each, len(found)))
    return chosen


def _check_enough(label: str, count: int) -> None:
    if count < _FOLDS:
        raise CnnkitError(f"class {label} has {count} usable images; cnn-advise needs at least {_FOLDS} of each class")


def _right(features: Sequence[NDArray[np.float32]], labels: Sequence[str], *, seed: int) -> list[NDArray[np.float64]]:
    """Return for each layer which images a logistic regression fitted on the other folds predicts correctly."""
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    right = []
    for rows in features:
        # The scale of the logits grows with the number of features; this keeps the penalty equally strong
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
