"""Options of splitting and augmentation: contradictions and defaults."""

from pathlib import Path

import pytest

from cnnkit.choices import Fit, Link
from cnnkit.data.config import NEAR_BITS, AugmentConfig, SplitConfig, SplitOutput
from cnnkit.errors import UsageError


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SplitConfig(), "give one of --ratio, --count and --folds"),
        (SplitConfig(count="1,1", stable=True), "--stable and --count contradict"),
        (SplitConfig(ratio="1,1", stable=True, near_bits=8), "--stable and --near contradict"),
        (SplitConfig(ratio="1,1", no_verify=True, near=True), "--no-verify and --near contradict"),
        (SplitConfig(ratio="1,1", group="("), "not a regular expression"),
        (SplitOutput(manifest=Path("a.tsv"), output=Path("sets")), "exclude each other"),
        (SplitOutput(manifest=Path("a.txt")), "ends in .tsv"),
        (SplitOutput(link=Link.MOVE), "need an output folder"),
        (SplitOutput(force=True), "need an output folder"),
        (AugmentConfig(), "--augment is required"),
        (AugmentConfig(augment="rotate 0"), "--augment"),
        (AugmentConfig(augment="hflip", fit=Fit.PAD), "give the side of the square with --size"),
    ],
)
def test_rejects_contradictions(config, said):
    """Before any file is read."""
    with pytest.raises(UsageError, match=said):
        config.checked()


def test_defaults():
    """--near has the measured distance, and --near-bits implies --near."""
    assert SplitConfig(ratio="1,1").hash_distance is None
    assert SplitConfig(ratio="1,1", near=True).hash_distance == NEAR_BITS
    assert SplitConfig(ratio="1,1", near_bits=0).hash_distance == 0
    assert AugmentConfig(augment="hflip").square() is None
    square = AugmentConfig(augment="hflip", size=32).square()
    assert (square.fit, square.resize, square.size) == (Fit.CROP, 32, 32)
