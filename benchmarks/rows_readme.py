"""The row of the commands in README.md."""

import re
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from inputs import Inputs
from row import Metric, Program, Row

README = Path(__file__).parents[1] / "README.md"
COUNTS, WEIGHTS = "--count 100,50,50", "--weights mobilenet_v2.pth"


def commands() -> list[str]:
    """Return the command lines of the block with photographs."""
    (block,) = re.findall(r"<!-- photos -->\n```console\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return re.findall(r"^\$ (.*)$", block, re.MULTILINE)


def _steps(inputs: Inputs) -> Sequence[Program]:
    inputs.fill_cache()
    folder = inputs.new()
    folder.mkdir()
    (folder / "photos").symlink_to(inputs.images(400))
    # Each command reads what those before it wrote, in every round again
    lines = [_adapted(line, inputs) for line in commands()]

    def run(line: str) -> Mapping[str, float]:
        return inputs.shell(line, cwd=folder).sample()

    return [Program(line.split()[0], partial(run, line), rounds=2) for line in lines]


def _adapted(line: str, inputs: Inputs) -> str:
    """Return a command line with the weights that are there, and scaled numbers of images."""
    counts = ",".join(str(max(1, round(number * inputs.scale))) for number in (100, 50, 50))
    return line.replace(COUNTS, f"--count {counts}").replace(WEIGHTS, f"--weights {shlex.quote(inputs.weights)}")


ROWS = (
    Row(
        "steps",
        "the six commands of README.md on 400 images, with the backbone exported before; whole processes",
        {"CPU": Metric("s CPU"), "memory": Metric("MB")},
        _steps,
    ),
)
