"""Train a network from random weights, on images."""

import contextlib
import dataclasses
import io
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from cnnkit.choices import Fit, Initializer, Loss, Normalize, Pool
from cnnkit.data.learning import TrainValImages
from cnnkit.data.preprocess import with_size
from cnnkit.data.reader import Progress, no_progress
from cnnkit.engine import device as devices
from cnnkit.errors import UsageError
from cnnkit.formats.header import Backbone, Header, Kind, Preprocess, made_by
from cnnkit.nets import backbones, build, catalogue, classifier, notation, output_layer
from cnnkit.nets.classifier import Classifier
from cnnkit.train import dataset, distributed, loop
from cnnkit.train.config import SIZE, ImageTrainConfig, NetworkConfig, Report, RunConfig, Skip, model_path, no_report
from cnnkit.train.dataset import PixelStatistics
from cnnkit.train.trainer import RunContext, Task, TrainResult, run


def train(
    material: TrainValImages,
    output: str | Path,
    *,
    design: NetworkConfig,
    recipe: ImageTrainConfig | None = None,
    running: RunConfig | None = None,
    skip: Skip,
    report: Report = no_report,
    progress: Progress = no_progress,
) -> TrainResult:
    """Train, and write the model to FILE.pt and its history to FILE.csv.

    Args:
        material: Pictures for training and validation.
        output: The `.pt`.
        design: Which network.
        recipe: How.
        running: Where.
        skip: Called for every picture that cannot be used.
        report: Called with every epoch as it is done.
        progress: Called as pictures go by.

    Raises:
        UsageError: Options contradict each other, or a notation is wrong.
        CnnkitError: As `run.run`.
    """
    output = model_path(output)
    recipe = (recipe or ImageTrainConfig()).checked(classes=len(material.classes), validated=bool(material.val))
    design = _checked(design, recipe.loss, classes=len(material.classes))
    devices.parse((running or RunConfig()).device)

    return _train(material, output, design, recipe, running or RunConfig(), skip=skip, report=report, progress=progress)


def _checked(design: NetworkConfig, loss: Loss, *, classes: int) -> NetworkConfig:
    if (design.layers is None) == (design.arch is None):
        raise UsageError("give either --layers NOTATION or --arch NAME")
    measured = design.normalize in (Normalize.CENTER, Normalize.STANDARD)
    if design.fit is Fit.PAD and measured:
        raise UsageError(
            f"--fit pad fills with the mean colour, which --normalize {design.normalize} measures only afterwards; "
            "use --normalize imagenet, scale or maxabs"
        )
    if design.arch is not None:
        if design.grey:
            raise UsageError(
                "--grey goes with --layers: a network by name takes three channels, and grey pictures as well"
            )
        head = output_layer.whole_head(design.head, loss=loss, classes=classes, spatial=False)
        return dataclasses.replace(design, head=head)
    if design.head:
        raise UsageError("--head goes with --arch; --layers holds the whole network")
    layers = ", ".join(layer.text for layer in notation.parse(design.layers or ""))
    base, head = output_layer.divide(
        layers, loss=loss, classes=classes, size=design.size or SIZE, channels=1 if design.grey else 3
    )
    return dataclasses.replace(design, layers=base, head=head)


def _train(
    material: TrainValImages,
    output: Path,
    design: NetworkConfig,
    recipe: ImageTrainConfig,
    running: RunConfig,
    *,
    skip: Skip,
    report: Report,
    progress: Progress,
) -> TrainResult:
    """Train; arguments are those of `scratch.train`, checked."""
    with distributed.joined(devices.parse(running.device)) as (world, place):
        loop.choose_precision(recipe.amp, place)  # what cannot be had is said before pictures are read
        prepare = _prepare(design)
        base, head, backbone = _network(design, prepare, seed=recipe.seed)
        skip, report, progress = dataset.voices(world, skip, report, progress)
        place_of = RunContext(output, place, world, running.resume, report, progress)
        learnt, checked = dataset.load_train_val(
            material, prepare, recipe, running, place=place, measured=True, skip=skip, progress=progress
        )
        assert learnt.statistics is not None
        preprocess = _normalized(prepare, design.normalize, learnt.statistics)
        whole = Classifier(base, head, preprocess=preprocess, pool=backbone.pool)
        header = Header(
            kind=Kind.MODEL,
            classes=material.classes,
            preprocess=preprocess,
            backbone=backbone,
            head=design.head,
            training={
                "command": "cnn-train",
                "rows": len(learnt.targets),
                "normalize": design.normalize.value,
                "init": design.init.value if design.init else None,
                **recipe.described(),
            },
            made_by=made_by("torch", "torchvision"),
        )
        task = Task(whole, whole, learnt, checked, header, dataset.content_hash(learnt, checked))
        return run(task, recipe, place_of)


def _prepare(design: NetworkConfig) -> Preprocess:
    """Say how pictures become squares; mean and deviation follow once they are measured."""
    if design.arch is None:
        size = design.size or SIZE
        plain = Preprocess(fit=design.fit or Fit.SQUASH, resize=size, size=size, grey=design.grey)
    else:
        plain = with_size(catalogue.preprocess_of(design.arch), size=design.size, fit=design.fit)
    if design.normalize is Normalize.IMAGENET:
        return replace(plain, mean=Preprocess().mean, std=Preprocess().std)
    return replace(plain, mean=(0.0,) * 3, std=(1.0,) * 3)


def _normalized(prepare: Preprocess, normalize: Normalize, measured: PixelStatistics) -> Preprocess:
    """Put the measured mean and deviation in; a channel that never changes is left as it is, as scikit-learn leaves it."""
    nothing, whole = (0.0,) * 3, (1.0,) * 3
    mean, std = {
        Normalize.CENTER: (measured.mean, whole),
        Normalize.STANDARD: (measured.mean, measured.deviation),
        Normalize.MAXABS: (nothing, measured.largest),
    }.get(normalize, (prepare.mean, prepare.std))
    return replace(prepare, mean=mean, std=tuple(value or 1.0 for value in std))


def _network(design: NetworkConfig, preprocess: Preprocess, *, seed: int) -> tuple[nn.Module, build.Network, Backbone]:
    """Build base and head with their random weights, all from one seed.

    Raises:
        UsageError: The network does not take pictures of this size.
    """
    generator = torch.Generator().manual_seed(seed)
    if design.arch is not None:
        base, backbone = backbones.untrained(design.arch, size=preprocess.size, seed=seed)
        if design.init is not None:
            build.initialise(base, design.init, generator=generator)
    else:
        layers = notation.parse(design.layers or "")
        name = layers[-1].name
        backbone = Backbone(backbones.BY_NOTATION, layer=name, pool=Pool.NONE, notation=design.layers)
        base = backbones.skeleton(backbone, size=preprocess.size, grey=design.grey)
        build.initialise(base, design.init or Initializer.GLOROT, generator=generator)
    extractor = classifier.Extractor(base.eval(), preprocess=preprocess, pool=backbone.pool)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # torch.fx prints the line of its own making that failed
            shape = classifier.feature_shape(extractor, preprocess)
    except (RuntimeError, AssertionError, ValueError) as error:  # whatever a network's layers raise
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{design.arch} does not take pictures of {preprocess.size} pixels ({reason}); say --size"
        ) from error
    head = classifier.build_head(design.head, shape)
    build.initialise(head, design.init or Initializer.GLOROT, generator=generator)
    return base, head, backbone
