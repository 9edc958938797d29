"""Reading histories: complete ones, unfinished ones, and other files."""

import math
from dataclasses import asdict

import pytest

from cnnkit.errors import FormatError
from cnnkit.formats import history
from cnnkit.formats.history import COLUMNS, HistoryRow

HEADER = ",".join(COLUMNS)
ROWS = [
    HistoryRow(1, 1.94567, 0.3125, 1.43812, 0.672222, 0.001, 0.049),
    HistoryRow(2, 1.25, 0.5, None, None, 0.001, 12.5),
    HistoryRow(3, math.nan, 0.5, math.inf, 0.1, 1e-05, None),
]


@pytest.fixture
def written(tmp_path):
    """A history written by HistoryWriter."""
    with history.HistoryWriter(tmp_path / "model.csv") as writer:
        for row in ROWS:
            writer.write(row)
    return tmp_path / "model.csv"


def test_round_trip(written):
    """Every row is preserved: an empty field as None, a NaN as NaN."""
    assert [repr(asdict(row)) for row in history.read(written)] == [repr(asdict(row)) for row in ROWS]


def test_history_can_be_read_during_training(written):
    """Wherever the file ends after its header, all finished rows are read, and the last one only as far as it is complete."""
    whole = written.read_bytes()
    for end in range(len(HEADER) + 1, len(whole) + 1):
        written.write_bytes(whole[:end])
        found = history.read(written)
        finished = whole[:end].count(b"\n") - 1
        assert finished <= len(found) <= finished + 1
        for row, expected in zip(found, ROWS, strict=False):
            assert [row.epoch, row.train_loss, row.val_accuracy, row.lr][: None if row.epoch < 3 else 1] == [
                expected.epoch,
                expected.train_loss,
                expected.val_accuracy,
                expected.lr,
            ][: None if row.epoch < 3 else 1]  # NaN is not equal to itself


def test_reads_files_saved_by_a_spreadsheet(tmp_path):
    """A byte order mark, Windows line ends, other columns and another order change nothing."""
    path = tmp_path / "h.csv"
    path.write_bytes(
        b"\xef\xbb\xbfnote,epoch,val_loss,train_loss,train_accuracy,val_accuracy,lr,seconds\r\n"
        b"x,1,0.5,0.25,0.75,1,0.1,2\r\n\r\n"
    )
    assert history.read(path) == [HistoryRow(1, 0.25, 0.75, 0.5, 1.0, 0.1, 2.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", f"h.csv: empty; a history begins with the header row {HEADER}"),
        ("path\tlabel\n", "h.csv: not a training history; it needs the column epoch and one of train_loss"),
        ("epoch,iou\n1,2\n", "h.csv: not a training history; it needs the column epoch"),
        ("step,loss\n1,2\n", "h.csv: not a training history; it needs the column epoch"),
        ("epoch,loss\n1,2\n0,2\n", "h.csv:3: epoch 0 after epoch 1"),
        ("epoch,loss\n1,x\n", 'h.csv:2: loss "x" is not a number'),
        (
            "epoch;loss\n1;0,5\n",
            'h.csv:2: column loss has decimal commas, as in "0,5"; change all to points: sed -E -i ',
        ),
        (f"{HEADER}\n1,2,3\n", "h.csv:2: 3 fields, but the header row has 7"),
        (f"{HEADER}\n1,2,3,4,x,6,7\n", 'h.csv:2: val_accuracy "x" is not a number'),
        (f"{HEADER}\n1.5,,,,,,\n", 'h.csv:2: epoch "1.5" is not a whole number'),
        (
            f"{HEADER}\n1,,,,,,\n2,,,,,,\n1,,,,,,\n",
            "h.csv:4: epoch 1 after epoch 2; does the file contain several histories?",
        ),
        (f"{HEADER}\n1,,,,,,\n{HEADER}\n", 'h.csv:3: epoch "epoch" is not a whole number'),
    ],
)
def test_rejects_other_tables(tmp_path, monkeypatch, content, message):
    """In one line that names the file, the line number and the error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "h.csv").write_text(content)
    with pytest.raises(FormatError) as error:
        history.read("h.csv")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_rejects_utf_16(tmp_path, run):
    """As spreadsheets save it, with the remedy."""
    path = tmp_path / "h.csv"
    path.write_text("epoch,loss\n1,2\n", encoding="utf-16")
    assert run("cnn-curves", path, status=1).err == f"cnn-curves: {path}: UTF-16; save it as UTF-8\n"


def test_line_ends_of_cr_alone():
    """As written by old spreadsheets; an incomplete last line is ignored."""
    rows = history.parse([b"epoch,loss\r1,2.5\r2,1.5\r3"], name="h.csv")
    assert [(row.epoch, row.train_loss) for row in rows] == [(1, 2.5), (2, 1.5)]


def test_rejects_fields_that_are_too_long():
    """The csv module has a limit."""
    with pytest.raises(FormatError, match=r"^h\.csv:2: not a table row \(field larger than field limit"):
        history.parse([b"epoch,loss\n", b"1," + b"9" * 200_000 + b"\n"], name="h.csv")


def test_rejects_a_model_in_place_of_its_history(tmp_path, monkeypatch):
    """The message names the history next to it, or says that it does not exist."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.pt").write_bytes(b"PK\x03\x04\x00\x00\n\xff\xfe")
    with pytest.raises(FormatError, match=r"^m\.pt: a model; its history m\.csv does not exist$"):
        history.read("m.pt")
    (tmp_path / "m.csv").write_text(HEADER)
    with pytest.raises(FormatError, match=r"^m\.pt: a model; its history is m\.csv$"):
        history.read("m.pt")


OTHERS = {
    "keras": (
        b"epoch,accuracy,loss,val_accuracy,val_loss\r\n0,0.5,1.5,0.25,2\r\n1,0.75,NA,0.5,1\r\n",
        [HistoryRow(0, 1.5, 0.5, 2.0, 0.25), HistoryRow(1, None, 0.75, 1.0, 0.5)],
    ),
    "keras 2": (
        b"epoch;acc;lr;loss;val_acc;val_loss\n0;0.5;0.1;1.5;0.25;2\n",
        [HistoryRow(0, 1.5, 0.5, 2.0, 0.25, 0.1)],
    ),
    "keras, sparse": (
        b"epoch,learning_rate,loss,sparse_categorical_accuracy,val_loss,val_sparse_categorical_accuracy\n3,0.1,1,0.5,2,0.25\n",
        [HistoryRow(3, 1.0, 0.5, 2.0, 0.25, 0.1)],
    ),
    "ultralytics": (
        b"                  epoch,             train/loss,  metrics/accuracy_top1,  metrics/accuracy_top5,               val/loss,"
        b"                 lr/pg0\n                      1,                    2.5,                  0.625,                      1,"
        b"                    1.5,                  0.001\n",
        [HistoryRow(1, 2.5, None, 1.5, 0.625, 0.001)],
    ),
    "ultralytics 8.3": (
        b"epoch,time,train/loss,metrics/accuracy_top1,metrics/accuracy_top5,val/loss,lr/pg0,lr/pg1,lr/pg2\n"
        b"1,9.5,2.5,0.625,1,1.5,0.001,0.002,0.003\n",
        [HistoryRow(1, 2.5, None, 1.5, 0.625, 0.001)],
    ),
    "lightning": (
        b"epoch,step,train_acc,train_loss,val_acc,val_loss\n0,9,,,0.25,2\n0,9,0.5,1.5,,\n1,19,,,0.5,1\n1,19,0.75,1.25,,\n",
        [HistoryRow(0, 1.5, 0.5, 2.0, 0.25), HistoryRow(1, 1.25, 0.75, 1.0, 0.5)],
    ),
    "lightning, by epoch": (
        b"epoch,step,train_loss_epoch,val_loss_epoch,val_acc_epoch\n0,9,1.5,2,0.25\n",
        [HistoryRow(0, 1.5, None, 2.0, 0.25)],
    ),
    "transformers": (
        b"epoch,loss,eval_loss,eval_accuracy\n1.0,1.5,2,0.25\n",
        [HistoryRow(1, 1.5, None, 2.0, 0.25)],
    ),
    "timm": (
        b"epoch,train_loss,eval_loss,eval_top1,eval_top5,lr\n0,1.5,2,25.0,75.0,0.1\n",
        [HistoryRow(0, 1.5, None, 2.0, 0.25, 0.1)],
    ),
    "pandas": (b'"epoch","loss","note"\n1.0,0.5,"a, b"\n2.0,0.25,c\n', [HistoryRow(1, 0.5), HistoryRow(2, 0.25)]),
}


@pytest.mark.parametrize(("content", "expected"), OTHERS.values(), ids=OTHERS)
def test_histories_of_other_programs(tmp_path, run, content, expected):
    """With their names for columns; cnn-curves shows them."""
    path = tmp_path / "h.csv"
    path.write_bytes(content)
    assert history.read(path) == expected
    rows = run("cnn-curves", path).rows
    assert [int(row["epoch"]) for row in rows] == [each.epoch for each in expected]
    assert [row["val_accuracy"] for row in rows] == [
        "" if each.val_accuracy is None else f"{each.val_accuracy:g}" for each in expected
    ]


def test_an_accuracy_above_1_is_percent(tmp_path, run, monkeypatch):
    """A column with such a value is divided by 100, with a notice; other columns are not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "h.csv").write_text("epoch,accuracy,val_acc,val_loss\n1,0.5,0.75,2\n2,1.000001,55.3,nan\n3,,,1\n")
    outcome = run("cnn-curves", "h.csv")
    assert [(row["train_accuracy"], row["val_accuracy"]) for row in outcome.rows] == [
        ("0.5", "0.0075"),
        ("1", "0.553"),
        ("", ""),
    ]
    assert outcome.err == "cnn-curves: h.csv: read as percent, divided by 100: val_acc (up to 55.3)\n"
    (tmp_path / "own.csv").write_text(f"{HEADER}\n1,2,75,2,50,0.1,1\n")
    outcome = run("cnn-curves", "own.csv")
    assert (outcome.rows[0]["train_accuracy"], outcome.rows[0]["val_accuracy"]) == ("0.75", "0.5")
    assert outcome.err.endswith("divided by 100: train_accuracy (up to 75), val_accuracy (up to 50)\n")


@pytest.mark.parametrize(("column", "value"), [("val_acc", "255"), ("eval_top1", "255"), ("val_acc", "-0.5")])
def test_rejects_accuracies_out_of_range(tmp_path, run, column, value):
    """Neither a share nor percent, also in a column that is known to be in percent."""
    (tmp_path / "h.csv").write_text(f"epoch,{column}\n1,0.5\n2,{value}\n")
    outcome = run("cnn-curves", tmp_path / "h.csv", status=1)
    assert outcome.err.startswith(
        f"cnn-curves: {tmp_path / 'h.csv'}: {column} {value} is not an accuracy; expected a share"
    )
