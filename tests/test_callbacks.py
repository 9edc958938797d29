"""What a caller hears who names no callbacks: nothing, except for images that cannot be used."""

import pytest

from cnnkit.callbacks import SILENT, Callbacks
from cnnkit.errors import CnnkitError


def test_by_default_a_bad_image_is_an_error():
    with pytest.raises(CnnkitError, match=r"^photos/1\.jpg: no picture$"):
        Callbacks().skip("photos/1.jpg", "no picture")
    assert Callbacks().progress(1, 2) is None
    assert Callbacks().report("epoch 1") is None


def test_silent_callbacks_ignore_everything():
    assert SILENT.skip("photos/1.jpg", "no picture") is None
    assert SILENT.progress(1, None) is None
    assert SILENT.report("epoch 1") is None
