"""cnn-curves: an image, a drawing in the terminal, rows in a pipe."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnkit.formats.history import COLUMNS

HEADER = ",".join(COLUMNS)
SCRIPT = Path(sys.executable).parent / "cnn-curves"


def write(path, *, epochs=12, validated=True):
    """Write a history: losses that halve, and a best validation two epochs before the end."""
    rows = [HEADER]
    for epoch in range(1, epochs + 1):
        val = (
            f"{0.5 + 0.05 * abs(epoch - epochs + 2):.6g},{0.9 - 0.02 * abs(epoch - epochs + 2):.6g}"
            if validated
            else ","
        )
        rows.append(f"{epoch},{2 / 2**epoch:.6g},{1 - 0.5 / epoch:.6g},{val},0.001,1.5")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(rows) + "\n")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to be in, with three histories."""
    monkeypatch.chdir(tmp_path)
    write(Path("small/model.csv"))
    write(Path("large/model.csv"), epochs=20)
    write(Path("alone.csv"), epochs=5, validated=False)
    return tmp_path


def test_one_image_and_one_row_per_run(run, here):
    """The image has two panels; rows have the best epoch of each run and its measures."""
    words = ("small/model.csv", "large/model.csv", "alone.csv", "-o", "curves.png", "--smooth", "0.8")
    outcome = run("cnn-curves", *words)
    assert [(row["run"], row["epochs"], row["best_epoch"], row["val_loss"]) for row in outcome.rows] == [
        ("small/model", "12", "10", "0.5"),
        ("large/model", "20", "18", "0.5"),
        ("alone", "5", "", ""),
    ]
    assert outcome.rows[2]["train_accuracy"] == "0.9"  # of the last epoch, where none is the best
    assert outcome.err == ""
    with Image.open("curves.png") as image:
        assert image.width > 2 * image.height
        assert np.asarray(image.convert("L")).std() > 10
    first = Path("curves.png").read_bytes()
    (record, *_) = map(json.loads, run("cnn-curves", *words, "--json").out.splitlines())
    assert (record["run"], record["best_epoch"], record["val_accuracy"]) == ("small/model", 10, 0.9)
    assert Path("curves.png").read_bytes() == first


@pytest.mark.parametrize(("name", "begins"), [("c.svg", b"<?xml"), ("c.pdf", b"%PDF"), ("c.PNG", b"\x89PNG")])
def test_extension_selects_the_format(run, here, name, begins):
    """In any case of letters."""
    run("cnn-curves", "alone.csv", "-o", name)
    assert Path(name).read_bytes().startswith(begins)


def test_piped_output_has_a_row_per_epoch(run, here):
    """With the name of the run, and the best epoch marked; smoothing changes only the measures."""
    rows = run("cnn-curves", "small/model.csv").rows
    assert list(rows[0]) == ["run", *COLUMNS, "best"]
    history = [line.split(",") for line in Path("small/model.csv").read_text().splitlines()[1:]]
    assert [[row[column] for column in COLUMNS] for row in rows] == history
    assert [row["epoch"] for row in rows if row["best"] == "true"] == ["10"]

    smooth = [
        json.loads(line) for line in run("cnn-curves", "small/model.csv", "--smooth", "0.5", "--json").out.splitlines()
    ]
    assert smooth[1]["train_loss"] == pytest.approx((0.5 * 1 + 0.5) / 1.5)  # losses of 1 and 0.5
    assert [row["lr"] for row in smooth] == [0.001] * 12
    assert [row["epoch"] for row in smooth if row["best"]] == [10]

    both = run("cnn-curves", "small/model.csv", "alone.csv").rows
    assert [row["run"] for row in both] == ["model"] * 12 + ["alone"] * 5
    assert both[-1]["val_loss"] == ""


def test_monitor_selects_the_best_epoch(run, here):
    """Loss and accuracy may select different epochs."""
    Path("h.csv").write_text(f"{HEADER}\n1,1,0.5,0.4,0.8,0.1,1\n2,1,0.5,0.6,0.9,0.1,1\n")
    for monitor, best in (("val_loss", "1"), ("val_accuracy", "2")):
        (row,) = run("cnn-curves", "h.csv", "-o", "h.svg", "--monitor", monitor).rows
        assert row["best_epoch"] == best
        assert f"best epoch by {monitor}" in Path("h.svg").read_text()


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_marked_epoch_is_the_one_that_training_kept(run, here, images, monitor):
    """cnn-train-head and cnn-curves use the same rule."""
    images("photos/train", red=6, blue=6)
    images("photos/val", red=4, blue=4)
    backbone = ("--layers", "conv 6 k3 relu", "--weights", "none", "--size", "8", "--device", "cpu")
    for split in ("train", "val"):
        run("cnn-extract", "photos", "--split", split, "-o", f"{split}.npy", *backbone)
    words = ("--val", "val.npy", "-o", "head.pt", "--epochs", "15", "--lr", "0.3", "--device", "cpu")
    kept = run("cnn-train-head", "train.npy", *words, "--monitor", monitor).rows[0]["best_epoch"]
    rows = run("cnn-curves", "head.csv", "--monitor", monitor).rows
    assert [row["epoch"] for row in rows if row["best"] == "true"] == [kept]
    assert len({row["val_loss"] for row in rows}) > 1  # of equal accuracies the lower loss decides


def test_file_pipe_and_stdin_give_the_same_output(run, here):
    """The name of the run is standard input."""
    text = Path("small/model.csv").read_text()
    named, dash, piped = (run("cnn-curves", *words, stdin=text).out for words in (["small/model.csv"], ["-"], []))
    assert dash == piped == named.replace("model\t", "standard input\t")


def test_nan_is_null_in_json(run, here):
    """The row is kept."""
    Path("h.csv").write_text(f"{HEADER}\n1,nan,0.5,inf,0.8,0.1,1\n")
    (record,) = map(json.loads, run("cnn-curves", "h.csv", "--json").out.splitlines())
    assert (record["train_loss"], record["val_loss"], record["val_accuracy"]) == (None, None, 0.8)


# ---------------------------------------------------------------- drawn


def test_curves_are_drawn_on_a_terminal(terminal, here):
    """Panels side by side in its width, one colour per run, none with NO_COLOR; --json prints rows there too."""
    words = (SCRIPT, "small/model.csv", "large/model.csv")
    done = terminal(*words, on=["stdout"], cwd=here)
    assert (done.status, done.err) == (0, "")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.out)
    assert re.match(r"loss +accuracy\n", plain)
    assert max(map(len, plain.splitlines())) <= 100
    assert "1 small/model  ● 10 of 12  val_loss 0.5  val_accuracy 0.9" in plain
    assert {"\x1b[36m", "\x1b[35m"} <= set(re.findall(r"\x1b\[3[0-9]m", done.out))
    uncoloured = terminal(*words, on=["stdout"], cwd=here, env={"NO_COLOR": "1"}).out
    assert not re.search(r"\x1b\[([0-9]+;)*(3[0-8]|9[0-7])m", uncoloured)
    assert re.sub(r"\x1b\[[0-9;]*m", "", uncoloured) == plain
    assert len(terminal(*words, "--json", on=["stdout"], cwd=here).out.splitlines()) == 32


def test_plot_draws_into_a_pipe(run, here, monkeypatch):
    """For less and log files: the same text without colour, in the width of COLUMNS."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "20")
    drawing = run("cnn-curves", "small/model.csv", "--plot").out.splitlines()
    assert drawing[0] == "loss"
    assert max(map(len, drawing)) <= 60
    assert len(drawing) <= 20
    assert "\x1b" not in "".join(drawing)


def test_piped_output_is_rows_even_with_a_screen_size(here):
    """Both streams in one pipe with a screen size, as under watch; --plot draws."""
    env = {**os.environ, "COLUMNS": "90", "LINES": "30"}
    for words, begin in (([], ["run", "epoch"]), (["--plot"], ["loss", "accuracy"])):
        done = subprocess.run(
            [SCRIPT, *words, "alone.csv"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, check=True
        )
        assert done.stdout.decode().split()[:2] == begin


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (
            ["no-such.csv", "-o", "c.bmp"],
            2,
            "c.bmp: unknown format; give it a name that ends in .png, .svg or .pdf",
        ),
        (["alone.csv", "-o", "curves"], 2, "curves: unknown format; give it a name"),
        (["alone.csv", "--smooth", "1"], 2, "--smooth 1: give a weight from 0"),
        (["alone.csv", "--plot", "-o", "c.png"], 2, "--plot draws on standard output; drop -o"),
        (["alone.csv", "--plot", "--json"], 2, "--plot draws on standard output; drop --json"),
        (["alone.csv", "alone.csv"], 2, "alone.csv: given twice"),
        (["alone.csv", "-o", "no-such/c.png"], 1, "no-such: no such folder to write c.png into"),
        (["alone.csv", "broken.csv", "-o", "c.png"], 1, 'broken.csv:2: train_loss "x" is not a number'),
        (["model.pt"], 1, "model.pt: a model; its history model.csv does not exist"),
        (["begun.csv"], 1, "begun.csv: no epoch is finished yet"),
        (["-"], 1, f"standard input: empty; a history begins with the header row {HEADER}"),
    ],
)
def test_errors_are_one_line(run, here, words, status, message):
    """Nothing on stdout, and no image."""
    Path("broken.csv").write_text(f"{HEADER}\n1,x,0.5,0.5,0.8,0.1,1\n")
    Path("begun.csv").write_text(f"{HEADER}\n")
    Path("model.pt").write_bytes(b"PK\x03\x04")
    before = sorted(os.listdir())
    outcome = run("cnn-curves", *words, status=status)
    assert outcome.out == ""
    assert outcome.err.startswith(f"cnn-curves: {message}")
    assert outcome.err.count("\n") == 1
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(("words", "drawing"), [([], False), (["--plot"], True)])
def test_it_loads_no_more_than_it_needs(here, words, drawing):
    """Rows and the drawing in the terminal load neither numpy nor matplotlib; rows do not load plotext and Pillow either."""
    program = "import sys; from cnnkit_tools.cnn_curves import main\ntry: main()\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program, "alone.csv", *words], capture_output=True, check=True)
    loaded = set(done.stderr.decode().split())
    assert "cnnkit.explain.curves" in loaded
    assert not loaded & {"torch", "onnxruntime", "numpy", "matplotlib"}
    assert ("plotext" in loaded) == drawing
    assert drawing or "PIL" not in loaded
