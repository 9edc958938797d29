"""Deletion and insertion scores against closed forms for a known probability."""

import numpy as np
import pytest

from cnnkit.explain import faithfulness
from cnnkit.nets.cell_centres import Along, CellCentres

HIDDEN = (7, 90, 30)
SIDE = 40  # so that a twentieth is a whole number of pixels


def stripes(height=SIDE, width=SIDE):
    """Make an image that a blur changes at every pixel."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[:, ::2] = 255
    return image


def quarter(height=SIDE, width=SIDE):
    mask = np.zeros((height, width), dtype=bool)
    mask[: height // 2, : width // 2] = True
    return mask


class Shown:
    """The probability of class 2 is the unchanged share of a region; the images of each call are recorded."""

    def __init__(self, image, region):
        self.image, self.region, self.calls = image, region, []

    def __call__(self, images):
        """Give the probabilities of three classes."""
        self.calls.append(images.copy())
        share = (images == self.image).all(axis=3)[:, self.region].mean(axis=1)
        return np.stack([1 - share, np.zeros_like(share), share], axis=1).astype(np.float32)


def measure(found, *, image=None, region=None, batch=32):
    image = stripes() if image is None else image
    shown = Shown(image, quarter(*image.shape[:2]) if region is None else region)
    score = faithfulness.measure(image, found, 2, probabilities=shown, hidden=HIDDEN, batch=batch)
    return score, shown


def test_scores_equal_the_closed_form():
    """The map is the quarter that matters: its pixels are the first 5 of 20 steps, in which the curves fall and rise."""
    right, _ = measure(quarter().astype(np.float32))
    assert (right.deletion, right.insertion) == pytest.approx((0.125, 0.875))  # a triangle of half of 5/20
    wrong, _ = measure(1 - quarter().astype(np.float32))
    assert (wrong.deletion, wrong.insertion) == pytest.approx((0.875, 0.125))
    plain, _ = measure(
        np.ones((SIDE, SIDE), dtype=np.float32)
    )  # row by row: the quarter is through after ten twentieths
    assert (plain.deletion, plain.insertion) == pytest.approx((0.25, 0.75))


def test_pixels_are_hidden_at_the_centres_of_cells():
    """For 5 x 5 cells at 0, 8, ... pixels: the pixels around 16 are hidden first, not those around 19.5."""
    found = np.zeros((5, 5), dtype=np.float32)
    found[2, 2] = 1
    region = np.zeros((SIDE, SIDE), dtype=bool)
    region[16, 16] = True
    for centres, middle in ((CellCentres(Along(0, 8), Along(0, 8), (SIDE, SIDE)), 16), (None, 19.5)):
        shown = Shown(stripes(), region)
        score = faithfulness.measure(stripes(), found, 2, probabilities=shown, hidden=HIDDEN, centres=centres)
        rows, columns = (shown.calls[0] != stripes()).all(3)[1].nonzero()  # the first twentieth
        assert (rows.mean(), columns.mean()) == pytest.approx((middle, middle), abs=0.5)
        assert score.deletion == pytest.approx(0.025)  # gone with it


def test_correct_cell_of_a_coarse_map_scores_best():
    """2 x 2 cells on a rectangular image."""
    image = stripes(30, 52)
    scores = []
    for cell in range(4):
        found = np.zeros((2, 2), dtype=np.float32)
        found.flat[cell] = 1
        scores.append(measure(found, image=image)[0])
    assert all(scores[0].deletion < other.deletion - 0.1 for other in scores[1:])
    assert all(scores[0].insertion > other.insertion + 0.1 for other in scores[1:])


@pytest.mark.parametrize("batch", [1, 4, 7, 21, 100])
def test_scores_do_not_depend_on_the_batch_size(batch):
    """No call has more images than the batch size."""
    found = np.random.default_rng(0).random((5, 5), dtype=np.float32)
    score, shown = measure(found, batch=batch)
    expected, _ = measure(found, batch=32)
    assert (score.deletion, score.insertion) == pytest.approx((expected.deletion, expected.insertion))
    assert max(map(len, shown.calls)) <= batch


def test_images_of_deletion_and_insertion():
    """Deletion goes from the image to the hidden colour, insertion from a blur to the image, in 20 steps."""
    image = stripes()
    _, shown = measure(np.random.default_rng(0).random((4, 6), dtype=np.float32), image=image)
    deleted, inserted = np.split(np.concatenate(shown.calls), 2)
    assert len(deleted) == len(inserted) == 21
    for steps, (gone, there) in enumerate(zip(deleted, inserted, strict=True)):
        hidden, same = (gone == HIDDEN).all(axis=2), (gone == image).all(axis=2)
        assert (hidden != same).all()
        assert hidden.sum() == steps * image[:, :, 0].size / 20
        assert np.array_equal(hidden, (there == image).all(axis=2))  # the same pixels, in the same order
    assert np.abs(inserted[0].astype(int) - 127).max() < 60
