"""-o FILE of commands that print a table: the bytes of standard output, whole or not at all."""

import csv
import io
import json
import os
import shlex
import signal
import subprocess
import time
from importlib.metadata import entry_points

import pytest
from predict_models import CLASSES

HEADER = "path\trank\tlabel\tprobability\n"


def _left(folder):
    """Return hidden files: temporary ones and locks."""
    return [each for each in os.listdir(folder) if each.startswith(".")]


#: Commands that are quick, and a table of each.
TABLES = {
    "cnn-eval": ["one.tsv", "--truth", "truth.tsv"],
    "cnn-compare": ["one.tsv", "two.tsv", "--truth", "truth.tsv"],
    "cnn-check": ["truth.tsv", "--probes", "none"],
    "cnn-dims": ["--input", "9,9,3", "--layers", "conv 4 k3 relu, pool 2"],
}
#: The same without a result.
FAILURES = {
    "cnn-eval": ["one.tsv", "--truth", "two.tsv", "--split", "none"],
    "cnn-compare": ["one.tsv", "truth.tsv", "--truth", "truth.tsv"],
    "cnn-check": ["none", "--probes", "none"],
    "cnn-dims": ["--input", "1,1,3", "--layers", "conv 4 k3"],
}
#: The same with a bound that is missed.
GATES = {
    "cnn-eval": ["--fail-under", "accuracy=0.9"],
    "cnn-check": ["--fail"],
    "cnn-dims": ["--max-params", "3"],
}


@pytest.fixture
def tables(tmp_path, monkeypatch, images):
    """Two files of predictions and their truth, and images, in the current folder."""
    monkeypatch.chdir(tmp_path)
    images("photos", red=2, blue=2)
    paths = [f"photos/{label}/0{number}.png" for label in ("red", "blue") for number in (0, 1)]
    for name, label in (("one.tsv", "red"), ("two.tsv", "blue")):
        (tmp_path / name).write_text(HEADER + "".join(f"{path}\t1\t{label}\t0.5\n" for path in paths))
    (tmp_path / "truth.tsv").write_text("path\tlabel\n" + "".join(f"{path}\t{path.split('/')[1]}\n" for path in paths))
    (tmp_path / "photos/red/00.png").write_bytes(b"no image")


@pytest.mark.parametrize("command", TABLES)
def test_every_table_is_whole_or_not_there(run, tables, tmp_path, command):
    """As TSV, JSON and CSV the same as on standard output; unchanged by a failure; there with status 4."""
    words = [command, *TABLES[command]]
    expected = run(*words).out
    assert expected.count("\n") > 1
    assert run(*words, "-o", "x.tsv").out == ""
    assert (tmp_path / "x.tsv").read_text() == expected
    assert run(*words, "-o", "x.json").out == run(*words, "-o", "x.csv").out == ""
    assert (tmp_path / "x.json").read_text() == run(*words, "--json").out
    rows = [line.split("\t") for line in expected.splitlines()]
    assert list(csv.reader(io.StringIO((tmp_path / "x.csv").read_text()))) == rows
    outcome = run(command, *FAILURES[command], "-o", "x.tsv", status=None)
    assert outcome.status in {1, 2}, outcome.err
    assert (tmp_path / "x.tsv").read_text() == expected
    if command in GATES:
        run(*words, *GATES[command], "-o", "gated.tsv", status=4)
        assert (tmp_path / "gated.tsv").read_text() == expected
    assert not _left(tmp_path)


def test_every_command_can_write_a_file_itself():
    """With -o, or, as cnn-split, with another option where -o is a folder."""
    without = [
        entry.name
        for entry in entry_points(group="console_scripts")
        if entry.value.startswith("cnnkit_tools.")
        and not any("-o" in each.opts for each in entry.load().parser().params)
    ]
    assert not without


def test_formulas_are_lines(run, tables, tmp_path):
    words = ["cnn-dims", *TABLES["cnn-dims"], "--explain"]
    run(*words, "-o", "x.txt")
    assert (tmp_path / "x.txt").read_text() == run(*words).out
    said = run(*words, "-o", "x.json", status=2).err
    assert "--explain writes lines of text, not .json; give -o x.txt, or drop --explain" in said


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "link.tsv"])
def test_dev_stdout_is_standard_output(commands, tmp_path, name):
    """It is appended to where the shell does, and the file of standard error is left alone."""
    (tmp_path / "link.tsv").symlink_to("/dev/stdout")
    words = ["cnn-dims", *TABLES["cnn-dims"]]
    line = f"{words[0]} {' '.join(map(shlex.quote, words[1:]))}"
    script = f"echo first >out; echo earlier >log; {line} >>out 2>>log; {line} -o {name} >>out 2>>log"
    environment = os.environ | {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, env=environment, check=True)
    first, *lines = (tmp_path / "out").read_text().splitlines()
    assert first == "first"
    assert len(lines) > 2
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]
    assert (tmp_path / "log").read_text() == "earlier\n"


@pytest.fixture
def predicted(run, model, root, tmp_path, monkeypatch):
    """Return predictions of `root` in predictions.tsv, and its content."""
    monkeypatch.chdir(tmp_path)
    outcome = run("cnn-predict", "-m", model(), root, "--top", "all", "-o", "predictions.tsv")
    assert outcome.out == ""
    return (tmp_path / "predictions.tsv").read_text()


def test_the_file_has_the_bytes_of_standard_output(run, model, root, predicted):
    assert predicted == run("cnn-predict", "-m", model(), root, "--top", "all").out
    assert predicted == run("cnn-predict", "-m", model(), root, "--top", "all", "-o", "-").out
    assert not _left(".")


@pytest.mark.parametrize("words", [["lines.jsonl"], ["lines.json"], ["lines.NDJSON"], ["lines", "--json"]])
def test_the_extension_chooses_json_lines(run, model, root, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    expected = run("cnn-predict", "-m", model(), root, "--json").out
    assert run("cnn-predict", "-m", model(), root, "-o", *words).out == ""
    assert (tmp_path / words[0]).read_text() == expected


def test_csv_is_read_back_by_csv_and_by_cnn_eval(run, predicted, tmp_path, images):
    """Names with commas, quotes, tabs and line ends survive; numbers are those of TSV."""
    folder = images("odd", red=1, blue=1)
    odd = 'a,"b"\tc\nd.png'
    (folder / "red" / "00.png").rename(folder / "red" / odd)
    rows = [["path", "rank", "label", "probability"], [f"odd/red/{odd}", "1", "red", "0.75"]]
    (tmp_path / "wrong.jsonl").write_text(
        json.dumps({"path": rows[1][0], "rank": 1, "label": "blue", "probability": 0.75}) + "\n"
    )
    run("cnn-eval", "wrong.jsonl", "--truth", "odd", "--worst", 1, "-o", "worst.csv")
    text = (tmp_path / "worst.csv").read_text()
    assert text.endswith("\n")
    assert "\r" not in text
    assert list(csv.reader(io.StringIO(text))) == [
        ["path", "truth", "label", "probability"],
        [rows[1][0], "red", "blue", "0.75"],
    ]
    del predicted


def test_csv_and_tsv_measure_the_same(run, model, root, predicted, tmp_path):
    run("cnn-predict", "-m", model(), root, "--top", "all", "-o", "predictions.csv")
    assert (tmp_path / "predictions.csv").read_text() == predicted.replace("\t", ",")
    (tmp_path / "truth.tsv").write_text(
        "path\tlabel\n"
        + "".join(
            f"{path}\t{CLASSES[0]}\n" for path in sorted({line.split("\t")[0] for line in predicted.splitlines()[1:]})
        )
    )
    words = ["--truth", "truth.tsv"]
    expected = run("cnn-eval", "predictions.tsv", *words).out
    assert run("cnn-eval", "predictions.csv", *words, "-o", "measures.tsv").out == ""
    assert (tmp_path / "measures.tsv").read_text() == expected
    run("cnn-eval", "predictions.csv", *words, "-o", "measures.json")
    assert json.loads((tmp_path / "measures.json").read_text()) == json.loads(
        run("cnn-eval", "predictions.tsv", *words, "--json").out
    )


def test_an_unchanged_file_is_not_written_again(run, model, root, predicted, tmp_path):
    os.utime(tmp_path / "predictions.tsv", (1, 1))
    run("cnn-predict", "-m", model(), root, "--top", "all", "-o", "predictions.tsv")
    assert (tmp_path / "predictions.tsv").stat().st_mtime == 1
    run("cnn-predict", "-m", model(), root, "-o", "predictions.tsv")
    assert (tmp_path / "predictions.tsv").read_text() != predicted


def test_a_failure_leaves_the_file_as_it_was(run, model, root, predicted, tmp_path):
    """Status 1 and 2."""
    (tmp_path / "bad.tsv").write_text(HEADER + f"a.png\t1\t{CLASSES[0]}\t0.5\na.png\t1\t{CLASSES[1]}\t0.5\n")
    (tmp_path / "empty").mkdir()
    run("cnn-predict", "-m", model(), "empty", "-o", "predictions.tsv", status=1)
    run("cnn-predict", "-m", model(), root, "--device", "cuda:99", "-o", "predictions.tsv", status=None)
    run("cnn-predict", "-m", model(), root, "--top", "0", "-o", "predictions.tsv", status=2)
    run("cnn-eval", "bad.tsv", "--truth", root, "-o", "predictions.tsv", status=1)
    assert (tmp_path / "predictions.tsv").read_text() == predicted
    run("cnn-eval", "bad.tsv", "--truth", root, "-o", "new.tsv", status=1)
    assert not (tmp_path / "new.tsv").exists()
    assert not _left(tmp_path)


def test_skipped_images_and_missed_gates_still_write(run, model, root, predicted, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    outcome = run("cnn-predict", "-m", model(), root, tmp_path / "broken.png", "-o", "skipped.tsv", status=3)
    assert outcome.out == ""
    assert len((tmp_path / "skipped.tsv").read_text().splitlines()) == 1 + (len(predicted.splitlines()) - 1) // len(
        CLASSES
    )
    (tmp_path / "one.tsv").write_text(HEADER + "a.png\t1\tx\t0.5\nb.png\t1\ty\t0.5\n")
    (tmp_path / "truth.tsv").write_text("path\tlabel\na.png\tx\nb.png\tx\n")
    gated = ["cnn-eval", "one.tsv", "--truth", "truth.tsv", "--fail-under", "accuracy=0.9"]
    run(*gated, "-o", "measures.tsv", status=4)
    assert (tmp_path / "measures.tsv").read_text() == run(*gated, status=4).out
    assert not _left(tmp_path)


def test_labels_and_shards(run, model, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["--labels-only"], ["--shard", "2/3"]):
        run("cnn-predict", "-m", model(), root, *words, "-o", "out.txt")
        assert (tmp_path / "out.txt").read_text() == run("cnn-predict", "-m", model(), root, *words).out


@pytest.mark.parametrize("command", ["cnn-predict", *TABLES])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "x.onnx"], "a name for a model; a table is written to .tsv, .csv, .jsonl or .json"),
        (["-o", "x.png"], "a name for an image"),
        (["-o", "x.xlsx"], "a name for a spreadsheet"),
        (["--json", "-o", "x.csv"], "--json contradicts -o x.csv; give -o x.jsonl, or drop --json"),
        (["-o", "folder"], "-o folder: a folder"),
        (["-o", "one.tsv"], "-o one.tsv: also an input, which would be replaced"),
    ],
)
def test_names_that_are_refused(run, model, tables, tmp_path, command, words, said):
    (tmp_path / "folder").mkdir()
    before = (tmp_path / "one.tsv").read_text()
    source = ["-m", model(), "one.tsv"] if command == "cnn-predict" else TABLES[command]
    if "one.tsv" in words and "one.tsv" not in source:
        source = ["one.tsv"]
    assert said in run(command, *source, *words, status=2).err
    assert (tmp_path / "one.tsv").read_text() == before


@pytest.mark.parametrize(
    "words",
    [
        ["cnn-predict", "-m", "model.onnx", "photos", "--errors", "same.tsv"],
        ["cnn-eval", "one.tsv", "--truth", "truth.tsv", "--baseline", "two.tsv", "--markdown", "same.tsv"],
        ["cnn-check", "photos", "--fix", "same.tsv"],
        ["cnn-advise", "photos", "--errors", "same.tsv"],
    ],
)
def test_two_outputs_have_two_names(run, tables, tmp_path, words):
    (tmp_path / "same.tsv").symlink_to("target.tsv")
    said = run(*words, "-o", "target.tsv", status=2).err
    assert said == f"{words[0]}: -o target.tsv: also the file of {words[-2]}; give another name\n"
    assert not (tmp_path / "target.tsv").exists()


def test_the_list_of_files0_from_is_an_input(run, model, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text(f"{root}/red/00.png\0")
    said = run("cnn-predict", "-m", model(), "--files0-from", "list", "-o", "list", status=2).err
    assert "-o list: also an input, which would be replaced" in said


def test_labels_are_not_json(run, model, root):
    said = run("cnn-predict", "-m", model(), root, "--labels-only", "-o", "x.json", status=2).err
    assert "--labels-only writes lines of text, not .json; give -o x.txt, or drop --labels-only" in said


@pytest.mark.parametrize("option", ["-o", "--errors"])
def test_a_missing_folder_is_reported_before_any_work(run, model, root, option):
    outcome = run("cnn-predict", "-m", model(), root, option, "no/such/x.tsv", "--quiet", status=1)
    assert (outcome.out, outcome.err) == ("", "cnn-predict: no/such: no such folder to write x.tsv into\n")


@pytest.mark.parametrize(
    "words",
    [
        ["cnn-check", "missing", "--fix", "no/x.tsv"],
        ["cnn-split", "missing", "--ratio", "1,1", "--manifest", "no/x.tsv"],
        ["cnn-eval", "missing", "--confusion", "no/x.png"],
        ["cnn-eval", "missing", "--reliability", "no/x.svg"],
        ["cnn-calibrate", "missing", "--reliability", "no/x.pdf"],
        ["cnn-curves", "missing", "-o", "no/x.png"],
    ],
)
def test_a_missing_folder_of_other_outputs_is_reported_before_anything_is_read(run, words):
    said = run(*words, status=1).err
    assert said == f"{words[0]}: no: no such folder to write {words[-1][3:]} into\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_writes_nothing(commands, model, root, tmp_path, number, status):
    (tmp_path / "out.tsv").write_text("before")
    words = [commands / "cnn-predict", "-m", model(), "-", "--batch", "1", "-o", "out.tsv"]
    with subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(f"{next(root.rglob('*.png'))}\n".encode() * 50)
        process.stdin.flush()
        limit = time.monotonic() + 20
        while not any(each.endswith(".tmp") for each in _left(tmp_path)) and time.monotonic() < limit:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(60) == status
    assert (tmp_path / "out.tsv").read_text() == "before"
    assert not _left(tmp_path)


def test_markdown_goes_to_standard_output_and_measures_to_the_file(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.tsv").write_text(HEADER + "a.png\t1\tx\t0.5\nb.png\t1\ty\t0.5\n")
    (tmp_path / "truth.tsv").write_text("path\tlabel\na.png\tx\nb.png\tx\n")
    words = ["cnn-eval", "one.tsv", "--truth", "truth.tsv", "--baseline", "one.tsv"]
    (tmp_path / "two.tsv").write_bytes((tmp_path / "one.tsv").read_bytes())
    words[-1] = "two.tsv"
    expected, table = run(*words).out, run(*words, "--markdown", "-").out
    assert run(*words, "--markdown", "-", "-o", "measures.tsv").out == table
    assert (tmp_path / "measures.tsv").read_text() == expected
