"""The example for Ray Data, on a cluster of two nodes: the files of one process, also after an actor is killed."""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "cluster" / "ray_images.py"

#: A Python that has Ray: that of the tests, or the one that `make test-all` makes.
PYTHON = Path(sys.executable) if importlib.util.find_spec("ray") else ROOT / ".venv" / "ray" / "bin" / "python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        Path(sys.executable) != PYTHON and not (PYTHON.parent / "ray").exists(),
        reason="ray is not installed; make .venv/ray/made",
    ),
]

#: Maps of odd sizes: an image has other last bits in another row of its batch.
BACKBONE = '--layers "conv 5 k3 s2 same relu, pool 2, conv 7 k3 bn relu" --weights none --size 20'

#: Two nodes of one core each, until standard input is closed.
NODES = """\
import sys
from ray.cluster_utils import Cluster

words = {"num_cpus": 1, "object_store_memory": 100 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**words, "include_dashboard": False})
cluster.add_node(**words)
print("address", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""

#: The example, whose actor is killed once, when it has computed its third share but not returned it.
KILLED = f"""\
import os, pathlib, signal, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import ray_images
from ray import cloudpickle

class Killed(ray_images.Predict):
    def __call__(self, batch):
        outcome, marker = super().__call__(batch), pathlib.Path("killed")
        if str(batch["shard"][0]).startswith("3/") and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

cloudpickle.register_pickle_by_value(ray_images)
ray_images.Predict = Killed
sys.exit(ray_images.main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shell):
    """A folder with photos/, whose last image is broken, and the files of one process."""
    folder = tmp_path_factory.mktemp("ray")
    generator = np.random.default_rng(0)
    for name in (f"{label}/{number}" for label in ("blue", "red") for number in range(7)):
        path = folder / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    (folder / "photos" / "red" / "7.png").write_bytes(b"no image")
    for line, status in (
        (f"cnn-extract photos -o one.npy --batch 4 {BACKBONE} --device cpu", 3),
        ("cnn-train-head one.npy -o head.pt --epochs 1 --device cpu", 0),
        ("cnn-export head.pt -o head.onnx --device cpu", 0),
        ("cnn-predict -m head.onnx photos --batch 4 --top 2 --device cpu --errors one-errors.tsv > one-table.tsv", 3),
    ):
        shell(line, cwd=folder, status=status)
    return folder


@pytest.fixture(scope="module")
def cluster():
    """Start two nodes, and return the variables that lead to them."""
    with tempfile.TemporaryDirectory(prefix="cnnkit-ray-") as place:  # the path of a socket must be short
        variables = {"RAY_TMPDIR": place, "RAY_USAGE_STATS_ENABLED": "0"}
        nodes = subprocess.Popen(
            [PYTHON, "-c", NODES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | variables,
        )
        with nodes:
            found = (re.match(r"address (\S+)$", line) for line in nodes.stdout)
            address = next((match[1] for match in found if match), None)
            assert address is not None, "the cluster does not start"
            yield variables | {"RAY_ADDRESS": address}
            nodes.stdin.close()


def test_predictions_are_those_of_one_process_after_an_actor_is_killed(shell, folder, cluster):
    """In the same order, byte by byte; the share that was lost is done again, and the skipped image is listed."""
    (folder / "killed.py").write_text(KILLED)
    words = "predict photos -m head.onnx --top 2 --batch 4 --share 3 -o table.tsv --errors errors.tsv"
    outcome = shell(f"{PYTHON} killed.py {words}", cwd=folder, status=3, env=cluster)
    assert "5 shares of 15 images, 2 workers" in outcome.err
    assert (folder / "killed").exists()
    assert "photos/red/7.png: not an image" in outcome.err
    for name in ("table", "errors"):
        assert (folder / f"{name}.tsv").read_bytes() == (folder / f"one-{name}.tsv").read_bytes()


def test_features_are_those_of_one_process(shell, folder, cluster):
    """All three files, byte by byte."""
    line = f"{PYTHON} {SCRIPT} extract photos --batch 4 --share 5 {BACKBONE} -o"
    shell(f"{line} features.npy", cwd=folder, status=3, env=cluster)
    for suffix in (".npy", ".tsv", ".json"):
        assert (folder / f"features{suffix}").read_bytes() == (folder / f"one{suffix}").read_bytes(), suffix


def test_errors_are_one_line(shell, folder, cluster):
    """Found by an actor, or before there is one; nothing is written."""
    for words, status, message in (
        ("predict photos -m head.pt", 2, "head.pt: prediction needs an ONNX file; run cnn-export head.pt -o head.onnx"),
        ("predict photos -m head.onnx --gpus", 1, "the cluster has no GPU; drop --gpus"),
    ):
        outcome = shell(f"{PYTHON} {SCRIPT} {words} -o none.tsv", cwd=folder, status=status, env=cluster)
        assert any(line.startswith(message) for line in outcome.err.splitlines()), outcome
        assert "Traceback" not in outcome.err
    assert not (folder / "none.tsv").exists()
