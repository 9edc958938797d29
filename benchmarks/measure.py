"""Wall time, CPU time and peak memory of other programs.

Imports nothing but the standard library: the peak memory of a program includes that of the process that started it.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

#: Runs a command on one core: `python -c PINNED CORE COMMAND...`.
PINNED = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execvp(sys.argv[2], sys.argv[2:])"


class CommandError(Exception):
    """A program failed; the message has its command and the end of what it wrote to stderr."""


@dataclass(frozen=True)
class Usage:
    """What a program took.

    `wall` and `cpu` are seconds; `cpu` is user and system time, of all its processes. `memory` is the peak of its largest process, in MB.
    """

    wall: float
    cpu: float
    memory: float
    stdout: str = ""

    def sample(self, **more: float) -> dict[str, float]:
        """Return the usage as values of a row, with others."""
        return {"wall": self.wall, "CPU": self.cpu, "memory": self.memory, **more}


def cores() -> int:
    """Return the number of cores that programs may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rate_without_start(done: Usage, one: Usage, count: int) -> float:
    """Return the images per second of a run over `count` images, without what a run over one image takes."""
    seconds = done.wall - one.wall
    if seconds <= 0:
        raise CommandError(f"{count} images took no longer than one: there are too few, or the machine is busy")
    return (count - 1) / seconds


def run(command: Sequence[object], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> Usage:
    """Run a program to its end."""
    return _finished(_start(command, cwd, env))


def together(commands: Sequence[Sequence[object]], *, env: dict[str, str] | None = None) -> tuple[float, list[Usage]]:
    """Run programs at the same time, each on a core of its own.

    Returns:
        The wall time of all of them together, and what each took.
    """
    places = sorted(os.sched_getaffinity(0))
    started = time.perf_counter()
    running = [
        _start([sys.executable, "-c", PINNED, places[place % len(places)], *command], None, env)
        for place, command in enumerate(commands)
    ]
    found = [_finished(each) for each in running]
    return time.perf_counter() - started, found


@dataclass
class _Running:
    words: list[str]
    process: "subprocess.Popen[bytes]"
    started: float
    outputs: tuple[IO[bytes], IO[bytes]]


def _start(command: Sequence[object], cwd: Path | None, env: dict[str, str] | None) -> _Running:
    words = [str(word) for word in command]
    # Modules are compiled once, as in an installation
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    outputs = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 # closed at the end of the program
    started = time.perf_counter()
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env={**inherited, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=outputs[0],
            stderr=outputs[1],
        )
    except FileNotFoundError:
        raise CommandError(f"{words[0]}: not installed; make bench installs all programs") from None
    return _Running(words, process, started, outputs)


def _finished(running: _Running) -> Usage:
    _, status, usage = os.wait4(running.process.pid, 0)
    wall = time.perf_counter() - running.started
    running.process.returncode = os.waitstatus_to_exitcode(status)
    texts = []
    for output in running.outputs:
        output.seek(0)
        texts.append(output.read().decode(errors="replace"))
        output.close()
    if running.process.returncode:
        shown = " ".join(running.words)
        last = texts[1].strip().splitlines()[-1:] or [""]
        raise CommandError(f"{shown[:300]}: exit status {running.process.returncode}: {last[0]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Usage(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6, texts[0])
