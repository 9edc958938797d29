"""Rows of cnn-extract and cnn-predict."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from inputs import Inputs
from measure import CommandError, cores, rate_without_start
from row import Metric, Program, Role, Row

from cnnkit.data import workers

BATCH = 32


# ---------------------------------------------------------------- photographs of a phone


def _extract_photos(inputs: Inputs, photos: Path, decoding: str) -> dict[str, float]:
    done = inputs.ours(
        "cnn-extract", photos, "-o", inputs.new(".npy"), *inputs.backbone,
        "--decoding", decoding, "--device", "cpu", "--json", "-q",
    )  # fmt: skip
    return done.sample(rate=json.loads(done.stdout)["per_second"])


def _photos_extract(inputs: Inputs) -> Sequence[Program]:
    photos = inputs.phone_photos
    return [
        Program("cnn-extract", partial(_extract_photos, inputs, photos, "scaled")),
        Program("--decoding full", partial(_extract_photos, inputs, photos, "full"), Role.PEER),
    ]


PREDICT = ("--top", "all", "--device", "cpu", "--json", "-q")


def _full_model(inputs: Inputs) -> Path:
    """Return the same network with a header that says that images are decoded completely."""
    output = inputs.new(".onnx")
    inputs.script("make_full_decoding.py", inputs.model, output)
    return output


def _photos_predict(inputs: Inputs) -> Sequence[Program]:
    photos = sorted(inputs.phone_photos.glob("*/*"))

    def predict(model: Path) -> Mapping[str, float]:
        one = inputs.ours("cnn-predict", "-m", model, photos[0], *PREDICT)
        done = inputs.ours("cnn-predict", "-m", model, *photos, *PREDICT)
        return done.sample(rate=rate_without_start(done, one, len(photos)))

    return [
        Program("cnn-predict", partial(predict, inputs.model)),
        Program("full decoding", partial(predict, _full_model(inputs)), Role.PEER),
    ]


def _photos_difference(inputs: Inputs) -> Sequence[Program]:
    models = inputs.model, _full_model(inputs)

    def compare() -> Mapping[str, float]:
        printed = [inputs.ours("cnn-predict", "-m", model, inputs.phone_photos, *PREDICT).stdout for model in models]
        scaled, full = (
            {(row["path"], row["label"]): row["probability"] for row in map(json.loads, each.splitlines())}
            for each in printed
        )
        return {"difference": max(abs(value - full[key]) for key, value in scaled.items())}

    return [Program("cnn-predict", compare, rounds=1)]


# ---------------------------------------------------------------- features


def _extract(inputs: Inputs, folder: Path, *words: object) -> dict[str, float]:
    done = inputs.ours(
        "cnn-extract", folder, "-o", inputs.new(".npy"), *inputs.backbone,
        "--batch", BATCH, "--device", "cpu", "--json", "-q", *words,
    )  # fmt: skip
    return done.sample(rate=json.loads(done.stdout)["per_second"])


def _features(inputs: Inputs) -> Sequence[Program]:
    folder, few = inputs.images(1000), inputs.images(150)
    _extract(inputs, few)  # exports the backbone, once

    def peer(script: str, images: Path) -> Mapping[str, float]:
        done = inputs.peer(script, images, inputs.weights, BATCH)
        return done.sample(rate=float(done.stdout))

    return [
        Program("cnn-extract", partial(_extract, inputs, folder)),
        Program("timm's loader, bf16", partial(peer, "timm_extract.py", folder), Role.PEER),
        Program("torch DataLoader", partial(peer, "torch_extract.py", few), Role.PEER),
    ]


def _share(inputs: Inputs) -> Sequence[Program]:
    folder = inputs.images(1000)

    def bench() -> Mapping[str, float]:
        words = ("--batch", BATCH, "--device", "cpu", "--json", "-q", "--bench")
        found: dict[str, float] = json.loads(inputs.ours("cnn-extract", folder, *inputs.backbone, *words).stdout)
        return found

    return [Program("cnn-extract --bench", bench)]


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


def _shards(inputs: Inputs) -> Sequence[Program]:
    folder, whole = inputs.images(500), inputs.new(".npy")
    _extract(inputs, inputs.images(200))  # exports the backbone, once

    def extract(*commands: Sequence[object]) -> Mapping[str, float]:
        wall, done = inputs.together(commands)
        printed = [json.loads(each.stdout) for each in done]
        spent = [each.cpu for each in done]
        return {
            "rate": sum(each["rows"] for each in printed) / max(each["seconds"] for each in printed),
            "wall": wall,
            "CPU": sum(spent),
            "slowest": max(spent),
        }

    def command(output: Path, *words: object) -> Sequence[object]:
        return inputs.command(
            "cnn-extract", folder, "-o", output, *inputs.backbone, "--batch", BATCH, "--device", "cpu",
            "--jobs", 1, "--json", "-q", *words,
        )  # fmt: skip

    def one() -> Mapping[str, float]:
        return extract(command(whole))

    def two() -> Mapping[str, float]:
        parts, joined = [inputs.new(".npy") for _ in range(2)], inputs.new(".npy")
        found = extract(*(command(part, "--shard", f"{number}/2") for number, part in enumerate(parts, start=1)))
        inputs.ours("cnn-extract", "--join", *parts, "-o", joined, "-q")
        for suffix in (".npy", ".tsv", ".json"):
            if joined.with_suffix(suffix).read_bytes() != whole.with_suffix(suffix).read_bytes():
                raise CommandError(f"{suffix} of the joined shards is not that of one process")
        return found

    return [Program("one process", one, Role.PEER), Program("two shards", two)]


# ---------------------------------------------------------------- threads and worker processes


def _workers(inputs: Inputs) -> Sequence[Program]:
    folder = inputs.tiny_images

    def decode(threads: int, workers: int) -> Mapping[str, float]:
        found: dict[str, float] = json.loads(inputs.script("decoding_rate.py", folder, threads, workers).stdout)
        return found

    return [
        Program("--workers, one per core", partial(decode, cores(), cores())),
        Program("--workers 1", partial(decode, cores(), 1), Role.OTHER),
        Program("threads, one per core", partial(decode, cores(), 0), Role.PEER),
        Program("one thread", partial(decode, 1, 0), Role.OTHER),
    ]


def _worker_start(inputs: Inputs) -> Sequence[Program]:
    code = "import cnnkit.data.worker, cnnkit.engine.batches"
    return [Program("worker", lambda: inputs.python(code, variables=workers.ONE_THREAD).sample())]


ROWS = (
    Row(
        "photos-extract",
        "cnn-extract on 12-megapixel JPEG files, MobileNetV2; the printed rate, without the start",
        {"rate": Metric("images/s", higher=True, times=3)},
        _photos_extract,
    ),
    Row(
        "photos-predict",
        "cnn-predict on the same files; their time less that of one file",
        {"rate": Metric("images/s", higher=True, times=3)},
        _photos_predict,
    ),
    Row(
        "photos-difference",
        "the largest difference of a probability between scaled and full decoding of these files",
        {"difference": Metric("of 1")},
        _photos_difference,
    ),
    Row(
        "extract",
        "features of 1,000 images, MobileNetV2, batches of 32; the rate without start and loading (DataLoader: 150 images)",
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
        _share,
    ),
    Row(
        "extract-shards",
        "cnn-extract on 500 images: one process on one core, and --shard 1/2 and 2/2 at the same time, each on its own core; "
        "the rate of the slower shard without the start, whole processes, and the CPU time of the slower one; the joined files are "
        "compared with those of one process",
        {
            "rate": Metric("images/s", higher=True, times=1.8),
            "wall": Metric("s"),
            "CPU": Metric("s CPU"),
            "slowest": Metric("s CPU, slower one"),
        },
        _shards,
    ),
    Row(
        "workers",
        "decoding of 5,000 images of 32 x 32 pixels without a network, in threads and in --workers; the rate without the start, and the "
        "CPU time per image of the command's own process, whose reciprocal is the most images per second, and of all processes",
        {
            "rate": Metric("images/s", higher=True),
            "own": Metric("µs CPU, own", times=1),
            "CPU": Metric("µs CPU"),
        },
        _workers,
    ),
    Row(
        "workers-start",
        "what a worker process imports; the whole process",
        {"CPU": Metric("s CPU"), "memory": Metric("MB")},
        _worker_start,
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
