"""Damaged and hostile inputs to real commands; `make fuzz` runs many more."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_250_damaged_inputs():
    """The script runs in a separate process, because it forks, which a process with threads should not."""
    done = subprocess.run([sys.executable, HERE / "fuzz.py", "--count", "250"], capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
