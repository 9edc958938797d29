"""Train a network on images, from random weights."""

import contextlib
import io
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from cnnkit.callbacks import Callbacks
from cnnkit.choices import Decoding, Fit, Initializer, Normalize, Pool
from cnnkit.data import box_targets
from cnnkit.data.preprocessing import with_size
from cnnkit.data.train_val import TrainValImages
from cnnkit.engine import device as devices
from cnnkit.engine import device_errors, torch_device
from cnnkit.errors import UsageError
from cnnkit.formats.header import ArtefactKind, Backbone, Header, Preprocess, made_by
from cnnkit.nets import backbones, build, catalogue, classifier, notation, whitening
from cnnkit.nets.classifier import BOX_HEAD, ClassesAndBox, Classifier
from cnnkit.train import dataset, distributed, mixed_precision, val_size, whitening_fit
from cnnkit.train.config import ImageTrainConfig, RunConfig, warn_without_val
from cnnkit.train.dataset import PixelStatistics
from cnnkit.train.network_config import SIZE, BoxConfig, NetworkConfig
from cnnkit.train.trainer import RunContext, Task, Trainer, TrainResult
from cnnkit.train.whitening_fit import PixelSums


@contextlib.contextmanager
def preparing(
    data: TrainValImages,
    output: Path,
    *,
    network: NetworkConfig,
    train: ImageTrainConfig,
    run: RunConfig,
    box: BoxConfig | None = None,
    callbacks: Callbacks,
) -> Generator[Trainer]:
    """Read images and make a network, for training from scratch.

    Args:
        data: Images for training and validation.
        output: The `.pt` file to write; other runs cannot write it meanwhile.
        network: The network; checked, as all settings.
        train: How it is trained.
        run: Where it is trained.
        box: Whether it also learns a box.
        callbacks: Progress, skipped images, and every finished epoch.

    Yields:
        The training, which has not begun.

    Raises:
        UsageError: The network does not take images of this size, has no map for a box, or does not train on these devices.
        CnnkitError: No training image has a box, or one has several.
    """
    boxes = None
    if box is not None and box.predict_box:
        if data.multi_label:
            raise UsageError(
                "--predict-box predicts the box of one object, and these images have several labels; drop it"
            )
        data, boxes = box_targets.divided(data)
    with (
        torch_device.algorithms(deterministic=train.deterministic),
        distributed.joined(devices.parse(run.device)) as (world, device),
        world.claimed(output),
    ):
        mixed_precision.choose_precision(train.amp, device)  # reports an unsupported one before images are read
        prepare = _prepare(network)
        backbone_module, head, backbone = _network(network, prepare, seed=train.seed)
        box_head = None
        if boxes is not None:
            box_head = _box_head(backbone_module, prepare, init=network.init, seed=train.seed)
        val_size.check(Classifier(backbone_module, head, preprocess=prepare, pool=backbone.pool), train)
        world.check_batch_norm(nn.ModuleList([backbone_module, head]), device)
        context = RunContext(output, device, world, run.resume, world.callbacks(callbacks), run.checkpoint_every)
        context.callbacks.phase("reading images")
        sums = whitening_fit.PixelSums(prepare) if network.normalize.whiten else None
        train_set, val_set = dataset.load_train_val(
            data, prepare, train, run, device=device, measured=True, boxes=boxes, sums=sums, callbacks=context.callbacks
        )
        assert train_set.statistics is not None
        preprocess = _normalized(prepare, network.normalize, train_set.statistics)
        if sums is not None:
            context.callbacks.phase("whitening")
            _whiten(backbone_module, sums, network)
        del sums  # of a matrix's size
        whole = Classifier(backbone_module, head, preprocess=preprocess, pool=backbone.pool, box=box_head)
        box_weight = None if box is None or box_head is None else box.box_weight
        header = Header(
            kind=ArtefactKind.MODEL,
            classes=data.classes,
            preprocess=preprocess,
            backbone=backbone,
            head=network.head,
            training={
                "command": "cnn-train",
                "rows": len(train_set.targets),
                "normalize": network.normalize.value,
                **({"whiten_epsilon": _epsilon(network)} if network.normalize.whiten else {}),
                "init": network.init.value if network.init else None,
                **train.described(),
                **({} if box_weight is None else {"box_weight": box_weight}),
            },
            made_by=made_by("torch", "torchvision"),
            box_head=None if box_head is None else BOX_HEAD,
            multi_label=data.multi_label,
        )
        identity = dataset.content_hash(train_set, val_set)
        module = whole if box_head is None else ClassesAndBox(whole)
        recorded = val_size.recorded(header, train)
        task = Task(module, whole, train_set, val_set, recorded, identity, box_weight=box_weight)
        yield Trainer(task, train, context)


def train_from_scratch(
    data: TrainValImages,
    output: Path,
    *,
    network: NetworkConfig,
    train: ImageTrainConfig,
    run: RunConfig,
    box: BoxConfig | None = None,
    callbacks: Callbacks,
) -> TrainResult:
    """Train, and write the model to FILE.pt and its history to FILE.csv.

    Args, Raises as `preparing` and `Trainer.run`.
    """
    warn_without_val(has_val=bool(data.val))
    with preparing(data, output, network=network, train=train, run=run, box=box, callbacks=callbacks) as trainer:
        return trainer.run()


def _prepare(network: NetworkConfig) -> Preprocess:
    """Return how images are made square; mean and deviation are added when they are measured."""
    if network.arch is None:
        size = network.size or SIZE
        plain = Preprocess(
            fit=network.fit or Fit.SQUASH,
            resize=size,
            size=size,
            grey=network.grey,
            decoding=network.decoding or Decoding.SCALED,
        )
    else:
        plain = with_size(
            catalogue.preprocess_of(network.arch), size=network.size, fit=network.fit, decoding=network.decoding
        )
    if network.normalize is Normalize.IMAGENET:
        return replace(plain, mean=Preprocess().mean, std=Preprocess().std)
    return replace(plain, mean=(0.0,) * 3, std=(1.0,) * 3)


def _normalized(prepare: Preprocess, normalize: Normalize, measured: PixelStatistics) -> Preprocess:
    """Add the measured mean and deviation; a constant channel is not scaled, as in scikit-learn."""
    nothing, whole = (0.0,) * 3, (1.0,) * 3
    mean, std = {
        Normalize.CENTER: (measured.mean, whole),
        Normalize.STANDARD: (measured.mean, measured.deviation),
        Normalize.MAXABS: (nothing, measured.largest),
    }.get(normalize, (prepare.mean, prepare.std))
    return replace(prepare, mean=mean, std=tuple(value or 1.0 for value in std))


def _epsilon(network: NetworkConfig) -> float:
    return whitening_fit.EPSILON if network.whiten_epsilon is None else network.whiten_epsilon


def _whiten(backbone: nn.Module, sums: PixelSums, network: NetworkConfig) -> None:
    """Fit the whitening of a backbone."""
    layer, whiten = whitening.find(backbone), network.normalize.whiten
    assert layer is not None
    assert whiten is not None
    mean, matrix = whitening_fit.fit(*sums.moments(), whiten, epsilon=_epsilon(network))
    layer.mean.copy_(mean.view_as(layer.mean))
    layer.matrix.copy_(matrix)


def _network(network: NetworkConfig, preprocess: Preprocess, *, seed: int) -> tuple[nn.Module, build.Network, Backbone]:
    """Build backbone and head with their random weights, all from one seed.

    Raises:
        UsageError: The network does not take images of this size.
    """
    generator = torch.Generator().manual_seed(seed)
    if network.arch is not None:
        module, backbone = backbones.untrained(network.arch, size=preprocess.size, seed=seed)
        if network.init is not None:
            build.initialise(module, network.init, generator=generator)
    else:
        layers = notation.parse(network.layers or "")
        name = layers[-1].name
        backbone = Backbone(
            backbones.BY_NOTATION,
            layer=name,
            pool=Pool.NONE,
            notation=network.layers,
            whiten=network.normalize.whiten,
        )
        module = backbones.skeleton(backbone, size=preprocess.size, grey=network.grey)
        build.initialise(module, network.init or Initializer.GLOROT, generator=generator)
    extractor = classifier.Extractor(module.eval(), preprocess=preprocess, pool=backbone.pool)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # torch.fx prints the generated line that failed
            shape = classifier.feature_shape(extractor, preprocess)
    except (RuntimeError, AssertionError, ValueError) as error:  # what a network's layers may raise
        if device_errors.is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{network.arch} does not take images of {preprocess.size} pixels ({reason}); give another --size"
        ) from error
    head = classifier.build_head(network.head, shape)
    build.initialise(head, network.init or Initializer.GLOROT, generator=generator)
    return module, head, backbone


def _box_head(backbone: nn.Module, preprocess: Preprocess, *, init: Initializer | None, seed: int) -> build.Network:
    """Build the box head with random weights of its own generator: backbone and head start as without it.

    With biases of one half, the first box is the middle of the image.

    Raises:
        UsageError: The backbone does not end in a map.
    """
    try:
        head = classifier.build_box_head(BOX_HEAD, backbone, preprocess=preprocess)
    except UsageError as error:
        raise UsageError(f"--predict-box: {error}") from error
    generator = torch.Generator().manual_seed(seed)
    build.initialise(head, init or Initializer.GLOROT, generator=generator)
    last = head[-1]
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, 0.5)
    return head
