"""Export of torch models to ONNX: one graph that includes normalization and softmax, written only if ONNX Runtime computes the same."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from cnnkit.callbacks import Callbacks
from cnnkit.choices import ColumnKind, ExportInput
from cnnkit.data import preprocessing, reader
from cnnkit.data.source import ImageFile
from cnnkit.engine import device_errors, exporter, torch_device
from cnnkit.engine.classifier_outputs import PREDICTED, ClassifierOutputs, HeadOutputs, changes_nothing
from cnnkit.engine.config import ExportConfig, check_backbone_weights, is_network_name
from cnnkit.engine.session import Session
from cnnkit.errors import BadImageError, CnnkitError, UsageError
from cnnkit.formats import labels, onnx_model, torch_model
from cnnkit.formats.header import ArtefactKind, Header, InputColumn, made_by
from cnnkit.formats.onnx_record import COLUMNS_INPUT, THRESHOLDS
from cnnkit.nets import classifier, named_network
from cnnkit.nets.classifier import Classifier, joined

if TYPE_CHECKING:
    from cnnkit.engine.export_int8 import LabelNetworkMeasures, NetworkMeasures

log = logging.getLogger("cnnkit")


#: Names of the dynamic axes of an input, by their positions.
BATCH_AXIS = {0: "batch"}
_MAP_AXES = ("batch", "channels", "height", "width")


def to_onnx(
    module: nn.Module,
    example: Tensor,
    *others: Tensor,
    inputs: str | Sequence[str],
    outputs: Sequence[str],
    opset: int | None = None,
    free: Mapping[int, str] = BATCH_AXIS,
) -> ModelProto:
    """Export a module; the axes in `free` and the first axis of the outputs and of further inputs are dynamic.

    Args:
        module: In eval mode.
        example: An input, as `exporter.graph` needs it.
        others: Further inputs.
        inputs: Name of the input, or of all.
        outputs: Names of the outputs.
        opset: The operator set; by default the exporter's own choice.
        free: Names of the input's dynamic axes, by their positions.

    Raises:
        CnnkitError: torch cannot export the module, or not with that operator set or those dynamic axes.
    """
    model = exporter.graph(module, example, *others, opset=opset, free=free)
    named = (inputs,) if isinstance(inputs, str) else inputs
    return _finished(model, inputs=named, outputs=outputs, opset=opset, free=free)


def joined_to_onnx(
    network: Classifier, example: Tensor, *columns: Tensor, outputs: Sequence[str], opset: int | None
) -> ModelProto:
    """Export a classifier in two pieces that are cached separately: another head on the same backbone exports only the head.

    Args:
        network: In eval mode; uint8 images of one size.
        example: Two images.
        columns: The codes of their columns, for a network that takes them.
        outputs: Names of the outputs: probabilities, logits and possibly features.
        opset: As `to_onnx`.

    Raises:
        CnnkitError: As `to_onnx`.
    """
    extractor = classifier.Extractor(network.base, preprocess=network.preprocess, pool=network.pool.pool).eval()
    with torch.no_grad():
        features = extractor(example)
    whole = exporter.join(
        exporter.graph(extractor, example, opset=opset, free=BATCH_AXIS),
        exporter.graph(
            HeadOutputs(network.head, network.columns, thresholds=network.thresholds).eval(),
            *(features, *columns),
            opset=opset,
            free=BATCH_AXIS,
        ),
    )
    del whole.graph.outputs[len(outputs) :]
    return _finished(whole, inputs=input_names("images", network), outputs=outputs, opset=opset, free=BATCH_AXIS)


def input_names(first: str, network: Classifier) -> tuple[str, ...]:
    """Return the names of the inputs of a network's graph: of its images or features, and of its columns."""
    return (first,) if network.columns is None else (first, COLUMNS_INPUT)


def _finished(
    model: onnx_ir.Model, *, inputs: Sequence[str], outputs: Sequence[str], opset: int | None, free: Mapping[int, str]
) -> ModelProto:
    """Name inputs and outputs and check the operator set."""
    for value, name in zip((*model.graph.inputs, *model.graph.outputs), (*inputs, *outputs), strict=True):
        value.name = name
    for value in list(model.graph.initializers.values()) if PREDICTED in outputs else ():
        if value.name is not None and value.name.rpartition(".")[2] == THRESHOLDS:
            value.name = THRESHOLDS
    proto: ModelProto = onnx_ir.to_proto(model)
    (written,) = {item.version for item in proto.opset_import if not item.domain}
    if opset not in (None, written):  # if the conversion fails, the exporter keeps its own choice
        raise CnnkitError(f"torch cannot export this network with opset {opset}; it wrote opset {written}")
    _name_axes(proto, free)
    return proto


def _name_axes(proto: ModelProto, free: Mapping[int, str]) -> None:
    """Name the dynamic axes of inputs and outputs, instead of the exporter's symbols (s34) and formulas.

    Raises:
        CnnkitError: One of them is not dynamic.
    """
    (given, *others), made = proto.graph.input, proto.graph.output
    for value, names in ((given, free), *((value, BATCH_AXIS) for value in (*others, *made))):
        axes = value.type.tensor_type.shape.dim
        for place, name in names.items():
            if axes[place].HasField("dim_value"):
                raise CnnkitError(
                    f"the exporter fixed the {name} of {value.name} to {axes[place].dim_value}; this network takes no other"
                )
            axes[place].dim_param = name
        for place, axis in enumerate(axes):
            if axis.dim_param and place not in names:
                axis.dim_param = f"{value.name}_{_MAP_AXES[place]}"
    del proto.graph.value_info[:]  # inner shapes have the old names; readers infer them again


def checked_bytes(proto: ModelProto, header: Header) -> bytes:
    """Check a graph and return the bytes to write, with the Header.

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
    """Difference between ONNX Runtime and torch on the same inputs; `top1_agreement` is None for features.

    `max_difference` is the largest difference of a probability or, if larger, of another output as a share of its largest value.
    """

    source: str
    batch: int
    rows: int
    max_difference: float
    top1_agreement: float | None


def compare(
    reference: Callable[..., tuple[Tensor, ...]],
    session: Session,
    batches: Iterator[NDArray[Any] | tuple[NDArray[Any], ...]],
    *,
    source: str,
    classes: bool,
) -> Parity:
    """Run torch and ONNX Runtime over the same batches.

    Args:
        reference: The exported module in torch. Differences of its first output are absolute, those of the others are shares of the
            output's largest value.
        session: The exported graph.
        batches: Inputs, one or more; the first axis is the batch.
        source: Name of the inputs, for the record.
        classes: Whether the first output holds probabilities: then equal top-1 classes are counted.

    Returns:
        The largest difference over all batches; infinite if a value is not finite.
    """
    largest, equal, rows, batch = 0.0, 0, 0, 0
    for drawn in batches:
        inputs = drawn if isinstance(drawn, tuple) else (drawn,)
        with torch.no_grad():
            result = reference(*map(torch.from_numpy, inputs))
        expected = [output.numpy() for output in (result if isinstance(result, tuple) else (result,))]
        found = session.run(dict(zip(session.inputs, inputs, strict=True)))
        for place, (wanted, got) in enumerate(zip(expected, found, strict=True)):
            if wanted.dtype == np.bool_:  # follows from the first output, except next to a threshold
                continue
            scale = max(1.0, float(np.abs(wanted).max(initial=0.0))) if place else 1.0
            difference = float(np.abs(wanted - got).max(initial=0.0)) / scale
            largest = max(largest, difference if np.isfinite(difference) else float("inf"))
        if classes:
            equal += int((expected[0].argmax(1) == found[0].argmax(1)).sum())
        batch = max(batch, len(inputs[0]))
        rows += len(inputs[0])
    return Parity(source, batch, rows, largest, equal / rows if classes and rows else None)


def random_inputs(shape: Sequence[int], dtype: np.dtype[Any], *, batch: int, seed: int = 0) -> NDArray[Any]:
    """Draw a batch: uint8 over its whole range, or floats with mean 0 and variance 1, as in normalized images and features."""
    generator = np.random.default_rng([seed, batch])
    if dtype == np.uint8:
        return generator.integers(0, 256, (batch, *shape), dtype=np.uint8)
    return generator.standard_normal((batch, *shape), dtype=np.float32)


def random_columns(columns: Sequence[InputColumn], *, batch: int, seed: int = 0) -> NDArray[np.float32]:
    """Draw codes of columns, (batch, columns): numbers distributed as in training, and categories, of which some were not in training."""
    generator = np.random.default_rng([seed, batch, 1])
    drawn = [
        generator.normal(column.mean, column.std, batch)
        if column.kind is ColumnKind.NUMBER
        else generator.integers(-1, len(column.categories), batch)
        for column in columns
    ]
    return np.stack(drawn, 1).astype(np.float32)


def with_columns(
    batches: Iterator[NDArray[Any]], columns: Sequence[InputColumn] | None
) -> Iterator[NDArray[Any] | tuple[NDArray[Any], ...]]:
    """Add random columns to batches of images or features, for a network that takes columns."""
    if columns is None:
        return batches
    return ((batch, random_columns(columns, batch=len(batch))) for batch in batches)


class WholeExport:
    """Export of a whole network: the module to export, and the one to compare it with."""

    input_name = "images"

    def __init__(self, network: Classifier, config: ExportConfig, columns: Sequence[InputColumn] | None = None) -> None:
        self.columns = columns
        self.normalised = config.input is ExportInput.FLOAT

        def outputs(*, half: bool) -> ClassifierOutputs:
            return ClassifierOutputs(
                network, normalised=self.normalised, features=config.features, cam=config.cam, half=half
            ).eval()

        self.network = network
        self.module = outputs(half=config.fp16)
        # Always in float32, so that the difference includes the effect of float16
        self.reference: nn.Module = outputs(half=False)
        self.size, self.channels = network.preprocess.size, network.preprocess.channels
        sides = (2, 3) if self.normalised else (1, 2)
        self.free = BATCH_AXIS | (dict(zip(sides, ("height", "width"), strict=True)) if config.dynamic_size else {})
        #: (height, width) of the example, and of other inputs for the comparison: 1.5 times as large, a rectangle, and odd sides.
        self.traced = (self.size + self.size // 2, self.size) if config.dynamic_size else None
        odd = self.size + 1 + self.size % 2
        self.others = [(self.traced[0], self.traced[0]), self.traced, (odd, odd)] if self.traced else []
        # Class activation maps and boxes need the backbone's maps; the other options change the backbone's graph anyway
        whole = network.box is not None or config.cam or config.fp16 or config.dynamic_size or self.normalised
        self.in_one_piece = whole or changes_nothing(network)

    def to_onnx(self, opset: int | None) -> ModelProto:
        """Export the network."""
        if not self.in_one_piece:
            return joined_to_onnx(self.network, *self.example(2), outputs=self.module.names, opset=opset)
        inputs, outputs = input_names(self.input_name, self.network), self.module.names
        return to_onnx(
            self.module, *self.example(2, self.traced), inputs=inputs, outputs=outputs, opset=opset, free=self.free
        )

    def example(self, batch: int, sides: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """Draw random inputs, by default of the network's own size."""
        height, width = sides or (self.size, self.size)
        shape = (self.channels, height, width) if self.normalised else (height, width, 3)
        dtype = np.dtype(np.float32 if self.normalised else np.uint8)
        return _example(random_inputs(shape, dtype, batch=batch), self.columns)


def _example(inputs: NDArray[Any], columns: Sequence[InputColumn] | None) -> tuple[Tensor, ...]:
    drawn = () if columns is None else (torch.from_numpy(random_columns(columns, batch=len(inputs))),)
    return (torch.from_numpy(inputs), *drawn)


class HeadExport:
    """Export of a head."""

    input_name = "features"
    normalised = False
    others: tuple[tuple[int, int], ...] = ()

    def __init__(self, network: Classifier, columns: Sequence[InputColumn] | None = None) -> None:
        self.network, self.columns = network, columns
        self.module = HeadOutputs(network.head, network.columns, thresholds=network.thresholds).eval()
        self.reference: nn.Module = self.module
        extractor = classifier.Extractor(network.base, preprocess=network.preprocess, pool=network.pool.pool).eval()
        self.shape = classifier.feature_shape(extractor, network.preprocess)

    def to_onnx(self, opset: int | None) -> ModelProto:
        """Export the head."""
        inputs = input_names(self.input_name, self.network)
        return to_onnx(self.module, *self.example(2), inputs=inputs, outputs=self.module.names, opset=opset)

    def example(self, batch: int, _sides: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """Draw random features."""
        return _example(random_inputs(self.shape, np.dtype(np.float32), batch=batch), self.columns)


def _check_box(name: str, config: ExportConfig) -> None:
    """Refuse what a network with a box cannot be exported as.

    Raises:
        UsageError: An option is given.
    """
    if config.dynamic_size:
        raise UsageError(f"{name} predicts a box, from all cells of a map of one size; drop --dynamic-size")
    if config.head_only:
        raise UsageError(f"{name} predicts a box, which needs the maps of the whole network; drop --head-only")
    if config.int8:
        raise UsageError(f"{name} predicts a box, whose error in int8 is not measured; drop --int8, or give --fp16")


def check_any_size(network: Classifier, header: Header, *, name: str) -> None:
    """Check that a network accepts images of any size.

    Raises:
        CnnkitError: A part of it needs a fixed size; the message names the part and the size.
    """
    size = network.preprocess.size
    larger = torch.zeros(1, 2 * size, 2 * size, 3, dtype=torch.uint8)
    fixed = f"{name} takes only images of {size}x{size}"
    remedy = "--dynamic-size needs global pooling (gap, or --pool avg) before the first dense layer"
    assert header.backbone is not None
    with torch.no_grad():
        try:
            maps = network.base(network.normalise(larger))
        except (AssertionError, RuntimeError) as error:
            if device_errors.is_out_of_memory(error):
                raise
            if header.backbone.whiten is not None:
                reason = f"it whitens images of that size ({header.backbone.whiten}); export it without --dynamic-size"
            elif header.backbone.notation is None:
                who = "it" if header.backbone.name == name else header.backbone.name
                reason = f"{who} is made for one size; --dynamic-size needs a backbone of convolutions"
            else:
                reason = f"its backbone ({header.backbone.notation}) reads flattened maps; {remedy}"
            raise CnnkitError(f"{fixed}: {reason}") from error
        drawn = None if header.columns is None else torch.from_numpy(random_columns(header.columns, batch=1))
        try:
            network.head(joined(network.pool(maps), network.columns, drawn))
        except RuntimeError as error:
            features = network.features(larger[:, :size, :size])
            shape = "x".join(map(str, features.shape[1:]))
            raise CnnkitError(f"{fixed}: its head ({header.head}) reads {shape} values of a map; {remedy}") from error


def takes_any_size(network: Classifier, header: Header) -> bool:
    """Return whether a network accepts images of any size."""
    try:
        check_any_size(network, header, name="the network")
    except CnnkitError:
        return False
    return True


def image_batches(
    verify: Iterable[ImageFile],
    network: Classifier,
    *,
    batch: int,
    jobs: int | None,
    normalised: bool,
    callbacks: Callbacks,
) -> Iterator[NDArray[Any]]:
    """Yield images in batches; the last one may be smaller, which tests one more batch size."""
    good: list[NDArray[np.uint8]] = []
    total = len(verify) if isinstance(verify, Sized) else None

    def stacked() -> NDArray[Any]:
        pixels = np.stack(good)
        return _normalised(pixels, network) if normalised else pixels

    done = 0
    ready = reader.read(verify, partial(preprocessing.load, preprocess=network.preprocess), jobs=jobs, ahead=2 * batch)
    for done, (image, loaded) in enumerate(ready, start=1):
        if isinstance(loaded, BadImageError):
            callbacks.skip(image.path, str(loaded))
            continue
        good.append(loaded)
        if len(good) == batch:
            yield stacked()
            callbacks.progress(done, total)
            good = []
    if good:
        yield stacked()
        callbacks.progress(done, total)


@dataclass(frozen=True, slots=True)
class Compared:
    """An exported network that agrees with torch: the bytes to write, its Header, and a record for each comparison."""

    content: bytes
    header: Header
    records: list[Parity]


def compared(
    network: Classifier,
    header: Header,
    config: ExportConfig,
    *,
    name: str,
    verify: Iterable[ImageFile] | None = None,
    verify_name: str = "images",
    callbacks: Callbacks | None = None,
) -> Compared:
    """Export a network, and compare ONNX Runtime with torch.

    Args:
        network: In eval mode.
        header: That of its `.pt`.
        config: What is exported.
        name: The file or the network, for messages.
        verify: As `export_model`.
        verify_name: As `export_model`.
        callbacks: As `export_model`.

    Raises:
        CnnkitError: As `export_model`.
        UsageError: As `export_model`.
    """
    callbacks = callbacks or Callbacks()
    if (config.features or config.head_only) and changes_nothing(network):
        raise CnnkitError(
            f"{name} does not end in a dense layer, so it has no head with features; drop "
            f"{'--features' if config.features else '--head-only'}"
        )
    if network.box is not None:
        _check_box(name, config)
    if header.columns is not None:
        _check_columns(config, header.columns, name=name)
    made = HeadExport(network, header.columns) if config.head_only else WholeExport(network, config, header.columns)
    if config.dynamic_size:
        check_any_size(network, header, name=name)
    header = header.but(kind=ArtefactKind.ONNX, made_by=header.made_by | made_by("torch", "onnx", "onnxscript"))
    content = checked_bytes(made.to_onnx(config.opset), header)
    session = Session(content, device=config.device, name=f"the exported {Path(name).name}")
    callbacks.phase("comparing on random images")
    records = _compare_random(made, session, batch=config.batch)
    if verify is not None:
        callbacks.phase("comparing on images")
        if header.columns is not None:
            log.info("comparing with random columns next to the images of %s", verify_name)
        pixels = image_batches(
            verify,
            network,
            batch=config.batch,
            jobs=config.jobs,
            normalised=made.normalised,
            callbacks=callbacks,
        )
        with torch_device.on_all_cores(made.reference) as reference:
            batches = with_columns(pixels, header.columns)
            record = compare(reference, session, batches, source=verify_name, classes=True)
        if not record.rows:
            raise CnnkitError(f"{verify_name}: no image could be used to compare on; nothing written")
        records.append(record)
    worst = max(records, key=lambda record: record.max_difference)
    if not worst.max_difference <= config.bound:
        raise CnnkitError(
            f"ONNX Runtime and torch differ by {worst.max_difference:.3g} on {worst.source} at batch {worst.batch}, "
            f"more than --tolerance {config.bound:g}; nothing written"
        )
    return Compared(content, header, records)


def _check_columns(config: ExportConfig, columns: Sequence[InputColumn], *, name: str) -> None:
    """Refuse options for a network that takes columns.

    Raises:
        UsageError: It would lack maps, or be calibrated on images without columns.
    """
    takes = f"{name} takes columns next to the image ({', '.join(column.name for column in columns)})"
    if config.cam:
        raise UsageError(
            f"{takes}, which a class activation map does not show; drop --cam, or train a head without --use"
        )
    if config.int8:
        raise UsageError(f"{takes}, and --int8 calibrates on images alone; use --fp16, or train a head without --use")


def _loaded(model: str, config: ExportConfig) -> tuple[Classifier, Header]:
    """Load a `.pt`, or a network by name, whose weights are kept if its features are exported: a head on these needs them again."""
    if not is_network_name(model):
        loaded = torch_model.load(model)
        return classifier.from_header(loaded.header, loaded.state, name=model, with_columns=True), loaded.header
    check_backbone_weights(config.weights)
    classes = None if config.labels is None else labels.load(config.labels)
    network, header = named_network.load(model, weights=config.weights, classes=classes)
    if classes is None:
        labels.note_assumed(model, config.weights, header.classes or ())
    if config.features and config.weights not in ("default", "none"):
        torch_model.keep_state_file(Path(config.weights))
    return network, header


def export_model(
    model: str | Path,
    output: str | Path,
    config: ExportConfig | None = None,
    *,
    verify: Iterable[ImageFile] | None = None,
    verify_name: str = "images",
    calibrate: Iterable[ImageFile] | None = None,
    calibrate_name: str = "images",
    callbacks: Callbacks | None = None,
) -> "list[Parity] | list[NetworkMeasures] | list[LabelNetworkMeasures]":
    """Export a model, compare ONNX Runtime with torch, and write the file only if they agree.

    With `config.int8`, the network that agreed is then quantized, and written only if its accuracy is high enough.

    Args:
        model: A `.pt`, or the name of a network.
        output: The `.onnx`.
        config: What is exported.
        verify: Images to compare on, in addition to random ones.
        verify_name: Their name in the record.
        calibrate: With `config.int8`: images of splits train, to calibrate on, and val, to measure accuracy on.
        calibrate_name: Their name in messages.
        callbacks: `skip` for every image that cannot be used, `progress` after every batch of images, `phase` for each step.

    Returns:
        One record per comparison: random inputs at batch 1, 2 and `batch`; with a dynamic size, random inputs of three other sizes; then
        the images. With `config.int8`, one record for the network in float32 and one for int8.

    Raises:
        CnnkitError: The difference is above the tolerance, the accuracy in int8 is too low, the graph is not valid, or the network needs a
            fixed size; nothing is written.
        UsageError: The options contradict each other.
    """
    config = (config or ExportConfig()).checked(
        model, output, verifies=verify is not None, calibrates=calibrate is not None
    )
    callbacks = callbacks or Callbacks()
    callbacks.phase("exporting")
    network, loaded = _loaded(str(model), config)
    made = compared(
        network, loaded, config, name=str(model), verify=verify, verify_name=verify_name, callbacks=callbacks
    )
    if calibrate is None:
        onnx_model.save(output, made.content)
        return made.records
    from cnnkit.engine import export_int8  # imports ONNX Runtime's quantizer, for --int8 only

    def arranged(pixels: NDArray[np.uint8]) -> NDArray[Any]:
        return _normalised(pixels, network) if config.input is ExportInput.FLOAT else pixels

    quantized, measures = export_int8.Int8Export(
        made.content,
        made.header,
        list(calibrate),
        config,
        name=str(model),
        source=calibrate_name,
        arranged=arranged,
        checked=checked_bytes,
        callbacks=callbacks,
    ).made()
    onnx_model.save(output, quantized)
    return measures


def _normalised(pixels: NDArray[np.uint8], network: Classifier) -> NDArray[np.float32]:
    """Return the input of a graph that takes normalized images: (N, H, W, 3) -> (N, 3, H, W)."""
    ready: NDArray[np.float32] = network.normalise(torch.from_numpy(pixels)).contiguous().numpy()
    return ready


def _compare_random(made: WholeExport | HeadExport, session: Session, *, batch: int) -> list[Parity]:
    """Compare on random inputs of several batch sizes and, with a dynamic size, several image sizes."""
    drawn = [("random", made.example(size)) for size in sorted({1, 2, batch})]
    drawn += [(f"random {sides[0]}x{sides[1]}", made.example(2, sides)) for sides in made.others]
    with torch_device.on_all_cores(made.reference) as reference:
        return [
            compare(reference, session, iter([tuple(each.numpy() for each in inputs)]), source=source, classes=True)
            for source, inputs in drawn
        ]
