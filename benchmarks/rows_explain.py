"""Rows of cnn-cam and cnn-dims."""

from collections.abc import Mapping, Sequence
from functools import partial

from inputs import Inputs
from measure import rate_without_start
from row import Metric, Program, Role, Row

BATCH = 16


def _cam(inputs: Inputs) -> Sequence[Program]:
    folder, image = inputs.images(60), inputs.image
    count = sum(1 for _ in folder.glob("*/*"))

    def ours() -> Mapping[str, float]:
        words = ("-m", "mobilenet_v2", "--weights", inputs.weights, "--device", "cpu", "--batch", BATCH, "-q")
        one = inputs.ours("cnn-cam", image, *words, "-o", inputs.new())
        done = inputs.ours("cnn-cam", folder, *words, "-o", inputs.new())
        return done.sample(rate=rate_without_start(done, one, count))

    def peer() -> Mapping[str, float]:
        done = inputs.peer("gradcam.py", folder, inputs.weights, BATCH, inputs.new())
        return done.sample(rate=float(done.stdout))

    return [Program("cnn-cam", ours), Program("pytorch-grad-cam", peer, Role.PEER)]


def _dims(script: str, name: str, inputs: Inputs) -> Sequence[Program]:
    words = ("--input", "128,128,3", "--filters", "32", "--k", "3", "--s", "2", "--pad", "same")
    inputs.ours("cnn-dims", *words)  # compiles the modules
    return [
        Program("cnn-dims", lambda: inputs.ours("cnn-dims", *words).sample()),
        Program(name, lambda: inputs.peer(script).sample(), Role.PEER),
    ]


ROWS = (
    Row(
        "cam",
        "Grad-CAM overlays of 60 images, MobileNetV2, batches of 16, from files to files; the rate without the start "
        "(cnn-cam: the time of all less that of one)",
        {"rate": Metric("images/s", higher=True, times=1 / 0.27)},
        _cam,
    ),
    Row(
        "dims-keras",
        "output shape and parameters of one convolution, with Keras on torch; the whole process",
        {"wall": Metric("s", times=30), "CPU": Metric("s CPU"), "memory": Metric("MB")},
        partial(_dims, "keras_summary.py", "Keras"),
    ),
    Row(
        "dims-torchinfo",
        "the same with torchinfo",
        {"wall": Metric("s", times=10), "CPU": Metric("s CPU"), "memory": Metric("MB")},
        partial(_dims, "torchinfo_summary.py", "torchinfo"),
    ),
)
