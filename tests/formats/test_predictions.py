"""Predictions: TSV and JSON Lines are equivalent, and errors name the place."""

import json
import subprocess

import pytest

from cnnkit.errors import FormatError
from cnnkit.formats import prediction_columns
from cnnkit.formats.predictions import Prediction

ROWS = [
    Prediction("photos/cat/1.jpg", 1, "cat", 0.75),
    Prediction("photos/cat/1.jpg", 2, "dog", 0.25),
    Prediction("a\tb/ü\\n.jpg", 1, "wild cat", 1.0),
]


def as_tsv(rows):
    lines = ["path\trank\tlabel\tprobability"]
    for row in rows:
        path = row.path.replace("\\", "\\\\").replace("\t", "\\t")
        lines.append(f"{path}\t{row.rank}\t{row.label}\t{row.probability}")
    return [f"{line}\n".encode() for line in lines]


def as_json(rows):
    return [
        (json.dumps({name: getattr(row, name) for name in ("path", "rank", "label", "probability")}) + "\n").encode()
        for row in rows
    ]


def parse(*lines):
    return list(
        prediction_columns.parse([line if isinstance(line, bytes) else line.encode() for line in lines], name="p.tsv")
    )


@pytest.mark.parametrize("write", [as_tsv, as_json])
def test_round_trip(write):
    """TSV and JSON Lines of the same rows give the same rows, also with unusual paths."""
    assert parse(*write(ROWS)) == ROWS


def test_columns_are_found_by_name():
    """Order of columns, further columns, empty lines and Windows line ends do not matter."""
    lines = ["\r\n", "probability\tnote\tlabel\trank\tpath\r\n", "0.5\tx\tcat\t2\ta.jpg\r\n", "\r\n"]
    assert parse(*lines) == [Prediction("a.jpg", 2, "cat", 0.5)]


@pytest.mark.parametrize("write", [as_tsv, as_json])
def test_files_may_be_joined_with_cat(write):
    """Header rows of further files are ignored, also of a file without predictions."""
    assert parse(*write(ROWS[:2]), *write([]), *write(ROWS[2:])) == ROWS


def test_joined_files_need_the_same_columns():
    """A header row that differs from the first one is an error."""
    with pytest.raises(FormatError, match=r"p\.tsv:3: 2 fields, but the header row has 3"):
        parse("path\tlabel\tprobability", "a.jpg\tcat\t1", "path\tlabel", "b.jpg\tcat")


def test_rejects_header_rows_without_predictions():
    """However many there are."""
    with pytest.raises(FormatError, match=r"^p\.tsv: no predictions"):
        parse("path\tlabel", "path\tlabel")


def test_paths_that_are_not_utf8_are_preserved():
    """Any bytes that a file name may have."""
    (row,) = parse(b"path\tlabel\n", b"\xff.jpg\tcat\n")
    assert row.path.encode("utf-8", "surrogateescape") == b"\xff.jpg"


@pytest.mark.parametrize(
    "lines",
    [
        ("path\tlabel", "a.jpg\tcat", "b.jpg\tcat", "a.jpg\tdog"),
        ('{"path": "a.jpg", "label": "cat"}', '{"path": "b.jpg", "label": "cat"}', '{"path": "a.jpg", "label": "dog"}'),
    ],
)
def test_without_ranks_and_probabilities_the_order_counts(lines):
    """The first row of an image is its prediction, also if its rows are not adjacent."""
    assert sorted(parse(*lines), key=lambda row: (row.path, row.rank)) == [
        Prediction("a.jpg", 1, "cat"),
        Prediction("a.jpg", 2, "dog"),
        Prediction("b.jpg", 1, "cat"),
    ]


def test_without_ranks_the_most_probable_class_is_the_prediction():
    """Other programs may list classes alphabetically."""
    lines = ["file,class,score", "a.jpg,cat,0.2", "a.jpg,dog,0.7", "a.jpg,owl,0.1", "b.jpg,cat,0.5", "b.jpg,dog,0.5"]
    assert [(row.path, row.rank, row.label) for row in parse(*lines)] == [
        ("a.jpg", 1, "dog"),
        ("a.jpg", 2, "cat"),
        ("a.jpg", 3, "owl"),
        ("b.jpg", 1, "cat"),
        ("b.jpg", 2, "dog"),
    ]


def test_probability_may_exceed_1_by_rounding():
    """1.0000001 is read as 1: a softmax in float32 can give it."""
    assert parse('{"path": "a.jpg", "label": "cat", "probability": 1.0000001}')[0].probability == 1.0


@pytest.mark.parametrize("lines", [(), ("\n",), ("path\trank\tlabel\tprobability\n",)])
def test_rejects_empty_files(lines):
    """And files with only a header row."""
    with pytest.raises(FormatError, match=r"^p\.tsv: no predictions"):
        parse(*lines)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path\tprobability", "a.jpg\t1"], "p.tsv: the header row lacks label"),
        (["path\tlabel", "a.jpg"], "p.tsv:2: 1 fields, but the header row has 2"),
        (["path\trank\tlabel", "a.jpg\tfirst\tcat"], 'p.tsv: a.jpg: rank "first" is not a whole number of at least 1'),
        (["path\trank\tlabel", "a.jpg\t0\tcat"], 'p.tsv: a.jpg: rank "0" is not a whole number of at least 1'),
        (["path\tlabel\tprobability", "a.jpg\tcat\t7.5"], 'p.tsv: a.jpg: probability "7.5" is not between 0 and 1'),
        (["path\tlabel\tprobability", "a.jpg\tcat\tnan"], 'p.tsv: a.jpg: probability "nan" is not between 0 and 1'),
        (["path\tlabel\tprobability", "a.jpg\tcat\tmuch"], 'p.tsv: a.jpg: probability "much" is not between 0 and 1'),
        (['{"path": "a.jpg", "label": "cat"}', "{"], "p.tsv:2: an object over several lines"),
        (['{"path": "a.jpg"}'], "p.tsv:1: expected an object with path and label"),
        (['{"path": "a.jpg", "label": "cat"}', "[1]"], "p.tsv:2: expected an object with path and label"),
    ],
)
def test_errors_name_the_place(lines, message):
    """Every error names the file and the place."""
    with pytest.raises(FormatError) as caught:
        parse(*lines)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "lines",
    [
        ["path;label;probability", "7,5.jpg;cat;0,87", "b.jpg;dog;5,2e-05"],
        ["path\tlabel\tprobability", "7,5.jpg\tcat\t0,87", "b.jpg\tdog\t5,2e-05"],
        ["path,label,probability", 'a.jpg,cat,"0,87"', 'b.jpg,dog,"5,2e-05"'],
        ["label;path;probability", 'cat;"7,5.jpg";0,87', "dog;b.jpg;5,2E-05"],
        ["label|path|other|probability", "cat|7,5.jpg|0,1|0,87", "dog|b.jpg|0,1|5,2e-05"],
        ["probability;path;label", "0,87;7,5.jpg;cat", "5,2e-05;b.jpg;dog"],
        ["probability\tother\tpath\tlabel", "0,87\t0,1\t7,5.jpg\tcat", "5,2e-05\t0,1\tb.jpg\tdog"],
        [
            '{"path": "a.jpg", "label": "cat", "probability": "0,87"}',
            '{"path": "b.jpg", "label": "7", "probability": 5.2e-05}',
        ],
    ],
    ids=[
        "semicolons",
        "tabs",
        "commas",
        "quoted path",
        "next to each other",
        "first column",
        "first two",
        "JSON Lines",
    ],
)
def test_decimal_commas_are_a_matter_of_the_column(tmp_path, lines):
    """One line with the command that changes all of them; it is run here."""
    path = tmp_path / "p.csv"
    path.write_text("\n".join([*lines, ""]))
    with pytest.raises(FormatError, match='column probability has decimal commas, as in "0,87"; ') as caught:
        list(prediction_columns.parse(path.read_bytes().splitlines(True), name=str(path)))
    subprocess.run(str(caught.value).split(": ")[-1], shell=True, check=True)
    rows = list(prediction_columns.parse(path.read_bytes().splitlines(True), name=str(path)))
    assert [row.probability for row in rows] == [0.87, 5.2e-05]
    assert [row.path for row in rows] in (["7,5.jpg", "b.jpg"], ["a.jpg", "b.jpg"])


def test_rows_with_and_without_rank_may_be_mixed():
    """Rows without a rank come last, image by image, in the order of their probabilities, and get the remaining places."""
    rows = [
        "b.jpg\t\tcat\t0.2",
        "a.jpg\t2\tcat\t0.3",
        "b.jpg\t\tdog\t0.8",
        "a.jpg\t\tdog\t0.7",
        "c.jpg\t\tcat\t",
        "c.jpg\t\tdog\t1",
    ]
    assert parse("path\trank\tlabel\tprobability", *rows) == [
        Prediction("a.jpg", 2, "cat", 0.3),
        Prediction("b.jpg", 1, "dog", 0.8),
        Prediction("b.jpg", 2, "cat", 0.2),
        Prediction("a.jpg", 2, "dog", 0.7),
        Prediction("c.jpg", 1, "cat", None),
        Prediction("c.jpg", 2, "dog", 1.0),
    ]
