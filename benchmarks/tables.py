"""CPU time and peak memory of commands on tables of a million rows: `python benchmarks/tables.py [ROWS [ROUNDS [NAME ...]]]`.

Writes predictions and manifests of ROWS images in 10 classes; the images do not exist, as the commands do not open them. NAME selects
some of the commands. They alternate, so that a busy machine slows all of them alike. `--write FOLDER [ROWS]` only writes the tables.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

CLASSES = [f"class{number}" for number in range(10)]

#: The arguments of each command, by a name for the table of results.
COMMANDS = {
    "eval": "cnn_eval top.tsv",
    "eval --truth": "cnn_eval top.tsv --truth split.tsv --complete",
    "eval --top all": "cnn_eval all.tsv --truth split.tsv",
    "eval, JSON Lines": "cnn_eval top.jsonl",
    "eval, CSV": "cnn_eval top.csv",
    "eval --folds": "cnn_eval top.tsv --truth split.tsv --folds",
    "compare": "cnn_compare top.tsv other.tsv --truth split.tsv",
    "calibrate": "cnn_calibrate all.tsv --truth split.tsv",
}


def write(folder: Path, rows: int) -> None:
    """Write the tables: predictions (top 1 of all images, all classes of a tenth of them), and the manifest with the truth."""
    rng = np.random.default_rng(0)
    truth = rng.integers(len(CLASSES), size=rows)
    logits = rng.normal(size=(rows, len(CLASSES)))
    logits[np.arange(rows), truth] += 2
    powers = np.exp(logits)
    probabilities = powers / powers.sum(axis=1, keepdims=True)  # (rows, classes)
    paths = [f"photos/{CLASSES[label]}/img_{number:07d}.jpg" for number, label in enumerate(truth)]
    splits = ("train", "train", "train", "val", "test")
    _save(
        folder / "split.tsv",
        "path\tlabel\tsplit\tgroup",
        (
            f"{path}\t{CLASSES[label]}\t{splits[number % 5]}\tg{number // 3}"
            for number, (path, label) in enumerate(zip(paths, truth, strict=True))
        ),
    )
    best, highest = probabilities.argmax(axis=1), probabilities.max(axis=1)
    top = list(zip(paths, (CLASSES[label] for label in best), highest.tolist(), strict=True))
    header = "path\trank\tlabel\tprobability"
    _save(folder / "top.tsv", header, (f"{path}\t1\t{label}\t{value:.6g}" for path, label, value in top))
    _save(
        folder / "top.csv", header.replace("\t", ","), (f"{path},1,{label},{value:.6g}" for path, label, value in top)
    )
    _save(
        folder / "top.jsonl",
        None,
        (f'{{"path": "{path}", "rank": 1, "label": "{label}", "probability": {value}}}' for path, label, value in top),
    )
    second = np.where(rng.random(rows) < 0.02, probabilities.argsort(axis=1)[:, -2], best)
    _save(
        folder / "other.tsv",
        header,
        (
            f"{path}\t1\t{CLASSES[label]}\t{probabilities[row, label]:.6g}"
            for row, (path, label) in enumerate(zip(paths, second, strict=True))
        ),
    )
    _save(folder / "all.tsv", header, _every_class(paths[: rows // 10], probabilities))


def _every_class(paths: list[str], probabilities: "np.typing.NDArray[np.float64]") -> Iterator[str]:
    for path, row in zip(paths, probabilities, strict=False):
        for rank, label in enumerate((-row).argsort(), start=1):
            yield f"{path}\t{rank}\t{CLASSES[label]}\t{row[label]:.6g}"


def _save(path: Path, header: str | None, lines: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        if header is not None:
            file.write(header + "\n")
        file.writelines(line + "\n" for line in lines)


def measured(command: str, folder: Path) -> tuple[float, float, float]:
    """Run a command; return its CPU time and wall time in seconds, and its peak memory in MB."""
    program, *words = command.split()
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", f"cnnkit_tools.{program}", *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command}: exit status {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - started, usage.ru_maxrss * unit / 1e6


def main() -> None:
    """Print the median CPU time, the median wall time and the largest peak memory of each command."""
    if sys.argv[1:2] == ["--write"]:
        write(Path(sys.argv[2]), int((*sys.argv[3:], "1000000")[0]))
        return
    rows, rounds, *names = (*sys.argv[1:3], *["1000000", "3"][len(sys.argv[1:3]) :], *sys.argv[3:])
    commands = {name: command for name, command in COMMANDS.items() if not names or name in names}
    with tempfile.TemporaryDirectory() as made:
        write(Path(made), int(rows))
        seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
        for _ in range(int(rounds)):
            for name, command in commands.items():
                seen[name].append(measured(command, Path(made)))
    print(f"{int(rows):,} rows")
    print(f"{'command':<18}  CPU s  wall s  peak MB")
    for name, taken in seen.items():
        cpu, wall, memory = zip(*taken, strict=True)
        print(f"{name:<18}  {median(cpu):5.1f}  {median(wall):6.1f}  {max(memory):7.0f}")


if __name__ == "__main__":
    main()
