"""ONNX networks in float16: which ones are, and how a float32 one becomes one. No torch."""

import onnx
from onnx import ModelProto, TensorProto

from cnnkit.errors import UsageError

#: What stays in float32: sums over exponentials, and what the converter itself leaves alone.
_KEPT = ("Softmax", "LogSoftmax", "Sigmoid", "Exp", "Log")


def is_half(content: bytes) -> bool:
    """Tell whether a network's weights are float16: those of two dimensions or more, with which it multiplies."""
    graph = onnx.load_model_from_string(content).graph
    return any(
        weight.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) and len(weight.dims) > 1
        for weight in graph.initializer
    )


def refused(name: str, reason: str) -> UsageError:
    """Give the error of a network that has no form in float16: the converter, or ONNX Runtime, does not take it."""
    return UsageError(f"{name} cannot be converted to float16 ({reason}); use --precision tf32")


def converted(content: bytes, *, name: str) -> bytes:
    """Give the same network with float16 weights and activations; its inputs and outputs keep their types.

    Outputs differ from float32's: the features of MobileNetV2, of some fifty layers, by 0.02 of the largest.

    Args:
        content: An ONNX file in float32.
        name: For messages.

    Raises:
        UsageError: The network cannot be converted.
    """
    from onnxruntime.transformers import float16  # here, since it takes a while to import

    proto: ModelProto = onnx.load_model_from_string(content)
    block = [*float16.DEFAULT_OP_BLOCK_LIST, *_KEPT]
    try:
        made: ModelProto = float16.convert_float_to_float16(proto, keep_io_types=True, op_block_list=block)
    except Exception as error:  # whatever the converter meets that it does not know
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise refused(name, reason) from error
    content_of_half: bytes = made.SerializeToString()
    return content_of_half
