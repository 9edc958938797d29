"""Preprocessing of an image to the network's input."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import transforms as v1
from torchvision.transforms import v2

from cnnkit.data import decode
from cnnkit.data.preprocessing import (
    crops,
    load,
    prepare,
    prepare_with_margin,
    shown_as,
    sides,
    untouched,
    window,
    with_size,
)
from cnnkit.errors import UsageError
from cnnkit.formats.header import Fit, Interpolation, Preprocess

MODES = {
    Interpolation.NEAREST: v2.InterpolationMode.NEAREST,
    Interpolation.BILINEAR: v2.InterpolationMode.BILINEAR,
    Interpolation.BICUBIC: v2.InterpolationMode.BICUBIC,
    Interpolation.LANCZOS: v2.InterpolationMode.LANCZOS,
}

SIZES = [  # width, height: odd, tiny, exact, long and very large ones
    (1, 1), (2, 3), (1, 16), (500, 33), (51, 800), (1501, 97), (31, 33), (224, 224), (255, 257), (256, 256), (256, 341), (341, 256),
    (257, 256), (256, 1000), (300, 225), (375, 500), (499, 333), (500, 374), (640, 480), (641, 479), (1023, 767), (1601, 1067),
]  # fmt: skip

STRIPS = [(1, 500), (500, 1), (7, 4000), (4000, 7), (1, 30_000), (30_000, 1)]


def noise_image(width, height, seed=0):
    """Return noise over a ramp: noise shows wrong coefficients, a ramp shows shifts."""
    generator = np.random.default_rng((seed, width, height))
    ramp = np.linspace(0, 128, width)[None, :, None] + np.linspace(0, 64, height)[:, None, None]
    return Image.fromarray((ramp + generator.uniform(0, 63, (height, width, 3))).astype(np.uint8))


def by_torchvision(image, preprocess, module=v2):
    mode = MODES[preprocess.interpolation]
    resize = module.Resize(preprocess.resize, interpolation=mode, antialias=True)
    return np.asarray(module.Compose([resize, module.CenterCrop(preprocess.size)])(image))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("interpolation", Interpolation)
def test_crop_is_bit_identical_to_torchvision(size, interpolation):
    """Resize(256) and CenterCrop(224) of torchvision, old and new transforms, for every filter and odd sizes."""
    image, preprocess = noise_image(*size), Preprocess(interpolation=interpolation)
    prepared = prepare(image, preprocess)
    assert np.array_equal(prepared, by_torchvision(image, preprocess))
    assert np.array_equal(prepared, by_torchvision(image, preprocess, v1))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(40, 700), st.integers(40, 700), st.integers(8, 300), st.integers(0, 60), st.sampled_from(Interpolation)
)
def test_crop_of_any_size_is_bit_identical_to_torchvision(width, height, size, margin, interpolation):
    """For every pair of resize and crop."""
    assume(max(width, height) < 16 * min(width, height))
    image, preprocess = (
        noise_image(width, height),
        Preprocess(resize=size + margin, size=size, interpolation=interpolation),
    )
    assert np.array_equal(prepare(image, preprocess), by_torchvision(image, preprocess))


@pytest.mark.parametrize("size", STRIPS, ids=lambda size: f"{size[0]}x{size[1]}")
def test_crop_of_a_strip_needs_little_memory(size):
    """An image one pixel wide needs no gigabytes, and agrees with torchvision up to rounding."""
    width, height = size
    image = noise_image(*size)
    prepared = prepare(image, Preprocess()).astype(int)
    if (
        max(size) > 5000
    ):  # torchvision would need 6 GB: the centre of the resized middle of the strip has the same pixels
        middle = (
            max(0, width // 2 - 30),
            max(0, height // 2 - 30),
            min(width, width // 2 + 30),
            min(height, height // 2 + 30),
        )
        image = image.crop(middle)
    assert np.abs(prepared - by_torchvision(image, Preprocess())).max() <= 1


@pytest.mark.photos
def test_crop_of_photographs_is_bit_identical_to_torchvision(photos):
    """On real images."""
    for path in [*sorted((photos / "pictures").iterdir()), *sorted((photos / "flowers/tulip").iterdir())[:60]]:
        image = decode.load(path)
        assert np.array_equal(prepare(image, Preprocess()), by_torchvision(image, Preprocess())), path


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_squash_is_pillows_resize(size):
    """Both sides become the size; the aspect ratio is lost."""
    image, preprocess = noise_image(*size), Preprocess(fit=Fit.SQUASH, size=96, interpolation=Interpolation.BICUBIC)
    assert np.array_equal(prepare(image, preprocess), image.resize((96, 96), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_pad_keeps_the_whole_image(size):
    """The longer side becomes the size, as in Pillow; centred on the mean colour; the shorter side has at least one pixel."""
    image, preprocess = noise_image(*size), Preprocess(fit=Fit.PAD, size=96, mean=(0.2, 0.4, 0.6))
    prepared = prepare(image, preprocess)
    longer = max(size)
    width, height = (max(1, side * 96 // longer) for side in size)
    left, top = (96 - width) // 2, (96 - height) // 2
    inside = np.zeros((96, 96), dtype=bool)
    inside[top : top + height, left : left + width] = True
    assert np.array_equal(
        prepared[inside].reshape(height, width, 3), image.resize((width, height), Image.Resampling.BILINEAR)
    )
    assert (prepared[~inside] == (51, 102, 153)).all()


@pytest.mark.parametrize("size", [(300, 300), (300, 150), (150, 300), (96, 96), (48, 96)])
def test_pad_agrees_with_pillows_own(size):
    """Identical to ImageOps.pad if the sides divide evenly."""
    image, preprocess = noise_image(*size), Preprocess(fit=Fit.PAD, size=96, mean=(0, 0, 0))
    assert np.array_equal(prepare(image, preprocess), ImageOps.pad(image, (96, 96), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("fit", Fit)
def test_result_is_a_contiguous_uint8_array(fit, tmp_path):
    """(size, size, 3); the same from a file and from its image; the image is not changed."""
    image = noise_image(50, 37)
    before = image.tobytes()
    image.save(tmp_path / "image.png")
    prepared = prepare(image, Preprocess(fit=fit, resize=40, size=32))
    assert (prepared.shape, prepared.dtype, prepared.flags.c_contiguous) == ((32, 32, 3), np.uint8, True)
    assert np.array_equal(load(tmp_path / "image.png", Preprocess(fit=fit, resize=40, size=32)), prepared)
    assert image.tobytes() == before


def test_normalized_result_agrees_with_torchvisions_preset():
    """With the network's own mean and standard deviation."""
    from torchvision.models import MobileNet_V2_Weights

    preset = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    preprocess = Preprocess(resize=preset.resize_size[0], size=preset.crop_size[0])
    image = noise_image(500, 333)
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    ours = (torch.from_numpy(prepare(image, preprocess).copy()).permute(2, 0, 1) / 255 - mean) / std
    assert torch.allclose(ours, preset(image), atol=1e-5)


def test_another_size_keeps_the_share_of_the_crop():
    """224 of 256 becomes 112 of 128 if resize is not given."""
    assert with_size(Preprocess(), size=112) == Preprocess(resize=128, size=112)
    assert with_size(Preprocess(), size=112, fit=Fit.PAD) == Preprocess(fit=Fit.PAD, resize=112, size=112)
    with pytest.raises(UsageError, match=r"--resize needs --fit crop; --fit pad resizes directly to --size"):
        with_size(Preprocess(), size=112, resize=112, fit=Fit.PAD)
    assert with_size(Preprocess()) == Preprocess()
    assert with_size(Preprocess(grey=True), size=112) == Preprocess(resize=128, size=112, grey=True)
    with pytest.raises(UsageError, match=r"--resize 100 is smaller than the crop of 224; give at least 224"):
        with_size(Preprocess(), resize=100)


# ---------------------------------------------------------------- several crops


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("preprocess", [Preprocess(), Preprocess(resize=97, size=64), Preprocess(resize=64, size=64)])
def test_crops_are_bit_identical_to_torchvision(size, preprocess):
    """Five or ten; the centre first, as in `prepare`, then the corners."""
    image = noise_image(*size)
    resized = v2.Resize(preprocess.resize, antialias=True)(image)
    ten = [np.asarray(split) for split in v2.TenCrop(preprocess.size)(resized)]
    found = crops(image, preprocess, mirrored=True)
    assert np.array_equal(found[0], prepare(image, preprocess))
    for one, other in zip(found, [ten[4], *ten[:4], ten[9], *ten[5:9]], strict=True):
        assert np.array_equal(one, other)
    for one, other in zip(crops(image, preprocess), found[:5], strict=True):
        assert np.array_equal(one, other)


def test_crops_of_a_strip():
    """The image is not resized to a strip of a million pixels: only the regions of the crops are resized."""
    ramp = np.linspace(0, 255, 30_000, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    found = [int(each.mean()) for each in crops(Image.fromarray(ramp), Preprocess())]
    assert found == [127, 0, 255, 0, 255]


# ---------------------------------------------------------------- windows and rectangles


def test_untouched_keeps_size_and_aspect_ratio():
    """Whatever the network's own preprocessing."""
    image = noise_image(37, 50)
    for fit in Fit:
        assert np.array_equal(prepare(image, untouched(Preprocess(fit=fit), image.size)), np.asarray(image))


def test_shown_as_reads_sizes_and_rectangles():
    """One number scales in proportion, two make a rectangle, height first; without a size nothing changes."""
    assert shown_as(Preprocess(), size="448") == Preprocess(resize=512, size=448)
    assert shown_as(Preprocess(), size="112x200") == Preprocess(resize=128, size=112, across=200)
    assert shown_as(Preprocess(), size="112x112", fit=Fit.PAD) == Preprocess(fit=Fit.PAD, resize=112, size=112)
    assert shown_as(Preprocess(), size=None) == Preprocess()


def seen_from(size, preprocess):
    """Prepare an image whose pixels are their positions: return columns, rows (-1 outside of the image)."""
    width, height = size
    places = np.full((height, width, 3), 255, dtype=np.uint8)
    places[:, :, 0], places[:, :, 1] = np.arange(width)[None], np.arange(height)[:, None]
    shown = prepare(Image.fromarray(places), preprocess).astype(int)
    inside = shown[:, :, 2] == 255
    columns, rows = np.where(inside, shown[:, :, 0], -1), np.where(inside, shown[:, :, 1], -1)
    across, down = columns.max(axis=0), rows.max(axis=1)
    assert np.array_equal(columns, np.where(down[:, None] >= 0, across, -1))
    assert np.array_equal(rows, np.where(across >= 0, down[:, None], -1))
    return across, down


def along(start, end, count, size):
    """Return the centre of each pixel of a window, and the image's pixel there, -1 for none."""
    middles = start + (np.arange(count) + 0.5) * (end - start) / count
    return middles, np.where((middles >= 0) & (middles < size), np.floor(middles), -1)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(Fit),
    st.integers(1, 255),
    st.integers(1, 255),
    st.integers(4, 90),
    st.integers(4, 90),
    st.integers(0, 30),
)
def test_window_agrees_with_prepare(fit, width, height, rows, columns, margin):
    """Every pixel of `prepare` comes from the place according to `window`, for odd sizes, strips and rectangles."""
    preprocess = Preprocess(
        fit=fit, resize=rows + margin, size=rows, across=columns, interpolation=Interpolation.NEAREST, mean=(0, 0, 0)
    )
    left, top, right, bottom = window((width, height), preprocess)
    found = seen_from((width, height), preprocess)
    for shown, start, end, size in zip(found, (left, top), (right, bottom), (width, height), strict=True):
        middles, expected = along(start, end, len(shown), size)
        unclear = np.abs(middles - np.round(middles)) < 1e-3  # between two pixels, either is correct
        assert np.array_equal(shown[~unclear], expected[~unclear])
        assert np.abs(shown - expected)[unclear].max(initial=0) <= 1


@pytest.mark.parametrize(
    ("size", "settings", "expected"),
    [
        ((640, 480), {}, (108.856, 30, 529.267, 450)),  # resized to 341x256, cropped at 58, 16
        ((480, 640), {}, (30, 108.856, 450, 529.267)),
        ((500, 300), {"fit": Fit.SQUASH}, (0, 0, 500, 300)),
        ((400, 200), {"fit": Fit.PAD, "size": 100, "resize": 100}, (0, -100, 400, 300)),
        ((50, 100), {"fit": Fit.PAD, "size": 100, "resize": 100, "across": 300}, (-125, 0, 175, 100)),
        ((400, 200), {"size": 100, "resize": 100, "across": 200}, (0, 0, 400, 200)),
        ((400, 400), {"size": 100, "resize": 100, "across": 200}, (0, 100, 400, 300)),
    ],
)
def test_windows_computed_by_hand(size, settings, expected):
    """In pixels of the image; margins are outside of it."""
    assert window(size, Preprocess(**settings)) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("frame", [(64, 96), (96, 64), (50, 131), (33, 32)], ids=lambda frame: f"{frame[0]}x{frame[1]}")
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_rectangular_crop_is_bit_identical_to_torchvision(size, frame):
    """The resized image covers the frame with its margin; torchvision gets the length of the same side."""
    (width, height), (rows, columns) = size, frame
    resize = rows * 8 // 7
    preprocess = Preprocess(resize=resize, size=rows, across=columns)
    prepared = prepare(noise_image(width, height), preprocess)
    assert prepared.shape == (rows, columns, 3)
    across = round(resize * columns / rows)
    by_height = width * resize > height * across  # the image is wider than the frame
    if (width < height) if by_height else (height < width):
        return  # torchvision's size is that of the shorter side, which is the other one here
    if max(width, height) > 15 * min(width, height):
        return
    made = v2.Compose([v2.Resize(resize if by_height else across, antialias=True), v2.CenterCrop(frame)])
    assert np.array_equal(prepared, np.asarray(made(noise_image(width, height))))


def test_width_equal_to_height_is_a_square():
    """The same as without a width."""
    for fit in Fit:
        ours, theirs = (Preprocess(fit=fit, resize=40, size=32, across=across) for across in (None, 32))
        assert np.array_equal(prepare(noise_image(50, 37), ours), prepare(noise_image(50, 37), theirs))
        assert window((50, 37), ours) == window((50, 37), theirs)


def test_rectangles_are_padded_and_squashed():
    """The whole image, centred in the rectangle or stretched to it."""
    image = noise_image(120, 60)
    padded = prepare(image, Preprocess(fit=Fit.PAD, size=40, across=100, mean=(0, 0, 0)))
    assert np.array_equal(padded, ImageOps.pad(image, (100, 40), Image.Resampling.BILINEAR))
    squashed = prepare(image, Preprocess(fit=Fit.SQUASH, size=40, across=100))
    assert np.array_equal(squashed, image.resize((100, 40), Image.Resampling.BILINEAR))


def test_sides_parses_sizes():
    """Side of a square, or height and width."""
    assert [sides(text) for text in ("448", "320x480", "1X2", "007")] == [(448, 448), (320, 480), (1, 2), (7, 7)]
    for text in ("", "0", "x", "3x", "x3", "0x5", "1x2x3", "-3", "3.5", "a", "٣", "²"):
        with pytest.raises(
            UsageError, match=r'^--size "\S*" is not a size; give the side of a square, such as 448, or HEIGHTx'
        ):
            sides(text)


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("across", [None, 300])
def test_prepared_again_with_its_margin_is_the_same(fit, across):
    """Pixels with the margin give the network the same input as the image, also when they are prepared again from a file."""
    for resize, sizes in ((256, [*SIZES[::3], (4000, 7)]), (255, SIZES[1::4]), (224, SIZES[2::4])):
        preprocess = Preprocess(fit=fit, resize=resize, size=224, across=across)
        for size in sizes:
            image = noise_image(*size)
            pixels, top, left = prepare_with_margin(image, preprocess)
            wanted = prepare(image, preprocess)
            height, width = wanted.shape[:2]
            np.testing.assert_array_equal(pixels[top : top + height, left : left + width], wanted)
            np.testing.assert_array_equal(prepare(Image.fromarray(pixels), preprocess), wanted)
            if fit is Fit.CROP and across is None:
                assert pixels.shape == (resize, resize, 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 400), st.integers(8, 400), st.integers(8, 60), st.integers(0, 40), st.integers(8, 90))
def test_prepared_again_with_its_margin_is_the_same_for_any_size(width, height, size, margin, across):
    preprocess = Preprocess(resize=size + margin, size=size, across=across)
    image = noise_image(width, height)
    pixels, top, left = prepare_with_margin(image, preprocess)
    wanted = prepare(image, preprocess)
    np.testing.assert_array_equal(pixels[top : top + size, left : left + across], wanted)
    np.testing.assert_array_equal(prepare(Image.fromarray(pixels), preprocess), wanted)
