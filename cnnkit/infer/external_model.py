"""Networks that cnnkit did not make: what the file does not say is given as options, the rest is read from the graph."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto

from cnnkit.choices import Interpolation
from cnnkit.data import preprocessing
from cnnkit.engine.onnx_classifier import OnnxClassifier, OnnxNetwork, OutputNames
from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import labels
from cnnkit.formats.header import Preprocess
from cnnkit.infer.config import ModelSpec, parse_channels
from cnnkit.option_fields import given

_SHAPE_ONLY = frozenset(
    {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Transpose", "QuantizeLinear", "DequantizeLinear"}
)
#: How far a row of probabilities may be from 1 in sum: what float16 loses over many classes.
_SUM_TOLERANCE = 1e-3


def from_spec(network: OnnxNetwork, spec: ModelSpec, graph: GraphProto) -> OnnxClassifier:
    """Take a network for what the command line says it is, and for what it shows itself.

    Args:
        network: Anything that takes one image array.
        spec: The rest.
        graph: The network's own.

    Raises:
        UsageError: Something is missing from the spec, or contradicts the network.
        FormatError: The network takes no RGB images, does not run, or has no output for the classes.
    """
    if len(network.shape) != 4 or 3 not in (network.shape[1], network.shape[3]):
        shown = ", ".join("any" if size is None else str(size) for size in network.shape)
        raise FormatError(
            f"{network.name}: its input {network.input} has the shape ({shown}), expected pictures with three channels: "
            "(batch, 3, height, width) or (batch, height, width, 3)"
        )
    preprocess = _preprocess(network, spec)
    assert spec.labels is not None
    classes = labels.load(spec.labels)
    predictions = _tried(network, preprocess)
    widths = {len(classes)} | ({1} if len(classes) == 2 else set())
    for name, prediction in predictions.items():
        if prediction.dtype.kind == "f" and prediction[0].size in widths:
            outputs = (
                OutputNames(name, None) if _are_probabilities(prediction, name, graph) else OutputNames(None, name)
            )
            return OnnxClassifier(network, classes=classes, preprocess=preprocess, outputs=outputs)
    shapes = " and ".join(f"{name} of shape {prediction.shape[1:]}" for name, prediction in predictions.items())
    raise FormatError(f"{network.name} gives {shapes} for one picture, but {spec.labels} has {len(classes)} classes")


def _preprocess(network: OnnxNetwork, spec: ModelSpec) -> Preprocess:
    """Put together how images are prepared."""
    takes_bytes = network.dtype is np.uint8
    needed = ["--size", "--labels"] if takes_bytes else ["--size", "--mean", "--std", "--labels"]
    missing = [option for option in needed if option not in given(spec)]
    if missing:
        raise UsageError(
            f"{network.name} carries no cnnkit header, which would say how pictures are prepared and what the classes are; "
            f"say also {', '.join(missing)}"
        )
    if takes_bytes and (spec.mean or spec.std):
        raise UsageError(f"{network.name} takes bytes and normalises them itself; drop --mean and --std")
    if not (spec.size or "").isdecimal() or not int(spec.size or 0):
        raise UsageError(
            f'{network.name} carries no cnnkit header; --size is the side of its input then, a number of pixels, not "{spec.size}"'
        )
    size = int(spec.size or 0)
    sides = network.shape[2:] if network.channels_first else network.shape[1:3]
    if any(side not in (None, size) for side in sides):
        raise UsageError(f"{network.name} takes {' x '.join(map(str, sides))} pixels, --size says {size}")
    plain = Preprocess(
        interpolation=spec.interpolation or Interpolation.BILINEAR,
        mean=parse_channels(spec.mean, option="--mean") or (0.0, 0.0, 0.0),
        std=parse_channels(spec.std, option="--std") or (1.0, 1.0, 1.0),
    )
    return preprocessing.with_size(plain, size=size, resize=spec.resize, fit=spec.fit)


def _tried(network: OnnxNetwork, preprocess: Preprocess) -> dict[str, NDArray[Any]]:
    """Run a network once, on four images from black to strong noise, and give all of its outputs that have a row for each."""
    size = preprocess.size
    noise = np.random.default_rng(0).uniform(0, 256, (4, size, size, 3)) * np.array([0, 1 / 3, 2 / 3, 1]).reshape(
        4, 1, 1, 1
    )
    try:
        predictions = network.run(noise.astype(np.uint8), network.session.outputs, preprocess=preprocess)
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(f"{network.name} does not run on {size} x {size} pixels: {reason}") from error
    pairs = zip(network.session.outputs, predictions, strict=True)
    return {name: prediction for name, prediction in pairs if prediction.ndim > 1 and len(prediction) == len(noise)}


def _are_probabilities(prediction: NDArray[Any], output: str, graph: GraphProto) -> bool:
    """Tell probabilities from logits: by the operator that they come from, else by whether they sum up to 1."""
    if _last_operator(graph, output) in ("Softmax", "Sigmoid", "HardSigmoid"):
        return True
    rows = prediction.reshape(len(prediction), -1).astype(np.float64)
    return rows.shape[1] > 1 and bool((rows >= 0).all()) and np.allclose(rows.sum(axis=1), 1, atol=_SUM_TOLERANCE)


def _last_operator(graph: GraphProto, output: str) -> str:
    """Name the last operator before an output that changes values."""
    made_by = {name: node for node in graph.node for name in node.output}
    node = made_by.get(output)
    while node is not None and node.op_type in _SHAPE_ONLY:
        node = made_by.get(node.input[0])
    return node.op_type if node is not None else ""
