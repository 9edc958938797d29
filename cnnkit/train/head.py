"""Train a head on extracted features, and join it to the backbone that made them."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnkit.callbacks import Callbacks, Progress
from cnnkit.choices import ClassWeights, ColumnKind, Initializer, Sample, Solver
from cnnkit.data import image_columns
from cnnkit.data.image_columns import ColumnCodes, Columns
from cnnkit.engine import device as devices
from cnnkit.engine import torch_device
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import atomic, cache, history, torch_model
from cnnkit.formats.features import Features
from cnnkit.formats.header import ArtefactKind, Backbone, Header, InputColumn, Preprocess, made_by
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones, build, classifier, outlines
from cnnkit.nets.output_layer import whole_head
from cnnkit.train import dataset, feature_sets, optim, preparation, several_labels
from cnnkit.train.config import LBFGS_SETTINGS, Epoch, HeadConfig
from cnnkit.train.feature_sets import FeatureSets
from cnnkit.train.find_lr import LrStep, range_test
from cnnkit.train.loop import BestEpoch, Plain, TrainStep, fit, in_order, shuffled, warn_if_saturated
from cnnkit.train.optim import Criterion, ModelEma, predicted_classes

log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class Rows:
    """Features and targets on the device, and encoded columns of metadata, if there are any."""

    values: Tensor  # (N, D) or (N, C, H, W)
    targets: Tensor  # (N,), or (N, classes) of 0 and 1 for several labels per image
    columns: Tensor | None = None  # (N, width)


def load_rows(found: Features, classes: tuple[str, ...], device: torch.device, *, name: str) -> Rows:
    """Copy features to the device, with the indices of their classes, or 1 for each of their labels.

    Raises:
        CnnkitError: A value is not finite.
    """
    numbers = {label: number for number, label in enumerate(classes)}
    values = torch.from_numpy(found.values.astype("float32")).to(device)
    if not bool(values.isfinite().all()):
        row = int((~values.flatten(1).isfinite().all(1)).nonzero()[0, 0])
        raise CnnkitError(
            f"{name}: row {row} ({found.rows[row].path}) has values that are not finite; extract it again, in float32"
        )
    if found.multi_label:
        return Rows(values, torch.from_numpy(found.label_matrix(classes)[1]).float().to(device))
    return Rows(values, torch.tensor([numbers[row.label or ""] for row in found.rows], device=device))


def _logistic() -> ModuleType:
    """Import the solver of logistic regression: here, since it imports scipy.optimize, which --solver gradient does not use."""
    from cnnkit.train import logistic

    return logistic


class HeadFit:
    """The training of one head on rows in memory, by either solver."""

    def __init__(self, config: HeadConfig, train: Rows, val: Rows | None, *, classes: int) -> None:
        self.config = config
        self.best = BestEpoch(config.monitor)
        self.epochs: list[Epoch] = []
        self.strength: float | None = None
        self.prepared = preparation.fit(
            train.values, standardize=config.standardize, pca=config.pca, whiten=config.whiten
        )
        self.columns = 0 if train.columns is None else train.columns.shape[1]
        self.train = self._prepared(train)
        self.val = None if val is None else self._prepared(val)
        assert config.loss is not None
        self.text = whole_head(
            config.head,
            loss=config.loss,
            classes=classes,
            spatial=train.values.ndim == 4,
            multi_label=train.targets.ndim == 2,
        )
        device = self.train.values.device
        self.head = classifier.build_head(self.text, tuple(self.train.values.shape[1:]))
        self.generator = torch.Generator().manual_seed(config.seed)
        # A convex problem has the same solution from any start; zeros are near that of the strongest penalty
        start = Initializer.ZEROS if config.solver is Solver.LBFGS else config.init
        build.initialise(self.head, start, generator=self.generator)
        self.head.to(device)
        balanced = config.class_weights is ClassWeights.BALANCED
        self.criterion = Criterion(
            config.loss,
            config.smoothing,
            optim.balanced_weights(self.train.targets, classes) if balanced else None,
            config.l1,
            config.l2,
        )
        self.expected = config.epochs if config.solver is Solver.GRADIENT else len(self._strengths())

    def _prepared(self, rows: Rows) -> Rows:
        values = preparation.applied(self.prepared, rows.values)
        return Rows(values if rows.columns is None else torch.cat([values, rows.columns], 1), rows.targets)

    def _strengths(self) -> tuple[float, ...]:
        if self.config.l2:
            return (self.config.l2,)
        if self.val is None:  # scikit-learn's default, C = 1
            return (0.5 / self.train.targets.numel(),)
        strengths: tuple[float, ...] = _logistic().STRENGTHS
        return strengths

    def run(self) -> Iterator[Epoch]:
        """Train, yielding every finished epoch."""
        with self._ready():
            for epoch in self._lbfgs() if self.config.solver is Solver.LBFGS else self._gradient():
                self.epochs.append(epoch)
                yield epoch

    def find_lr(self, *, progress: Progress) -> list[LrStep]:
        """Take the steps of a learning-rate range test instead of training."""
        with self._ready():
            return range_test(self._step(), lambda _number: self._batches(), rate=self.config.rate, progress=progress)

    @contextlib.contextmanager
    def _ready(self) -> Iterator[None]:
        """Set the number of threads, and restore torch's global generator, from which dropout draws, afterwards."""
        values = self.train.values
        rows = self.config.batch if self.config.solver is Solver.GRADIENT else len(values)
        generators = torch.random.fork_rng(devices=[values.device] if values.is_cuda else [])
        with torch_device.threads(torch_device.threads_for(self.head, values[:rows])), generators:
            torch.manual_seed(self.config.seed)
            yield

    def _step(self) -> TrainStep:
        config = self.config
        steps = len(dataset.shuffled_batches(len(self.train.targets), batch=config.batch, generator=torch.Generator()))
        return TrainStep(
            self.head,
            self.criterion,
            optim.optimizer(config, self.head.parameters()),
            rate=lambda number, index, before: optim.lr_factor(
                config.schedule,
                step=(number - 1) * steps + index,
                steps=steps,
                epochs=config.epochs,
                before=before,
            ),
            clip=config.clip,
            ema=None if config.ema is None else ModelEma(self.head, config.ema),
        )

    def _batches(self) -> Iterator[Plain]:
        """Yield the batches of an epoch, in another order every time."""
        train, config = self.train, self.config
        weights = dataset.sampling_weights(train.targets) if config.sample is Sample.BALANCED else None
        return shuffled(train.values, train.targets, batch=config.batch, generator=self.generator, weights=weights)

    def _gradient(self) -> Iterator[Epoch]:
        config, val = self.config, self.val
        return fit(
            self._step(),
            train=lambda _number: self._batches(),
            validate=partial(in_order, val.values, val.targets) if val else None,
            best=self.best,
            epochs=config.epochs,
            patience=config.patience,
        )

    def _lbfgs(self) -> Iterator[Epoch]:
        layer = self.head[-1]
        assert isinstance(layer, nn.Linear)
        found = _logistic().regularization_path(
            layer,
            (self.train.values.flatten(1), self.train.targets),
            (self.val.values.flatten(1), self.val.targets) if self.val else None,
            strengths=self._strengths(),
            criterion=self.criterion,
        )
        for strength, epoch in found:
            self.best.offer(epoch, self.head)
            if self.best.epoch is epoch:
                self.strength = strength
            yield epoch

    def predicted(self) -> Tensor:
        """Return the classes that the best epoch predicts for the validation rows, (N,)."""
        return predicted_classes(self.logits())

    def logits(self) -> Tensor:
        """Return the outputs of the best epoch for the validation rows, (N, outputs)."""
        assert self.val is not None
        self.head.load_state_dict(self.best.state)
        self.head.eval()
        with torch.inference_mode():
            batches = in_order(self.val.values, self.val.targets)
            return torch.cat([self.head(inputs) for inputs, _ in batches])

    def finished(self) -> tuple[build.Network, str]:
        """Return the best epoch's head, with the preparation folded in, and its notation."""
        self.head.load_state_dict(self.best.state)
        self.head.eval().cpu()
        whole = preparation.extended(self.prepared, others=self.columns)
        if whole is None:
            return self.head, self.text
        return preparation.fold(whole, self.head, self.text)


@dataclass(frozen=True, slots=True)
class HeadResult:
    """The result of a training run, with two baselines.

    `majority` is the validation accuracy of always predicting the most frequent class of the training set, `nearest_centroid` that
    of predicting the class whose mean training row is nearest. With several labels per image, an image is right if all its labels are:
    `majority` predicts the most frequent set of labels, and `nearest_centroid` every label whose images have the nearer mean.
    """

    model: str
    classes: int
    train_rows: int
    val_rows: int
    epochs: int
    best_epoch: int
    train_accuracy: float
    val_accuracy: float | None
    val_loss: float | None
    majority: float | None
    nearest_centroid: float | None


def train_head(
    data: FeatureSets,
    output: Path,
    *,
    train: HeadConfig,
    weights: Path | None = None,
    device: str = "auto",
    columns: Columns | None = None,
    callbacks: Callbacks | None = None,
) -> HeadResult:
    """Train a head, keep its best epoch, and write the whole model.

    Args:
        data: Features for training and, if there are any, for validation.
        output: The model (`.pt`); its history is written next to it (`.csv`).
        train: How it is trained; checked.
        weights: The backbone's state_dict; by default it is found by its hash in the caches of cnn-extract and torch.
        device: Where to train.
        columns: Where the columns of `train.use` are read.
        callbacks: Progress, by epochs.

    Raises:
        UsageError: A column cannot be encoded, or is joined to maps; or an option is for one label per image, and there are several.
        FormatError: The features do not name their backbone, or their shape differs from its output.
        CnnkitError: The backbone's weights were not found, or the loss was not finite.
    """
    callbacks = callbacks or Callbacks()
    classes = data.classes
    if data.multi_label:
        train = train.for_several_labels()
    with atomic.claimed(output), torch_device.algorithms(deterministic=train.deterministic):
        backbone = _backbone(data.train, weights, name=data.train_name, path=data.train_path)
        chosen = torch_device.choose(devices.parse(device))
        train_rows = load_rows(data.train, classes, chosen, name=data.train_name)
        val_rows = None if data.val is None else load_rows(data.val, classes, chosen, name=data.val_name or "")
        fitted = None
        if train.use is not None:
            assert columns is not None
            fitted, train_rows, val_rows = _with_columns(data, train.kinds, columns, train_rows, val_rows)
        trained = HeadFit(train, train_rows, val_rows, classes=len(classes))
        with history.HistoryWriter(output.with_suffix(".csv")) as written:
            callbacks.progress(0, trained.expected)  # the first epoch may take long, as with lbfgs
            for epoch in trained.run():
                written.write(epoch)
                callbacks.progress(epoch.epoch, trained.expected)
        callbacks.phase("comparing with simple classifiers")
        best = trained.best.epoch
        assert best is not None
        choices = 2 if data.multi_label else len(classes)
        saturated = train.solver is Solver.GRADIENT and warn_if_saturated(best, classes=choices, rate=train.rate)
        majority, nearest = None, None
        if val_rows is not None:
            majority, nearest, remark = _compare(trained, train_rows, val_rows, len(classes))
            if remark and not saturated:
                log.warning("on the validation set, the head is no better than chance%s", remark)
        thresholds = None
        if data.multi_label:
            thresholds = _thresholds(trained, val_rows, classes)
        head, text = trained.finished()
        header = Header(
            kind=ArtefactKind.MODEL,
            classes=classes,
            preprocess=data.train.header.preprocess,
            backbone=data.train.header.backbone,
            head=text,
            training={
                "command": "cnn-train-head",
                "rows": len(data.train.rows),
                **({} if data.hold_out is None else {"hold_out": data.hold_out}),
                **data.train.header.training,
                **_described(train, trained.strength),
            },
            made_by=made_by("torch", "torchvision"),
            columns=fitted,
            multi_label=data.multi_label,
            thresholds=thresholds,
        )
        state = {f"base.{name}": tensor for name, tensor in backbone.items()}
        state |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
        torch_model.save(output, TorchModel(header, state, [_without_seconds(epoch) for epoch in trained.epochs]))
    return HeadResult(
        model=str(output),
        classes=len(classes),
        train_rows=len(train_rows.targets),
        val_rows=0 if val_rows is None else len(val_rows.targets),
        epochs=len(trained.epochs),
        best_epoch=best.epoch,
        train_accuracy=best.train_accuracy,
        val_accuracy=best.val_accuracy,
        val_loss=best.val_loss,
        majority=majority,
        nearest_centroid=nearest,
    )


def find_lr(
    data: FeatureSets,
    *,
    train: HeadConfig,
    device: str = "auto",
    columns: Columns | None = None,
    callbacks: Callbacks | None = None,
) -> list[LrStep]:
    """Take the steps of a learning-rate range test for a head, instead of training; nothing is written.

    Args, Raises as `train_head`; the backbone is not needed, and validation features are not used.
    """
    callbacks = callbacks or Callbacks()
    if data.multi_label:
        train = train.for_several_labels()
    with torch_device.algorithms(deterministic=train.deterministic):
        rows = load_rows(data.train, data.classes, torch_device.choose(devices.parse(device)), name=data.train_name)
        if train.use is not None:
            assert columns is not None
            _, rows, _ = _with_columns(data, train.kinds, columns, rows, None)
        return HeadFit(train, rows, None, classes=len(data.classes)).find_lr(progress=callbacks.progress)


def _with_columns(
    data: FeatureSets, kinds: Mapping[str, ColumnKind | None], columns: Columns, train: Rows, val: Rows | None
) -> tuple[tuple[InputColumn, ...], Rows, Rows | None]:
    """Fit columns on the training rows, and add them to the rows of both sets, encoded as the whole network will do it."""
    if train.values.ndim != 2:
        raise UsageError("--use needs vectors, and these features are maps; extract with --pool avg, max or flatten")
    paths = feature_sets.paths(data.train, data.train_path)
    values = columns.of(paths)
    fitted = tuple(
        image_columns.fit(name, each, kind=kinds[name], option="--use")
        for name, each in zip(columns.names, values, strict=True)
    )
    encoding = classifier.ColumnEncoding(fitted)
    codes = ColumnCodes(fitted)

    def added(rows: Rows, paths: Sequence[str], values: Sequence[Sequence[str | float]]) -> Rows:
        coded = np.stack([codes(row, path=path) for path, row in zip(paths, zip(*values, strict=True), strict=True)])
        return dataclasses.replace(rows, columns=encoding(torch.from_numpy(coded)).to(rows.values.device))

    train = added(train, paths, values)
    if val is not None:
        assert data.val is not None
        assert data.val_path is not None
        paths = feature_sets.paths(data.val, data.val_path)
        val = added(val, paths, columns.of(paths))
    codes.report()
    return fitted, train, val


def _backbone(found: Features, weights: Path | None, *, name: str, path: str) -> Mapping[str, Tensor]:
    """Return the weights of the backbone that made the features, so that they can be joined to a head.

    Raises:
        FormatError: The features do not name their backbone, or have another shape than its output.
        CnnkitError: The weights are not those that the features were made with, or were not found.
    """
    backbone, preprocess = found.header.backbone, found.header.preprocess
    if backbone is None or preprocess is None or backbone.weights_sha256 is None:
        raise FormatError(f"{name}: its header lacks the backbone or its weights; run cnn-extract again")
    if weights is not None and weights.suffix == ".pt":
        network = _backbone_of_model(weights, backbone, name=name)
        _check_shape(found, _shape(network, backbone, preprocess, name=path), name=path)
        return network.state_dict()
    file = _weights_file(weights, backbone.name, backbone.weights_sha256, name=name)
    outline = outlines.find(backbone, preprocess)
    if outline is not None and (state := outline.select(torch_model.load_state(file))) is not None:
        _check_shape(found, outline.features, name=path)
        return state
    network = backbones.restore(backbone, file, size=preprocess.size, grey=preprocess.grey)
    shape = _shape(network, backbone, preprocess, name=path)
    outlines.keep(backbone, preprocess, network.state_dict(), shape)
    _check_shape(found, shape, name=path)
    return network.state_dict()


def _backbone_of_model(path: Path, backbone: Backbone, *, name: str) -> nn.Module:
    """Return the backbone of a trained model, if it is the one that made the features."""
    found, of_model, _ = backbones.from_model(torch_model.load(path), name=str(path), layer=backbone.layer)
    if backbone.weights_sha256 not in (of_model.weights_sha256, torch_model.keep_state(found.state_dict())):
        raise CnnkitError(
            f"{path} has a different backbone than {name}; give the model that the features were made with"
        )
    return found


def _weights_file(given: Path | None, network: str, digest: str, *, name: str) -> Path:
    """Find the file with the weights of a hash: the given one, or one in the cache."""
    if given is not None:
        found = cache.sha256(given)
        if found != digest:
            raise CnnkitError(
                f"{given} has sha256 {found[:12]}..., but {name} was made with {digest[:12]}...; give that file"
            )
        return given
    kept = cache.find_weights(digest)
    if kept is None:
        raise CnnkitError(
            f"the weights of {network} that made {name} (sha256 {digest[:12]}...) are not in the cache; "
            "give them with --weights FILE"
        )
    return kept


def _shape(network: nn.Module, backbone: Backbone, preprocess: Preprocess, *, name: str) -> tuple[int, ...]:
    """Find the shape of one image's features.

    Raises:
        FormatError: The backbone does not take images of the size that the header names.
    """
    extractor = classifier.Extractor(network, preprocess=preprocess, pool=backbone.pool).eval()
    try:
        return classifier.feature_shape(extractor, preprocess)
    except RuntimeError as error:
        raise FormatError(
            f"{name}: the backbone in its header does not take images of {preprocess.size} pixels; "
            "run cnn-extract again"
        ) from error


def _check_shape(found: Features, expected: tuple[int, ...], *, name: str) -> None:
    """Check that features have the shape of their backbone's output.

    Raises:
        FormatError: They have another one.
    """
    assert found.header.backbone is not None
    given = found.values.shape[1:]
    if given != expected:
        raise FormatError(
            f"{name}: rows of {' x '.join(map(str, given))} values, but the backbone in its header, {found.header.backbone.name}, "
            f"outputs {' x '.join(map(str, expected))}; run cnn-extract again"
        )


def _compare(trained: HeadFit, train: Rows, val: Rows, classes: int) -> tuple[float, float, str]:
    """Compare the head with two baselines.

    Returns:
        The validation accuracy of the majority class, and of the nearest centroid; if the head is no better than chance, the reason
        and the remedy, for a message.
    """
    targets = train.targets
    if targets.ndim == 2:
        return _compare_labels(trained, train, val)
    most = int(torch.bincount(targets, minlength=classes).argmax())
    rows = train.values.flatten(1)
    centroids = torch.stack([rows[targets == number].mean(0) for number in range(classes)])  # (classes, D)
    nearest = torch.cdist(val.values.flatten(1), centroids).argmin(1)
    share = float((nearest == val.targets).double().mean())
    remark = ""
    enough = _above_chance(val.targets, val.targets, classes)  # else even perfect predictions might be chance
    if enough and not _above_chance(trained.predicted(), val.targets, classes):
        remark = _NO_SIGNAL
        if _above_chance(nearest, val.targets, classes):
            remark = _NEAREST_IS_BETTER.format(share)
    return float((val.targets == most).double().mean()), share, remark


_NO_SIGNAL = ": the features carry no signal; check the preprocessing and the weights of the backbone"
_NEAREST_IS_BETTER = (
    ", but the nearest centroid has accuracy {:.3f}: give more --epochs, another --lr, or --standardize"
)


def _compare_labels(trained: HeadFit, train: Rows, val: Rows) -> tuple[float, float, str]:
    """Do the same for several labels per image."""
    nearest, nearer = several_labels.nearest_centroids(train.values.flatten(1), train.targets, val.values.flatten(1))
    share = several_labels.shares_right(nearest, val.targets)
    remark = ""
    if several_labels.could_exceed_chance(val.targets) and not several_labels.above_chance(
        trained.logits(), val.targets
    ):
        remark = _NO_SIGNAL
        if several_labels.above_chance(nearer, val.targets):
            remark = _NEAREST_IS_BETTER.format(share)
    return several_labels.majority(train.targets, val.targets), share, remark


def _thresholds(trained: HeadFit, val: Rows | None, classes: Sequence[str]) -> tuple[float, ...]:
    """Choose the threshold of each class on the validation set."""
    if val is None:
        return several_labels.without_validation(classes)
    return several_labels.thresholds(trained.logits().sigmoid(), val.targets, classes)


def _above_chance(predicted: Tensor, targets: Tensor, classes: int) -> bool:
    """Check whether predictions depend on the classes.

    If predictions do not depend on the features, the expected recall of a class is its share among the predictions: 1 / classes in
    the mean, whatever these shares are, if all classes occur. Up to two standard errors more count as chance.
    """
    counts = torch.bincount(targets, minlength=classes).double()
    occurs = counts > 0
    counts = counts[occurs]
    recalls = torch.bincount(targets[predicted == targets], minlength=classes)[occurs] / counts
    shares = torch.bincount(predicted, minlength=classes).double()[occurs] / len(predicted)
    error = float((shares * (1 - shares) / counts).sum().sqrt()) / len(counts)
    return float(recalls.mean()) > float(shares.mean()) + max(2 * error, math.ulp(1.0))


def _without_seconds(epoch: Epoch) -> dict[str, float | None]:
    """Return an epoch without its duration, so that the same training gives the same bytes."""
    return {name: value for name, value in dataclasses.asdict(epoch).items() if name != "seconds"}


def _described(config: HeadConfig, strength: float | None) -> dict[str, Any]:
    described = config.described()
    if config.solver is Solver.LBFGS:
        return {key: value for key, value in described.items() if key in LBFGS_SETTINGS} | {"l2": strength}
    return described | {"lr": config.rate}
