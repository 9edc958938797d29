"""The Header in every artefact."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnkit import __version__
from cnnkit.choices import ColumnKind, Decoding, SetMethod, Whiten
from cnnkit.errors import FormatError
from cnnkit.formats.header import (
    VERSION,
    ArtefactKind,
    Backbone,
    Fit,
    Header,
    InputColumn,
    Interpolation,
    Pool,
    PredictionSets,
    Preprocess,
    difference,
    made_by,
)

FLOATS = st.floats(0, 1)
COLOURS = st.tuples(FLOATS, FLOATS, FLOATS)
DEVIATIONS = st.tuples(*[st.floats(1e-6, 1)] * 3)
TEXT = st.text(min_size=1, max_size=10)
NOTATIONS = TEXT.filter(lambda text: text.strip() and not text.strip().startswith("@"))
DIGESTS = st.text("0123456789abcdef", min_size=1, max_size=64)
VALUES = st.floats(-1e38, 1e38)
COLUMNS = st.builds(
    InputColumn, TEXT, st.just(ColumnKind.NUMBER), mean=VALUES, std=st.just(0.0) | st.floats(1e-30, 1e38)
) | st.builds(
    InputColumn,
    TEXT,
    st.just(ColumnKind.CATEGORY),
    categories=st.lists(st.text(max_size=3), min_size=1, max_size=3, unique=True).map(tuple),
)
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
        Backbone,
        TEXT,
        TEXT,
        st.sampled_from(Pool),
        weights_sha256=st.none() | DIGESTS,
        notation=st.none() | NOTATIONS,
        whiten=st.none() | st.sampled_from(Whiten),
    ),
    head=st.none() | NOTATIONS,
    training=st.dictionaries(TEXT, FLOATS | TEXT | st.integers() | st.booleans(), max_size=3),
    made_by=st.dictionaries(TEXT, TEXT, max_size=3),
    columns=st.none() | st.lists(COLUMNS, min_size=1, max_size=2).map(tuple),
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


def test_sets_are_written_only_if_there_are_any():
    """So that files without them are byte-identical to those of earlier versions."""
    assert "sets" not in json.loads(WHOLE.to_json())
    sets = PredictionSets(SetMethod.APS, 0.9, 0.75, 19)
    assert json.loads(WHOLE.but(sets=sets).to_json())["sets"] == {
        "method": "aps",
        "coverage": 0.9,
        "quantile": 0.75,
        "n": 19,
    }
    assert read(WHOLE.but(sets=sets).to_json()) == WHOLE.but(sets=sets)


def test_grey_is_written_only_if_true():
    """So that files of colour images are byte-identical to those of earlier versions."""
    assert "grey" not in PREPROCESS
    assert read(WHOLE.to_json()).preprocess == Preprocess()
    grey = WHOLE.but(preprocess=Preprocess(grey=True))
    assert json.loads(grey.to_json())["preprocess"] == {**PREPROCESS, "grey": True}
    assert read(grey.to_json()).preprocess.channels == 1
    assert difference(WHOLE, grey) == ("grey", False, True)


def test_default_temperature_is_1():
    """The Header records by how much the logits are already divided."""
    assert WHOLE.temperature == 1
    assert read(WHOLE.but(training={"temperature": 2.5}).to_json()).temperature == 2.5


@given(HEADERS)
def test_round_trip(header):
    """For every kind and with any field missing; floats to the last bit."""
    assert read(header.to_json()) == header


def test_text_is_deterministic():
    """One line, in the order of the fields, without a date."""
    assert WHOLE.to_json() == WHOLE.but().to_json()
    assert "\n" not in WHOLE.to_json()
    assert list(json.loads(WHOLE.to_json()))[:4] == ["cnnkit", "kind", "classes", "preprocess"]
    assert json.loads(WHOLE.to_json())["cnnkit"] == VERSION == 1


def test_plain_json_for_other_programs():
    """With the documented names."""
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


def test_unknown_fields_are_ignored():
    """A later cnnkit may add fields in the same version."""
    raw = json.loads(WHOLE.to_json())
    raw["mood"] = "good"
    raw["preprocess"]["gamma"] = 2.2
    raw["backbone"]["licence"] = "MIT"
    assert read(json.dumps(raw)) == WHOLE


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"cnnkit"', "{}", '{"kind": "features"}', "[1, 2]"])
def test_rejects_other_text(text):
    """JSON or not, with the command that makes a header."""
    with pytest.raises(FormatError, match=r"train.json: no cnnkit header in it; make one with cnn-extract"):
        read(text, ArtefactKind.FEATURES)
    with pytest.raises(FormatError, match="was it made by cnnkit"):
        read(text)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_rejects_other_versions(version):
    """The message gives the version found and the supported one."""
    raw = json.loads(WHOLE.to_json()) | {"cnnkit": version}
    with pytest.raises(
        FormatError,
        match=rf"train.json: header version {'none' if version is None else version}, this cnnkit reads version 1",
    ):
        read(json.dumps(raw))


@pytest.mark.parametrize(
    ("kind", "command"),
    [(ArtefactKind.MODEL, "cnn-train-head"), (ArtefactKind.ONNX, "cnn-export"), (ArtefactKind.FEATURES, "cnn-extract")],
)
def test_rejects_other_kinds(kind, command):
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
def test_rejects_broken_headers(change):
    """A wrong field is an error that names the file, never a traceback, and never ignored."""
    raw = json.loads(WHOLE.to_json()) | change
    with pytest.raises(FormatError, match=r"train.json: broken cnnkit header"):
        read(json.dumps(raw))


def test_made_by():
    """Versions of installed distributions, under their plain names, and always cnnkit's."""
    assert made_by() == {"cnnkit": __version__}
    versions = made_by("torch", "no-such-distribution", "onnxruntime-gpu")
    assert set(versions) <= {"cnnkit", "torch", "onnxruntime"}
    assert versions["torch"].startswith("2.")


# ---------------------------------------------------------------- untrusted headers

WRONG = [
    None,
    -1,
    0,
    5,
    10**9,
    2**70,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    "@/etc/passwd",
    "\0\x1b[2J",
    "\udcff",
    "long" * 100_000,
    True,
    [],
    [1],
    ["a", "a"],
    [None, None, None],
    [float("nan")] * 3,
    [1e38] * 3,
    [0.0] * 3,
    {},
    {"a": {"b": [1]}},
    [[[]]] * 1000,
]
FULL = json.loads(WHOLE.to_json()) | {
    "training": {"command": "cnn-train", "views": 3, "temperature": 1.5, "augment": "hflip", "rows": 4, "epochs": 2},
    "made_by": {"cnnkit": "0.1.0"},
    "columns": [
        {"name": "width", "kind": "number", "mean": 640.5, "std": 3.0},
        {"name": "camera", "kind": "category", "categories": ["", "Nikon"]},
    ],
    "sets": {"method": "lac", "coverage": 0.95, "quantile": 0.9, "n": 99},
}


def places(record, above=()):
    """Yield the path of every field, including items of lists."""
    for key, value in record.items() if isinstance(record, dict) else enumerate(record):
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from places(value, (*above, key))


def changed(place, value, *, drop=False):
    record = json.loads(json.dumps(FULL))
    held = record
    for key in place[:-1]:
        held = held[key]
    if drop:
        del held[place[-1]]
    else:
        held[place[-1]] = value
    return record


def usable(header):
    """Return whether the library could have written the values of a header."""
    sides = () if header.preprocess is None else (header.preprocess.size, header.preprocess.resize)
    numbers = () if header.preprocess is None else (*header.preprocess.mean, *header.preprocess.std)
    texts = () if header.backbone is None else (header.backbone.name, header.backbone.layer)
    return (
        all(type(side) is int and 0 < side <= 8192 for side in sides)
        and all(isinstance(number, float) and math.isfinite(number) for number in numbers)
        and all(isinstance(text, str) and text for text in texts)
        and (header.classes is None or len(set(header.classes)) == len(header.classes) > 0)
        and math.isfinite(header.temperature)
        and header.temperature > 0
        and isinstance(header.has_views, bool)
        and all(_is_usable(column) for column in header.columns or ())
        and header.columns != ()
        and (
            header.sets is None
            or (0 < header.sets.coverage < 1 and 0 <= header.sets.quantile <= 2 and header.sets.n > 0)
        )
    )


def _is_usable(column):
    if column.kind is ColumnKind.CATEGORY:
        return bool(column.categories) and all(isinstance(each, str) for each in column.categories)
    return bool(column.name) and math.isfinite(column.mean) and 0 <= column.std < math.inf


@pytest.mark.parametrize("place", list(places(FULL)), ids=str)
def test_every_field_with_every_wrong_value(place):
    """A field that is missing, out of range or of another type is refused in one line; an accepted header is usable."""
    for record in [changed(place, None, drop=True), *(changed(place, value) for value in WRONG)]:
        for read_it in (
            lambda record: Header.from_record(record, name="x.pt", kind=ArtefactKind.FEATURES),
            lambda record: read(json.dumps(record), ArtefactKind.FEATURES),
        ):
            try:
                header = read_it(record)
            except FormatError as error:
                message = str(error)
                assert message.startswith(("x.pt: ", "train.json: "))
                assert len(message) < 400
                assert message.isprintable()
            else:
                assert usable(header), record


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("preprocess", "size"), "224", "preprocess.size: expected a whole number, found '224'"),
        (("preprocess", "size"), 10**9, "preprocess.size: expected a whole number, at most 4096, found 1000000000"),
        (("preprocess", "std"), [1, 0, 1], r"preprocess.std[1]: expected a number, at least 1e-12, found 0"),
        (
            ("preprocess", "mean"),
            [float("nan")] * 3,
            "preprocess.mean[0]: expected a number, at least -10000.0, found nan",
        ),
        (("preprocess", "fit"), "stretch", "preprocess.fit: expected one of crop, squash, pad, found 'stretch'"),
        (("classes",), [], "classes: expected a list of at least 1 value, found []"),
        (("classes",), ["cat", "dog", "cat"], "classes contains 'cat' twice"),
        (("classes",), [*map(str, range(100_000)), "99999"], "classes contains '99999' twice"),  # at once
        (("backbone", "name"), 5, "backbone.name: expected text, found 5"),
        (
            ("backbone", "weights_sha256"),
            "../../x",
            "backbone.weights_sha256: expected hexadecimal digits, found '../../x'",
        ),
        (("head",), "@/etc/passwd", "head: expected layers, not a file, found '@/etc/passwd'"),
        (("training",), [1], "training: expected an object or nothing, found [1]"),
        (("training", "temperature"), 0, "training.temperature: expected a number, at least 1e-06, found 0"),
        (("made_by", "cnnkit"), 7, "a value in made_by: expected text, found {'cnnkit': 7}"),
        (("backbone", "name"), None, "backbone.name: expected text, found nothing"),
        (("backbone", "name"), "", "backbone.name: expected text of at least 1 character, found ''"),
        (("preprocess", "mean"), [0, 0], "preprocess.mean: expected a list of 3 values, found [0, 0]"),
        (("backbone",), {"name": "x"}, "backbone.layer is missing"),
        (("columns", 0, "kind"), "text", "columns[0].kind: expected one of number, category, found 'text'"),
        (("columns", 0, "std"), -1, "columns[0].std: expected a number, at least 0.0, found -1"),
        (("columns", 0, "std"), 1e-300, "has a standard deviation of 1e-300, too small to divide by"),
        (("columns", 1, "categories"), ["a", "a"], "column 'camera' has the same category twice"),
        (("columns", 1, "categories"), [], "column 'camera' has no categories"),
        (("sets", "method"), "raps", "sets.method: expected one of lac, aps, found 'raps'"),
        (("sets", "coverage"), 1, "sets.coverage: expected a number, less than 1.0, found 1"),
    ],
)
def test_messages_name_the_field_and_its_value(place, value, message):
    """In one line: the file, the field, what was expected, what was found, and the command that makes the right file."""
    with pytest.raises(FormatError) as caught:
        read(json.dumps(changed(place, value)), ArtefactKind.FEATURES)
    assert str(caught.value).startswith("train.json: broken cnnkit header (")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; make one with cnn-extract")


@pytest.mark.parametrize("place", ["classes", "key", "training"])
def test_rejects_half_of_a_surrogate_pair(place):
    """It would raise a UnicodeEncodeError wherever it is written."""
    record = dict(FULL, training=dict(FULL["training"]))
    if place == "classes":
        record["classes"] = ["cat", "\ud800"]
    elif place == "key":
        record["training"]["\ud800"] = 1
    else:
        record["training"]["command"] = "x\udbff"
    with pytest.raises(
        FormatError, match=r"train.json: broken cnnkit header \('.*' contains half of a surrogate pair\)"
    ):
        read(json.dumps(record))


def test_rejects_deep_and_large_headers():
    """Without much time, memory or stack; also lists that contain themselves, or one list many times."""
    for text in (
        "[" * 100_000,
        '{"cnnkit":' * 100_000,
        '{"a":1,' * 100_000,
        "9" * 10_000,
        '{"cnnkit": ' + "9" * 5000 + "}",
    ):
        with pytest.raises(FormatError, match=r"train.json: no cnnkit header in it"):
            read(text)
    with pytest.raises(FormatError, match=r"a header of 16,777,217 characters, more than 16,777,216"):
        read(" " * (2**24 + 1))
    endless = []
    endless.append(endless)
    many = [1]
    for _ in range(18):
        many = [many] * 10
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in (endless, many, deep, [0] * 200_000):
        for place in (("training", "x"), ("classes",), ("mood",)):
            record = dict(FULL, training=dict(FULL["training"]))
            (record["training"] if len(place) == 2 else record)[place[-1]] = value
            with pytest.raises(FormatError, match=r"broken cnnkit header \(it (is nested|has) more than"):
                Header.from_record(record, name="x.pt")
    while deep:
        deep = deep.pop()


def test_decoding_is_written_only_if_scaled():
    """Files from before the field, and files of other programs, were decoded completely, and are again."""
    assert PREPROCESS["decoding"] == "scaled"
    raw = json.loads(WHOLE.to_json())
    del raw["preprocess"]["decoding"]
    old = read(json.dumps(raw))
    assert old.preprocess.decoding is Decoding.FULL
    assert json.loads(old.to_json()) == raw
    assert difference(WHOLE, old) == ("decoding", "scaled", "full")
