"""The layer notation: one line of text for a convolutional network.

    conv 32 k3 s2 same relu, pool 2, 3 * (conv 64 k3 same bn relu), gap, dense 256 relu, dropout 0.5, dense 10 softmax

A text is a list of layers, separated by commas or new lines; `#` begins a comment; `3 * ( ... )` repeats; `@file` reads
a file. A layer is a word, its number, its options in any order, then `bn` and activations in the order in which they
are applied:

    conv N kK|kHxW [sS|sHxW] [same|valid|pP] [dD|dHxW] [gG] [nobias|bias position]
    deconv N kK|kHxW [sS|sHxW] [same|valid|pP] [dD|dHxW] [gG] [nobias]       transposed convolution
    local N kK|kHxW [sS|sHxW] [same|valid|pP] [nobias]       like conv, with other weights at every position
    pool K|HxW [sS|sHxW] [same|valid|pP]       max pooling; `avgpool` is average pooling
    dense N [nobias]     gap     gmp     pad P     flatten     bn     dropout P     relu, tanh, softmax, ...
    lrn [N]     local response normalization over N neighbouring channels

Two layers contain others, in branches:

    residual(LAYERS)     the output of the layers plus their input; `residual(LAYERS | SHORTCUT)` names the other summand
    concat(LAYERS | LAYERS | ...)     the outputs of all branches, joined along the channels

The default stride is 1 for conv and the window's size for pools, the default padding is `valid`, as in Keras. An
activation after a layer belongs to that layer, like Keras' `activation=`; `bn` after a layer is a layer of its own, to
which an activation after it belongs. The same holds after the parentheses of a residual or concat.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from cnnkit import messages, notation_text
from cnnkit.errors import NotationError

MOST_LAYERS = 10_000
DEEPEST = 20


class LayerKind(StrEnum):
    """Kind of a layer."""

    conv = "conv"
    deconv = "deconv"
    local = "local"
    pool = "pool"
    avgpool = "avgpool"
    gap = "gap"
    gmp = "gmp"
    pad = "pad"
    flatten = "flatten"
    dense = "dense"
    bn = "bn"
    lrn = "lrn"
    dropout = "dropout"
    residual = "residual"
    concat = "concat"
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
    each side; `rate` is the share that a dropout layer drops; `channels` is how many channels `lrn` normalizes by;
    `position_bias` is a bias for every filter and position; `branches` are the layers inside a residual or concat, in
    order; `text` is the layer as it was written. The name of a layer in a branch begins with that of the layer around it:
    `residual1.conv2`.
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
    position_bias: bool = False
    rate: float = 0.0
    channels: int = 5
    activation: Activation | None = None
    branches: "tuple[tuple[Layer, ...], ...]" = ()


def parse(text: str, *, taken: Collection[str] = ()) -> tuple[Layer, ...]:
    """Parse the notation.

    Layers are named by kind and number, `conv1`, `bn1`, `conv2`: the names that cnn-dims prints, that the modules of
    the network have, and that `--layer` takes. Activations that are layers of their own are named by their word, `relu1`.
    Layers in branches are numbered within the layer around them, so that their names do not depend on what is before it.

    Args:
        text: The layers, or `@` and the name of a file that holds them. Empty text is a network without layers.
        taken: Names of the layers before these, which are numbered on from there.

    Raises:
        NotationError: A word is unknown, missing, out of range or a duplicate. Messages count layers as written.
    """
    return notation_text.read(
        text, lambda bare: tuple(_named(_items(_Tokens(bare)), taken)), holds="layers, one per line"
    )


def every(layers: Iterable[Layer]) -> Iterator[Layer]:
    """Yield layers, and before a layer those in its branches, in the order in which they run."""
    for layer in layers:
        for branch in layer.branches:
            yield from every(branch)
        yield layer


def _count_of(layers: Iterable[Layer]) -> int:
    return sum(1 for _ in every(layers))


def _named(
    layers: Iterable[Layer], taken: Collection[str], *, inside: str = "", counts: Counter[str] | None = None
) -> Iterator[Layer]:
    """Name every layer, uniquely among these layers and the names taken."""
    counts = Counter() if counts is None else counts
    for layer in layers:
        word = layer.text if layer.kind is LayerKind.activation else layer.kind.value
        stem = f"{word}_" if word[-1].isdigit() else word  # relu6_1: "relu61" would be the 61st relu
        counts[stem] += 1
        while f"{stem}{counts[stem]}" in taken:
            counts[stem] += 1
        name = f"{inside}{stem}{counts[stem]}"
        within: Counter[str] = Counter()  # the branches of a layer are numbered together
        branches = tuple(tuple(_named(each, (), inside=f"{name}.", counts=within)) for each in layer.branches)
        yield replace(layer, name=name, branches=branches)


class _Tokens:
    """The text as a list of items and of the signs between them, with a count of the items read."""

    def __init__(self, text: str) -> None:
        parts = re.split(r"([,()|])", notation_text.bare(text))
        self._left = [part.strip() for part in reversed(parts) if part.strip()]
        self.items = 0

    def take(self) -> str | None:
        """Return the next item or sign, None after the last."""
        return self._left.pop() if self._left else None

    def take_words(self) -> list[str]:
        """Return the words of the next item; none if a sign is next."""
        return self._left.pop().split() if self._left and self._left[-1] not in (",", "(", ")", "|") else []

    def error(self, message: str, *, item: int | None = None) -> NotationError:
        """Return an error that names a layer by its number, counted as written; by default the latest."""
        return NotationError(f"layer {item or max(self.items, 1)}: {message}")


def _items(tokens: _Tokens, *, depth: int = 0) -> list[Layer]:
    """Read items up to the end, or to the closing bracket of a repetition, and expand repetitions."""
    return _until(tokens, depth=depth, ends=(")",) if depth else ())[0]


def _until(tokens: _Tokens, *, depth: int, ends: Collection[str]) -> tuple[list[Layer], str | None]:
    """Read items up to one of the signs in `ends`, or else to the end; return them and the sign."""
    layers: list[Layer] = []
    separated, count = True, 0
    while (token := tokens.take()) is not None:
        if token in ends:
            return layers, token
        if token == ",":
            separated = True
            continue
        if token == ")":
            raise tokens.error('")" without "("')
        if token == "|":
            raise tokens.error('"|" separates the branches of a layer; write "concat( ... | ... )"')
        if token == "(":
            raise tokens.error('"(" without a count; write "2 * ( ... )"')
        if not separated:
            raise tokens.error(f'a comma is missing before "{token}"')
        separated = False
        if "*" in token:
            made = _repetition(token, tokens, depth)
        elif token.split()[0] in _BLOCKS:
            made = _block(token, tokens, depth)
        else:
            made = _item(token, tokens)
        layers += made
        count += _count_of(made)
        if count > MOST_LAYERS:
            raise tokens.error(f"{count} layers with repetitions expanded; at most {MOST_LAYERS} are allowed")
    if ends:
        raise tokens.error('"(" without ")"')
    return layers, None


def _repetition(token: str, tokens: _Tokens, depth: int) -> list[Layer]:
    """Read `3 * ( ... )` or `3 * residual( ... )`, of which `token` is the part before the bracket."""
    count = re.fullmatch(rf"([0-9]{{1,9}})\s*\*\s*({'|'.join(_BLOCKS)}|)", token)
    if count and count[2]:
        body = _block(count[2], tokens, depth)
    elif count and tokens.take() == "(":
        body = _items(tokens, depth=_deeper(tokens, depth))
    else:
        raise tokens.error(f'"{token}" is not a repetition; write "3 * ( ... )"')
    times, size = int(count[1]), _count_of(body)
    if not 0 < times * max(size, 1) <= MOST_LAYERS:
        raise tokens.error(f"{times} times {size} layers; a repetition has 1 to {MOST_LAYERS} layers")
    return body * times


def _deeper(tokens: _Tokens, depth: int) -> int:
    if depth == DEEPEST:
        raise tokens.error(f"brackets nested more than {DEEPEST} deep")
    return depth + 1


def _block(token: str, tokens: _Tokens, depth: int) -> list[Layer]:
    """Read a layer with branches, of which `token` is the part before the bracket, and the `bn` and activations after it."""
    tokens.items += 1
    item, kind = tokens.items, LayerKind(token.split()[0])
    if token != kind or tokens.take() != "(":
        raise tokens.error(f'"{token}" has no layers in parentheses after it; write "{_BLOCKS[kind]}"')
    depth, branches, sign = _deeper(tokens, depth), list[tuple[Layer, ...]](), None
    while sign != ")":
        layers, sign = _until(tokens, depth=depth, ends=(")", "|"))
        branches.append(tuple(layers))
    if not all(branches):
        raise tokens.error(f'{kind} has an empty branch; write "linear" for the input itself', item=item)
    if kind is LayerKind.concat and len(branches) == 1:
        raise tokens.error(f'concat has one branch; separate several with "|", as in "{_BLOCKS[kind]}"', item=item)
    if kind is LayerKind.residual and len(branches) > 2:
        raise tokens.error(
            f'residual has {len(branches)} branches; it takes layers and one shortcut, as in "residual( ... | conv 64 k1 s2)"',
            item=item,
        )
    text = " | ".join(", ".join(layer.text for layer in branch) for branch in branches)
    try:
        made = Layer(kind=kind, name="", text=f"{kind}({text})", branches=tuple(branches))
        return _followed(made, tokens.take_words())
    except _Flaw as flaw:
        raise tokens.error(str(flaw), item=item) from None


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
            raise _Flaw(f'"{first}" is not a layer{_proposal(first, (*_EXAMPLES, *_BLOCKS, *Activation))}')
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
            if layer.branches and word in (*_EXAMPLES, *_BLOCKS):
                raise _Flaw(f'a comma is missing before "{word}"')
            owner, who = (
                (layer.kind, "the part after its parentheses") if layer.branches else (layer.text, "an activation")
            )
            raise _Flaw(f'"{word}" does not belong to {owner}; {who} takes no options')
        if word == LayerKind.bn:
            layers.append(Layer(kind=LayerKind.bn, name="", text=word))
        elif last.activation:
            raise _Flaw(f'"{word}" after "{last.activation}": a layer has one activation; put a comma between them')
        else:
            layers[-1] = replace(last, text=f"{last.text} {word}", activation=Activation(word))
    return layers


_EXAMPLES = {
    LayerKind.conv: "conv 32 k3",
    LayerKind.deconv: "deconv 32 k2 s2",
    LayerKind.local: "local 32 k3",
    LayerKind.pool: "pool 2",
    LayerKind.avgpool: "avgpool 2",
    LayerKind.gap: "gap",
    LayerKind.gmp: "gmp",
    LayerKind.pad: "pad 1",
    LayerKind.flatten: "flatten",
    LayerKind.dense: "dense 10",
    LayerKind.bn: "bn",
    LayerKind.lrn: "lrn",
    LayerKind.dropout: "dropout 0.5",
}
#: Layers that contain others.
_BLOCKS = {
    LayerKind.residual: "residual(conv 64 k3 same relu, conv 64 k3 same)",
    LayerKind.concat: "concat(conv 32 k1 | conv 32 k3 same)",
}
_POSITION_BIAS = "bias position"
_OPTIONS = {
    LayerKind.conv: ("k", "s", "p", "d", "g", "nobias", _POSITION_BIAS, *Padding),
    LayerKind.deconv: ("k", "s", "p", "d", "g", "nobias", *Padding),
    LayerKind.local: ("k", "s", "p", "nobias", *Padding),
    LayerKind.pool: ("s", "p", *Padding),
    LayerKind.avgpool: ("s", "p", *Padding),
    LayerKind.dense: ("nobias",),
}
#: Layers whose kernel size is an option.
_WITH_KERNEL = (LayerKind.conv, LayerKind.deconv, LayerKind.local)


def _primitive(kind: LayerKind, words: list[str]) -> Layer:
    """Read one layer's number and options."""
    layer = Layer(kind=kind, name="", text=" ".join([kind, *words]))
    example = _EXAMPLES[kind]
    options = list(words)
    numbered = bool(options) and re.match(r"[\d.]", options[0]) is not None
    if " " in example and not numbered:
        raise _Flaw(f'"{layer.text}" needs a number; write "{example}"')
    if numbered and (" " in example or kind is LayerKind.lrn):
        layer = _numbered(layer, options.pop(0))
    seen: set[str] = set()
    for word in _options_in(options):
        field, layer = _option(layer, word)
        if field in seen:
            raise _Flaw(f'"{word}": the {field} is given twice')
        seen.add(field)
    if kind in _WITH_KERNEL and "kernel" not in seen:
        raise _Flaw(f'"{layer.text}" has no kernel size; write "{kind} {layer.filters} k3"')
    return layer


def _options_in(words: list[str]) -> Iterator[str]:
    """Yield options; `bias position` is one of two words."""
    left = iter(words)
    for word in left:
        yield f"{word} {next(left, '')}".strip() if word == "bias" else word


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
        case LayerKind.lrn:
            return replace(layer, channels=_count(word, word))
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
        case "bias position":
            return "bias", replace(layer, position_bias=True)
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
    if word == "bias" and _POSITION_BIAS in allowed:
        raise _Flaw(
            f'"bias" is the default of {layer.kind}; write "{_POSITION_BIAS}" for one at every position, or "nobias"'
        )
    if word in (*_EXAMPLES, *_BLOCKS):
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
    **dict.fromkeys(("conv2dtranspose", "convtranspose2d", "conv_transpose", "upconv"), "deconv"),
    **dict.fromkeys(("locallyconnected2d", "locally_connected"), "local"),
    **dict.fromkeys(("localresponsenorm", "localresponsenormalization"), "lrn"),
    **dict.fromkeys(("add", "skip", "shortcut", "resblock"), "residual"),
    **dict.fromkeys(("cat", "concatenate", "inception", "branches"), "concat"),
    "globalmaxpooling2d": "gmp",
    "zeropadding2d": "pad",
    "fc": "dense",
    "swish": "silu",
}


def _proposal(word: str, known: Collection[str]) -> str:
    """Return a proposal of the known word most similar to an unknown one, or an empty string."""
    return messages.proposal(word, known, foreign=_FOREIGN)
