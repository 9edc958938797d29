"""Train the top of a pretrained base further, together with its head. What can be checked without torch is checked first."""

import dataclasses
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from cnnkit.choices import Fit, Initializer, Loss, Unfreeze
from cnnkit.data.learning import Material
from cnnkit.data.reader import Progress, no_progress
from cnnkit.engine import device as devices
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.train import ending
from cnnkit.train.recipe import Recipe
from cnnkit.train.results import Report, Result, Running, Skip, no_report, writable

log = logging.getLogger("cnnkit")

#: The textbook's learning rate for a base that is trained already: larger steps would forget what it knows.
LR = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a fine-tuning starts: a `model` file, or a `backbone` by name with its `weights` and a fresh `head`."""

    model: Path | None = None
    backbone: str | None = None
    weights: str = "default"
    head: str = ""
    size: int | None = None
    fit: Fit | None = None
    init: Initializer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Thawing:
    """Which layers are trained, how fast, and what is done about the frozen ones.

    `unfreeze` is a layer's name, a number of layers, all or none; `layer_decay` the factor of the learning rate from one block to the
    next below; `warmup_head` epochs of the head alone before; `views` how many augmented versions of the frozen part's answers are kept,
    0 for none: then it runs in every epoch. `freeze_bn` keeps the statistics of all the base's batch norms as they are, those of the
    trained layers too; their factors and offsets are trained.
    """

    unfreeze: str = Unfreeze.NONE
    layer_decay: float | None = None
    warmup_head: int = 0
    views: int | None = None
    freeze_bn: bool = True


def finetune(
    start: Start,
    material: Material,
    output: str | Path,
    *,
    thawing: Thawing,
    recipe: Recipe | None = None,
    loss: Loss | None = None,
    running: Running | None = None,
    skip: Skip,
    report: Report = no_report,
    progress: Progress = no_progress,
) -> Result:
    """Train, and write the model to FILE.pt and its history to FILE.csv.

    Args:
        start: From what.
        material: Pictures for training and validation.
        output: The `.pt`.
        thawing: What of it.
        recipe: How; its loss follows from the model's last layer, and for a fresh head from `loss`.
        loss: Refused where the model's last layer is made for another one.
        running: Where.
        skip: Called for every picture that cannot be used.
        report: Called with every epoch as it is done.
        progress: Called as pictures go by.

    Raises:
        UsageError: Options contradict each other, a notation is wrong, or a fresh head would wreck what the base knows.
        CnnkitError: As `run.run`; or the model has other classes.
    """
    output = writable(output)
    thawing = _named(thawing)
    recipe = dataclasses.replace(recipe or Recipe(), loss=loss or Loss.CATEGORICAL)
    if recipe.lr is None and thawing.unfreeze != Unfreeze.NONE:
        recipe = dataclasses.replace(recipe, lr=LR)
    start = _checked(start, recipe, classes=len(material.classes))
    recipe = recipe.checked(classes=len(material.classes), validated=bool(material.val))
    if start.model is not None and output.exists() and output.samefile(start.model):
        raise UsageError(f"{output} is what the training starts from, and --resume would need it; give another -o")
    thawing = dataclasses.replace(thawing, views=_views(thawing.views, recipe))
    devices.parse((running or Running()).device)

    from cnnkit.train import finetune_training

    return finetune_training.finetune(
        start,
        material,
        output,
        thawing,
        recipe,
        running or Running(),
        loss=loss,
        skip=skip,
        report=report,
        progress=progress,
    )


def _named(thawing: Thawing) -> Thawing:
    """Call no layer at all by its name, and refuse a share of the learning rate where it means nothing."""
    if re.fullmatch(r"[-+]?\d*\.?\d+", thawing.unfreeze) and not thawing.unfreeze.isdecimal():
        raise UsageError(
            f"--unfreeze {thawing.unfreeze}: give how many of the last layers are trained, 0 or more, a layer's name, all or none"
        )
    if thawing.unfreeze.isdecimal() and not int(thawing.unfreeze):
        thawing = dataclasses.replace(thawing, unfreeze=Unfreeze.NONE)
    if thawing.layer_decay is not None and thawing.unfreeze == Unfreeze.NONE:
        raise UsageError("--layer-decay slows the base's layers down, of which --unfreeze none trains none")
    if not thawing.freeze_bn and thawing.unfreeze == Unfreeze.NONE:
        raise UsageError("--train-bn is about the base's layers, of which --unfreeze none trains none")
    if thawing.layer_decay == 0:
        raise UsageError("--layer-decay 0 would leave the base as it is; --unfreeze none does so faster")
    return thawing


def _checked(start: Start, recipe: Recipe, *, classes: int) -> Start:
    if (start.model is None) == (start.backbone is None):
        raise UsageError("give either a model, such as head.pt, or --backbone NAME for a fresh head")
    if start.model is not None:
        for name in ("head", "size", "fit", "init", "weights"):
            if getattr(start, name) != getattr(Start(), name):
                own = "weights" if name == "init" else name
                raise UsageError(f"{start.model} has its own {own}; --{name} goes with --backbone")
        if not start.model.exists():
            raise CnnkitError(
                f"{start.model}: no such model; cnn-train-head and cnn-train make one, and --backbone NAME starts without"
            )
        return start
    if start.weights not in ("default", "none") and not Path(start.weights).is_file():
        raise CnnkitError(f"{start.weights}: no such file; --weights takes a state_dict file, default or none")
    head = ending.whole_head(start.head, loss=recipe.loss, classes=classes, spatial=False)
    return dataclasses.replace(start, head=head)


def _views(asked: int | None, recipe: Recipe) -> int:
    """Settle how many versions are kept: without augmentation there is one, with it the default is a new one in every epoch."""
    if asked is None:
        return 0 if recipe.augment or recipe.mixup else 1
    if asked and recipe.mixup:
        raise UsageError(
            "--mixup blends pictures anew in every epoch, and --views keeps answers to them; give --views 0"
        )
    if asked > 1 and not recipe.augment:
        raise UsageError(f"--views {asked} keeps augmented versions; give --augment, or --views 1")
    if asked > recipe.epochs:
        log.info(
            "--views %d: in %d epochs a picture is seen in no more than %d of them", asked, recipe.epochs, recipe.epochs
        )
    return asked
