"""Flips and crops in numpy, compared with the general resampling in torch."""

import numpy as np
import pytest
import torch

from cnnkit.data import augment, augment_notation
from cnnkit.data.augment import AugmentParams
from cnnkit.engine import resample


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resampled(pixels, draw):
    return resample.augment(torch.from_numpy(pixels)[None], [draw])[0].numpy()


@pytest.mark.parametrize(("height", "width"), [(24, 24), (17, 40), (224, 224), (1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("notation", ["crop 0.9, hflip", "crop 0.3, vflip, hflip", "crop 0.05"])
def test_crops_agree_with_torch(height, width, notation):
    """In thirty copies no value differs by more than 1 of 255 from the general resampling, and nearly all are equal."""
    pixels = image(height, width)
    unequal = 0.0
    for number in range(30):
        draw = augment.draw_params(augment_notation.parse(notation), seed=3, image="a", copy=number)
        here, there = (made.astype(int) for made in (augment.flip_and_crop(pixels, draw), resampled(pixels, draw)))
        assert np.abs(here - there).max() <= 1
        unequal += (here != there).mean() / 30
    assert unequal < 0.01


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("vflip", [False, True])
def test_flips_are_exact(hflip, vflip):
    """A mirrored image has the same pixels in reverse order."""
    pixels, draw = image(5, 8), AugmentParams(hflip=hflip, vflip=vflip)
    made = augment.flip_and_crop(pixels, draw)
    np.testing.assert_array_equal(made, resampled(pixels, draw))
    np.testing.assert_array_equal(made[4 if vflip else 0, 7 if hflip else 0], pixels[0, 0])


def test_crop_computed_by_hand():
    """Two of four columns, from the second, resized to four: pixel centres at 0.75, 1.25, 1.75 and 2.25."""
    pixels = np.array([[[0], [100], [200], [40]]], dtype=np.uint8).repeat(3, axis=2)
    made = augment.flip_and_crop(pixels, AugmentParams(crop_x=0.25, crop_width=0.5))
    assert made[0, :, 0].tolist() == [75, 125, 175, 160]
    turned = augment.flip_and_crop(pixels, AugmentParams(crop_x=0.25, crop_width=0.5, hflip=True))
    assert turned[0, :, 0].tolist() == [160, 175, 125, 75]


@pytest.mark.parametrize(
    ("notation", "expected"),
    [
        ("hflip", True),
        ("crop 0.5, vflip, hflip, fill wrap", True),
        ("rotate 0, hflip", True),
        ("hflip, rotate 1", False),
        ("zoom 0.1", False),
        ("crop 0.5, noise 0.1", False),
    ],
)
def test_needs_no_resampling(notation, expected):
    """True for flips and crops with any fill; all other words need torch."""
    assert augment_notation.parse(notation).needs_no_resampling is expected
