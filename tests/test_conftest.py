"""What the tests themselves do with the machine they run on."""

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
def test_gpu_tests_are_asked_for_by_name(expression, asks):
    """Only then is the GPU there for all of them."""
    assert asks_for_gpu(expression) is asks


def test_other_tests_see_no_gpu(request):
    """Neither they nor what they start."""
    if asks_for_gpu(request.config.option.markexpr):
        pytest.skip("it was asked for")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
