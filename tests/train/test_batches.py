"""The batches of a training: CutMix is torchvision's, balanced sampling that of torch, and both are the same in every process."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import WeightedRandomSampler
from torchvision.transforms import v2

from cnnkit.callbacks import Callbacks
from cnnkit.choices import Fit, Sample
from cnnkit.data import augment_notation
from cnnkit.data.source import find
from cnnkit.engine.resample import Augmenter
from cnnkit.formats.header import Preprocess
from cnnkit.train import dataset
from cnnkit.train.batches import Batches, cutmix_box
from cnnkit.train.config import ImageTrainConfig
from cnnkit.train.dataset import ImageSet, MixupPairs
from cnnkit.train.distributed import ALONE, World
from cnnkit.train.frozen import CachedFeatures
from cnnkit.train.optim import MixupTargets

SIZE = 16


@pytest.fixture
def image_set(images):
    """Make a set of nine red and three blue images of 16 pixels, with other copies in each epoch."""
    found = list(find([str(images(red=9, blue=3))]))
    return ImageSet(
        found,
        ["blue", "red"],
        Preprocess(fit=Fit.SQUASH, resize=SIZE, size=SIZE),
        device=torch.device("cpu"),
        budget=1 << 20,
        augmenter=Augmenter(augment_notation.parse("brightness 0.9"), seed=0),
        callbacks=Callbacks(),
    )


class Watched:
    """Examples that note what they are asked for, and yield nothing."""

    def __init__(self, targets):
        self.targets, self.asked = targets, []

    def inputs(self, batches, epoch, pairs=None):
        self.asked.append((batches, epoch, pairs))
        return iter(torch.zeros(len(rows), 1) for rows in batches)


def batches_of(train, config, world=ALONE):
    return Batches(train, None, config, size=SIZE, device=torch.device("cpu"), world=world, progress=lambda *_: None)


def epoch_of(config, targets, *, number=1, world=ALONE):
    train = Watched(targets)
    given = list(batches_of(train, config, world).train(number, last=9))
    ((rows, _, pairs),) = train.asked
    return rows, pairs, [each for _, each in given]


# ---------------------------------------------------------------- CutMix


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.77, 1.0])
def test_cutmix_is_torchvisions(share, monkeypatch):
    """From the same share and centre: the same images and label weights; torchvision pairs two images as cnnkit does."""
    cutmix = v2.CutMix(num_classes=3)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 21, 21, 3), dtype=np.uint8))
    labels = torch.tensor([2, 0])
    for row, column in itertools.product((0, 4, 10, 20), (0, 13, 20)):
        coming = iter((column, row))
        monkeypatch.setattr(cutmix, "_dist", type("Fixed", (), {"sample": staticmethod(lambda _: share)}))
        monkeypatch.setattr(torch, "randint", lambda _high, size, coming=coming: torch.tensor([next(coming)]))
        mixed, weights = cutmix(images.permute(0, 3, 1, 2), labels)
        box, kept = cutmix_box(share, ((row + 0.5) / 21, (column + 0.5) / 21), size=21)
        found = dataset._blended(images.clone(), images.flip(0), MixupPairs(torch.tensor([1, 0]), kept, box))
        assert torch.equal(found.permute(0, 3, 1, 2), mixed)
        expected = torch.stack([kept * torch.eye(3)[each] for each in labels])
        expected += torch.stack([(1 - kept) * torch.eye(3)[each] for each in labels.flip(0)])
        torch.testing.assert_close(weights, expected)


def test_cutmix_of_a_batch_replaces_a_rectangle_by_the_partners(image_set):
    """The epoch's augmented copies, mirrored within the batch; the targets have the shares of the area."""
    config = ImageTrainConfig(batch=6, cutmix=1.0)
    plain = dict(enumerate(next(image_set.inputs([torch.arange(12)], 3))))
    seen = set()
    rows = batches_of(image_set, config)._rows(3)
    for chosen, (inputs, targets) in zip(rows, batches_of(image_set, config).train(3, last=9), strict=True):
        assert isinstance(targets, MixupTargets)
        ours, theirs = (torch.stack([plain[row] for row in each.tolist()]) for each in (chosen, chosen.flip(0)))
        replaced = (inputs != ours).any(3)
        assert torch.equal(inputs[replaced], theirs[replaced])
        assert targets.targets.tolist() == image_set.targets[chosen].tolist()
        assert targets.partners.tolist() == image_set.targets[chosen].flip(0).tolist()
        assert round(targets.share * SIZE**2) == pytest.approx(targets.share * SIZE**2)
        seen.add(targets.share)
    assert len(seen) == 2


def test_one_of_mixup_and_cutmix_is_drawn_for_each_batch():
    """Half of the batches each; those of mixup have the shares that they have without CutMix, and the other way round."""
    targets = torch.arange(800) % 2
    _, mixed, _ = epoch_of(ImageTrainConfig(batch=2, mixup=0.4), targets)
    _, cut, _ = epoch_of(ImageTrainConfig(batch=2, cutmix=1.0), targets)
    _, both, _ = epoch_of(ImageTrainConfig(batch=2, mixup=0.4, cutmix=1.0), targets)
    assert all(pair.box is None for pair in mixed)
    assert all(pair.box is not None for pair in cut)
    assert 150 < sum(pair.box is None for pair in both) < 250
    for one, blended, of_cut in zip(both, mixed, cut, strict=True):
        expected = blended if one.box is None else of_cut
        assert (one.share, one.box) == (expected.share, expected.box)
        assert torch.equal(one.partners, expected.partners)
    shares = np.array([pair.share for pair in cut])
    assert 0.5 < shares.mean() < 0.75  # above that of Beta(1, 1), as rectangles are cut off at the edges
    _, other, _ = epoch_of(ImageTrainConfig(batch=2, cutmix=1.0), targets, number=2)
    assert [pair.box for pair in other] != [pair.box for pair in cut]


def test_cutmix_of_two_processes_is_that_of_one():
    """Every process has the same rectangles, and its share of the partners."""
    config, targets = ImageTrainConfig(batch=8, cutmix=1.0), torch.arange(40) % 3
    _, alone, _ = epoch_of(config, targets)
    shared = [epoch_of(config, targets, world=World(rank, 2))[1] for rank in range(2)]
    for whole, one, two in zip(alone, *shared, strict=True):
        assert whole.box == one.box == two.box
        assert whole.share == one.share == two.share
        assert sorted(whole.partners.tolist()) == sorted([*one.partners.tolist(), *two.partners.tolist()])


# ---------------------------------------------------------------- balanced sampling


def test_balanced_sampling_is_torchs_weighted_random_sampler():
    """The same rows from the same seed, in epochs of the same length; classes are drawn equally often."""
    targets = torch.tensor([0] * 600 + [1] * 90 + [2] * 10)
    weights = dataset.sampling_weights(targets)
    assert torch.equal(weights, torch.tensor([1 / 600] * 600 + [1 / 90] * 90 + [1 / 10] * 10, dtype=torch.float64))
    found = dataset.shuffled_batches(700, batch=32, generator=torch.Generator().manual_seed(4), weights=weights)
    sampler = WeightedRandomSampler(weights.tolist(), 700, generator=torch.Generator().manual_seed(4))
    assert torch.cat(found).tolist() == list(sampler)
    assert [len(rows) for rows in found] == [32] * 21 + [28]
    counts = torch.bincount(targets[torch.cat(found)])
    assert abs(counts - 700 / 3).max() < 5 * np.sqrt(700 * 2 / 9)


def test_balanced_batches_have_their_own_targets_and_repeats():
    """The k-th repetition of row r of N is numbered r + kN, over the whole epoch, and has the target of r."""
    targets = torch.tensor([0] * 30 + [1] * 3)
    config = ImageTrainConfig(batch=8, sample=Sample.BALANCED)
    rows, _, given = epoch_of(config, targets)
    numbers = torch.cat(rows).tolist()
    assert len(numbers) == len(set(numbers)) == 33
    assert torch.equal(torch.cat(given), targets[torch.cat(rows) % 33])
    for row in {number % 33 for number in numbers}:
        assert sorted(number // 33 for number in numbers if number % 33 == row) == list(
            range(sum(number % 33 == row for number in numbers))
        )
    assert 0.25 < torch.cat(given).double().mean() < 0.75
    shared = [epoch_of(config, targets, world=World(rank, 2))[0] for rank in range(2)]
    for whole, *parts in zip(rows, *shared, strict=True):
        assert sorted(whole.tolist()) == sorted(torch.cat(parts).tolist())
    other, _, _ = epoch_of(config, targets, number=2)
    assert not torch.equal(torch.cat(other), torch.cat(rows))


def test_a_repeated_image_has_another_augmented_copy(image_set):
    """Also within a batch; without repeats the copies are those of the epoch."""
    (found,) = image_set.inputs([torch.tensor([5, 5 + 12, 5 + 24, 7])], 2)
    (plain,) = image_set.inputs([torch.tensor([5, 7])], 2)
    assert torch.equal(found[[0, 3]], plain)
    assert len({copy.numpy().tobytes() for copy in found[:3]}) == 3
    augmenter = image_set.augmenter
    image = next(image_set.inputs([torch.tensor([5])], None))
    assert torch.equal(found[2], augmenter(image, [image_set.fingerprints[5]], [2 + 2 * 1_000_000])[0])
    (blended,) = image_set.inputs([torch.tensor([5, 17])], 2, [MixupPairs(torch.tensor([17, 5]), 0.5)])
    assert torch.equal(blended[0], blended[1])
    assert not torch.equal(blended[0], found[0])


def test_a_repeated_row_has_another_cached_view():
    """Repetitions use the views after that of the epoch."""
    views = [torch.arange(4)[:, None] + 10.0 * view for view in range(3)]
    stored = CachedFeatures(views, torch.arange(4), device=torch.device("cpu"))
    (found,) = stored.inputs([torch.tensor([2, 2 + 4, 2 + 8, 2 + 12])], 1)
    assert found[:, 0].tolist() == [2, 12, 22, 2]
