"""Class activation maps against pytorch-grad-cam and worked examples; the network is left unchanged."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torchvision
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

from cnnkit.choices import CamMethod, Pool
from cnnkit.data import preprocessing
from cnnkit.engine import rows
from cnnkit.errors import UsageError
from cnnkit.explain.cam import TorchCam
from cnnkit.explain.cam_methods import METHODS, EigenCam
from cnnkit.nets import backbones, catalogue, classifier, layer_graph

#: Published implementations that maps are compared with.
REFERENCES = {
    CamMethod.GRADCAM: pytorch_grad_cam.GradCAM,
    CamMethod.GRADCAM_PLUS_PLUS: pytorch_grad_cam.GradCAMPlusPlus,
    CamMethod.HIRESCAM: pytorch_grad_cam.HiResCAM,
    CamMethod.LAYERCAM: pytorch_grad_cam.LayerCAM,
    CamMethod.SCORECAM: pytorch_grad_cam.ScoreCAM,
}
#: Methods that are compared with something else, in a test of their own.
OTHER_REFERENCES = {
    CamMethod.EIGENCAM: "test_principal_component_equals_pytorch_grad_cam",
    CamMethod.CAM: "test_map_is_the_weighted_sum_after_global_average_pooling",
}


def published(method, network, target, images, chosen, *, shape, monkeypatch):
    """Compute the maps of pytorch-grad-cam at the size of the layer, scaled to 0 to 1."""
    kind = REFERENCES[method]
    monkeypatch.setattr(kind, "get_target_width_height", lambda _self, _images: shape[::-1])
    with kind(model=network, target_layers=[target]) as maps, np.errstate(invalid="ignore", divide="ignore"):
        return maps(input_tensor=images, targets=[ClassifierOutputTarget(int(number)) for number in chosen])


@contextlib.contextmanager
def loud(layer, method):
    """Scale the logits of a network in a context, for Grad-CAM++.

    Theirs adds 1e-6 to a denominator of squared gradients, which are often no larger themselves; of these logits they are.
    """
    factor = 1e3 if method is CamMethod.GRADCAM_PLUS_PLUS else 1.0
    before = layer.weight.data
    layer.weight.data = factor * before
    try:
        yield
    finally:
        layer.weight.data = before


def correlation(one, other):
    assert one.std() > 0
    assert other.std() > 0
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


def same_maps(found, theirs):
    return [correlation(ours, other) for ours, other in zip(found, theirs, strict=True)]


@pytest.fixture(scope="module")
def vgg():
    """VGG11 with seeded random weights, as a LayerGraph and as a torchvision module, on 64 pixels."""
    network, classes = layer_graph.of_name("vgg11", weights="none", seed=3)
    network.resize(replace(network.preprocess, size=64, resize=64))
    with torch.device("meta"):  # no random values of its own
        own = torchvision.models.vgg11(weights=None).eval()
    own.load_state_dict(network.module.state_dict(), assign=True)
    own.requires_grad_(False)  # the maps need no gradients of weights, which are a hundred million
    for module in own.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = (
                False  # theirs would see the activations that ReLU has overwritten; ours must not need this
            )
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    return network, classes, own, images


@pytest.mark.parametrize("method", REFERENCES)
def test_maps_of_a_vgg_equal_pytorch_grad_cam(vgg, method, monkeypatch):
    """At a layer in the middle, where gradients differ between pixels, before an in-place activation."""
    network, classes, own, images = vgg
    names = ["features.8", "features.10"]
    if method is CamMethod.SCORECAM:  # a pass for every channel: few of them, once
        names, images = ["features.2"], images[:1]
    for name in names:
        layer, target = network.find(name), own.get_submodule(name)
        with loud(network.module.get_submodule("classifier.6"), method), loud(own.classifier[6], method):
            look = TorchCam(network, classes, layer=layer, method=method).forward(images)
            chosen = look.probabilities.argmax(1)
            found = look.maps(chosen)
            given = network.normalise(torch.from_numpy(images)).requires_grad_()
            theirs = published(method, own, target, given, chosen, shape=layer.shape[1:], monkeypatch=monkeypatch)
        assert min(same_maps(found, theirs)) > 0.999


def test_principal_component_equals_pytorch_grad_cam(vgg):
    """Up to the sign, which is arbitrary in pytorch-grad-cam; here it is positive where activations are large."""
    network, classes, own, images = vgg
    layer = network.find("features.10")
    with torch.no_grad():
        activations = own.features[:11](network.normalise(torch.from_numpy(images)))
    theirs = get_2d_projection(activations.numpy())
    found = EigenCam(SimpleNamespace(activations=activations)).maps(torch.tensor([0, 1])).numpy()
    for ours, other, strength in zip(found, theirs, activations.sum(1).numpy(), strict=True):
        assert abs(correlation(ours, other)) > 0.99999
        assert correlation(ours, strength) > 0
    maps = TorchCam(network, classes, layer=layer, method=CamMethod.EIGENCAM).forward(images).maps(np.array([0, 1]))
    np.testing.assert_allclose(maps, np.maximum(found, 0), rtol=1e-3, atol=1e-4 * found.max())


@pytest.mark.slow
@pytest.mark.photos
@pytest.mark.parametrize("method", REFERENCES)
def test_maps_of_photographs_equal_pytorch_grad_cam(photos, method, monkeypatch):
    """MobileNetV2 with ImageNet weights, at its last map; Score-CAM at an earlier layer with fewer channels."""
    weights = photos / "weights" / "mobilenet_v2.pth"
    network, classes = layer_graph.of_name("mobilenet_v2", weights=weights)
    own = torchvision.models.mobilenet_v2(weights=None).eval().requires_grad_(False)
    own.load_state_dict(torch.load(weights, weights_only=True))
    names = ["both.png", "dog_cat.jfif", "creative_commons_elephant.jpg"][: 1 if method is CamMethod.SCORECAM else 3]
    images = np.stack([preprocessing.load(photos / "pictures" / name, network.preprocess) for name in names])
    layer = network.find("features.1") if method is CamMethod.SCORECAM else network.last_spatial()
    target = own.features[1] if method is CamMethod.SCORECAM else own.features[-1]
    with loud(network.module.get_submodule("classifier.1"), method), loud(own.classifier[1], method):
        look = TorchCam(network, classes, layer=layer, method=method).forward(images)
        chosen = look.probabilities.argmax(1)
        assert classes[chosen[-1]] == ("African elephant" if len(names) == 3 else "bull mastiff")
        given = network.normalise(torch.from_numpy(images)).requires_grad_()
        theirs = published(method, own, target, given, chosen, shape=layer.shape[1:], monkeypatch=monkeypatch)
        assert min(same_maps(look.maps(chosen), theirs)) > 0.999


# ---------------------------------------------------------------- tokens, and maps with channels last


def reshaped(module):
    """As in the documentation of pytorch-grad-cam, with the number of prefix tokens of the network."""
    rows, columns = module.patch_embed.grid_size

    def transform(tokens):
        patches = tokens[:, module.num_prefix_tokens :]
        return patches.reshape(len(tokens), rows, columns, -1).permute(0, 3, 1, 2)

    return transform


TOKEN_METHODS = {
    CamMethod.GRADCAM: pytorch_grad_cam.GradCAM,
    CamMethod.HIRESCAM: pytorch_grad_cam.HiResCAM,
    CamMethod.LAYERCAM: pytorch_grad_cam.LayerCAM,
    CamMethod.EIGENCAM: pytorch_grad_cam.EigenCAM,
}


def weights_of_timm(name, path):
    """Save random weights whose attention differs between patches, so that maps are not constant."""
    module = timm_network(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in module.parameters():
            if values.ndim > 1:
                values.copy_(torch.randn(values.shape, generator=generator) * 2 / values[0].numel() ** 0.5)
            elif float(values.abs().max()) < 1e-3:  # layer scale, or a bias
                values.copy_(torch.rand(values.shape, generator=generator))
    torch.save(module.state_dict(), path)
    return module


def timm_network(name):
    import timm

    return timm.create_model(name, pretrained=False, dynamic_img_size=False).eval()


@pytest.mark.parametrize("method", TOKEN_METHODS)
@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])  # a class token; a register, and the mean of the patches
def test_maps_of_tokens_equal_pytorch_grad_cam(tmp_path, name, method):
    """At the default layer, the normalization before the last attention; pytorch-grad-cam needs a reshape_transform."""
    own = weights_of_timm(name, tmp_path / "w.pth")
    network, classes = layer_graph.of_name(f"timm:{name}", weights=tmp_path / "w.pth")
    layer = network.last_spatial()
    assert layer.name == f"blocks.{len(own.blocks) - 1}.norm1"
    images = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)
    look = TorchCam(network, classes, layer=layer, method=method).forward(images)
    chosen = look.probabilities.argmax(1)
    found = look.maps(chosen)
    assert found.shape == (2, 10, 10)
    with TOKEN_METHODS[method](
        model=own, target_layers=[own.blocks[-1].norm1], reshape_transform=reshaped(own)
    ) as maps:
        given = network.normalise(torch.from_numpy(images)).requires_grad_()
        maps.get_target_width_height = lambda _given: (10, 10)
        theirs = maps(input_tensor=given, targets=[ClassifierOutputTarget(int(number)) for number in chosen])
    if (
        method is CamMethod.EIGENCAM
    ):  # its sign is arbitrary there: compare the principal component, which is not cut at 0
        seen = look.seen.activations
        theirs = get_2d_projection(seen.numpy())
        found = EigenCam(SimpleNamespace(activations=seen)).maps(torch.zeros(2)).numpy()
        assert min(map(abs, same_maps(found, theirs))) > 0.999
    else:
        assert min(same_maps(found, theirs)) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), [("swin_t", "norm"), ("timm:swin_tiny_patch4_window7_224", "norm")])
def test_maps_with_channels_last_equal_pytorch_grad_cam(tmp_path, name, target):
    """Swin transformers of torchvision and timm at their last map, (N, h, w, C)."""
    network, classes = layer_graph.of_name(name, weights="none", seed=1)
    own, _ = catalogue.seeded(1, lambda: catalogue.network(name))
    own.eval()
    layer = network.last_spatial()
    assert layer.shape == (768, 7, 7)
    images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    look = TorchCam(network, classes, layer=layer).forward(images)
    chosen = look.probabilities.argmax(1)
    with pytorch_grad_cam.GradCAM(
        model=own, target_layers=[own.get_submodule(target)], reshape_transform=lambda maps: maps.permute(0, 3, 1, 2)
    ) as maps:
        maps.get_target_width_height = lambda _given: (7, 7)
        given = network.normalise(torch.from_numpy(images)).requires_grad_()
        theirs = maps(input_tensor=given, targets=[ClassifierOutputTarget(int(number)) for number in chosen])
    assert min(same_maps(look.maps(chosen), theirs)) > 0.999


# ---------------------------------------------------------------- worked examples


def small(head="dense 3 softmax", *, layers="conv 5 k3 relu, conv 4 k3 s2 relu", pool=Pool.AVG, seed=0):
    """Build a classifier from notation, with random weights, for images of 16 pixels."""
    backbone, _, preprocess = backbones.by_notation(layers, size=16, seed=seed, pool=pool)
    shape = classifier.feature_shape(
        classifier.Extractor(backbone, preprocess=preprocess, pool=pool).eval(), preprocess
    )
    network = classifier.Classifier(backbone, classifier.build_head(head, shape), preprocess=preprocess, pool=pool)
    with torch.no_grad():
        for number, values in enumerate(network.head.parameters()):
            values.copy_(torch.randn(values.shape, generator=torch.Generator().manual_seed(seed + number)))
    return network.eval()


IMAGES = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
CHOSEN = np.array([0, 2, 1, 2])


def maps_of(network, *, method=CamMethod.GRADCAM, classes=("a", "b", "c"), layer=None, **options):
    whole = layer_graph.of_classifier(network, name="small.pt")
    place = whole.last_spatial() if layer is None else whole.find(layer)
    return TorchCam(whole, classes, layer=place, method=method, **options)


def test_map_is_the_weighted_sum_after_global_average_pooling():
    """Closed form: CAM is the sum, Grad-CAM and HiResCAM are the sum divided by the number of pixels."""
    network = small()
    with torch.no_grad():
        activations = network.base(network.normalise(torch.from_numpy(IMAGES)))  # (4, 4, 6, 6)
    weight = network.head[-1].weight.detach()[torch.from_numpy(CHOSEN)]  # (4, 4)
    closed = torch.einsum("nk,nkhw->nhw", weight, activations)
    for sign, contrast in ((1, False), (-1, True)):
        expected = (sign * closed).relu().numpy()
        assert expected.max() > 0
        for method, factor in ((CamMethod.CAM, 1), (CamMethod.GRADCAM, 36), (CamMethod.HIRESCAM, 36)):
            found = maps_of(network, method=method, contrast=contrast).forward(IMAGES).maps(CHOSEN)
            np.testing.assert_allclose(factor * found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", ["conv1", "conv1_relu", "conv2", None])
def test_gradients_equal_those_of_the_whole_network(layer):
    """At every layer, with its activation or without, for a network without shortcuts."""
    network = small("dense 6 relu, dense 3 softmax")
    place = {"conv1": "conv1_relu", None: "conv2_relu"}.get(layer, layer)
    place = "conv2_relu" if place == "conv2" else place
    seen = {}
    handle = network.base.get_submodule(place).register_forward_hook(lambda _m, _g, made: seen.update(made=made))
    logits = network(torch.from_numpy(IMAGES))
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.gather(1, torch.from_numpy(CHOSEN)[:, None]).sum(), seen["made"])
    expected = (gradient.mean((2, 3), keepdim=True) * seen["made"]).sum(1).relu().detach().numpy()
    np.testing.assert_allclose(
        maps_of(network, layer=layer).forward(IMAGES).maps(CHOSEN), expected, rtol=1e-4, atol=1e-7
    )


def test_a_single_sigmoid_has_maps_of_both_classes():
    """z is the score of the second class and -z that of the first: the map of one is the contrast of the other."""
    network = small("dense 1 sigmoid")
    first, second = np.zeros(4, dtype=np.int64), np.ones(4, dtype=np.int64)
    look = maps_of(network, classes=("a", "b")).forward(IMAGES)
    against = maps_of(network, classes=("a", "b"), contrast=True).forward(IMAGES)
    assert look.maps(first).max() > 0
    np.testing.assert_array_equal(look.maps(first), against.maps(second))
    np.testing.assert_array_equal(look.maps(second), against.maps(first))
    with torch.no_grad():
        z = network(torch.from_numpy(IMAGES)).sigmoid().numpy()
    np.testing.assert_allclose(look.probabilities, np.concatenate([1 - z, z], axis=1), atol=1e-6)


@pytest.mark.parametrize("method", CamMethod)
def test_images_of_a_batch_are_independent(method):
    """The map of an image does not depend on the other images and their classes."""
    network = small()
    together = maps_of(network, method=method, batch=3).forward(IMAGES).maps(CHOSEN)
    assert together.shape == (4, 6, 6)
    assert together.dtype == np.float32
    assert together.min() >= 0
    for index in range(4):
        alone = maps_of(network, method=method).forward(IMAGES[index : index + 1]).maps(CHOSEN[index : index + 1])
        np.testing.assert_allclose(together[index], alone[0], rtol=1e-3, atol=1e-5 * together.max())


def test_parts_of_a_batch_run_on_all_cores(monkeypatch):
    """A batch that has a part for every core has the maps of a batch that runs whole; torch's number of threads is restored."""
    network, images = small(), np.concatenate([IMAGES, IMAGES, IMAGES[:1]])
    chosen, before, found = np.concatenate([CHOSEN, CHOSEN, CHOSEN[:1]]), torch.get_num_threads(), {}
    for cores in (2, 3):  # parts of four: nine images suffice for two cores
        monkeypatch.setattr(rows, "usable_cores", lambda cores=cores: cores)
        used = []
        maps = maps_of(network)
        front = maps._front.forward
        maps._front.forward = lambda part, front=front, used=used: (used.append(len(part)), front(part))[1]
        found[cores] = maps.forward(images).maps(chosen)
        assert sorted(used) == ([1, 4, 4] if cores == 2 else [9])
    np.testing.assert_allclose(found[2], found[3], rtol=1e-4, atol=1e-6 * found[3].max())
    assert torch.get_num_threads() == before


def test_every_method_is_implemented_and_compared_once():
    """The registry has each choice of `--method` with a line of help; each is in one of the tables of references."""
    assert set(METHODS) == set(CamMethod)
    assert sorted([*REFERENCES, *OTHER_REFERENCES]) == sorted(CamMethod)
    assert set(OTHER_REFERENCES.values()) <= set(globals())
    assert len({computation.help for computation in METHODS.values()}) == len(CamMethod)


@pytest.mark.parametrize("method", CamMethod)
def test_class_agnostic_methods_have_one_map(method):
    """Two classes get the same map by these methods, and different ones by the others."""
    network = small()
    one, other = (
        maps_of(network, method=method).forward(IMAGES).maps(np.full(4, number, dtype=np.int64)) for number in (0, 2)
    )
    assert np.array_equal(one, other) == METHODS[method].is_class_agnostic


@pytest.mark.parametrize("method", [method for method, computation in METHODS.items() if computation.has_closed_form])
def test_closed_forms_equal_gradients(method):
    """For a head of one dense layer."""
    network = small()
    with torch.no_grad():
        activations = network.base(network.normalise(torch.from_numpy(IMAGES)))  # (4, 4, 6, 6)
        sums = torch.einsum("ck,nkhw->nchw", network.head[-1].weight, activations).numpy()
    expected = np.maximum(METHODS[method].from_sums(sums)[np.arange(4), CHOSEN], 0)
    np.testing.assert_allclose(maps_of(network, method=method).forward(IMAGES).maps(CHOSEN), expected, atol=1e-6)


def test_constant_score_gives_a_map_of_zeros():
    """Not NaN, for any method with gradients; Grad-CAM++ divides zero by zero."""
    network = small()
    with torch.no_grad():
        network.head[-1].weight.zero_()
    for method in [method for method, computation in METHODS.items() if computation.uses_gradients]:
        found = maps_of(network, method=method).forward(IMAGES).maps(CHOSEN)
        np.testing.assert_array_equal(found, np.zeros((4, 6, 6)))


@pytest.mark.parametrize(
    ("head", "pool"),
    [("dense 6 relu, dense 3 softmax", Pool.AVG), ("dense 3 softmax", Pool.FLATTEN), ("dense 3 softmax", Pool.MAX)],
)
def test_cam_rejects_other_heads(head, pool):
    """Two dense layers, flatten, or max pooling."""
    with pytest.raises(UsageError, match=r"--method cam needs one dense layer after global average pooling of conv2"):
        maps_of(small(head, pool=pool), method=CamMethod.CAM)


def test_rejects_layer_without_height_and_width():
    """The message names the last layer with both; methods without gradients reject --contrast."""
    with pytest.raises(
        UsageError, match=r"head\.dense1 of small\.pt has output 6, .* the last layer with both is conv2"
    ):
        maps_of(small("dense 6 relu, dense 3 softmax"), layer="head.dense1")
    for method in [method for method, computation in METHODS.items() if not computation.uses_gradients]:
        with pytest.raises(UsageError, match=f"--contrast needs gradients, and {method} uses none"):
            maps_of(small(), method=method, contrast=True)


# ---------------------------------------------------------------- side effects


@pytest.mark.parametrize("broken", [False, True], ids=["whole", "broken"])
def test_network_is_left_unchanged(broken, monkeypatch):
    """Train flags, gradients, hooks and statistics, also after an exception and with frozen weights."""
    network = small("bn, dropout 0.5, dense 3 softmax", layers="conv 5 k3 bn relu, conv 4 k3 relu")
    expected = maps_of(network).forward(IMAGES).maps(CHOSEN)
    network.train()
    network.base.get_submodule("conv2").eval()
    for parameter in network.base.parameters():
        parameter.requires_grad_(False)
    network.head[-1].weight.grad = torch.ones_like(network.head[-1].weight)

    def state():
        return (
            [module.training for module in network.modules()],
            [parameter.requires_grad for parameter in network.parameters()],
            [None if each.grad is None else each.grad.tolist() for each in network.parameters()],
            [len(module._forward_hooks) + len(module._backward_hooks) for module in network.modules()],
            {name: tensor.tolist() for name, tensor in network.state_dict().items()},
            torch.is_grad_enabled(),
        )

    before = state()
    maps = maps_of(network)
    if broken:
        monkeypatch.setattr(torch.autograd, "grad", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            maps.forward(IMAGES).maps(CHOSEN)
    else:
        np.testing.assert_allclose(maps.forward(IMAGES).maps(CHOSEN), expected, rtol=1e-5, atol=1e-7)
        maps.probabilities(IMAGES)
    assert state() == before


@pytest.mark.gpu
@pytest.mark.parametrize("method", CamMethod)
def test_maps_on_a_gpu_equal_those_on_a_cpu(method):
    """Up to rounding, without TF32."""
    network = small()
    expected = maps_of(network, method=method).forward(IMAGES).maps(CHOSEN)
    whole = layer_graph.of_classifier(network, name="small.pt").to(torch.device("cuda"))
    found = TorchCam(whole, ("a", "b", "c"), layer=whole.last_spatial(), method=method).forward(IMAGES).maps(CHOSEN)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * expected.max())
