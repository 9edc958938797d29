"""Load and run an ONNX graph with ONNX Runtime, in a separate process: whether it runs, and the shapes of its values.

Memory and time of the process are limited, and a crash of ONNX Runtime ends only that process. It runs `main`, which reads a graph
from standard input and writes shapes as JSON to standard output. Large weights are replaced by zeros of their shapes.
"""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto, ValueInfoProto
from onnx.helper import make_node, make_tensor_value_info

from cnnkit.formats import onnx_errors
from cnnkit.nets.graph_nodes import MOST_VALUES, called, in_order

Shape = tuple[int, ...]

_MOST_BYTES = 4 << 30
_MOST_SECONDS = 60
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_RESULT = "shape of value "
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from cnnkit.nets.graph_run import main; main(run={run})"
_RUN = "running the network with ONNX Runtime"
_LIMIT = "which is the limit"


class GraphRunError(Exception):
    """A graph did not run.

    `refused`: the graph is invalid for ONNX Runtime; false where time, memory or an operator of this version is lacking.
    """

    def __init__(self, text: str, *, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


def shapes_by_running(
    model: ModelProto, names: Sequence[str], inputs: Mapping[str, tuple[int, Shape]], *, run: bool = True
) -> dict[str, Shape]:
    """Run a graph on zeros, and return the shapes of its values.

    Args:
        model: The graph; it is not changed.
        names: Names of the values.
        inputs: Element type and shape of every input.
        run: Whether to run the graph; otherwise it is only loaded, and the result is empty.

    Raises:
        GraphRunError: It does not load or run, or takes too much memory or time.
    """
    # -P, and cnnkit's own folder last: else Python would import from the current folder first, which may contain an onnx.py
    command = [sys.executable, "-P", "-c", _PROGRAM.format(run=run), str(Path(__file__).parents[2])]
    try:
        done = subprocess.run(
            command,
            input=_light(model, names, inputs).SerializeToString(),
            capture_output=True,
            timeout=_MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise GraphRunError(f"{_RUN} takes more than {_MOST_SECONDS} seconds, {_LIMIT}") from error
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        if done.returncode == -getattr(signal, "SIGKILL", 9):
            raise GraphRunError(
                f"{_RUN} was killed by the system, probably for lack of memory; it may take up to {_gigabytes()}"
            ) from error
        raise GraphRunError("ONNX Runtime crashes on it", refused=done.returncode < 0) from error
    if "error" in result:
        raise GraphRunError(result["error"], refused=result["refused"])
    return dict(zip(names, map(tuple, result["shapes"]), strict=True)) if run else {}


def _light(model: ModelProto, names: Sequence[str], inputs: Mapping[str, tuple[int, Shape]]) -> ModelProto:
    """Copy a model with its large weights replaced by inputs and, if there are names, only their shapes as outputs."""
    made = ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    graph, given = made.graph, model.graph
    graph.name = given.name
    graph.node.extend(given.node)
    graph.sparse_initializer.extend(given.sparse_initializer)
    large = {
        tensor.name: (tensor.data_type, tuple(tensor.dims))
        for tensor in given.initializer
        if tensor.data_type in _FLOATS and math.prod(tensor.dims) > MOST_VALUES
    }
    graph.initializer.extend(tensor for tensor in given.initializer if tensor.name not in large)
    fixed = large | dict(inputs)
    declared = {value.name: value for value in given.input}
    for name in declared | large:  # in old files, weights are inputs, too
        graph.input.append(make_tensor_value_info(name, *fixed[name]) if name in fixed else declared[name])
    if not names:
        graph.output.extend(given.output)
        return made
    graph.node.extend(make_node("Shape", [name], [f"{_RESULT}{place}"]) for place, name in enumerate(names))
    graph.output.extend(
        make_tensor_value_info(f"{_RESULT}{place}", TensorProto.INT64, None) for place in range(len(names))
    )
    return made


def _gigabytes() -> str:
    return f"{_MOST_BYTES >> 30} GB"


def main(*, run: bool) -> None:
    """Load a graph from standard input, run it, and write the shapes of its values to standard output."""
    model = ModelProto.FromString(sys.stdin.buffer.read())
    result: dict[str, object]
    try:
        result = {"shapes": _run(model, run=run)}
    except Exception as error:  # onnxruntime's exceptions share no base class
        if isinstance(error, MemoryError) or "bfc_arena" in str(error) or "bad_alloc" in str(error):
            result = {"error": f"{_RUN} takes more than {_gigabytes()} of memory, {_LIMIT}", "refused": False}
        else:
            refusal = onnx_errors.read(error, model.graph.node)
            node = "" if refusal.lacking or refusal.named else f"{_first_refused(model)}: "
            result = {
                "error": f"ONNX Runtime cannot run it: {node}{refusal.text}",
                "refused": not refusal.lacking,
            }
    with os.fdopen(1, "wb", closefd=False) as pipe:
        pipe.write(json.dumps(result).encode())


def _first_refused(model: ModelProto) -> str:
    """Find the node at which loading fails, if the error does not name it: the last node of the shortest graph that fails."""
    nodes = in_order(model.graph.node)
    loads, fails = 0, len(nodes)
    while fails - loads > 1:
        middle = (loads + fails) // 2
        part = ModelProto()
        part.CopyFrom(model)
        del part.graph.node[:], part.graph.output[:]
        part.graph.node.extend(nodes[:middle])
        part.graph.output.extend(ValueInfoProto(name=name) for name in nodes[middle - 1].output if name)
        try:
            _session(part)
        except Exception:  # as above
            fails = middle
        else:
            loads = middle
    return called(nodes[fails - 1])


def _session(model: ModelProto) -> Any:  # noqa: ANN401 - onnxruntime ships no types
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.use_env_allocators", "1")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def _run(model: ModelProto, *, run: bool) -> list[list[int]]:
    import numpy as np
    import onnxruntime
    from onnx.helper import tensor_dtype_to_np_dtype

    onnxruntime.set_default_logger_severity(4)
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({"max_mem": _MOST_BYTES}))
    session = _session(model)
    if not run:
        return []
    needed = {item.name for item in session.get_inputs()}
    zeros = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        if value.name in needed:
            shape = [side.dim_value for side in kind.shape.dim]
            zeros[value.name] = np.zeros(shape, tensor_dtype_to_np_dtype(kind.elem_type))
    wanted = [value.name for value in model.graph.output if value.name.startswith(_RESULT)]
    run_options = onnxruntime.RunOptions()
    run_options.log_severity_level = 4
    results = session.run(wanted or None, zeros, run_options)
    return [shape.tolist() for shape in results] if wanted else []
