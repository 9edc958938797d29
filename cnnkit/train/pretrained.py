"""The network that fine-tuning starts from: a trained model, or a pretrained network with a new head."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cnnkit import class_names
from cnnkit.choices import Initializer, Loss, Pool
from cnnkit.data.preprocessing import with_size
from cnnkit.engine.config import BackboneSpec
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import cache, torch_model
from cnnkit.formats.header import Backbone
from cnnkit.nets import backbones, build, classifier, notation
from cnnkit.nets.classifier import Classifier, Extractor
from cnnkit.train.network_config import InitFrom


@dataclass(frozen=True, slots=True)
class PretrainedModel:
    """A network to start from, with its origin, and the `spec` of its backbone for ONNX Runtime."""

    whole: Classifier
    backbone: Backbone
    head: str
    source: str
    digest: str | None
    fresh: bool
    spec: BackboneSpec

    def part(self, *, layer: str, pool: Pool, size: int | None = None) -> BackboneSpec:
        """Return the spec of the backbone up to a layer, for images of another size if one is given."""
        return dataclasses.replace(self.spec, layer=layer, pool=pool, size=size or self.spec.size)

    def loss(self, *, given: Loss | None) -> Loss:
        """Return the loss that the final layer is made for.

        Raises:
            UsageError: Another one is given.
        """
        last = notation.parse(self.head)[-1]
        loss = Loss.BINARY if last.activation is notation.Activation.sigmoid else Loss.CATEGORICAL
        if given not in (None, loss):
            raise UsageError(f'{self.source} ends in "{last.text}", which needs --loss {loss}; drop --loss {given}')
        return loss


def load(init: InitFrom, classes: Sequence[str], *, seed: int, multi_label: bool = False) -> PretrainedModel:
    """Build the network.

    Args:
        init: Its origin.
        classes: The classes of the images.
        seed: For random weights.
        multi_label: Whether the images have several labels.

    Raises:
        CnnkitError: A model has other classes or another number of labels per image, or the weights are not available.
        UsageError: The network does not exist, or a head does not fit.
    """
    return _from_model(init.model, classes, multi_label=multi_label) if init.model else _from_backbone(init, seed=seed)


def _from_model(path: Path, classes: Sequence[str], *, multi_label: bool) -> PretrainedModel:
    model = torch_model.load(path)
    header = model.header
    if header.multi_label is not multi_label:
        own, others = ("several labels", "one") if header.multi_label else ("one label", "several")
        raise CnnkitError(
            f"{path} predicts {own} per image, but the images have {others}; train a head for these with cnn-train-head, or start "
            "from --backbone"
        )
    if tuple(map(class_names.normal, header.classes or ())) != tuple(classes):
        raise CnnkitError(
            f"{path} has the classes {', '.join(header.classes or ())}, but the images have {', '.join(classes)}; "
            "train a head for these with cnn-train-head, or start from --backbone"
        )
    if header.box_head is not None:
        raise UsageError(
            f"{path} also predicts a box, which fine-tuning would not train; train again with cnn-train --predict-box, or start "
            "from --backbone"
        )
    whole = classifier.from_header(header, model.state, name=str(path))
    assert header.backbone is not None
    assert header.head is not None
    return PretrainedModel(
        whole,
        header.backbone,
        header.head,
        str(path),
        digest=cache.sha256(path),
        fresh=not model.history,
        spec=BackboneSpec(backbone=str(path)),
    )


def _from_backbone(init: InitFrom, *, seed: int) -> PretrainedModel:
    name = init.backbone or ""
    module, backbone, preprocess = backbones.pretrained(name, weights=init.weights, size=init.size, seed=seed)
    preprocess = with_size(preprocess, size=init.size, fit=init.fit, decoding=init.decoding)
    extractor = Extractor(module, preprocess=preprocess, pool=backbone.pool).eval()
    head = classifier.build_head(init.head, classifier.feature_shape(extractor, preprocess))
    build.initialise(head, init.init or Initializer.GLOROT, generator=torch.Generator().manual_seed(seed))
    return PretrainedModel(
        Classifier(module, head, preprocess=preprocess, pool=backbone.pool),
        backbone,
        init.head,
        name,
        digest=backbone.weights_sha256,
        fresh=True,
        spec=BackboneSpec(
            backbone=name, weights=init.weights, size=init.size, fit=init.fit, decoding=init.decoding, seed=seed
        ),
    )
