"""Suggestions, and text from files in messages."""

import os
import shlex

import pytest

from cnnkit import messages


@pytest.mark.parametrize(
    ("word", "known", "proposed"),
    [
        ("cta", ["cat", "dog"], ["cat"]),
        ("Cat", ["cat", "dog"], ["cat"]),
        ("sunflowr", ["daisy", "sunflower"], ["sunflower"]),
        ("sun", ["daisy", "sunflower"], ["sunflower"]),
        ("infero", ["inferno", "winter", "inferno_r"], ["inferno", "inferno_r"]),
        ("cat", ["cat ", "car", "dog"], []),  # the same word, and one with two equal letters
        ("cat", ["cat"], []),
        ("cafe\u0301", ["caf\u00e9"], []),  # the same word in another Unicode form
        ("tench", ["hen", "crane"], []),
        ("10", ["1", "100", "11"], []),
        ("", ["cat"], []),
        ("x", ["xx", "y"], []),
        ("resnet51", ["resnet50", "resnet101", "vgg16"], ["resnet50", "resnet101"]),
    ],
)
def test_suggestions_are_similar_words(word, known, proposed):
    """Never the same word or an unrelated one."""
    assert messages.similar(word, known) == proposed
    assert messages.proposal(word, known, foreign={}) == (f'; did you mean "{proposed[0]}"?' if proposed else "")
    assert messages.nearest(word, known) == (f"did you mean {' or '.join(proposed)}?" if proposed else "")


def test_words_of_other_libraries_are_known():
    """Even if they are not similar."""
    assert messages.proposal("fc", ["dense"], foreign={"fc": "dense"}) == '; did you mean "dense"?'


def test_text_from_files_is_escaped_and_shortened():
    """Control characters and bytes that are not UTF-8 are escaped."""
    assert messages.printable("a\tb\nc\x1b[2J") == r"a\tb\nc\x1b[2J"
    assert messages.printable("k\udce4tzchen Ünï") == r"k\xe4tzchen Ünï"
    assert messages.printable("\u202efdp\u2028\x9b") == r"\u202efdp\u2028\x9b"
    assert messages.printable("👩\u200d🔬 a\u00a0b") == "👩\u200d🔬 a\u00a0b"  # allowed in labels, and kept in tables
    assert messages.excerpt("x" * 100, 10) == "xxxxxxx..."


def test_hidden_and_unrelated_options_are_not_suggested(run):
    """Nor is an option that has a few letters in common."""
    refused = run("cnn-filters", "--octave", "3", status=2).err
    assert refused == "cnn-filters: no such option: --octave; see cnn-filters --help\n"
    assert "(Possible options: --hold-out)" not in run("cnn-train-head", "--dropout", "0.5", status=2).err
    assert "(Possible options: --smoothing)" in run("cnn-train-head", "--smoothin", "0.5", status=2).err


@pytest.mark.parametrize("name", ["a.tsv", "my list.tsv", "it's; rm -r x", "-n", "$HOME"])
def test_shell_word(name):
    """A command in a message can be copied, with any file name."""
    words = shlex.split(f"cat {messages.shell_word(name)}")
    assert [os.path.normpath(word) for word in words] == ["cat", name]
    assert not words[1].startswith("-")
    assert messages.shell_word("standard input") == "FILE"
