"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cnnkit.choices import FolderReading
from cnnkit.option_fields import OptionSpec as OptionField
from cnnkit.option_fields import batch_option, device_option, jobs_option, option_of, seed_option

# For a command's own options: Annotated[int, cli.Option("--top", min=1, help="...")]
Option = typer.Option
Argument = typer.Argument


def typer_option(option: OptionField) -> Any:  # noqa: ANN401 - typer's own class is private
    """Return typer's option for a dataclass field."""
    return typer.Option(
        *option.flags,
        help=option.help,
        metavar=option.metavar,
        min=shown(option.minimum),
        max=shown(option.maximum),
        show_default="[default: " not in option.help,  # else the help has it in its own words
        rich_help_panel=option.group,
    )


def shown(value: Any) -> Any:  # noqa: ANN401 - a default of any type
    """Return a default or limit as the help has it: typer writes 0.0 for a float, and 0 for an integer, and converts it to a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="An image, a folder of class folders (photos/CLASS/image.jpg, also within train/, val/, test/) or with metadata.jsonl, a "
        "manifest (.tsv, .csv or .jsonl), an export of Label Studio (.json or .csv), a list of paths (.txt), a tar archive "
        "(also 'photos-{000..099}.tar'), an idx file (train-images-idx3-ubyte.gz), or - for "
        "a list on standard input.",
    ),
]
Null = Annotated[
    bool,
    typer.Option("--null", "-0", help="Read a list separated by NUL from standard input, as written by find -print0."),
]
#: For commands with `sources` and `null`.
FILES0_FROM = Annotated[
    Path | None,
    typer.Option(
        "--files0-from",
        metavar="FILE",
        show_default=False,
        help="Read the paths of the images from FILE, separated by NUL, instead of SOURCE; - is standard input, as with -0.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME", help="Use only this split: rows of a manifest, or the subfolder NAME/."),
]
Folders = Annotated[
    FolderReading | None,
    typer.Option(
        "--folders",
        show_default=False,
        help="Read subfolders as classes, or as splits that contain class folders. "
        "[default: splits if named train, val, test, fold0, ...; else classes]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON Lines, one object per line.")]
#: For commands whose output is a table; see `cli.to_file`. The --output of cnn-predict is that of a network.
TableFile = Annotated[
    Path | None,
    typer.Option(
        "--output-file",
        "-o",
        metavar="FILE",
        help="Write to FILE instead of standard output. An existing file is replaced at the end, and left as it was after an error. The "
        "extension is the format: .csv, .jsonl or .json; any other, TSV.",
    ),
]
Device = Annotated[str, typer_option(option_of("device", str, device_option()))]
Seed = Annotated[int, typer_option(option_of("seed", int, seed_option()))]
Jobs = Annotated[int | None, typer_option(option_of("jobs", int | None, jobs_option()))]
Batch = Annotated[int, typer_option(option_of("batch", int, batch_option()))]
Errors = Annotated[
    Path | None,
    typer.Option(
        "--errors",
        metavar="FILE",
        help="Also write a table (TSV) of skipped images, and of images that a folder search did not use, with reasons.",
    ),
]
#: For commands with `errors`.
FAIL_FAST = Annotated[
    bool,
    typer.Option(
        "--fail-fast",
        help="End at the first image that cannot be used, with its error and status 1, instead of skipping it.",
    ),
]
#: For commands that compute gradients of a network.
DifferentiableModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="A trained model (.pt), or the name of a torchvision or timm network. [required unless -m]",
    ),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", metavar="MODEL", help="The model, instead of the first argument.")
]
#: For commands that train.
Labelled = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="A folder of class folders (photos/CLASS/image.jpg, also within train/ and val/) or with metadata.jsonl; a manifest (.tsv, "
        ".csv or .jsonl); an export of Label Studio (.json or .csv); tar archives "
        "('train-{000..099}.tar'); a folder of idx files (MNIST); or - for a manifest on standard input.",
    ),
]
Val = Annotated[
    list[str] | None,
    typer.Option(
        "--val",
        metavar="SOURCE",
        help="Validation set, which selects the best epoch. [default: the split val of SOURCE]",
    ),
]
HoldOut = Annotated[
    str | None,
    typer.Option(
        "--hold-out",
        metavar="SPLIT",
        help="Validate on this split, and train on all others except test; for the folds of cnn-split --folds.",
    ),
]
#: For commands that compare predictions with the truth.
TruthSource = Annotated[
    str | None,
    typer.Option(
        "--truth",
        metavar="SOURCE",
        help="True labels: a manifest (.tsv, .csv or .jsonl), or a folder of class folders. [default: the folder of "
        "each image; of nested folders, those that fit the predicted classes]",
    ),
]
#: For commands that decode images.
MAX_PIXELS = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="N",
        show_default=False,
        help="Skip images of more than N pixels without decoding them. [default: 178956970]",
    ),
]
#: For commands that read images from sources, which may be manifests with boxes.
MARGIN = Annotated[
    float | None,
    typer.Option(
        "--margin",
        min=0,
        metavar="SHARE",
        show_default=False,
        help="Widen the boxes of a manifest (column box) on each side by SHARE of their longer side. [default: 0]",
    ),
]
QUIET = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print no notices and no progress; errors and skipped images are still reported."
    ),
]


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:  # else a line is being completed
        from cnnkit.engine import versions  # imported only for --version

        print(versions.line())  # noqa: T201 - the version is data
        raise typer.Exit


VERSION = Annotated[
    bool,
    typer.Option(
        "--version",
        is_eager=True,
        callback=_print_version,
        help="Print the versions of cnnkit, torch, onnxruntime, CUDA, cuDNN and the driver, and the GPUs, for bug reports.",
    ),
]
