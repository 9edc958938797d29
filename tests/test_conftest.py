"""The test suite's use of GPUs."""

import os
import runpy
from pathlib import Path

import pytest

asks_for_gpu = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["asks_for_gpu"]


@pytest.mark.parametrize(
    ("expression", "asks"),
    [
        ("", False),
        ("not slow", False),
        ("gpu", True),
        ("gpu and not slow", True),
        ("not gpu", False),
        ("not (gpu)", False),
        ("slow or gpu", True),
    ],
)
def test_gpu_tests_need_the_marker(expression, asks):
    """Only then is the GPU visible."""
    assert asks_for_gpu(expression) is asks


def test_gpus_are_hidden_from_other_tests(request):
    """And from processes that they start."""
    if asks_for_gpu(request.config.option.markexpr):
        pytest.skip("GPU tests were selected")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
