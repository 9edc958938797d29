"""Layer arithmetic, as cnn-dims does it: output sizes, parameters, operations, receptive fields. No torch, except for networks by name."""

import operator
import os
from collections.abc import Sequence

from cnnkit.api.calls import choice, public
from cnnkit.errors import UsageError
from cnnkit.nets import dims, dims_pipe
from cnnkit.nets.dims import DimsRow, Dtype
from cnnkit.nets.network_dims import measure
from cnnkit.option_fields import check_range

#: The largest number in a size.
_MOST = 999_999_999


@public
def layer_dims(layers: str, input: Sequence[int], *, batch: int = 1, dtype: str = "float32") -> tuple[DimsRow, ...]:
    """Work out the dimensions of layers in the notation, before they are built.

    Args:
        layers: For example "conv 32 k3 s2 relu, pool 2, flatten, dense 10", or @FILE.
        input: (height, width, channels), or (units,) of a vector.
        batch: Images at once, for `activation_bytes`.
        dtype: Type of activations, for `activation_bytes`.

    Returns:
        One row a layer.

    Raises:
        NotationError: A word of the notation means nothing.
        UsageError: A layer does not fit its input.
    """
    return dims_pipe.first(layers, _size(input), bytes_per_value=_bytes(batch, dtype)).rows()


@public
def network_dims(
    network: str | os.PathLike[str], *, input: Sequence[int] | None = None, batch: int = 1, dtype: str = "float32"
) -> tuple[DimsRow, ...]:
    """Work out the dimensions of the layers of a network.

    Args:
        network: A .onnx, which is measured without torch; a .pt made by cnnkit; or the name of a network of torchvision or timm.
        input: (height, width, channels); by default its own.
        batch: As for `layer_dims`.
        dtype: As for `layer_dims`.

    Returns:
        One row a layer.

    Raises:
        UsageError: There is no such network, or it does not take that size.
        FormatError: The file is not a network.
    """
    size = None if input is None else _size(input)
    return measure(os.fspath(network), size=size, bytes_per_value=_bytes(batch, dtype))


@public
def total_dims(rows: Sequence[DimsRow]) -> DimsRow:
    """Sum up parameters, operations and bytes over layers; the output is that of the last one.

    Raises:
        UsageError: There are no rows.
    """
    if not rows:
        raise UsageError("no layers to sum up")
    return dims.total(rows)


def _size(sides: Sequence[int]) -> tuple[int, ...]:
    try:
        found = [operator.index(each) for each in sides]
    except TypeError:  # not a sequence, or not of whole numbers
        found = []
    if len(found) not in (1, 3) or not all(0 <= each <= _MOST for each in found):
        raise UsageError(f"input={sides!r}: give (height, width, channels), or (units,) of a vector")
    return dims_pipe.size(",".join(map(str, found)))


def _bytes(batch: int, dtype: str) -> int:
    check_range("batch", batch, minimum=1)
    return batch * choice(Dtype, dtype, "dtype").bytes
