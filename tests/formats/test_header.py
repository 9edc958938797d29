"""The Header that every artefact carries."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnkit import __version__
from cnnkit.errors import FormatError
from cnnkit.formats.header import (
    VERSION,
    ArtefactKind,
    Backbone,
    Fit,
    Header,
    Interpolation,
    Pool,
    Preprocess,
    difference,
    made_by,
)

FLOATS = st.floats(0, 1)
COLOURS = st.tuples(FLOATS, FLOATS, FLOATS)
DEVIATIONS = st.tuples(*[st.floats(1e-6, 1)] * 3)
TEXT = st.text(min_size=1, max_size=10)
DIGESTS = st.text("0123456789abcdef", min_size=1, max_size=64)
HEADERS = st.builds(
    Header,
    kind=st.sampled_from(ArtefactKind),
    classes=st.none() | st.lists(TEXT, min_size=1, max_size=4, unique=True).map(tuple),
    preprocess=st.none()
    | st.builds(
        Preprocess,
        fit=st.sampled_from(Fit),
        resize=st.integers(1, 999),
        size=st.integers(1, 999),
        interpolation=st.sampled_from(Interpolation),
        mean=COLOURS,
        std=DEVIATIONS,
        grey=st.booleans(),
    ),
    backbone=st.none()
    | st.builds(
        Backbone, TEXT, TEXT, st.sampled_from(Pool), weights_sha256=st.none() | DIGESTS, notation=st.none() | TEXT
    ),
    head=st.none() | TEXT,
    training=st.dictionaries(TEXT, FLOATS | TEXT | st.integers() | st.booleans(), max_size=3),
    made_by=st.dictionaries(TEXT, TEXT, max_size=3),
)
WHOLE = Header(
    kind=ArtefactKind.FEATURES,
    classes=("cat", "Hündin"),
    preprocess=Preprocess(),
    backbone=Backbone("mobilenet_v2", "features.18", Pool.AVG, weights_sha256="ab12"),
    head="dense 256 relu, dropout 0.5",
)
PREPROCESS = json.loads(WHOLE.to_json())["preprocess"]


def read(text, kind=None):
    return Header.from_json(text, name="train.json", kind=kind)


def test_files_without_grey_are_as_they_were():
    """Only a file of grey images says so: others have the bytes that they had before there was grey, and read as colour."""
    assert "grey" not in PREPROCESS
    assert read(WHOLE.to_json()).preprocess == Preprocess()
    grey = WHOLE.but(preprocess=Preprocess(grey=True))
    assert json.loads(grey.to_json())["preprocess"] == {**PREPROCESS, "grey": True}
    assert read(grey.to_json()).preprocess.channels == 1
    assert difference(WHOLE, grey) == ("grey", False, True)


def test_the_default_temperature_is_1():
    """A network says by how much its logits are divided already."""
    assert WHOLE.temperature == 1
    assert read(WHOLE.but(training={"temperature": 2.5}).to_json()).temperature == 2.5


@given(HEADERS)
def test_a_header_comes_back(header):
    """What is written is what is read, for every kind and with anything missing; floats to the last bit."""
    assert read(header.to_json()) == header


def test_the_text_is_always_the_same():
    """One line, in the order of the fields, without anything of the moment."""
    assert WHOLE.to_json() == WHOLE.but().to_json()
    assert "\n" not in WHOLE.to_json()
    assert list(json.loads(WHOLE.to_json()))[:4] == ["cnnkit", "kind", "classes", "preprocess"]
    assert json.loads(WHOLE.to_json())["cnnkit"] == VERSION == 1


def test_it_is_plain_json_for_others():
    """Another program finds what the design names, under those names."""
    raw = json.loads(WHOLE.to_json())
    assert (raw["kind"], raw["classes"]) == ("features", ["cat", "Hündin"])
    assert raw["preprocess"]["fit"] == "crop"
    assert raw["preprocess"]["mean"] == [0.485, 0.456, 0.406]
    assert raw["backbone"] | {"notation": None} == {
        "name": "mobilenet_v2",
        "layer": "features.18",
        "pool": "avg",
        "weights_sha256": "ab12",
        "notation": None,
    }


def test_fields_that_a_later_cnnkit_adds_are_passed_over():
    """The same version may grow: what is not known does no harm."""
    raw = json.loads(WHOLE.to_json())
    raw["mood"] = "good"
    raw["preprocess"]["gamma"] = 2.2
    raw["backbone"]["licence"] = "MIT"
    assert read(json.dumps(raw)) == WHOLE


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"cnnkit"', "{}", '{"kind": "features"}', "[1, 2]"])
def test_what_carries_no_header(text):
    """Any other text, JSON or not, is told from a header, with the command that makes one."""
    with pytest.raises(FormatError, match=r"train.json: no cnnkit header in it; make one with cnn-extract"):
        read(text, ArtefactKind.FEATURES)
    with pytest.raises(FormatError, match="was it made by cnnkit"):
        read(text)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version(version):
    """The message says which was found and which is read."""
    raw = json.loads(WHOLE.to_json()) | {"cnnkit": version}
    with pytest.raises(FormatError, match=rf"train.json: header version {version}, this cnnkit reads version 1"):
        read(json.dumps(raw))


@pytest.mark.parametrize(
    ("kind", "command"),
    [(ArtefactKind.MODEL, "cnn-train-head"), (ArtefactKind.ONNX, "cnn-export"), (ArtefactKind.FEATURES, "cnn-extract")],
)
def test_another_kind(kind, command):
    """The message names both kinds and the command that makes the right one."""
    other = ArtefactKind.MODEL if kind is not ArtefactKind.MODEL else ArtefactKind.ONNX
    with pytest.raises(FormatError, match=f"train.json: found {other}, expected {kind}; make one with {command}"):
        read(WHOLE.but(kind=other).to_json(), kind)
    assert read(WHOLE.but(kind=kind).to_json(), kind).kind is kind


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "sculpture"},
        {"classes": 7},
        {"classes": "cat"},
        {"classes": ["cat", 7]},
        {"preprocess": {"fit": "stretch"}},
        {"preprocess": {}},
        {"preprocess": PREPROCESS | {"size": "224"}},
        {"preprocess": PREPROCESS | {"resize": 0}},
        {"preprocess": PREPROCESS | {"mean": [0.5]}},
        {"preprocess": PREPROCESS | {"std": ["a", "b", "c"]}},
        {"preprocess": "crop"},
        {"backbone": {"name": "vgg16"}},
        {"backbone": ["vgg16"]},
    ],
)
def test_a_broken_header(change):
    """Wrong fields are an error that names the file, never a traceback, and never passed over."""
    raw = json.loads(WHOLE.to_json()) | change
    with pytest.raises(FormatError, match=r"train.json: broken cnnkit header"):
        read(json.dumps(raw))


def test_versions_that_took_part():
    """Those that are installed, under their plain names; always our own."""
    assert made_by() == {"cnnkit": __version__}
    versions = made_by("torch", "no-such-distribution", "onnxruntime-gpu")
    assert set(versions) <= {"cnnkit", "torch", "onnxruntime"}
    assert versions["torch"].startswith("2.")
