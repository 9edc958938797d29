"""Compare the commands with other programs that do the same work: `make bench`, or `.venv/bin/python benchmarks/suite.py --help`.

Programs of a row alternate, so that a busy machine slows all of them alike. Their inputs are made once, in a temporary folder.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import rows_explain
import rows_files
import rows_images
import rows_models
import rows_readme
import rows_start
import rows_training
import table
from inputs import Inputs
from measure import CommandError
from row import Line, Row, lines

HERE = Path(__file__).parent
#: A program runs no third round after this time, in seconds per round: long ones vary little, and would take most of the time.
SECONDS = 2.5
ROWS: tuple[Row, ...] = (
    *rows_images.ROWS,
    *rows_training.ROWS,
    *rows_models.ROWS,
    *rows_files.ROWS,
    *rows_explain.ROWS,
    *rows_start.ROWS,
    *rows_readme.ROWS,
)


def chosen(rows: Sequence[Row], only: str) -> list[Row]:
    """Return the rows named in a list separated by commas; `photos` also names photos-extract. All of them if the list is empty."""
    names = [name for name in only.split(",") if name]
    found = [
        row for row in rows if not names or any(row.name == name or row.name.startswith(f"{name}-") for name in names)
    ]
    for name in names:
        if not any(row.name == name or row.name.startswith(f"{name}-") for row in found):
            raise SystemExit(f"no row {name}; there are {', '.join(row.name for row in rows)}")
    return found


def measured(row: Row, inputs: Inputs, *, rounds: int) -> tuple[list[Line], list[str]]:
    """Run the programs of a row in turn, long ones in fewer rounds.

    Returns:
        Their lines of the table, and the programs that failed, with reasons; these have no lines.

    Raises:
        CommandError: The inputs could not be made.
    """
    programs = row.programs(inputs)
    samples: list[list[Mapping[str, float]]] = [[] for _ in programs]
    spent = [0.0] * len(programs)
    failed: dict[int, str] = {}
    for number in range(rounds):
        for place, program in enumerate(programs):
            if place in failed or number >= (program.rounds or rounds):
                continue
            if number > 1 and spent[place] >= SECONDS * rounds:
                continue
            started = time.perf_counter()
            try:
                samples[place].append(program.run())
            except (CommandError, OSError) as error:  # OSError: what a program that failed before should have written
                failed[place] = f"{row.name}, {program.name}: {error}"
                samples[place].clear()
            spent[place] += time.perf_counter() - started
    return lines(row, programs, samples), list(failed.values())


def run(rows: Sequence[Row], inputs: Inputs, *, rounds: int) -> tuple[list[Line], list[str]]:
    """Measure rows; print each as it is done.

    Returns:
        The lines of the table, and the programs and rows that failed, with reasons.
    """
    found: list[Line] = []
    failures: list[str] = []
    began = time.perf_counter()
    for number, row in enumerate(rows, start=1):
        print(f"row {number} of {len(rows)}, {row.name}: {row.work}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        try:
            of_row, failed = measured(row, inputs, rounds=rounds)
        except CommandError as error:
            of_row, failed = [], [f"{row.name}: {error}"]
        found += of_row
        failures += failed
        for part in ([table.text(of_row)] if of_row else []) + failed:
            print(part, file=sys.stderr, flush=True)
        now = time.perf_counter()
        print(f"({now - started:.0f} s, {(now - began) / 60:.1f} min in all)\n", file=sys.stderr, flush=True)
    return found, failures


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="class folders of photographs, DIR/CLASS/image.jpg or DIR/dogs-vs-cats/CLASS/image.jpg; without it, images are synthesised",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="state_dict of MobileNetV2 (default: DIR/weights/mobilenet_v2.pth, or random weights)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        metavar="N",
        help="runs of each program, of long ones fewer (default: %(default)s)",
    )
    parser.add_argument("--only", default="", metavar="ROW,...", help="rows to run (default: all)")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="X",
        help="share of the usual number of images and table rows, to try a row; the results are not comparable",
    )
    parser.add_argument(
        "--peers",
        type=Path,
        default=HERE.parent / ".venv" / "peers" / "bin" / "python",
        metavar="PYTHON",
        help="Python of the environment with the other programs (default: %(default)s)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=HERE / "results.jsonl",
        metavar="FILE",
        help="also write the results as JSON Lines (default: %(default)s)",
    )
    parser.add_argument(
        "--readme",
        type=Path,
        default=HERE / "README.md",
        metavar="FILE",
        help="file whose table is replaced by a run of all rows (default: %(default)s)",
    )
    parser.add_argument("--list", action="store_true", help="only print the names of the rows")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None, rows: Sequence[Row] = ROWS) -> int:
    """Run the benchmark, and return the exit status: 1 if a program failed."""
    given = arguments(words)
    if given.list:
        print("\n".join(f"{row.name}\t{row.work}" for row in rows))
        return 0
    selected = chosen(rows, given.only)
    for name in ("data", "weights"):
        path = getattr(given, name)
        if path not in (None, "none") and not Path(path).exists():
            raise SystemExit(f"--{name} {path}: does not exist")
    if given.data and not Path(given.data).is_dir():
        raise SystemExit(f"--data {given.data}: not a folder; give one of class folders of photographs")
    if given.rounds < 1:
        raise SystemExit(f"--rounds {given.rounds}: give at least 1")
    with tempfile.TemporaryDirectory(prefix="cnnkit-bench-") as folder:
        inputs = Inputs(Path(folder), data=given.data, weights=given.weights, peers=given.peers, scale=given.scale)
        where = table.machine(inputs.description)
        if where.busy:
            print(
                f"warning: the load average is {where.load:.2f}; stop other programs for reliable figures",
                file=sys.stderr,
            )
        found, failures = run(selected, inputs, rounds=given.rounds)
    if found:
        print(where.sentence(), table.text(found), sep="\n")
    table.write_json_lines(given.json, where, found, failures)
    if not given.only and given.scale == 1:
        table.replace_results(given.readme, table.markdown(where, found, selected, given.rounds, failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
