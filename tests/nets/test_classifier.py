"""normalise -> backbone -> pool -> head, each against torchvision's or torch's own, and the way back from a Header."""

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


# ---------------------------------------------------------------- the parts


def test_normalisation_is_torchvisions():
    """Scaling inside the network gives what to_tensor and normalize give, to the rounding of float32, for every byte."""
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    expected = transforms.normalize(transforms.to_tensor(Image.fromarray(every)), PREPROCESS.mean, PREPROCESS.std)
    found = InputNormalization(PREPROCESS)(torch.from_numpy(every[None]))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_normalisation_has_no_state():
    """Mean and deviation stand in the Header and in no state_dict, so that they cannot disagree."""
    assert InputNormalization(PREPROCESS).state_dict() == {}


def test_grey_is_the_luma():
    """Three channels become one inside the network: Pillow's mode L, but for its rounding, of the normalised values."""
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
    """Every way to pool is torch's layer of that kind on maps, and leaves vectors alone."""
    maps = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Pooling(pool)(maps), reference(maps))
    vectors = maps[:, :, 0, 0]
    assert torch.equal(Pooling(pool)(vectors), vectors)


def test_the_extractor_is_its_parts_in_a_row():
    """Images go through normalisation, backbone and pooling, in this order and no other."""
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
    """Several logits become a softmax; one becomes the probabilities of both classes, the second being the sigmoid."""
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 30.0]])
    assert torch.equal(classifier.class_logits(logits), logits)
    single = torch.tensor([[0.0], [3.0], [-40.0]])
    both = classifier.class_logits(single).softmax(1)
    assert torch.allclose(both[:, 1], single.sigmoid()[:, 0])
    assert torch.allclose(both.sum(1), torch.ones(3))


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize("end", ["", " softmax", " sigmoid", ", softmax", ", sigmoid"])
def test_heads_end_in_logits(end):
    """A softmax or sigmoid at a head's end, behind the last layer or alone, is left to the loss; others stay."""
    head = classifier.build_head(f"dense 4 relu, dense 3{end}", (6,))
    assert [type(part) for part in head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert isinstance(classifier.build_head("dense 3 tanh", (6,))[-1], nn.Tanh)


def test_heads_take_vectors_and_maps():
    """A head is built for pooled features or for a map (C, H, W), which is not turned around."""
    assert classifier.build_head("dense 2", (6,))(torch.ones(1, 6)).shape == (1, 2)
    head = classifier.build_head("conv 3 k2x1, flatten, dense 2", (6, 2, 5))
    assert head(torch.ones(1, 6, 2, 5)).shape == (1, 2)


@pytest.mark.parametrize("text", ["", "  ", "# nothing"])
def test_an_empty_head_is_refused(text):
    """A head without layers is a usage error, not a crash."""
    with pytest.raises(UsageError, match="the head has no layers"):
        classifier.head_layers(text)


# ---------------------------------------------------------------- out of a file


def model(pool=Pool.AVG, head="dropout 0.5, dense 2 softmax", layer="conv2"):
    network, backbone = make_backbone(layer, pool)
    extractor = Extractor(network, preprocess=PREPROCESS, pool=pool).eval()
    built = classifier.build_head(head, classifier.feature_shape(extractor, PREPROCESS))
    whole = Classifier(network, built, preprocess=PREPROCESS, pool=pool).eval()
    return whole, Header(ArtefactKind.MODEL, ("cat", "dog"), PREPROCESS, backbone, head)


@pytest.mark.parametrize("pool", list(Pool))
@pytest.mark.parametrize("layer", ["conv2", "pool1"])
def test_a_header_builds_its_network_again(pool, layer):
    """What a file describes computes what was saved, whatever the layer and the pooling, and is ready for use."""
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


def test_what_a_header_lacks_is_named():
    """A Header without backbone, preprocessing or head builds nothing; nor do weights that are not its own."""
    whole, header = model()
    for missing in ("backbone", "preprocess", "head"):
        with pytest.raises(FormatError, match=r"^model\.pt: its header lacks"):
            classifier.from_header(header.but(**{missing: None}), whole.state_dict(), name="model.pt")
    with pytest.raises(FormatError, match=r"^model\.pt: its weights do not fit its header .*head\.dense1"):
        classifier.from_header(header.but(head="dense 3"), whole.state_dict(), name="model.pt")
    state = {key: value for key, value in whole.state_dict().items() if key != "base.conv2.weight"}
    with pytest.raises(FormatError, match=r'its weights do not fit its header .*"base\.conv2\.weight"'):
        classifier.from_header(header, state, name="model.pt")


def test_the_record_of_the_backbone_is_used_not_the_first_of_its_name():
    """A model cut early is built as early, also when its record says nothing about weights."""
    whole, header = model(layer="pool1")
    assert isinstance(header.backbone, Backbone)
    again = classifier.from_header(
        header.but(backbone=Backbone("layers", "pool1", Pool.AVG, None, TEXT)), whole.state_dict(), name="model.pt"
    )
    assert not any("conv2" in key for key in again.state_dict())


def test_a_header_asks_for_no_more_than_its_weights_have():
    """A notation of billions of parameters is refused before there is any memory for them, as are outputs that are not the classes."""
    whole, header = model()
    assert header.backbone is not None
    for change in (
        {"backbone": replace(header.backbone, notation="conv 99999999 k3", layer="conv1")},
        {"head": "dense 99999999 relu, dense 2 softmax"},
    ):
        with pytest.raises(
            FormatError, match=r"^model\.pt: its header and its weights do not fit \(\w+ brings the network to"
        ):
            classifier.from_header(header.but(**change), whole.state_dict(), name="model.pt")
    with pytest.raises(FormatError, match=r"^model\.pt: its header names 5 classes, its head has"):
        classifier.from_header(header.but(classes=tuple("abcde")), whole.state_dict(), name="model.pt")


def test_integers_are_no_weights():
    """They are refused by name, and not turned into floats; counters of batches are integers."""
    whole, header = model()
    name = next(name for name, tensor in whole.state_dict().items() if tensor.is_floating_point())
    state = {**whole.state_dict(), name: torch.ones_like(whole.state_dict()[name], dtype=torch.int64)}
    with pytest.raises(FormatError, match=rf"^model\.pt: {name} is int64, not a float"):
        classifier.from_header(header, state, name="model.pt")
