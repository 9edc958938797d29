"""torch modules as ONNX graphs. torch's exporter runs once for each structure; its graph is cached without weights, which are filled in.

The exporter takes seconds, most of them in torch.export, which knows nothing of weights. A fine-tuned backbone, another head of the same
layers, or the same network after another training have the same structure. Whether the structure came from the cache or not, the same
steps follow, so that the bytes of an export do not depend on the cache.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import pickle
import sys
import warnings
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import NameFixPass
from torch import Tensor, fx, nn

from cnnkit.errors import CnnkitError
from cnnkit.formats import cache, onnx_model
from cnnkit.formats.header import made_by

#: The libraries whose version decides what the exporter writes.
_LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnx-ir", "onnxscript")

#: The packages that those versions describe, and built-in functions of Python.
_DESCRIBED = frozenset({"torch", "torchvision", "timm", "onnx", "onnx_ir", "onnxscript", "builtins", "_operator"})

#: Attributes of every module: its weights, submodules and hooks; and of a traced one, its graph, whose code is compared.
_OF_MODULES = frozenset(vars(nn.Module())) - {"training"} | {"_graph", "_tracer_cls"}


#: Layers whose output is a new tensor.
_FRESH = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)


class _NotComparableError(Exception):
    """Something that may decide what a network computes cannot be compared with that of another network."""


#: The inputs of a module: the first one, and others, whose first axis is dynamic.
Inputs = tuple[Tensor, ...]


def graph(
    module: nn.Module, example: Tensor, *others: Tensor, opset: int | None, free: Mapping[int, str]
) -> onnx_ir.Model:
    """Export a module; the axes in `free` are dynamic.

    Args:
        module: In eval mode.
        example: An input with at least two rows, since the exporter takes a single row for a constant. Its dynamic axes must differ in
            length, since the exporter takes equal lengths for always equal.
        others: Further inputs with as many rows, whose first axis is dynamic.
        opset: The operator set; by default the exporter's own choice.
        free: Names of the input's dynamic axes, by their positions.

    Raises:
        CnnkitError: torch cannot export the module, or not with those dynamic axes.
    """
    tensors = _tensors(module)
    model = onnx_ir.from_proto(
        onnx.load_model_from_string(_structure(module, (example, *others), tensors, opset, free))
    )
    for name, value in model.graph.initializers.items():
        if name in tensors:
            value.const_value = onnx_ir.Tensor(tensors[name].detach().contiguous().numpy(), name=name)
    program = torch.onnx.ONNXProgram(model, None)
    program.optimize()  # with the weights, since it multiplies batch normalization into them
    return program.model


def join(features: onnx_ir.Model, head: onnx_ir.Model) -> onnx_ir.Model:
    """Append a head to a graph that computes its first input; the outputs are those of the head, then the features."""
    whole = features.graph
    (given, *others), (made,) = head.graph.inputs, whole.outputs
    outputs = [*head.graph.outputs, made]
    head.graph.outputs.clear()
    head.graph.inputs.clear()
    whole.inputs.extend(others)
    onnx_ir.convenience.replace_all_uses_with(given, made)
    for value in list(head.graph.initializers.values()):
        assert value.name is not None
        del head.graph.initializers[value.name]
        while value.name in whole.initializers:
            value.name = f"head.{value.name}"
        whole.initializers[value.name] = value
    nodes = list(head.graph)
    head.graph.remove(nodes)
    whole.extend(nodes)
    whole.outputs[:] = outputs
    NameFixPass()(features)  # the exporter numbers values of both from 0
    return features


def _structure(
    module: nn.Module, example: Inputs, tensors: Mapping[str, Tensor], opset: int | None, free: Mapping[int, str]
) -> bytes:
    """Return the graph without weights, from the cache or from the exporter; without a cache, it is exported every time."""
    try:
        kept = cache.folder("graphs") / f"{_digest(module, example, tensors, opset, free)}.onnx"
        content = cache.find(kept)
    except (CnnkitError, OSError, _NotComparableError):  # not writable or readable, or there is no home directory
        return _exported(module, example, tensors, opset, free)
    if content is None:
        content = _exported(module, example, tensors, opset, free)
        with contextlib.suppress(CnnkitError, OSError):  # the disk may be full
            cache.keep(kept, content)
    return content


def _exported(
    module: nn.Module, example: Inputs, tensors: Mapping[str, Tensor], opset: int | None, free: Mapping[int, str]
) -> bytes:
    _, *others = example
    with warnings.catch_warnings(), _clamping(module):
        warnings.simplefilter("ignore")  # deprecations inside torch's exporter
        try:
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                external_data=False,
                dynamic_shapes=tuple(
                    dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in (free, *([0],) * len(others))
                ),
                opset_version=opset,
                verbose=False,
                optimize=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise CnnkitError(f"torch cannot export this network to ONNX: {_cause(error)}") from error
    assert program is not None
    proto = onnx_model.without_traces(program.model_proto)
    for tensor in proto.graph.initializer:
        if tensor.name in tensors:
            tensor.ClearField("raw_data")
    return proto.SerializeToString(deterministic=True)  # type: ignore[no-any-return] # protobuf ships no types


@contextlib.contextmanager
def _clamping(module: nn.Module) -> Iterator[None]:
    """Compute ReLU6 as a clamp that is not in place: torch's exporter takes two thirds of the time for MobileNetV2 then.

    Layers in place are changed only where nothing else reads their input.
    """
    layers = [
        layer
        for layer, before in _inputs(module).items()
        if type(layer) is nn.ReLU6 and (not layer.inplace or all(isinstance(each, _FRESH) for each in before))
    ]
    for layer in layers:
        layer.forward = functools.partial(torch.clamp, min=0.0, max=6.0)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _inputs(module: nn.Module) -> dict[nn.Module, list[nn.Module | None]]:
    """Return for each layer in a sequence or a traced graph the layers whose outputs only it reads; None for other inputs."""
    found: dict[nn.Module, list[nn.Module | None]] = {}
    for parent in module.modules():
        if isinstance(parent, fx.GraphModule):
            calls = {
                each: parent.get_submodule(str(each.target)) for each in parent.graph.nodes if each.op == "call_module"
            }
            for node, layer in calls.items():
                given = node.args[0] if node.args else None
                sole = isinstance(given, fx.Node) and len(given.users) == 1
                found.setdefault(layer, []).append(calls.get(given) if sole else None)
        elif type(parent).forward is nn.Sequential.forward:
            layers = list(parent.children())
            for before, layer in zip([None, *layers], layers, strict=False):
                found.setdefault(layer, []).append(before)
    return found


def _cause(error: Exception) -> str:
    """Return the first line of the exporter's error, which follows a page of advice for programmers."""
    lines = [line for line in str(error).partition("## Exception summary")[2].splitlines() if line.strip()]
    return lines[0] if lines else str(error).splitlines()[0]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, also those that are not in the state_dict; shared ones have all their names."""
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def _digest(
    module: nn.Module, example: Inputs, tensors: Mapping[str, Tensor], opset: int | None, free: Mapping[int, str]
) -> str:
    """Return a digest of everything that the exporter sees, except the values of weights.

    Raises:
        _NotComparableError: It has an attribute that cannot be described, or its source is not known.
    """
    modules = list(module.named_modules(remove_duplicate=False))
    seen = {
        "made_by": made_by(*_LIBRARIES),
        "sources": [_source(name) for name in (__name__, *sorted({type(part).__module__ for _, part in modules}))],
        "inputs": [[str(each.dtype), list(each.shape)] for each in example],
        "opset": opset,
        "free": sorted(free),
        "modules": [
            (
                path,
                f"{type(part).__module__}.{type(part).__qualname__}",
                sorted((name, _described(value)) for name, value in vars(part).items() if name not in _OF_MODULES),
                part.code if isinstance(part, fx.GraphModule) else None,
            )
            for path, part in modules
        ],
        "tensors": [(name, str(tensor.dtype), list(tensor.shape)) for name, tensor in tensors.items()],
    }
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:20]


def _described(value: Any) -> Any:  # noqa: ANN401 - an attribute of a module
    """Describe an attribute, which may decide what a module computes: numbers and texts, functions, tensors that are not weights."""
    if value is None or isinstance(value, bool | int | float | str | Enum | torch.dtype):
        return repr(value)
    if isinstance(value, Tensor):  # the exporter writes its values into the structure
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return [str(value.dtype), list(value.shape), hashlib.sha256(content).hexdigest()]
    if isinstance(value, Mapping):
        return [[_described(key), _described(each)] for key, each in value.items()]
    if isinstance(value, tuple | list):
        return [_described(each) for each in value]
    if isinstance(value, fx.Graph):  # of torchvision's extractors, for training and for use
        return value.python_code("self").src
    if isinstance(value, set | frozenset):
        return sorted((_described(each) for each in value), key=json.dumps)
    if isinstance(value, functools.partial):
        return [_described(each) for each in (value.func, value.args, value.keywords)]
    try:
        content = pickle.dumps(value)  # functions and classes by name; one within a function has none
    except Exception as error:  # pickle calls the methods of the value
        raise _NotComparableError from error
    named = value if hasattr(value, "__qualname__") else type(value)
    return [_source(named.__module__), hashlib.sha256(content).hexdigest()]


def _source(name: str | None) -> str:
    """Return the source of a Python module; nothing if a version of our libraries describes it.

    Raises:
        _NotComparableError: It has none, as what is typed into a notebook.
    """
    if name is not None and name.partition(".")[0] in _DESCRIBED:
        return ""
    try:
        return inspect.getsource(sys.modules[name or ""])
    except (KeyError, OSError, TypeError) as error:
        raise _NotComparableError from error
