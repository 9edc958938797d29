"""Damaged and hostile inputs to real commands; `make fuzz` runs many more."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_100_damaged_inputs():
    """Of every kind, with each command that is killed. The script runs in a separate process: it forks, and threads would not survive."""
    done = subprocess.run([sys.executable, HERE / "fuzz.py", "--count", "100"], capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
