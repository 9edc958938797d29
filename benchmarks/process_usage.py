"""CPU time and peak memory of another program, for the benchmarks."""

import os
import subprocess


def measured(command: list[str]) -> tuple[float, float]:
    """Run a program.

    Returns:
        Its CPU time in seconds, and its peak memory in MB.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**environment, "OMP_NUM_THREADS": "1"}
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
