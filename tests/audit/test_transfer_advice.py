"""Transfer advice: the four cases, by the number of images and the best layer of a backbone."""

import shlex

import pytest
import torch

from cnnkit.audit import transfer_advice
from cnnkit.audit.config import AdviseConfig
from cnnkit.audit.transfer_advice import SourceNames
from cnnkit.callbacks import SILENT
from cnnkit.choices import Pool
from cnnkit.data import train_val
from cnnkit.engine import torch_backbone
from cnnkit.engine.config import BackboneSpec
from cnnkit.engine.multi_layer_features import MultiLayerExtractor
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.nets import catalogue


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two backbones: in one every layer distinguishes colours, in the other the last stage is zero."""
    folder = tmp_path_factory.mktemp("weights")
    module, _ = catalogue.seeded(0, lambda: catalogue.network("squeezenet1_1"))
    state = module.state_dict()
    torch.save(state, folder / "seeing.pth")
    blind = {
        name: torch.zeros_like(value) if name.startswith("features.12.") else value for name, value in state.items()
    }
    torch.save(blind, folder / "blind.pth")
    return folder


@pytest.fixture
def photos_folder(images):
    images("photos/train", red=8, blue=7, green=9)
    return images("photos/val", red=3, blue=3, green=3).parent


def ask(folder, weights, *, val=(), backbone="squeezenet1_1", **options):
    data = train_val.find([str(folder)], list(val))
    config = AdviseConfig(backbone=backbone, weights=str(weights), device="cpu", **options)
    named = SourceNames([str(folder)], list(val))
    return transfer_advice.advise(data, sources=named, config=config, callbacks=SILENT)


def test_similar_if_the_last_layer_is_best(photos_folder, weights):
    """Few images: a new head. The record has the accuracies, the last layer first."""
    found = ask(photos_folder, weights / "seeing.pth")
    assert (found.images, found.classes, found.per_class, found.sampled) == (24, 3, 7, 24)
    assert next(iter(found.accuracy)) == "features.12"
    assert min(found.accuracy.values()) > 0.8
    assert found.gain <= 2 * found.gain_error
    assert (found.similarity, found.case) == ("similar", "small and similar")
    assert found.command == (
        f"cnn-finetune --backbone squeezenet1_1 --weights {weights / 'seeing.pth'} {photos_folder} -o model.pt --unfreeze none"
    )


def test_different_if_an_earlier_layer_is_better(photos_folder, weights):
    """The command has its name, and cnn-extract accepts it."""
    found = ask(photos_folder, weights / "blind.pth")
    last, *earlier = found.accuracy
    assert (found.similarity, found.case) == ("different", "small and different")
    assert found.accuracy[last] < 0.5
    assert max(found.accuracy[name] for name in earlier) == 1.0
    assert found.gain > 2 * found.gain_error > 0
    extract, checking, head = (shlex.split(step) for step in found.command.split(" && "))
    layer = extract[extract.index("--layer") + 1]
    assert found.accuracy[layer] == 1.0
    assert extract[-4:] == ["--split", "train", "-o", "train.npy"]
    assert checking[-4:] == ["--split", "val", "-o", "val.npy"]
    assert head == ["cnn-train-head", "train.npy", "--val", "val.npy", "-o", "model.pt"]


def test_command_extracts_features_of_the_validation_split(photos_folder, weights, images):
    """Without --split, cnn-extract would take all splits of a folder."""
    plain = images("plain", red=8, blue=8, green=8)
    _, checking, _ = ask(plain, weights / "blind.pth", val=[str(photos_folder)]).command.split(" && ")
    assert checking.endswith(f"{photos_folder} --split val -o val.npy")
    _, checking, _ = ask(plain, weights / "blind.pth", val=[str(photos_folder / "val")]).command.split(" && ")
    assert checking.endswith(f"{photos_folder / 'val'} -o val.npy")


@pytest.mark.parametrize("name", ["seeing", "blind"])
def test_command_splits_a_set_without_splits(photos_folder, weights, name):
    """The best epoch is selected on the validation set."""
    folder = photos_folder / "train"
    split, *others = (shlex.split(step) for step in ask(folder, weights / f"{name}.pth").command.split(" && "))
    assert split == ["cnn-split", str(folder), "--ratio", "70,15,15", "--manifest", "split.tsv"]
    assert not any(str(folder) in step for step in others)
    assert sum("split.tsv" in step for step in others) == {"seeing": 1, "blind": 2}[name]


@pytest.mark.parametrize(
    ("name", "case", "command"),
    [
        ("seeing", "large and similar", "cnn-finetune --backbone squeezenet1_1 {} --warmup-head 5 --unfreeze all"),
        ("blind", "large and different", "cnn-train --arch squeezenet1_1 {}"),
    ],
)
def test_large_sets_are_other_cases(photos_folder, weights, monkeypatch, name, case, command):
    """The limit is between 2,000 cats and dogs and the 50,000 images of CIFAR-10."""
    assert 2_000 < train_val.LARGE < 50_000
    monkeypatch.setattr(train_val, "LARGE", 24)
    found = ask(photos_folder / "train", weights / f"{name}.pth", val=[str(photos_folder / "val")])
    assert found.case == case
    chosen = f"--weights {weights / name}.pth " if name == "seeing" else ""
    sources = f"{photos_folder / 'train'} --val {photos_folder / 'val'} -o model.pt"
    assert found.command == command.format(chosen + sources)


def test_layers_equal_those_of_cnn_extract(photos_folder, weights):
    """With the same names and features, in one pass."""
    request = BackboneSpec(backbone="squeezenet1_1", weights=str(weights / "seeing.pth"), pool=Pool.AVG)
    extractor, header = torch_backbone.build_extractor(request)
    watched = MultiLayerExtractor(extractor, size=header.preprocess.size)
    images = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert len(watched.names) == 3
    for name, features in zip(watched.names, watched(images), strict=True):
        cut, _ = torch_backbone.build_extractor(
            BackboneSpec(backbone="squeezenet1_1", weights=request.weights, layer=name, pool=Pool.AVG)
        )
        with torch.no_grad():
            torch.testing.assert_close(features, cut(images))


def test_rejects_random_weights_and_small_classes(photos_folder, weights, images):
    """Also weights that cannot be loaded."""
    with pytest.raises(UsageError, match="random weights cannot measure similarity"):
        ask(photos_folder, "none")
    with pytest.raises(CnnkitError, match="CNNKIT_OFFLINE"):
        ask(photos_folder, "default")
    with pytest.raises(UsageError, match=r"--backbone net\.pt: cnn-advise needs the name of a pretrained network"):
        ask(photos_folder, "default", backbone="net.pt")
    broken = images("broken", red=8, blue=5)
    (broken / "blue" / "00.png").write_bytes(b"no image")
    with pytest.raises(CnnkitError, match="class blue has 4 usable images; cnn-advise needs at least 5 of each"):
        ask(broken, weights / "seeing.pth")
    few = images("few", red=8, blue=4)
    with pytest.raises(CnnkitError, match="class blue has 4 usable images; cnn-advise needs at least 5 of each"):
        ask(few, weights / "seeing.pth")
