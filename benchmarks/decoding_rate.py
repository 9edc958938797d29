"""Measure decoding without a network: decoding_rate.py FOLDER THREADS WORKERS.

Prints images per second, and the CPU time per image in microseconds of this process and of all processes, as JSON. The start of the
workers does not count.
"""

import json
import os
import sys
import time
from collections.abc import Sequence

from cnnkit.choices import Fit
from cnnkit.data import source
from cnnkit.engine import batches
from cnnkit.formats.header import Preprocess

BATCH = 128
SIZE = 32


def main(folder: str, threads: int, workers: int) -> None:
    """Decode the first images, then all of them."""
    images = list(source.find([folder]))
    with batches.loader([Preprocess(Fit.SQUASH, SIZE, SIZE)], batch=BATCH, jobs=threads, processes=workers) as loader:
        loader.count(images[:1000])  # starts threads and workers
        others = [] if loader.workers is None else loader.workers.process_ids
        own, of_others, started = time.process_time(), cpu_of(others), time.perf_counter()
        usable = loader.count(images)
        seconds = time.perf_counter() - started
        own, of_others = time.process_time() - own, cpu_of(others) - of_others
    print(json.dumps({"rate": usable / seconds, "own": 1e6 * own / usable, "CPU": 1e6 * (own + of_others) / usable}))


def cpu_of(processes: Sequence[int]) -> float:
    """Return the CPU time of processes that still run, in seconds; 0 where the system has no /proc."""
    ticks = 0
    for number in processes if os.path.exists("/proc") else ():
        with open(f"/proc/{number}/stat") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
        ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
