"""Rows of cnn-extract and cnn-predict."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from inputs import Inputs
from row import Metric, Program, Role, Row

BATCH = 32


# ---------------------------------------------------------------- photographs of a phone


def _extract_photos(inputs: Inputs, decoding: str) -> dict[str, float]:
    done = inputs.ours(
        "cnn-extract", inputs.phone_photos, "-o", inputs.new(".npy"), *inputs.backbone,
        "--decoding", decoding, "--device", "cpu", "--json", "-q",
    )  # fmt: skip
    return done.sample(rate=json.loads(done.stdout)["per_second"])


def _photos_extract(inputs: Inputs) -> Sequence[Program]:
    return [
        Program("cnn-extract", partial(_extract_photos, inputs, "scaled")),
        Program("--decoding full", partial(_extract_photos, inputs, "full"), Role.PEER),
    ]


def _photos_predict(inputs: Inputs) -> Sequence[Program]:
    """Predict with the same network and two headers; the probabilities of the last two runs are compared."""
    full = inputs.work / "full.onnx"
    inputs.script("make_full_decoding.py", inputs.model, full)
    seen: dict[str, dict[tuple[str, str], float]] = {}

    def predict(name: str, model: Path) -> Mapping[str, float]:
        words = ("--top", "all", "--device", "cpu", "--json", "-q")
        photos = sorted(inputs.phone_photos.glob("*/*"))
        one = inputs.ours("cnn-predict", "-m", model, photos[0], *words)
        done = inputs.ours("cnn-predict", "-m", model, *photos, *words)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        seen[name] = {(row["path"], row["label"]): row["probability"] for row in rows}
        found = done.sample(rate=(len(photos) - 1) / (done.wall - one.wall))
        if len(seen) == 2:
            some, others = seen.values()
            found["difference"] = max(abs(value - others[key]) for key, value in some.items())
        return found

    return [
        Program("cnn-predict", partial(predict, "scaled", inputs.model)),
        Program("full decoding", partial(predict, "full", full), Role.PEER),
    ]


# ---------------------------------------------------------------- features


def _extract(inputs: Inputs, folder: Path, *words: object) -> dict[str, float]:
    done = inputs.ours(
        "cnn-extract", folder, "-o", inputs.new(".npy"), *inputs.backbone,
        "--batch", BATCH, "--device", "cpu", "--json", "-q", *words,
    )  # fmt: skip
    return done.sample(rate=json.loads(done.stdout)["per_second"])


def _features(inputs: Inputs) -> Sequence[Program]:
    folder, few = inputs.images(1000), inputs.images(300)
    _extract(inputs, few)  # exports the backbone, once

    def peer(script: str, images: Path) -> Mapping[str, float]:
        done = inputs.peer(script, images, inputs.weights, BATCH)
        return done.sample(rate=float(done.stdout))

    return [
        Program("cnn-extract", partial(_extract, inputs, folder)),
        Program("timm's loader, bf16", partial(peer, "timm_extract.py", folder), Role.PEER),
        Program("torch DataLoader", partial(peer, "torch_extract.py", few), Role.PEER),
    ]


def _bench(inputs: Inputs) -> Mapping[str, float]:
    words = ("--batch", BATCH, "--device", "cpu", "--json", "-q", "--bench")
    done = inputs.ours("cnn-extract", inputs.images(1000), *inputs.backbone, *words)
    found: dict[str, float] = json.loads(done.stdout)
    return found


# ---------------------------------------------------------------- one image


def _predict_one(inputs: Inputs) -> Sequence[Program]:
    words = ("-m", inputs.model, inputs.image, "--device", "cpu", "-q")
    return [
        Program("cnn-predict", lambda: inputs.ours("cnn-predict", *words).sample()),
        Program(
            "torch script",
            lambda: inputs.peer("torch_predict.py", inputs.weights, inputs.image).sample(),
            Role.PEER,
        ),
    ]


# ---------------------------------------------------------------- shards


def _scaling(inputs: Inputs) -> Sequence[Program]:
    """Extract on one core with one process, and on two cores with a shard each; every process gets one thread."""
    folder = inputs.images(1000)
    count = sum(1 for _ in folder.glob("*/*"))
    _extract(inputs, inputs.images(200))

    def extract(shards: int) -> Mapping[str, float]:
        commands = [
            inputs.command(
                "cnn-extract", folder, "-o", inputs.new(".npy"), *inputs.backbone, "--batch", BATCH, "--device", "cpu",
                "--jobs", 1, "-q", *(("--shard", f"{number + 1}/{shards}") if shards > 1 else ()),
            )
            for number in range(shards)
        ]  # fmt: skip
        done = inputs.together(commands)
        return done.sample(rate=count / done.wall)

    return [
        Program("two shards", partial(extract, 2)),
        Program("one process", partial(extract, 1), Role.PEER),
    ]


ROWS = (
    Row(
        "photos-extract",
        "cnn-extract on 12-megapixel JPEG files, MobileNetV2; the printed rate, without the start",
        {"rate": Metric("images/s", higher=True, times=3)},
        _photos_extract,
    ),
    Row(
        "photos-predict",
        "cnn-predict on the same files; their time less that of one file; `difference`: between probabilities, the largest",
        {
            "rate": Metric("images/s", higher=True, times=3),
            "difference": Metric("probability difference"),
        },
        _photos_predict,
    ),
    Row(
        "extract",
        "features of 1,000 images, MobileNetV2, batches of 32; the rate without start and loading (DataLoader: 300 images)",
        {"rate": Metric("images/s", higher=True, times=2)},
        _features,
    ),
    Row(
        "extract-share",
        "share of the possible rate 1/(1/decoding + 1/network) that cnn-extract reaches, as printed by --bench",
        {
            "share": Metric("of 1", higher=True, limit=0.95),
            "decode": Metric("images/s decoded", higher=True),
            "network": Metric("images/s network", higher=True),
        },
        lambda inputs: [Program("cnn-extract --bench", partial(_bench, inputs))],
    ),
    Row(
        "extract-shards",
        "cnn-extract on 1,000 images with --jobs 1: one process on one core, and --shard 1/2 and 2/2 on two; whole processes",
        {"rate": Metric("images/s", higher=True, times=1.8)},
        _scaling,
    ),
    Row(
        "predict-one",
        "one image, MobileNetV2; the whole process",
        {
            "wall": Metric("s", times=10),
            "CPU": Metric("s CPU", limit=0.35),
            "memory": Metric("MB"),
        },
        _predict_one,
    ),
)
