"""Targets of boxes: through the preprocessing, back to the image, and through augmentations, as torchvision moves them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

from cnnkit.choices import Fit
from cnnkit.data import box_geometry, preprocessing
from cnnkit.data.augment import AugmentParams
from cnnkit.formats.box import Box
from cnnkit.formats.header import Preprocess

SIDE = 60
BOXES = ((12.0, 20.0, 25.0, 14.0), (0.0, 0.0, 9.0, 50.0), (40.0, 30.0, 20.0, 30.0))


def moved(draw, boxes=BOXES):
    """Return boxes (x, y, w, h) in pixels of an augmented copy."""
    targets = np.array([[x + w / 2, y + h / 2, w, h] for x, y, w, h in boxes], dtype=np.float32) / SIDE
    found = box_geometry.augmented(targets, [draw] * len(boxes), side=SIDE) * SIDE
    return [(cx - w / 2, cy - h / 2, w, h) for cx, cy, w, h in found.tolist()]


def torchvisions(move):
    given = BoundingBoxes(torch.tensor(BOXES), format="XYWH", canvas_size=(SIDE, SIDE))
    return v2.functional.clamp_bounding_boxes(move(given)).tolist()


def affine(boxes, **changes):
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    return v2.functional.affine(boxes, **(still | changes))


@pytest.mark.parametrize(
    ("draw", "move"),
    [
        (AugmentParams(hflip=True), v2.functional.horizontal_flip),
        (AugmentParams(vflip=True), v2.functional.vertical_flip),
        (AugmentParams(rotate=25.0), lambda boxes: v2.functional.rotate(boxes, 25.0)),
        (AugmentParams(zoom_x=0.8, zoom_y=0.8), lambda boxes: affine(boxes, scale=1.25)),
        (AugmentParams(shift_x=0.1, shift_y=-0.05), lambda boxes: affine(boxes, translate=[6, -3])),
        (
            AugmentParams(shear=0.2),
            lambda boxes: affine(boxes, shear=[math.degrees(math.atan(0.2)), 0.0]),
        ),
        (
            AugmentParams(crop_x=0.2, crop_y=0.1, crop_width=0.7, crop_height=0.5),
            lambda boxes: v2.functional.resized_crop(boxes, 6, 12, 30, 42, [SIDE, SIDE]),
        ),
    ],
    ids=["hflip", "vflip", "rotate", "zoom", "shift", "shear", "crop"],
)
def test_boxes_move_as_those_of_torchvision(draw, move):
    for found, wanted in zip(moved(draw), torchvisions(move), strict=True):
        if min(wanted[2:]) <= 0:
            assert math.isnan(found[0])
        else:
            assert found == pytest.approx(wanted, abs=1e-3)


def test_boxes_follow_the_pixels_of_an_augmented_copy():
    from cnnkit.engine.resample import augment

    image = np.zeros((1, SIDE, SIDE, 3), dtype=np.uint8)
    image[0, 22:38, 15:40] = 255
    draw = AugmentParams(
        rotate=12.0, shear=0.1, zoom_x=0.9, zoom_y=1.1, shift_x=0.06, hflip=True, crop_x=0.1, crop_width=0.85
    )
    copy = augment(torch.from_numpy(image), [draw])[0].numpy()
    rows, columns = (np.flatnonzero((copy[:, :, 0] > 0).any(axis)) for axis in (1, 0))
    ((x, y, width, height),) = moved(draw, [(15, 22, 25, 16)])
    assert (x, y) == pytest.approx((columns[0], rows[0]), abs=1.5)
    assert (x + width, y + height) == pytest.approx((columns[-1] + 1, rows[-1] + 1), abs=1.5)


def test_a_box_that_a_copy_does_not_show_is_no_target():
    assert np.isnan(moved(AugmentParams(shift_x=0.5), [(40, 10, 20, 20)])).all()


@pytest.mark.parametrize("fit", list(Fit))
@pytest.mark.parametrize("size", [(90, 50), (50, 90), (64, 64)])
def test_target_is_where_the_pixels_of_the_box_go(fit, size):
    preprocess = Preprocess(fit=fit, resize=40, size=32, mean=(0.0,) * 3)
    box = Box(28, 22, 18, 14)
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (28, 22, 46, 36))
    pixels = preprocessing.prepare(image, preprocess)[:, :, 0] > 127
    rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    cx, cy, width, height = 32 * box_geometry.target(box, size, preprocess)
    assert (cx - width / 2, cx + width / 2) == pytest.approx((columns[0], columns[-1] + 1), abs=0.75)
    assert (cy - height / 2, cy + height / 2) == pytest.approx((rows[0], rows[-1] + 1), abs=0.75)


@pytest.mark.parametrize("fit", list(Fit))
def test_a_target_is_mapped_back_to_the_box(fit):
    preprocess = Preprocess(fit=fit, resize=40, size=32)
    box, size = Box(35.0, 20.0, 20.0, 12.5), (90, 60)
    found = box_geometry.in_image(box_geometry.target(box, size, preprocess), size, preprocess)
    assert found is not None
    assert (found.x, found.y, found.width, found.height) == pytest.approx((35, 20, 20, 12.5), abs=0.01)


@pytest.mark.parametrize("numbers", [[0.5, 0.5, -0.1, 0.2], [3, 3, 0.1, 0.1], [float("nan")] * 4, [0.5, 0.5, 0.2, 0]])
def test_a_predicted_box_without_area_in_the_image_is_none(numbers):
    preprocess = Preprocess(fit=Fit.SQUASH, resize=32, size=32)
    assert box_geometry.in_image(np.array(numbers, dtype=np.float32), (90, 60), preprocess) is None


def test_an_image_without_a_box_has_no_target():
    assert np.isnan(box_geometry.target(None, (90, 60), Preprocess())).all()
