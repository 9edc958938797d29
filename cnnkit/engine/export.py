"""From torch to ONNX: one graph with normalisation and probabilities inside, and the proof that both compute the same."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from cnnkit.choices import Pool
from cnnkit.engine.session import Session
from cnnkit.errors import CnnkitError
from cnnkit.formats import onnx_model
from cnnkit.formats.header import Header
from cnnkit.nets import build
from cnnkit.nets.build import Network
from cnnkit.nets.classifier import Classifier, class_logits

log = logging.getLogger("cnnkit")


class Answers(nn.Module):
    """A classifier with everything that its ONNX form gives: probabilities, logits and, on request, features and class maps."""

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
            classifier: Any; it is copied when `half` changes its weights.
            normalised: The input is float32 (N, 3, H, W), or grey (N, 1, H, W), already normalised, in place of uint8 (N, H, W, 3).
            features: Also give what the head reads.
            cam: Also give the class activation map (N, classes, h, w) of every class.
            half: Compute in float16 between input and outputs.

        Raises:
            CnnkitError: `cam` for a head whose map is no weighted sum of the base's maps.
        """
        super().__init__()
        self.classifier = copy.deepcopy(classifier) if half else classifier
        if half:  # normalisation stays: a scale of 1/255 would lose its last digits
            self.classifier.base.half()
            self.classifier.head.half()
        self.normalised, self.wants_features, self.wants_cam, self.half_inside = normalised, features, cam, half
        self.names = ["probabilities", "logits", *(["features"] if features else []), *(["cam"] if cam else [])]
        if cam:
            _check_maps(classifier)
            cam_weights(classifier)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Give the outputs in the order of `names`, all float32."""
        network = self.classifier
        pictures = images if self.normalised else network.normalise(images)
        maps = network.base(pictures.half() if self.half_inside else pictures)
        features = network.pool(maps)
        logits = class_logits(network.head(features).float())
        answers = [logits.softmax(1), logits]
        if self.wants_features:
            answers.append(features.float())
        if self.wants_cam:
            answers.append(nn.functional.conv2d(maps, cam_weights(network)[:, :, None, None].to(maps.dtype)).float())
        return tuple(answers)


class HeadAnswers(nn.Module):
    """The head alone: features in, probabilities and logits out."""

    names: tuple[str, ...] = ("probabilities", "logits")

    def __init__(self, head: Network) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Give probabilities and logits."""
        logits = class_logits(self.head(features))
        return logits.softmax(1), logits


def _check_maps(classifier: Classifier) -> None:
    """Refuse a base that ends in a vector, which says nothing about places."""
    size, channels = classifier.preprocess.size, classifier.preprocess.channels
    with torch.no_grad():
        shape = tuple(classifier.base(torch.zeros(1, channels, size, size)).shape[1:])
    if len(shape) != 3:
        raise CnnkitError(
            f"a class activation map needs a base that ends in a map; this one ends in a vector of {shape[0]}. "
            "Extract with a --layer that has height and width"
        )


def cam_weights(classifier: Classifier) -> Tensor:
    """Give the weights (classes, C) that sum the base's maps up to class activation maps.

    Source: Zhou, Khosla, Lapedriza, Oliva, Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016.

    Raises:
        CnnkitError: The head is not one dense layer behind global average pooling.
    """
    # What changes nothing: dropout when it is not trained, flatten on a vector
    parts = [part for part in classifier.head if not isinstance(part, nn.Dropout | nn.Identity | nn.Flatten)]
    averaged = classifier.pool.pool is Pool.AVG
    if classifier.pool.pool is Pool.NONE and parts and isinstance(parts[0], build.GlobalPool) and not parts[0].largest:
        averaged, parts = True, parts[1:]
    if not averaged or len(parts) != 1 or not isinstance(parts[0], nn.Linear):
        raise CnnkitError(
            "a class activation map in the graph needs global average pooling and one dense layer; this model has "
            f"pool {classifier.pool.pool} and {', '.join(type(part).__name__ for part in parts)} behind it. "
            "cnn-train-head without --head, on features with --pool avg, makes such a model"
        )
    weight = parts[0].weight
    return (
        torch.cat([-weight, weight]) if weight.shape[0] == 1 else weight
    )  # one sigmoid: what speaks for the second class


#: What the free axes of an input are called, by their places.
BATCH = {0: "batch"}
_MAP_AXES = ("batch", "channels", "height", "width")


def to_onnx(
    module: nn.Module,
    example: Tensor,
    *,
    inputs: str,
    outputs: Sequence[str],
    opset: int | None = None,
    free: Mapping[int, str] = BATCH,
) -> ModelProto:
    """Export a module with one input; the first axis of inputs and outputs is free, and what else is said.

    Args:
        module: In eval mode.
        example: An input with two rows at least: one row would be taken for a constant. Along free axes it has different lengths:
            equal ones would be taken for equal in every input.
        inputs: Name of the input.
        outputs: Names of the outputs.
        opset: The operator set; the exporter's own choice unless said.
        free: The input's free axes by their places, and what they are called.

    Raises:
        CnnkitError: torch cannot export the module, or not with that operator set or those free axes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's deprecations inside torch are not ours to mend
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                external_data=False,
                dynamic_shapes=(dict.fromkeys(free, torch.export.Dim.DYNAMIC),),
                input_names=[inputs],
                output_names=list(outputs),
                opset_version=opset,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise CnnkitError(f"torch cannot export this network to ONNX: {_cause(error)}") from error
    assert program is not None
    proto: ModelProto = program.model_proto
    (written,) = {item.version for item in proto.opset_import if not item.domain}
    if opset not in (None, written):  # where a conversion fails, the exporter keeps its own choice
        raise CnnkitError(f"torch cannot export this network with opset {opset}; it gave {written}")
    _name_axes(proto, free)
    return proto


def _cause(error: Exception) -> str:
    """Give the first line of what stopped the exporter, which it puts behind its advice for programmers."""
    lines = [line for line in str(error).partition("## Exception summary")[2].splitlines() if line.strip()]
    return lines[0] if lines else str(error).splitlines()[0]


def _name_axes(proto: ModelProto, free: Mapping[int, str]) -> None:
    """Call the free axes by their names, in place of the exporter's s34 and of its formulas for what becomes of them.

    Raises:
        CnnkitError: One of them is not free.
    """
    (given,), made = proto.graph.input, proto.graph.output
    for value, names in ((given, free), *((value, BATCH) for value in made)):
        axes = value.type.tensor_type.shape.dim
        for place, name in names.items():
            if axes[place].HasField("dim_value"):
                raise CnnkitError(
                    f"the exporter fixed the {name} of {value.name} to {axes[place].dim_value}; this network cannot take any"
                )
            axes[place].dim_param = name
        for place, axis in enumerate(axes):
            if axis.dim_param and place not in names:
                axis.dim_param = f"{value.name}_{_MAP_AXES[place]}"
    del proto.graph.value_info[:]  # the shapes in between repeat the old names, and every reader infers them anew


def finished(proto: ModelProto, header: Header) -> bytes:
    """Check a graph and give the bytes to write, Header inside.

    Raises:
        CnnkitError: onnx.checker refuses the graph.
    """
    content = onnx_model.finished(proto, header)
    try:
        onnx.checker.check_model(content, full_check=True)
    except onnx.checker.ValidationError as error:
        raise CnnkitError(f"the exported graph is not valid ONNX: {str(error).splitlines()[0]}") from error
    return content


@dataclass(frozen=True, slots=True)
class Parity:
    """How far ONNX Runtime and torch are apart on the same inputs; `top1_agreement` is None for features.

    `max_difference` is that of probabilities or, where it is larger, that of another output as a share of its largest value.
    """

    source: str
    batch: int
    rows: int
    max_difference: float
    top1_agreement: float | None


def compare(
    reference: Callable[[Tensor], tuple[Tensor, ...]],
    session: Session,
    batches: Iterator[NDArray[Any]],
    *,
    source: str,
    classes: bool,
) -> Parity:
    """Run torch and ONNX Runtime over the same batches.

    Args:
        reference: What was exported, with the same outputs; the first one is compared as it is, the others, which have scales
            of their own, as shares of their largest value.
        session: The exported graph.
        batches: Inputs, the first axis a batch of any size.
        source: What the inputs are, for the record.
        classes: The first output holds probabilities: count equal top-1 answers.

    Returns:
        The largest difference over all batches. A value that is not a number counts as an infinite difference.
    """
    (name,) = session.inputs
    largest, equal, rows, batch = 0.0, 0, 0, 0
    for inputs in batches:
        with torch.no_grad():
            answer = reference(torch.from_numpy(inputs))
        expected = [output.numpy() for output in (answer if isinstance(answer, tuple) else (answer,))]
        found = session.run({name: inputs})
        for place, (wanted, got) in enumerate(zip(expected, found, strict=True)):
            scale = max(1.0, float(np.abs(wanted).max(initial=0.0))) if place else 1.0
            difference = float(np.abs(wanted - got).max(initial=0.0)) / scale
            largest = max(largest, difference if np.isfinite(difference) else float("inf"))
        if classes:
            equal += int((expected[0].argmax(1) == found[0].argmax(1)).sum())
        batch = max(batch, len(inputs))
        rows += len(inputs)
    return Parity(source, batch, rows, largest, equal / rows if classes and rows else None)


def random_inputs(shape: Sequence[int], dtype: np.dtype[Any], *, batch: int, seed: int = 0) -> NDArray[Any]:
    """Draw a batch: uint8 over its whole range, or floats as normalised pictures and features have them."""
    generator = np.random.default_rng([seed, batch])
    if dtype == np.uint8:
        return generator.integers(0, 256, (batch, *shape), dtype=np.uint8)
    return generator.standard_normal((batch, *shape), dtype=np.float32)
