"""The dimensions of a network by its name or file: an `.onnx` from its graph without torch, all others from torch modules."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cnnkit.errors import CnnkitError, UsageError
from cnnkit.nets import input_sizes
from cnnkit.nets.dims import DimsRow
from cnnkit.nets.input_sizes import InputSizes


def measure(
    network: str,
    *,
    size: Sequence[int] | None = None,
    bytes_per_value: int = 4,
    check: bool = True,
    near_zero: float | None = None,
) -> tuple[DimsRow, ...]:
    """Measure every layer of a network.

    Args:
        network: A `.onnx`, a `.pt` made by cnnkit, or the name of a network of torchvision or timm.
        size: Of its input, (height, width, channels); by default its own.
        bytes_per_value: Bytes for one value of a layer's output, of all images at once.
        check: Let ONNX Runtime judge a `.onnx`, in a process of its own.
        near_zero: Also count the weights of a file whose absolute value is at most this.

    Raises:
        UsageError: There is no such network, it does not take that size, or it has no weights to count.
        CnnkitError: The file does not exist, is not a network, or is one that ONNX Runtime refuses.
    """
    if near_zero is not None and not network.endswith((".pt", ".onnx")):
        raise UsageError(f"--zeros counts the weights of a .pt or .onnx file, and {network} is the name of a network")
    if network.endswith(".onnx"):
        from cnnkit.nets import graph_dims

        return graph_dims.measure_graph(
            network, size=size, bytes_per_value=bytes_per_value, check=check, near_zero=near_zero
        )
    _check_exists(network)

    from cnnkit.nets import module_dims  # torch takes seconds

    return module_dims.measure_network(network, size=size, bytes_per_value=bytes_per_value, near_zero=near_zero)


def _check_exists(network: str) -> None:
    if network.endswith(".pt") and not Path(network).exists():
        raise CnnkitError(f"{network}: no such model")


def find_input_sizes(network: str, *, size: Sequence[int] | None = None) -> tuple[InputSizes, ...]:
    """Find the sizes of images that a network takes.

    Args:
        network: As for `measure`.
        size: (height, width, channels) to start from; by default those that it was made for.

    Raises:
        UsageError: As for `measure`, or a `.onnx` leaves its size open, and none is given.
        CnnkitError: As for `measure`.
    """
    if size is not None and len(size) != 3:
        raise UsageError(f"{network} takes images, but --input is {size[0]}; give H,W,C")
    if network.endswith(".onnx"):
        from cnnkit.nets import graph_dims

        refusal, fixed = graph_dims.accepts(network, channels=size[2] if size else None)
        if None in fixed and size is None:
            raise UsageError(f"{network}: the size of its images is open; give one that it takes, --input H,W,C")
        given = size or (0, 0, 0)
        start = (given[0] or fixed[0] or 0, given[1] or fixed[1] or 0)
        reasons = tuple(None if side is None else "fixed in the file" for side in fixed)
        return input_sizes.find(refusal, start, name=network, fixed=(reasons[0], reasons[1]))
    _check_exists(network)

    from cnnkit.nets import module_dims

    if size is not None:
        module_dims.check_channels(network, size)
    refusal, start = module_dims.accepts(network, size)
    return input_sizes.find(refusal, (size[0], size[1]) if size else start, name=network)


def keras_names(network: str) -> Mapping[str, str]:
    """Return the names that Keras has for some layers of a network, by their names here; empty for other networks."""
    if network.endswith(".onnx"):
        return {}

    from cnnkit.nets import module_dims

    return module_dims.keras_names(network)
