"""The exported network `.onnx`: one file with weights, and the Header as the metadata entry `cnnkit`. Without torch."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped] # protobuf ships no types
from google.protobuf.message import Message  # type: ignore[import-untyped] # protobuf ships no types
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from cnnkit import files
from cnnkit.errors import FormatError
from cnnkit.formats import atomic, onnx_check
from cnnkit.formats.header import ArtefactKind, Header, PredictionSets
from cnnkit.formats.onnx_record import OnnxModel

KEY = "cnnkit"

#: A message of protobuf, and its fields that are set.
_Part = tuple[Message, list[tuple[FieldDescriptor, Any]]]

#: Name of the constant that holds a temperature in a graph.
_FACTOR = "inverse_temperature"

_LARGEST = 2**31 - 1


def load(path: str | Path) -> OnnxModel:
    """Read a network, without opening files that it refers to.

    Raises:
        FormatError: It is not an ONNX file, has weights in other files (a path in a model can point anywhere), or cannot be run.
        OSError: It cannot be read.
    """
    return checked(files.read_regular(path), name=str(path))


def checked(content: bytes, *, name: str) -> OnnxModel:
    """Check the bytes of a network, and read its Header.

    Raises:
        FormatError: As `load`.
    """
    proto, parts = _parsed(content, name=name)
    needs = onnx_check.check(proto, (part for part, _ in parts if isinstance(part, TensorProto)), name=name)
    texts = [entry.value for entry in proto.metadata_props if entry.key == KEY]
    header = Header.from_json(texts[0], name=name, kind=ArtefactKind.ONNX) if texts else None
    return OnnxModel(content, header, needs)


def parse(content: bytes, *, name: str) -> ModelProto:
    """Parse and check the bytes of an ONNX file.

    Raises:
        FormatError: As `load`.
    """
    return _parsed(content, name=name)[0]


def _parsed(content: bytes, *, name: str) -> tuple[ModelProto, list[_Part]]:
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError, whose class depends on the version
        raise FormatError(f"{name}: not an ONNX network, or truncated") from error
    if not proto.graph.node:
        raise FormatError(f"{name}: not an ONNX network, or an empty one")
    parts = _parts(proto)
    if _has_broken_text(parts):
        raise FormatError(f"{name}: contains text that is not UTF-8; is it damaged?")
    if _refers_to_other_files(parts):
        raise FormatError(
            f"{name}: its weights are in other files, which are not read; save it as one file: {_one_file(name)}"
        )
    return proto, parts


def _one_file(name: str) -> str:
    """Return a shell command that saves a network with its weights in one file; run it where all its files are."""
    source, whole = Path(name), Path(name).with_name(f"{Path(name).stem}-whole.onnx")
    return shlex.join(["python", "-c", f"import onnx; onnx.save(onnx.load({str(source)!r}), {str(whole)!r})"])


def _refers_to_other_files(parts: list[_Part]) -> bool:
    tensors = (part for part, _ in parts if isinstance(part, TensorProto))
    return any(tensor.data_location == TensorProto.EXTERNAL or tensor.external_data for tensor in tensors)


def _has_broken_text(parts: list[_Part]) -> bool:
    """Return whether a text is not UTF-8: protobuf returns it as bytes."""
    return any(
        isinstance(text, bytes)
        for _, fields in parts
        for field, value in fields
        if field.type == FieldDescriptor.TYPE_STRING
        for text in ([value] if isinstance(value, str | bytes) else value)
    )


def _parts(message: Message) -> list[_Part]:
    """List a message and all nested ones, in order: tensors are also in attributes, subgraphs, functions and sparse tensors."""
    found: list[_Part] = []
    waiting = [message]
    while waiting:
        part = waiting.pop()
        fields = part.ListFields()
        found.append((part, fields))
        inner: list[Message] = []
        for field, value in fields:
            if field.message_type is not None:
                inner.extend([value] if isinstance(value, Message) else value)
        waiting.extend(reversed(inner))
    return found


def without_traces(proto: ModelProto) -> ModelProto:
    """Remove what depends on the machine: the exporter writes stack traces with local paths into the metadata of nodes and values."""
    for part, _ in _parts(proto):
        for field in ("metadata_props", "doc_string"):
            if field in part.DESCRIPTOR.fields_by_name:
                part.ClearField(field)
    return proto


def finished(proto: ModelProto, header: Header) -> bytes:
    """Return the bytes to write: with the Header, and without anything that depends on the machine."""
    without_traces(proto)
    try:
        proto.metadata_props.add(key=KEY, value=header.to_json())
    except UnicodeEncodeError as error:
        raise FormatError(
            "a class name that is not UTF-8 cannot be stored in an ONNX file; rename the class and train again"
        ) from error
    if proto.ByteSize() > _LARGEST:
        raise FormatError("the network is larger than 2 GiB, the limit of an ONNX file")
    return proto.SerializeToString(deterministic=True)  # type: ignore[no-any-return] # protobuf ships no types


def tempered(model: OnnxModel, temperature: float, *, name: str) -> bytes:
    """Divide the logits of a classifier by a temperature in its graph, before the softmax.

    A node is added after the one that computes `logits`, so that every program that runs the file gets calibrated probabilities. A
    second temperature is multiplied into the same node.

    Args:
        model: A network with a Header, which records the product of all temperatures.
        temperature: Above 0; above 1 makes predictions less confident.
        name: The file, for messages.

    Returns:
        The bytes to write.

    Raises:
        FormatError: The network has no Header, or its output `probabilities` is not the softmax of its output `logits`.
    """
    header = check_ours(model, name=name, takes="a temperature")
    proto = parse(model.content, name=name)
    _divide_logits(proto.graph, temperature, name=name)
    whole = {**header.training, "temperature": header.temperature * temperature}
    return finished(proto, header.but(training=whole, sets=None))  # their threshold is for other probabilities


def with_sets(model: OnnxModel, sets: PredictionSets, *, name: str) -> bytes:
    """Add the threshold of prediction sets to the Header of a network, or replace it; the graph does not change.

    Args, Returns as `tempered`.

    Raises:
        FormatError: The network has no Header.
    """
    header = check_ours(model, name=name, takes="prediction sets")
    return finished(parse(model.content, name=name), header.but(sets=sets))


def check_ours(model: OnnxModel, *, name: str, takes: str) -> Header:
    """Return the Header of a network.

    Raises:
        FormatError: It has none.
    """
    if model.header is None:
        raise FormatError(f"{name}: not made by cnnkit; only models from cnn-export take {takes}")
    return model.header


def _divide_logits(graph: GraphProto, temperature: float, *, name: str) -> None:
    """Add a multiplication after the node that computes `logits`, or change the constant of an existing one."""
    gives = {output: (place, node) for place, node in enumerate(graph.node) for output in node.output}
    kinds = {output.name: output.type.tensor_type.elem_type for output in graph.output}
    if not ({"logits", "probabilities"} <= kinds.keys() & gives.keys() and "logits" in gives["probabilities"][1].input):
        raise FormatError(
            f"{name}: its probabilities are not the softmax of an output logits; export it again with cnn-export"
        )
    place, node = gives["logits"]
    if _FACTOR in node.input:
        (constant,) = (tensor for tensor in graph.initializer if tensor.name == _FACTOR)
        before = numpy_helper.to_array(constant)
        constant.CopyFrom(numpy_helper.from_array(np.asarray(before / temperature, before.dtype), _FACTOR))
        return
    factor = np.asarray(1 / temperature, helper.tensor_dtype_to_np_dtype(kinds["logits"]))
    node.output[list(node.output).index("logits")] = "logits_before_temperature"
    graph.initializer.append(numpy_helper.from_array(factor, _FACTOR))
    multiplied = helper.make_node("Mul", ["logits_before_temperature", _FACTOR], ["logits"], name="temperature")
    graph.node.insert(place + 1, multiplied)


def save(path: str | Path, content: bytes) -> None:
    """Write a network in one step."""
    with atomic.writing(path) as file:
        file.write(content)
