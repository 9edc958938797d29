"""The examples for clusters, with the variables that SLURM, Kubernetes and make set: joined shards are the features of one run."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLUSTER = Path(__file__).parents[1] / "examples" / "cluster"
BACKBONE = "--layers 'conv 8 k3 relu' --weights none --size 16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shell):
    """A folder with photos/, of which one is broken, and all.npy, the features of one run."""
    folder = tmp_path_factory.mktemp("cluster")
    generator = np.random.default_rng(0)
    for name in ("red/00", "red/01", "red/02", "blue/00", "blue/01", "blue/03"):
        path = folder / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    (folder / "photos" / "blue" / "02.png").write_bytes(b"no image")
    shell(f"cnn-extract photos -o all.npy {BACKBONE}", cwd=folder, status=3)
    return folder


def joined(shell, folder, parts):
    shell(f"cnn-extract --join {parts} -o joined.npy", cwd=folder)
    return [(folder / f"joined{suffix}").read_bytes() for suffix in (".npy", ".tsv", ".json")]


def expected(folder):
    return [(folder / f"all{suffix}").read_bytes() for suffix in (".npy", ".tsv", ".json")]


@pytest.mark.slow
def test_slurm_array(shell, folder):
    """One task of the array after the other; then one of them again, alone."""
    shell(f"bash -n {CLUSTER / 'slurm.sh'}", cwd=folder)
    line = f"bash {CLUSTER / 'slurm.sh'} photos slurm"
    (folder / "net.txt").write_text("conv 8 k3 relu")
    words = {"BACKBONE": "--layers @net.txt --weights none --size 16"}
    for task in (1, 2):
        shell(line, cwd=folder, env={**words, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "2"})
    (folder / "slurm" / "part-2.npy").unlink()
    env = {**words, "SHARDS": "2", "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "1"}
    shell(line, cwd=folder, env=env)
    assert joined(shell, folder, "slurm/part-*.npy") == expected(folder)
    assert "photos/blue/02.png" in (folder / "slurm" / "skipped-1.tsv").read_text()


@pytest.mark.slow
def test_kubernetes_indexed_job(shell, folder):
    """The command of the container, with the numbers of the job; the number of shards is that of completions."""
    text = (CLUSTER / "job.yaml").read_text()
    (count,) = {*re.findall(r"completions: (\d+)", text), *re.findall(r'COUNT\n *value: "(\d+)"', text)}
    command = " ".join(re.search(r">-\n(.*?)\n +resources:", text, re.DOTALL)[1].split())
    command = command.replace("/data/", "").replace("--backbone mobilenet_v2", BACKBONE).replace("parts", "pods")
    for index in range(int(count)):
        shell(command, cwd=folder, env={"JOB_COMPLETION_INDEX": str(index), "JOB_COMPLETION_COUNT": count})
    assert joined(shell, folder, "pods/part-*.npy") == expected(folder)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make(shell, folder, commands):
    """A second run makes nothing; after one shard is lost, it alone is extracted again."""
    line = f'make -s -j 2 -f {CLUSTER / "shards.mk"} SHARDS=3 OUT=made BIN={commands}/ BACKBONE="{BACKBONE}"'
    shell(line, cwd=folder)
    made = [(folder / "made" / f"features{suffix}").read_bytes() for suffix in (".npy", ".json")]
    assert made == [expected(folder)[0], expected(folder)[2]]
    assert shell(line, cwd=folder).err == ""
    (folder / "made" / "part-2-of-3.npy").unlink()
    again = shell(line, cwd=folder).err
    assert "shard 2/3" in again
    assert "shard 1/3" not in again
