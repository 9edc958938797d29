"""Columns of side information: their sources, and their encoding against the scaler and encoder of scikit-learn."""

import logging
import os

import numpy as np
import pytest
from PIL import Image
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from cnnkit.choices import ColumnKind
from cnnkit.data import image_columns, source
from cnnkit.data.column_names import parse_kinds, parse_names
from cnnkit.data.image_columns import ColumnCodes, Columns
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import tsv


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two images, 40 x 30 and 20 x 50, the second rotated by EXIF; and a manifest of them in another folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    (tmp_path / "lists").mkdir()
    Image.new("RGB", (40, 30)).save("p/a.jpg")
    lying = Image.Exif()
    lying[0x0112] = 6
    Image.new("RGB", (50, 20)).save("p/b.jpg", exif=lying)
    rows = [("../p/b.jpg", "2", "Nikon", "700"), ("../p/a.jpg", "1", "", "3")]
    (tmp_path / "lists" / "m.tsv").write_bytes(tsv.render(["path", "boat", "camera", "width"], rows))
    return tmp_path


def test_measures_of_the_images(here):
    """Upright sides, and the file size; a view has those of its image."""
    found = Columns(("width", "height", "aspect", "bytes"), None).of(["p/a.jpg", "p/b.jpg", "p/a.jpg"])
    sizes = [os.path.getsize(f"p/{name}.jpg") for name in "aba"]
    assert found == [[40, 20, 40], [30, 50, 30], [40 / 30, 20 / 50, 40 / 30], sizes]


def test_columns_of_a_manifest(here):
    """Rows are found by real path; a column of the manifest has precedence over a measure of that name."""
    (here / "linked").symlink_to("p")
    found = Columns(("camera", "boat", "width", "height"), "lists/m.tsv").of(["linked/a.jpg", "p/b.jpg"])
    assert found == [["", "Nikon"], ["1", "2"], ["3", "700"], [30, 50]]


def test_columns_of_crops(here):
    """A crop has its own row; without one that of its file, or what the crops of its file have in common."""
    rows = [
        ("../p/a.jpg", "1,2,10,20", "1", "Canon"),
        ("../p/a.jpg", "[5.0, 6, 10, 20]", "2", "Canon"),
        ("../p/b.jpg", "", "3", "Nikon"),
    ]
    (here / "lists" / "m.tsv").write_bytes(tsv.render(["path", "box", "boat", "camera"], rows))
    (here / "linked").symlink_to("p")
    crops = ["linked/a.jpg#xywh=1,2,10,20", "p/a.jpg#xywh=5,6,10,20"]
    assert Columns(("boat", "width"), "lists/m.tsv").of(crops) == [["1", "2"], [10, 10]]
    others = ["p/a.jpg#xywh=0,1,12,22", "p/a.jpg", "p/b.jpg#xywh=0,0,5,5"]
    assert Columns(("camera",), "lists/m.tsv").of(others) == [["Canon", "Canon", "Nikon"]]
    with source.widening(0.1):
        assert Columns(("boat",), "lists/m.tsv").of(["p/a.jpg#xywh=-1,0,14,24"]) == [["1"]]
    message = r"xywh=0,1,12,22 is not in lists/m\.tsv, and the rows of other crops of this file differ; add a row"
    with pytest.raises(CnnkitError, match=message):
        Columns(("boat",), "lists/m.tsv").of(others)


@pytest.mark.parametrize(
    ("names", "manifest", "message"),
    [
        ("wdth", None, r"--with wdth: no such column; there are width, height, aspect, bytes; columns of a manifest come with --c"),
        ("boot", "lists/m.tsv", r"--with boot: no such column; there are width, height, aspect, bytes, boat, camera, width$"),
        ("label", "lists/m.tsv", r"--with label: the label is the target"),
        ("width,", None, r'--with "width,": give names separated by commas'),
        ("boat,boat", "lists/m.tsv", "a name is repeated"),
        ("aspect,bytes", "lists/m.tsv", r"--columns lists/m\.tsv: --with aspect,bytes names none of its columns; drop --columns$"),
    ],
)  # fmt: skip
def test_rejects_unknown_columns(here, names, manifest, message):
    """The message lists the known columns."""
    with pytest.raises(UsageError, match=message):
        Columns(parse_names(names), manifest)


def test_missing_images_are_named(here):
    """Missing in the manifest, on the disk, or not an image."""
    (here / "p" / "text.jpg").write_text("no image")
    (here / "p" / "c.jpg").write_bytes((here / "p" / "a.jpg").read_bytes())
    with pytest.raises(CnnkitError, match=r"^p/c\.jpg is not in lists/m\.tsv; --columns needs a manifest of all"):
        Columns(("boat",), "lists/m.tsv").of(["p/a.jpg", "p/c.jpg"])
    with pytest.raises(CnnkitError, match=r"^p/gone\.jpg: .*; --with width, bytes reads the images$"):
        Columns(("width", "bytes"), None).of(["p/gone.jpg"])
    with pytest.raises(CnnkitError, match=r"^p/gone\.jpg: No such file or directory; --with bytes reads"):
        Columns(("bytes",), None).of(["p/gone.jpg"])
    with pytest.raises(CnnkitError, match=r"^p/text\.jpg: .*; --with aspect reads"):
        Columns(("aspect",), None).of(["p/text.jpg"])


def test_numbers_are_standardised_as_in_scikit_learn():
    """By mean and standard deviation of the training rows; integers, decimals and exponents."""
    train, other = ["3", "4.5", "-1e1", " 7"], ["100", "3"]
    scaler = StandardScaler().fit([[float(each)] for each in train])
    column = image_columns.fit("x", train, others=other)
    for values in (train, other):
        expected = scaler.transform([[float(each)] for each in values])
        np.testing.assert_allclose(image_columns.encoded(column, values), expected, rtol=1e-6)


@pytest.mark.parametrize("train", [["b", "a", "b", ""], ["1", "nan", "2", "2"], ["1", "2", "2", "3"]])
def test_words_are_one_hot_as_in_scikit_learn(train):
    """Also if a single value, in either set, is not a number; a word that was not in training is all zeros."""
    other = ["b", "never seen", train[0]]
    encoder = OneHotEncoder(sparse_output=False, handle_unknown="ignore").fit([[each] for each in train])
    column = image_columns.fit("x", train, others=other)
    for values in (train, other):
        np.testing.assert_array_equal(
            image_columns.encoded(column, values), encoder.transform([[each] for each in values])
        )


@pytest.mark.parametrize(
    ("train", "other"),
    [([7.0, 7.0], [7.0, 9.0]), (["a", "a"], ["a", "b"]), (["5"], ["6"]), ([1e-40, 2e-40], [1.0, 2.0])],
)
def test_constant_column_is_zeros_with_a_warning(train, other, caplog):
    """In both sets."""
    with caplog.at_level(logging.WARNING):
        column = image_columns.fit("boat", train, others=other)
    assert caplog.messages == ["--with boat: the same for all training images; it has no effect"]
    assert not image_columns.encoded(column, train).any()
    assert not image_columns.encoded(column, other).any()


def test_rejects_columns_with_too_many_words():
    """A hundred are allowed, one more is not."""
    words = [f"w{number:03d}" for number in range(101)]
    assert image_columns.encoded(image_columns.fit("x", words[1:]), words).shape == (101, 100)
    with pytest.raises(
        UsageError, match=r"^--with x: 101 different values, such as w000; a categorical column has at most 100$"
    ):
        image_columns.fit("x", words)


def test_kinds_are_given_or_follow_from_the_training_values():
    """Numbers are numbers unless the option gives a category, as the sizes of images in the notes."""
    assert parse_kinds("width, camera:category,a:b,size:number") == {
        "width": None, "camera": ColumnKind.CATEGORY, "a:b": None, "size": ColumnKind.NUMBER,
    }  # fmt: skip
    assert image_columns.fit("w", ["3", "4"]).kind is ColumnKind.NUMBER
    column = image_columns.fit("w", [640, 320, 640], kind=ColumnKind.CATEGORY)
    assert column.categories == ("320", "640")
    with pytest.raises(UsageError, match=r'^--use w:number: "big" is not a number; give w:category$'):
        image_columns.fit("w", ["3", "big"], kind=ColumnKind.NUMBER, option="--use")
    for text in ("w,w:number", "w,,h", "label:category"):
        with pytest.raises(UsageError, match="--use"):
            parse_kinds(text)


def test_codes_are_numbers_and_places_of_categories(caplog):
    """A category that was not in the training set has a code of its own, and is counted in one notice."""
    columns = [image_columns.fit("w", [1, 2]), image_columns.fit("camera", ["b", "a", ""])]
    codes = ColumnCodes(columns)
    found = [codes(row, path="x.jpg").tolist() for row in (["7.5", "a"], [2, ""], ["1", "new"], ["1", "newer"])]
    assert found == [[7.5, 1], [2, 0], [1, -1], [1, -1]]
    with caplog.at_level(logging.INFO):
        codes.report()
        codes.report()
    assert caplog.messages == [
        'column camera: 2 values of 2 images, such as "new", are not in the training set: encoded as zeros'
    ]
    for value, shown in (("", "empty"), ("wide", '"wide"'), ("1e39", '"1e39"'), ("nan", '"nan"')):
        with pytest.raises(CnnkitError, match=f"^x.jpg: column w is {shown}, and was a number for all training images"):
            codes([value, "a"], path="x.jpg")


def test_tables_that_list_the_images_may_have_the_columns(here):
    """Several tables, none of which needs the columns; an image that none of them lists is an error."""
    (here / "p" / "c.jpg").write_bytes((here / "p" / "a.jpg").read_bytes())
    (here / "more.tsv").write_bytes(tsv.render(["path", "boat"], [("p/c.jpg", "9")]))
    columns = Columns(("boat", "height"), None, own=["lists/m.tsv", "more.tsv"], option="--use")
    assert columns.of(["p/c.jpg", "p/b.jpg"]) == [["9", "2"], [30, 50]]
    assert columns.measured == ("height",)
    with pytest.raises(
        UsageError, match=r"^--use deck: no such column; .*; columns of a manifest come with --columns FILE"
    ):
        Columns(("deck",), None, own=["more.tsv"], option="--use")
    with pytest.raises(CnnkitError, match=r"^p/d\.jpg is not in lists/m\.tsv, more\.tsv"):
        columns.row("p/d.jpg")


def test_rows_of_crops_are_found_by_their_boxes(here):
    """With a margin, too; a crop without a row has what its file or all boxes of it have, under any name."""
    rows = [
        ("../p/a.jpg", "1,2,8,4", "left"),
        ("../p/a.jpg", "9,2.0,8,4", "right"),
        ("../p/b", "1,2,8,4", "boat"),
        ("../p/b", "3,2,8,4", "boat"),
        ("../p/c.jpg", "", "whole"),
        ("../p/c.jpg", "1,2,8,4", "part"),
    ]
    (here / "lists" / "crops.tsv").write_bytes(tsv.render(["path", "box", "side"], rows))
    (here / "p" / "link.jpg").symlink_to("a.jpg")
    columns = Columns(("side",), "lists/crops.tsv")
    paths = ["p/link.jpg#xywh=1,2,8,4", "p/a.jpg#xywh=9,2,8,4", "p/b.jpg#xywh=5,5,5,5", "p/b.jpg"]
    assert columns.of([*paths, "p/c.jpg", "p/c.jpg#xywh=1,2,8,4", "p/c.jpg#xywh=1,2,8,5"]) == [
        ["left", "right", "boat", "boat", "whole", "part", "whole"]
    ]
    for path in ("p/a.jpg", "p/a.jpg#xywh=2,2,8,4"):
        with pytest.raises(CnnkitError, match=r"is not in lists/crops\.tsv"):
            columns.of([path])
    with source.widening(0.5):
        assert Columns(("side",), "lists/crops.tsv").of(["p/a.jpg#xywh=-3,-2,16,12"]) == [["left"]]
    (here / "lists" / "crops.tsv").write_bytes(tsv.render(["path", "box", "side"], [("../p/a.jpg", "left", "")]))
    with pytest.raises(FormatError, match=r'^lists/crops.tsv: ../p/a.jpg: box "left" is not x,y,width,height'):
        Columns(("side",), "lists/crops.tsv")
