"""Default callbacks report nothing, except images that cannot be used."""

import pytest

from cnnkit.callbacks import SILENT, Callbacks
from cnnkit.errors import CnnkitError


def test_bad_image_is_an_error_by_default():
    with pytest.raises(CnnkitError, match=r"^photos/1\.jpg: not an image$"):
        Callbacks().skip("photos/1.jpg", "not an image")
    assert Callbacks().progress(1, 2) is None
    assert Callbacks().report("epoch 1") is None


def test_silent_callbacks_ignore_everything():
    assert SILENT.skip("photos/1.jpg", "not an image") is None
    assert SILENT.progress(1, None) is None
    assert SILENT.report("epoch 1") is None
