"""cnn-predict on images of other sizes than the model's: against torch, on processors and on a simulated GPU."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from predict_models import PREPROCESS, files, network, shares_of, squares, torch_probabilities

from cnnkit.data import decode
from cnnkit.engine.session import Session


@pytest.fixture
def sizes(tmp_path):
    """Images of five sizes in turn, a broken one, and one that is too small for two convolutions and a pooling."""
    folder = tmp_path / "sizes"
    folder.mkdir()
    for index, size in enumerate([(30, 40), (24, 24), (61, 33), (30, 40), (90, 70), (24, 24), (30, 40), (31, 40)]):
        pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "2b.png").write_bytes(b"no image")
    Image.new("RGB", (4, 30)).save(folder / "5b.png")
    return folder


def own_size(paths, views=lambda pixels: [pixels]):
    """Torch's predictions for images at their own sizes, (N, 3)."""
    whole = [torch.from_numpy(np.array(decode.load(path))) for path in paths]
    return np.stack(
        [np.mean([torch_probabilities(view[None])[0] for view in views(pixels)], axis=0) for pixels in whole]
    )


@pytest.mark.parametrize("words", [(), ("--batch", 2, "--jobs", 1), ("--jobs", 3)], ids=str)
def test_images_at_their_own_sizes(run, model, sizes, words):
    """Torch's predictions for every image at its own size, in order; images that are too small are reported as such."""
    path = model(kind="any")
    outcome = run("cnn-predict", "-m", path, sizes, "--size", "native", "--top", 3, *words, status=3)
    good = [str(name) for name in sorted(sizes.iterdir()) if "b" not in name.name]
    assert [row["path"] for row in outcome.rows][::3] == good
    np.testing.assert_allclose(shares_of(outcome), own_size(good), atol=1e-5)
    lines = outcome.err.splitlines()
    assert all(line.startswith("cnn-predict: ") for line in lines)  # without ONNX Runtime's own words
    assert "cnn-predict: images have another size than in training, which changes the probabilities" in lines
    assert "2b.png: not an image" in lines[-3]
    assert f"5b.png: 4 x 30 pixels are too small for {path}; skipped" in lines[-2]


def test_own_sizes_on_a_gpu(run, model, sizes, pretended_gpu):
    """As on the CPU, with padded batches of one size; reduced precision is available and changes little."""
    words = ("-m", model(kind="any"), sizes, "--size", "native", "--top", 3, "--batch", 6)
    expected = run("cnn-predict", *words, "--device", "cpu", status=3)
    found = run("cnn-predict", *words, "--device", "cuda", status=3)
    assert [row["path"] for row in found.rows] == [row["path"] for row in expected.rows]
    np.testing.assert_allclose(shares_of(found), shares_of(expected), atol=1e-6)
    assert found.err == expected.err
    assert pretended_gpu[-1][2]["use_tf32"] == "0"
    half = run("cnn-predict", *words, "--device", "cuda", "--precision", "float16", status=3)
    assert pretended_gpu[-1][2]["use_tf32"] == "1"
    np.testing.assert_allclose(shares_of(half), shares_of(expected), atol=5e-3)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            "CUDNN failure 2000: CUDNN_STATUS_BAD_PARAM ; GPU=0 ; expr=cudnnSetPoolingNdDescriptor",
            "does not accept 90 x 70 pixels: CUDNN failure",
        ),
        ("Failed to allocate memory for requested buffer of size 9", "90 x 70 pixels are too many for "),
    ],
)
def test_image_that_a_gpu_rejects_is_skipped(run, model, sizes, pretended_gpu, monkeypatch, failure, message):
    """A shape that cuDNN does not support, or an image that alone does not fit in its memory; all others are predicted."""

    real = Session._run_bound

    def bound(self, given, *more):
        if given["images"].shape[1] == 70:
            raise RuntimeError(failure)
        return real(self, given, *more)

    words = ("-m", model(kind="any"), sizes, "--size", "native", "--batch", 6)
    expected = run("cnn-predict", *words, "--device", "cpu", status=3)
    monkeypatch.setattr(Session, "_run_bound", bound)
    found = run("cnn-predict", *words, "--device", "cuda", status=3)
    good = [row["path"] for row in expected.rows if not row["path"].endswith("4.png")]
    assert [row["path"] for row in found.rows] == good
    assert message in found.err


def test_failing_gpu_ends_the_run(run, model, root, pretended_gpu, monkeypatch):
    """The message has the reason, and does not advise a smaller batch."""

    def bound(*_):
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0")

    monkeypatch.setattr(Session, "_run_bound", bound)
    done = run("cnn-predict", "-m", model(), root, "--device", "cuda", status=1)
    last = done.err.splitlines()[-1]
    assert last.startswith("cnn-predict: cuda:0 failed: CUDA failure 700: an illegal memory access was encountered")
    assert last.endswith("; use --device cpu")


@pytest.mark.gpu
def test_gpu_predicts_own_sizes(run, model, sizes):
    """Batches of several sizes, two in flight and padded: the CPU's probabilities, in the order of the images."""
    words = ("-m", model(kind="any"), sizes, "--size", "native", "--top", 3, "--batch", 2)
    expected = run("cnn-predict", *words, "--device", "cpu", status=3)
    found = run("cnn-predict", *words, "--device", "cuda", status=3)
    assert [row["path"] for row in found.rows] == [row["path"] for row in expected.rows]
    np.testing.assert_allclose(shares_of(found), shares_of(expected), atol=1e-4)


def test_own_sizes_with_other_options(run, model, sizes):
    """--labels-only keeps the order of the list; flips, crops of --tta, a vote and JSON work; --crops does not."""
    path, listed = model(kind="any"), "".join(f"{name}\n" for name in sorted(sizes.iterdir()))
    words = ("-m", path, "-m", path, "-", "--size", "native")
    rows = run("cnn-predict", *words, stdin=listed, status=3).rows
    labels = run("cnn-predict", *words, "--labels-only", stdin=listed, status=3).out.splitlines()
    assert [label for label in labels if label] == [row["label"] for row in rows]
    assert [index for index, label in enumerate(labels) if not label] == [3, 7]
    good = [row["path"] for row in rows]
    flipped = run("cnn-predict", *words, "--tta", "hflip", "--top", 3, stdin=listed, status=3)
    expected = own_size(good, lambda pixels: [pixels, pixels.flip(1)])
    np.testing.assert_allclose(shares_of(flipped), expected, atol=1e-5)
    drawn = run("cnn-predict", *words, "--tta", "crop 0.9, hflip", "--json", stdin=listed, status=3)
    assert [json.loads(line)["path"] for line in drawn.out.splitlines()] == good
    refused = run("cnn-predict", *words, "--crops", 5, stdin=listed, status=2)
    assert "--size native, which keeps images whole" in refused.err
    single = run("cnn-predict", "-m", path, good[0], "--size", "native", "--logits").rows[0]
    with torch.no_grad():
        logits = network()[0](torch.from_numpy(np.array(decode.load(good[0])))[None])[0]
    assert float(single["logit"]) == pytest.approx(float(logits.max()), abs=1e-4)


def test_image_too_small_for_pooling_is_no_prediction(run, model, root):
    """If pooling leaves no row, ONNX Runtime gives the bias for all images alike; an error is reported instead."""
    path = model(kind="any", layers="conv 16 k3 relu, pool 3 s2, conv 12 k1 relu")
    images = []
    for height in (2, 3, 4, 5):
        images.append(root / f"{height}.png")
        Image.new("RGB", (30, height), (200, 10, 10)).save(images[-1])
    outcome = run("cnn-predict", "-m", path, *images, "--size", "native", "--top", 3, status=3)
    assert [row["path"] for row in outcome.rows][::3] == [str(path) for path in images[2:]]
    assert f"2.png: 30 x 2 pixels are too small for {path}; skipped" in outcome.err
    assert f"3.png: 30 x 3 pixels are too small for {path}; skipped" in outcome.err


@pytest.mark.parametrize(
    ("size", "preprocess"),
    [
        ("48", dataclasses.replace(PREPROCESS, size=48, resize=56)),
        ("36x60", dataclasses.replace(PREPROCESS, size=36, resize=42, across=60)),
    ],
)
def test_larger_images_and_rectangles(run, model, root, size, preprocess):
    """The preprocessing is scaled in proportion; a rectangle is given height first; the model's own size changes nothing."""
    path = model(kind="any")
    outcome = run("cnn-predict", "-m", path, root, "--size", size, "--top", 3)
    np.testing.assert_allclose(shares_of(outcome), torch_probabilities(squares(files(root), preprocess)), atol=1e-5)
    assert "images have another size than in training" in outcome.err
    own = run("cnn-predict", "-m", path, root, "--size", "24")
    assert own.out == run("cnn-predict", "-m", path, root).out
    assert "another size" not in own.err
    small = run("cnn-predict", "-m", path, root, "--size", "4", status=2)
    assert f"--size 4x4: 4 x 4 pixels are too small for {path}" in small.err


def test_all_models_of_a_vote_must_accept_the_size(run, model, root):
    """One that does not is named."""
    path, fixed = model("any.onnx", kind="any"), model("fixed.onnx")
    refused = run("cnn-predict", "-m", path, "-m", fixed, root, "--size", "native", status=2)
    assert "fixed.onnx takes only 24 x 24 pixels" in refused.err
