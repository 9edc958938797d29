"""The dimensions of an ONNX network, computed from its graph with the onnx package.

The rules of counting, and of receptive fields where branches meet, are those of `module_dims`. Networks that are quantized, or optimized
by ONNX Runtime, are measured as the float networks that they were made from: `graph_standard` translates the operators, `graph_shapes`
finds the shapes.

Parameters are the stored values that layers multiply or add, biases included: those of a quantized layer are its weights and biases, not
its scales and zero points. Running statistics are not parameters, as in torch; of a batch normalization that an exporter folded into a
convolution, only the convolution's bias remains. A weight that several layers share counts once. torch's exporter and ONNX Runtime also
store equal vectors only once, such as the zeros and ones of untrained networks, so a vector of one repeated value counts in each
layer. Constants before the first layer with weights normalize or whiten the image and are not parameters.

A layer is named after the module of its weights, if the file still has that name, else after its node. Branches are counted if it is
known which one runs, or if both cost the same; loops as often as they run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnx import GraphProto, NodeProto, TensorProto, defs

from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import onnx_model
from cnnkit.nets import graph_macs
from cnnkit.nets.dims import DimsRow, Window, Windows, bounded, shown, shown_pads, unread, whole_map
from cnnkit.nets.graph_control import Walk
from cnnkit.nets.graph_nodes import MICROSOFT, STANDARD, array, attributes, called, inlined
from cnnkit.nets.graph_shapes import Shapes
from cnnkit.nets.graph_standard import standard
from cnnkit.nets.notation import LayerKind, Padding
from cnnkit.nets.receptive_field import ReceptiveField, Shape, follow

_MOST_MACS = 20_000_000_000  # of a network that is run to check that it runs: about a second
# The inputs of an operator that are weights of a layer, anywhere in the network.
_WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "DeformConv": (1, 3),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Einsum": tuple(range(8)),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
    "RNN": (1, 2, 3),
    "GRU": (1, 2, 3),
    "LSTM": (1, 2, 3, 7),
    "MultiHeadAttention": (3,),
    "Gather": (0,),
}
# An operator that adds or multiplies a learned tensor is a layer only after the first of the above; before, it normalizes the image.
_COMBINING = frozenset({"Add", "Sub", "Mul", "Div", "Sum", "Concat", "Where"})
# Names of the constants of the whitening of images, as cnn-export writes them, and of its layer.
_WHITENING_MATRIX, _WHITENING_MEAN, _WHITEN = "whiten.matrix", "whiten.mean", "whiten"
# Operators that move or rename values, or return their shape; a Reshape is a layer if it flattens a map.
_PLUMBING = frozenset(
    {
        *("Cast", "CastLike", "Identity", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Gather", "Split", "Expand"),
        *("Reshape", "Shape", "Size", "QuantizeLinear", "DequantizeLinear"),
    }
)
# Operators whose result holds the same weights as the stored tensor that is their first input; other inputs are not weights.
_REARRANGING = frozenset(
    {
        *("Cast", "CastLike", "Identity", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Gather", "Split", "Expand"),
        *("Reshape", "Flatten", "Tile", "Pad", "GatherElements", "GatherND", "Clip", "Resize", "Upsample", "ScatterND"),
        *("DepthToSpace", "SpaceToDepth", "Trilu"),
    }
)
_NO_WEIGHTS = frozenset(
    {
        *("Shape", "Size", "ConstantOfShape", "Range", "NonZero", "Equal", "Less", "LessOrEqual", "Greater"),
        *("GreaterOrEqual", "And", "Or", "Not", "Xor", "ArgMax", "ArgMin", "EyeLike", "OneHot"),
    }
)
# Elementwise operators, and those that work only along the channels: the receptive field does not change.
_POINTWISE = frozenset(
    {
        *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "BitShift"),
        *("BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Concat"),
        *("Cos", "Cosh", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Expand", "Floor", "Gelu", "Greater"),
        *("GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LRN", "LeakyRelu", "Less"),
        *("LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow"),
        *("Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Slice", "Softplus"),
        *("Softsign", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Unsqueeze"),
        *("Where", "Xor", "Reshape", "Transpose", "Flatten", "Gather", "Gemm"),
    }
)
_SLIDING = ("Conv", "MaxPool", "AveragePool", "LpPool")
_GLOBAL = ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
_REDUCING = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2")
_NORMALIZING = ("InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization")
_ALONG_AN_AXIS = ("Softmax", "LogSoftmax", "Hardmax", "LayerNormalization", "RMSNormalization", "LpNormalization")
_NAMES_OF_WEIGHTS = ("weight", "bias", "gamma", "beta", "scale", "shift", "offset")
# Operators of ONNX Runtime that neither multiply matrices nor hold weights. Others have to be translated to be counted.
_HARMLESS_OF_MICROSOFT = frozenset(
    {
        *("CropAndResize", "ExpandDims", "GatherND", "GridSample", "IsAllFinite", "MultiHeadAttention", "Pad", "Range"),
        *("ReduceSumInteger", "RotaryEmbedding", "Trilu", "Unique", "ComplexMul", "ComplexMulConj", "BiasSplitGelu"),
    }
)
_HARMLESS_OF_ML = frozenset(
    {
        *("ArrayFeatureExtractor", "Binarizer", "CastMap", "CategoryMapper", "FeatureVectorizer", "Imputer"),
        *("LabelEncoder", "Normalizer", "OneHotEncoder", "Scaler", "ZipMap"),
    }
)
_UNCOUNTED = frozenset({"CausalConvWithState", "LinearAttention"})
_KINDS = {
    "Conv": LayerKind.conv,
    "ConvTranspose": LayerKind.deconv,
    "MaxPool": LayerKind.pool,
    "AveragePool": LayerKind.avgpool,
    "GlobalAveragePool": LayerKind.gap,
    "GlobalMaxPool": LayerKind.gmp,
    "ReduceMean": LayerKind.gap,
    "ReduceMax": LayerKind.gmp,
    "Gemm": LayerKind.dense,
    "BatchNormalization": LayerKind.bn,
    "Flatten": LayerKind.flatten,
    "Reshape": LayerKind.flatten,
    "Dropout": LayerKind.dropout,
    "LRN": LayerKind.lrn,
    "Pad": LayerKind.pad,
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Clip"), LayerKind.activation),
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish", "Tanh"), LayerKind.activation),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Softplus", "Softsign"), LayerKind.activation),
}


def measure_graph(
    path: str,
    *,
    size: Sequence[int] | None = None,
    bytes_per_value: int = 4,
    check: bool = False,
    near_zero: float | None = None,
) -> tuple[DimsRow, ...]:
    """Measure every layer of an ONNX network.

    Args:
        path: A `.onnx` file.
        size: Height, width and channels of the images, for sides that the file leaves open.
        bytes_per_value: Bytes of one value in all images of the batch.
        check: Check that ONNX Runtime loads the network and, if that takes about a second at most, runs it.
        near_zero: Also count the weights whose absolute value is at most this.

    Returns:
        One row for every node that computes on the image, in the order of the graph.

    Raises:
        FormatError: The file is not an ONNX network, keeps weights in other files, has operators that cannot be measured, or
            fails the check.
        UsageError: The network takes images of another size.
        OSError: The file cannot be read.
    """
    model = inlined(onnx_model.parse(onnx_model.load(path).content, name=path), name=path)
    inputs, image = _fixed_inputs(model.graph, path, size)
    shapes = Shapes(model, inputs)
    measurement = _Measurement(path, shapes, image, bytes_per_value, given_size=size is not None, near_zero=near_zero)
    rows = measurement.rows(model.graph)
    if not rows:
        raise FormatError(f"{path}: no node of the network depends on its images")
    if check:
        refusal = shapes.refusal(run=sum(row.macs for row in rows) * image.images <= _MOST_MACS)
        if refusal is not None:
            raise FormatError(f"{path}: {refusal}")
    return rows


def accepts(
    path: str, *, channels: int | None = None
) -> tuple[Callable[[int, int], str | None], tuple[int | None, int | None]]:
    """Return what checks whether a network takes images of a height and width.

    Args:
        path: A `.onnx` file.
        channels: Of the images; by default those that the file fixes, or 3.

    Returns:
        A function that returns why not, None if it does; and the height and width that the file fixes, None where it leaves them open.

    Raises:
        FormatError: As `measure_graph`.
        UsageError: The file fixes another number of channels.
        OSError: The file cannot be read.
    """
    model = inlined(onnx_model.parse(onnx_model.load(path).content, name=path), name=path)
    stored = {tensor.name for tensor in model.graph.initializer}
    sides = next(
        (
            [side.dim_value or None for side in value.type.tensor_type.shape.dim]
            for value in model.graph.input
            if value.name not in stored and len(value.type.tensor_type.shape.dim) == 4
        ),
        None,
    )
    if sides is None:
        raise FormatError(f"{path}: has no input of 4 dimensions, so it takes no images")
    last = sides[3] in (1, 3) and sides[1] not in (1, 3)
    height, width, own = (sides[place] for place in ((1, 2, 3) if last else (2, 3, 1)))
    if channels is not None and own not in (None, channels):
        raise UsageError(f"{path}: channels is {own}, but --input has {channels}; drop --input")
    used = own or channels or 3

    def refusal(rows: int, columns: int) -> str | None:
        try:
            inputs, image = _fixed_inputs(model.graph, path, (rows, columns, used))
            measured = _Measurement(path, Shapes(model, inputs), image, 1, given_size=False).rows(model.graph)
        except (FormatError, UsageError) as error:
            return str(error).removeprefix(f"{path}: ")
        return next((f"the output of {row.layer} is empty" for row in measured if min(row.shape) < 1), None)

    return refusal, (height, width)


class _Image:
    """The input that takes the images."""

    def __init__(self, name: str, sides: Shape, *, last: bool) -> None:
        self.name = name
        self.last = last
        self.images = sides[0]
        self.size = (sides[1], sides[2]) if last else (sides[2], sides[3])


def _fixed_inputs(
    graph: GraphProto, path: str, size: Sequence[int] | None
) -> tuple[dict[str, tuple[int, Shape]], _Image]:
    """Fill in open sides of the inputs, and find the input of the images, which is the first one with four sides."""
    stored = {tensor.name for tensor in graph.initializer}
    values = [value for value in graph.input if value.name not in stored]
    if not values:
        raise FormatError(f"{path}: has no input; a network for images has an input of 4 dimensions")
    value = next((value for value in values if len(value.type.tensor_type.shape.dim) == 4), values[0])
    sides = value.type.tensor_type.shape.dim
    if len(sides) != 4:
        raise FormatError(f"{path}: its input has {len(sides)} dimensions; a network for images has 4")
    if size and len(size) != 3:
        raise UsageError(f"{path}: takes images, but --input is {size[0]}; give H,W,C")
    last = sides[3].dim_value in (1, 3) and sides[1].dim_value not in (1, 3)
    places = (1, 2, 3) if last else (2, 3, 1)
    made = [max(side.dim_value, 0) for side in sides]
    for name, place, wanted in zip(("height", "width", "channels"), places, size or (0, 0, 0), strict=True):
        if made[place] and wanted and made[place] != wanted:
            raise UsageError(f"{path}: {name} is {made[place]}, but --input has {wanted}; drop --input")
        made[place] = made[place] or wanted
    made[0] = made[0] or 1
    if not all(made):
        raise FormatError(f"{path}: the size of its images is open; give --input H,W,C")
    called = {side.dim_param: filled for side, filled in zip(sides, made, strict=True) if side.dim_param}
    inputs = {value.name: (value.type.tensor_type.elem_type, tuple(made))}
    for other in values:
        if other.name != value.name:
            inputs[other.name] = (
                other.type.tensor_type.elem_type,
                _other_input(other.type.tensor_type, called, other.name, path),
            )
    return inputs, _Image(value.name, tuple(made), last=last)


def _other_input(kind: Any, called: Mapping[str, int], name: str, path: str) -> Shape:  # noqa: ANN401 - a class inside onnx's TypeProto
    """Return the shape of an input other than the images; its first side may be the number of images."""
    sides = []
    for place, side in enumerate(kind.shape.dim):
        length = side.dim_value or called.get(side.dim_param) or (1 if place == 0 else 0)
        if length < 1:
            raise FormatError(f"{path}: the size of its input {name} is open, and only that of the images can be given")
        sides.append(length)
    if not kind.HasField("shape"):
        raise FormatError(f"{path}: the size of its input {name} is open, and only that of the images can be given")
    return tuple(sides)


class _Measurement(Walk):
    """One pass along a graph."""

    def __init__(
        self,
        path: str,
        shapes: Shapes,
        image: _Image,
        bytes_per_value: int,
        *,
        given_size: bool,
        near_zero: float | None = None,
    ) -> None:
        super().__init__(path, shapes)
        self._image = image
        self._bytes = bytes_per_value
        self._remedy = "; give another --input" if given_size else ""
        self._near_zero = near_zero
        self._counted: set[str] = set()
        self._whitened: set[str] = set()  # rows of whitened values, which are reshaped to images again

    def rows(self, graph: GraphProto) -> tuple[DimsRow, ...]:
        """Measure a whole graph."""
        stored = {tensor.name for tensor in graph.initializer}
        self._fields = {value.name: ReceptiveField() for value in graph.input if value.name not in stored}
        self._fields[self._image.name] = ReceptiveField((1, 1), (1, 1), last=self._image.last)
        self.walk(standard(graph, opset=self._shapes.opset, name=self._path))
        return tuple(self._rows.values())

    def _step(self, node: NodeProto) -> None:
        """Measure one node."""
        self._check_known(node)
        if node.op_type == "Conv":
            self._unpad(node)
        graph_macs.check(node, self._shapes.get, self._of(node))
        self._shapes.infer(node)
        inputs = [name for name in node.input if name in self._fields]
        if not inputs or node.op_type in ("Shape", "Size"):
            self._store(node)
            if not graph_macs.multiplies(node):
                return
        made = self._shapes.get(node.output[0])
        given = self._shapes.get((inputs or list(node.input))[0])
        if made is None or given is None:
            if self._shapes.is_no_tensor(node.output[0]) or self._shapes.is_no_tensor(node.input[0]):
                self._fields.update(dict.fromkeys(filter(None, node.output), ReceptiveField()))
                return
            reason = f" ({self._shapes.reason})" if self._shapes.reason else ""
            raise FormatError(f"{self._path}: the output shape of {called(node)} is unknown{reason}{self._remedy}")
        windows, found = None, ReceptiveField()
        if inputs:
            windows = self._windows(node, inputs[0], given)
            found = self._field(node, inputs, made, windows)
            self._fields.update(dict.fromkeys(filter(None, node.output), found))
        if whitens(node):
            made = self._whitened_shape(node, made)
            self._whitened.update(node.output)
        self._add_row(node, given, made, found, windows)

    def _add_row(
        self, node: NodeProto, given: Shape, made: Shape, found: ReceptiveField, windows: Windows | None
    ) -> None:
        """Add the row of a layer; if it runs again, add its costs to its row."""
        again = id(node) in self._rows
        params = 0 if again else self._params(node)
        macs = graph_macs.count(node, self._shapes.get, self._of(node)) // self._image.images
        flattens = node.op_type == "Reshape" and len(given) == 4 and len(made) == 2
        if node.op_type in _PLUMBING and not flattens and not (params or macs):
            return
        height, width, channels = found.output(made)
        slides = windows and len(given) == len(made) == 4 and node.op_type in _SLIDING
        size = ReceptiveField(last=self._fields[node.input[0]].last).size(given) if slides else (0, 0)
        row = DimsRow(
            layer=name_of(node, sorted(self._roots(node))),
            kind=self._kind(node),
            height=height,
            width=width,
            channels=channels,
            params=params,
            macs=macs,
            receptive_field=shown(bounded(found.field, self._image.size)),
            stride=shown(found.step),
            activation_bytes=math.prod(made) // self._image.images * self._bytes,
            dropped=unread(windows, size, found.size(made)) if windows and slides else 0,
            image=shown(self._image.size),
            kernel=None if windows is None or not slides else shown((windows[0].kernel, windows[1].kernel)),
            pad=None if windows is None or not slides else _pads(windows, size),
        )
        if node.op_type in ("ConvTranspose", "Pad") and len(given) == 4:
            row = replace(row, **self._kernel_and_pad(node))
        if self._near_zero is not None and not again:
            row = replace(row, **self._zeros(node, self._near_zero))
        before = self._rows.get(id(node))
        if before is not None:
            row = replace(
                row,
                params=before.params,
                macs=before.macs + row.macs,
                activation_bytes=before.activation_bytes + row.activation_bytes,
                dropped=before.dropped + row.dropped,
                weights=before.weights,
                zeros=before.zeros,
            )
        self._rows[id(node)] = row

    def _whitened_shape(self, node: NodeProto, made: Shape) -> Shape:
        """Return the shape of whitened images, (N, C, H, W): that of their mean."""
        mean = self._constants.get(_matrix_name(node).removesuffix(_WHITENING_MATRIX) + _WHITENING_MEAN)
        return made if mean is None or len(mean.dims) != 3 else (made[0], *mean.dims)

    def _of(self, node: NodeProto) -> Callable[[str], str]:
        """Return what makes the error message for a node's shapes from the reason: its name, the reason, and the remedy."""
        return lambda reason: f"{self._path}: {called(node)} {reason}{self._remedy}"

    def _check_known(self, node: NodeProto) -> None:
        """Refuse an operator whose multiplications are unknown."""
        if node.domain in STANDARD:
            known = defs.has(node.op_type) and node.op_type not in _UNCOUNTED
        elif node.domain == MICROSOFT:
            known = node.op_type in _HARMLESS_OF_MICROSOFT
        else:
            known = node.domain == "ai.onnx.ml" and node.op_type in _HARMLESS_OF_ML
        if not known:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise FormatError(
                f"{self._path}: the multiply-accumulates of the operator {operator} are unknown; "
                "export the network in standard operators"
            )

    # Weights

    def _unpad(self, node: NodeProto) -> None:
        """Remove the padding from the weights' input channels in a convolution on blocked channels."""
        name = node.input[1]
        given = self._shapes.get(node.input[0])
        if name in self._blocked and given is not None:
            stored = self._constants[name]
            depth = given[1] // attributes(node).get("group", 1)
            self._constants[name] = replace(stored, dims=(stored.dims[0], depth, *stored.dims[2:]))
            self._shapes.add({name: self._constants[name]})

    def _store(self, node: NodeProto) -> None:
        """Record the weights that the output of a node is made of, if it does not depend on the image."""
        if any(name in self._scales for name in node.input):
            self._scales.update(node.output)
            return
        if node.op_type in _NO_WEIGHTS:
            return
        inputs = node.input[:1] if node.op_type in _REARRANGING else node.input
        made = frozenset().union(*(self._stored.get(name, frozenset()) for name in inputs))
        if len(made) > 1:
            large = {name for name in made if math.prod(self._constants[name].dims) > 1}
            whole = {name for name in large if self._constants[name].element in (TensorProto.INT8, TensorProto.UINT8)}
            made = frozenset(whole or large or made)
        self._stored.update(dict.fromkeys(filter(None, node.output), made))

    def _roots(self, node: NodeProto) -> frozenset[str]:
        """Return the stored tensors that are weights of a layer."""
        places = _WEIGHTS.get(node.op_type)
        if places is None and node.op_type not in _COMBINING:
            return frozenset()
        names = (
            list(node.input) if places is None else [node.input[place] for place in places if place < len(node.input)]
        )
        found = frozenset().union(
            *(self._stored.get(name, frozenset()) for name in names if name and name not in self._fields)
        )
        found = frozenset(name for name in found if self._may_be_weight(name))
        if places is None or node.op_type == "Gather":
            return frozenset(name for name in found if self._is_learned(node, name))
        if node.op_type == "InstanceNormalization" and self._is_identity(node):
            return frozenset()
        if whitens(node) or (node.op_type == "BatchNormalization" and self._normalizes_image(node)):
            return frozenset()
        return found

    def _may_be_weight(self, name: str) -> bool:
        return self._constants[name].element not in (TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING)

    def _is_learned(self, node: NodeProto, name: str) -> bool:
        """Check whether a tensor is learned, rather than a number, a mask or the normalization of the image."""
        constant = self._constants[name]
        if math.prod(constant.dims) == 1 or not self._counted:
            return False
        return node.op_type != "Add" or not constant.is_mask

    def _normalizes_image(self, node: NodeProto) -> bool:
        """Check for the form in which cnn-export --int8 scales and shifts the image; networks that were trained have statistics."""
        if self._counted or attributes(node).get("epsilon") != 0:
            return False
        statistics = [
            [self._constants[name].uniform for name in self._stored.get(place, ())] for place in node.input[3:5]
        ]
        return statistics == [[0.0], [1.0]]

    def _is_identity(self, node: NodeProto) -> bool:
        """Check for the constants of a normalization without weights: exporters store one repeated value, not named like weights."""
        roots = [name for place in node.input[1:3] for name in self._stored.get(place, ())]
        named = any(name.removesuffix("_quantized").lower().endswith(_NAMES_OF_WEIGHTS) for name in roots)
        return not named and all(self._constants[name].uniform is not None for name in roots)

    def _params(self, node: NodeProto) -> int:
        """Count the weights of a layer that no earlier layer has counted."""
        roots = sorted(self._roots(node))
        matrices = [
            name
            for name in roots
            if math.prod(self._constants[name].dims) != max(self._constants[name].dims, default=1)
        ]
        again = bool(matrices) and all(name in self._counted for name in matrices)
        own = [
            name
            for name in roots
            if name not in self._counted
            or (not again and name not in matrices and self._constants[name].is_repeated_value)
        ]
        self._counted.update(own)
        if node.op_type == "Add":
            return sum(self._constants[name].learned for name in own)
        return sum(math.prod(self._constants[name].dims) for name in own)

    def _zeros(self, node: NodeProto, near_zero: float) -> dict[str, Any]:
        """Return the number of a layer's weights, biases aside, and the share of them that is close to zero; floats only."""
        found = [self._constants[name] for name in sorted(self._roots(node))]
        values = [array(each.tensor) for each in found if each.tensor is not None and len(each.dims) > 1]
        weights = [each for each in values if each is not None and each.dtype.kind == "f" and each.size]
        count = sum(each.size for each in weights)
        if not count:
            return {}
        return {"weights": count, "zeros": sum(int((abs(each) <= near_zero).sum()) for each in weights) / count}

    # Receptive fields

    def _field(self, node: NodeProto, inputs: Sequence[str], made: Shape, windows: Windows | None) -> ReceptiveField:
        """Return the receptive field of the result of a node."""
        shaped = [(shape, self._fields[name]) for name in inputs if (shape := self._shapes.get(name)) is not None]
        order = tuple(attributes(node).get("perm", ())) if node.op_type == "Transpose" else ()
        if windows:
            return follow(shaped[:1], made, windows=windows)
        if whitens(node):
            return ReceptiveField(self._image.size, (1, 1))
        if node.op_type == "Reshape" and inputs[0] in self._whitened and len(made) == 4:
            return self._fields[inputs[0]]
        if self._depends_on_whole_map(node, inputs[0]):
            return follow(shaped, made, everything=True)
        dense = (
            node.op_type == "MatMul"
            and len(self._shapes.get(node.input[1]) or ()) == 2
            and node.input[1] not in self._fields
        )
        if node.op_type not in _POINTWISE and node.op_type not in _ALONG_AN_AXIS and not dense:
            return ReceptiveField(last=self._fields[inputs[0]].last)
        return follow(shaped, made, order=order)

    def _depends_on_whole_map(self, node: NodeProto, name: str) -> bool:
        """Check whether every value of the result depends on the whole map."""
        given, field = self._shapes.get(name), self._fields[name]
        if given is None or len(given) != 4:
            return False
        if node.op_type in _NORMALIZING:
            return True
        if node.op_type not in _ALONG_AN_AXIS:
            return False
        axis = (
            attributes(node).get("axis", 1 if node.op_type in _ALONG_AN_AXIS[:3] and self._shapes.opset < 13 else -1)
            % 4
        )
        until_end = node.op_type in ("LayerNormalization", "RMSNormalization") or (
            self._shapes.opset < 13 and node.op_type in _ALONG_AN_AXIS[:3]
        )
        axes = set(range(axis, 4)) if until_end else {axis}
        return bool(axes & ({1, 2} if field.last else {2, 3}))

    def _windows(self, node: NodeProto, name: str, given: Shape) -> Windows | None:
        """Return the windows that a node slides over a map."""
        field = self._fields[name]
        if len(given) != 4 or name != node.input[0]:
            return None
        attrs = attributes(node)
        if node.op_type in _GLOBAL:
            return whole_map((given[2], given[3]))
        if node.op_type in _REDUCING:
            return whole_map(field.size(given)) if self._reduces_map(node, field) else None
        if node.op_type == "Pad":
            return (Window(1), Window(1)) if attrs.get("mode", b"constant") in (b"constant", b"edge") else None
        if node.op_type == "ConvTranspose":
            return self._transposed(node)
        if node.op_type not in _SLIDING:
            return None
        kernel = self._shapes[node.input[1]][2:] if node.op_type == "Conv" else attrs["kernel_shape"]
        strides, dilations = attrs.get("strides", (1, 1)), attrs.get("dilations", (1, 1))
        pads: list[Padding | tuple[int, int]] = [Padding.same, Padding.same]
        if not attrs.get("auto_pad", b"NOTSET").startswith(b"SAME"):
            top, left, bottom, right = attrs.get("pads", (0, 0, 0, 0))
            pads = [(top, bottom), (left, right)]
        down, across = (Window(*sides) for sides in zip(kernel, strides, pads, dilations, strict=True))
        return down, across

    def _reduces_map(self, node: NodeProto, field: ReceptiveField) -> bool:
        """Check whether a node reduces height and width, by the mean for example."""
        attrs = attributes(node)
        axes: Sequence[int] | None = attrs.get("axes")
        if axes is None and len(node.input) > 1 and node.input[1]:
            values = self._shapes.values.get(node.input[1])
            axes = None if values is None else values.tolist()
        return axes is None or ({1, 2} if field.last else {2, 3}) <= {axis % 4 for axis in axes}

    def _transposed(self, node: NodeProto) -> Windows | None:
        """Return the windows of a transposed convolution with stride 1, which is a convolution."""
        attrs = attributes(node)
        if set(attrs.get("strides", (1, 1))) != {1} or any(attrs.get("output_padding", ())):
            return None
        kernel, dilations = self._shapes[node.input[1]][2:], attrs.get("dilations", (1, 1))
        down, across = (Window(side, dilation=dilation) for side, dilation in zip(kernel, dilations, strict=True))
        return down, across

    def _kernel_and_pad(self, node: NodeProto) -> dict[str, Any]:
        """Return kernel and padding of a transposed convolution, or the padding of a map, as far as they are known."""
        attrs = attributes(node)
        if node.op_type == "ConvTranspose":
            top, left, bottom, right = attrs.get("pads", (0, 0, 0, 0))
            height, width = self._shapes[node.input[1]][2:]
            return {"kernel": shown((height, width)), "pad": shown_pads((top, bottom), (left, right))}
        pads = attrs.get("pads")
        if pads is None and len(node.input) > 1:
            values = self._shapes.values.get(node.input[1])
            pads = None if values is None else values.tolist()
        if pads is None or len(pads) != 8:
            return {}
        first = 1 if self._fields[node.input[0]].last else 2
        down, across = ((int(pads[place]), int(pads[place + 4])) for place in (first, first + 1))
        return {"pad": shown_pads(down, across)}

    def _kind(self, node: NodeProto) -> str:
        """Return the kind of a node: the notation's word if there is one, else its operator."""
        if whitens(node):
            return _WHITEN
        if node.op_type == "MatMul" or (node.op_type == "Einsum" and len(self._roots(node)) == 1):
            return LayerKind.dense if len(self._shapes[node.input[1]]) == 2 else "matmul"
        return _KINDS.get(node.op_type, node.op_type.lower())


def _pads(windows: Windows, size: tuple[int, int]) -> int | str:
    down, across = (window.pads(side) for window, side in zip(windows, size, strict=True))
    return shown_pads(down, across)


def name_of(node: NodeProto, weights: Sequence[str] = ()) -> str:
    """Name a node as `--layer` does: after its weights, without the prefixes of cnnkit's own exports.

    Args:
        node: The node.
        weights: The stored tensors that reach it through other nodes.
    """
    names = [name.removesuffix("_quantized") for name in (*node.input, *weights)]
    found = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    if whitens(node):
        found = [_matrix_name(node).removesuffix(".matrix")]
    found = [name.removeprefix("classifier.").removeprefix("base.") for name in found]
    return found[0] if found else node.name or node.output[0]


def whitens(node: NodeProto) -> bool:
    """Check whether a node multiplies images by the matrix that whitens them, as in networks of cnn-export."""
    return bool(_matrix_name(node))


def _matrix_name(node: NodeProto) -> str:
    """Name the matrix by which a node whitens images; empty if it does not."""
    if node.op_type != "MatMul" or len(node.input) != 2:
        return ""
    name: str = node.input[1]
    return name if f".{name}".endswith(f".{_WHITENING_MATRIX}") else ""
