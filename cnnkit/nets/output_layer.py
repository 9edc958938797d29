"""The last layer of a network, determined by the classes and the loss. No torch."""

import logging

from cnnkit.choices import Loss
from cnnkit.errors import UsageError
from cnnkit.nets import dims, notation
from cnnkit.nets.notation import Activation, Layer, LayerKind

log = logging.getLogger("cnnkit")

#: Layers that return vectors.
_TO_VECTORS = (LayerKind.dense, LayerKind.flatten, LayerKind.gap, LayerKind.gmp)


def checked_head(head: str) -> str:
    """Return the notation of a head without `@file`, since the model's header must not depend on other files.

    Raises:
        NotationError: The notation is wrong.
        UsageError: It includes the final softmax layer.
    """
    layers = notation.parse(head)
    if layers and layers[-1].activation is Activation.softmax:
        raise UsageError(f'--head ends in "{layers[-1].text}"; leave that layer out: the final softmax layer is added')
    return ", ".join(layer.text for layer in layers)


def whole_head(head: str, *, loss: Loss, classes: int, spatial: bool, multi_label: bool = False) -> str:
    """Add the last dense layer to a head's notation, and `flatten` where a map would reach a dense layer.

    Args:
        head: Notation of the head, without its last layer.
        loss: Binary: a sigmoid with one unit; categorical: a softmax with one unit for each class.
        classes: Number of classes.
        spatial: Whether the head's input is a map.
        multi_label: Whether images have several labels: then a sigmoid with one unit for each class.
    """
    last = _last(loss, classes, multi_label=multi_label)
    return _joined(notation.parse(", ".join(part for part in (head, last) if part)), spatial=spatial)


def divide(
    layers: str, *, loss: Loss, classes: int, size: int, channels: int, multi_label: bool = False
) -> tuple[str, str]:
    """Divide a whole network's notation into backbone and head; its last layer is added if it is missing.

    The backbone ends with the last layer that outputs a map, so that cnn-cam finds maps there and cnn-extract features. If there
    is no such layer, the backbone is the first layer.

    Args:
        layers: Notation of the network, for images of (channels, size, size).
        loss: As `whole_head`.
        classes: Number of classes.
        size: Side of the images, in pixels.
        channels: 3, or 1 for grey.
        multi_label: As `whole_head`.

    Returns:
        The notations of backbone and head.

    Raises:
        UsageError: The last layer is not made for these classes or this loss, or a layer does not fit its input.
    """
    parsed = notation.parse(layers)
    if not parsed:
        raise UsageError("--layers is empty; a network needs at least one layer")
    last, wanted = parsed[-1], notation.parse(_last(loss, classes, multi_label=multi_label))[-1]
    same = (last.kind, last.filters, last.bias) == (wanted.kind, wanted.filters, wanted.bias)
    if same and last.activation in (wanted.activation, None):  # None: logits, as torch's networks end
        parsed = parsed[:-1]
    elif last.activation in (Activation.softmax, Activation.sigmoid):
        what = "images with several labels" if multi_label else f"--loss {loss}"
        raise UsageError(
            f'the last layer is "{last.text}"; {classes} classes and {what} need "{wanted.text}"; leave it out, it is added'
        )
    elif last.kind is LayerKind.dense and last.activation is None:
        log.warning('"%s" is not an output layer for %d classes; added "%s"', last.text, classes, wanted.text)
    if not parsed:
        raise UsageError(f'"{last.text}" alone does not take images; write "flatten" before it')
    outputs = [made for _, _, made in dims.walk(parsed, dims.start(height=size, width=size, channels=channels))]
    spatial = [index for index, made in enumerate(outputs) if made.size is not None]
    end = (spatial[-1] if spatial else 0) + 1
    backbone = ", ".join(layer.text for layer in parsed[:end])
    rest = ", ".join(layer.text for layer in parsed[end:])
    return backbone, whole_head(rest, loss=loss, classes=classes, spatial=bool(spatial), multi_label=multi_label)


def _last(loss: Loss, classes: int, *, multi_label: bool) -> str:
    if multi_label:
        return f"dense {classes} sigmoid"
    return "dense 1 sigmoid" if loss is Loss.BINARY else f"dense {classes} softmax"


def _joined(layers: tuple[Layer, ...], *, spatial: bool) -> str:
    written = []
    for layer in layers:
        if spatial and layer.kind is LayerKind.dense:
            written.append("flatten")
        spatial = spatial and not any(inner.kind in _TO_VECTORS for inner in notation.every((layer,)))
        written.append(layer.text)
    return ", ".join(written)
