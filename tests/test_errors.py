"""Errors as objects that go from one process to another."""

import inspect
import pickle

import pytest

from cnnkit import errors

CLASSES = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.CnnkitError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_arrives_whole(kind):
    """With its message, its notes and what else it carries."""
    error = kind("net.onnx", "wrong shape") if kind is errors.RunError else kind("net.onnx: wrong shape")
    error.add_note("a note")
    for _ in range(2):
        arrived = pickle.loads(pickle.dumps(error))
        assert type(arrived) is kind
        assert str(arrived) == "net.onnx: wrong shape"
        assert vars(arrived) == vars(error)
        assert arrived.exit_status == error.exit_status
        error = arrived
