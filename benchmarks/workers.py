"""Decoding in threads and in processes: `python benchmarks/workers.py FOLDER [SIZE [IMAGES [ROUNDS]]]`.

FOLDER contains FOLDER/CLASS/image; images become SIZE pixels square, by default 32. No network runs. Rows alternate, so that a busy machine
slows all of them alike. Columns: threads, worker processes, images per second, CPU time per image in this process and in all of them in
microseconds, and the rate at which this process, which one core computes, would be the limit, whatever the number of cores. With
threads, the limit is lower than the reciprocal of the time that a thread holds the interpreter's lock, which `py-spy record --gil` shows.

At the end: the CPU time and the memory that one worker takes to start.
"""

import json
import os
import sys
import time
from collections import defaultdict
from statistics import median

from process_usage import measured

from cnnkit.choices import Fit
from cnnkit.data import source
from cnnkit.data.source import ImageFile
from cnnkit.engine import batches
from cnnkit.formats.header import Preprocess

#: Threads and worker processes of each row.
ROWS = ((1, 0), (2, 0), (1, 1), (2, 1), (2, 2))
BATCH = 128


def main() -> None:
    """Alternate between the rows, and print medians as JSON Lines."""
    folder, *numbers = sys.argv[1:]
    size, count, rounds = [*map(int, numbers), *(32, 20_000, 5)[len(numbers) :]]
    found = list(source.find([folder]))
    images = [found[number % len(found)] for number in range(count)]
    way = Preprocess(Fit.SQUASH, size, size)
    rates = defaultdict(list)
    for _ in range(rounds):
        for row in ROWS:
            rates[row].append(_decoded(images, way, *row))
    for (jobs, workers), each in rates.items():
        rate, mine, everyone = (median(column) for column in zip(*each, strict=True))
        print(
            json.dumps(
                {
                    "jobs": jobs,
                    "workers": workers,
                    "per_second": round(rate),
                    "slowest": round(min(rate for rate, _, _ in each)),
                    "fastest": round(max(rate for rate, _, _ in each)),
                    "own_us": round(1e6 * mine),
                    "all_us": round(1e6 * everyone),
                    "limit": round(1 / mine) if workers else None,
                }
            )
        )
    seconds, megabytes = zip(
        *(measured([sys.executable, "-c", "import cnnkit.engine.batches"]) for _ in range(5)), strict=True
    )
    print(json.dumps({"start_cpu_seconds": round(median(seconds), 2), "megabytes": round(median(megabytes))}))


def _decoded(images: list[ImageFile], way: Preprocess, jobs: int, workers: int) -> tuple[float, float, float]:
    """Return images per second, and the CPU time per image of this process and of all, without those of the start."""
    with batches.loader([way], batch=BATCH, jobs=jobs, processes=workers) as loader:
        loader.count(images[:1000])
        others = [] if loader.workers is None else loader.workers.process_ids
        began, before = _cpu(others)
        started = time.perf_counter()
        usable = loader.count(images)
        elapsed = time.perf_counter() - started
        ended, after = _cpu(others)
    return usable / elapsed, (ended - began) / usable, (ended - began + after - before) / usable


def _cpu(others: list[int]) -> tuple[float, float]:
    """Return the CPU time of this process, and that of others that still run."""
    ticks = 0
    for number in others:
        with open(f"/proc/{number}/stat") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
        ticks += int(user) + int(system)
    return time.process_time(), ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
