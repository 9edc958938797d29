"""Networks of torchvision and timm as they are, with the classes of their weights, as the same classifiers that cnnkit trains.

A network whose last layer is dense is divided before it: the backbone, and the head "dense 1000 softmax". Any other network is the
backbone alone, with a head that changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from cnnkit.choices import Pool
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import torch_model
from cnnkit.formats.header import ArtefactKind, Backbone, Header, Preprocess, made_by
from cnnkit.nets import backbones, catalogue, classifier, subgraph
from cnnkit.nets.classifier import Classifier, Pooling

#: The head of a network that is a backbone alone.
NO_HEAD = "flatten"

#: How far two ways to compute the same features may differ, as a share of the largest one.
_ROUNDING = 1e-4


@dataclass(frozen=True, slots=True)
class _Division:
    """A network, divided into backbone and head; `dense` is None if the head changes nothing."""

    base: nn.Module
    layer: str
    pool: Pool
    dense: nn.Linear | None


def load(
    name: str, *, weights: str | Path = "default", seed: int = 0, classes: Sequence[str] | None = None
) -> tuple[Classifier, Header]:
    """Build a network with its classifier.

    Args:
        name: As for `catalogue.canonical`.
        weights: As for `backbones.pretrained`. A file may have another number of classes than the default weights.
        seed: Seed of random values.
        classes: The names of the outputs, in order; by default those of the default weights, if these have as many, else numbers.

    Returns:
        The network in eval mode, and the Header of a `.pt` with this network.

    Raises:
        UsageError: There is no such network, or it has another number of outputs than `classes`.
        CnnkitError: The weights are not available, or do not fit; or the network is no classifier.
    """
    name = catalogue.canonical(name)
    module, preprocess, digest = backbones.whole(name, weights, seed=seed)
    outputs = _outputs(module, preprocess, name=name)
    if classes is not None and len(classes) != outputs:
        raise UsageError(f"--labels has {len(classes)} classes, and {name} has {outputs} outputs")
    divided = _divided(name, module, preprocess)
    text = NO_HEAD
    if divided.dense is not None:
        text = f"dense {outputs}{'' if divided.dense.bias is not None else ' nobias'} softmax"
    extractor = classifier.Extractor(divided.base, preprocess=preprocess, pool=divided.pool).eval()
    head = classifier.build_head(text, classifier.feature_shape(extractor, preprocess))
    if divided.dense is not None:
        (own,) = (part for part in head if isinstance(part, nn.Linear))
        own.load_state_dict(divided.dense.state_dict())
    network = Classifier(divided.base, head, preprocess=preprocess, pool=divided.pool).eval()
    header = Header(
        kind=ArtefactKind.MODEL,
        classes=tuple(classes or catalogue.class_names(outputs, module)),
        preprocess=preprocess,
        backbone=Backbone(
            name=name,
            layer=divided.layer,
            pool=divided.pool,
            weights_sha256=digest or torch_model.keep_state(divided.base.state_dict()),
        ),
        head=text,
        made_by=made_by("torch", "torchvision", *(["timm"] if name.startswith("timm:") else [])),
    )
    return network, header


def _outputs(module: nn.Module, preprocess: Preprocess, *, name: str) -> int:
    """Return the number of classes of a network.

    Raises:
        CnnkitError: It does not output a vector for each image.
    """
    with torch.no_grad():
        found = module(torch.zeros(1, 3, preprocess.height, preprocess.width))
    if not isinstance(found, Tensor) or found.ndim != 2 or getattr(module, "num_classes", None) == 0:
        raise CnnkitError(f"{name} is published without a classifier; use it as a --backbone, with a head of your own")
    return int(found.shape[1])


def _divided(name: str, module: nn.Module, preprocess: Preprocess) -> _Division:
    """Divide a network before its last layer.

    The features are the mean of the layer that cnn-extract takes by default, if that gives the same numbers, so that class activation maps
    can be computed; otherwise they are the input of the last layer.
    """
    last = subgraph.output_layer(module)
    whole = subgraph.cut(module, last)
    assert isinstance(whole, fx.GraphModule)
    (logits,) = next(node for node in whole.graph.nodes if node.op == "output").args
    assert isinstance(logits, fx.Node)
    end = _changing(whole, logits, through=_SAME_VALUES)
    given = end.args[0] if end.args else None
    last_module = _module(whole, end) or _linear(module, end)
    if isinstance(last_module, nn.Linear) and isinstance(given, fx.Node):
        before = _changing(whole, given, through=_SAME_TENSOR)
        default = subgraph.find_layer(name, module, None, size=preprocess.size)
        return _before(module, before, preprocess, candidate=default, dense=last_module)
    if isinstance(last_module, nn.AdaptiveAvgPool2d) and isinstance(
        given, fx.Node
    ):  # the maps before it are those of the classes
        return _before(module, end, preprocess, candidate=given.meta["layer"], dense=None)
    return _Division(whole, last, Pool.NONE, None)


def _before(
    module: nn.Module, node: fx.Node, preprocess: Preprocess, *, candidate: str, dense: nn.Linear | None
) -> _Division:
    """Return the backbone that ends with a node: a layer whose mean or vector has the same values, or the node itself."""
    images = torch.randn(2, 3, preprocess.height, preprocess.width, generator=torch.Generator().manual_seed(0))
    layer = node.meta["layer"]
    own, base = subgraph.cut(module, layer), subgraph.cut(module, candidate)
    with torch.no_grad():
        wanted, found = own(images).flatten(1), base(images)
    pool = Pool.AVG if found.ndim == 4 else Pool.NONE
    pooled = Pooling(pool)(found)
    if pooled.shape == wanted.shape and (pooled - wanted).abs().max() <= _ROUNDING * wanted.abs().max():
        return _Division(base, candidate, pool, dense)
    return _Division(own, layer, Pool.NONE, dense)


def _module(whole: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return whole.get_submodule(str(node.target)) if node.op == "call_module" else None


def _linear(module: nn.Module, node: fx.Node) -> nn.Module | None:
    """Return the dense layer whose function a node calls: timm has one that is traced into."""
    if node.op != "call_function" or getattr(node.target, "__name__", "") != "linear":
        return None
    return dict(module.named_modules()).get(node.meta["path"].rpartition(".")[0])


#: Functions and modules in eval mode that return their input, and those that only change its shape.
_SAME_TENSOR: tuple[str | type[nn.Module], ...] = ("dropout", nn.Dropout, nn.Identity)
_SAME_VALUES: tuple[str | type[nn.Module], ...] = (*_SAME_TENSOR, "flatten", nn.Flatten)


def _changing(whole: fx.GraphModule, node: fx.Node, *, through: Sequence[str | type[nn.Module]]) -> fx.Node:
    """Return the last node up to this one that is none of some functions and modules."""
    kinds = tuple(each for each in through if isinstance(each, type))
    while node.args and isinstance(node.args[0], fx.Node):
        module = _module(whole, node)
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if not (isinstance(module, kinds) if module is not None else name in through):
            break
        node = node.args[0]
    return node
