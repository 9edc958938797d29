"""Commands where only the packages of requirements/predict.txt are installed: what they print and write, and what they ask for.

The virtual environment has links to those packages of this one, and to those that they require, so that nothing is downloaded.
"""

import json
import os
import shutil
import subprocess
import tomllib
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image, ImageDraw

from cnnkit import packages

ROOT = Path(__file__).parents[2]
LISTS = {name: ROOT / "requirements" / f"{name}.txt" for name in ("predict", "predict-gpu")}
#: What the environment must not have.
ABSENT = (
    "torch",
    "torchvision",
    "onnxscript",
    "sklearn",
    "scipy",
    "matplotlib",
    "imagehash",
    "plotext",
    "threadpoolctl",
)
CPU = ("--device", "cpu")
TRAINING = "run pip install torch torchvision onnxscript scikit-learn scipy"  # and safetensors, which timm requires

#: Run command lines one after the other in forks of a process, and print their exit statuses; their output is in the folder `said`.
RUNNER = """
import gc, importlib, json, os, sys
# what most of them import; not onnxruntime, which starts a thread
import onnx, cnnkit.audit.check, cnnkit.cli, cnnkit.evaluation.report, cnnkit.explain.cam_render, cnnkit.formats.onnx_model
gc.freeze()
for number, (name, *words) in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
        for descriptor, stream in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"said/{number}.{stream}", os.O_WRONLY | os.O_CREAT), descriptor)
        importlib.import_module("cnnkit_tools." + name.replace("-", "_")).main(words)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def requirements(name):
    """Read a list of requirements, by the name of the package."""
    lines = [line for line in LISTS[name].read_text().splitlines() if line and not line.startswith("#")]
    return {each.name: each for each in map(Requirement, lines)}


def installed(name):
    """Return an installed distribution; onnxruntime-gpu stands in for onnxruntime, whose modules it has."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return distribution({"onnxruntime": "onnxruntime-gpu"}[name])


def closure(names):
    """Return the distributions of these names and those that they require, without extras."""
    found, waiting = {}, list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found[name] = installed(name)
            needed = map(Requirement, found[name].requires or [])
            waiting += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found.values()


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Make the virtual environment, and return its Python."""
    folder = tmp_path_factory.mktemp("lean") / "venv"
    venv.EnvBuilder(symlinks=True).create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    for each in closure(requirements("predict")):
        for top in {file.parts[0] for file in each.files} - {"..", "__pycache__"}:
            (site / top).symlink_to(each.locate_file(top))
    (described,) = Path(np.__file__).parents[1].glob("cnnkit-*.dist-info")
    (site / described.name).symlink_to(described)
    (site / "cnnkit").symlink_to(ROOT / "cnnkit")
    (site / "cnnkit_tools").symlink_to(ROOT / "tools")
    return folder / "bin" / "python"


#: An extraction whose backbone is exported by the fixture, and is then in the cache.
EXTRACTION = (
    "cnn-extract",
    "split.tsv",
    "--layers",
    "conv 4 k3 relu, pool 2",
    "--weights",
    "none",
    "--size",
    "16",
    *CPU,
)
#: Commands that need no more, with the files that they write.
WORKING = {
    ("cnn-predict", "-m", "head.onnx", "split.tsv", "--top", "all", *CPU): (),
    ("cnn-predict", "-m", "head.onnx", "-m", "head.onnx", "split.tsv", "--tta", "hflip", *CPU): (),
    ("cnn-eval", "said/0.out", "--truth", "split.tsv", "--json"): (),
    ("cnn-eval", "said/0.out", "--truth", "split.tsv", "--baseline", "said/0.out", "--fail-if-worse"): (),
    ("cnn-compare", "said/0.out", "said/0.out", "--truth", "split.tsv"): (),
    ("cnn-calibrate", "said/0.out", "--truth", "split.tsv", "-m", "head.onnx", "-o", "warm.onnx"): ("warm.onnx",),
    ("cnn-split", "photos", "--ratio", "50,50", "--near"): (),
    ("cnn-check", "split.tsv", "--probes", "none", "--features", "x.npy"): (),
    ("cnn-dims", "head.onnx"): (),
    (
        "cnn-cam",
        "-m",
        "head.onnx",
        "split.tsv",
        "-o",
        "cam",
        "--raw",
        "--faithful",
        "--box",
        "0.5",
        "--colormap",
        "jet",
        *CPU,
    ): ("cam",),
    ("cnn-maps", "-m", "head.onnx", "photos/red/00.png", "-o", "maps", *CPU): ("maps",),
    (*EXTRACTION, "-o", "again.npy"): ("again.npy", "again.tsv"),
}
#: Commands that need another package, with their messages.
ASKING = {
    ("cnn-train-head", "x.npy", "-o", "no.pt"): f"cnn-train-head: this needs torch, which is not installed; {TRAINING}",
    ("cnn-export", "head.pt", "-o", "no.onnx"): f"which is not installed; {TRAINING}",
    (*EXTRACTION, "--pool", "max", "-o", "no.npy"): "cnn-extract: the backbone is not in the cache (",
    ("cnn-predict", "-m", "resnet18", "photos"): "cnn-predict: resnet18 is not in the cache (",
    (
        "cnn-cam",
        "-m",
        "head.onnx",
        "photos",
        "-o",
        "no",
        "--colormap",
        "PuOr",
    ): 'cnn-cam: --colormap "PuOr" needs matplotlib',
    ("cnn-check", "split.tsv", "--probes", "width"): "cnn-check: --probes needs scikit-learn, which is not installed; ",
    ("cnn-check", "split.tsv", "--table", "probes"): "cnn-check: --table probes needs scikit-learn, which is not",
    (
        "cnn-eval",
        "said/0.out",
        "--truth",
        "split.tsv",
        "--confusion",
        "no.png",
    ): "no.png needs matplotlib, which is not",
    (
        *("cnn-calibrate", "said/0.out", "--truth", "split.tsv", "-m", "head.onnx", "-o", "no.onnx"),
        *("--reliability", "no.png"),
    ): "cnn-calibrate: no.png needs matplotlib, which is not installed; run pip install matplotlib",
}
OTHERS = [("cnn-check", "split.tsv"), ("cnn-check", "drawings", "--json"), ("cnn-predict", "--version")]
#: tests/test_layering.py tests for every command that its help imports no heavy package.
HELP = [("cnn-train", "--help"), ("cnn-curves", "--help")]


@pytest.fixture(scope="module")
def lean(python, made, tmp_path_factory):
    """Run all command lines in that environment; return the folder, and the status and both streams of each."""
    folder = made(
        ("cnn-split", "photos", "--ratio", "50,50", "--names", "train,val", "--manifest", "split.tsv"),
        (*EXTRACTION, "-o", "x.npy"),
        ("cnn-train-head", "x.npy", "-o", "head.pt", "--epochs", "1", *CPU),
        ("cnn-export", "head.pt", "-o", "head.onnx", "--cam", *CPU),
        photos={".": {"red": 6, "blue": 6}},
    )
    draw_circles(folder / "drawings")
    (folder / "said").mkdir()
    shutil.copytree(folder, folder.with_name("full"))
    lines = [*WORKING, *ASKING, *OTHERS, *HELP]
    done = subprocess.run(
        [python, "-c", RUNNER],
        input=json.dumps(lines),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    statuses = map(int, done.stdout.split())
    said = {
        line: (status, *((folder / "said" / f"{number}.{stream}").read_text() for stream in ("out", "err")))
        for number, (line, status) in enumerate(zip(lines, statuses, strict=True))
    }
    return folder, said


def draw_circles(folder):
    """Draw a circle in two sizes, which is symmetric, and one square."""
    folder.mkdir()
    for name, size, shape in (("circle", 64, "ellipse"), ("copy", 96, "ellipse"), ("square", 64, "rectangle")):
        image = Image.new("RGB", (size, size), "white")
        getattr(ImageDraw.Draw(image), shape)((size // 4, size // 4, size - size // 4, size - size // 4), "black")
        image.save(folder / f"{name}.png")


def test_environment_lacks_the_other_packages(python):
    """So that the other tests test something."""
    program = f"import importlib.util; print([each for each in {ABSENT} if importlib.util.find_spec(each)])"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("line", WORKING, ids=" ".join)
def test_output_is_that_of_the_full_installation(lean, run, monkeypatch, line):
    """What is printed and written, byte for byte; predictions and features to rounding, in case ONNX Runtime has another version."""
    folder, said = lean
    status, out, err = said[line]
    assert status == 0, err
    full = folder.with_name("full")
    shutil.copytree(folder / "said", full / "said", dirs_exist_ok=True)
    monkeypatch.chdir(full)
    ours = run(*line)
    timing = line[0] == "cnn-extract"
    assert out.split("\t")[:4] == ours.out.split("\t")[:4] if timing else out == ours.out
    for name in WORKING[line]:
        written = [
            path.relative_to(full) for path in ((full / name).rglob("*") if (full / name).is_dir() else [full / name])
        ]
        assert written
        for path in written:
            assert (folder / path).is_dir() or (folder / path).read_bytes() == (full / path).read_bytes(), path


@pytest.mark.parametrize("line", ASKING, ids=" ".join)
def test_missing_package_is_one_line_with_the_remedy(lean, line):
    """Before anything is written."""
    folder, said = lean
    status, out, err = said[line]
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert ASKING[line] in err
    assert "run pip install " in err
    assert not list(folder.glob("no*"))


def test_check_without_scikit_learn_warns_that_it_looks_for_no_leaks(lean):
    """And does everything else."""
    status, _, err = lean[1]["cnn-check", "split.tsv"]
    assert status == 0
    assert (
        "cnn-check: no leaks are looked for: that needs scikit-learn, which is not installed; run pip install scikit-learn"
        in err
    )


def test_copies_of_a_symmetric_drawing_are_found_without_imagehash(lean):
    """Rounding would decide on the bits of its zero frequencies."""
    status, out, err = lean[1]["cnn-check", "drawings", "--json"]
    assert status == 0, err
    alike = [each for each in map(json.loads, out.splitlines()) if each["finding"] == "alike"]
    assert [(each["path"], each["other"]) for each in alike] == [("drawings/copy.png", "drawings/circle.png")]


def test_version_names_what_is_missing(lean):
    """For bug reports."""
    status, out, _ = lean[1]["cnn-predict", "--version"]
    assert status == 0
    assert ", torch: not installed, " in out
    assert ", onnxruntime" in out


@pytest.mark.parametrize("line", HELP, ids=" ".join)
def test_help_needs_no_package(lean, line):
    """Not even that of a command that needs one to do anything."""
    status, out, err = lean[1][line]
    assert (status, err) == (0, "")
    assert line[0] in out


@pytest.mark.parametrize("name", LISTS)
def test_lists_have_the_bounds_of_pyproject(name):
    """A package of the list is one of pyproject.toml, with the same versions and extras."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = {each.name: each for each in map(Requirement, declared)}
    for package, listed in requirements(name).items():
        assert (listed.specifier, listed.extras, listed.marker) == (
            bounds[package].specifier,
            bounds[package].extras,
            None,
        )
    predict, gpu = (set(requirements(each)) for each in LISTS)
    assert (predict - gpu, gpu - predict) == ({"onnxruntime"}, {"onnxruntime-gpu"})
    assert {package for package in bounds if package not in predict | gpu} == {
        *("torch", "torchvision", "onnxscript", "matplotlib", "scikit-learn"),
        *("threadpoolctl", "scipy", "imagehash", "plotext", "safetensors"),
    }
    assert set(packages.LEFT_OUT.values()) == set(bounds) - predict - gpu


def test_dockerfile_copies_what_is_there_and_what_is_not_ignored():
    """And its lists of requirements exist; the image itself is not built here."""
    lines = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines()]
    copied = [word for line in lines if line[:1] == ["COPY"] and "--from=build" not in line for word in line[1:-1]]
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(kept)
    assert all((ROOT / name).exists() for name in copied)
    assert ["ARG", "REQUIREMENTS=predict.txt"] in lines
    assert "predict-gpu.txt" in (ROOT / "Dockerfile").read_text()
