"""Training images: the same from memory and from disk, in an order that depends only on seed and epoch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cnnkit.callbacks import Callbacks
from cnnkit.choices import Fit
from cnnkit.data import augment_notation, preprocessing
from cnnkit.data.source import find
from cnnkit.engine.resample import Augmenter
from cnnkit.errors import CnnkitError
from cnnkit.formats.header import LUMA, Preprocess
from cnnkit.train import dataset
from cnnkit.train.dataset import ImageSet, MixupPairs
from cnnkit.train.distributed import World
from cnnkit.train.frozen import CachedFeatures

SQUARE = Preprocess(fit=Fit.SQUASH, resize=16, size=16)


def opened(root, *, budget=1 << 20, prepare=SQUARE, skip=None, **others):
    found = list(find([str(root)]))
    classes = sorted({image.label for image in found})
    return ImageSet(
        found,
        classes,
        prepare,
        device=torch.device("cpu"),
        budget=budget,
        callbacks=Callbacks(**({"skip": skip} if skip else {})),
        **others,
    )


def shown(images, *, epoch, batch=4, count=None):
    rows = dataset.shuffled_batches(
        count or len(images.targets), batch=batch, generator=torch.Generator().manual_seed(epoch or 0)
    )
    return list(images.inputs(rows, epoch))


def test_batches_from_memory_and_from_disk_are_the_same(images):
    """With augmentation, several threads and a smaller last batch; validation images are those of prediction."""
    root = images(red=5, blue=6)
    augmenter = Augmenter(augment_notation.parse("rotate 30, hflip, noise 0.1"), seed=3)
    kept = opened(root, augmenter=augmenter)
    read = [opened(root, budget=11 * 16 * 16 * 3 - 1, augmenter=augmenter, jobs=jobs) for jobs in (1, 3)]
    assert kept.nbytes == 11 * 16 * 16 * 3
    assert [each.nbytes for each in read] == [0, 0]
    for epoch in (1, 2, None):
        batches = shown(kept, epoch=epoch)
        for other in read:
            assert all(torch.equal(one, two) for one, two in zip(batches, shown(other, epoch=epoch), strict=True))
    assert not torch.equal(
        torch.cat(shown(kept, epoch=1)).float().sum(0), torch.cat(shown(kept, epoch=2)).float().sum(0)
    )
    (plain,) = kept.inputs([torch.arange(11)], None)
    expected = [preprocessing.load(image.path, SQUARE) for image in kept.images]
    assert np.array_equal(plain.numpy(), np.stack(expected))
    assert kept.targets.tolist() == [0] * 6 + [1] * 5


def test_augmented_copies_depend_on_epoch_and_content(images):
    """A copy does not depend on the batch, the order or the neighbours."""
    root = images(red=4, blue=4)
    augmenter = Augmenter(augment_notation.parse("shift 0.2"), seed=0)
    read = opened(root, augmenter=augmenter)
    (together,) = read.inputs([torch.arange(8)], 2)
    for row, alone in enumerate(read.inputs([torch.tensor([row]) for row in range(8)], 2)):
        assert torch.equal(alone[0], together[row])
    assert not torch.equal(together, next(read.inputs([torch.arange(8)], 3)))


def test_images_are_blended_with_their_partners(images):
    """Each keeps its share, whether its partner is in the batch or not; the epoch's augmented copies are blended."""
    read = opened(images(red=4, blue=4), augmenter=Augmenter(augment_notation.parse("shift 0.2"), seed=0))
    rows, partners = torch.tensor([6, 1, 3]), torch.tensor([1, 1, 7])
    everything = next(read.inputs([torch.arange(8)], 2)).double()
    (blended,) = read.inputs([rows], 2, [MixupPairs(partners, 0.7)])
    expected = 0.7 * everything[rows] + 0.3 * everything[partners]
    assert float((blended.double() - expected).abs().max()) <= 0.5 + 1e-4


@pytest.mark.parametrize(("count", "batch", "size"), [(23, 8, 1), (23, 8, 2), (25, 8, 2), (17, 4, 3), (6, 8, 2)])
def test_shares_of_all_processes_are_the_batches_of_one(count, batch, size):
    """Every row once, equal shares up to one row, none empty; the next epoch has another order."""
    batches = dataset.shuffled_batches(count, batch=batch, generator=torch.Generator().manual_seed(5), processes=size)
    assert torch.equal(torch.cat(batches), torch.randperm(count, generator=torch.Generator().manual_seed(5)))
    assert [len(rows) for rows in batches[:-1]] == [batch] * (len(batches) - 1)
    for rows in batches:
        shares = [World(rank, size).share(rows) for rank in range(size)]
        lengths = [len(share) for share in shares]
        assert max(lengths) - min(lengths) <= 1
        assert min(lengths) >= min(2, batch // size)
        assert sorted(torch.cat(shares).tolist()) == sorted(rows.tolist())
    other = dataset.shuffled_batches(count, batch=batch, generator=torch.Generator().manual_seed(6), processes=size)
    assert not torch.equal(torch.cat(batches), torch.cat(other))
    checked = [torch.cat(dataset.ordered_batches(count, batch=batch, world=World(rank, size))) for rank in range(size)]
    assert sorted(torch.cat(checked).tolist()) == list(range(count))


@pytest.mark.parametrize("grey", [False, True])
def test_statistics_are_those_of_all_pixels(images, grey):
    """Against numpy over the stacked images, per channel, or of their brightness."""
    root = images(red=3, green=4)
    prepare = Preprocess(fit=Fit.SQUASH, resize=16, size=16, grey=grey)
    read = opened(root, budget=0, prepare=prepare)
    values = np.stack([preprocessing.load(image.path, prepare) for image in read.images]).reshape(-1, 3) / 255
    if grey:
        values = (values @ np.array(LUMA))[:, None].repeat(3, axis=1)
    for measured, expected in (
        (read.statistics.mean, values.mean(0)),
        (read.statistics.deviation, values.std(0)),
        (read.statistics.largest, values.max(0)),
    ):
        np.testing.assert_allclose(measured, expected, rtol=1e-6)


def test_unreadable_images_are_skipped(images):
    """They are named with the reason; rows, targets and statistics are those of the others."""
    root = images(red=3, blue=3)
    whole = opened(root)
    (root / "blue" / "01a.png").write_bytes(b"not an image")
    named = []
    part = opened(root, skip=lambda path, reason: named.append((Path(path).name, reason)))
    ((name, reason),) = named
    assert name == "01a.png"
    assert reason.startswith("not an image")
    assert part.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert part.statistics == whole.statistics
    assert torch.equal(torch.cat(shown(part, epoch=1)), torch.cat(shown(whole, epoch=1)))


def test_an_image_that_is_missing_later_is_one_line(images):
    """An error, not a skipped image: images are read again only if they do not fit into memory."""
    root = images(red=3, blue=3)
    read = opened(root, budget=0)
    (root / "red" / "02.png").unlink()
    with pytest.raises(
        CnnkitError, match=r"red/02\.png: was readable in an earlier epoch, but now: no such file or directory$"
    ):
        shown(read, epoch=1)


def test_cached_views_take_turns():
    """An epoch uses one view of every row, different ones for neighbours; N epochs use all N views."""
    targets = torch.arange(6)
    views = [torch.arange(6)[:, None] + 10.0 * view for view in range(3)]
    stored = CachedFeatures(views, targets, device=torch.device("cpu"))
    rows = [torch.tensor([4, 0, 1]), torch.tensor([2, 3, 5])]
    seen = {row: set() for row in range(6)}
    for epoch in (1, 2, 3):
        for chosen, inputs in zip(rows, stored.inputs(rows, epoch), strict=True):
            assert (inputs[:, 0] % 10).tolist() == chosen.tolist()
            for row, value in zip(chosen.tolist(), inputs[:, 0].tolist(), strict=True):
                seen[row].add(value // 10)
    assert all(views == {0, 1, 2} for views in seen.values())
    assert torch.equal(torch.cat(list(stored.inputs(rows, None)))[:, 0].long(), torch.cat(rows))


def test_a_process_may_have_no_validation_row():
    """With fewer images than processes there is no batch, not an empty one."""
    assert dataset.ordered_batches(2, batch=4, world=World(2, 3)) == []
    assert [rows.tolist() for rows in dataset.ordered_batches(2, batch=4, world=World(1, 3))] == [[1]]


def test_row_numbers_are_copied_to_a_device_at_once():
    """One copy for all batches, divided as before; on a CPU they are returned unchanged."""
    batches = [torch.tensor([3, 1]), torch.tensor([2]), torch.tensor([0, 4])]
    assert dataset.on_device(batches, torch.device("cpu")) is batches
    there = dataset.on_device(batches, torch.device("meta"))
    assert [(len(rows), rows.device.type) for rows in there] == [(2, "meta"), (1, "meta"), (2, "meta")]
    assert list(dataset.on_device([], torch.device("meta"))) == []
