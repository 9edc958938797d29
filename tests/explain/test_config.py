"""Options with numbers and ranges of channels."""

import pytest

from cnnkit.errors import UsageError
from cnnkit.explain import config


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("0", [0]),
        ("0-3", [0, 1, 2, 3]),
        ("9-9", [9]),
        ("7,2-4,9", [7, 2, 3, 4, 9]),
        (" 7, 2 - 4", [7, 2, 3, 4]),
        ("3,1-4,3", [3, 1, 2, 4]),
        ("007", [7]),
    ],
)
def test_parses_numbers_and_ranges(text, numbers):
    """Both ends are included; in the order given, without repetition; all by default."""
    assert config.parse_index_ranges(text, 10, option="--channels", of="conv1") == numbers


@pytest.mark.parametrize("text", ["", ",", "1,", "a", "1-", "-1", "1-2-3", "1.5", "1;2", "٣", "9" * 12])
def test_rejects_malformed_ranges(text):
    """The message has the option, the value and an example."""
    with pytest.raises(UsageError) as error:
        config.parse_index_ranges(text, 10, option="--channels", of="conv1")
    assert str(error.value) == f'--channels "{text}": give numbers and ranges, as in 0-63 or 3,7,12-20'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "10: conv1 has 10, numbered 0 to 9"),
        ("10-12", "10-12: conv1 has 10, numbered 0 to 9"),
        ("1,5-3", "5-3: the range is reversed; give 3-5"),
        ("2,999999999", "999999999: conv1 has 10, numbered 0 to 9"),
    ],
)
def test_rejects_numbers_out_of_range(text, message):
    """The message has the value, the layer and the number of channels."""
    with pytest.raises(UsageError) as error:
        config.parse_index_ranges(text, 10, option="--filters", of="conv1")
    assert str(error.value) == f"--filters {message}"
