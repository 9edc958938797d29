"""The layer notation: one line of text for a convolutional network.

    conv 32 k3 s2 same relu, pool 2, 3 * (conv 64 k3 same bn relu), gap, dense 256 relu, dropout 0.5, dense 10 softmax

A text is a list of layers, separated by commas or new lines; `#` begins a comment; `3 * ( ... )` repeats; `@file` reads
a file. A layer is a word, its number, its options in any order, then `bn` and activations in the order in which they
are applied:

    conv N kK|kHxW [sS|sHxW] [same|valid|pP] [dD|dHxW] [gG] [nobias]
    pool K|HxW [sS|sHxW] [same|valid|pP]       max pooling; `avgpool` is average pooling
    dense N [nobias]     gap     gmp     pad P     flatten     bn     dropout P     relu, tanh, softmax, ...

The default stride is 1 for conv and the window's size for pools, the default padding is `valid`, as in Keras. An
activation after a layer belongs to that layer, like Keras' `activation=`; `bn` after a layer is a layer of its own, to
which an activation after it belongs.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from cnnkit import messages, notation_text
from cnnkit.errors import NotationError

MOST_LAYERS = 10_000
DEEPEST = 20


class LayerKind(StrEnum):
    """Kind of a layer."""

    conv = "conv"
    pool = "pool"
    avgpool = "avgpool"
    gap = "gap"
    gmp = "gmp"
    pad = "pad"
    flatten = "flatten"
    dense = "dense"
    bn = "bn"
    dropout = "dropout"
    activation = "activation"


class Padding(StrEnum):
    """Padding by Keras' names; a layer's padding may also be a number of pixels."""

    same = "same"
    valid = "valid"


class Activation(StrEnum):
    """Activations, by their names in torch.nn.functional."""

    relu = "relu"
    relu6 = "relu6"
    leaky_relu = "leaky_relu"
    elu = "elu"
    selu = "selu"
    gelu = "gelu"
    silu = "silu"
    mish = "mish"
    tanh = "tanh"
    sigmoid = "sigmoid"
    hardsigmoid = "hardsigmoid"
    hardswish = "hardswish"
    softplus = "softplus"
    softsign = "softsign"
    softmax = "softmax"
    linear = "linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer, with every default filled in; pairs are (height, width).

    `filters` are a convolution's output channels or a dense layer's units; `padding` of a `pad` layer is its pixels on
    each side; `rate` is the share that a dropout layer drops; `text` is the layer as it was written.
    """

    kind: LayerKind
    name: str
    text: str
    filters: int | None = None
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: Padding | int = Padding.valid
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True
    rate: float = 0.0
    activation: Activation | None = None


def parse(text: str, *, taken: Collection[str] = ()) -> tuple[Layer, ...]:
    """Parse the notation.

    Layers are named by kind and number, `conv1`, `bn1`, `conv2`: the names that cnn-dims prints, that the modules of
    the network have, and that `--layer` takes. Activations that are layers of their own are named by their word, `relu1`.

    Args:
        text: The layers, or `@` and the name of a file that holds them. Empty text is a network without layers.
        taken: Names of the layers before these, which are numbered on from there.

    Raises:
        NotationError: A word is unknown, missing, out of range or a duplicate. Messages count layers as written.
    """
    return notation_text.read(
        text, lambda bare: tuple(_named(_items(_Tokens(bare)), taken)), holds="layers, one a line"
    )


def _named(layers: list[Layer], taken: Collection[str]) -> Iterator[Layer]:
    """Name every layer, uniquely among these layers and the names taken."""
    counts: Counter[str] = Counter()
    for layer in layers:
        word = layer.text if layer.kind is LayerKind.activation else layer.kind.value
        stem = f"{word}_" if word[-1].isdigit() else word  # relu6_1: "relu61" would be the 61st relu
        counts[stem] += 1
        while f"{stem}{counts[stem]}" in taken:
            counts[stem] += 1
        yield replace(layer, name=f"{stem}{counts[stem]}")


class _Tokens:
    """The text as a list of items and of the signs between them, with a count of the items read."""

    def __init__(self, text: str) -> None:
        parts = re.split(r"([,()])", notation_text.bare(text))
        self._left = [part.strip() for part in reversed(parts) if part.strip()]
        self.items = 0

    def take(self) -> str | None:
        """Return the next item or sign, None after the last."""
        return self._left.pop() if self._left else None

    def error(self, message: str) -> NotationError:
        """Return an error that names the layer by its number, counted as written."""
        return NotationError(f"layer {max(self.items, 1)}: {message}")


def _items(tokens: _Tokens, *, depth: int = 0) -> list[Layer]:
    """Read items up to the end, or to the closing bracket of a repetition, and expand repetitions."""
    layers: list[Layer] = []
    separated = True
    while (token := tokens.take()) is not None:
        if token == ",":
            separated = True
            continue
        if token == ")" and depth:
            return layers
        if token == ")":
            raise tokens.error('")" without "("')
        if token == "(":
            raise tokens.error('"(" without a count; write "2 * ( ... )"')
        if not separated:
            raise tokens.error(f'a comma is missing before "{token}"')
        separated = False
        layers += _repetition(token, tokens, depth) if "*" in token else _item(token, tokens)
        if len(layers) > MOST_LAYERS:
            raise tokens.error(f"{len(layers)} layers with repetitions expanded; at most {MOST_LAYERS} are allowed")
    if depth:
        raise tokens.error('"(" without ")"')
    return layers


def _repetition(token: str, tokens: _Tokens, depth: int) -> list[Layer]:
    """Read `3 * ( ... )`, of which `token` is the part before the bracket."""
    count = re.fullmatch(r"([0-9]{1,9})\s*\*", token)
    if not count or tokens.take() != "(":
        raise tokens.error(f'"{token}" is not a repetition; write "3 * ( ... )"')
    if depth == DEEPEST:
        raise tokens.error(f"brackets nested more than {DEEPEST} deep")
    body = _items(tokens, depth=depth + 1)
    times = int(count[1])
    if not 0 < times * max(len(body), 1) <= MOST_LAYERS:
        raise tokens.error(f"{times} times {len(body)} layers; a repetition has 1 to {MOST_LAYERS} layers")
    return body * times


class _Flaw(Exception):
    """An error in an item, before the item's number is added."""


def _item(token: str, tokens: _Tokens) -> list[Layer]:
    """Read one item: a layer, its number and options, and the `bn` and activations after it."""
    tokens.items += 1
    first, *words = token.split()
    try:
        if first in Activation.__members__:
            alone = Layer(kind=LayerKind.activation, name="", text=first, activation=Activation(first))
            return _followed(alone, words)
        if first not in _EXAMPLES:
            raise _Flaw(f'"{first}" is not a layer{_proposal(first, (*_EXAMPLES, *Activation))}')
        own = [word for word in words if not _follows(word)]
        return _followed(_primitive(LayerKind(first), own), [word for word in words if _follows(word)])
    except _Flaw as flaw:
        raise tokens.error(str(flaw)) from None


def _follows(word: str) -> bool:
    """Check whether a word is applied to a layer's output, rather than being one of its options."""
    return word == LayerKind.bn or word in Activation.__members__


def _followed(layer: Layer, words: list[str]) -> list[Layer]:
    """Append to a layer the `bn` and activations of its item."""
    layers = [layer]
    for word in words:
        last = layers[-1]
        if not _follows(word):
            raise _Flaw(f'"{word}" does not belong to {layer.text}; an activation takes no options')
        if word == LayerKind.bn:
            layers.append(Layer(kind=LayerKind.bn, name="", text=word))
        elif last.activation:
            raise _Flaw(f'"{word}" after "{last.activation}": a layer has one activation; put a comma between them')
        else:
            layers[-1] = replace(last, text=f"{last.text} {word}", activation=Activation(word))
    return layers


_EXAMPLES = {
    LayerKind.conv: "conv 32 k3",
    LayerKind.pool: "pool 2",
    LayerKind.avgpool: "avgpool 2",
    LayerKind.gap: "gap",
    LayerKind.gmp: "gmp",
    LayerKind.pad: "pad 1",
    LayerKind.flatten: "flatten",
    LayerKind.dense: "dense 10",
    LayerKind.bn: "bn",
    LayerKind.dropout: "dropout 0.5",
}
_OPTIONS = {
    LayerKind.conv: ("k", "s", "p", "d", "g", "nobias", *Padding),
    LayerKind.pool: ("s", "p", *Padding),
    LayerKind.avgpool: ("s", "p", *Padding),
    LayerKind.dense: ("nobias",),
}


def _primitive(kind: LayerKind, words: list[str]) -> Layer:
    """Read one layer's number and options."""
    layer = Layer(kind=kind, name="", text=" ".join([kind, *words]))
    example = _EXAMPLES[kind]
    options = list(words)
    if " " in example:
        if not options or not re.match(r"[\d.]", options[0]):
            raise _Flaw(f'"{layer.text}" needs a number; write "{example}"')
        layer = _numbered(layer, options.pop(0))
    seen: set[str] = set()
    for word in options:
        field, layer = _option(layer, word)
        if field in seen:
            raise _Flaw(f'"{word}": the {field} is given twice')
        seen.add(field)
    if kind is LayerKind.conv and "kernel" not in seen:
        raise _Flaw(f'"{layer.text}" has no kernel size; write "conv {layer.filters} k3"')
    return layer


def _numbered(layer: Layer, word: str) -> Layer:
    """Set the field that the number after a layer's word stands for."""
    match layer.kind:
        case LayerKind.pool | LayerKind.avgpool:
            window = _pair(word, word)
            return replace(layer, kernel=window, stride=window)
        case LayerKind.dropout:
            if not re.fullmatch(r"[0-9]*\.?[0-9]*", word) or word == "." or float(word) >= 1:
                raise _Flaw(f'"{layer.text}": {word} is not a share; give a number of at least 0 and less than 1')
            return replace(layer, rate=float(word))
        case LayerKind.pad:
            return replace(layer, padding=_count(word, word, least=0))
        case _:
            return replace(layer, filters=_count(word, word))


def _option(layer: Layer, word: str) -> tuple[str, Layer]:
    """Read one option; return the name of what it sets, and the layer with it set."""
    allowed = _OPTIONS.get(layer.kind, ())
    letter, digits = word[0], word[1:]
    key = letter if digits[:1].isdigit() else word
    match key if key in allowed else "":
        case "same" | "valid":
            return "padding", replace(layer, padding=Padding(word))
        case "nobias":
            return "bias", replace(layer, bias=False)
        case "k":
            return "kernel", replace(layer, kernel=_pair(word, digits))
        case "s":
            return "stride", replace(layer, stride=_pair(word, digits))
        case "d":
            return "dilation", replace(layer, dilation=_pair(word, digits))
        case "p":
            return "padding", replace(layer, padding=_count(word, digits, least=0))
        case "g":
            return "number of groups", replace(layer, groups=_count(word, digits))
    if word in _EXAMPLES:
        raise _Flaw(f'a comma is missing before "{word}"')
    shown = ", ".join(f"{option}N" if len(option) == 1 else option for option in allowed)
    form = f"{layer.kind} takes {shown}" if allowed else f'write "{_EXAMPLES[layer.kind]}"'
    raise _Flaw(f'"{word}" does not belong to {layer.kind}{_proposal(word, (*allowed, *Activation)) or f"; {form}"}')


def _pair(word: str, digits: str) -> tuple[int, int]:
    """Read `3` as (3, 3) and `3x5` as (3, 5)."""
    height, cross, width = digits.partition("x")
    return _count(word, height), _count(word, width if cross else height)


def _count(word: str, digits: str, *, least: int = 1) -> int:
    """Read a whole number of at most nine digits."""
    if not re.fullmatch(r"[0-9]{1,9}", digits) or int(digits) < least:
        raise _Flaw(f'"{word}": give a whole number, {least} or more')
    return int(digits)


# Names in other libraries, for proposals in error messages only.
_FOREIGN = {
    **dict.fromkeys(("conv2d", "convolution"), "conv"),
    **dict.fromkeys(("maxpool", "maxpool2d", "max_pool", "maxpooling2d"), "pool"),
    **dict.fromkeys(("avgpool2d", "avg_pool", "averagepooling2d"), "avgpool"),
    **dict.fromkeys(("globalaveragepooling2d", "adaptiveavgpool2d"), "gap"),
    **dict.fromkeys(("batchnorm", "batchnorm2d", "batchnormalization"), "bn"),
    "globalmaxpooling2d": "gmp",
    "zeropadding2d": "pad",
    "fc": "dense",
    "swish": "silu",
}


def _proposal(word: str, known: Collection[str]) -> str:
    """Return a proposal of the known word most similar to an unknown one, or an empty string."""
    return messages.proposal(word, known, foreign=_FOREIGN)
