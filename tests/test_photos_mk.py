"""examples/photos.mk makes a model of a folder of photos, and remakes what depends on an image or a variable that changed; nothing else."""

import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MAKEFILE = Path(__file__).parents[1] / "examples" / "photos.mk"
PAGE = MAKEFILE.parents[1] / "docs" / "makefile.md"
PHOTOS = "my photos"  # names with spaces are supported
STEPS = ("check", "split", "extract", "extract", "train-head", "export", "predict", "eval", "eval", "cam")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


@pytest.fixture(scope="module")
def make(shell, commands):
    """Run make in a folder: `make(folder, "-q", HEAD="--solver lbfgs")`; no command downloads anything."""

    def run(folder, *words, status=0, **variables):
        backbone = '--layers "conv 8 k3 same relu, pool 2" --weights none --size 16'
        settings = {"PHOTOS": PHOTOS, "OUT": "out", "BIN": f"{commands}/", "EXTRACT": backbone, **variables}
        settings = {"CHECK": "--probes none", "RATIO": "40,20,40", "SEED": "3", "WORST": "3", **settings}
        line = " ".join(f"{name}='{value}'" for name, value in settings.items())
        return shell(f"make -f '{MAKEFILE}' {line} {' '.join(words)}", cwd=folder, status=status)

    return run


def write_image(path, *, red, seed):
    generator = np.random.default_rng(seed)
    pixels = generator.uniform(0, 120, (32, 40, 3)) + ((130, 0, 0) if red else (0, 0, 130))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make):
    """Make everything once; every fourth image of a class lies in the wrong folder, so that there are mistakes."""
    folder = tmp_path_factory.mktemp("photos")
    for label in ("red", "deep blue"):
        for index in range(12):
            red = (label == "red") is (index % 4 > 0)
            write_image(folder / PHOTOS / label / f"{index} x.png", red=red, seed=index + 100 * red)
    make(folder, "-j2")
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """Give a copy of what was made, with all times."""
    return shutil.copytree(finished, tmp_path / "copy")


def commands_of(outcome):
    """List the commands that make has run, or would run."""
    words = [
        word.rpartition("/cnn-")[2] for line in outcome.out.splitlines() for word in line.split() if "/cnn-" in word
    ]
    return sorted(words)


def split_of(folder):
    """Return the split of every image of split.tsv, by its path."""
    rows = [line.split("\t") for line in (folder / "out" / "split.tsv").read_text().splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


def times(folder):
    outputs = [*(folder / "out").iterdir()]
    return {path.name: path.stat().st_mtime_ns for path in outputs if not path.name.endswith(".settings")}


@pytest.mark.slow
def test_makes_a_model_with_everything_that_belongs_to_it(finished, make):
    out = finished / "out"
    assert {path.name for path in out.iterdir()} >= {"findings.tsv", "confusion.png", "mistakes.png", "model.onnx"}
    rows = [line.split("\t") for line in (out / "split.tsv").read_text().splitlines()[1:]]
    assert {row[1] for row in rows} == {"red", "deep blue"}
    assert {row[2] for row in rows} == {"train", "val", "test"}
    measures = dict(line.split("\t") for line in (out / "evaluation.tsv").read_text().splitlines())
    mistakes = (out / "mistakes.tsv").read_text().splitlines()[1:]
    assert float(measures["accuracy"]) < 1
    assert len(mistakes) == 3
    assert len((out / "maps.tsv").read_text().splitlines()[1:]) == 2 * 3
    assert ".." not in (out / "maps.tsv").read_text() + (out / "predictions.tsv").read_text()
    results = (out / "results.txt").read_text()
    assert f"accuracy {measures['accuracy']} on {measures['n']} test images" in results
    assert "out/mistakes.png" in results
    assert not [*out.glob("*.new")]
    make(finished, "-q")
    assert "Nothing to be done" in make(finished).out


@pytest.mark.slow
def test_an_image_that_is_added_or_removed_is_seen(folder, make):
    """All steps run again, and the outputs are newer; after that there is nothing to do. No other image changes its split."""
    before, splits = times(folder), split_of(folder)
    (folder / PHOTOS / ".hidden").mkdir()
    (folder / PHOTOS / ".hidden" / "x.png").write_bytes(b"")
    make(folder, "-q")
    write_image(folder / PHOTOS / "red" / "new one.png", red=True, seed=1000)
    (folder / PHOTOS / "deep blue" / "3 x.png").unlink()
    make(folder, "-q", status=1)
    outcome = make(folder, "-j2")
    assert commands_of(outcome) == sorted(STEPS)
    assert "next:" not in outcome.err
    assert (folder / "out" / "results.txt").read_text() in outcome.out
    after = times(folder)
    assert {name for name in before if after[name] == before[name]} == set()
    listed = split_of(folder)
    assert listed.pop(f"../{PHOTOS}/red/new one.png") in {"train", "val", "test"}
    assert listed == {path: split for path, split in splits.items() if not path.endswith("deep blue/3 x.png")}
    make(folder, "-q")


@pytest.mark.slow
@pytest.mark.parametrize("change", ["content", "time", "added", "removed", "renamed", "broken"])
def test_any_change_of_an_image_remakes_all(change, folder, make):
    path = folder / PHOTOS / "red" / "5 x.png"
    stat = path.stat()
    if change == "content":
        path.write_bytes(path.read_bytes() + b" ")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "time":
        os.utime(path)
    elif change == "added":
        shutil.copy2(path, path.with_name("copy.png"))
    elif change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(path.with_name("other.png"))
    else:
        path.write_bytes(b"")
    assert commands_of(make(folder, "-n")) == sorted(STEPS)
    make(folder, "-q", status=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "steps"),
    [
        ("CHECK", "--probes width", STEPS),
        ("RATIO", "60,20,20", STEPS[1:]),
        ("SPLIT", "--ratio 40,20,40", STEPS[1:]),
        ("SEED", "1", STEPS[1:]),
        ("EXTRACT", '--layers "conv 4 k3 same relu, pool 2" --weights none --size 16', STEPS[2:]),
        ("HEAD", '--head "dense 8 relu" --epochs 2', STEPS[4:]),
        ("WORST", "2", STEPS[8:]),
        ("FAIL_UNDER", "accuracy=0.1", ()),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isupper() else "",
)
def test_a_variable_remakes_what_depends_on_it(variable, value, steps, folder, make):
    assert commands_of(make(folder, "-n", **{variable: value})) == sorted(steps)


@pytest.mark.slow
def test_a_file_of_weights_is_a_prerequisite(folder, make):
    (folder / "weights.pth").write_bytes(b"")
    assert commands_of(make(folder, "-n", WEIGHTS="weights.pth")) == sorted(STEPS[2:])
    assert 'WEIGHTS="nowhere.pth": no such file' in make(folder, "-n", WEIGHTS="nowhere.pth", status=2).err
    assert 'BACKBONE="": give one network' in make(folder, "-n", BACKBONE="", status=2).err


@pytest.mark.slow
def test_a_broken_image_is_named_and_left_out(folder, make):
    """The split does not list it, and lists the others."""
    path = folder / "out" / "split.tsv"
    before = {line.split("\t")[0] for line in path.read_text().splitlines()}
    (folder / PHOTOS / "red" / "broken.png").write_bytes(b"not an image")
    outcome = make(folder, "out/split.tsv")
    assert "broken.png" in (folder / "out" / "findings.tsv").read_text() + outcome.err
    assert {line.split("\t")[0] for line in path.read_text().splitlines()} == before


@pytest.mark.slow
def test_without_mistakes_no_sheet_is_drawn(folder, make):
    """Predictions that are all right; the sheet of the mistakes that there were goes away."""
    lines = (folder / "out" / "split.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    right = [f"{os.path.relpath(folder / 'out' / row[0], folder)}\t1\t{row[1]}\t1" for row in rows if row[2] == "test"]
    (folder / "out" / "predictions.tsv").write_text("\n".join(["path\trank\tlabel\tprobability", *right]) + "\n")
    assert commands_of(make(folder)) == ["cam", "eval", "eval"]  # the line with cam is printed, and not run
    assert (folder / "out" / "mistakes.tsv").read_text().count("\n") == 1
    assert not (folder / "out" / "mistakes.png").exists()
    make(folder, "-q")


@pytest.mark.slow
def test_a_step_that_fails_leaves_the_old_output(folder, make):
    before = (folder / "out" / "predictions.tsv").read_bytes()
    (folder / "out" / "model.onnx").write_bytes(b"not a network")
    assert "model.onnx" in make(folder, status=2).err
    assert (folder / "out" / "predictions.tsv").read_bytes() == before
    make(folder, "-q", status=1)


@pytest.mark.slow
def test_the_gate_fails_on_a_measure_and_on_faults(folder, make):
    make(folder, "gate", FAIL_UNDER="accuracy=0.01")
    refused = make(folder, "gate", FAIL_UNDER="accuracy=0.01 accuracy_low=0.999", status=2)
    assert "accuracy_low" in refused.err
    assert "Error 4" in refused.err
    first, split = next(iter(split_of(folder).items()))
    shutil.copy(folder / "out" / first, folder / "out" / "same.png")
    with open(folder / "out" / "split.tsv", "a") as file:
        file.write(f"same.png\tred\t{'val' if split == 'test' else 'test'}\n")
    refused = make(folder, "-o", "out/predictions.tsv", "gate", FAIL_UNDER="accuracy=0.01", status=2)
    assert "same.png" in refused.out
    assert "Error 4" in refused.err


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PHOTOS": "nowhere"}, 'PHOTOS="nowhere": no such folder; give one that has a folder for each class'),
        ({"PHOTOS": ""}, 'PHOTOS="": no such folder'),
        ({"OUT": "my out"}, 'OUT="my out": give a folder whose name has no spaces'),
        ({"OUT": "photos/out"}, 'OUT="photos/out" lies in PHOTOS="photos"'),
        ({"OUT": "photos/../photos/new/out/"}, 'lies in PHOTOS="photos"'),
        ({"OUT": "."}, 'OUT=".": the current folder is not supported; give another folder'),
        ({"OUT": "./"}, 'OUT="./": the current folder is not supported'),
        ({"OUT": "file/out"}, 'OUT="file/out": the folder cannot be made'),
        ({"FIND": "false"}, "this needs GNU find"),
    ],
    ids=["no folder", "empty", "spaces", "inside", "inside by a detour", "here", "here with slash", "no place", "find"],
)
def test_refuses_folders_in_a_sentence(variables, message, make, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").touch()
    outcome = make(tmp_path, status=2, **{"PHOTOS": "photos", **variables})
    assert message in outcome.err
    assert "cnn-" not in outcome.out
    assert {path.name for path in tmp_path.rglob("*")} <= {"photos", "file", "out", "photos.list.new"}
    assert not (tmp_path / "photos" / "out").exists()


def test_the_rules_in_the_page_are_those_of_the_makefile():
    """docs/makefile.md quotes rules word for word, and names every variable and its default."""
    page, makefile = PAGE.read_text(encoding="utf-8"), MAKEFILE.read_text(encoding="utf-8")
    rules = re.findall(r"```make\n(.*?)```", page, re.DOTALL)
    assert len(rules) >= 6
    for rule in rules:
        assert rule in makefile
    for name, default in re.findall(r"^(\w+) \?=[ ]?(.*)$", makefile, re.MULTILINE):
        assert f"`{name}`" in page or f"`{name}=" in page
        assert f"`{default}`" in page or default in ("", "find")


@pytest.mark.slow
def test_command_lines_of_the_page_name_what_there_is(folder, make):
    """The targets and variables in the indented lines are known to the Makefile."""
    lines = re.findall(r"^    make -f (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    known = {*re.findall(r"^(\w+) \?=", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)}
    assert len(lines) == 2
    for line in lines:
        file, *words = shlex.split(line)
        assert MAKEFILE.samefile(MAKEFILE.parents[1] / file)
        named = dict(word.split("=", 1) for word in words if "=" in word)
        assert named.keys() <= known
        goals = [word for word in words if "=" not in word]
        assert "cnn-" in make(folder, "-n", *goals, **(named | {"PHOTOS": PHOTOS, "SEED": "7"})).out
