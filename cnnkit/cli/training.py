"""The words that the commands share which train, and what they make of them."""

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnkit import choices
from cnnkit.cli.incoming import refuse_terminal
from cnnkit.cli.outgoing import emit, skipping
from cnnkit.cli.run import rank
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    pass

# How a terminal's help groups the words; the others stand above.
NETWORK, FREEZING, LEARNING = "Network", "What is trained", "Learning"

Labelled = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="A folder with a folder a class, in train/ and val/ or by themselves; a manifest.tsv; or - for one on standard input.",
    ),
]
Val = Annotated[
    list[str] | None,
    typer.Option(
        "--val", metavar="SOURCE", help="Pictures that choose the best epoch. [default: the part val of the sources]"
    ),
]
HoldOut = Annotated[
    str | None,
    typer.Option(
        "--hold-out",
        metavar="PART",
        help="This part chooses the best epoch, and all others are learnt from, but for test: a fold of cnn-split --folds.",
    ),
]
Augment = Annotated[
    str | None,
    typer.Option(
        "--augment",
        metavar="NOTATION",
        help='Change every picture anew in every epoch: "rotate 20, zoom 0.2, hflip"; or @FILE.',
        rich_help_panel=LEARNING,
    ),
]
OptimizerName = Annotated[
    choices.Optimizer, typer.Option("--optimizer", help="How weights follow gradients.", rich_help_panel=LEARNING)
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        min=0.0,
        show_default=False,
        help="Learning rate. [default: 0.001; 0.01 for sgd]",
        rich_help_panel=LEARNING,
    ),
]
Momentum = Annotated[
    float | None,
    typer.Option("--momentum", min=0.0, max=1.0, help="For sgd and rmsprop. [default: 0]", rich_help_panel=LEARNING),
]
ScheduleName = Annotated[
    choices.Schedule, typer.Option("--schedule", help="How the learning rate goes on.", rich_help_panel=LEARNING)
]
Warmup = Annotated[
    float,
    typer.Option(
        "--warmup",
        min=0.0,
        metavar="EPOCHS",
        help="Let the learning rate rise from nothing first.",
        rich_help_panel=LEARNING,
    ),
]
Epochs = Annotated[int, typer.Option("--epochs", min=1, help="The most epochs.", rich_help_panel=LEARNING)]
L1 = Annotated[
    float,
    typer.Option(
        "--l1", min=0.0, help="Penalty on the sum of |w|; with --l2 the elastic net.", rich_help_panel=LEARNING
    ),
]
L2 = Annotated[float, typer.Option("--l2", min=0.0, help="Penalty on the sum of w squared.", rich_help_panel=LEARNING)]
Smoothing = Annotated[
    float, typer.Option("--smoothing", min=0.0, max=0.99, help="Label smoothing.", rich_help_panel=LEARNING)
]
ClassWeightsName = Annotated[
    choices.ClassWeights,
    typer.Option("--class-weights", help="What a picture of each class counts for.", rich_help_panel=LEARNING),
]
Mixup = Annotated[
    float,
    typer.Option(
        "--mixup",
        min=0.0,
        metavar="ALPHA",
        help="Blend pairs of pictures, by shares from Beta(ALPHA, ALPHA).",
        rich_help_panel=LEARNING,
    ),
]
LossName = Annotated[
    choices.Loss,
    typer.Option("--loss", help="Softmax over classes, or one sigmoid for two.", rich_help_panel=LEARNING),
]
Ema = Annotated[
    float | None,
    typer.Option(
        "--ema",
        min=0.0,
        max=1.0,
        metavar="DECAY",
        help="Validate and keep the weights' moving average: 0.999.",
        rich_help_panel=LEARNING,
    ),
]
Clip = Annotated[
    float | None, typer.Option("--clip", min=0.0, help="The gradients' largest norm.", rich_help_panel=LEARNING)
]
Patience = Annotated[
    int | None,
    typer.Option(
        "--patience", min=1, help="Stop after this many epochs without a better one.", rich_help_panel=LEARNING
    ),
]
MonitorName = Annotated[
    choices.Monitor,
    typer.Option("--monitor", help="The validation measure that chooses the best epoch.", rich_help_panel=LEARNING),
]
AmpName = Annotated[
    choices.Amp, typer.Option("--amp", help="Numbers to compute in; auto: bf16 where the hardware has it.")
]
Compile = Annotated[bool, typer.Option("--compile", help="Run the network through torch.compile.")]
CacheSize = Annotated[
    str,
    typer.Option(
        "--cache",
        metavar="SIZE",
        help="Memory for decoded pictures, 500M or 4G; more than that are read in every epoch.",
    ),
]
ResumeTraining = Annotated[
    bool, typer.Option("--resume", help="Go on from the last finished epoch of an interrupted training.")
]

_MOST_DIGITS = 18
# A suffix alone and one with iB count by 1024, one with B by 1000
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(?:([KMGT])(iB|B)?)?", re.IGNORECASE | re.ASCII)


def in_bytes(size: str) -> int:
    """Read a size as coreutils do: 500M and 500MiB by 1024, 500MB by 1000, 0.

    Raises:
        UsageError: It is none.
    """
    found = _SIZE.fullmatch(size.strip())
    if found is None or len(found[1]) > _MOST_DIGITS:
        raise UsageError(f'--cache "{size}": give a size in bytes, such as 500M or 4G')
    power = " KMGT".index((found[2] or " ").upper())
    return int(float(found[1]) * (1000 if (found[3] or "").upper() == "B" else 1024) ** power)


def material(sources: list[str] | None, *, val: list[str] | None, hold_out: str | None = None) -> "Material":
    """Find the pictures that the words on the command line name, for training and for validation.

    Raises:
        UsageError: There is no source, and standard input is a terminal; or as `learning.find`.
        CnnkitError: As `learning.find`.
    """
    from cnnkit.data import learning

    if not sources:
        refuse_terminal("a folder or a manifest", "a manifest")
    stdin = sys.stdin.buffer if sys.stdin else None
    return learning.find(sources or ["-"], val or [], hold_out=hold_out, stdin=stdin)


def reporting(as_json: bool) -> Callable[[Any], None]:
    """Give what to call with every epoch: with `--json` it is a record on stdout at once."""
    return lambda epoch: emit([epoch], as_json) if as_json else None


def skipping_once(errors: Path | None) -> contextlib.AbstractContextManager[Callable[[str, str], None]]:
    """As `skipping`; of several processes the first one writes the file."""
    return skipping(errors if rank() == 0 else None)


def conclude(result: Any, as_json: bool) -> None:  # noqa: ANN401 - a record
    """Print what a training came to; of several processes the first one does."""
    if rank() == 0:
        emit([result], as_json)


def model_file(output: Path | None) -> Path:
    """Demand a place for the model.

    Raises:
        UsageError: None is said.
    """
    if output is None:
        raise UsageError("say where the model goes with -o FILE.pt")
    return output


def model_first(words: list[str] | None, *, unless: str | None) -> tuple[Path | None, list[str]]:
    """Take a model off the front of the words on the command line.

    Args:
        words: A model and sources; sources alone where `unless` is said.
        unless: What stands in the model's place.

    Raises:
        UsageError: The first word is no model.
    """
    words = list(words or [])
    if unless is not None:
        if words and words[0].endswith(".pt"):
            raise UsageError(f"start either from {words[0]} or from --backbone {unless}")
        return None, words
    if not words or not words[0].endswith(".pt"):
        if words and words[0].endswith(".pth"):
            raise UsageError(f"{words[0]} is weights alone; start with --backbone NAME --weights {words[0]}")
        raise UsageError(
            f"{f'{words[0]} is no model' if words else 'no model given'}: begin with MODEL.pt, or start from --backbone NAME"
        )
    return Path(words[0]), words[1:]
