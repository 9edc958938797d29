"""Run commands in forks of one process, and record how they end."""

import contextlib
import os
import select
import shlex
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))
import serve

#: Time limit of a command on these small inputs. It usually takes a second, but the machine may be busy.
SECONDS = 60

#: Memory limit: a process that has imported everything takes 0.7 GB.
MEGABYTES = 2500


@dataclass
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str
    seconds: float
    megabytes: float

    def faults(self, allowed=(0, 1, 2, 3)):
        """Return what is wrong with this outcome."""
        found = []
        if self.status not in allowed:
            found.append(f"status {self.status}: {self.err.strip()[-200:]}")
        if any(word in self.err for word in ("Traceback (most recent", "Exception ignored", "Warning:")):
            found.append(self.err.strip().splitlines()[-1][:200])
        if self.megabytes > MEGABYTES:
            found.append(f"{self.megabytes:.0f} MB")
        if any((ord(each) < 32 and each != "\n") or 127 <= ord(each) < 160 for each in self.err):
            found.append("a control character in its messages")
        return found


class Runner:
    """Runs commands in forks of this process, which has imported the slow modules."""

    def __init__(self):
        serve.load_everything()
        self.commands = serve.COMMANDS

    def __call__(self, folder, line, *, kill_after=None):
        """Run a command line (split as by a shell, but without expansions) in `folder`; `kill_after`: seconds until SIGKILL."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            return self._run(folder, shlex.split(line), (out, err), kill_after)

    def _run(self, folder, words, streams, kill_after):
        start = time.monotonic()
        child = os.fork()
        if not child:
            self._become(folder, words, streams)
        limit = SECONDS if kill_after is None else kill_after
        ended = os.pidfd_open(child)
        with contextlib.suppress(InterruptedError):
            if not select.select([ended], [], [], limit)[0]:
                os.killpg(child, signal.SIGKILL)
        os.close(ended)
        _, status, usage = os.wait4(child, 0)
        texts = []
        for stream in streams:
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "surrogateescape"))
        return Outcome(os.waitstatus_to_exitcode(status), *texts, time.monotonic() - start, usage.ru_maxrss / 1024)

    def _become(self, folder, words, streams):
        """Run the command in the fork."""
        try:
            os.setpgid(0, 0)
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, stream in enumerate(streams, 1):
                os.dup2(stream.fileno(), number)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - open until the fork ends
            sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            sys.argv = list(words)
            code = 0
            try:
                self.commands[words[0]](list(words[1:]))
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            except BaseException:
                import traceback

                traceback.print_exc()
                code = 99
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        except BaseException:
            os._exit(98)
