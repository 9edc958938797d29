"""The frozen part: its outputs, what computes them, and where they are cached."""

import errno
import logging
import os

import pytest
import torch
from PIL import Image

from cnnkit.callbacks import Callbacks
from cnnkit.choices import Pool
from cnnkit.data import augment_notation
from cnnkit.data.source import ImageFile
from cnnkit.engine.config import BackboneSpec
from cnnkit.engine.resample import Augmenter
from cnnkit.errors import CnnkitError
from cnnkit.nets import backbones
from cnnkit.nets.classifier import Extractor
from cnnkit.train import frozen
from cnnkit.train.dataset import ImageSet
from cnnkit.train.frozen import CachedFeatures

CPU = torch.device("cpu")
TEXT = "conv 4 k3 bn relu, dropout 0.5, conv 5 k3 s2 relu"


@pytest.fixture
def backbone():
    module, _, preprocess = backbones.by_notation(TEXT, size=12, pool=Pool.NONE)
    return Extractor(module, preprocess=preprocess, pool=Pool.NONE).eval()


@pytest.fixture
def spec(backbone):
    return BackboneSpec(layers=TEXT, weights="none", size=12, pool=Pool.NONE)


@pytest.fixture
def seen(tmp_path, backbone):
    """Make 70 images, more than two batches, each with another brightness."""
    listed = []
    for index in range(70):
        path = tmp_path / f"{index:02d}.png"
        Image.effect_noise((12, 12), 20).convert("RGB").point(lambda value, index=index: value // 3 + 2 * index).save(
            path
        )
        listed.append(ImageFile(str(path), "ab"[index % 2]))
    return ImageSet(
        listed,
        ("a", "b"),
        backbones.by_notation(TEXT, size=12)[2],
        device=CPU,
        budget=1 << 20,
        augmenter=Augmenter(augment_notation.parse("hflip, brightness 0.5"), seed=0),
        callbacks=Callbacks(),
    )


def kept(images, network, copies, folder, *, budget=1 << 30):
    return frozen.compute_features(images, network, copies, budget=budget, folder=folder, progress=lambda *_: None)


def refuse(_request):
    raise CnnkitError("torch cannot export this backbone")


def test_onnx_runtime_gives_the_same_outputs_as_torch(backbone, spec, seen, monkeypatch, caplog):
    """With dropout and batch norm in eval mode; if the export fails, torch runs the part, with a notice."""
    images = next(seen.inputs([torch.arange(40)], None))
    with torch.no_grad():
        expected = backbone(images)
    network = frozen.frozen_network(spec, backbone, device=CPU)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(frozen.onnx_backbone, "get", refuse)
    with caplog.at_level(logging.INFO, "cnnkit"):
        network = frozen.frozen_network(spec, backbone, device=CPU)
    assert "running the frozen part in torch, not in ONNX Runtime: torch cannot export this backbone" in caplog.text
    assert torch.equal(network(images), expected)


def test_batches_that_do_not_fit_into_memory_are_halved(backbone, spec, seen, monkeypatch):
    """The outputs are the same, in order; a single image that does not fit is an error."""
    images = next(seen.inputs([torch.arange(7)], None))
    with torch.no_grad():
        expected = backbone(images)
    monkeypatch.setattr(frozen.onnx_backbone, "get", refuse)
    held, room, forward = [], [3], type(backbone).forward

    def small(self, images):
        if len(images) > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        held.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(type(backbone), "forward", small)
    network = frozen.frozen_network(spec, backbone, device=CPU)
    torch.testing.assert_close(network(images), expected)
    assert held == [2, 2, 3]
    room[0] = 0
    with pytest.raises(torch.OutOfMemoryError):
        network(images)


def test_frozen_part_runs_once_for_every_copy_of_every_image(seen, tmp_path):
    """In the images' order, for any batches: row i of copy c is the network's output for that copy of image i."""
    shown = []

    def network(images):
        shown.append(len(images))
        return images.float()

    outputs = kept(seen, network, [None, 1, 3], tmp_path)
    assert shown == [32, 32, 6] * 3
    everything = [torch.arange(70)]
    for output, copy in zip(outputs, (None, 1, 3), strict=True):
        assert torch.equal(output, next(seen.inputs(everything, copy)).float())
    assert not torch.equal(outputs[1], outputs[2])


def test_features_above_the_budget_go_to_disk(seen, tmp_path, caplog):
    """The values are the same; the file has no name and vanishes with the process; a notice has its size."""
    network = torch.Tensor.float
    before = set(os.listdir(tmp_path))
    in_memory = kept(seen, network, [1, 2], tmp_path)
    with caplog.at_level(logging.INFO, "cnnkit"):
        on_disk = kept(seen, network, [1, 2], tmp_path, budget=2 * 70 * 12 * 12 * 3 * 4 - 1)
    assert "0.0 GiB, more than --cache; keeping them on disk" in caplog.text
    assert all(torch.equal(one, other) for one, other in zip(in_memory, on_disk, strict=True))
    assert set(os.listdir(tmp_path)) == before


def test_a_full_disk_is_one_line_before_the_frozen_part_runs(seen, tmp_path, monkeypatch):
    """The space is allocated at once: a sparse file would end the process by a signal when the disk is full."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(
        CnnkitError, match=r"no space left on device; the frozen part's features need .* --cache, or --views 0"
    ):
        kept(seen, torch.Tensor.float, [None], tmp_path, budget=0)


def test_views_take_turns():
    """K epochs use each of K views of a row once, different ones for neighbours; validation uses the first."""
    views = [torch.full((5, 2), float(number)) for number in range(3)]
    stored = CachedFeatures(views, torch.zeros(5, dtype=torch.long), device=CPU)
    rows = [torch.tensor([4, 0]), torch.tensor([1, 2, 3])]
    epochs = []
    for epoch in (1, 2, 3):
        outputs = torch.cat(list(stored.inputs(rows, epoch)))[:, 0]
        order = torch.cat(rows)
        epochs.append(outputs[order.argsort()].tolist())
    assert [sorted(versions) for versions in zip(*epochs, strict=True)] == [[0, 1, 2]] * 5
    assert len(set(epochs[0])) == 3
    assert torch.cat(list(stored.inputs(rows, None))).eq(0).all()


def test_the_time_of_an_epoch_is_estimated_from_a_batch(seen):
    """A batch as a warm-up, and one that is timed."""
    shown = []
    assert 0 < frozen.seconds_per_epoch(seen, lambda images: shown.append(len(images)) or images) < 60
    assert shown == [32, 32]
