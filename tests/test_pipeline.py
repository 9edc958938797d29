"""The whole workflow with the real commands, in a shell."""

import json

import pytest

BACKBONE = '--layers "conv 8 k3 same relu, pool 2" --weights none --size 12 --pool avg'


def make_head(shell, folder, photos, *, jobs, **others):
    """Run the workflow from images to an exported head in a folder, and return the result of the training."""
    shell(f"cnn-split {photos} --ratio 0.5,0.25,0.25 --seed 3 --manifest split.tsv -q", cwd=folder, **others)
    for split in ("train", "val"):
        line = f"cnn-extract split.tsv --split {split} -o {split}.npy {BACKBONE} --jobs {jobs} -q"
        shell(line, cwd=folder, **others)
    trained = shell(
        "cnn-train-head train.npy --val val.npy -o head.pt --head 'dense 8 relu' --epochs 20 -q --json",
        cwd=folder,
        **others,
    )
    shell(f"cnn-export head.pt -o head.onnx --verify split.tsv --split val --jobs {jobs} -q", cwd=folder, **others)
    return json.loads(trained.out)


@pytest.fixture
def tinted(images):
    """Small images of three classes."""
    return images(red=16, blue=16, green=16, size=(31, 23))


def test_training_and_prediction_agree(shell, tinted):
    """The validation results of the training are those of cnn-predict | cnn-eval."""
    folder = tinted.parent
    trained = make_head(shell, folder, "photos", jobs=2)
    line = "set -o pipefail; cnn-predict -m head.onnx split.tsv --split val -q --top 3 | cnn-eval --truth split.tsv --split val -q --json"
    evaluated = json.loads(shell(line, cwd=folder).out)
    assert evaluated["n"] == trained["val_rows"] == 12
    assert evaluated["accuracy"] == pytest.approx(trained["val_accuracy"], abs=1e-12)
    assert evaluated["log_loss"] == pytest.approx(trained["val_loss"], abs=1e-4)


@pytest.mark.slow
def test_second_run_gives_the_same_bytes(shell, tinted, tmp_path):
    """With another number of threads and another hash seed; and no file contains its location."""
    made = []
    for name, jobs, env in (("one", 1, {}), ("two", 3, {"PYTHONHASHSEED": "1"})):
        folder = tmp_path / name
        folder.mkdir()
        make_head(shell, folder, "../photos", jobs=jobs, env=env)
        files = ("split.tsv", "train.npy", "train.tsv", "train.json", "val.npy", "head.pt", "head.onnx")
        made.append({file: (folder / file).read_bytes() for file in files})
    assert made[0] == made[1]
    assert not any(str(tmp_path).encode() in content for content in made[0].values())


@pytest.mark.parametrize(
    "command", ["cnn-split {} --ratio 1,1 -q", f"cnn-extract {{}} -o x.npy {BACKBONE} -q && cat x.tsv && od x.npy"]
)
def test_arguments_and_standard_input_are_equivalent(shell, tinted, command):
    """Images named by arguments, by a list for `-`, and by a list on standard input without an argument."""
    cwd = tinted.parent
    if "split" in command:  # it needs labels, so a manifest
        shell("cnn-split photos --ratio 1,1 --manifest all.tsv -q", cwd=cwd)
        ways = [
            command.format("all.tsv"),
            f"cat all.tsv | {command.format('-')}",
            f"cat all.tsv | {command.format('')}",
        ]
    else:
        ways = [
            command.format("photos/red/*.png"),
            f"ls photos/red/*.png | {command.format('-')}",
            f"find photos/red -name '*.png' -print0 | sort -z | {command.format('-0')}",
        ]
    outcomes = [
        [line for line in shell(f"{way}", cwd=cwd).out.splitlines() if not line.startswith("x.npy\t")] for way in ways
    ]
    assert len(outcomes[0]) > 8
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_manifest_in_a_pipe(shell, tinted):
    """The stdout of cnn-split is a SOURCE for the next command."""
    piped = shell(
        f"cnn-split photos --ratio 1,1 -q | cnn-extract - --split val -o piped.npy {BACKBONE} -q", cwd=tinted.parent
    )
    shell(
        f"cnn-split photos --ratio 1,1 -q > split.tsv; cnn-extract split.tsv --split val -o named.npy {BACKBONE} -q",
        cwd=tinted.parent,
    )
    assert piped.rows[0]["rows"] == "24"
    for suffix in (".npy", ".tsv", ".json"):
        assert (tinted.parent / f"piped{suffix}").read_bytes() == (tinted.parent / f"named{suffix}").read_bytes()
