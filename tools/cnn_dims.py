"""Work out output sizes, parameters and costs of layers and of whole networks, before anything is trained."""

import sys
from collections.abc import Mapping
from typing import Annotated

from cnnkit import cli
from cnnkit.errors import UsageError
from cnnkit.nets import dims, dims_pipe, network_dims
from cnnkit.nets.dims import Dtype
from cnnkit.nets.dims_pipe import DimsConfig


@cli.command
def main(
    network: Annotated[
        str | None,
        cli.Argument(
            metavar="NETWORK", show_default=False, help="A network: vgg16, resnet50, ..., model.pt, model.onnx."
        ),
    ] = None,
    *,
    config: DimsConfig,
    explain: Annotated[
        bool, cli.Option("--explain", help="The formulas with the numbers in, instead of the table.")
    ] = False,
    as_json: cli.options.Json = False,
) -> None:
    """Work out output sizes, parameters and costs of layers, before anything is trained.

    One layer by its flags, many by --layers, or a network by name. Without --input, the table that another cnn-dims wrote is
    read from standard input; what is given here goes behind it.

    params: weights and biases. macs: multiply-accumulates for one image, biases left out. receptive_field, stride: in pixels
    of the first input, whose size is image; no field is larger, and it is empty where it cannot be told (attention, upsampling).
    activation_bytes: the output of the whole batch. dropped: pixels of the layer's input that no window reads, because the
    last one does not fit.

    An .onnx may be quantised or optimised by ONNX Runtime: its weights and biases count, its scales and zero points do not. What
    ONNX Runtime refuses to load or run has no totals.

    Examples:
      cnn-dims --input 128,128,3 --filters 32 --k 3 --s 2 --pad same
      cnn-dims --input 128,128,3 --filters 32 --k 3 --s 2 --pad same --explain
      cnn-dims --input 32,32,3 --layers "conv 16 k2 same relu, pool 2, flatten, dense 10 softmax"
      cnn-dims --input 200,200,1 --filters 16 --k 2 --s 2 | cnn-dims --filters 32 --k 3 --pad same | cnn-dims --pool 2
      cnn-dims vgg16 --batch 32 --dtype float16
      cnn-dims model.onnx --max-params 5000000 --json | jq .params
    """
    text = config.notation()
    if (text is None) == (network is None):
        raise UsageError("give a network, or layers by --layers, --filters, --pool, --avgpool or --dense")
    if explain and (network or as_json):
        raise UsageError("--explain writes out layers as text; it goes with neither a network nor --json")
    size, scale = config.size(), config.bytes_per_value

    keras: Mapping[str, str] = {}
    if network is not None:
        rows = network_dims.measure(network, size=size, bytes_per_value=scale or Dtype.float32.bytes)
        keras = network_dims.keras_names(network)
    else:
        chain = _stage(text or "", size, scale)
        rows = chain.rows()
    total = dims.total(rows)
    with cli.gated({}, at_most=config.gates(total)):
        if explain:
            cli.emit_lines(chain.formulas(batch=config.batch or 1))
        elif as_json:
            cli.emit((*rows, total), as_json=True)
        else:
            cli.emit(dims_pipe.records((*rows, total), keras=keras))


def _stage(text: str, size: tuple[int, ...] | None, scale: int | None) -> dims_pipe.DimsStage:
    """Start from the size that is given, else from what the stage before prints; with a size, nothing is read."""
    if size is not None:
        return dims_pipe.first(text, size, bytes_per_value=scale or Dtype.float32.bytes)
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "no --input, and standard input is a terminal; give --input H,W,C, or pipe a table of cnn-dims in"
        )
    return dims_pipe.later(text, cli.stdin(), name="standard input", bytes_per_value=scale)


if __name__ == "__main__":
    main()
