"""Bounds on measures, as given on the command line."""

import pytest

from cnnkit.errors import UsageError
from cnnkit.evaluation import bounds


def test_parses_measures_and_classes():
    """Classes may contain colons and equals signs: the measure ends at the first colon, the bound begins after the last `=`."""
    words = ["accuracy=0.9", "recall:a:b=c=0.5", "n=1000"]
    assert bounds.parse(words, option="--fail-under") == {"accuracy": 0.9, "recall:a:b=c": 0.5, "n": 1000}
    assert bounds.parse(["ece=0.05"], option="--fail-over", lower_is_better=True) == {"ece": 0.05}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("acuracy=0.9", 'no measure "acuracy"; did you mean "accuracy"?'),
        ("speed=0.9", 'no measure "speed" (measures: accuracy, '),
        ("recall=0.9", 'no measure "recall"'),
        ("accuracy", "expected MEASURE=BOUND"),
        ("accuracy=high", '"high" is not a valid bound; accuracy is a number between 0 and 1'),
        ("accuracy=95", '"95" is not a valid bound; accuracy'),
        ("accuracy=nan", '"nan" is not a valid bound; accuracy'),
        ("accuracy=0,9", '"0,9" is not a valid bound; accuracy'),
        ("accuracy=90%", '"90%" is not a valid bound; accuracy'),
        ("n=1e400", '"1e400" is not a valid bound; n is a number from 0'),
        ("log_loss=0.2", "a lower log_loss is better; use --fail-over log_loss=0.2"),
    ],
)
def test_rejects_invalid_bounds(word, message):
    """An unknown measure lists the known ones; a measure of the other option names that option."""
    with pytest.raises(UsageError) as caught:
        bounds.parse([word], option="--fail-under")
    assert str(caught.value).startswith(f"--fail-under {word}: ")
    assert message in str(caught.value)


def test_rejects_two_bounds_on_one_measure():
    """Neither of them passes silently."""
    with pytest.raises(UsageError, match=r"--fail-under accuracy=0\.5: accuracy already has the bound 0\.9; give one"):
        bounds.parse(["accuracy=0.9", "recall:cat=0.5", "accuracy=0.5"], option="--fail-under")


def test_fail_over_rejects_measures_of_fail_under():
    """The message names --fail-under."""
    with pytest.raises(UsageError, match=r"use --fail-under accuracy=0\.2"):
        bounds.parse(["accuracy=0.2"], option="--fail-over", lower_is_better=True)


def test_rejects_unknown_class():
    """When the truth is known; the message lists the classes."""
    with pytest.raises(UsageError, match=r'"recall:cta"; did you mean "recall:cat"\? \(measures: recall:cat\)'):
        bounds.check({"accuracy": 1.0, "recall:cat": 1.0, "f1:cat": 1.0}, {"recall:cta": 0.5})
    assert bounds.check({"log_loss": None}, {"log_loss": 0.5}) == {"log_loss": (None, 0.5)}
