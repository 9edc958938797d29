"""Normal forms of class names, and names that are easily confused."""

import unicodedata

import pytest

from cnnkit import class_names


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("photos/oak/a/1.jpg", "oak"),
        ("oak/elm/1.jpg", "elm"),
        ("a/../oak/1.jpg", "oak"),
        ("a/1.jpg", None),
        ("1.jpg", None),
    ],
)
def test_class_folder_is_the_nearest(path, found):
    """Of the folders in the path; the name of the image is not one."""
    assert class_names.class_folder(path, {"oak", "elm", "1.jpg"}) == found


NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("cat", "cat"),
        ("cat ", "cat"),
        ("\u00a0cat\t", "cat"),
        ("\ufeffcat\u200b ", "cat"),
        ("black cat", "black cat"),
        (NFD, NFC),
        (f" {NFD} ", NFC),
        ("Cat", "Cat"),
        ("ﬁg", "ﬁg"),
        ("  ", ""),
        ("caf\udce9", "caf\udce9"),
    ],
)
def test_normal_form(written, normal):
    """NFC without spaces around it; case, compatibility characters and bytes that are not UTF-8 are kept."""
    assert class_names.normal(written) == normal
    assert class_names.normal(class_names.normal(written)) == normal


def test_blank_label_is_none():
    """Like an empty one."""
    assert [class_names.normal_or_none(each) for each in (None, "", " \t", " a")] == [None, None, None, "a"]


def test_similar_names():
    """By case, compatibility forms and spaces; similar letters of different alphabets are different."""
    names = ["Cat", "cat", "CAT", "ﬁg", "fig", "red  fox", "red fox", "straße", "STRASSE", "dog", "dogs", "А", "A"]
    assert class_names.alike(names) == [
        ["CAT", "Cat", "cat"],
        ["STRASSE", "straße"],
        ["fig", "ﬁg"],
        ["red  fox", "red fox"],
    ]
    assert class_names.alike(["01", "1", "1.0", "10", "0", "00", "100", "a1", "a01", "1.5"]) == [
        ["0", "00"],
        ["01", "1", "1.0"],
    ]


def test_notice_about_missing_labels():
    """As written by other programs; a class may be called none."""
    lines = list(class_names.about_missing(["cat", "nan", "none", "nancy"]))
    assert lines == ['"nan" is read as a class name; if the label is missing, leave the field empty']


def test_notices_about_forms():
    """NFD is marked, because it looks the same."""
    lines = list(class_names.about_forms({NFC: {NFC, NFD}, "new": {"new "}, "Cat": {"Cat"}, "cat": {"cat"}}))
    assert lines == [
        f'class {NFC} has 2 spellings: "{NFD}" (NFD), "{NFC}"',
        'spaces around class names are ignored, as in "new "',
        'class names that differ only in case, Unicode form or zeros: "Cat", "cat"; if they are the same class, use one name',
    ]
    assert list(class_names.about_forms({NFC: {NFD}, "cat": {"cat"}})) == []
