"""Work out output sizes, parameters and costs of layers and of whole networks, before anything is trained."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.nets import dims, dims_pipe
from cnnkit.nets.dims import Dtype


@cli.command
def main(
    network: Annotated[
        str | None,
        cli.Argument(
            metavar="NETWORK", show_default=False, help="A network: vgg16, resnet50, ..., model.pt, model.onnx."
        ),
    ] = None,
    given: Annotated[
        str | None, cli.Option("--input", metavar="H,W,C", help="Size of the input; a single number for a vector.")
    ] = None,
    layers: Annotated[
        str | None, cli.Option("--layers", metavar="NOTATION", help="Layers by notation, or @FILE with them.")
    ] = None,
    filters: Annotated[
        int | None, cli.Option("--filters", metavar="N", min=1, help="A convolution with so many filters.")
    ] = None,
    pool: Annotated[str | None, cli.Option("--pool", metavar="K", help="Max pooling with windows K or HxW.")] = None,
    avgpool: Annotated[str | None, cli.Option("--avgpool", metavar="K", help="Average pooling, likewise.")] = None,
    dense: Annotated[
        int | None, cli.Option("--dense", metavar="N", min=1, help="A dense layer with so many units.")
    ] = None,
    kernel: Annotated[
        str | None, cli.Option("--kernel", "--k", metavar="K", help="Kernel of the convolution, K or HxW.")
    ] = None,
    stride: Annotated[
        str | None, cli.Option("--stride", "--s", metavar="S", help="S or HxW. [default: 1; for pools, the window]")
    ] = None,
    pad: Annotated[
        str | None, cli.Option("--pad", metavar="same|valid|N", help="N pixels on each side. [default: valid]")
    ] = None,
    dilation: Annotated[
        str | None, cli.Option("--dilation", metavar="D", help="Dilation of the convolution, D or HxW. [default: 1]")
    ] = None,
    groups: Annotated[
        int | None, cli.Option("--groups", metavar="N", min=1, help="Groups of channels. [default: 1]")
    ] = None,
    no_bias: Annotated[bool, cli.Option("--no-bias", help="Without biases.")] = False,
    batch: Annotated[
        int | None,
        cli.Option("--batch", metavar="N", min=1, help="Pictures at once, for activation_bytes. [default: 1]"),
    ] = None,
    dtype: Annotated[
        Dtype | None, cli.Option("--dtype", help="Type of activations, for activation_bytes. [default: float32]")
    ] = None,
    explain: Annotated[
        bool, cli.Option("--explain", help="The formulas with the numbers in, instead of the table.")
    ] = False,
    as_json: cli.options.Json = False,
    max_params: Annotated[
        int | None, cli.Option("--max-params", metavar="N", min=0, help="Exit 4 if there are more parameters.")
    ] = None,
    max_macs: Annotated[
        int | None, cli.Option("--max-macs", metavar="N", min=0, help="Exit 4 if there are more MACs.")
    ] = None,
) -> None:
    """Work out output sizes, parameters and costs of layers, before anything is trained.

    One layer by its flags, many by --layers, or a network by name. Without --input, the table that another cnn-dims wrote is
    read from standard input; what is given here goes behind it.

    params: weights and biases. macs: multiply-accumulates for one picture, biases left out. receptive_field, stride: in pixels
    of the first input. activation_bytes: the output of the whole batch. dropped: pixels of the layer's input that no window
    reads, because the last one does not fit.

    Examples:
      cnn-dims --input 128,128,3 --filters 32 --k 3 --s 2 --pad same
      cnn-dims --input 128,128,3 --filters 32 --k 3 --s 2 --pad same --explain
      cnn-dims --input 32,32,3 --layers "conv 16 k2 same relu, pool 2, flatten, dense 10 softmax"
      cnn-dims --input 200,200,1 --filters 16 --k 2 --s 2 | cnn-dims --filters 32 --k 3 --pad same | cnn-dims --pool 2
      cnn-dims vgg16 --batch 32 --dtype float16
      cnn-dims model.onnx --max-params 5000000 --json | jq .params
    """
    makers = {"conv": filters, "pool": pool, "avgpool": avgpool, "dense": dense}
    options = {"k": kernel, "s": stride, "p": pad, "d": dilation, "g": groups, "nobias": "" if no_bias else None}
    text = _written(makers, options, layers)
    if (text is None) == (network is None):
        raise UsageError("give a network, or layers by --layers, --filters, --pool, --avgpool or --dense")
    if explain and (network or as_json):
        raise UsageError("--explain writes out layers as text; it goes with neither a network nor --json")
    size = dims_pipe.size(given) if given else None
    scale = (batch or 1) * (dtype or Dtype.float32).bytes if batch or dtype else None

    keras: Mapping[str, str] = {}
    if network is not None:
        rows, keras = _network(network, size, scale or Dtype.float32.bytes)
    else:
        chain = _stage(text or "", size, scale)
        rows = chain.rows()
    total = dims.total(rows)
    bounds = {"params": (total.params, max_params), "macs": (total.macs, max_macs)}
    with cli.gated({}, at_most={name: (value, bound) for name, (value, bound) in bounds.items() if bound is not None}):
        if explain:
            cli.emit_lines(chain.formulas(batch=batch or 1))
        elif as_json:
            cli.emit((*rows, total), as_json=True)
        else:
            cli.emit(dims_pipe.records((*rows, total), keras=keras))


def _written(
    makers: Mapping[str, str | int | None], options: Mapping[str, str | int | None], layers: str | None
) -> str | None:
    """Put the flags of one layer into the notation, so that there is one grammar and one arithmetic."""
    made = {kind: number for kind, number in makers.items() if number is not None}
    said = {letter: value for letter, value in options.items() if value is not None}
    if len(made) + (layers is not None) > 1:
        raise UsageError("one layer at a time; for more give --layers, or a pipe of cnn-dims")
    if not made:
        if said:
            raise UsageError("the flags of a layer are given without one; add --filters, --pool, --avgpool or --dense")
        return layers
    ((kind, number),) = made.items()
    if kind == "conv" and "k" not in said:
        raise UsageError(f"--filters {number} wants the size of a kernel; give --k")
    if (pad := said.get("p")) is not None and not re.fullmatch("same|valid|[0-9]+", str(pad)):
        raise UsageError(f'--pad is same, valid or a number of pixels, not "{pad}"')
    words = [str(value) if value in ("same", "valid") else f"{letter}{value}" for letter, value in said.items()]
    return " ".join([kind, str(number), *words])


def _stage(text: str, size: tuple[int, ...] | None, scale: int | None) -> dims_pipe.DimsStage:
    """Start from the size that is given, else from what the stage before prints; with a size, nothing is read."""
    if size is not None:
        return dims_pipe.first(text, size, bytes_per_value=scale or Dtype.float32.bytes)
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "no --input, and standard input is a terminal; give --input H,W,C, or pipe a table of cnn-dims in"
        )
    return dims_pipe.later(text, sys.stdin.buffer, name="standard input", bytes_per_value=scale)


def _network(name: str, size: tuple[int, ...] | None, scale: int) -> tuple[tuple[dims.DimsRow, ...], Mapping[str, str]]:
    """Measure a network, and find the names that Keras has for its layers. An .onnx is read without torch."""
    if name.endswith(".onnx"):
        from cnnkit.nets import graph_dims

        return graph_dims.measure_graph(name, size=size, bytes_per_value=scale), {}
    if name.endswith(".pt") and not Path(name).exists():
        raise CnnkitError(f"{name}: no such model")

    from cnnkit.nets import module_dims  # torch takes seconds

    return module_dims.measure_network(name, size=size, bytes_per_value=scale), module_dims.keras_names(name)


if __name__ == "__main__":
    main()
