"""Feature maps: the activations of a network's layers for one image, channel by channel.

OUT/block1_conv1.png            mosaic of all channels
OUT/block1_conv1/007.png        one channel
OUT/block1_conv1.npy            with `raw`: the activations, float32 (C, h, w)
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto
from onnx.helper import make_tensor_value_info
from onnx.shape_inference import infer_shapes

from cnnkit import messages
from cnnkit.callbacks import Callbacks
from cnnkit.choices import MapScale
from cnnkit.data import containment, decode, preprocessing, tree
from cnnkit.engine.onnx_classifier import OnnxNetwork
from cnnkit.engine.session import Session
from cnnkit.errors import FormatError, UsageError
from cnnkit.explain import colormaps, mosaics
from cnnkit.explain.config import FeatureMapOptions, InputOptions, parse_index_ranges
from cnnkit.formats import atomic, image_files, onnx_model, picture_style
from cnnkit.formats.header import Preprocess
from cnnkit.nets import graph_dims
from cnnkit.option_fields import given

log = logging.getLogger("cnnkit")

#: A channel is silent if no value exceeds this share of the largest one of the layer.
_SILENT = 1e-6


class FeatureMapNetwork(Protocol):
    """A network whose feature maps can be computed."""

    preprocess: Preprocess

    @property
    def layers(self) -> Sequence[Any]:
        """The layers that output maps, in order."""

    def find(self, wanted: str) -> Any:  # noqa: ANN401 - a layer, as the network has them
        """Find a layer by name or number."""

    def activations(self, image: NDArray[np.uint8], layers: Sequence[Any]) -> list[NDArray[np.float32]]:
        """Compute the activations of layers for one image, (H, W, 3) -> (C, h, w) each."""


@dataclass(frozen=True, slots=True)
class FeatureMapRecord:
    """The activations of a layer for an image; `silent` is the share of channels that are zero everywhere, `zeros` that of values."""

    layer: str
    shape: str
    silent: float
    zeros: float
    mean: float
    maximum: float
    most_active: int  # the channel with the largest mean
    mosaic: str | None


def check(options: FeatureMapOptions) -> None:
    """Check options before a network is loaded.

    Raises:
        UsageError: There is no such colour map.
        CnnkitError: The folder is not empty.
    """
    colormaps.color_table(options.colormap)
    if options.output is not None:
        tree.check_free(options.output, force=options.force)


def open_model(model: str, options: InputOptions, *, device: str = "auto") -> FeatureMapNetwork:
    """Load a network.

    Args:
        model: A `.pt`, an `.onnx`, or the name of a network.
        options: As for `load_network`.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        UsageError: As `load_network`, or options for an exported network.
    """
    if options.size is not None:
        preprocessing.sides(options.size)
    if model.endswith((".pt", ".onnx")):
        Path(model).stat()  # before anything heavy is loaded
    if model.endswith(".onnx"):
        if given(options):
            raise UsageError(f"{model}: --size, --fit and --weights do not work for an exported network; give a .pt")
        return OnnxFeatureMaps(model, device=device)
    from cnnkit.explain import load_network  # torch, which exported networks do without

    return load_network.TorchFeatureMaps(load_network.load_network(model, options, device=device)[0])


def explain(
    network: FeatureMapNetwork,
    source: str | Path,
    *,
    options: FeatureMapOptions,
    callbacks: Callbacks | None = None,
) -> Iterator[FeatureMapRecord]:
    """Describe and draw the feature maps of layers for an image.

    Args:
        network: From `open_model`.
        source: The image file.
        options: The layers, by name or number, or `all` for all that have maps; and how and where they are drawn.
        callbacks: To report the phase.

    Yields:
        A record for each layer.

    Raises:
        UsageError: There is no such layer, channel or colour map, or a layer outputs a vector.
        CnnkitError: The image cannot be read, or it is in the folder of the output.
    """
    palette = colormaps.color_table(options.colormap)
    layers = options.layers or ["all"]
    named = {layer.name: layer for layer in map(network.find, (each for each in layers if each != "all"))}
    chosen = network.layers if "all" in layers else list(named.values())
    if options.output is not None:
        tree.check_apart(options.output, [str(source)], to_be="explained")
    (callbacks or Callbacks()).phase("computing activations")
    with decode.required(source):
        image = preprocessing.load(source, network.preprocess)
    outputs = network.activations(image, chosen)
    for layer, maps in zip(chosen, outputs, strict=True):
        if maps.ndim != 3:
            raise UsageError(f"{layer.name} outputs a vector of {maps.size} values, not maps; choose an earlier layer")
        parse_index_ranges(options.channels, len(maps), option="--channels", of=layer.name)
    return (_explained(layer.name, maps, options, palette) for layer, maps in zip(chosen, outputs, strict=True))


def _explained(
    name: str, maps: NDArray[np.float32], options: FeatureMapOptions, palette: NDArray[np.uint8]
) -> FeatureMapRecord:
    strength = np.abs(maps).max((1, 2))  # (C,)
    return FeatureMapRecord(
        layer=name,
        shape="x".join(map(str, maps.shape)),
        silent=float(np.mean(strength <= _SILENT * strength.max())),
        zeros=float(np.mean(np.abs(maps) <= _SILENT * strength.max())),
        mean=float(maps.mean()),
        maximum=float(maps.max()),
        most_active=int(maps.mean((1, 2)).argmax()),
        mosaic=None if options.output is None else str(_draw(name, maps, options, palette)),
    )


def _draw(name: str, maps: NDArray[np.float32], options: FeatureMapOptions, palette: NDArray[np.uint8]) -> Path:
    """Write the images of a layer.

    Returns:
        The path of the mosaic.
    """
    assert options.output is not None
    numbers = parse_index_ranges(options.channels, len(maps), option="--channels", of=name)
    tiles = list(colormaps.colorize(scaled(maps, options.scale)[numbers], palette))  # (h, w, 3) each
    backbone = options.output / atomic.fitting_name(name.replace("/", "_"), "", room=4)
    options.output.mkdir(parents=True, exist_ok=True)
    for ending in ("", ".npy", ".png"):
        containment.check_place(options.output, f"{backbone.name}{ending}")
    digits = max(3, len(str(len(maps) - 1)))
    singles = (
        (f"{number:0{digits}d}.png", mosaics.enlarged(tile)) for number, tile in zip(numbers, tiles, strict=True)
    )
    image_files.save_folder(backbone, singles)
    if options.raw:
        image_files.save_array(f"{backbone}.npy", maps)
    file = Path(f"{backbone}.png")
    height, width = maps.shape[1:]
    title = f"{name}: {len(numbers)} of {len(maps)} channels, {height}x{width}"
    low, high = ("minimum", "maximum of each channel")
    if options.scale is MapScale.LAYER:
        low, high = (f"{value:.4g}" for value in (maps.min(), maps.max()))
    drawn = mosaics.mosaic(tiles, numbers=numbers, title=title)
    image_files.save(file, picture_style.with_scale(drawn, palette, low=low, high=high, latin=True))
    return file


def scaled(maps: NDArray[np.float32], scale: MapScale) -> NDArray[np.float32]:
    """Scale values to 0 to 1, (C, h, w), by the range of each channel or of the layer. Constant values become 0."""
    axes = (1, 2) if scale is MapScale.CHANNEL else (0, 1, 2)
    low, high = maps.min(axes, keepdims=True), maps.max(axes, keepdims=True)
    spread = np.where(high > low, high - low, 1)
    shares: NDArray[np.float32] = ((maps - low) / spread).astype(np.float32)
    return shares


#: Element-wise operators, which are part of the layer before them.
_ELEMENTWISE = frozenset(
    {
        *("Relu", "Clip", "LeakyRelu", "Elu", "Selu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Swish"),
        *("Tanh", "Softplus", "Softsign", "PRelu", "BatchNormalization"),
    }
)


@dataclass(frozen=True, slots=True)
class OnnxLayer:
    """The name of a layer, and of its output in the graph."""

    name: str
    value: str


class OnnxFeatureMaps:
    """An exported network whose feature maps can be computed.

    Attributes:
        layers: The layers that output maps, in order; named as in cnn-dims, each with the element-wise operators after it.
        preprocess: How an image is prepared for the network.
    """

    def __init__(self, path: str, *, device: str) -> None:
        """Load a network.

        Raises:
            FormatError: The network has no header, or its input is not images.
        """
        model = onnx_model.load(path)
        if model.header is None or model.header.preprocess is None:
            raise FormatError(f"{path}: no preprocessing in its header; export it with cnn-export")
        model.header.refuse_columns(str(path))
        self.name, self.preprocess, self._device = path, model.header.preprocess, device
        self._needs = model.needs
        self._proto = onnx_model.parse(model.content, name=path)
        self.layers = _spatial_layers(self._proto, self.preprocess, name=path)
        if not self.layers:
            raise FormatError(f"{path}: no layer outputs maps; is it only a head? export it with its backbone")

    def find(self, wanted: str) -> OnnxLayer:
        """Find a layer by name, or by number, also from the end.

        Raises:
            UsageError: There is no such layer; similar names are proposed.
        """
        if re.fullmatch("-?[0-9]{1,9}", wanted) and -len(self.layers) <= int(wanted) < len(self.layers):
            return self.layers[int(wanted)]
        for layer in (*self.layers, *_whitened_images(self._proto)):
            if wanted in (layer.name, layer.value):
                return layer
        names = [layer.name for layer in self.layers]
        near = messages.nearest(wanted, names) or f"it has {messages.shortened(names, 8)}"
        raise UsageError(f'--layer: {self.name} has no layer "{wanted}" that outputs maps; {near}')

    def activations(self, image: NDArray[np.uint8], layers: Sequence[OnnxLayer]) -> list[NDArray[np.float32]]:
        """Run the network on one image, (H, W, 3), and return the activations of layers, (C, h, w) each."""
        proto = ModelProto()
        proto.CopyFrom(self._proto)
        given = {value.name for value in proto.graph.output}
        wanted = dict.fromkeys(layer.value for layer in layers)
        proto.graph.output.extend(
            make_tensor_value_info(value, TensorProto.FLOAT, None) for value in wanted if value not in given
        )
        session = Session(proto.SerializeToString(), device=self._device, name=self.name, needs=self._needs)
        network = OnnxNetwork(self.name, session)
        found = network.rows(image[None], list(wanted), preprocess=self.preprocess)
        by_value = {value: output[0].astype(np.float32) for value, output in zip(wanted, found, strict=True)}
        return [by_value[layer.value] for layer in layers]


def _whitened_images(proto: ModelProto) -> list[OnnxLayer]:
    """Return the layer that whitens the images, if there is one: its rows, reshaped to images."""
    names = {node.output[0]: graph_dims.name_of(node) for node in proto.graph.node if graph_dims.whitens(node)}
    return [
        OnnxLayer(names[node.input[0]], node.output[0])
        for node in proto.graph.node
        if node.op_type == "Reshape" and node.input[0] in names
    ]


def _of_size(proto: ModelProto, preprocess: Preprocess) -> ModelProto:
    """Return a network whose images have the size that is run, for one of cnn-export --dynamic-size; any other as it is."""
    lengths = {"height": preprocess.height, "width": preprocess.width}
    if lengths.keys().isdisjoint(side.dim_param for side in _sides_of_input(proto)):
        return proto
    fixed = ModelProto()
    fixed.CopyFrom(proto)
    for side in _sides_of_input(fixed):
        if side.dim_param in lengths:
            side.dim_value = lengths[side.dim_param]
    return fixed


def _sides_of_input(proto: ModelProto) -> Iterator[Any]:
    return (side for value in proto.graph.input for side in value.type.tensor_type.shape.dim)


def _spatial_layers(proto: ModelProto, preprocess: Preprocess, *, name: str) -> list[OnnxLayer]:
    try:
        inferred = infer_shapes(_of_size(proto, preprocess)).graph
    except Exception as error:  # an operator that onnx does not know, or an inconsistent graph
        raise FormatError(f"{name}: cannot infer the shapes of its layers: {str(error).splitlines()[0]}") from error
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.output)
    }
    users: dict[str, list[NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    nodes = list(proto.graph.node)
    first = next((index for index, node in enumerate(nodes) if node.op_type == "Conv"), len(nodes))
    included: set[str] = set()
    found = []
    for node in nodes[first:]:  # what comes before scales the image
        if not node.output or node.output[0] in included:
            continue
        value = node.output[0]
        while len(following := users.get(value, [])) == 1 and following[0].op_type in _ELEMENTWISE:
            value = following[0].output[0]
            included.add(value)
        shape = shapes.get(value, [])
        if value == "cam":  # added by cnn-export --cam, not a layer
            continue
        if len(shape) == 4 and min(shape[2:]) > 1 and node.op_type != "Transpose":
            found.append(OnnxLayer(graph_dims.name_of(node), value))
    return found
