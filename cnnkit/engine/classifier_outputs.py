"""The outputs of the ONNX form of a network, as torch modules: probabilities, logits, features, class activation maps, boxes."""

import copy

import torch
from torch import Tensor, nn

from cnnkit.choices import Pool
from cnnkit.errors import CnnkitError
from cnnkit.nets import build, classifier, whitening
from cnnkit.nets.build import Network
from cnnkit.nets.classifier import Classifier, ColumnEncoding, class_logits, class_probabilities, joined

#: Output of a network with several labels per image: whether each class is a label.
PREDICTED = "predicted"


class ClassifierOutputs(nn.Module):
    """A classifier with the outputs of its ONNX form: probabilities, logits, its box; on request, features and class maps."""

    def __init__(
        self,
        classifier: Classifier,
        *,
        normalised: bool = False,
        features: bool = False,
        cam: bool = False,
        half: bool = False,
    ) -> None:
        """Wrap a classifier.

        Args:
            classifier: Any; it is copied if `half` changes its weights.
            normalised: The input is float32 (N, 3, H, W), or grey (N, 1, H, W), already normalized, instead of uint8 (N, H, W, 3).
            features: Add the input of the head to the outputs.
            cam: Add the class activation maps (N, classes, h, w) to the outputs.
            half: Compute in float16 between input and outputs.

        Raises:
            CnnkitError: `cam` for a head whose class activation map is not a weighted sum of the backbone's maps.
        """
        super().__init__()
        self.classifier = copy.deepcopy(classifier) if half else classifier
        self._whitens = False
        if half:  # normalization stays in float32: a scale of 1/255 would lose digits
            self.classifier.base.half()
            self.classifier.head.half()
            if self.classifier.box is not None:
                self.classifier.box.half()
            self._whitens = _whiten_in_float32(self.classifier.base, like=classifier.base)
        self.normalised, self.wants_features, self.wants_cam, self.half_inside = normalised, features, cam, half
        self.names = [
            *label_names(classifier.thresholds),
            *(
                name
                for name, used in (("features", features), ("cam", cam), ("box", classifier.box is not None))
                if used
            ),
        ]
        if cam:
            _check_maps(classifier)
            cam_layers(classifier)

    def forward(self, images: Tensor, columns: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the outputs in the order of `names`, all float32."""
        network = self.classifier
        inputs = images if self.normalised else network.normalise(images)
        maps = network.base(inputs.half() if self.half_inside and not self._whitens else inputs)
        features = network.pool(maps)
        logits = network.head(joined(features, network.columns, columns)).float()
        outputs = [*label_outputs(logits, network.thresholds)]
        box = [] if network.box is None else [network.box(maps).float()]
        if self.wants_features:
            outputs.append(features.float())
        if self.wants_cam:
            outputs.append(_class_maps(network, maps).float())
        return (*outputs, *box)


def _class_maps(network: Classifier, maps: Tensor) -> Tensor:
    """Compute the class activation maps from the backbone's output, (N, C, H, W) -> (N, classes, h, w)."""
    layers, dense = cam_layers(network)
    for layer in layers:  # once more; ONNX Runtime merges equal operators
        maps = layer(maps)
    if dense is not None:
        maps = nn.functional.conv2d(maps, dense.weight[:, :, None, None].to(maps.dtype))
    return torch.cat([-maps, maps], 1) if maps.shape[1] == 1 else maps  # one sigmoid has the logit of the second class


def _whiten_in_float32(backbone: nn.Module, *, like: nn.Module) -> bool:
    """Let the whitening of a backbone in float16 compute in float32, with the values of another one; return whether it has one."""
    layer, original = whitening.find(backbone), whitening.find(like)
    if layer is None or original is None:
        return False
    layer.float().load_state_dict(original.state_dict())
    layer.dtype = torch.float16
    return True


class HeadOutputs(nn.Module):
    """Only the head: features and possibly columns in, probabilities and logits out, and whether each class is a label."""

    thresholds: Tensor | None

    def __init__(
        self, head: Network, columns: ColumnEncoding | None = None, *, thresholds: Tensor | None = None
    ) -> None:
        super().__init__()
        self.head, self.columns = head, columns
        self.register_buffer("thresholds", thresholds, persistent=False)
        self.names = label_names(thresholds)

    def forward(self, features: Tensor, columns: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the outputs in the order of `names`."""
        return label_outputs(self.head(joined(features, self.columns, columns)), self.thresholds)


def label_names(thresholds: Tensor | None) -> tuple[str, ...]:
    """Return the names of what `label_outputs` returns."""
    return ("probabilities", "logits") if thresholds is None else ("probabilities", "logits", PREDICTED)


def label_outputs(logits: Tensor, thresholds: Tensor | None) -> tuple[Tensor, ...]:
    """Compute probabilities and logits of all classes from what a head returns.

    Args:
        logits: (N, classes), or (N, 1) where a single sigmoid decides between two classes.
        thresholds: For several labels per image, (classes,): then also return whether each class is a label, bool (N, classes).
    """
    if thresholds is None:
        logits = class_logits(logits)
        return logits.softmax(1), logits
    probabilities = class_probabilities(logits, multi_label=True)
    return probabilities, logits, probabilities >= thresholds


def _check_maps(classifier: Classifier) -> None:
    """Refuse a backbone that ends in a vector, which has no spatial dimensions."""
    size, channels = classifier.preprocess.size, classifier.preprocess.channels
    with torch.no_grad():
        shape = tuple(classifier.base(torch.zeros(1, channels, size, size)).shape[1:])
    if len(shape) != 3:
        kind = f"in {shape[0]} tokens" if len(shape) == 2 else f"in a vector of {shape[0]}"
        raise CnnkitError(
            f"a class activation map needs a backbone that ends in a map; this one ends {kind}; "
            "extract with a --layer that has height and width"
        )


def changes_nothing(network: Classifier) -> bool:
    """Return whether the head only passes on what the backbone outputs, as that of a published network without a dense layer."""
    if not all(isinstance(part, nn.Flatten) for part in network.head):
        return False
    extractor = classifier.Extractor(network.base, preprocess=network.preprocess, pool=network.pool.pool).eval()
    return len(classifier.feature_shape(extractor, network.preprocess)) == 1


def cam_layers(classifier: Classifier) -> tuple[list[nn.Module], nn.Linear | None]:
    """Find the maps whose weighted sums are the class activation maps: those that global average pooling reads.

    Source: Zhou, Khosla, Lapedriza, Oliva, Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016.

    Returns:
        The layers of the head that compute them from the backbone's output; and the dense layer after the pooling, None if there is a map
        for each class.

    Raises:
        CnnkitError: The head is not a number of layers on maps, global average pooling, and at most one dense layer.
    """
    layers: list[nn.Module] = []
    parts, averaged = list(classifier.head), classifier.pool.pool is Pool.AVG
    if classifier.pool.pool is Pool.NONE:
        gaps = (place for place, part in enumerate(parts) if isinstance(part, build.GlobalPool) and not part.largest)
        if (place := next(gaps, None)) is not None:
            averaged, layers, parts = True, parts[:place], parts[place + 1 :]
    # Without layers that change nothing: dropout in eval mode, flatten of a vector
    after = [part for part in parts if not isinstance(part, nn.Dropout | nn.Identity | nn.Flatten)]
    if averaged and not after:  # SqueezeNet has a map for each class
        return layers, None
    if not averaged or len(after) != 1 or not isinstance(after[0], nn.Linear):
        raise CnnkitError(
            "a class activation map in the graph needs global average pooling, then one dense layer; this model has "
            f"pool {classifier.pool.pool}, then {', '.join(type(part).__name__ for part in after) or 'nothing'}; "
            'train one with cnn-train-head without --head, on features with --pool avg, or with a --head that ends in "gap"'
        )
    return layers, after[0]
