"""The dimensions of a network by its name or file: an `.onnx` from its graph without torch, all others from torch modules."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cnnkit.errors import CnnkitError
from cnnkit.nets.dims import DimsRow


def measure(
    network: str, *, size: Sequence[int] | None = None, bytes_per_value: int = 4, check: bool = True
) -> tuple[DimsRow, ...]:
    """Measure every layer of a network.

    Args:
        network: A `.onnx`, a `.pt` made by cnnkit, or the name of a network of torchvision or timm.
        size: Of its input, (height, width, channels); by default its own.
        bytes_per_value: Bytes for one value of a layer's output, of all images at once.
        check: Let ONNX Runtime judge a `.onnx`, in a process of its own.

    Raises:
        UsageError: There is no such network, or it does not take that size.
        CnnkitError: The file does not exist, is not a network, or is one that ONNX Runtime refuses.
    """
    if network.endswith(".onnx"):
        from cnnkit.nets import graph_dims

        return graph_dims.measure_graph(network, size=size, bytes_per_value=bytes_per_value, check=check)
    if network.endswith(".pt") and not Path(network).exists():
        raise CnnkitError(f"{network}: no such model")

    from cnnkit.nets import module_dims  # torch takes seconds

    return module_dims.measure_network(network, size=size, bytes_per_value=bytes_per_value)


def keras_names(network: str) -> Mapping[str, str]:
    """Return the names that Keras has for some layers of a network, by their names here; empty for other networks."""
    if network.endswith(".onnx"):
        return {}

    from cnnkit.nets import module_dims

    return module_dims.keras_names(network)
