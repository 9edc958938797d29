"""ONNX networks in float16: detection, and conversion from float32. Imports no torch."""

import onnx
from onnx import ModelProto, TensorProto

from cnnkit.engine import novelty_graph
from cnnkit.errors import UsageError

#: Operators that stay in float32 because they involve exponentials, in addition to the converter's own list.
_KEPT = ("Softmax", "LogSoftmax", "Sigmoid", "Exp", "Log")


def is_half(content: bytes) -> bool:
    """Return whether a network's weights (initializers of two dimensions or more) are float16 or bfloat16."""
    graph = onnx.load_model_from_string(content).graph
    return any(
        weight.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) and len(weight.dims) > 1
        for weight in graph.initializer
    )


def refused(name: str, reason: str) -> UsageError:
    """Return the error of a network that the converter, or ONNX Runtime, does not accept in float16."""
    return UsageError(f"{name} cannot be converted to float16 ({reason}); use --precision tf32")


def converted(content: bytes, *, name: str) -> bytes:
    """Convert a network to float16 weights and activations; its inputs and outputs keep their types.

    Outputs differ from those in float32: features of MobileNetV2, of some fifty layers, by 0.02 of the largest.

    Args:
        content: An ONNX file in float32.
        name: For messages.

    Raises:
        UsageError: The network cannot be converted.
    """
    from onnxruntime.transformers import float16  # slow to import

    proto: ModelProto = onnx.load_model_from_string(content)
    block = [*float16.DEFAULT_OP_BLOCK_LIST, *_KEPT]
    try:
        # A novelty stays in float32: in float16, it would have no more than two digits
        bare = novelty_graph.without(proto)
        made: ModelProto = float16.convert_float_to_float16(bare, keep_io_types=True, op_block_list=block)
        novelty_graph.append(made, proto)
    except Exception as error:  # the converter raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise refused(name, reason) from error
    content_of_half: bytes = made.SerializeToString()
    return content_of_half
