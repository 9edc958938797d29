"""Augmented pixels, against values worked by hand, scipy and torchvision; and their independence of everything but their own parameters."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from cnnkit.data import augment as drawing
from cnnkit.data import augment_notation
from cnnkit.data.augment import AugmentParams
from cnnkit.data.augment_notation import Fill
from cnnkit.data.augment_policies import Operation, PolicyStep
from cnnkit.engine import policy_operations, resample
from cnnkit.engine.resample import Augmenter, augment
from cnnkit.engine.torch_device import threads

EVERYTHING = (
    "rotate 60, shift 0.3, shear 0.3, zoom 0.4, hflip, vflip, crop 0.6, brightness 0.5, contrast 0.5, saturation 0.5, "
    "hue 0.3, blur 2, noise 0.05, erase 0.5"
)
#: A policy amplifies differences by rounding, and geometry takes the nearest pixel: on another device, single pixels differ.
POLICY = "randaugment 3 20"


def photographs(count=6, height=31, width=43):
    """Return smooth coloured noise: like photographs, it has edges, greys and values at both ends."""
    generator = np.random.default_rng(0)
    pixels = ndimage.gaussian_filter(generator.normal(size=(count, height, width, 3)), (0, 2, 2, 0.4))
    return torch.from_numpy(np.clip(pixels / pixels.std() * 70 + 128, 0, 255).astype(np.uint8))


def channels_first(images):
    return images.permute(0, 3, 1, 2)


def furthest(one, other):
    return int((one.int() - other.int()).abs().max())


def grey(*rows):
    """Make an image of one or more rows from grey values."""
    return torch.tensor(rows, dtype=torch.uint8)[None, :, :, None].expand(-1, -1, -1, 3)


def greys(images):
    assert (images == images[..., :1]).all()
    return images[0, :, :, 0].tolist()


# ---------------------------------------------------------------- exactness


@pytest.mark.parametrize("fill", Fill)
def test_identity_leaves_images_unchanged(fill):
    """A copy with neutral parameters has the bytes of its image, next to others that do not."""
    images = photographs()
    assert torch.equal(augment(images, [AugmentParams()] * 6, fill=fill), images)
    mixed = augment(images, [AugmentParams(), *[AugmentParams(rotate=20, hue=0.2, blur=1)] * 5], fill=fill)
    assert torch.equal(mixed[0], images[0])
    assert not torch.equal(mixed[1], images[1])


def test_flip_is_exact():
    """Flipped images are those of torch, to the bit; also both flips at once."""
    images = photographs()
    draws = [
        AugmentParams(hflip=True),
        AugmentParams(vflip=True),
        AugmentParams(hflip=True, vflip=True),
        AugmentParams(),
    ]
    expected = [images[0].flip(1), images[1].flip(0), images[2].flip(0, 1), images[3]]
    assert torch.equal(augment(images[:4], draws), torch.stack(expected))


def test_shift_moves_a_pixel_by_a_known_distance():
    """A white pixel moves 2 to the right and 1 up, and no brightness is lost."""
    image = torch.zeros((1, 8, 10, 3), dtype=torch.uint8)
    image[0, 5, 3] = torch.tensor([255, 100, 7], dtype=torch.uint8)
    moved = augment(image, [AugmentParams(shift_x=0.2, shift_y=-1 / 8)])
    assert moved[0, 4, 5].tolist() == [255, 100, 7]
    assert int(moved.sum()) == 362
    half = augment(image, [AugmentParams(shift_x=0.05)])  # half a pixel
    assert half[0, 5, 3:5, 0].tolist() == [128, 128]


@pytest.mark.parametrize(
    ("fill", "right", "far"),
    [
        (Fill.NEAREST, [10, 10, 10, 20, 30], [10, 10, 10, 10, 10]),
        (Fill.CONSTANT, [0, 0, 10, 20, 30], [0, 0, 0, 0, 0]),
        (Fill.REFLECT, [20, 10, 10, 20, 30], [40, 50, 50, 40, 30]),
        (Fill.WRAP, [40, 50, 10, 20, 30], [40, 50, 10, 20, 30]),
    ],
)
def test_fills_worked_by_hand(fill, right, far):
    """The row 10 20 30 40 50 shifted by two pixels, and by seven, which is more than its width; in rows and in columns."""
    row = grey([10, 20, 30, 40, 50])
    assert greys(augment(row, [AugmentParams(shift_x=0.4)], fill=fill)) == [right]
    assert greys(augment(row, [AugmentParams(shift_x=1.4)], fill=fill)) == [far]
    column = row.permute(0, 2, 1, 3)
    assert greys(augment(column, [AugmentParams(shift_y=0.4)], fill=fill)) == [[value] for value in right]


def test_fills_between_pixels_worked_by_hand():
    """Half a pixel over the edge, which is repeated, fades to black, is reflected, or wraps around."""
    row = grey([10, 20, 30, 50])
    between = {
        fill: greys(augment(row, [AugmentParams(shift_x=1 / 8)], fill=fill))[0] for fill in Fill
    }  # from x = -0.5, 0.5, 1.5, 2.5
    assert between == {
        Fill.NEAREST: [10, 15, 25, 40],
        Fill.CONSTANT: [5, 15, 25, 40],
        Fill.REFLECT: [10, 15, 25, 40],
        Fill.WRAP: [30, 15, 25, 40],
    }


# ---------------------------------------------------------------- geometry against other libraries


@pytest.mark.parametrize(
    ("fill", "mode"),
    [
        (Fill.NEAREST, "nearest"),
        (Fill.CONSTANT, "grid-constant"),
        (Fill.REFLECT, "reflect"),
        (Fill.WRAP, "grid-wrap"),
    ],
)
def test_geometry_matches_scipy_affine_transform(fill, mode):
    """Any composition, far over the edges, is one linear interpolation by the matrix; rounded once, so at most half a level away."""
    images = photographs(12)
    words = augment_notation.parse(f"rotate 180, shift 0.9, shear 0.5, zoom 0.5, hflip, vflip, crop 0.5, fill {fill}")
    draws = [drawing.draw_params(words, seed=0, image="p", copy=copy) for copy in range(12)]
    found = augment(images, draws, fill=fill).numpy()
    turned = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])  # scipy puts rows first
    for image, draw, copy in zip(images.numpy(), draws, found, strict=True):
        matrix = turned @ drawing.affine_matrix(draw, height=31, width=43) @ turned
        for channel in range(3):
            values = image[..., channel].astype(float)
            expected = ndimage.affine_transform(values, matrix, order=1, mode=mode)
            assert abs(copy[..., channel] - expected).max() < 0.51


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (AugmentParams(rotate=30), {"angle": -30}),  # torchvision rotates clockwise here
        (AugmentParams(rotate=-75), {"angle": 75}),
        (AugmentParams(shift_x=4 / 43, shift_y=-3 / 31), {"translate": [4, -3]}),
        (AugmentParams(zoom_x=0.8, zoom_y=0.8), {"scale": 1.25}),
        (AugmentParams(shear=np.tan(np.radians(20))), {"shear": [20.0, 0.0]}),
    ],
)
def test_single_transforms_match_torchvision_affine(draw, words):
    """Rotation, shift, zoom and shear mean the same as in torchvision: the same pixels, up to rounding."""
    images = photographs(2)
    arguments = {"angle": 0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | words
    expected = functional.affine(channels_first(images), **arguments, interpolation=InterpolationMode.BILINEAR)
    assert furthest(channels_first(augment(images, [draw] * 2, fill=Fill.CONSTANT)), expected) <= 1


def test_crop_is_the_enlarged_window():
    """torch's own resizing of the window gives the same, except at the edges, beyond which the image continues."""
    images = photographs(2, 40, 40)
    window = AugmentParams(crop_x=0.25, crop_y=0.5, crop_width=0.5, crop_height=0.5)
    expected = torch.nn.functional.interpolate(
        channels_first(images)[:, :, 20:40, 10:30].float(), size=(40, 40), mode="bilinear"
    )
    found = channels_first(augment(images, [window] * 2)).float()
    assert (found - expected)[:, :, 1:-1, 1:-1].abs().max() < 0.51


# ---------------------------------------------------------------- colours against other libraries


@pytest.mark.parametrize("word", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.7])
def test_factors_match_color_jitter(word, factor):
    """As torchvision's function of the same name, which truncates once or twice."""
    images = photographs()
    expected = getattr(functional, f"adjust_{word}")(channels_first(images), factor)
    assert furthest(channels_first(augment(images, [AugmentParams(**{word: factor})] * 6)), expected) <= 2


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.03, 0.5])
def test_hue_matches_color_jitter(turn):
    """As torchvision's adjust_hue; greys have no hue and stay."""
    images = photographs()
    images[0] = images[0, :, :, :1]
    found = augment(images, [AugmentParams(hue=turn)] * 6)
    assert furthest(channels_first(found), functional.adjust_hue(channels_first(images), turn)) <= 1
    assert torch.equal(found[0], images[0])


@pytest.mark.parametrize("deviation", [0.1, 0.7, 3.0])
def test_blur_matches_scipy_gaussian(deviation):
    """A Gaussian of that standard deviation in pixels, cut off after three of them, with repeated edges."""
    images = photographs(2)
    found = augment(images, [AugmentParams(blur=deviation)] * 2).numpy()
    reach = max(1, round(3 * deviation))
    expected = ndimage.gaussian_filter(
        images.numpy().astype(float), (0, deviation, deviation, 0), mode="nearest", radius=(0, reach, reach, 0)
    )
    assert abs(found - expected).max() < 0.51


def test_noise_has_its_standard_deviation():
    """On mid grey it is normal, as a share of white, different in every channel; another seed gives other noise."""
    images = torch.full((2, 100, 100, 3), 128, dtype=torch.uint8)
    images[:, 0, 0, 0] = 129  # not entirely grey
    first, second = augment(images, [AugmentParams(noise=0.05, noise_seed=seed) for seed in (1, 2)]).double() - 128
    assert first.std().item() == pytest.approx(12.75, rel=0.02)
    assert abs(first.mean().item()) < 0.3
    correlations = np.corrcoef(torch.cat([first.reshape(-1, 3), second.reshape(-1, 3)], dim=1).T.numpy())
    assert abs(correlations - np.eye(6)).max() < 0.06


def test_grey_images_get_grey_noise():
    """An image without colours stays grey, whatever its neighbours are; its noise is that of the first channel."""
    images = torch.full((2, 9, 9, 3), 128, dtype=torch.uint8)
    images[1, 8, 8, 2] = 127
    found = augment(images, [AugmentParams(noise=0.1, noise_seed=4, contrast=1.5, hue=0.3)] * 2)
    assert (found[0] == found[0][..., :1]).all()
    assert torch.equal(found[0, :8, :8, 0], found[1, :8, :8, 0])
    assert not torch.equal(found[1, ..., 0], found[1, ..., 1])


def test_colours_are_rounded_once_and_clipped_each_time():
    """Nothing is rounded between two transforms: 0.4 survives and becomes 1.2; but values above white are clipped each time."""
    assert greys(augment(grey([1, 1]), [AugmentParams(brightness=0.4, contrast=3.0)])) == [[1, 1]]
    assert greys(augment(grey([255, 255]), [AugmentParams(brightness=3.0, contrast=0.5)])) == [[254, 254]]


# ---------------------------------------------------------------- policies and erasing, against torchvision


def torchvisions(policy, image, step):
    """Apply one operation as the policy of torchvision does."""
    magnitudes, signed = policy._AUGMENTATION_SPACE[step.operation]
    strengths = magnitudes(31, *image.shape[1:])
    magnitude = 0.0 if strengths is None else float(strengths[abs(step.level)])
    return policy._apply_image_or_video_transform(
        image,
        str(step.operation),
        -magnitude if signed and step.level < 0 else magnitude,
        interpolation=policy.interpolation,
        fill=policy._fill,
    )


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment"])
@pytest.mark.parametrize("operation", Operation)
def test_operations_are_torchvisions(name, operation):
    """The same pixels at every level that is tried, in both directions, for colours, greys and constant images."""
    policy = {"randaugment": v2.RandAugment(), "trivialaugment": v2.TrivialAugmentWide()}[name]
    images = photographs(4, 60, 47)
    images[1] = images[1, :, :, :1]
    images[2] = 77
    images[3, :, :, 2] = 255
    signed = policy._AUGMENTATION_SPACE[operation][1]
    for level in (0, 1, 9, 22, 30, *((-1, -9, -30) if signed else ())):
        step = PolicyStep(operation, level)
        found = augment(images, [AugmentParams(**{name: (step,)})] * 4)
        for image, copy in zip(images, found, strict=True):
            assert torch.equal(copy.permute(2, 0, 1), torchvisions(policy, image.permute(2, 0, 1).contiguous(), step))


def test_operations_follow_one_another_after_the_other_words():
    """The result of each is the input of the next; the first one gets the rounded copy of the other words."""
    images = photographs(1, 60, 47)
    steps = (PolicyStep(Operation.ROTATE, -20), PolicyStep(Operation.EQUALIZE), PolicyStep(Operation.SHARPNESS, 25))
    expected = augment(images, [AugmentParams(hflip=True, hue=0.2)])[0].permute(2, 0, 1).contiguous()
    for step in steps:
        expected = torchvisions(v2.RandAugment(), expected, step)
    found = augment(images, [AugmentParams(hflip=True, hue=0.2, randaugment=steps)])
    assert torch.equal(found[0].permute(2, 0, 1), expected)


def test_erased_rectangle_is_black_and_the_rest_unchanged():
    """As torchvision's erase, at the end: neither noise nor an operation changes the rectangle."""
    images = photographs(2)
    draw = AugmentParams(erase=True, erase_seed=3, noise=0.1, randaugment=(PolicyStep(Operation.SOLARIZE, 20),))
    rows, columns = drawing.erased_box(draw, height=31, width=43)
    plain = augment(images, [AugmentParams(noise=0.1, randaugment=draw.randaugment)] * 2)
    size = rows.stop - rows.start, columns.stop - columns.start
    expected = functional.erase(channels_first(plain), rows.start, columns.start, *size, torch.zeros(1))
    assert torch.equal(channels_first(augment(images, [draw, draw])), expected)
    assert not torch.equal(channels_first(plain), expected)


# ---------------------------------------------------------------- independence


@pytest.mark.parametrize("fill", Fill)
def test_neighbours_and_threads_change_no_bit(fill):
    """Alone, in a batch, in another order, with one thread or four: the same bytes; the input images are unchanged."""
    images = photographs(13, 37, 41)
    before = images.clone()
    augmenter = Augmenter(augment_notation.parse(f"{EVERYTHING}, {POLICY}, fill {fill}"), seed=5)
    names, copies = [f"{number}" for number in range(13)], list(range(13))
    with threads(4):
        together = augmenter(images, names, copies)
    with threads(1):
        for number in range(13):
            alone = augmenter(images[number][None], [names[number]], [copies[number]])
            assert torch.equal(alone[0], together[number])
        backwards = augmenter(images.flip(0), names[::-1], copies[::-1])
    assert torch.equal(backwards.flip(0), together)
    assert torch.equal(images, before)
    assert together.dtype == torch.uint8
    assert together.is_contiguous()


@pytest.mark.parametrize("fill", Fill)
def test_tiles_give_the_same_bits(fill, monkeypatch):
    """Processed a few rows at a time, which limits memory, a copy has the same bits as in one piece."""
    images = photographs(1, 90, 70)
    draws = [drawing.draw_params(augment_notation.parse(EVERYTHING), seed=seed, image="p", copy=1) for seed in range(4)]
    assert all(draw.blur and draw.noise for draw in draws)
    whole = [augment(images, [draw], fill=fill) for draw in draws]
    monkeypatch.setattr(resample, "PIXELS_AT_ONCE", 7 * 70)
    for draw, expected in zip(draws, whole, strict=True):
        assert torch.equal(augment(images, [draw], fill=fill), expected)


@pytest.mark.parametrize("fill", Fill)
@pytest.mark.parametrize("words", [EVERYTHING, "hflip, vflip, blur 2", "randaugment 9 20"])
def test_large_image_is_processed_by_channel_to_the_same_bits(fill, words, monkeypatch):
    """A third of the temporary floats; channels are independent in geometry and blur."""
    image = photographs(1, 61, 67)
    draws = [drawing.draw_params(augment_notation.parse(words), seed=3, image="a", copy=copy) for copy in range(1, 5)]
    together = [augment(image, [draw], fill=fill) for draw in draws]
    monkeypatch.setattr(resample, "_LARGE", 1000)
    monkeypatch.setattr(policy_operations, "_LARGE", 1000)
    for one, draw in zip(together, draws, strict=True):
        assert torch.equal(augment(image, [draw], fill=fill), one)


@pytest.mark.parametrize("operation", Operation)
def test_operations_of_a_large_image_have_the_same_bits(operation, monkeypatch):
    """By channel, and sharpness also by a few rows, in images of any height."""
    for height, width in ((61, 67), (9, 7), (4, 5), (5, 1), (1, 9)):
        image = photographs(1, height, width)
        draws = [AugmentParams(trivialaugment=(PolicyStep(operation, level),)) for level in (12, 30)]
        monkeypatch.setattr(policy_operations, "_LARGE", 1 << 20)
        whole = [augment(image, [draw]) for draw in draws]
        monkeypatch.setattr(policy_operations, "_LARGE", 4 * width if height > 9 else 2)
        for draw, expected in zip(draws, whole, strict=True):
            assert torch.equal(augment(image, [draw]), expected)


def test_blur_of_a_batch_equals_each_alone():
    """Blurred together, as on a GPU, with different deviations: the bits of each alone."""
    pixels = channels_first(photographs(3)).float()
    deviations, whole = [0.2, 4.0, 1.3], [slice(0, 31)]
    alone = resample.blurred(pixels, deviations, whole)
    together = resample.blurred_together(pixels, deviations, whole)
    assert torch.equal(together, alone)


def test_augmenter_draws_by_image_and_copy():
    """It does what `draw` and `augment` do; another epoch, image or seed gives another copy."""
    images = photographs(1)
    words = augment_notation.parse("rotate 40, noise 0.1, fill reflect")
    expected = augment(images, [drawing.draw_params(words, seed=2, image="p", copy=9)], fill=Fill.REFLECT)
    assert torch.equal(Augmenter(words, seed=2)(images, ["p"], [9]), expected)
    for seed, image, copy in ((3, "p", 9), (2, "q", 9), (2, "p", 8)):
        assert not torch.equal(Augmenter(words, seed=seed)(images, [image], [copy]), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (300, 2)])
def test_images_of_any_shape(shape):
    """A single pixel, a line and a strip go through every transform."""
    images = photographs(3, *shape)
    for fill in Fill:
        for policy in ("randaugment 14 30", "trivialaugment"):
            words = augment_notation.parse(f"{EVERYTHING}, {policy}, fill {fill}")
            draws = [drawing.draw_params(words, seed=0, image="p", copy=copy) for copy in range(3)]
            assert augment(images, draws, fill=fill).shape == (3, *shape, 3)
    assert augment(images[:0], []).shape == (0, *shape, 3)


@pytest.mark.gpu
def test_gpu_matches_cpu():
    """On CUDA the same copies, up to rounding."""
    images = photographs(8)
    augmenter = Augmenter(augment_notation.parse(EVERYTHING), seed=5)
    names, copies = [f"{number}" for number in range(8)], [0] * 8
    expected, found = augmenter(images, names, copies), augmenter(images.cuda(), names, copies)
    assert found.is_cuda
    assert furthest(found.cpu(), expected) <= 1
