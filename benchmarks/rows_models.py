"""Rows of cnn-export: its time, and the speed and accuracy of int8."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from inputs import Inputs
from row import Metric, Program, Role, Row


def _int8(backbone: str, inputs: Inputs) -> Sequence[Program]:
    models = {name: inputs.work / f"{backbone}-{name}.onnx" for name in ("int8", "float32")}
    inputs.script("make_int8.py", backbone, models["float32"], models["int8"])

    def rate(model: Path) -> Mapping[str, float]:
        wall, cpu = inputs.script("onnx_rate.py", model, 2).stdout.split()
        return {"wall": float(wall), "CPU": float(cpu)}

    return [
        Program("int8", partial(rate, models["int8"])),
        Program("float32", partial(rate, models["float32"]), Role.PEER),
    ]


def _int8_accuracy(inputs: Inputs) -> Sequence[Program]:
    head, split = inputs.head, inputs.split

    def ours() -> Mapping[str, float]:
        # --max-drop 1: all layers are in int8, whatever they do to accuracy
        words = ("--int8", "--calibrate", split, "--max-drop", 1, "--json", "-q")
        done = inputs.ours("cnn-export", head, "-o", inputs.new(".onnx"), *words)
        float32, int8 = (json.loads(line) for line in done.stdout.splitlines())
        return done.sample(drop=float32["accuracy"] - int8["accuracy"], agreement=int8["top1_agreement"])

    return [Program("cnn-export --int8", ours, rounds=1)]


def _export(inputs: Inputs) -> Sequence[Program]:
    inputs.fill_cache()

    def ours(*, cold: bool) -> Mapping[str, float]:
        cache = inputs.new() if cold else None
        words = ("-o", inputs.new(".onnx"), "--device", "cpu", "-q")
        return inputs.ours("cnn-export", inputs.head, *words, cache=cache).sample()

    return [
        Program("cnn-export", partial(ours, cold=False)),
        Program("cnn-export, empty cache", partial(ours, cold=True), Role.OTHER, rounds=1),
        Program(
            "torch.onnx.export script",
            lambda: inputs.peer("torch_export.py", inputs.weights, inputs.new(".onnx")).sample(),
            Role.PEER,
        ),
    ]


def _verify(inputs: Inputs) -> Sequence[Program]:
    inputs.fill_cache()
    folder = inputs.images(1000)

    def ours() -> Mapping[str, float]:
        words = ("-o", inputs.new(".onnx"), "--verify", folder, "--device", "cpu", "-q")
        return inputs.ours("cnn-export", inputs.head, *words).sample()

    return [Program("cnn-export --verify", ours)]


INT8 = "batches of 32, random weights, the network alone in ONNX Runtime, per image"

ROWS = (
    Row(
        "int8-mobilenet_v2",
        f"MobileNetV2, {INT8}",
        {"wall": Metric("ms", times=2), "CPU": Metric("ms CPU", times=2)},
        partial(_int8, "mobilenet_v2"),
    ),
    Row(
        "int8-resnet50",
        f"ResNet50, {INT8}",
        {"wall": Metric("ms", times=3), "CPU": Metric("ms CPU", times=3)},
        partial(_int8, "resnet50"),
    ),
    Row(
        "int8-accuracy",
        "cnn-export --int8 of MobileNetV2 with a head, all layers: the drop in accuracy on 500 held-out images against float32, and the "
        "share of them with the same class; with random weights these say little",
        {
            "drop": Metric("accuracy drop", limit=0.01),
            "agreement": Metric("top-1 agreement", higher=True),
            "CPU": Metric("s CPU"),
        },
        _int8_accuracy,
    ),
    Row(
        "export",
        "cnn-export of MobileNetV2 with a head; the whole process",
        {"wall": Metric("s", limit=5), "CPU": Metric("s CPU"), "memory": Metric("MB")},
        _export,
    ),
    Row(
        "export-verify",
        "the same with --verify on 1,000 images",
        {"wall": Metric("s", limit=25), "CPU": Metric("s CPU"), "memory": Metric("MB")},
        _verify,
    ),
)
