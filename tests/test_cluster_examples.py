"""The examples for clusters, with the variables that SLURM, Kubernetes and make set: joined shards are the features of one run."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
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


#: What the examples need of SLURM: the jobs of an array one after the other, then their statuses; steps on all nodes at once.
SLURM = {
    "sbatch": """\
range=${1#--array=} status=0; shift
for task in $(seq ${range%-*} ${range#*-}); do
    env SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_COUNT=$((${range#*-} - ${range%-*} + 1)) SLURM_ARRAY_TASK_STEP=1 \
        SLURM_ARRAY_TASK_MIN=${range%-*} SLURM_ARRAY_TASK_MAX=${range#*-} bash "$@" || status=1
done
exit $status
""",
    "srun": """\
for node in $(seq $SLURM_JOB_NUM_NODES); do
    SLURM_PROCID=$((node - 1)) SLURM_NTASKS=$SLURM_JOB_NUM_NODES "$@" & steps="$steps $!"
done
for step in $steps; do wait $step || status=1; done
exit $status
""",
    "scontrol": "seq $SLURM_JOB_NUM_NODES | sed s/.*/localhost/\n",
}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory, commands):
    """Return PATH with SLURM's programs before the installed commands."""
    programs = tmp_path_factory.mktemp("slurm")
    for name, text in SLURM.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}")
        (programs / name).chmod(0o755)
    return f"{programs}:{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"


def joined(shell, folder, parts):
    shell(f"cnn-extract --join {parts} -o joined.npy", cwd=folder)
    return [(folder / f"joined{suffix}").read_bytes() for suffix in (".npy", ".tsv", ".json")]


def expected(folder):
    return [(folder / f"all{suffix}").read_bytes() for suffix in (".npy", ".tsv", ".json")]


@pytest.mark.slow
def test_slurm_array(shell, folder, slurm):
    """A task fails, --join names its shard, and that task is submitted again, alone."""
    (folder / "net.txt").write_text("conv 8 k3 relu")
    words = {"PATH": slurm, "BACKBONE": "--layers @net.txt --weights none --size 16"}
    line = f"{CLUSTER / 'slurm.sh'} photos slurm"
    (folder / "slurm" / "part-2.tsv").mkdir(parents=True)  # in the way of the second task
    failed = shell(f"sbatch --array=1-2 {line}", cwd=folder, env=words, status=1)
    assert "part-2.tsv" in failed.err
    missing = shell("cnn-extract --join slurm/part-*.npy -o joined.npy", cwd=folder, status=1)
    assert "shard 2/2 is missing; extract it with --shard 2/2" in missing.err
    (folder / "slurm" / "part-2.tsv").rmdir()
    again = shell(f"SHARDS=2 sbatch --array=2-2 {line}", cwd=folder, env=words)
    assert "shard 2/2" in again.err
    assert "shard 1/2" not in again.err
    assert joined(shell, folder, "slurm/part-*.npy") == expected(folder)
    assert "photos/blue/02.png" in (folder / "slurm" / "skipped-1.tsv").read_text()


def test_a_task_of_a_slurm_array_that_is_run_again_has_the_same_shard(shell, tmp_path, slurm):
    """Arrays whose tasks have other numbers than the shards are refused, and so is a task without the number of shards."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "cnn-extract").write_text('#!/bin/sh\necho "$*" >> words\n')
    (programs / "cnn-extract").chmod(0o755)

    def submit(line, status=0):
        outcome = shell(f"{line} {CLUSTER / 'slurm.sh'} photos parts", cwd=tmp_path, env={"PATH": path}, status=status)
        words = tmp_path / "words"
        made = words.read_text().splitlines() if words.exists() else []
        words.unlink(missing_ok=True)
        return made, outcome.err

    path = f"{programs}:{slurm}"
    first, _ = submit("sbatch --array=1-3")
    assert [line.split(" -o ")[0] for line in first] == [f"photos --shard {number}/3" for number in (1, 2, 3)]
    for number, line in enumerate(first, start=1):
        assert submit(f"SHARDS=3 sbatch --array={number}-{number}")[0] == [line]
    assert submit("SHARDS=3 sbatch --array=2-3")[0] == first[1:]
    for line in ("sbatch --array=0-2", "SHARDS=3 sbatch --array=0-0", "sbatch --array=2-3", "sbatch --array=1-1"):
        made, error = submit(line, status=1)
        assert not made
        assert "usage: sbatch --array=1-N slurm.sh PHOTOS PARTS\n" in error
        assert "SHARDS=N sbatch --array=5 slurm.sh PHOTOS PARTS" in error


def test_slurm_script_outside_of_an_array(shell, tmp_path):
    outcome = shell(f"bash {CLUSTER / 'slurm.sh'} photos parts", cwd=tmp_path, status=2)
    assert outcome.err.startswith("usage: sbatch --array=1-N slurm.sh PHOTOS PARTS\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_shards_of_make_take_turns_on_gpus(shell, tmp_path):
    for number, device in ((1, "cuda:0"), (2, "cuda:1"), (3, "cuda:0")):
        line = f"make -s -f {CLUSTER / 'shards.mk'} SHARDS=3 RUN=echo parts/part-{number}-of-3.npy"
        assert "--device" not in shell(line, cwd=tmp_path).out
        assert shell(f"{line} GPUS=2", cwd=tmp_path).out.endswith(f"--device {device}\n")


@pytest.mark.slow
def test_training_on_two_nodes_gives_the_result_of_one_process(shell, folder, slurm, agree):
    """Within rounding; each node starts a torchrun, and they meet at the first one."""
    shell("cnn-split photos --ratio 0.5,0.5 --seed 0 --manifest split.tsv", cwd=folder, status=3)
    line = (
        "cnn-train split.tsv --layers 'conv 4 k3 relu, pool 2, flatten, dense 6 relu' --size 16 --device cpu --epochs 2 --batch 3 "
        "--optimizer sgd --lr 0.05 --normalize scale --augment hflip --amp off --json"
    )
    one = shell(f"{line} -o one.pt", cwd=folder)
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    environment = {**job, "PATH": slurm, "PORT": str(port), "OMP_NUM_THREADS": "1"}
    two = shell(f"bash {CLUSTER / 'train.sh'} {line} -o two.pt", cwd=folder, env=environment)
    assert two.err.count("training in 2 processes, communicating by gloo") == 1
    agree((one, two), [folder / "one.pt", folder / "two.pt"], count=3)


@pytest.mark.slow
def test_kubernetes_indexed_job(shell, folder):
    """The command of the container, with its variables and the index that Kubernetes gives; one pod fails and is started again."""
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((CLUSTER / "job.yaml").read_text())
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    volumes = {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert all(isinstance(value, str) for value in variables.values())  # Kubernetes refuses numbers
    count = job["spec"]["completions"]
    assert variables["JOB_COMPLETION_COUNT"] == str(count)
    variables["CNNKIT_CACHE"] = os.environ["CNNKIT_CACHE"]
    shell_words, text = container["command"][:2], container["command"][2]
    assert shell_words == ["sh", "-c"]
    text = text.replace("/data/", "").replace("--backbone mobilenet_v2", BACKBONE).replace("parts", "pods")

    def pod(index, status=0):
        line = shlex.join([*shell_words, text])
        return shell(line, cwd=folder, env={**variables, "JOB_COMPLETION_INDEX": str(index)}, status=status)

    (folder / "pods" / "part-4.tsv").mkdir(parents=True)  # in the way of the fourth shard
    for index in range(count):
        pod(index, status=1 if index == 3 else 0)
    (folder / "pods" / "part-4.tsv").rmdir()
    assert f"shard 4/{count}" in pod(3).err
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
    (folder / "made" / "part-2-of-3.npy").unlink()  # as if its job had failed
    again = shell(line, cwd=folder).err
    assert "shard 2/3" in again
    assert "shard 1/3" not in again


def test_the_example_for_ray_names_the_package_that_is_missing():
    """Also next to a Ray without Ray Data."""
    code = "import runpy, sys; sys.modules['ray'] = None; runpy.run_path(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, CLUSTER / "ray_images.py"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ray_images.py: ")
    assert done.stderr.endswith("pip install 'ray[data]'\n")
