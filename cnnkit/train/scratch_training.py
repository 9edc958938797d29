"""From pictures and a design to a task: the network is built once the pictures are measured."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from cnnkit.choices import Fit, Initializer, Normalize, Pool
from cnnkit.data.learning import Material
from cnnkit.data.preprocess import with_size
from cnnkit.data.reader import Progress
from cnnkit.engine import device as devices
from cnnkit.errors import UsageError
from cnnkit.formats.header import Backbone, Header, Kind, Preprocess, made_by
from cnnkit.nets import backbones, build, catalogue, classifier, notation
from cnnkit.nets.classifier import Classifier
from cnnkit.train import distributed, loading, precision
from cnnkit.train.examples import Statistics
from cnnkit.train.recipe import Recipe
from cnnkit.train.results import Report, Result, Running, Skip
from cnnkit.train.run import run
from cnnkit.train.scratch import SIZE, Design
from cnnkit.train.task import Place, Task


def train(
    material: Material,
    output: Path,
    design: Design,
    recipe: Recipe,
    running: Running,
    *,
    skip: Skip,
    report: Report,
    progress: Progress,
) -> Result:
    """Train; arguments are those of `scratch.train`, checked."""
    with distributed.joined(devices.parse(running.device)) as (world, place):
        precision.choose(recipe.amp, place)  # what cannot be had is said before pictures are read
        prepare = _prepare(design)
        base, head, backbone = _network(design, prepare, seed=recipe.seed)
        skip, report, progress = loading.voices(world, skip, report, progress)
        place_of = Place(output, place, world, running.resume, report, progress)
        learnt, checked = loading.load(
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
        task = Task(whole, whole, learnt, checked, header, loading.identity(learnt, checked))
        return run(task, recipe, place_of)


def _prepare(design: Design) -> Preprocess:
    """Say how pictures become squares; mean and deviation follow once they are measured."""
    if design.arch is None:
        size = design.size or SIZE
        plain = Preprocess(fit=design.fit or Fit.SQUASH, resize=size, size=size, grey=design.grey)
    else:
        plain = with_size(catalogue.preprocess_of(design.arch), size=design.size, fit=design.fit)
    if design.normalize is Normalize.IMAGENET:
        return replace(plain, mean=Preprocess().mean, std=Preprocess().std)
    return replace(plain, mean=(0.0,) * 3, std=(1.0,) * 3)


def _normalized(prepare: Preprocess, normalize: Normalize, measured: Statistics) -> Preprocess:
    """Put the measured mean and deviation in; a channel that never changes is left as it is, as scikit-learn leaves it."""
    nothing, whole = (0.0,) * 3, (1.0,) * 3
    mean, std = {
        Normalize.CENTER: (measured.mean, whole),
        Normalize.STANDARD: (measured.mean, measured.deviation),
        Normalize.MAXABS: (nothing, measured.largest),
    }.get(normalize, (prepare.mean, prepare.std))
    return replace(prepare, mean=mean, std=tuple(value or 1.0 for value in std))


def _network(design: Design, preprocess: Preprocess, *, seed: int) -> tuple[nn.Module, build.Network, Backbone]:
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
