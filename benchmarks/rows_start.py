"""Rows of start-up: importing what a command needs."""

from collections.abc import Mapping, Sequence
from functools import partial

from inputs import Inputs
from row import Metric, Program, Role, Row

#: The modules that the commands that need torch import before they work; cnn-cam and cnn-maps as for a network of torch.
#: cnn-dream, cnn-style and cnn-attack import the same as cnn-filters.
MODULES = {
    "cnn-train": "cnnkit.train.scratch",
    "cnn-train-head": "cnnkit.train.head",
    "cnn-finetune": "cnnkit.train.finetune",
    "cnn-advise": "cnnkit.audit.transfer_advice",
    "cnn-augment": "cnnkit.engine.augment_files",
    "cnn-export": "cnnkit.engine.export",
    "cnn-cam": "cnnkit.explain.cam_run, cnnkit.explain.load_network, cnnkit.explain.cam",
    "cnn-maps": "cnnkit.explain.feature_maps, cnnkit.explain.load_network",
    "cnn-filters": "cnnkit.explain.activation_max",
}

# What `cnnkit.cli.command` sets before a command imports anything.
_IN_COMMANDS = {"OPENBLAS_THREAD_TIMEOUT": "16"}

# A command with one option, in the package that our commands use.
BARE = """
import typer
app = typer.Typer()
@app.command()
def main(size: int = 224) -> None: print(size)
app(args=[])
"""


def _start(inputs: Inputs) -> Sequence[Program]:
    def imported(code: str, *, command: bool = False) -> Mapping[str, float]:
        return inputs.python(code, variables=_IN_COMMANDS if command else None).sample()

    imported(f"import {', '.join(MODULES.values())}")  # compiles the modules
    return [
        *(Program(command, partial(imported, f"import {module}", command=True)) for command, module in MODULES.items()),
        Program("import torch, torchvision", partial(imported, "import torch, torchvision"), Role.PEER),
        Program("import torch", partial(imported, "import torch"), Role.OTHER),
    ]


def _bare(inputs: Inputs) -> Sequence[Program]:
    return [
        Program("cnn-dims --help", lambda: inputs.ours("cnn-dims", "--help").sample()),
        Program("typer, one option", lambda: inputs.python(BARE).sample(), Role.PEER),
    ]


ROWS = (
    Row(
        "start",
        "what commands import before they work, with torch; the whole process",
        {"wall": Metric("s", times=1), "CPU": Metric("s CPU", times=1), "memory": Metric("MB", times=1)},
        _start,
    ),
    Row(
        "start-help",
        "cnn-dims --help and a program of typer with one option; the whole process",
        {"wall": Metric("s"), "CPU": Metric("s CPU", times=1 / 1.5)},
        _bare,
    ),
)
