"""Train a network from random weights, on pictures. What can be checked without torch is checked first."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from cnnkit.choices import Fit, Initializer, Loss, Normalize
from cnnkit.data.learning import Material
from cnnkit.data.reader import Progress, no_progress
from cnnkit.engine import device as devices
from cnnkit.errors import UsageError
from cnnkit.nets import notation
from cnnkit.train import ending
from cnnkit.train.recipe import Recipe
from cnnkit.train.results import Report, Result, Running, Skip, no_report, writable

#: Keras' side in the textbook's chapter, in pixels.
SIZE = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The network to be trained: `layers`, the whole of it by notation, or `arch`, a network's name, with a `head` of its own."""

    layers: str | None = None
    arch: str | None = None
    head: str = ""
    size: int | None = None
    fit: Fit | None = None
    grey: bool = False
    normalize: Normalize = Normalize.STANDARD
    init: Initializer | None = None


def train(
    material: Material,
    output: str | Path,
    *,
    design: Design,
    recipe: Recipe | None = None,
    running: Running | None = None,
    skip: Skip,
    report: Report = no_report,
    progress: Progress = no_progress,
) -> Result:
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
    output = writable(output)
    recipe = (recipe or Recipe()).checked(classes=len(material.classes), validated=bool(material.val))
    design = _checked(design, recipe.loss, classes=len(material.classes))
    devices.parse((running or Running()).device)

    from cnnkit.train import scratch_training

    return scratch_training.train(
        material, output, design, recipe, running or Running(), skip=skip, report=report, progress=progress
    )


def _checked(design: Design, loss: Loss, *, classes: int) -> Design:
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
        head = ending.whole_head(design.head, loss=loss, classes=classes, spatial=False)
        return dataclasses.replace(design, head=head)
    if design.head:
        raise UsageError("--head goes with --arch; --layers holds the whole network")
    layers = ", ".join(layer.text for layer in notation.parse(design.layers or ""))
    base, head = ending.divide(
        layers, loss=loss, classes=classes, size=design.size or SIZE, channels=1 if design.grey else 3
    )
    return dataclasses.replace(design, layers=base, head=head)
