"""The words that commands share, as values: a command adds those that it speaks."""

from pathlib import Path
from typing import Annotated

import typer

# What a command declares its own words with: Annotated[int, cli.Option("--top", min=1, help="...")]
Option = typer.Option
Argument = typer.Argument

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="A picture, a folder (label = the folder directly below it), a manifest.tsv, or - for a list on standard input.",
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
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="Where the result goes; replaced in one step.")
]
Device = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N. cuda runs on the GPU or fails.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same bytes.")]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", min=1, show_default=False, help="Threads that decode pictures; all cores unless said."),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Pictures that go through the network at once.")]
Errors = Annotated[
    Path | None,
    typer.Option("--errors", metavar="FILE", help="Also write skipped pictures and their reasons here, as TSV."),
]
#: Of commands that train.
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
#: Of commands that set predictions beside the truth.
TruthSource = Annotated[
    str | None,
    typer.Option(
        "--truth",
        metavar="SOURCE",
        help="A manifest.tsv with labels, or a folder of class folders. Unless given, the class of a picture is the name of "
        "the folder that holds it.",
    ),
]
QUIET = Annotated[
    bool, typer.Option("--quiet", "-q", help="No notices and no progress; errors and skipped pictures are still named.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        versions = {
            name: _version_of(name) for name in ("cnnkit", "torch", "torchvision", "onnxruntime-gpu", "onnxruntime")
        }
        print(", ".join(f"{name} {version}" for name, version in versions.items() if version))  # noqa: T201 - the version is data
        raise typer.Exit


def _version_of(distribution: str) -> str | None:
    from importlib import metadata  # --version alone pays for it

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


VERSION = Annotated[
    bool,
    typer.Option(
        "--version", is_eager=True, callback=_print_version, help="Print the versions of cnnkit, torch and onnxruntime."
    ),
]
