"""Extraction through the library: the right rows, resuming, and refusal to resume with other settings or images."""

import dataclasses
import logging
import os
import shutil

import numpy as np
import pytest
import torch

from cnnkit.callbacks import Callbacks
from cnnkit.choices import Decoding, Engine, FeatureDtype, Pool
from cnnkit.data import augment_notation, decode, preprocessing, source
from cnnkit.data.source import ImageFile
from cnnkit.engine import runner, torch_backbone
from cnnkit.engine.config import BackboneSpec
from cnnkit.engine.resample import Augmenter
from cnnkit.errors import BadImageError, CnnkitError, FormatError, UsageError
from cnnkit.formats import features
from cnnkit.formats.header import ArtefactKind
from cnnkit.infer import extract
from cnnkit.infer.config import ExtractConfig

BACKBONE = BackboneSpec(layers="conv 5 k3 s2 same relu, pool 2, conv 7 k3 bn relu", weights="none", size=20, seed=2)


@pytest.fixture
def photographs(images):
    """Thirty small images of two classes."""
    return source.find([str(images(red=15, blue=15))])


def run(photographs, output, **words):
    """Extract."""
    callbacks = Callbacks(**{name: words.pop(name) for name in ("skip", "progress") if name in words})
    spec = words.pop("spec", BACKBONE)
    config = ExtractConfig(**{"batch": 4, "device": "cpu", **words})
    return extract.extract(photographs, output, config, spec=spec, callbacks=callbacks)


def content(path):
    return {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".npy", ".tsv", ".json")}


def reference(photographs, spec=BACKBONE):
    """Return torch's features of the same images, one by one."""
    module, header = torch_backbone.build_extractor(spec)
    rows = [preprocessing.load(image.path, header.preprocess) for image in photographs]
    with torch.no_grad():
        return np.concatenate([module(torch.from_numpy(row[None].copy())).numpy() for row in rows])


# ---------------------------------------------------------------- output


@pytest.mark.parametrize(
    ("pool", "shape"), [(Pool.AVG, "7"), (Pool.MAX, "7"), (Pool.FLATTEN, "63"), (Pool.NONE, "7x3x3")]
)
def test_rows_are_torchs_features(photographs, tmp_path, pool, shape):
    """Row i has torch's features of image i, for every pooling; paths, labels and Header are in the other files."""
    spec = BackboneSpec(layers=BACKBONE.layers, weights="none", size=20, seed=2, pool=pool)
    summary = run(photographs, tmp_path / "x.npy", spec=spec)
    assert (summary.rows, summary.shape, summary.skipped, summary.resumed) == (30, shape, 0, 0)
    loaded = features.load(tmp_path / "x.npy")
    np.testing.assert_allclose(loaded.values, reference(photographs, spec), rtol=1e-4, atol=1e-5)
    assert [os.path.join(tmp_path, row.path) for row in loaded.rows] == [image.path for image in photographs]
    assert [row.label for row in loaded.rows] == [image.label for image in photographs]
    assert loaded.header.kind is ArtefactKind.FEATURES
    assert loaded.header.classes == ("blue", "red")
    assert loaded.header.backbone.pool is pool


@pytest.mark.parametrize("batch", [1, 7, 30, 1000])
def test_batch_size_only_changes_the_last_bits(photographs, tmp_path, batch):
    """Features do not depend on the batch size, also if there are fewer images."""
    run(photographs, tmp_path / "x.npy", batch=batch)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), reference(photographs), rtol=1e-4, atol=1e-5)


def test_few_images_do_not_fill_a_large_batch(photographs, tmp_path, monkeypatch):
    """One image takes the time of one image, although the batch size is 32."""
    seen = []
    real = extract.Session.run
    monkeypatch.setattr(
        extract.Session, "run", lambda self, given, names: seen.append(len(given["images"])) or real(self, given, names)
    )
    run(photographs[:2], tmp_path / "x.npy", batch=32)
    assert seen == [1, 2]  # one to find the shape


def test_threads_change_nothing(photographs, tmp_path):
    """All three files have the same bytes for any number of decoding threads."""
    first = None
    for jobs in (1, 2, 9):
        run(photographs, tmp_path / "x.npy", jobs=jobs)
        first = first or content(tmp_path / "x.npy")
        assert content(tmp_path / "x.npy") == first


def test_torch_agrees(photographs, tmp_path):
    """`--engine torch` gives the same features to 1e-4, and the Header records torch."""
    run(photographs, tmp_path / "a.npy")
    run(photographs, tmp_path / "b.npy", engine=Engine.TORCH)
    one, other = features.load(tmp_path / "a.npy"), features.load(tmp_path / "b.npy")
    np.testing.assert_allclose(one.values, other.values, atol=1e-4)
    assert one.rows == other.rows
    assert one.header.backbone == other.header.backbone
    assert "onnxruntime" in one.header.made_by
    assert "torch" in other.header.made_by


def test_float16_is_the_nearest_value(photographs, tmp_path):
    """float16 stores the nearest value of the same features, in half the bytes."""
    run(photographs, tmp_path / "a.npy")
    run(photographs, tmp_path / "b.npy", dtype=FeatureDtype.FLOAT16)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), np.load(tmp_path / "a.npy").astype(np.float16))


def test_stream_gives_the_same(photographs, tmp_path):
    """Images from an iterator give the same bytes as a list of them."""
    run(photographs, tmp_path / "a.npy")
    run(iter(photographs), tmp_path / "b.npy")
    assert content(tmp_path / "a.npy") == content(tmp_path / "b.npy")


def test_classes_are_the_labels_of_the_rows(photographs, tmp_path):
    """A class without a usable image is left out; images without labels have no classes."""
    for image in photographs[:15]:
        open(image.path, "wb").close()
    run(photographs, tmp_path / "x.npy", skip=lambda *_: None)
    assert features.load(tmp_path / "x.npy").header.classes == ("red",)
    run([ImageFile(image.path) for image in photographs[15:]], tmp_path / "x.npy")
    assert features.load(tmp_path / "x.npy").header.classes is None


def test_splits_and_groups_are_kept(photographs, tmp_path):
    """Columns of a manifest are in the .tsv, with paths relative to it."""
    (tmp_path / "out").mkdir()
    images = [ImageFile(os.path.relpath(image.path), "cat", "train", "g1") for image in photographs[:2]]
    run(images, tmp_path / "out" / "x.npy")
    rows = features.load(tmp_path / "out" / "x.npy").rows
    assert [(row.label, row.split, row.group) for row in rows] == [("cat", "train", "g1")] * 2
    assert rows[0].path.startswith("../photos/")


# ---------------------------------------------------------------- bad images


def spoil(photographs):
    """Break three images in different ways; return their paths and reasons."""
    cut, empty, text = (photographs[index].path for index in (3, 10, 29))
    with open(cut, "r+b") as file:
        file.truncate(200)
    open(empty, "wb").close()
    with open(text, "w") as file:
        file.write("no image")
    return [cut, empty, text]


def test_bad_images_are_left_out(photographs, tmp_path):
    """An image that cannot be used has no row and is reported; the others have their rows."""
    broken, skipped = spoil(photographs), []
    summary = run(photographs, tmp_path / "x.npy", skip=lambda path, reason: skipped.append((path, reason)))
    good = [image for image in photographs if image.path not in broken]
    assert [path for path, _ in skipped] == broken
    assert skipped[1][1] == "empty file"
    assert (summary.rows, summary.skipped) == (27, 3)
    loaded = features.load(tmp_path / "x.npy")
    np.testing.assert_allclose(loaded.values, reference(good), rtol=1e-4, atol=1e-5)
    assert [os.path.join(tmp_path, row.path) for row in loaded.rows] == [image.path for image in good]


def test_bad_images_are_errors_by_default(photographs, tmp_path):
    """Without a `skip` callback, the library raises."""
    spoil(photographs)
    with pytest.raises(BadImageError):
        run(photographs, tmp_path / "x.npy")


def test_only_bad_images(photographs, tmp_path):
    """If no image can be used, nothing is written."""
    spoil(photographs)
    with pytest.raises(CnnkitError, match="no image could be used; nothing written"):
        run([photographs[3], photographs[10]], tmp_path / "x.npy", skip=lambda *_: None)
    assert not list(tmp_path.glob("x.*"))


# ---------------------------------------------------------------- interrupted and resumed


class Stop(BaseException):
    """Ctrl-C, at a point that the test chooses."""


def stop_after(batches, monkeypatch):
    """Make the network stop the run at a batch."""
    real, count = runner.run, 0

    def counted(*words, **options):
        nonlocal count
        for item in real(*words, **options):
            yield item
            count += 0 if isinstance(item[1], BadImageError) else len(item[1][0])  # rows
            if count >= 4 * batches:
                raise Stop

    patch = pytest.MonkeyPatch()
    patch.setattr(extract.runner, "run", counted)
    return patch


@pytest.mark.parametrize("batches", [1, 3, 6])
@pytest.mark.parametrize("spoiled", [False, True])
def test_resume_is_byte_identical(photographs, tmp_path, monkeypatch, caplog, batches, spoiled):
    """After an interruption, --resume computes only the missing rows and ends with the bytes of an uninterrupted run."""
    broken = spoil(photographs) if spoiled else []
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    silent = {"skip": lambda *_: None}
    run(photographs, tmp_path / "whole" / "x.npy", **silent)
    path = tmp_path / "stopped" / "x.npy"
    with caplog.at_level(logging.INFO, "cnnkit"):
        patch = stop_after(batches, monkeypatch)
        with pytest.raises(Stop):
            run(photographs, path, **silent)
        patch.undo()
        assert f"{4 * batches} rows are kept in {path}.part; continue with --resume" in caplog.messages
        computed, skipped = [], []
        real = extract.Session.run
        monkeypatch.setattr(
            extract.Session,
            "run",
            lambda self, given, names: computed.append(len(given["images"])) or real(self, given, names),
        )
        summary = run(photographs, path, resume=True, skip=lambda path, _reason: skipped.append(path))
        assert f"resuming after {4 * batches} rows" in caplog.messages
    assert content(path) == content(tmp_path / "whole" / "x.npy")
    rows = 30 - len(broken)
    assert (summary.rows, summary.resumed, summary.skipped) == (rows, 4 * batches, len(broken))
    assert len(computed) - 1 == -(-(rows - 4 * batches) // 4)  # no batch is computed twice
    assert skipped == broken  # all are reported, also those that the first run had reported
    assert sorted(os.listdir(tmp_path / "stopped")) == ["x.json", "x.npy", "x.tsv"]


def test_stream_can_be_resumed(photographs, tmp_path, monkeypatch):
    """Also a list on standard input."""
    run(iter(photographs), tmp_path / "whole.npy")
    patch = stop_after(2, monkeypatch)
    with pytest.raises(Stop):
        run(iter(photographs), tmp_path / "x.npy")
    patch.undo()
    assert run(iter(photographs), tmp_path / "x.npy", resume=True).resumed == 8
    assert content(tmp_path / "x.npy") == content(tmp_path / "whole.npy")


def stopped(photographs, path, monkeypatch, **words):
    patch = stop_after(2, monkeypatch)
    with pytest.raises(Stop):
        run(photographs, path, **words)
    patch.undo()


def changed_spec(**changes):
    return BackboneSpec(**{"layers": BACKBONE.layers, "weights": "none", "size": 20, "seed": 2, **changes})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"batch": 5}, "started with batch 4, now 5"),
        ({"dtype": FeatureDtype.FLOAT16}, "started with dtype float32, now float16"),
        ({"engine": Engine.TORCH}, "started with engine onnx, now torch"),
        ({"spec": changed_spec(seed=3)}, "started with backbone weights_sha256"),
        ({"spec": changed_spec(layer="conv1")}, "started with backbone layer bn1, now conv1"),
        ({"spec": changed_spec(size=24)}, "started with preprocess resize 20, now 24"),
    ],
)
def test_rejects_resume_with_other_settings(photographs, tmp_path, monkeypatch, words, message):
    """Resuming would not be byte-identical: the setting that differs is named, and the written rows are kept."""
    stopped(photographs, tmp_path / "x.npy", monkeypatch)
    with pytest.raises(FormatError, match=message):
        run(photographs, tmp_path / "x.npy", resume=True, **words)
    assert run(photographs, tmp_path / "x.npy", resume=True).resumed == 8


def test_rejects_resume_with_other_images(photographs, tmp_path, monkeypatch):
    """Images that were added or removed since are named; written rows are kept; without --resume everything starts over."""
    path = tmp_path / "x.npy"
    stopped(photographs, path, monkeypatch)
    message = (
        r"x\.npy: the interrupted run had other images: expected .*{} next, found .*{}; start over without --resume"
    )
    with pytest.raises(UsageError, match=message.format("blue/04.png", "blue/03.png")):
        run([*photographs[:4], *photographs[3:]], path, resume=True)
    with pytest.raises(UsageError, match=message.format("blue/00.png", "blue/01.png")):
        run(photographs[1:], path, resume=True)
    stopped(iter(photographs), tmp_path / "y.npy", monkeypatch)
    with pytest.raises(UsageError, match=message.replace("x", "y", 1).format("blue/04.png", "nothing")):
        run(iter(photographs[:4]), tmp_path / "y.npy", resume=True)
    with pytest.raises(UsageError, match="next, found another label, split or group"):
        run([ImageFile(photographs[0].path, "red"), *photographs[1:]], path, resume=True)
    assert run([*photographs], path, resume=True).resumed == 8
    stopped(photographs, path, monkeypatch)
    assert run(photographs[1:], path).rows == 29


def test_resume_of_a_complete_run_does_nothing(photographs, tmp_path, caplog, monkeypatch):
    """It says so, and reports the bad images again."""
    broken, path, skipped = spoil(photographs), tmp_path / "x.npy", []
    run(photographs, path, skip=lambda *_: None)
    before, time = content(path), path.stat().st_mtime_ns
    monkeypatch.setattr(extract.runner, "run", None)
    with caplog.at_level(logging.INFO, "cnnkit"):
        summary = run(photographs, path, resume=True, skip=lambda path, _reason: skipped.append(path))
    assert (summary.rows, summary.resumed, summary.skipped) == (27, 27, 3)
    assert skipped == broken
    assert f"{path} is complete; nothing to do" in caplog.messages
    assert (content(path), path.stat().st_mtime_ns) == (before, time)


def test_complete_run_of_other_images_is_started_over(photographs, tmp_path):
    """More images, fewer images, or another backbone: existing features are not mistaken for these."""
    path = tmp_path / "x.npy"
    run(photographs[:20], path)
    for images, words in (
        (photographs, {}),
        (photographs[:10], {}),
        (photographs[:10], {"dtype": FeatureDtype.FLOAT16}),
    ):
        summary = run(images, path, resume=True, **words)
        assert (summary.rows, summary.resumed) == (len(images), 0)
    assert len(features.load(path).rows) == 10


# ---------------------------------------------------------------- invalid arguments


def test_wrong_outputs_are_found_before_the_work(photographs, tmp_path, monkeypatch):
    """A name that is not a .npy, a missing folder, or a manifest that would be overwritten."""
    monkeypatch.setattr(extract.runner, "run", None)
    with pytest.raises(UsageError, match=r"features are written to a \.npy file"):
        run(photographs, tmp_path / "x.npz")
    with pytest.raises(CnnkitError, match=r"nowhere: no such folder to write x\.npy into"):
        run(photographs, tmp_path / "nowhere" / "x.npy")
    (tmp_path / "split.tsv").write_text("path\nred/00.png\n")
    with pytest.raises(UsageError, match=r"split\.npy: split\.tsv would be overwritten"):
        run(photographs, tmp_path / "split.npy")
    assert (tmp_path / "split.tsv").read_text() == "path\nred/00.png\n"


# ---------------------------------------------------------------- rates, and memory


def test_bench_writes_nothing(photographs, tmp_path):
    """Rates are measured over the usable images, and no file appears."""
    spoil(photographs)
    rates = extract.bench(photographs, ExtractConfig(batch=4, device="cpu"), spec=BACKBONE)
    assert rates.images == 27
    assert rates.possible == pytest.approx(1 / (1 / rates.decode + 1 / rates.network))
    assert min(rates.decode, rates.network, rates.reached) > 0
    assert os.listdir(tmp_path) == ["photos"]


def test_memory_does_not_grow_with_the_images(photographs, tmp_path, monkeypatch):
    """For any number of images, only a bounded number of them and of their features is in memory."""
    import tracemalloc

    spec = BackboneSpec(layers="conv 512 k3 s2 relu", weights="none", size=32, pool=Pool.FLATTEN)
    run(photographs, tmp_path / "x.npy", spec=spec)  # export and imports are not counted

    def peak(count):
        many = (photographs[index % 30] for index in range(count))
        tracemalloc.start()
        run(many, tmp_path / "x.npy", spec=spec, jobs=2)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    few, many = peak(100), peak(600)
    assert (tmp_path / "x.npy").stat().st_size > 5 * few  # what would be in memory if rows were collected
    assert many < 1.1 * few + 300_000  # a path and its row of the .tsv


# ---------------------------------------------------------------- photographs


@pytest.mark.slow
@pytest.mark.photos
def test_photographs_match_torchvision(photos, tmp_path):
    """On photographs and pretrained weights, features are those of torchvision's own transforms and network, to 1e-3."""
    import torchvision
    from PIL import Image

    shutil.copytree(photos / "pictures", tmp_path / "images", ignore=shutil.ignore_patterns("*.md"))
    weights = photos / "weights" / "mobilenet_v2.pth"
    images = source.find([str(tmp_path / "images")])[:8]
    spec = BackboneSpec(backbone="mobilenet_v2", weights=str(weights), decoding=Decoding.FULL)
    extract.extract(images, tmp_path / "x.npy", ExtractConfig(device="cpu"), spec=spec)
    network = torchvision.models.mobilenet_v2()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    transforms = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    with torch.no_grad():
        expected = torch.cat(
            [network.features(transforms(Image.open(image.path).convert("RGB"))[None]).mean((2, 3)) for image in images]
        ).numpy()
    found = np.load(tmp_path / "x.npy")
    assert found.shape == (len(images), 1280)
    difference = np.abs(found - expected).max(1) / np.abs(expected).max(1)
    assert difference.max() < 1e-3


# ---------------------------------------------------------------- several views


VIEWS = {"views": 2, "augment": "rotate 30, hflip, brightness 0.3, noise 0.05, fill reflect", "seed": 5}
AUGMENTATION = augment_notation.parse(VIEWS["augment"])


def parted(photographs):
    """Put every fifth image into val, and some of the others into train."""
    return [
        dataclasses.replace(image, split="val" if number % 5 == 4 else "train" if number % 2 else None)
        for number, image in enumerate(photographs)
    ]


def test_views_are_features_of_augmented_images(photographs, tmp_path):
    """The unchanged view, then copies 1 and 2, image by image; the copies are those of training; val has only the unchanged view."""
    summary = run(parted(photographs), tmp_path / "x.npy", **VIEWS)
    assert summary.rows == 24 * 3 + 6
    loaded = features.load(tmp_path / "x.npy")
    module, header = torch_backbone.build_extractor(BACKBONE)
    augmenter = Augmenter(AUGMENTATION, seed=5)
    expected, rows = [], []
    for image in parted(photographs):
        square = torch.from_numpy(preprocessing.load(image.path, header.preprocess).copy())[None]
        for view in [0] if image.split == "val" else [0, 1, 2]:
            seen = augmenter(square, [decode.read(image.path).fingerprint], [view]) if view else square
            with torch.no_grad():
                expected.append(module(seen).numpy())
            rows.append((os.path.basename(image.path), image.label, image.split, view))
    np.testing.assert_allclose(loaded.values, np.concatenate(expected), rtol=1e-4, atol=1e-5)
    assert [(os.path.basename(row.path), row.label, row.split, row.view) for row in loaded.rows] == rows
    assert loaded.header.training == {"augment": str(AUGMENTATION), "views": 2, "augment_seed": 5}


def test_threads_and_engines_give_the_same_views(photographs, tmp_path):
    """The same bytes for any number of decoding threads; with torch the same up to rounding."""
    for jobs in (1, 4):
        run(photographs, tmp_path / f"{jobs}.npy", **VIEWS, jobs=jobs)
    assert content(tmp_path / "1.npy") == content(tmp_path / "4.npy")
    run(photographs, tmp_path / "torch.npy", **VIEWS, engine=Engine.TORCH)
    np.testing.assert_allclose(np.load(tmp_path / "torch.npy"), np.load(tmp_path / "1.npy"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batches", [1, 3, 5, 8])
@pytest.mark.parametrize("stream", [False, True])
def test_resume_in_the_middle_of_an_image(photographs, tmp_path, monkeypatch, batches, stream):
    """Batches of four split the views of an image; after resuming, all bytes are as without interruption, and bad images are reported."""
    spoil(photographs)
    silent = {"skip": lambda *_: None, **VIEWS}
    give = (lambda: iter(parted(photographs))) if stream else (lambda: parted(photographs))
    run(give(), tmp_path / "whole.npy", **silent)
    patch = stop_after(batches, monkeypatch)
    with pytest.raises(Stop):
        run(give(), tmp_path / "x.npy", **silent)
    patch.undo()
    summary = run(give(), tmp_path / "x.npy", resume=True, **silent)
    assert (summary.resumed, summary.skipped) == (4 * batches, 3)
    assert content(tmp_path / "x.npy") == content(tmp_path / "whole.npy")
    again = run(parted(photographs), tmp_path / "x.npy", resume=True, **silent)
    assert again.resumed == again.rows == summary.rows


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (VIEWS | {"views": 3}, "started with training views 2, now 3"),
        (VIEWS | {"seed": 6}, "started with training augment_seed 5, now 6"),
        (
            VIEWS | {"augment": "hflip"},
            "started with training augment rotate 30.*, now hflip",
        ),
        ({}, "started with training augment rotate 30.*, now None"),
    ],
)
def test_rejects_resume_with_other_views(photographs, tmp_path, monkeypatch, views, message):
    """Augmentations, seeds or numbers of views are not mixed; a complete run with others is started over."""
    stopped(photographs, tmp_path / "x.npy", monkeypatch, **VIEWS)
    with pytest.raises(FormatError, match=message):
        run(photographs, tmp_path / "x.npy", resume=True, **views)
    assert run(photographs, tmp_path / "x.npy", resume=True, **VIEWS).resumed == 8
    assert run(photographs, tmp_path / "x.npy", resume=True, **views).resumed == 0
