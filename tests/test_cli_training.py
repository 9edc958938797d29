"""The words that training commands share: sizes of memory, and a model at the front of the sources."""

from pathlib import Path

import pytest

from cnnkit.cli.training import model_first
from cnnkit.errors import UsageError
from cnnkit.train.config import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("1234", 1234),
        ("2K", 2_048),
        ("500M", 524_288_000),
        ("4G", 4_294_967_296),
        ("1T", 1_099_511_627_776),
        ("4g", 4_294_967_296),
        ("4GiB", 4_294_967_296),
        ("4gib", 4_294_967_296),
        ("500MB", 500_000_000),
        ("2kb", 2_000),
        ("1.5K", 1_536),
        ("0.5M", 524_288),
        ("0.1K", 102),  # 102.4: whole bytes
        ("0G", 0),
        (" 4G\n", 4_294_967_296),
    ],
)
def test_a_size_is_read_as_coreutils_do(text, size):
    """In powers of 1024, of 1000 with a B alone behind the letter; in any case, with decimals, to whole bytes."""
    found = parse_size(text)
    assert found == size
    assert isinstance(found, int)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "G",
        "much",
        "-1",
        "+1",
        "4 G",
        "4P",
        "4GG",
        "4GBs",
        "7B",
        "4iB",
        "5\u212a",
        "9" * 400,
        "1e3",
        ".5G",
        "1.G",
        "1,5G",
        "0x10",
        "nan",
        "inf",
    ],
)
def test_what_is_no_size_is_refused(text):
    """One line with what was said and what to say."""
    with pytest.raises(UsageError) as refused:
        parse_size(text)
    assert str(refused.value) == f'--cache "{text}": give a size in bytes, such as 500M or 4G'


@pytest.mark.parametrize(
    ("words", "unless", "model", "sources"),
    [
        (["m.pt"], None, Path("m.pt"), []),
        (["deep/m.pt", "photos", "-"], None, Path("deep/m.pt"), ["photos", "-"]),
        (["m.pt", "other.pt"], None, Path("m.pt"), ["other.pt"]),
        (["photos", "split.tsv"], "vgg16", None, ["photos", "split.tsv"]),
        (["photos", "m.pt"], "vgg16", None, ["photos", "m.pt"]),
        ([], "vgg16", None, []),
        (None, "vgg16", None, []),
    ],
)
def test_a_model_is_the_first_word_unless_something_stands_in_its_place(words, unless, model, sources):
    """The rest are sources, whose list is a new one."""
    said = None if words is None else list(words)
    found = model_first(said, unless=unless)
    assert found == (model, sources)
    assert found[1] is not said
    assert said == words


@pytest.mark.parametrize(
    ("words", "unless", "message"),
    [
        (None, None, "no model given: begin with MODEL.pt, or start from --backbone NAME"),
        ([], None, "no model given: begin with MODEL.pt, or start from --backbone NAME"),
        (["photos", "m.pt"], None, "photos is no model: begin with MODEL.pt, or start from --backbone NAME"),
        (["w.pth", "photos"], None, "w.pth is weights alone; start with --backbone NAME --weights w.pth"),
        (["m.pt", "photos"], "vgg16", "start either from m.pt or from --backbone vgg16"),
    ],
)
def test_a_start_is_one_thing_and_no_other(words, unless, message):
    """One line that names the word and the way out."""
    with pytest.raises(UsageError) as refused:
        model_first(words, unless=unless)
    assert str(refused.value) == message
