"""The runner of `make bench`, with rows made up here; the real rows take minutes."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bench(monkeypatch):
    """The modules of benchmarks/, which import each other as scripts do."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (
            getattr(sys.modules[name], "__file__", None)
            and Path(sys.modules[name].__file__).parent == ROOT / "benchmarks"
        ):
            del sys.modules[name]


@pytest.fixture
def rows(bench):
    """Two rows: seconds, with two peers, and a program that fails; `calls` is the order in which programs ran."""
    row, measure = bench("row"), bench("measure")
    calls = []
    values = {"ours": [3.0, 1.0, 2.0], "slow": [9.0, 8.0, 7.0], "fast": [4.0, 5.0, 6.0]}

    def program(name, role):
        def run():
            calls.append(name)
            return {"wall": values[name][calls.count(name) - 1], "rate": 10.0, "unused": 0.0}

        return row.Program(name, run, role)

    def programs(_inputs):
        roles = row.Role
        return [program("ours", roles.OURS), program("slow", roles.PEER), program("fast", roles.PEER)]

    def failing(_inputs):
        command = [sys.executable, "-c", "import sys; sys.exit('no such image')"]
        return [row.Program("broken", lambda: measure.run(command).sample())]

    metrics = {"wall": row.Metric("s", times=2, limit=1.5), "rate": row.Metric("images/s", higher=True, limit=10)}
    return (
        row.Row("times-one", "a work", metrics, programs),
        row.Row("broken", "another", {"wall": row.Metric("s")}, failing),
    ), calls


def test_programs_alternate_and_ratios_are_those_of_the_best_peer(bench, rows, tmp_path, capsys):
    """The medians by hand: 2 against 5 is 2.5 times better, which meets 2 times, but 2 s is more than 1.5 s."""
    readme, log = tmp_path / "README.md", tmp_path / "results.jsonl"
    readme.write_text("# Title\n<!-- begin of results -->\nold\n<!-- end of results -->\nlast line\n", encoding="utf-8")
    made, calls = rows
    assert bench("suite").main(["--rounds", "3", "--json", str(log), "--readme", str(readme)], made) == 1
    assert calls == ["ours", "slow", "fast"] * 3
    machine, *lines, failure = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    assert machine["machine"]["cores"] >= 1
    assert [(each["program"], each["metric"], each["median"], each["ratio"], each["met"]) for each in lines] == [
        ("ours", "wall", 2, 2.5, False),
        ("slow", "wall", 8, 5 / 8, None),
        ("fast", "wall", 5, 1, None),
        ("ours", "rate", 10, 1, True),
        ("slow", "rate", 10, 1, None),
        ("fast", "rate", 10, 1, None),
    ]
    assert failure["failed"].endswith("exit status 1: no such image")
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("# Title\n<!-- begin")
    assert text.endswith("<!-- end of results -->\nlast line\n")
    assert "\nold\n" not in text
    assert "| times-one | ours | 2 | 1 | 3 | s | 2.50 | 2 times, at most 1.5 s | missed |" in text
    written = capsys.readouterr()
    assert "row 2 of 2, broken: another\n" in written.err
    printed = [line.split() for line in written.out.splitlines()]
    assert ["times-one", "slow", "8", "7", "9", "s", "0.62"] in printed


def test_long_programs_run_in_fewer_rounds(bench, rows, tmp_path, monkeypatch):
    """After the time that is meant for all its rounds, a program is run twice and not again."""
    suite = bench("suite")
    monkeypatch.setattr(suite, "SECONDS", 0)
    words = ["--rounds", "3", "--json", str(tmp_path / "x.jsonl"), "--only", "times-one"]
    assert suite.main(words, rows[0]) == 0
    assert rows[1] == ["ours", "slow", "fast"] * 2


def test_a_program_that_fails_leaves_the_others_of_its_row(bench, rows, tmp_path, capsys):
    """It is not run again. Without a peer that could be the best there is no ratio; another program of ours takes none away."""
    row, suite = bench("row"), bench("suite")
    (times, broken), calls = rows

    def failing(_inputs):
        calls.append("broken")
        return broken.programs(_inputs)[0].run()

    def with_failing(role):
        return row.Row(
            "partly", "a work", times.metrics,
            lambda inputs: [row.Program("broken", lambda: failing(inputs), role), *times.programs(inputs)],
        )  # fmt: skip

    for role, ratio, reach, met in (
        (row.Role.PEER, None, "at most 1.5 s", False),
        (row.Role.OURS, 2.5, "2 times, at most 1.5 s", False),
    ):
        calls.clear()
        log = tmp_path / "results.jsonl"
        assert suite.main(["--rounds", "3", "--json", str(log), "--only", "partly"], [with_failing(role)]) == 1
        assert calls == ["broken", *["ours", "slow", "fast"] * 3]
        _, *lines, failure = map(json.loads, log.read_text(encoding="utf-8").splitlines())
        assert [each["program"] for each in lines] == ["ours", "slow", "fast"] * 2
        assert [lines[0][key] for key in ("median", "ratio", "reach", "met")] == [2, ratio, reach, met]
        assert failure["failed"].startswith("partly, broken: ")
        assert failure["failed"].endswith("exit status 1: no such image")
        written = capsys.readouterr()
        assert written.err.count("exit status 1: no such image") == 1
        assert "slow" in written.out


def test_a_run_of_some_rows_leaves_the_readme_alone(bench, rows, tmp_path):
    """`times` names times-one as well; a name without a row is an error."""
    readme, suite = tmp_path / "README.md", bench("suite")
    words = ["--rounds", "1", "--json", str(tmp_path / "x.jsonl"), "--readme", str(readme), "--only"]
    assert suite.main([*words, "times"], rows[0]) == 0
    assert not readme.exists()
    with pytest.raises(SystemExit, match="no row tim; there are times-one, broken"):
        suite.main([*words, "tim"], rows[0])


def test_modules_of_the_start_are_those_of_the_commands(bench):
    """Each tool imports the first of its modules, and all of them exist."""
    for command, modules in bench("rows_start").MODULES.items():
        first, *_ = names = modules.split(", ")
        package, _, module = first.rpartition(".")
        tool = (ROOT / "tools" / f"{command.replace('-', '_')}.py").read_text(encoding="utf-8")
        assert re.search(rf"from {package} import .*\b{module}\b|from {first} import ", tool), command
        assert all((ROOT / f"{name.replace('.', '/')}.py").is_file() for name in names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", str(ROOT / "README.md")], r"README\.md: not a folder; give one of class folders"),
        (["--data", "nowhere"], "nowhere: does not exist"),
        (["--rounds", "0"], "--rounds 0: give at least 1"),
    ],
)
def test_rejects_what_no_program_can_work_on(bench, rows, words, message):
    """Before anything is made, instead of empty tables or a traceback."""
    with pytest.raises(SystemExit, match=message):
        bench("suite").main(words, rows[0])


def test_rejects_data_without_class_folders(bench, tmp_path):
    """Photographs directly in the folder have no class."""
    given = bench("inputs").Inputs(tmp_path / "work", data=str(tmp_path), weights="none", peers=Path("python"))
    with pytest.raises(SystemExit, match="no class folders"):
        given.images(4)


@pytest.mark.parametrize("installed", ["onnxruntime", "onnxruntime-gpu"])
def test_version_of_onnxruntime_under_either_name(bench, monkeypatch, installed):
    """An installation for a machine without CUDA has no onnxruntime-gpu, on x86_64 too."""
    table = bench("table")

    def version(name):
        if name != installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(table, "version", version)
    assert table._version("onnxruntime") == "1.2.3"


def test_usage_includes_children():
    """A child of the program uses memory and CPU time, and both are counted; measured by a program without a large memory of its own."""
    child = "import time; x = bytearray(60_000_000)\nwhile time.process_time() < 0.1: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done')"
    measuring = f"import measure, sys; used = measure.run([sys.executable, '-c', {code!r}]); print(used.memory, used.cpu, used.stdout)"
    done = subprocess.run(
        [sys.executable, "-c", measuring], cwd=ROOT / "benchmarks", stdout=subprocess.PIPE, text=True, check=True
    )
    memory, seconds, printed = done.stdout.split()
    assert printed == "done"
    assert 60 < float(memory) < 140
    assert float(seconds) > 0.1
