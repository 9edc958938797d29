"""cnn-predict over several views of each image: flips, drawn views, crops, and votes over them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from predict_models import PREPROCESS, files, network, shares_of, squares, torch_probabilities
from torchvision.transforms import v2

from cnnkit.choices import Fit
from cnnkit.data import augment_notation, decode
from cnnkit.engine import resample
from cnnkit.formats.header import Preprocess


def test_flips_are_averaged(run, model, root):
    """The mean of torch's probabilities over an image and its mirror images; their majority with --vote hard."""
    plain, path = squares(files(root)), model()
    views = np.stack(
        [torch_probabilities(plain.flip(axes)) for axes in ((), (2,), (1,), (1, 2))]
    )  # (views, N, classes)
    two = run("cnn-predict", "-m", path, root, "--top", 3, "--tta", "hflip")
    np.testing.assert_allclose(shares_of(two), views[:2].mean(0), atol=2e-6)
    four = run("cnn-predict", "-m", path, root, "--top", 3, "--tta", "hflip, vflip")
    np.testing.assert_allclose(shares_of(four), views.mean(0), atol=2e-6)
    assert np.abs(views[:2].mean(0) - views[0]).max() > 1e-4
    hard = run("cnn-predict", "-m", path, root, "--top", 3, "--tta", "hflip, vflip", "--vote", "hard")
    votes = np.stack([(views.argmax(2) == place).mean(0) for place in range(3)], axis=1)
    np.testing.assert_allclose(shares_of(hard), votes, atol=1e-6)


@pytest.mark.parametrize(("notation", "tolerance"), [("crop 0.7, hflip", 2e-3), ("rotate 30, contrast 0.4", 2e-6)])
def test_drawn_views_are_averaged(run, model, root, notation, tolerance):
    """The copies are those of training by seed, content and number; batch, jobs, names and other images do not change them."""
    paths, path = files(root), model()
    words = ("-m", path, "--top", 3, "--tta", notation, "--views", 5)
    outcome = run("cnn-predict", *words, root)
    plain = squares(paths)
    prints = [decode.read(name).fingerprint for name in paths]
    augmenter = resample.Augmenter(augment_notation.parse(notation), seed=0)
    views = [plain, *(augmenter(plain, prints, [number] * len(paths)) for number in range(1, 5))]
    np.testing.assert_allclose(
        shares_of(outcome), np.mean([torch_probabilities(view) for view in views], axis=0), atol=tolerance
    )
    for more in (("--batch", 1), ("--batch", 7, "--jobs", 1), ("--jobs", 4)):
        np.testing.assert_allclose(shares_of(run("cnn-predict", *words, root, *more)), shares_of(outcome), atol=2e-6)
    moved = root / "moved.png"
    moved.write_bytes(Path(paths[3]).read_bytes())
    np.testing.assert_allclose(shares_of(run("cnn-predict", *words, moved))[0], shares_of(outcome)[3], atol=2e-6)
    moved.unlink()
    other = shares_of(run("cnn-predict", *words, root, "--seed", 1))
    assert np.abs(other - shares_of(outcome)).max() > 1e-4
    assert run("cnn-predict", *words, root).out == outcome.out


@pytest.mark.parametrize("crops", [5, 10])
def test_crops_are_averaged(run, model, root, crops):
    """As torch on torchvision's FiveCrop and TenCrop of the resized images."""
    transform = v2.FiveCrop(24) if crops == 5 else v2.TenCrop(24)
    resize = v2.Resize(28, antialias=True)
    expected = []
    for name in files(root):
        parts = transform(resize(torchvision.datasets.folder.default_loader(name)))
        expected.append(torch_probabilities(torch.from_numpy(np.stack([np.asarray(part) for part in parts]))).mean(0))
    outcome = run("cnn-predict", "-m", model(), root, "--top", 3, "--crops", crops)
    np.testing.assert_allclose(shares_of(outcome), expected, atol=2e-6)
    squashing = model("squash.onnx", preprocess=Preprocess(fit=Fit.SQUASH, resize=20, size=20))
    refused = run("cnn-predict", "-m", squashing, root, "--crops", crops, status=2).err
    assert "squash.onnx takes whole images (fit squash), and --crops needs a model with fit crop" in refused


def test_models_vote_over_views(run, model, root):
    """Three models with different sizes, fits and class orders: every model and view counts once."""
    squashed, padded = Preprocess(fit=Fit.SQUASH, resize=20, size=20), Preprocess(fit=Fit.PAD, resize=26, size=26)
    models = [
        model("one.onnx"),
        model("two.onnx", seed=1, preprocess=squashed),
        model("three.onnx", seed=2, preprocess=padded, classes=("red", "blue", "green")),
    ]
    predictions = []
    for made, preprocess, order in (
        (network()[0], PREPROCESS, [0, 1, 2]),
        (network(1, squashed)[0], squashed, [0, 1, 2]),
        (network(2, padded)[0], padded, [1, 2, 0]),
    ):
        plain = squares(files(root), preprocess)
        predictions += [torch_probabilities(view, made)[:, order] for view in (plain, plain.flip(2))]
    words = [word for path in models for word in ("-m", path)]
    found = shares_of(run("cnn-predict", *words, root, "--tta", "hflip", "--top", 3, "--batch", 3))
    np.testing.assert_allclose(found, np.mean(predictions, axis=0), atol=2e-6)
    hard = shares_of(run("cnn-predict", *words, root, "--tta", "hflip", "--top", 3, "--vote", "hard"))
    votes = np.stack([(np.stack(predictions).argmax(2) == place).mean(0) for place in range(3)], axis=1)
    np.testing.assert_allclose(hard, votes, atol=2e-6)
