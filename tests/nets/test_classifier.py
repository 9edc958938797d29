"""Normalization, backbone, pooling and head, compared with torch and torchvision, and networks built from a Header."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import functional as transforms

from cnnkit.choices import Fit, Pool
from cnnkit.errors import FormatError, UsageError
from cnnkit.formats.header import ArtefactKind, Backbone, Header, Preprocess
from cnnkit.nets import backbones, classifier
from cnnkit.nets.classifier import Classifier, Extractor, InputNormalization, Pooling

PREPROCESS = Preprocess(Fit.SQUASH, 12, 12)
TEXT = "conv 4 k3 same bn relu, pool 2, conv 6 k3 relu"


def pixels(batch=3, size=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)


def make_backbone(layer="conv2", pool=Pool.AVG):
    return backbones.by_notation(TEXT, size=12, layer=layer, pool=pool, seed=1)[:2]


# ---------------------------------------------------------------- parts


def test_normalisation_is_torchvisions():
    """Normalization inside the network equals to_tensor and normalize, to the rounding of float32, for every byte."""
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    expected = transforms.normalize(transforms.to_tensor(Image.fromarray(every)), PREPROCESS.mean, PREPROCESS.std)
    found = InputNormalization(PREPROCESS)(torch.from_numpy(every[None]))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_normalisation_has_no_state():
    """Mean and standard deviation are in the Header and not in the state_dict, so that they cannot disagree."""
    assert InputNormalization(PREPROCESS).state_dict() == {}


def test_grey_is_the_luma():
    """Three channels become one inside the network: Pillow's mode L, except for its rounding, of the normalized values."""
    image = Image.fromarray(pixels(1, 40)[0])
    given = torch.from_numpy(pixels(1, 40))
    plain = Preprocess(Fit.SQUASH, 40, 40, mean=(0.0,) * 3, std=(1.0,) * 3, grey=True)
    found = InputNormalization(plain)(given)
    assert found.shape == (1, 1, 40, 40)
    levels = np.asarray(image.convert("L"), dtype=np.float32)
    assert np.abs(255 * found[0, 0].numpy() - levels).max() <= 1
    scaled = Preprocess(Fit.SQUASH, 40, 40, mean=(0.3,) * 3, std=(0.2,) * 3, grey=True)
    torch.testing.assert_close(InputNormalization(scaled)(given), (found - 0.3) / 0.2)


@pytest.mark.parametrize(
    ("pool", "reference"),
    [
        (Pool.AVG, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())),
        (Pool.MAX, nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())),
        (Pool.FLATTEN, nn.Flatten()),
        (Pool.NONE, nn.Identity()),
    ],
)
def test_pooling_is_torchs(pool, reference):
    """Every pooling equals torch's layer on maps, and does not change vectors."""
    maps = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Pooling(pool)(maps), reference(maps))
    vectors = maps[:, :, 0, 0]
    assert torch.equal(Pooling(pool)(vectors), vectors)


def test_extractor_is_its_parts_in_sequence():
    """Normalization, backbone and pooling, in this order."""
    network, _ = make_backbone()
    images = torch.from_numpy(pixels())
    extractor = Extractor(network, preprocess=PREPROCESS, pool=Pool.MAX).eval()
    floats = torch.stack(
        [
            transforms.normalize(transforms.to_tensor(Image.fromarray(each)), PREPROCESS.mean, PREPROCESS.std)
            for each in pixels()
        ]
    )
    with torch.no_grad():
        torch.testing.assert_close(extractor(images), network(floats).amax((2, 3)), rtol=1e-5, atol=1e-5)
    assert classifier.feature_shape(extractor, PREPROCESS) == (6,)


def test_probabilities_are_a_softmax_or_one_sigmoid():
    """Several logits become a softmax; a single one becomes the probabilities of both classes, the second being the sigmoid."""
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 30.0]])
    assert torch.equal(classifier.class_logits(logits), logits)
    single = torch.tensor([[0.0], [3.0], [-40.0]])
    both = classifier.class_logits(single).softmax(1)
    assert torch.allclose(both[:, 1], single.sigmoid()[:, 0])
    assert torch.allclose(both.sum(1), torch.ones(3))


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize("end", ["", " softmax", " sigmoid", ", softmax", ", sigmoid"])
def test_heads_end_in_logits(end):
    """A softmax or sigmoid at the end of a head, alone or part of the last layer, is removed; other activations are kept."""
    head = classifier.build_head(f"dense 4 relu, dense 3{end}", (6,))
    assert [type(part) for part in head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert isinstance(classifier.build_head("dense 3 tanh", (6,))[-1], nn.Tanh)


def test_heads_take_vectors_and_maps():
    """A head is built for pooled features or for a map (C, H, W), whose axes are not permuted."""
    assert classifier.build_head("dense 2", (6,))(torch.ones(1, 6)).shape == (1, 2)
    head = classifier.build_head("conv 3 k2x1, flatten, dense 2", (6, 2, 5))
    assert head(torch.ones(1, 6, 2, 5)).shape == (1, 2)


@pytest.mark.parametrize("text", ["", "  ", "# nothing"])
def test_rejects_empty_head(text):
    """A head without layers is a usage error, not a crash."""
    with pytest.raises(UsageError, match="the head has no layers"):
        classifier.head_layers(text)


# ---------------------------------------------------------------- from a file


def model(pool=Pool.AVG, head="dropout 0.5, dense 2 softmax", layer="conv2"):
    network, backbone = make_backbone(layer, pool)
    extractor = Extractor(network, preprocess=PREPROCESS, pool=pool).eval()
    built = classifier.build_head(head, classifier.feature_shape(extractor, PREPROCESS))
    whole = Classifier(network, built, preprocess=PREPROCESS, pool=pool).eval()
    return whole, Header(ArtefactKind.MODEL, ("cat", "dog"), PREPROCESS, backbone, head)


@pytest.mark.parametrize("pool", sorted(set(Pool) - {Pool.CLS, Pool.CLS_AVG}))
@pytest.mark.parametrize("layer", ["conv2", "pool1"])
def test_a_header_builds_its_network_again(pool, layer):
    """The network of a file computes what the saved one did, for any layer and pooling, and is in eval mode."""
    head = "conv 3 k1 relu, flatten, dense 2" if pool is Pool.NONE else "dense 5 relu, dense 2"
    whole, header = model(pool, head, layer)
    again = classifier.from_header(header, whole.state_dict(), name="model.pt")
    images = torch.from_numpy(pixels())
    with torch.no_grad():
        assert torch.equal(again(images), whole(images))
        assert torch.equal(again.features(images), whole.features(images))
    assert not again.training


def test_a_header_builds_torchvisions_networks_again():
    """The same for a backbone by name."""
    network, backbone, preprocess = backbones.pretrained("squeezenet1_1", weights="none", layer="features.5", seed=2)
    whole = Classifier(network, classifier.build_head("dense 2", (128,)), preprocess=preprocess, pool=Pool.AVG).eval()
    header = Header(ArtefactKind.MODEL, ("cat", "dog"), preprocess, backbone, "dense 2")
    again = classifier.from_header(header, whole.state_dict(), name="model.pt")
    images = torch.from_numpy(pixels(1, 224))
    with torch.no_grad():
        assert torch.equal(again(images), whole(images))


def test_rejects_incomplete_headers_and_other_weights():
    """A Header without backbone, preprocessing or head is an error, as are weights that are not its own."""
    whole, header = model()
    for missing in ("backbone", "preprocess", "head"):
        with pytest.raises(FormatError, match=r"^model\.pt: its header has no "):
            classifier.from_header(header.but(**{missing: None}), whole.state_dict(), name="model.pt")
    with pytest.raises(FormatError, match=r"^model\.pt: its weights do not fit its header .*head\.dense1"):
        classifier.from_header(header.but(head="dense 3"), whole.state_dict(), name="model.pt")
    state = {key: value for key, value in whole.state_dict().items() if key != "base.conv2.weight"}
    with pytest.raises(FormatError, match=r'its weights do not fit its header .*"base\.conv2\.weight"'):
        classifier.from_header(header, state, name="model.pt")


def test_model_cut_early_is_built_as_early():
    """Also if its record has no hash of weights."""
    whole, header = model(layer="pool1")
    assert isinstance(header.backbone, Backbone)
    again = classifier.from_header(
        header.but(backbone=Backbone("layers", "pool1", Pool.AVG, None, TEXT)), whole.state_dict(), name="model.pt"
    )
    assert not any("conv2" in key for key in again.state_dict())


def test_header_cannot_request_more_memory_than_its_weights():
    """A notation of billions of parameters is refused before memory is allocated, as are outputs that do not fit the classes."""
    whole, header = model()
    assert header.backbone is not None
    for change in (
        {"backbone": replace(header.backbone, notation="conv 99999999 k3", layer="conv1")},
        {"head": "dense 99999999 relu, dense 2 softmax"},
    ):
        with pytest.raises(
            FormatError, match=r"^model\.pt: its header and its weights do not fit together \(with \w+ the network has"
        ):
            classifier.from_header(header.but(**change), whole.state_dict(), name="model.pt")
    with pytest.raises(FormatError, match=r"^model\.pt: its header names 5 classes, its head has"):
        classifier.from_header(header.but(classes=tuple("abcde")), whole.state_dict(), name="model.pt")


def test_rejects_integer_weights():
    """They are named, and not converted to floats; counters of batches are integers."""
    whole, header = model()
    name = next(name for name, tensor in whole.state_dict().items() if tensor.is_floating_point())
    state = {**whole.state_dict(), name: torch.ones_like(whole.state_dict()[name], dtype=torch.int64)}
    with pytest.raises(FormatError, match=rf"^model\.pt: {name} is int64, not a float"):
        classifier.from_header(header, state, name="model.pt")
