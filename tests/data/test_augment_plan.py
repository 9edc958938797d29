"""Plan of the copies: their folders, their names and their manifest rows."""

import logging

import pytest

from cnnkit.callbacks import SILENT
from cnnkit.choices import Fit
from cnnkit.data import augment, augment_notation, augment_plan
from cnnkit.data.augment import AugmentParams
from cnnkit.data.augment_plan import AugmentPlan
from cnnkit.data.config import AugmentConfig
from cnnkit.data.source import ImageFile
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats.header import Preprocess
from cnnkit.messages import count_images

FLIPS = augment_notation.parse("hflip")


def names(path, file_format="PNG", *, label="cat", plan=None):
    plan = plan or AugmentPlan(augmentation=FLIPS, copies=2)
    image = ImageFile(path, label)
    draws = plan.draws("00")
    made = augment_plan.named(image, file_format, draws, place=augment_plan.placing([image]), plan=plan)
    assert [copy.draw for copy in made if copy.number] == draws
    return [(copy.number, copy.path) for copy in made]


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize(
    ("path", "label", "below"),
    [
        ("photos/cat/1.jpg", "cat", "cat"),
        ("photos/cat/indoors/1.jpg", "cat", "cat/indoors"),
        ("/disk/photos/cat/1.jpg", "cat", "cat"),
        (
            "cat/photos/cat/1.jpg",
            "cat",
            "cat/photos/cat",
        ),  # the first folder of that name, so that no two images collide
        ("litter/7/1.jpg", "cat", "cat/litter/7"),
        ("../.././litter/1.jpg", "cat", "cat/litter"),
        ("1.jpg", "cat", "cat"),
    ],
)
def test_folder_of_a_copy_is_its_label_and_subfolders(path, label, below):
    """Independent of the other images, for lists and for iterators."""
    image = ImageFile(path, label)
    for others in ([image], [image, ImageFile("elsewhere/2.jpg", "cat"), ImageFile("3.jpg")], iter([image])):
        assert augment_plan.placing(others)(image) == below


def test_folder_without_label_is_relative_to_the_common_folder():
    """Labelled images do not count; for an iterator the common folder is unknown, and the folder stays as given."""
    bare = [ImageFile("photos/2024/may/1.jpg"), ImageFile("photos/2024/june/deep/1.jpg")]
    place = augment_plan.placing([*bare, ImageFile("other/cat/1.jpg", "cat")])
    assert [place(image) for image in bare] == ["may", "june/deep"]
    assert augment_plan.placing(bare[:1])(bare[0]) == ""
    assert augment_plan.placing(iter(bare))(bare[0]) == "photos/2024/may"
    assert augment_plan.placing(iter(bare))(ImageFile("../photos/1.jpg")) == "photos"


@pytest.mark.parametrize("label", ["", ".hidden", "..", "cat/dog", "cat\0"])
def test_rejects_labels_that_cannot_be_folders(label):
    """They would be outside of the folder of copies, or hidden in it."""
    with pytest.raises(CnnkitError, match="cannot be the name of a folder; rename it in the manifest"):
        augment_plan.placing([])(ImageFile("photos/1.jpg", label))


# ---------------------------------------------------------------- names


def test_copy_numbers_start_at_one_and_have_equal_length():
    """At least two digits; an image next to the manifest has no folder in its path."""
    assert names("photos/cat/1.jpg", "JPEG") == [(1, "cat/1~01.jpg"), (2, "cat/1~02.jpg")]
    many = names("1.png", label=None, plan=AugmentPlan(augmentation=FLIPS, copies=100))
    assert (len(many), many[0], many[-1]) == (100, (1, "1~001.png"), (100, "1~100.png"))


def test_kept_original_comes_first():
    """Unchanged, under its own name; preprocessed, as copy number 0. The other copies do not change."""
    kept = AugmentPlan(augmentation=FLIPS, copies=1, keep=True)
    assert names("photos/cat/1.gif", "GIF", plan=kept) == [(0, "cat/1.gif"), (1, "cat/1.gif~01.png")]
    square = AugmentPlan(augmentation=FLIPS, copies=1, keep=True, square=Preprocess(fit=Fit.PAD, resize=8, size=8))
    assert names("photos/cat/1.gif", "GIF", plan=square) == [(0, "cat/1.gif~00.png"), (1, "cat/1.gif~01.png")]
    original = augment_plan.named(
        ImageFile("1.png"), "PNG", kept.draws("00"), place=augment_plan.placing([]), plan=kept
    )[0]
    assert original.draw == AugmentParams()


@pytest.mark.parametrize(
    ("name", "content", "stem", "extension", "saved"),
    [
        ("1.jpg", "JPEG", "1", ".jpg", {"format": "JPEG", "quality": 95}),
        ("1.JPEG", "JPEG", "1", ".JPEG", {"format": "JPEG", "quality": 95}),
        ("1.png", "PNG", "1", ".png", {"format": "PNG"}),
        ("1.bmp", "BMP", "1", ".bmp", {"format": "BMP"}),
        ("1.Tif", "TIFF", "1", ".Tif", {"format": "TIFF", "compression": "tiff_deflate"}),
        ("1.webp", "WEBP", "1", ".webp", {"format": "WEBP", "lossless": True}),
        ("1.ppm", "PPM", "1", ".ppm", {"format": "PPM"}),
        ("1.pgm", "PPM", "1.pgm", ".png", {"format": "PNG"}),  # copies are RGB
        ("1.gif", "GIF", "1.gif", ".png", {"format": "PNG"}),
        ("1.avif", "AVIF", "1.avif", ".png", {"format": "PNG"}),
        ("1.png", "JPEG", "1.png", ".png", {"format": "PNG"}),  # the extension is wrong
        ("1", "JPEG", "1", ".png", {"format": "PNG"}),
        ("a.b.c.jpg", "JPEG", "a.b.c", ".jpg", {"format": "JPEG", "quality": 95}),
    ],
)
def test_copies_are_saved_in_the_format_of_their_extension(name, content, stem, extension, saved):
    """The image's own format if it can be written without visible loss, else PNG after the whole name; with the profile."""
    assert augment_plan.stem_and_extension(name, content) == (stem, extension)
    assert augment_plan.saving(name, content) == saved
    assert augment_plan.saving(name, content, profile=b"colours") == {**saved, "icc_profile": b"colours"}


# ---------------------------------------------------------------- manifest rows


def test_copies_have_the_group_of_their_image_or_form_one():
    """Images of one name in two folders are two groups; a kept original is in the group of its copies."""
    plan = AugmentPlan(augmentation=FLIPS, copies=2, keep=True)

    def groups(image):
        made = augment_plan.named(image, "PNG", plan.draws("00"), place=augment_plan.placing([]), plan=plan)
        return [augment_plan.record(copy, FLIPS, source=image.path)["group"] for copy in made]

    assert groups(ImageFile("photos/cat/1.png", "cat", "train", "litter-7")) == ["litter-7"] * 3
    assert groups(ImageFile("photos/cat/1.png", "cat")) == ["cat/1.png"] * 3
    assert groups(ImageFile("photos/cat/indoors/1.png", "cat")) == ["cat/indoors/1.png"] * 3
    assert groups(ImageFile("1.png")) == ["1.png"] * 3


def test_rows_have_exactly_the_drawn_parameters():
    """In the order of the notation's fields, not of its words; `fill` is not a parameter."""
    augmentation = augment_notation.parse("noise 0.02, crop 0.8, vflip, zoom 0.2, shift 0.1, fill wrap")
    drawn = [
        *("shift_x", "shift_y", "zoom_x", "zoom_y", "vflip"),
        *("crop_x", "crop_y", "crop_width", "crop_height", "noise", "noise_seed"),
    ]
    assert augment_plan.numbers(augmentation) == drawn
    assert augment_plan.columns(augmentation) == ["path", "label", "split", "group", "source", "copy", *drawn]
    draw = augment.draw_params(augmentation, seed=0, image="00", copy=1)
    row = augment_plan.record(
        augment_plan.PlannedCopy("cat/1~01.png", ImageFile("1.png", "cat", "train"), 1, draw),
        augmentation,
        source="../1.png",
    )
    assert list(row) == augment_plan.columns(augmentation)
    assert list(row.values())[:6] == ["cat/1~01.png", "cat", "train", "cat/1.png", "../1.png", 1]
    assert [row[name] for name in drawn] == [getattr(draw, name) for name in drawn]
    assert augment_plan.numbers(augment_notation.parse("")) == []


def test_rejects_two_copies_with_one_path(images):
    """Copies of x.gif and of a PNG called x.gif.png: the message names the second image and the path."""
    folder = images(red=2) / "red"
    (folder / "00.png").rename(folder / "x.gif.png")
    (folder / "01.png").rename(folder / "x.gif")  # the format is that of the content, not of the name
    found = [ImageFile(str(folder / name), "red") for name in ("x.gif", "x.gif.png")]
    coming = augment_plan.listed(found, AugmentConfig(augment="hflip", copies=1), callbacks=SILENT)
    assert next(coming)["path"] == "red/x.gif~01.png"
    with pytest.raises(CnnkitError, match=r"x\.gif\.png and another image would both become red/x\.gif~01\.png; "):
        next(coming)


# ---------------------------------------------------------------- validation and test images


def test_rejects_images_of_val_and_test(caplog):
    """A list is checked before the first image is returned; an iterator during the iteration, up to the first such image."""
    mixed = [ImageFile("1.png", split="train"), ImageFile("2.png", split="test"), ImageFile("3.png", split="val")]
    with pytest.raises(UsageError, match=r"^2\.png belongs to test, .* --split train, or add --force$"):
        augment_plan.checked(mixed)
    rest = iter(mixed)
    coming = augment_plan.checked(rest)
    assert next(iter(coming)) is mixed[0]
    with pytest.raises(UsageError, match="belongs to test"):
        next(iter(coming))
    assert next(rest) is mixed[2]
    with caplog.at_level(logging.WARNING):
        assert list(augment_plan.checked(iter([*mixed, mixed[1]]), force=True)) == [*mixed, mixed[1]]
        assert augment_plan.checked(mixed[:1], force=True) == mixed[:1]
    assert caplog.messages == [f"{count_images(3)} of test, val augmented because of --force"]
