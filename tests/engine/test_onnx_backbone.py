"""Backbones as ONNX networks: cache names, one export per backbone, agreement with torch, and which files are refused."""

import dataclasses
import functools
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnkit.choices import Fit, Pool
from cnnkit.engine import export, onnx_backbone, torch_backbone
from cnnkit.engine.config import BackboneSpec
from cnnkit.engine.session import Session
from cnnkit.errors import CnnkitError, DeviceError, FormatError, UsageError
from cnnkit.formats import onnx_model, torch_model
from cnnkit.formats.header import ArtefactKind, Backbone, Header
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones, catalogue
from cnnkit.nets.classifier import Classifier, build_head

TEXT = "conv 6 k3 s2 same bn relu, avgpool 3 s2 same, conv 8 k2 same d2 hardswish, pool 2 same"


def request(**changes):
    return BackboneSpec(**{"layers": TEXT, "weights": "none", "size": 21, **changes})


def images(size, batch=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)


def onnx_features(model, images):
    return Session(model.content, device="cpu").run({"images": images}, ["features"])[0]


def torch_features(spec, images):
    module, _ = torch_backbone.build_extractor(spec)
    with torch.no_grad():
        return module(torch.from_numpy(images)).numpy()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache for one test."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def weights_file(path, seed=5):
    module = catalogue.seeded(seed, lambda: catalogue.network("squeezenet1_1"))[0]
    torch.save(module.state_dict(), path)
    return str(path)


def model_file(path, *, pool=Pool.MAX, layer=None, seed=3):
    """A trained model by notation, backbone and head."""
    extractor, backbone, preprocess = backbones.by_notation(TEXT, size=21, layer=layer, pool=pool, seed=seed)
    head = build_head("dense 2", (8,))
    whole = Classifier(extractor, head, preprocess=preprocess, pool=pool)
    header = Header(ArtefactKind.MODEL, ("cat", "dog"), preprocess, backbone, "dense 2")
    torch_model.save(path, TorchModel(header, whole.state_dict()))
    return str(path)


# ---------------------------------------------------------------- agreement with torch


@pytest.mark.parametrize("pool", [*(pool for pool in Pool if pool not in (Pool.CLS, Pool.CLS_AVG)), None])
def test_onnx_matches_torch(pool):
    """For every pooling and batch size, ONNX Runtime gives torch's features, including same-padding."""
    spec = request(pool=pool)
    model = onnx_backbone.get(spec)
    assert model.header.kind is ArtefactKind.ONNX
    assert model.header.backbone.pool == (pool or Pool.AVG)
    for batch in (1, 2, 5):
        batch = images(21, batch)
        expected = torch_features(spec, batch)
        found = onnx_features(model, batch)
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_named_backbone_matches_torch():
    """The same for a network of torchvision, with the normalization inside."""
    spec = BackboneSpec(backbone="squeezenet1_1", weights="none", layer="features.5", size=64, seed=1)
    model = onnx_backbone.get(spec)
    assert model.header.preprocess.mean == (0.485, 0.456, 0.406)
    assert (model.header.preprocess.size, model.header.preprocess.resize) == (64, 73)  # the same proportion
    np.testing.assert_allclose(onnx_features(model, images(64)), torch_features(spec, images(64)), rtol=1e-4, atol=1e-5)


def test_engine_torch_gives_the_same():
    """`--engine torch` is the same function with the same Header, without ONNX."""
    spec = request(pool=Pool.FLATTEN)
    network, header, place = torch_backbone.load(spec, device="cpu")
    (found,) = network([images(21)])
    assert place == "cpu"
    assert header == onnx_backbone.get(spec).header
    np.testing.assert_allclose(found, onnx_features(onnx_backbone.get(spec), images(21)), rtol=1e-4, atol=1e-5)


def test_engine_torch_without_a_gpu(monkeypatch):
    """`--engine torch --device cuda` without a GPU fails before anything is built."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="torch sees no GPU"):
        torch_backbone.load(request(), device="cuda")


# ---------------------------------------------------------------- the cache


def test_backbone_is_exported_once(cache, monkeypatch, caplog):
    """The first time it is exported and cached, with a notice; then it is read from the cache without torch."""
    with caplog.at_level(logging.INFO, "cnnkit"):
        first = onnx_backbone.get(request())
    assert [record.message for record in caplog.records] == [f"exporting the backbone to ONNX, once; cached in {cache}"]
    kept = sorted((cache / "bases").iterdir())
    assert [file.suffix for file in kept] == [".onnx"]
    caplog.clear()
    monkeypatch.setattr(torch_backbone, "build_extractor", None)
    assert onnx_backbone.get(request()) == first
    assert not caplog.records


def test_equal_backbones_share_one_export(cache, tmp_path, monkeypatch, caplog):
    """Files with the same backbone under different names; another cut, size or weight is another backbone."""
    caplog.set_level(logging.INFO, "cnnkit")
    first = onnx_backbone.get(BackboneSpec(backbone=model_file(tmp_path / "one.pt")))
    two = torch_model.load(model_file(tmp_path / "two.pt"))
    torch_model.save(tmp_path / "two.pt", TorchModel(two.header.but(training={"epochs": 3}), two.state))
    caplog.clear()
    assert onnx_backbone.get(BackboneSpec(backbone=str(tmp_path / "two.pt"))).content == first.content
    assert not caplog.records
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    shutil.copy(tmp_path / "two.pt", tmp_path / "three.pt")
    assert onnx_backbone.get(BackboneSpec(backbone=str(tmp_path / "three.pt"), pool=Pool.MAX)).content == first.content
    assert not caplog.records
    for number, other in enumerate(
        (
            BackboneSpec(backbone=str(tmp_path / "two.pt"), pool=Pool.AVG),
            BackboneSpec(backbone=str(tmp_path / "two.pt"), size=25),
            BackboneSpec(backbone=model_file(tmp_path / "four.pt", seed=4)),
        ),
        start=1,
    ):
        assert onnx_backbone.get(other).content != first.content
        assert len(caplog.records) == number


def test_export_is_reproducible(tmp_path, monkeypatch):
    """Exported again into another cache, a backbone is the same file, with nothing of the machine in it."""
    first = onnx_backbone.get(request()).content
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "another"))
    assert onnx_backbone.get(request()).content == first
    assert str(Path(export.__file__).parent).encode() not in first


def test_cache_name_depends_on_everything_that_changes_the_output(cache, tmp_path):
    """Every option that changes the output changes the name in the cache; of a file, its content counts and not its path."""
    one, two = weights_file(tmp_path / "one.pth"), weights_file(tmp_path / "two.pth", seed=6)
    named = BackboneSpec(backbone="squeezenet1_1", weights=one)
    others = [
        named,
        BackboneSpec(backbone="squeezenet1_1", weights=two),
        BackboneSpec(backbone="squeezenet1_0", weights=one),
        BackboneSpec(backbone="squeezenet1_1", weights=one, layer="features.4"),
        BackboneSpec(backbone="squeezenet1_1", weights=one, pool=Pool.MAX),
        BackboneSpec(backbone="squeezenet1_1", weights=one, size=128),
        BackboneSpec(backbone="squeezenet1_1", weights=one, resize=300),
        BackboneSpec(backbone="squeezenet1_1", weights=one, fit=Fit.PAD),
        BackboneSpec(backbone="squeezenet1_1", weights="none"),
        BackboneSpec(backbone="squeezenet1_1", weights="none", seed=1),
        BackboneSpec(backbone="squeezenet1_1"),
        request(),
        request(layers="conv 6 k3"),
    ]
    assert len({onnx_backbone.cache_name(each) for each in others}) == len(others)
    before = onnx_backbone.cache_name(named)
    moved = os.fspath(tmp_path / "moved.pth")
    os.rename(one, moved)
    assert onnx_backbone.cache_name(BackboneSpec(backbone="squeezenet1_1", weights=moved)) == before
    assert (
        onnx_backbone.cache_name(BackboneSpec(backbone="squeezenet1_1", weights=moved, seed=4)) == before
    )  # nothing is random
    assert (
        onnx_backbone.cache_name(dataclasses.replace(named, weights=moved, on_command_line=frozenset({"fit"})))
        == before
    )


def test_equal_notations_share_a_cache_name(tmp_path):
    """Spaces, comments and files make no difference: the same layers are the same backbone."""
    file = tmp_path / "net.txt"
    file.write_text(TEXT.replace(", ", "  # a comment\n"))
    assert onnx_backbone.cache_name(request(layers=f"@{file}")) == onnx_backbone.cache_name(request())
    file.write_text(TEXT.replace("conv 6", "conv 7"))
    assert onnx_backbone.cache_name(request(layers=f"@{file}")) != onnx_backbone.cache_name(request())


def test_missing_notation_file(tmp_path):
    """The error names the file."""
    with pytest.raises(CnnkitError, match=r"none\.txt: .*give a file that holds layers"):
        onnx_backbone.get(request(layers=f"@{tmp_path / 'none.txt'}"))


# ---------------------------------------------------------------- the comparison with torch


def test_backbone_that_differs_from_torch_is_not_cached(cache, monkeypatch):
    """If ONNX Runtime computes something else, the error has both numbers and a remedy, and nothing is cached."""
    real = export.to_onnx

    def wrong(*words, **options):
        proto = real(*words, **options)
        for weight in proto.graph.initializer:
            if len(weight.dims) == 4:
                weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(1.01)).tobytes()
        return proto

    monkeypatch.setattr(export, "to_onnx", wrong)
    with pytest.raises(
        CnnkitError, match=r"ONNX Runtime and torch differ by \S+ on features up to \S+; use --engine torch"
    ):
        onnx_backbone.get(request())
    assert list((cache / "bases").iterdir()) == []


def test_backbone_with_nan_is_not_cached(cache, monkeypatch):
    """NaN is not equal to anything."""
    monkeypatch.setattr(Session, "run", lambda *_words, **_options: [np.full((2, 8), np.nan, np.float32)])
    with pytest.raises(CnnkitError, match="differ by"):
        onnx_backbone.get(request())
    assert list((cache / "bases").iterdir()) == []


def test_backbone_that_cannot_be_exported(cache, monkeypatch):
    """An error of the exporter is one line, with a remedy."""

    def fail(*_words, **_options):
        raise RuntimeError("unsupported operator\nand a long story")

    monkeypatch.setattr(export, "to_onnx", fail)
    with pytest.raises(
        CnnkitError, match=r"cannot export this backbone to ONNX \(unsupported operator\); use --engine torch"
    ):
        onnx_backbone.get(request())


# ---------------------------------------------------------------- a model as a backbone


def test_model_as_a_backbone(tmp_path):
    """A `.pt` made by cnnkit gives the features that its own head reads, with its weights, layer and pooling, or those given."""
    file = model_file(tmp_path / "head.pt")
    model = torch_model.load(file)
    own = onnx_backbone.get(BackboneSpec(backbone=file))
    assert own.header.backbone == model.header.backbone
    assert own.header.preprocess == model.header.preprocess
    backbone, _, _ = backbones.by_notation(TEXT, size=21, seed=3)
    spec = request(seed=3, pool=Pool.MAX)
    np.testing.assert_allclose(onnx_features(own, images(21)), torch_features(spec, images(21)), rtol=1e-4, atol=1e-5)
    other = onnx_backbone.get(BackboneSpec(backbone=file, layer="conv1", pool=Pool.NONE))
    assert (other.header.backbone.layer, other.header.backbone.pool) == ("conv1", Pool.NONE)
    assert onnx_features(other, images(21)).shape == (2, 6, 11, 11)
    assert set(backbone.state_dict())


def test_changed_model_is_another_backbone(tmp_path):
    """A file that is rewritten under the same name is not mistaken for the old one."""
    file = model_file(tmp_path / "head.pt")
    before = onnx_backbone.get(BackboneSpec(backbone=file)).content
    model_file(tmp_path / "head.pt", seed=4)
    assert onnx_backbone.get(BackboneSpec(backbone=file)).content != before


def exported(path, **changes):
    """An exported network with the output features."""
    model = onnx_backbone.get(request(pool=Pool.MAX))
    proto = onnx_model.parse(model.content, name="base")
    change = changes.pop("change", None)
    if change:
        change(proto)
    onnx_model.save(path, onnx_model.finished(proto, model.header.but(**changes)))
    return str(path)


def test_exported_network_as_a_backbone(tmp_path):
    """A `.onnx` made by cnnkit with features is used as it is; --pool may be given if it is the same."""
    file = exported(tmp_path / "model.onnx")
    model = onnx_backbone.get(BackboneSpec(backbone=file))
    assert model.content == Path(file).read_bytes()
    assert onnx_backbone.get(BackboneSpec(backbone=file, pool=Pool.MAX)) == model
    with pytest.raises(UsageError, match=r"model\.onnx pools by max, not by avg"):
        onnx_backbone.get(BackboneSpec(backbone=file, pool=Pool.AVG))


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"layer": "conv1"}, "--layer"),
        ({"size": 64}, "--size"),
        ({"resize": 64}, "--resize"),
        ({"fit": Fit.PAD}, "--fit"),
        ({"weights": "none"}, "--weights"),
    ],
)
def test_exported_network_cannot_be_changed(tmp_path, changes, option):
    """Options that an exported network would ignore are refused."""
    with pytest.raises(UsageError, match=f"is exported and fixed; {option} needs the name of a network or a .pt"):
        onnx_backbone.get(BackboneSpec(backbone=exported(tmp_path / "model.onnx"), **changes))


def test_rejects_exported_networks_that_are_not_backbones(tmp_path):
    """Without Header, without features, or with normalized input; the message has the remedy."""
    bare = onnx_model.parse(onnx_backbone.get(request()).content, name="base")
    del bare.metadata_props[:]
    (tmp_path / "bare.onnx").write_bytes(bare.SerializeToString())
    with pytest.raises(
        FormatError, match=r"bare\.onnx: no cnnkit header; export the backbone with cnn-export --features"
    ):
        onnx_backbone.get(BackboneSpec(backbone=str(tmp_path / "bare.onnx")))

    def rename(proto):
        proto.graph.output[0].name = "logits"
        for node in proto.graph.node:
            node.output[:] = ["logits" if name == "features" else name for name in node.output]

    with pytest.raises(FormatError, match="no output features; export it with cnn-export --features"):
        onnx_backbone.get(BackboneSpec(backbone=exported(tmp_path / "logits.onnx", change=rename)))

    def take_floats(proto):
        proto.graph.input[0].type.tensor_type.elem_type = 1

    with pytest.raises(FormatError, match="export it without --input float"):
        onnx_backbone.get(BackboneSpec(backbone=exported(tmp_path / "float.onnx", change=take_floats)))
    with pytest.raises(FormatError, match="no cnnkit header; export the backbone with"):
        onnx_backbone.get(BackboneSpec(backbone=exported(tmp_path / "none.onnx", backbone=None)))
    assert isinstance(onnx_backbone.get(request()).header.backbone, Backbone)


# ---------------------------------------------------------------- invalid specs


@functools.lru_cache(maxsize=1)
def remembered(*words, build=catalogue.network_for, **named):
    """Build a network once for all specs that it refuses: random weights of a transformer take seconds."""
    return build(*words, **named)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (BackboneSpec(), UsageError, "give either --backbone or --layers"),
        (BackboneSpec(backbone="vgg16", layers="gap"), UsageError, "give either --backbone or --layers"),
        (BackboneSpec(backbone="squeezenet1_1", weights="x.pth"), CnnkitError, "x.pth: no such file; --weights takes a state_dict"),
        (BackboneSpec(backbone="x.pt"), CnnkitError, "x.pt: no such model"),
        (BackboneSpec(backbone="x.onnx"), CnnkitError, "x.onnx: no such model"),
        (BackboneSpec(backbone="squeezenet", weights="none"), UsageError, 'no network is called "squeezenet"; did you mean'),
        (BackboneSpec(backbone="squeezenet1_1", weights="none", layer="x"), UsageError, 'squeezenet1_1 has no layer "x"'),
        (BackboneSpec(backbone="squeezenet1_1", weights="none", size=8), UsageError,
         r"squeezenet1_1 does not work with --size 8 \(.*too small"),
        (BackboneSpec(backbone="vit_b_32", weights="none", size=100), UsageError, "which do not tile 100 pixels; give 96 or 128"),
        (BackboneSpec(backbone="vit_b_32", weights="none", layer="getattr"), UsageError, "vit_b_32 does not work with --layer getattr"),
        (BackboneSpec(backbone="vit_b_32", weights="none", layer="permute", pool=Pool.CLS), UsageError,
         r"--pool cls needs the class token of .* outputs tokens without one \(49x768\)"),
        (request(resize=20), UsageError, "--resize needs --fit crop; --fit squash resizes directly to --size"),
        (request(resize=20, fit=Fit.CROP), UsageError, "--resize 20 is smaller than the crop of 21"),
        (request(layers="conv 3"), UsageError, "has no kernel size"),
        (request(layers="conv 3 k40"), UsageError, "kernel 40 is larger than its input's height 21"),
        (request(layers=""), UsageError, "--layers is empty"),
    ],
)  # fmt: skip
def test_rejects_invalid_specs(cache, monkeypatch, spec, error, message):
    """The error is one line with the option, and nothing is cached."""
    monkeypatch.setattr(catalogue, "network_for", remembered)
    with pytest.raises(error, match=message) as caught:
        onnx_backbone.get(spec)
    assert type(caught.value) is error or issubclass(type(caught.value), error)
    assert "\n" not in str(caught.value)
    assert not list((cache / "bases").glob("*"))


def test_rejects_weights_with_a_model(tmp_path):
    """A `.pt` has its own weights; other weights are not silently ignored."""
    with pytest.raises(UsageError, match=r"head\.pt has its own weights"):
        onnx_backbone.get(BackboneSpec(backbone=model_file(tmp_path / "head.pt"), weights="none"))


def test_cached_backbone_imports_no_torch(cache):
    """A cached backbone is read without torch."""
    onnx_backbone.get(request())
    program = (
        "import sys; from cnnkit.engine import onnx_backbone; from cnnkit.engine.onnx_backbone import BackboneSpec;"
        f"onnx_backbone.get(BackboneSpec(layers={TEXT!r}, weights='none', size=21)); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
