"""One form for each name of a class, and names that a person could take for one another."""

import unicodedata

import pytest

from cnnkit import class_names

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
def test_a_name_has_one_form(written, normal):
    """NFC without blanks around it; case and compatibility characters stay, and so do bytes that are not UTF-8."""
    assert class_names.normal(written) == normal
    assert class_names.normal(class_names.normal(written)) == normal


def test_a_label_of_blanks_is_none():
    """As an empty one is."""
    assert [class_names.normal_or_none(each) for each in (None, "", " \t", " a")] == [None, None, None, "a"]


def test_names_that_look_alike():
    """Case, compatibility forms and runs of blanks; letters that merely resemble each other are others."""
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


def test_names_that_stand_for_a_missing_label_are_told():
    """As programs write them; a class may be called none."""
    lines = list(class_names.about_missing(["cat", "nan", "none", "nancy"]))
    assert lines == ['"nan" is taken for the name of a class; where the label is missing, leave the field empty']


def test_notices_tell_the_forms_apart():
    """NFD is marked, since it looks the same."""
    lines = list(class_names.about_forms({NFC: {NFC, NFD}, "new": {"new "}, "Cat": {"Cat"}, "cat": {"cat"}}))
    assert lines == [
        f'one class, {NFC}, is written in 2 ways: "{NFD}" (NFD), "{NFC}"',
        'blanks around class names are left out, as of "new "',
        'classes that differ in case or form alone: "Cat", "cat"; if they are one, give them one name',
    ]
    assert list(class_names.about_forms({NFC: {NFD}, "cat": {"cat"}})) == []
