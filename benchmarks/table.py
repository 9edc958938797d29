"""The table of results: as text, as JSON Lines, and in benchmarks/README.md."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from measure import cores
from row import Line, Row

BEGIN = "<!-- begin of results -->"
END = "<!-- end of results -->"
PACKAGES = ("torch", "torchvision", "onnxruntime", "numpy", "pillow", "scikit-learn")


@dataclass(frozen=True)
class Machine:
    """Where and when a run took place; `load` is the load average before it, `inputs` says what the programs worked on."""

    day: str
    processor: str
    cores: int
    memory_gb: float
    system: str
    versions: Mapping[str, str]
    load: float
    inputs: str

    @property
    def busy(self) -> bool:
        """Whether other programs ran at the start."""
        return self.load > 0.5

    def sentence(self) -> str:
        """Describe the machine."""
        packages = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        words = (
            f"{self.day}; {self.processor}, {self.cores} cores, {self.memory_gb:.0f} GB, {self.system}; {packages}. "
            f"Load average before the start: {self.load:.2f}. {self.inputs}"
        )
        return words + (" Other programs were running: only the ratios mean something." if self.busy else "")


def machine(inputs: str) -> Machine:
    """Describe this machine, now."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = _version(package)
    return Machine(
        date.today().isoformat(), _processor(), cores(), pages, platform.system(), versions, os.getloadavg()[0], inputs
    )


def _version(package: str) -> str:
    if (
        package == "onnxruntime"
    ):  # installed under the other name on x86_64, see pyproject.toml; without CUDA under this one
        with suppress(PackageNotFoundError):
            return version("onnxruntime-gpu")
    return version(package)


def _processor() -> str:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


HEADER = ("row", "program", "median", "min", "max", "unit", "ratio", "reach", "")


def cells(line: Line) -> tuple[str, ...]:
    """Return the cells of a line of the table."""
    values = (median(line.values), min(line.values), max(line.values))
    ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
    met = {None: "", True: "met", False: "missed"}[line.met]
    return line.row, line.program, *map(number, values), line.unit, ratio, line.reach, met


def number(value: float) -> str:
    """Write a value with three digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def text(lines: Sequence[Line]) -> str:
    """Return the table for a terminal."""
    rows = [HEADER, *map(cells, lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    align = (str.ljust, str.ljust, str.rjust, str.rjust, str.rjust, str.ljust, str.rjust, str.ljust, str.ljust)
    return "\n".join(
        "  ".join(place(cell, width) for place, cell, width in zip(align, row, widths, strict=True)).rstrip()
        for row in rows
    )


def markdown(where: Machine, lines: Sequence[Line], rows: Sequence[Row], rounds: int, failures: Sequence[str]) -> str:
    """Return the section of benchmarks/README.md between the markers."""
    table = [HEADER, ("---", "---", "--:", "--:", "--:", "---", "--:", "---", "---"), *map(cells, lines)]
    parts = [
        f"{where.sentence()} {rounds} rounds{', in long rows two' if rounds > 2 else ''}.",
        "\n".join(f"| {' | '.join(row)} |" for row in table),
        "\n".join(f"- `{row.name}`: {row.work}" for row in rows),
        "\n".join(f"- failed: {failure}" for failure in failures),
    ]
    return "\n\n".join(part for part in parts if part)


def replace_results(readme: Path, results: str) -> None:
    """Replace what is between the markers of a file."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{readme}: the lines {BEGIN} and {END} are missing")
    readme.write_text(f"{before}{BEGIN}\n{results}\n{END}{after}", encoding="utf-8")


def write_json_lines(path: Path, where: Machine, lines: Sequence[Line], failures: Sequence[str]) -> None:
    """Write a line for the machine, one for each line of the table with all its values, and one for each failure."""
    records = [
        {"machine": asdict(where)},
        *({**asdict(line), "median": median(line.values)} for line in lines),
        *({"failed": failure} for failure in failures),
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
