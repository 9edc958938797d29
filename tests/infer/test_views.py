"""Test-time augmentation: the views, and options that contradict each other."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from cnnkit.choices import Crops, Fit
from cnnkit.data import augment_notation, decode, preprocessing
from cnnkit.data.source import ImageFile
from cnnkit.engine import resample
from cnnkit.errors import NotationError, UsageError
from cnnkit.formats.header import Preprocess
from cnnkit.infer.config import PredictConfig
from cnnkit.infer.torch_views import TorchCopies
from cnnkit.infer.views import check_test_views, parse_test_views

PREPROCESS = Preprocess(resize=28, size=24)


@pytest.fixture
def image(tmp_path):
    """Write noise of 50 by 37 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    return ImageFile(str(tmp_path / "noise.png"))


def views_of(image, views, preprocess=PREPROCESS):
    made = views(image, decode.read(image.path), preprocess)
    assert len(made) == 1 + views.copies
    return [np.asarray(view) for view in made]


@pytest.mark.parametrize(
    ("notation", "turns"),
    [
        ("hflip", [(1, 1), (1, -1)]),
        ("vflip, fill reflect", [(1, 1), (-1, 1)]),
        ("vflip, hflip", [(1, 1), (1, -1), (-1, 1), (-1, -1)]),
    ],
)
def test_all_flips_are_used(image, notation, turns):
    """Each mirror image once, the unchanged image first, also for a rectangle."""
    for preprocess in (PREPROCESS, preprocessing.shown_as(PREPROCESS, size="20x30")):
        square = preprocessing.load(image.path, preprocess)
        for view, (down, across) in zip(views_of(image, parse_test_views(notation), preprocess), turns, strict=True):
            np.testing.assert_array_equal(view, square[::down, ::across])


@pytest.mark.parametrize("notation", ["crop 0.8, hflip", "rotate 20, brightness 0.2, hflip", "trivialaugment, erase 1"])
def test_drawn_views_are_the_copies_of_training(image, notation):
    """After the unchanged one, the copies drawn by seed, content and number: 1, 2 and so on, made by numpy or torch."""
    views = parse_test_views(notation, views=5, seed=3, make_copies=TorchCopies())
    square = preprocessing.load(image.path, PREPROCESS)
    fingerprint = decode.read(image.path).fingerprint
    augmenter = resample.Augmenter(augment_notation.parse(notation), seed=3)
    squares = torch.from_numpy(square.copy())
    expected = augmenter(squares.expand(4, *square.shape), [fingerprint] * 4, [1, 2, 3, 4]).numpy()
    plain, *copies = views_of(image, views)
    np.testing.assert_array_equal(plain, square)
    assert np.abs(np.stack(copies).astype(int) - expected).max() <= 1
    assert len({copy.tobytes() for copy in copies}) == 4
    assert parse_test_views(notation, make_copies=TorchCopies()).copies == 7
    other = views_of(image, parse_test_views(notation, views=5, seed=4, make_copies=TorchCopies()))
    assert not any(np.array_equal(one, two) for one, two in zip(copies, other[1:], strict=True))


def test_views_that_numpy_cannot_make_need_make_copies():
    """The configuration knows whether they need it, and the error says what to pass."""
    words = {
        None: False,
        "hflip": False,
        "crop 0.8, hflip, fill wrap": False,
        "rotate 20": True,
        "hflip, noise 0.1": True,
    }
    assert {tta: PredictConfig(tta=tta).needs_torch_views for tta in words} == words
    with pytest.raises(ValueError, match="needs make_copies"):
        parse_test_views("rotate 20")


def test_crops_match_torchvision(image):
    """FiveCrop and TenCrop of the resized image, to the bit, except that the centre comes first."""
    resized = v2.Resize(28, antialias=True)(Image.open(image.path))
    for crops, theirs in ((Crops.FIVE, v2.FiveCrop(24)), (Crops.TEN, v2.TenCrop(24))):
        expected = [np.asarray(part) for part in theirs(resized)]
        fives = [expected[start : start + 5] for start in range(0, len(expected), 5)]
        found = views_of(image, parse_test_views(crops=crops))
        np.testing.assert_array_equal(found, [view for *corners, centre in fives for view in (centre, *corners)])
        np.testing.assert_array_equal(found[0], preprocessing.load(image.path, PREPROCESS))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"notation": "hflop"}, NotationError, '"hflop" is not an augmentation'),
        ({"notation": ""}, UsageError, '--tta "" changes nothing; give at least one augmentation, such as --tta'),
        ({"notation": "crop 1"}, UsageError, '--tta "crop 1" changes nothing'),
        ({"notation": "hflip", "views": 4}, UsageError, '--tta "hflip" always has 2 views; drop --views'),
        ({"notation": "hflip, vflip", "views": 4}, UsageError, "always has 4 views"),
        ({"views": 4}, UsageError, "--views 4 needs --tta, as in"),
        ({"views": 4, "crops": Crops.FIVE}, UsageError, "--views 4 needs --tta"),
        ({"notation": "hflip", "crops": Crops.TEN}, UsageError, "give one of the two"),
        ({"seed": 4}, UsageError, "--seed 4 needs --tta, as in"),
        ({"seed": 4, "crops": Crops.FIVE}, UsageError, "--seed 4 needs --tta"),
        ({"notation": "hflip", "seed": 4}, UsageError, '--tta "hflip" is not random; drop --seed'),
    ],
)
def test_rejects_contradicting_options(words, error, message):
    """One line with a remedy."""
    with pytest.raises(error) as refused:
        parse_test_views(**words)
    assert message in str(refused.value)


def test_crops_need_fit_crop(caplog):
    """A model that takes whole images is refused, and so is --size native; equal crops give a notice."""
    crops = parse_test_views(crops=Crops.FIVE)
    for fit in (Fit.SQUASH, Fit.PAD):
        with pytest.raises(
            UsageError, match=rf"net\.onnx takes whole images \(fit {fit}\), and --crops needs .*crop 0\.9"
        ):
            check_test_views(crops, Preprocess(fit=fit, resize=24, size=24), name="net.onnx", native=False)
    with pytest.raises(UsageError, match="--size native, which keeps images whole"):
        check_test_views(crops, PREPROCESS, name="net.onnx", native=True)
    with caplog.at_level("INFO", logger="cnnkit"):
        check_test_views(crops, PREPROCESS, name="net.onnx", native=False)
        assert not caplog.messages
        check_test_views(crops, Preprocess(resize=24, size=24), name="net.onnx", native=False)
    assert caplog.messages == [
        "net.onnx resizes to the 24 pixels of its crop, so all crops of a square image are the same"
    ]
    assert parse_test_views() is None
