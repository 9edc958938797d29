"""The words that commands share, as values: a command adds those that it speaks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cnnkit.choices import FolderReading
from cnnkit.option_fields import OptionSpec as OptionField
from cnnkit.option_fields import batch_option, device_option, jobs_option, option_of, seed_option

# What a command declares its own words with: Annotated[int, cli.Option("--top", min=1, help="...")]
Option = typer.Option
Argument = typer.Argument


def typer_option(option: OptionField) -> Any:  # noqa: ANN401 - typer's own class is private
    """Give typer the option that a dataclass field is."""
    return typer.Option(
        *option.flags,
        help=option.help,
        metavar=option.metavar,
        min=option.minimum,
        max=option.maximum,
        rich_help_panel=option.group,
    )


Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="A picture, a folder of class folders (also in train/, val/, test/), a manifest (.tsv, .csv or .jsonl), a list of paths "
        "(.txt), or - for a list on standard input.",
    ),
]
Null = Annotated[
    bool,
    typer.Option("--null", "-0", help="The list on standard input is separated by NUL, as find -print0 writes it."),
]
Split = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME", help="Only this part: rows of a manifest, or the subfolder NAME/."),
]
Folders = Annotated[
    FolderReading | None,
    typer.Option(
        "--folders",
        show_default=False,
        help="What the folders in a folder are: classes, or splits with class folders in them. "
        "[default: splits if they are called train, val, test, fold0, ...]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Device = Annotated[str, typer_option(option_of("device", str, device_option()))]
Seed = Annotated[int, typer_option(option_of("seed", int, seed_option()))]
Jobs = Annotated[int | None, typer_option(option_of("jobs", int | None, jobs_option()))]
Batch = Annotated[int, typer_option(option_of("batch", int, batch_option()))]
Errors = Annotated[
    Path | None,
    typer.Option(
        "--errors",
        metavar="FILE",
        help="Also write skipped pictures, and images that a search of folders did not take, with their reasons here, as TSV.",
    ),
]
#: Of commands that follow gradients through a network.
DifferentiableModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", show_default=False, help="A trained .pt, or a network of torchvision's or timm's by name."
    ),
]
#: Of commands that train.
Labelled = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="A folder with a folder a class, in train/ and val/ or by themselves; a manifest (.tsv, .csv or .jsonl); or - for one "
        "on standard input.",
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
#: Of commands that match predictions with the truth.
TruthSource = Annotated[
    str | None,
    typer.Option(
        "--truth",
        metavar="SOURCE",
        help="A manifest (.tsv, .csv or .jsonl) with labels, or a folder of class folders. Unless given, the class of a picture is "
        "the name of the folder that holds it.",
    ),
]
#: Of commands that decode images.
MAX_PIXELS = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="N",
        show_default=False,
        help="Skip images of more pixels, before they are decoded. [default: 178956970]",
    ),
]
QUIET = Annotated[
    bool, typer.Option("--quiet", "-q", help="No notices and no progress; errors and skipped pictures are still named.")
]


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:  # else a line is being completed
        from cnnkit.engine import versions  # --version alone pays for it

        print(versions.line())  # noqa: T201 - the version is data
        raise typer.Exit


VERSION = Annotated[
    bool,
    typer.Option(
        "--version",
        is_eager=True,
        callback=_print_version,
        help="Print the versions of cnnkit, torch, onnxruntime, CUDA, cuDNN and driver, and the GPUs: a line for a bug report.",
    ),
]
