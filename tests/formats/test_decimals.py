"""The shortest decimal numbers that are read as the same float32."""

import numpy as np
import pytest

from cnnkit.formats.decimals import shortest


@pytest.mark.parametrize("text", ["0.9871", "1e-10", "0.1", "16777216.0", "3.4028235e+38", "1e-45", "inf", "-0.0"])
def test_reads_as_the_same_number(text):
    """Not 0.9871000051498413, the value of the float32."""
    assert repr(shortest(np.float32(text))) == repr(float(text))
