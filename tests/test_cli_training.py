"""Arguments that training commands share: sizes of memory, and a model before the sources."""

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
def test_sizes_are_parsed_as_in_coreutils(text, size):
    """Powers of 1024, or of 1000 if only a B follows the letter; in upper or lower case, with decimals, in whole bytes."""
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
def test_rejects_invalid_sizes(text):
    """The message has the text and a valid example."""
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
def test_the_model_is_the_first_argument_without_a_backbone(words, unless, model, sources):
    """The other arguments are sources, returned as a new list."""
    given = None if words is None else list(words)
    found = model_first(given, unless=unless)
    assert found == (model, sources)
    assert found[1] is not given
    assert given == words


@pytest.mark.parametrize(
    ("words", "unless", "message"),
    [
        (None, None, "no model; give MODEL.pt first, or --backbone NAME"),
        ([], None, "no model; give MODEL.pt first, or --backbone NAME"),
        (["photos", "m.pt"], None, "photos: not a model; give MODEL.pt first, or --backbone NAME"),
        (["w.pth", "photos"], None, "w.pth has weights only; use --backbone NAME --weights w.pth"),
        (["m.pt", "photos"], "vgg16", "both m.pt and --backbone vgg16 are given; start from one of them"),
    ],
)
def test_rejects_no_model_and_two_starts(words, unless, message):
    """The message names the argument and the remedy."""
    with pytest.raises(UsageError) as refused:
        model_first(words, unless=unless)
    assert str(refused.value) == message
