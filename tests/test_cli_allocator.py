"""Memory that commands which train keep: pages that the system has to clear are counted as page faults."""

import os
import subprocess
import sys

import pytest

# A block of 64 MB, 16,384 pages, is allocated, filled and freed ten times, as the tensors of a step are
STEPS = """
import resource
import numpy as np
from cnnkit import cli
cli.keep_freed_memory()
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(1 << 23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(code, **variables):
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name} | variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_blocks_are_used_again():
    """By default each block is of new pages, or of huge ones; with limits that the user has set, too."""
    kept = faults(STEPS)
    assert kept < 500
    assert faults(STEPS.replace("cli.keep_freed_memory()", "")) > 10 * kept
    assert faults(STEPS, MALLOC_TRIM_THRESHOLD_="131072") > 10 * kept
