"""Names of networks in any spelling, and published weights."""

import functools
import io
import logging
import random
import shutil
import sys
from email.message import Message
from hashlib import sha256
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from cnnkit.errors import CnnkitError, UsageError
from cnnkit.nets import backbones, catalogue


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """A temporary folder for torch's downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("keras", "ours"),
    [
        ("VGG16", "vgg16"),
        ("VGG19", "vgg19"),
        ("ResNet50", "resnet50"),
        ("InceptionV3", "inception_v3"),
        ("MobileNetV2", "mobilenet_v2"),
        ("MobileNetV3Small", "mobilenet_v3_small"),
        ("DenseNet121", "densenet121"),
        ("EfficientNetB0", "efficientnet_b0"),
        ("EfficientNetV2S", "efficientnet_v2_s"),
        ("ConvNeXtTiny", "convnext_tiny"),
        ("Xception", "timm:legacy_xception"),
        ("MobileNet", "timm:mobilenetv1_100"),
        ("timm:resnet10t", "timm:resnet10t"),
    ],
)
def test_keras_spelling_is_understood(keras, ours):
    """The textbook's spelling of a network stands for that of torchvision or timm."""
    assert catalogue.canonical(keras) == ours


def test_notice_if_a_name_of_keras_begins_names_of_torchvision(caplog):
    """It may mean one of those; the notice is given once."""
    catalogue._note_keras.cache_clear()
    caplog.set_level("INFO", "cnnkit")
    for name in ("MobileNet", "mobilenet", "xception"):
        catalogue.canonical(name)
    assert caplog.messages == [
        "mobilenet is read as the network of this name in Keras, timm:mobilenetv1_100; torchvision has mobilenet_v2, "
        "mobilenet_v3_large, mobilenet_v3_small"
    ]


def test_every_classification_network_of_torchvision_is_known():
    """All of torchvision's classification networks are accepted by name."""
    known = torchvision.models.list_models(module=torchvision.models)
    assert len(known) >= 80
    assert [catalogue.canonical(name) for name in known] == known


@pytest.mark.parametrize(
    ("name", "proposal"),
    [
        ("vgg61", "did you mean .*vgg16"),
        ("regnetx16gf", "did you mean regnet_x_16gf or regnet_x_1_6gf"),  # ambiguous
        ("fcn_resnet50", "did you mean"),  # a segmentation network
        ("zzz", "give one of torchvision's classification networks, or timm:NAME"),
    ],
)
def test_unknown_network_proposes_similar_ones(name, proposal):
    """A wrong name is an error with similar names."""
    with pytest.raises(UsageError, match=f'no network is called "{name}"; .*{proposal}'):
        catalogue.canonical(name)


def test_unknown_timm_network_proposes_similar_ones():
    """The same for timm."""
    with pytest.raises(UsageError, match=r'timm has no network "resnet10x"; did you mean .*resnet10t'):
        backbones.pretrained("timm:resnet10x", weights="none")


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("name", ["mobilenet_v2", "timm:mobilenetv1_100"])
def test_global_rng_is_untouched(name):
    """Building a backbone does not change the global generators of torch, numpy and Python."""
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    backbones.pretrained(name, weights="none")
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]


def saved(path, name="squeezenet1_1", seed=5):
    torch.save(catalogue.seeded(seed, functools.partial(catalogue.network, name))[0].state_dict(), path)
    return path


def test_default_weights_come_from_torchs_folder(torch_home):
    """A file under its published name in torch's folder is used without a download, and found again by its hash."""
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    file = saved(torch_home / weights.url.rpartition("/")[2])
    extractor, backbone, _ = backbones.pretrained("squeezenet1_1")
    state = torch.load(file, weights_only=True)
    assert all(torch.equal(value, state[key]) for key, value in extractor.state_dict().items())
    assert backbone.weights_sha256 == sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["squeezenet1_1", "timm:mobilenetv1_100"])
def test_offline_forbids_downloads(torch_home, name):
    """The message gives the remedy."""
    with pytest.raises(
        CnnkitError, match=f"CNNKIT_OFFLINE forbids downloading weights for {name}; give a file with --weights"
    ):
        backbones.pretrained(name)


class Reply(io.BytesIO):
    """What a server sends."""

    def info(self):
        headers = Message()
        headers["Content-Length"] = str(len(self.getvalue()))
        return headers


@pytest.fixture
def publish(torch_home, monkeypatch, tmp_path):
    """Stub the network: `publish(digest)` lets the address of squeezenet1_1's weights, with a hash in it, send a file."""
    monkeypatch.setenv("CNNKIT_OFFLINE", "0")
    content = saved(tmp_path / "published.pth").read_bytes()

    def serve(digest):
        entry = SimpleNamespace(
            url=f"https://download.pytorch.org/models/squeezenet1_1-{digest or sha256(content).hexdigest()[:8]}.pth",
            meta={"_file_size": 4.73},
        )
        monkeypatch.setattr(catalogue, "_published", lambda _name, _weights: entry)
        monkeypatch.setattr(torch.hub, "urlopen", lambda _request: Reply(content))
        return entry.url, content

    return serve


def test_a_download_is_announced_in_one_line(publish, torch_home, caplog, capfd):
    """With address and size; torch's own lines and bars are on neither stream."""
    caplog.set_level("INFO", "cnnkit")
    url, content = publish("")
    state, digest = catalogue.default_weights("squeezenet1_1")
    assert caplog.messages == [f"downloading {url} (4.73 MB)"]
    assert capfd.readouterr() == ("", "")
    assert (torch_home / url.rpartition("/")[2]).read_bytes() == content
    assert digest == sha256(content).hexdigest()
    assert "classifier.1.weight" in state


@pytest.mark.parametrize("step", ["lines", "fails"])
def test_downloads_of_timm_print_nothing_of_their_own(monkeypatch, caplog, capfd, step):
    """Neither lines nor progress bars, on neither stream, nor warnings of huggingface_hub."""
    import timm
    from huggingface_hub.utils import logging as hub_logging
    from timm.models import _builder

    monkeypatch.setenv("CNNKIT_OFFLINE", "0")
    caplog.set_level("INFO", "cnnkit")
    state = timm.create_model("resnet10t", pretrained=False).state_dict()

    def download(*_words, **_options):
        sys.stdout.write("Downloading\n")
        sys.stderr.write(" 50%|#####")
        hub_logging.get_logger("huggingface_hub.file_download").warning("unauthenticated requests")
        if step == "fails":
            raise OSError("name not known")
        return state

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", download)
    if step == "fails":
        with pytest.raises(CnnkitError, match=r"the weights of timm:resnet10t failed \(name not known\); give a file"):
            catalogue.default_weights("timm:resnet10t")
    else:
        assert catalogue.default_weights("timm:resnet10t")[0].keys() == state.keys()
    assert caplog.messages == ["downloading the weights of timm:resnet10t"]
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("huggingface_hub").level != logging.CRITICAL


def test_a_failed_download_is_one_line(publish, torch_home, monkeypatch):
    """Without a connection the error names address and remedy; so does a download with a wrong hash, which leaves no file."""
    publish("01234567")
    with pytest.raises(
        CnnkitError, match=r"squeezenet1_1-01234567\.pth failed \(invalid hash value .*\); give a file with --weights$"
    ):
        catalogue.default_weights("squeezenet1_1")
    assert list(torch_home.iterdir()) == []

    def fail(_request):
        raise URLError(OSError(-2, "name not known"))

    monkeypatch.setattr(torch.hub, "urlopen", fail)
    with pytest.raises(CnnkitError, match=r"01234567\.pth failed \(name not known\); give a file with --weights$"):
        catalogue.default_weights("squeezenet1_1")
    assert list(torch_home.iterdir()) == []


def test_published_weights_have_their_own_preprocessing(tmp_path):
    """A file under its published name: MobileNetV2's second weights need 232 pixels."""
    second = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V2
    file = saved(tmp_path / second.url.rpartition("/")[2], "mobilenet_v2")
    assert backbones.pretrained("mobilenet_v2", weights=file)[2].resize == 232
    shutil.copy(file, tmp_path / "mine.pth")
    assert backbones.pretrained("mobilenet_v2", weights=tmp_path / "mine.pth")[2].resize == 256
