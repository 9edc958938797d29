"""The network that all commands train and export: normalize -> backbone -> pool -> head."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from cnnkit.choices import ColumnKind, Pool
from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import torch_model
from cnnkit.formats.header import LUMA, Header, InputColumn, Preprocess
from cnnkit.nets import backbones, build, notation, token_grid
from cnnkit.nets.notation import Activation, Layer, LayerKind
from cnnkit.nets.token_grid import TokenGrid


class InputNormalization(nn.Module):
    """Normalize images: uint8 (N, H, W, 3) -> float (N, 3, H, W), or grey (N, 1, H, W)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        # (x / 255 - mean) / std as one multiplication and one addition. Not in the state: the Header holds them.
        scale, shift = (1.0 / (255.0 * std)).reshape(3, 1, 1), (-mean / std).reshape(3, 1, 1)
        self.grey = preprocess.grey
        if self.grey:  # weighted sum of the three channels
            shares = torch.tensor(LUMA).reshape(3, 1, 1)
            scale, shift = shares * scale, (shares * shift).sum(0, keepdim=True)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Scale every channel."""
        scaled = images.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale
        return (scaled.sum(1, keepdim=True) if self.grey else scaled) + self.shift


class Pooling(nn.Module):
    """Pool the backbone's map: (N, C, H, W) -> (N, C), (N, C*H*W) or unchanged; or its tokens: (N, T, D) -> (N, D), (N, 2*D), (N, T*D).

    Vectors pass unchanged, and so do other tensors.
    """

    def __init__(self, pool: Pool, grid: TokenGrid | None = None) -> None:
        """Prepare.

        Args:
            pool: How.
            grid: The tokens of the network that the backbone was cut from.
        """
        super().__init__()
        self.pool, self.grid = pool, grid

    def forward(self, maps: Tensor) -> Tensor:
        """Pool a map or tokens; return anything else unchanged.

        Raises:
            UsageError: There is no class token.
        """
        prefix = self.grid.prefixes.get(maps.shape[1]) if self.grid is not None and maps.ndim == 3 else None
        if self.pool in (Pool.CLS, Pool.CLS_AVG) and not (prefix and self.grid is not None and self.grid.has_class):
            raise UsageError(_without_class_token(self.pool, tuple(maps.shape[1:])))
        if self.pool is Pool.NONE or (maps.ndim != 4 and prefix is None):
            return maps
        if self.pool is Pool.FLATTEN:
            return maps.flatten(1)
        if prefix is not None:
            return self._of_tokens(maps, prefix=prefix)
        return maps.mean((2, 3)) if self.pool is Pool.AVG else maps.amax((2, 3))

    def _of_tokens(self, tokens: Tensor, *, prefix: int) -> Tensor:
        if self.pool is Pool.CLS:
            return tokens[:, 0]
        patches = tokens[:, prefix:]
        if self.pool is Pool.MAX:
            return patches.amax(1)
        mean = patches.mean(1)
        return mean if self.pool is Pool.AVG else torch.cat([tokens[:, 0], mean], 1)


def _without_class_token(pool: Pool, shape: tuple[int, ...]) -> str:
    kind = {1: "a vector", 2: "tokens without one", 3: "a map"}.get(len(shape), "something else")
    return (
        f"--pool {pool} needs the class token of a vision transformer, and this layer outputs {kind} "
        f"({'x'.join(map(str, shape))}); give --pool avg, or another --layer"
    )


class Extractor(nn.Module):
    """normalize -> backbone -> pool: uint8 (N, H, W, 3) -> float (N, D), or without pooling (N, C, h, w) or (N, T, D)."""

    def __init__(self, backbone: nn.Module, *, preprocess: Preprocess, pool: Pool) -> None:
        super().__init__()
        self.normalise = InputNormalization(preprocess)
        self.base = backbone
        self.pool = Pooling(pool, token_grid.of_cut(backbone))

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of images."""
        return self.pool(self.base(self.normalise(images)))  # type: ignore[no-any-return] # modules return Any


class ColumnEncoding(nn.Module):
    """Standardize numbers and one-hot encode categories: codes float (N, columns) -> (N, width), as `InputColumn` describes.

    The code of a number is itself, that of a category its place in the list of categories, or another number if it is in none.
    """

    source: Tensor
    mean: Tensor
    scale: Tensor
    code: Tensor
    is_number: Tensor

    def __init__(self, columns: Sequence[InputColumn]) -> None:
        super().__init__()
        self.width = sum(column.width for column in columns)
        rows: list[tuple[int, float, float, float, bool]] = []  # one for each encoded column
        for place, column in enumerate(columns):
            if column.kind is ColumnKind.NUMBER:
                rows.append((place, column.mean, 1 / column.std if column.std else 0.0, 0.0, True))
            else:  # the only category says nothing about an image: it stays zero, as others
                codes = range(len(column.categories)) if len(column.categories) > 1 else (-2,)
                rows += [(place, 0.0, 0.0, float(code), False) for code in codes]
        source, mean, scale, code, is_number = zip(*rows, strict=True)
        # Not in the state: the Header holds them
        self.register_buffer("source", torch.tensor(source), persistent=False)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.register_buffer("code", torch.tensor(code), persistent=False)
        self.register_buffer("is_number", torch.tensor(is_number), persistent=False)

    def forward(self, columns: Tensor) -> Tensor:
        """Encode."""
        values = columns.index_select(1, self.source)  # (N, columns) -> (N, width)
        return torch.where(self.is_number, (values - self.mean) * self.scale, (values == self.code).to(values.dtype))


class Classifier(nn.Module):
    """A whole network: `forward` returns logits (N, classes), or (N, 1) where a single sigmoid decides between two classes.

    With `columns`, metadata is a second input, which is encoded and appended to the features; they have to be vectors then.
    With a `box` head, `ClassesAndBox` computes a box from the backbone's output, too. With `thresholds`, (classes,), images have several
    labels: the probability of each class is a sigmoid, and from its threshold on the class is a label.
    """

    thresholds: Tensor | None

    def __init__(
        self,
        backbone: nn.Module,
        head: build.Network,
        *,
        preprocess: Preprocess,
        pool: Pool,
        box: build.Network | None = None,
        columns: ColumnEncoding | None = None,
        thresholds: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.normalise = InputNormalization(preprocess)
        self.base = backbone
        self.pool = Pooling(pool, token_grid.of_cut(backbone))
        self.head = head
        self.box = box
        self.columns = columns
        # Not in the state: the Header holds them
        self.register_buffer("thresholds", thresholds, persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Compute the features of uint8 images (N, H, W, 3): the input of the head, without columns."""
        return self.pool(self.base(self.normalise(images)))  # type: ignore[no-any-return] # modules return Any

    def stages(self) -> list[nn.Module]:
        """Return the modules that `forward` calls one after another."""
        return [self.normalise, *build.stages(self.base), self.pool, *build.stages(self.head)]

    def forward(self, images: Tensor, columns: Tensor | None = None) -> Tensor:
        """Compute the logits of uint8 images (N, H, W, 3), with the codes of their columns (N, columns) if it takes any."""
        features = self.features(images)
        return self.head(joined(features, self.columns, columns))  # type: ignore[no-any-return] # modules return Any


def joined(features: Tensor, encoding: ColumnEncoding | None, columns: Tensor | None) -> Tensor:
    """Append encoded columns to features, (N, D) -> (N, D + width); without an encoding, return the features."""
    if encoding is None:
        return features
    assert columns is not None, "this network takes columns"
    return torch.cat([features, encoding(columns).to(features.dtype)], 1)


class ClassesAndBox(nn.Module):
    """A classifier with a box head, whose modules it shares: `forward` returns logits and box of each image in one row.

    Attributes:
        heads: The last stage.
    """

    def __init__(self, whole: Classifier) -> None:
        super().__init__()
        self.normalise, self.base = whole.normalise, whole.base
        self.heads = TwoHeads(whole)

    def stages(self) -> list[nn.Module]:
        """Return the modules that `forward` calls one after another."""
        return [self.normalise, *build.stages(self.base), self.heads]

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits and box of uint8 images: (N, H, W, 3) -> (N, logits + 4)."""
        return self.heads(self.base(self.normalise(images)))  # type: ignore[no-any-return] # modules return Any


class TwoHeads(nn.Module):
    """The heads of a classifier that also returns a box: both read the backbone's output."""

    def __init__(self, whole: Classifier) -> None:
        super().__init__()
        assert whole.box is not None
        self.pool, self.head, self.box = whole.pool, whole.head, whole.box

    def forward(self, maps: Tensor) -> Tensor:
        """Concatenate logits and box, (N, logits + 4)."""
        return torch.cat([self.head(self.pool(maps)), self.box(maps)], 1)


#: The numbers of a box: its centre and its sides, (cx, cy, w, h), as shares of the input's sides.
BOX_NUMBERS = 4

#: The default box head: each number is a weighted sum of all values of the backbone's map. Pooled features would have lost the place.
BOX_HEAD = f"flatten, dense {BOX_NUMBERS}"


def build_box_head(
    text: str, backbone: nn.Module, *, preprocess: Preprocess, most: int = build.MOST_PARAMS
) -> build.Network:
    """Build a head that computes a box from the output of a backbone.

    Args:
        text: Notation of the whole head.
        backbone: In eval mode.
        preprocess: That of the network.
        most: The most parameters allowed.

    Raises:
        UsageError: The backbone does not end in a map, or the head does not return four numbers.
    """
    extractor = Extractor(backbone, preprocess=preprocess, pool=Pool.NONE).eval()
    shape = feature_shape(extractor, preprocess)
    if len(shape) != 3:
        kind = "tokens" if len(shape) == 2 else "a vector"
        raise UsageError(
            f"a box is computed from a map, and this network has {kind} ({'x'.join(map(str, shape))}); "
            "give a network of convolutions"
        )
    head = build_head(text, shape, most=most)
    channels, height, width = shape
    with torch.no_grad():
        made = tuple(head.eval()(torch.zeros(1, channels, height, width)).shape[1:])
    if made != (BOX_NUMBERS,):
        raise UsageError(f'the box head "{text}" returns {"x".join(map(str, made))} values, a box has {BOX_NUMBERS}')
    return head


def class_logits(logits: Tensor) -> Tensor:
    """Return one logit per class, so that a softmax gives probabilities: the logit z of a single sigmoid becomes 0 and z."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits  # (N, 1) -> (N, 2)


def class_probabilities(logits: Tensor, *, multi_label: bool) -> Tensor:
    """Return the probability of every class, (N, classes): a softmax over `class_logits`, or a sigmoid of each logit."""
    return logits.sigmoid() if multi_label else class_logits(logits).softmax(1)


def head_layers(text: str) -> tuple[Layer, ...]:
    """Parse a whole head's notation, without the softmax or sigmoid at its end: networks return logits.

    That activation is part of the loss, and applied by a softmax over `class_logits`.

    Raises:
        UsageError: There is no layer, or the notation is wrong.
    """
    layers = notation.parse(text)
    if not layers:
        raise UsageError("the head has no layers; it needs at least a dense layer with a unit for every class")
    last = layers[-1]
    if last.kind is LayerKind.activation and last.activation in (Activation.softmax, Activation.sigmoid):
        return layers[:-1]
    if last.activation in (Activation.softmax, Activation.sigmoid):
        return (*layers[:-1], replace(last, activation=None))
    return layers


def build_head(text: str, shape: tuple[int, ...], *, most: int = build.MOST_PARAMS) -> build.Network:
    """Build a head for features of a shape.

    Args:
        text: Notation of the whole head, the last dense layer included.
        shape: Shape of one image's features: (D,) or (C, H, W).
        most: The most parameters allowed.

    Raises:
        UsageError: A layer does not fit its input.
    """
    channels, height, width = (*shape, None, None)[:3] if len(shape) == 1 else shape
    assert channels is not None
    return build.build(head_layers(text), channels=channels, height=height, width=width, most=most)


def feature_shape(extractor: nn.Module, preprocess: Preprocess) -> tuple[int, ...]:
    """Find the shape of one image's features by passing a black image through the extractor."""
    size = preprocess.size
    with torch.no_grad():
        return tuple(extractor(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape[1:])


def _check_outputs(header: Header, head: build.Network, *, name: str) -> None:
    """Check that there is an output for each class, or a single one for two.

    Raises:
        FormatError: There are more or fewer.
    """
    dense = [module for module in head if isinstance(module, nn.Linear | nn.Conv2d)]
    if header.classes is None or not dense:
        return
    last = dense[-1]
    outputs = last.out_features if isinstance(last, nn.Linear) else last.out_channels
    if header.multi_label and outputs != len(header.classes):
        raise FormatError(
            f"{name}: its header names {len(header.classes)} classes with a label each, its head has {outputs} outputs"
        )
    if max(outputs, 2) != len(header.classes) and outputs != len(header.classes):
        raise FormatError(f"{name}: its header names {len(header.classes)} classes, its head has {outputs} outputs")


def from_header(header: Header, state: Mapping[str, Tensor], *, name: str, with_columns: bool = False) -> Classifier:
    """Build the network that a model file describes, with its weights, in eval mode.

    Args:
        header: The file's, with backbone, layer, pool, preprocessing and head.
        state: Its state_dict.
        name: The file, for messages.
        with_columns: The caller passes columns to a network that takes them.

    Raises:
        FormatError: The Header is incomplete, or the weights do not fit it.
        UsageError: The network takes columns, and the caller gives none.
    """
    if not with_columns:
        header.refuse_columns(name)
    if header.backbone is None or header.preprocess is None or header.head is None:
        raise FormatError(f"{name}: its header has no backbone, no preprocess or no head")
    preprocess, pool = header.preprocess, header.backbone.pool
    # The header may be forged: bound its network by the weights in the same file
    most = torch_model.count_values(state) + build.SPARE_PARAMS
    try:
        backbone = backbones.skeleton(header.backbone, size=preprocess.size, grey=preprocess.grey, most=most).eval()
        extractor = Extractor(backbone, preprocess=preprocess, pool=pool).eval()
        encoding = None if header.columns is None else ColumnEncoding(header.columns)
        shape = feature_shape(extractor, preprocess)
        if encoding is not None and (len(shape) != 1 or header.box_head is not None):
            why = "its features are no vectors" if header.box_head is None else "it predicts a box"
            raise FormatError(f"{name}: its header has columns, but {why}; train it again")
        head = build_head(header.head, shape if encoding is None else (shape[0] + encoding.width,), most=most)
        box = None
        if header.box_head is not None:
            box = build_box_head(header.box_head, backbone, preprocess=preprocess, most=most)
    except UsageError as error:
        raise FormatError(f"{name}: its header and its weights do not fit together ({error})") from error
    thresholds = torch.tensor(header.label_thresholds) if header.multi_label else None
    classifier = Classifier(
        backbone, head, preprocess=preprocess, pool=pool, box=box, columns=encoding, thresholds=thresholds
    )
    for key, tensor in classifier.state_dict().items():
        if key in state and tensor.is_floating_point() != state[key].is_floating_point():
            raise FormatError(
                f"{name}: {key} is {str(state[key].dtype).removeprefix('torch.')}, not a float; train the model again"
            )
    try:
        classifier.load_state_dict(dict(state))
    except RuntimeError as error:
        raise FormatError(
            f"{name}: its weights do not fit its header ({str(error).splitlines()[-1].strip()})"
        ) from error
    _check_outputs(header, head, name=name)
    return classifier.eval()
