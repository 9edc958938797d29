"""The training of a head on rows in memory, by either solver, and the model that comes of it."""

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.choices import Solver
from cnnkit.data.reader import Progress
from cnnkit.engine import torch_device
from cnnkit.engine.device import Device
from cnnkit.errors import CnnkitError, FormatError
from cnnkit.formats import bundle, cache, history
from cnnkit.formats.bundle import Bundle
from cnnkit.formats.header import Header, Kind, made_by
from cnnkit.nets import backbones
from cnnkit.train import head_fit
from cnnkit.train.epoch import Epoch
from cnnkit.train.head import Material, Result, Settings
from cnnkit.train.head_fit import Rows, Training

log = logging.getLogger("cnnkit")


def run(
    material: Material,
    output: Path,
    *,
    settings: Settings,
    weights: Path | None,
    device: Device,
    progress: Progress,
) -> Result:
    """Train, and write model and history; arguments and errors are those of `head.train_head`."""
    learnt, classes = material.learnt, material.classes
    base = _base(learnt.header, weights, name=material.train)
    place = torch_device.choose(device)
    learning = head_fit.rows(learnt, classes, place, name=material.train)
    checking = None
    if material.validated is not None:
        checking = head_fit.rows(material.validated, classes, place, name=material.val or "")
    trained = Training(settings, learning, checking, classes=len(classes))
    with history.Writer(output.with_suffix(".csv")) as rows:
        for epoch in trained.run():
            rows.write(epoch)
            progress(epoch.epoch, trained.expected)
    majority, nearest = _compare(trained, learning, checking, len(classes)) if checking is not None else (None, None)
    head, text = trained.finished()
    header = Header(
        kind=Kind.MODEL,
        classes=classes,
        preprocess=learnt.header.preprocess,
        backbone=learnt.header.backbone,
        head=text,
        training={
            "command": "cnn-train-head",
            "rows": len(learnt.rows),
            **({} if material.hold_out is None else {"hold_out": material.hold_out}),
            **learnt.header.training,
            **_described(settings, trained.strength),
        },
        made_by=made_by("torch", "torchvision"),
    )
    state = {f"base.{name}": tensor for name, tensor in base.state_dict().items()}
    state |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    bundle.save(output, Bundle(header, state, [_timeless(epoch) for epoch in trained.epochs]))
    best = trained.best.epoch
    assert best is not None
    return Result(
        model=str(output),
        classes=len(classes),
        train_rows=len(learning.targets),
        val_rows=0 if checking is None else len(checking.targets),
        epochs=len(trained.epochs),
        best_epoch=best.epoch,
        train_accuracy=best.train_accuracy,
        val_accuracy=best.val_accuracy,
        val_loss=best.val_loss,
        majority=majority,
        nearest_centroid=nearest,
    )


def _base(header: Header, weights: Path | None, *, name: str) -> nn.Module:
    """Build the base that made the features, with the very weights it had."""
    backbone, preprocess = header.backbone, header.preprocess
    if backbone is None or preprocess is None or backbone.weights_sha256 is None:
        raise FormatError(f"{name}: its header names no base, or no weights; run cnn-extract again")
    if weights is not None and weights.suffix == ".pt":
        model = bundle.load(weights)
        found_base, found_backbone, _ = backbones.from_model(model, name=str(weights), layer=backbone.layer)
        if backbone.weights_sha256 not in (found_backbone.weights_sha256, bundle.keep_state(found_base.state_dict())):
            raise CnnkitError(f"{weights} holds another base than the one that made {name}; give that one")
        return found_base
    if weights is not None:
        found = cache.sha256(weights)
        if found != backbone.weights_sha256:
            raise CnnkitError(
                f"{weights} has sha256 {found[:12]}..., {name} was made with {backbone.weights_sha256[:12]}...; give that file"
            )
        return backbones.restore(backbone, weights, size=preprocess.size, grey=preprocess.grey)
    kept = cache.find_weights(backbone.weights_sha256)
    if kept is None:
        raise CnnkitError(
            f"the weights of {backbone.name} that made {name} (sha256 {backbone.weights_sha256[:12]}...) are in no cache; "
            "give them with --weights FILE"
        )
    return backbones.restore(backbone, kept, size=preprocess.size, grey=preprocess.grey)


def _compare(trained: Training, learning: Rows, checking: Rows, classes: int) -> tuple[float, float]:
    """Set the head beside what can be had without one, and warn where it has learnt nothing.

    Returns:
        The validation accuracy of the majority class, and of the nearest centroid.
    """
    targets = learning.targets
    most = int(torch.bincount(targets, minlength=classes).argmax())
    seen, asked = learning.values.flatten(1), checking.values.flatten(1)
    centroids = torch.stack([seen[targets == number].mean(0) for number in range(classes)])  # (classes, D)
    nearest = torch.cdist(asked, centroids).argmin(1)
    share = float((nearest == checking.targets).double().mean())
    if not _beyond_luck(trained.answered(), checking.targets, classes):
        if _beyond_luck(nearest, checking.targets, classes):
            log.warning(
                "the head has learnt nothing that helps on the validation rows, where the nearest centroid is right for %.3f "
                "of them: give more --epochs, another --lr, or --standardize",
                share,
            )
        else:
            log.warning(
                "on the validation rows the head is no better than luck: the features carry no signal. "
                "Is the preprocessing the one that the base was trained with, and are these its weights?"
            )
    return float((checking.targets == most).double().mean()), share


def _beyond_luck(answered: Tensor, targets: Tensor, classes: int) -> bool:
    """Tell whether answers depend on the classes.

    Who answers without looking, however often each class, has a mean recall of 1 / classes. Two standard errors more are
    within luck.
    """
    counts = torch.bincount(targets, minlength=classes).double()
    recalls = torch.bincount(targets[answered == targets], minlength=classes) / counts
    shares = torch.bincount(answered, minlength=classes).double() / len(answered)
    error = float((shares * (1 - shares) / counts).sum().sqrt()) / classes
    return float(recalls.mean()) > 1 / classes + max(2 * error, math.ulp(1.0))


def _timeless(epoch: Epoch) -> dict[str, float | None]:
    """An epoch without its duration: the same training gives the same bytes."""
    return {name: value for name, value in dataclasses.asdict(epoch).items() if name != "seconds"}


def _described(settings: Settings, strength: float | None) -> dict[str, Any]:
    described = {
        key: str(value) if isinstance(value, str) else value for key, value in dataclasses.asdict(settings).items()
    }
    if settings.solver is Solver.LBFGS:
        keep = ("loss", "solver", "class_weights", "standardize", "pca", "whiten", "monitor", "smoothing", "seed")
        return {key: described[key] for key in keep} | {"l2": strength}
    return described | {"lr": settings.optimizer.learning_rate if settings.lr is None else settings.lr}
