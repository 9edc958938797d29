"""The shapes of the values of an ONNX graph by a run of ONNX Runtime, in a process of its own.

What a graph makes of memory and time is bounded, and one on which ONNX Runtime crashes ends that process alone, which runs `main`: it
reads a graph from one pipe, and writes shapes as JSON into another.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto
from onnx.helper import make_node, make_tensor_value_info

from cnnkit.nets.graph_standard import first_line

Shape = tuple[int, ...]

_MOST_BYTES = 4 << 30
_MOST_SECONDS = 60
_RESULT = "shape of value "
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from cnnkit.nets.graph_run import main; main()"


class RunError(Exception):
    """Why a graph did not run, in a few words."""


def shapes_by_running(
    model: ModelProto, names: Sequence[str], inputs: Mapping[str, tuple[int, Shape]]
) -> dict[str, Shape]:
    """Run a graph on zeros, and give the shapes of its values; nothing else of them is kept.

    Args:
        model: It is read only.
        names: The values.
        inputs: Element type and shape of every input.

    Raises:
        RunError: It does not run, or takes too much memory or time.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:], changed.graph.value_info[:]
    changed.graph.node.extend(make_node("Shape", [name], [f"{_RESULT}{place}"]) for place, name in enumerate(names))
    changed.graph.output.extend(
        make_tensor_value_info(f"{_RESULT}{place}", TensorProto.INT64, None) for place in range(len(names))
    )
    for value in changed.graph.input:
        if value.name in inputs:
            element, shape = inputs[value.name]
            value.CopyFrom(make_tensor_value_info(value.name, element, list(shape)))
    # -P, and cnnkit's own folder last: Python would look for modules in the current folder first, which may hold an onnx.py
    command = [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[2])]
    environment = {"ORT_DISABLE_TELEMETRY": "1", **os.environ}
    try:
        done = subprocess.run(
            command,
            input=changed.SerializeToString(),
            capture_output=True,
            timeout=_MOST_SECONDS,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(f"it takes more than {_MOST_SECONDS} seconds") from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise RunError("ONNX Runtime crashes on it") from error
    if "error" in answer:
        raise RunError(answer["error"])
    return dict(zip(names, map(tuple, answer["shapes"]), strict=True))


def main() -> None:
    """Run what the first pipe brings."""
    try:
        answer: dict[str, object] = {"shapes": _run(sys.stdin.buffer.read())}
    except Exception as error:  # onnxruntime's exceptions share no base class
        too_much = "bfc_arena" in str(error)
        answer = {"error": f"it takes more than {_MOST_BYTES >> 30} GB of memory" if too_much else first_line(error)}
    with os.fdopen(1, "wb", closefd=False) as pipe:
        pipe.write(json.dumps(answer).encode())


def _run(content: bytes) -> list[list[int]]:
    import numpy as np
    import onnxruntime
    from onnx.helper import tensor_dtype_to_np_dtype

    onnxruntime.set_default_logger_severity(4)
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({"max_mem": _MOST_BYTES}))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.use_env_allocators", "1")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    needed = {item.name for item in session.get_inputs()}
    zeros = {}
    for value in ModelProto.FromString(content).graph.input:
        kind = value.type.tensor_type
        if value.name in needed:
            shape = [side.dim_value for side in kind.shape.dim]
            zeros[value.name] = np.zeros(shape, tensor_dtype_to_np_dtype(kind.elem_type))
    run_options = onnxruntime.RunOptions()
    run_options.log_severity_level = 4
    return [shape.tolist() for shape in session.run(None, zeros, run_options)]
