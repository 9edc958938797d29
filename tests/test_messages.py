"""Proposals and what is shown of a file."""

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
        ("cat", ["cat ", "car", "dog"], []),  # the same word, and one that happens to share two letters
        ("cat", ["cat"], []),
        ("cafe\u0301", ["caf\u00e9"], []),  # the same word in another form of Unicode
        ("tench", ["hen", "crane"], []),
        ("10", ["1", "100", "11"], []),
        ("", ["cat"], []),
        ("x", ["xx", "y"], []),
        ("resnet51", ["resnet50", "resnet101", "vgg16"], ["resnet50", "resnet101"]),
    ],
)
def test_only_what_may_have_been_meant_is_proposed(word, known, proposed):
    """Never the same word, never an unrelated one."""
    assert messages.similar(word, known) == proposed
    assert messages.proposal(word, known, foreign={}) == (f'; did you mean "{proposed[0]}"?' if proposed else "")
    assert messages.nearest(word, known) == (f"did you mean {' or '.join(proposed)}?" if proposed else "")


def test_other_libraries_words_are_known():
    """Whatever they look like."""
    assert messages.proposal("fc", ["dense"], foreign={"fc": "dense"}) == '; did you mean "dense"?'


def test_what_a_file_contains_is_shown_on_one_line():
    """Control characters and bytes that are no text are escaped, and the end of what is long is left out."""
    assert messages.printable("a\tb\nc\x1b[2J") == r"a\tb\nc\x1b[2J"
    assert messages.printable("k\udce4tzchen Ünï") == r"k\xe4tzchen Ünï"
    assert messages.printable("\u202efdp\u2028\x9b") == r"\u202efdp\u2028\x9b"
    assert messages.printable("👩\u200d🔬 a\u00a0b") == "👩\u200d🔬 a\u00a0b"  # letters of labels, as tables show them
    assert messages.excerpt("x" * 100, 10) == "xxxxxxx..."


def test_no_hidden_and_no_unrelated_option_is_proposed(run):
    """The options of a command that moved away are no proposal, nor is one that happens to share letters."""
    refused = run("cnn-filters", "--octave", "3", status=2).err
    assert refused == "cnn-filters: no such option: --octave; see cnn-filters --help\n"
    assert "(Possible options: --hold-out)" not in run("cnn-train-head", "--dropout", "0.5", status=2).err
    assert "(Possible options: --smoothing)" in run("cnn-train-head", "--smoothin", "0.5", status=2).err


@pytest.mark.parametrize("name", ["a.tsv", "my list.tsv", "it's; rm -r x", "-n", "$HOME"])
def test_a_name_in_a_shell_line_is_one_word(name):
    """What a message proposes can be typed, whatever the file is called."""
    words = shlex.split(f"cat {messages.shell_word(name)}")
    assert [os.path.normpath(word) for word in words] == ["cat", name]
    assert not words[1].startswith("-")
    assert messages.shell_word("standard input") == "FILE"
