"""One process against two: `python benchmarks/scaling.py FOLDER [WEIGHTS [IMAGES [ROUNDS]]]`.

FOLDER contains FOLDER/CLASS/image.jpg; WEIGHTS is a state_dict of MobileNetV2, random by default. cnn-extract runs over IMAGES images on
one core, then as two shards at once, each on a core of its own, as on two machines with one core each. The two alternate. The rate is that
of cnn-extract without start and loading, of the slowest shard; `wall` is the whole time, with both. On a busy machine, only CPU time
counts: that of the one process by that of the slowest shard (`cpu_ratio`) is how many times as fast two idle cores are, start included.
The joined features are compared with those of the one run.

`measure` is for other benchmarks.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Scaling:
    """One round: images per second, wall and CPU seconds of one process and of the slowest shard, and how many times better shards are."""

    one_rate: float
    shards_rate: float
    rate_ratio: float
    one_wall: float
    shards_wall: float
    wall_ratio: float
    one_cpu: float
    shards_cpu: float
    cpu_ratio: float


def measure(
    images: Sequence[str | Path], *, weights: str = "none", shards: int = 2, rounds: int = 3, batch: int = 32
) -> list[Scaling]:
    """Extract features in one process and in shards, in turn.

    Args:
        images: Their number should be many times `shards * batch`: the last batch of each shard is padded.
        weights: A state_dict of MobileNetV2, or none.
        shards: Processes at once; as many cores are needed.
        rounds: How often; an additional first round, which exports the backbone and fills the caches, is not returned.
        batch: Images per batch.

    Raises:
        SystemExit: There are too few cores, a command failed, or the joined features are not those of one run.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < shards:
        raise SystemExit(f"{shards} shards need {shards} cores, and {len(cores)} may be used")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        listed = folder / "images.txt"
        listed.write_text("".join(f"{Path(image).absolute()}\n" for image in images), encoding="utf-8")
        words = ["--weights", weights, "--device", "cpu", "--batch", str(batch), "--json", "--quiet"]
        one = [[*words, "-o", str(folder / "one.npy")]]
        each = [
            [*words, "--shard", f"{number}/{shards}", "-o", str(folder / f"part-{number}.npy")]
            for number in range(1, shards + 1)
        ]
        found = [_round(listed, one, each, cores) for _ in range(1 + rounds)]
        parts = [str(folder / f"part-{number}.npy") for number in range(1, shards + 1)]
        subprocess.run(
            [*_COMMAND, "--join", *parts, "-o", str(folder / "joined.npy"), "--quiet"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for suffix in (".npy", ".tsv", ".json"):
            if (folder / f"joined{suffix}").read_bytes() != (folder / f"one{suffix}").read_bytes():
                raise SystemExit(f"{suffix} of the joined shards is not that of one run")
    return found[1:]


_COMMAND = [sys.executable, "-m", "cnnkit_tools.cnn_extract"]


def _round(listed: Path, one: list[list[str]], each: list[list[str]], cores: list[int]) -> Scaling:
    alone, together = (_at_once(listed, calls, cores) for calls in (one, each))
    (rate, wall, cpu), (shards_rate, shards_wall, shards_cpu) = alone, together
    return Scaling(
        *(rate, shards_rate, shards_rate / rate),
        *(wall, shards_wall, wall / shards_wall),
        *(cpu, shards_cpu, cpu / shards_cpu),
    )


def _at_once(listed: Path, calls: list[list[str]], cores: list[int]) -> tuple[float, float, float]:
    """Run cnn-extract with each list of words at once, the n-th on the n-th core; return rate, wall time and CPU time."""
    started = time.perf_counter()
    running = []
    for words, core in zip(calls, cores, strict=False):
        # taskset is part of every Linux; a function before exec is not safe in a program with threads
        command = ["taskset", "--cpu-list", str(core), *_COMMAND, *words, "-"]
        with listed.open("rb") as images:
            running.append(subprocess.Popen(command, stdin=images, stdout=subprocess.PIPE))
    records, spent = [], []
    for process in running:
        with process:
            assert process.stdout is not None
            text = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 3):  # 3: images were skipped
            raise SystemExit("cnn-extract failed")
        records.append(json.loads(text))
        spent.append(usage.ru_utime + usage.ru_stime)
    wall, cpu = time.perf_counter() - started, max(spent)
    rate = sum(record["rows"] for record in records) / max(record["seconds"] for record in records)
    return rate, wall, cpu


def main() -> None:
    """Print a row for each round, and the medians."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    weights = sys.argv[2] if len(sys.argv) > 2 else "none"
    most, rounds = (
        int(sys.argv[place]) if len(sys.argv) > place else default for place, default in ((3, 1000), (4, 3))
    )
    images = sorted(path for path in Path(sys.argv[1]).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    names = [field.name for field in fields(Scaling)]
    print("\t".join(["round", *names]))
    found = measure(images[:most], weights=weights, rounds=rounds)
    for number, each in enumerate(found, start=1):
        print("\t".join([str(number), *(f"{value:.3g}" for value in astuple(each))]))
    print("\t".join(["median", *(f"{median(getattr(each, name) for each in found):.3g}" for name in names)]))


if __name__ == "__main__":
    main()
