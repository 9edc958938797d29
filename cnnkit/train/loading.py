"""The pictures of a training, looked at once before it begins."""

import hashlib
import logging
from collections.abc import Sequence

import torch

from cnnkit.data import augment
from cnnkit.data.learning import Material
from cnnkit.data.reader import Progress, no_progress
from cnnkit.data.source import Picture
from cnnkit.engine.resample import Augmenter
from cnnkit.errors import CnnkitError
from cnnkit.formats.header import Preprocess
from cnnkit.train.distributed import World
from cnnkit.train.examples import Pictures
from cnnkit.train.recipe import Recipe
from cnnkit.train.results import Report, Running, Skip, no_report

log = logging.getLogger("cnnkit")

_PURPOSES = ("training", "validation")


def load(
    material: Material,
    prepare: Preprocess,
    recipe: Recipe,
    running: Running,
    *,
    place: torch.device,
    measured: bool = False,
    skip: Skip,
    progress: Progress,
) -> tuple[Pictures, Pictures | None]:
    """Look at every picture, and keep what fits into memory, those for training first.

    Where that is wanted, the pixels of those for training are `measured`.

    Raises:
        CnnkitError: No picture of a class could be used.
    """
    augmenter = None if recipe.augment is None else Augmenter(augment.parse(recipe.augment), seed=recipe.seed)
    total = len(material.train) + len(material.val)
    budget, parts = running.cache, []
    for number, pictures in enumerate((material.train, material.val)):
        before = number * len(material.train)
        part = Pictures(
            pictures,
            material.classes,
            prepare,
            place=place,
            budget=budget,
            augmenter=None if number else augmenter,
            measured=measured and not number,
            jobs=running.jobs,
            skip=skip,
            progress=lambda done, _total, before=before: progress(before + done, total),  # type: ignore[misc] # bound now
        )
        if part.pictures and not part.nbytes:
            log.info("--cache does not hold the pictures for %s: they are read in every epoch", _PURPOSES[number])
        budget -= part.nbytes
        _refuse_emptied(pictures, part)
        parts.append(part)
    return parts[0], parts[1] if material.val else None


def _refuse_emptied(pictures: Sequence[Picture], part: Pictures) -> None:
    """Demand that of every class that had pictures one could be used."""
    left = {picture.label for picture in part.pictures}
    if emptied := sorted({picture.label or "" for picture in pictures} - left):
        raise CnnkitError(f"no picture of the class {emptied[0]} could be used")


def identity(learnt: Pictures, checked: Pictures | None) -> str:
    """Name the pictures of a training by their content and classes: another place is the same training, another order is not."""
    digest = hashlib.sha256()
    for part in (learnt, checked):
        for fingerprint, target in zip(part.fingerprints, part.targets.tolist(), strict=True) if part else ():
            digest.update(f"{fingerprint} {target}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()[:20]


def voices(world: World, skip: Skip, report: Report, progress: Progress) -> tuple[Skip, Report, Progress]:
    """Let the first process alone speak."""
    return (skip, report, progress) if world.writes else (_silent, no_report, no_progress)


def _silent(_path: str, _reason: str) -> None:
    """The way of all processes but the first, which names bad pictures for all."""
