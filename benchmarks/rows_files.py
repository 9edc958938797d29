"""Rows of the commands that read many files, or tables of many rows."""

from collections.abc import Mapping, Sequence
from functools import partial

from inputs import Inputs
from row import Metric, Program, Role, Row


def _check(inputs: Inputs) -> Sequence[Program]:
    folder = inputs.images(4000)
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return [
        Program("cnn-check", lambda: inputs.ours("cnn-check", folder, "--probes", "none", "-q").sample()),
        Program("imagededup PHash", lambda: inputs.peer("imagededup_duplicates.py", *classes).sample(), Role.PEER),
    ]


def _split(inputs: Inputs) -> Sequence[Program]:
    folder = inputs.many_files

    def ours(*words: str) -> Mapping[str, float]:
        output = ("-o", inputs.new(), "--link", "symlink")
        return inputs.ours("cnn-split", folder, "--ratio", "70,15,15", *output, "-q", *words).sample()

    def peer() -> Mapping[str, float]:
        return inputs.peer("splitfolders_split.py", folder, inputs.new()).sample()

    return [
        Program("cnn-split --no-verify", partial(ours, "--no-verify")),
        Program("cnn-split", ours, Role.OTHER, rounds=1),
        Program("split-folders", peer, Role.PEER),
    ]


def _split_manifest(inputs: Inputs) -> Sequence[Program]:
    words = ("--ratio", "70,15,15", "--no-verify", "-q")
    manifest = inputs.tables / "manifest.tsv"

    def ours() -> Mapping[str, float]:
        return inputs.ours("cnn-split", manifest, *words, "--manifest", inputs.new(".tsv")).sample()

    return [Program("cnn-split --no-verify", ours)]


def _eval(inputs: Inputs, *words: str) -> Sequence[Program]:
    tables = inputs.tables

    def ours() -> Mapping[str, float]:
        return inputs.ours("cnn-eval", "predictions.tsv", *words, "-q", cwd=tables).sample()

    return [Program(" ".join(("cnn-eval", *words)), ours)]


def _augment(inputs: Inputs) -> Sequence[Program]:
    folder = inputs.images(200)
    words = ("--augment", "rotate 40, shift 0.2, shear 0.2, zoom 0.2, hflip", "--copies", 5, "-q")
    return [
        Program("cnn-augment", lambda: inputs.ours("cnn-augment", folder, "-o", inputs.new(), *words).sample()),
        Program(
            "torchvision in processes",
            lambda: inputs.peer("torchvision_augment.py", folder, inputs.new()).sample(),
            Role.PEER,
        ),
    ]


ROWS = (
    Row(
        "check",
        "near duplicates among 4,000 images, cnn-check --probes none; the whole process",
        {"wall": Metric("s", times=1), "CPU": Metric("s CPU", times=1), "memory": Metric("MB")},
        _check,
    ),
    Row(
        "eval",
        "cnn-eval of 1,000,000 predictions whose folders are the truth; the whole process",
        {"wall": Metric("s", limit=15), "CPU": Metric("s CPU"), "memory": Metric("MB", limit=600)},
        _eval,
    ),
    Row(
        "eval-truth",
        "the same with a manifest of 1,000,000 rows as the truth",
        {"wall": Metric("s", limit=30), "CPU": Metric("s CPU"), "memory": Metric("MB", limit=1000)},
        lambda inputs: _eval(inputs, "--truth", "truth.tsv", "--complete"),
    ),
    Row(
        "split",
        "50,000 files into 3 splits by symbolic links; the whole process (split-folders opens no file, as --no-verify)",
        {"wall": Metric("s", times=1), "CPU": Metric("s CPU", times=1), "memory": Metric("MB")},
        _split,
    ),
    Row(
        "split-manifest",
        "a manifest of 1,000,000 rows in groups of 3, without opening files; the whole process",
        {"wall": Metric("s", limit=30), "CPU": Metric("s CPU"), "memory": Metric("MB", limit=1000)},
        _split_manifest,
    ),
    Row(
        "augment",
        "5 copies of each of 200 images; the whole process",
        {"wall": Metric("s", times=2), "CPU": Metric("s CPU", times=2), "memory": Metric("MB")},
        _augment,
    ),
)
