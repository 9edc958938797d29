"""The augmentation notation and its random parameters: words, ranges, independence, and matrices."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from cnnkit.data import augment, augment_notation, augment_policies, decode
from cnnkit.data.augment import AugmentParams
from cnnkit.data.augment_notation import Augmentation, Fill
from cnnkit.data.augment_policies import Operation, PolicyStep
from cnnkit.errors import BadImageError, NotationError, UsageError

ALL = (
    "rotate 40, shift 0.2, shear 0.3, zoom 0.2, hflip, vflip, crop 0.8, brightness 0.2, contrast 0.3, saturation 1.5, "
    "hue 0.05, blur 1, noise 0.02, randaugment 2 9, erase 0.25, fill wrap"
)


# ---------------------------------------------------------------- the notation


def test_every_word_has_its_field():
    """All words of the notation at once, and `str` writes the same notation."""
    parsed = augment_notation.parse(ALL)
    assert parsed == Augmentation(
        rotate=40,
        shift=0.2,
        shear=0.3,
        zoom=0.2,
        hflip=True,
        vflip=True,
        crop=0.8,
        brightness=0.2,
        contrast=0.3,
        saturation=1.5,
        hue=0.05,
        blur=1,
        noise=0.02,
        randaugment=(2, 9),
        erase=0.25,
        fill=Fill.WRAP,
    )
    assert str(parsed) == ALL
    assert augment_notation.parse(str(parsed)) == parsed
    policy = augment_notation.parse("TrivialAugment")
    assert policy == Augmentation(trivialaugment=True)
    assert str(policy) == "trivialaugment, fill nearest"
    assert not policy.identity
    assert not policy.needs_no_resampling


def test_order_case_and_comments_are_ignored(tmp_path):
    """The same words in a file, one per line with comments, give the same augmentation and the same text."""
    file = tmp_path / "some words.txt"
    file.write_text("# mine\nFill Reflect # at the edges, as before\r\n\n  HFLIP,rotate 1e1,\nhue .05\n")
    parsed = augment_notation.parse(f"@{file}")
    assert parsed == augment_notation.parse("rotate 10, hflip, hue 0.05, fill reflect")
    assert str(parsed) == "rotate 10, hflip, hue 0.05, fill reflect"


@pytest.mark.parametrize("text", ["", " \n # nothing\n", "rotate 0, crop 1, fill nearest"])
def test_empty_notation_is_the_identity(text):
    """So is a notation with neutral numbers."""
    parsed = augment_notation.parse(text)
    assert parsed.identity
    assert str(parsed) == ""
    assert augment.draw_params(parsed, seed=1, image="p", copy=2) == AugmentParams()


@pytest.mark.parametrize("text", ["", "rotate 0, fill wrap"])
def test_parse_required_rejects_the_identity(text):
    """The message has an example of what to write."""
    with pytest.raises(UsageError, match=f'--augment "{text}" changes nothing; .*"rotate 40, hflip"'):
        augment_notation.parse_required(text)
    assert augment_notation.parse_required("hflip").hflip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rotate 40, hflip, rotat 3", 'augmentation word 3: "rotat" is not an augmentation; did you mean "rotate"?'),
        ("horizontal_flip", 'augmentation word 1: "horizontal_flip" is not an augmentation; did you mean "hflip"?'),
        ("hflip, xyz 3", 'augmentation word 2: "xyz" is not an augmentation; choose from rotate, shift, '),
        ("shear 20", 'augmentation word 1: "shear 20": give a number from 0 to 2; 0.2 is 11 degrees'),
        ("hue 0.6", 'augmentation word 1: "hue 0.6": give a number from 0 to 0.5'),
        ("crop 0", 'augmentation word 1: "crop 0": give a number from 0.05 to 1'),
        ("rotate -4", 'augmentation word 1: "rotate -4": give a number from 0 to 180'),
        ("noise nan", 'augmentation word 1: "noise nan": give a number from 0 to 1'),
        ("rotate", 'augmentation word 1: "rotate" lacks its number; write "rotate 40"'),
        ("shift 0.1 0.2", 'augmentation word 1: "shift" has 2 values; write "shift 0.2"'),
        ("rotate 4 hflip", 'augmentation word 1: a comma is missing before "hflip"'),
        ("hflip vflip", 'augmentation word 1: a comma is missing before "vflip"'),
        ("hflip 0.3", '"hflip 0.3": hflip does not take a number; it applies to half of the copies'),
        ("zoom 0.1, zoom 0.1", 'augmentation word 2: "zoom" is given twice'),
        ("fill", 'augmentation word 1: "fill" lacks its mode; write "fill nearest"'),
        (
            "randaugment 2",
            '"randaugment" takes two numbers, how many operations and their level; write "randaugment 2 9"',
        ),
        ("randaugment 2 9 1", '"randaugment" takes two numbers'),
        ("randaugment 2 hflip", '"randaugment" takes two numbers'),
        ("randaugment 2 9 hflip", 'augmentation word 1: a comma is missing before "hflip"'),
        (
            "randaugment 0 9",
            '"randaugment 0 9": give 1 to 14 operations and a level from 0 to 30, such as "randaugment 2 9"',
        ),
        ("randaugment 2 31", '"randaugment 2 31": give 1 to 14 operations and a level from 0 to 30'),
        ("randaugment 2 9.5", '"randaugment 2 9.5": give 1 to 14 operations'),
        ("trivialaugment 9", '"trivialaugment 9": trivialaugment does not take a number; it draws the strength'),
        ("trivialaugment, randaugment 2 9", "two policies for the same operations; give one of the two"),
        ("TrivialAugmentWide", '"trivialaugmentwide" is not an augmentation; did you mean "trivialaugment"?'),
        ("RandomErasing 0.5", '"randomerasing" is not an augmentation; did you mean "erase"?'),
        ("erase 1.5", 'augmentation word 1: "erase 1.5": give a number from 0 to 1'),
        ("fill neares", 'choose from nearest, constant, reflect, wrap; did you mean "nearest"?'),
        ("@no-such-file", "no-such-file: No such file or directory; give a file that holds augmentation words"),
    ],
)
def test_errors_name_the_word(text, message):
    """Unknown, out of range, without its number, given twice: one line with the word and the remedy."""
    with pytest.raises(NotationError) as error:
        augment_notation.parse(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_errors_in_a_file_name_the_file(tmp_path):
    """The file comes first, then the word."""
    (tmp_path / "words").write_text("hflip\nrotat 3\n", encoding="utf-8-sig")  # as by editors on Windows
    with pytest.raises(NotationError, match=r"words: augmentation word 2: \"rotat\""):
        augment_notation.parse(f"@{tmp_path}/words")


# ---------------------------------------------------------------- draws


@pytest.fixture(scope="module")
def thousands():
    """Return the parameters of 4,000 copies, as arrays by name."""
    parsed = augment_notation.parse(ALL)
    drawn = [
        dataclasses.asdict(augment.draw_params(parsed, seed=0, image=f"{copy % 40}", copy=copy // 40))
        for copy in range(4000)
    ]
    return {name: np.array([each[name] for each in drawn]) for name in drawn[0]}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("rotate", -40, 40),
        ("shift_x", -0.2, 0.2),
        ("shift_y", -0.2, 0.2),
        ("shear", -0.3, 0.3),
        ("zoom_x", 0.8, 1.2),
        ("zoom_y", 0.8, 1.2),
        ("crop_width", 0.8, 1),
        ("crop_height", 0.8, 1),
        ("brightness", 0.8, 1.2),
        ("contrast", 0.7, 1.3),
        ("saturation", 0, 2.5),
        ("hue", -0.05, 0.05),
        ("blur", 0, 1),
        ("noise_seed", 0, 2**32),
    ],
)
def test_parameters_are_uniform_within_their_range(thousands, name, low, high):
    """Thousands of copies stay within the range, reach both ends, and fill each tenth of it about equally."""
    values = thousands[name]
    assert low <= values.min() < low + 0.005 * (high - low)
    assert high - 0.005 * (high - low) < values.max() <= high
    held, _ = np.histogram(values, bins=10, range=(low, high))
    assert abs(held - 400).max() < 100  # five standard deviations of a binomial


def test_half_of_the_copies_are_flipped_and_windows_are_inside(thousands):
    """hflip and vflip apply to half of the copies; the crop's window stays in the image and reaches its edges; noise is constant."""
    for name in ("hflip", "vflip"):
        assert 0.45 < thousands[name].mean() < 0.55
    for start, side in (("crop_x", "crop_width"), ("crop_y", "crop_height")):
        assert thousands[start].min() >= 0
        ends = thousands[start] + thousands[side]
        assert ends.max() < 1 + 1e-6  # both are rounded to six digits
        share = thousands[start] / np.maximum(1 - thousands[side], 1e-3)
        assert share[thousands[side] < 0.99].min() < 0.01
        assert share[thousands[side] < 0.99].max() > 0.99
    assert set(thousands["noise"]) == {0.02}


def test_parameters_are_uncorrelated(thousands):
    """The correlations of any two parameters of a copy are those of chance."""
    # The position of a window depends on its size, but not relative to the space left; noise has one strength
    others = ("noise", "randaugment", "trivialaugment", "erase_seed")
    numbers = {name: values.astype(float) for name, values in thousands.items() if name not in others}
    for place, side in (("crop_x", "crop_width"), ("crop_y", "crop_height")):
        numbers[place] = numbers[place] / (1 - numbers[side]).clip(1e-9)
    names = list(numbers)
    correlations = np.corrcoef([numbers[name] for name in names])
    assert abs(correlations - np.eye(len(names))).max() < 0.08  # five standard deviations


def test_adding_a_word_does_not_change_the_others():
    """Each word has its own place in the stream, so `hue` does not change the rotation; a wider range scales the same draw."""
    alone = augment.draw_params(augment_notation.parse("rotate 40"), seed=3, image="ab", copy=1)
    for word in ("hue 0.1", "crop 0.5", "hflip", "noise 0.1", "blur 2, zoom 0.5", "randaugment 9 4", "erase 1"):
        more = augment.draw_params(augment_notation.parse(f"{word}, rotate 40"), seed=3, image="ab", copy=1)
        assert more.rotate == alone.rotate
        assert more != alone
    assert augment.draw_params(augment_notation.parse("rotate 80"), seed=3, image="ab", copy=1).rotate == pytest.approx(
        2 * alone.rotate, rel=1e-5
    )


def test_small_ranges_are_not_rounded_away():
    """Rounding is to significant digits, so values reach both ends of a small range."""
    parsed = augment_notation.parse("shift 0.00015, hue 0.00004")
    drawn = [augment.draw_params(parsed, seed=0, image="p", copy=copy) for copy in range(500)]
    shifts, hues = [draw.shift_x for draw in drawn], [draw.hue for draw in drawn]
    assert -0.00015 <= min(shifts) < -0.000148
    assert 0.000148 < max(shifts) <= 0.00015
    assert len(set(shifts)) == len(set(hues)) == 500


def test_parameters_depend_on_seed_image_and_copy():
    """Each of the three changes the parameters, and nothing else does."""
    parsed = augment_notation.parse("rotate 40, noise 0.1")
    first = augment.draw_params(parsed, seed=0, image="a", copy=1)
    assert augment.draw_params(parsed, seed=0, image="a", copy=1) == first
    others = [
        augment.draw_params(parsed, seed=1, image="a", copy=1),
        augment.draw_params(parsed, seed=0, image="b", copy=1),
        augment.draw_params(parsed, seed=0, image="a", copy=2),
    ]
    assert len({each.rotate for each in [first, *others]}) == 4
    assert len({each.noise_seed for each in [first, *others]}) == 4


def test_parameters_are_the_same_in_every_version():
    """Copies made years ago can be reproduced: these numbers must never change."""
    draw = augment.draw_params(augment_notation.parse(ALL), seed=7, image="0f" * 32, copy=3)
    assert (draw.rotate, draw.shift_y, draw.hflip, draw.crop_width, draw.hue, draw.noise_seed) == (
        *(-1.55613, 0.0422919, False, 0.990404, -0.0394664, 3555341005),
    )


def test_fingerprint_depends_only_on_the_content(tmp_path):
    """Name and folder do not change it, a single byte does; a missing file is a bad image."""
    one, other = tmp_path / "one.jpg", tmp_path / "deeper" / "other.jpg"
    other.parent.mkdir()
    Image.new("RGB", (4, 3), "red").save(one)
    shutil.copy(one, other)
    assert decode.read(one).fingerprint == decode.read(str(other)).fingerprint
    assert len(decode.read(one).fingerprint) == 64
    other.write_bytes(one.read_bytes() + b"z")
    assert decode.read(one).fingerprint != decode.read(other).fingerprint
    with pytest.raises(BadImageError, match="no such file"):
        decode.read(tmp_path / "none.jpg")


# ---------------------------------------------------------------- policies and erasing


def test_operations_are_torchvisions_in_its_order():
    """Names and order of both policies, which operations have a level, and which of these are signed."""
    for policy in (v2.RandAugment, v2.TrivialAugmentWide):
        space = policy._AUGMENTATION_SPACE
        assert list(space) == list(Operation)
        for number, (name, (magnitudes, signed)) in enumerate(space.items()):
            share = (number + 0.5) / 14
            drawn = [augment_policies.randaugment(1, 9, shares=[share, sign])[0] for sign in (0.4, 0.6)]
            has_level = magnitudes(31, 8, 8) is not None
            assert drawn == [
                PolicyStep(Operation(name), level) for level in ((-9 if signed else 9) * has_level, 9 * has_level)
            ]
            assert str(drawn[1]) == (f"{name} 9" if has_level else name)


def test_policies_draw_uniformly():
    """Each operation, level and direction has an equal share of the numbers from 0 to 1: checked at all of their bounds."""
    for number, operation in enumerate(Operation):
        for share in (number / 14 + 1e-15, (number + 1) / 14 - 1e-15):
            ((found, _),) = augment_policies.randaugment(1, 9, shares=[share, 0.0])
            assert found is operation
    for level in range(31):
        for share in (level / 31 + 1e-15, (level + 1) / 31 - 1e-15):
            (step,) = augment_policies.trivialaugment(shares=[1.5 / 14, share, 0.5])
            assert step == PolicyStep(Operation.SHEAR_X, level)
    (step,) = augment_policies.trivialaugment(shares=[1.5 / 14, 1 - 2**-53, np.nextafter(0.5, 0)])
    assert step == PolicyStep(Operation.SHEAR_X, -30)


@pytest.mark.parametrize("words", ["randaugment 3 9", "trivialaugment"])
def test_policies_of_copies_differ_and_are_reproducible(words):
    """Thousands of copies have every operation about equally often; the same copy has the same ones, next to other words too."""
    parsed = augment_notation.parse(words)
    drawn = [augment.draw_params(parsed, seed=0, image="a", copy=copy) for copy in range(2800)]
    steps = [step for draw in drawn for step in draw.randaugment + draw.trivialaugment]
    assert len(steps) == 2800 * (3 if parsed.randaugment else 1)
    counts = np.array([sum(step.operation is operation for step in steps) for operation in Operation])
    assert abs(counts - len(steps) / 14).max() < 5 * np.sqrt(len(steps) / 14)
    more = augment.draw_params(augment_notation.parse(f"{words}, rotate 9, erase 1"), seed=0, image="a", copy=7)
    assert (more.randaugment, more.trivialaugment) == (drawn[7].randaugment, drawn[7].trivialaugment)


class SharesOfTorch:
    """torch with chosen numbers from 0 to 1 in place of random ones: four for each attempt of RandomErasing."""

    def __init__(self, shares):
        self.shares, self.drawn, self.places = shares, 0, 0

    def __getattr__(self, name):
        return getattr(torch, name)

    def empty(self, _count):
        return self

    def uniform_(self, low, high):
        share = self.shares[4 * (self.drawn // 2) + self.drawn % 2]
        self.drawn, self.places = self.drawn + 1, 0
        return torch.tensor(float(low) + (float(high) - float(low)) * share, dtype=torch.float64)

    def randint(self, low, high, size):
        share = self.shares[4 * (self.drawn // 2 - 1) + 2 + self.places]
        self.places += 1
        return torch.tensor(low + int(share * (high - low)))


@pytest.mark.parametrize(("height", "width"), [(150, 150), (40, 300), (9, 4), (1, 1)])
def test_erased_rectangle_is_torchvisions(height, width, monkeypatch):
    """From the same random numbers, RandomErasing chooses the same rectangle, or none after ten that do not fit."""
    erasing = v2.RandomErasing(p=1.0)
    erasing._log_ratio = torch.log(torch.tensor(erasing.ratio, dtype=torch.float64))
    image = torch.zeros(3, height, width)
    found = set()
    for seed in range(200):
        monkeypatch.setattr("torchvision.transforms.v2._augment.torch", SharesOfTorch(augment._shares(seed, 40)))
        expected = erasing.make_params([image])
        box = augment.erased_box(AugmentParams(erase=True, erase_seed=seed), height=height, width=width)
        if expected["v"] is None:
            assert box is None
            continue
        assert box is not None
        rows, columns = box
        assert (rows.start, columns.start) == (expected["i"], expected["j"])
        assert (rows.stop - rows.start, columns.stop - columns.start) == (expected["h"], expected["w"])
        found.add((rows.start, columns.start))
    assert len(found) > 20 or height < 10


def test_erase_has_its_probability():
    """A quarter of the copies, none, or all; a copy that is not erased has no rectangle."""
    for share in (0.25, 1):
        parsed = augment_notation.parse(f"erase {share}")
        drawn = [augment.draw_params(parsed, seed=0, image="a", copy=copy) for copy in range(2000)]
        assert np.mean([draw.erase for draw in drawn]) == pytest.approx(share, abs=0.05 * (share < 1))
        assert all(bool(draw.erase_seed) is draw.erase for draw in drawn)
    assert augment.erased_box(AugmentParams(erase_seed=5), height=99, width=99) is None


# ---------------------------------------------------------------- matrices


def at(draw, x, y, *, height=5, width=9):
    return tuple((augment.affine_matrix(draw, height=height, width=width) @ (x, y, 1))[:2])


def test_affine_matrices_of_single_words():
    """Computed by hand on 9 x 5 pixels: the source of a pixel of the copy."""
    assert at(AugmentParams(), 3, 1) == (3, 1)
    assert at(AugmentParams(shift_x=1 / 9), 3, 1) == pytest.approx((2, 1))  # to the right: from the pixel on the left
    assert at(AugmentParams(shift_y=0.4), 3, 1) == pytest.approx((3, -1))
    assert at(AugmentParams(rotate=90), 4, 0) == pytest.approx((6, 2))  # counter-clockwise: the right becomes the top
    assert at(AugmentParams(rotate=90), 2, 2) == pytest.approx((4, 0))
    assert at(AugmentParams(shear=0.5), 4, 2) == pytest.approx((4, 2))  # the centre stays
    assert at(AugmentParams(shear=0.5), 4, 0) == pytest.approx((3, 0))
    assert at(AugmentParams(zoom_x=0.5, zoom_y=2), 8, 1) == pytest.approx((6, 0))  # half of the width is visible
    assert at(AugmentParams(hflip=True), 0, 1) == (8, 1)
    assert at(AugmentParams(vflip=True), 0, 1) == (0, 3)
    # The window's edges become the image's: half a pixel outside of the first and the last pixel
    window = AugmentParams(crop_x=1 / 3, crop_y=0.2, crop_width=1 / 3, crop_height=0.6)
    assert at(window, -0.5, -0.5) == pytest.approx((2.5, 0.5))
    assert at(window, 8.5, 4.5) == pytest.approx((5.5, 3.5))


def test_shift_is_relative_to_the_copy():
    """A rotated, sheared and zoomed image is shifted along the axes of the copy, by pixels of the copy."""
    before = AugmentParams(rotate=30, shear=0.2, zoom_x=0.8, zoom_y=1.1)
    after = dataclasses.replace(before, shift_x=2 / 9, shift_y=-1 / 5)
    assert at(after, 5, 1) == pytest.approx(at(before, 3, 2))
    assert at(dataclasses.replace(after, hflip=True), 3, 1) == pytest.approx(at(after, 5, 1))
