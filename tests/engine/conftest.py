"""What the tests of this folder share."""

import contextlib
import functools

import pytest


@pytest.fixture(scope="session", autouse=True)
def _operators_once():
    """Let torch's exporter read its table of operators once a process: it takes half of the time of a small export."""
    with pytest.MonkeyPatch.context() as patch:
        with contextlib.suppress(ImportError, AttributeError):  # torch may keep it elsewhere: then it takes longer
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield
