"""Work out output sizes, parameters and costs of layers and of whole networks, before anything is trained."""

import sys
from collections.abc import Mapping
from typing import Annotated

from cnnkit import cli
from cnnkit.errors import UsageError
from cnnkit.nets import dims, notation, table


@cli.command
def main(
    network: Annotated[
        str | None,
        cli.Argument(metavar="NETWORK", show_default=False, help="A network: vgg16, resnet50, ..., model.pt, model.onnx."),
    ] = None,
    given: Annotated[
        str | None, cli.Option("--input", metavar="H,W,C", help="Size of the input; a single number for a vector.")
    ] = None,
    layers: Annotated[
        str | None, cli.Option("--layers", metavar="NOTATION", help="Layers by notation, or @FILE with them.")
    ] = None,
    filters: Annotated[int | None, cli.Option("--filters", min=1, help="A convolution with so many filters.")] = None,
    pool: Annotated[str | None, cli.Option("--pool", metavar="K", help="Max pooling with windows K or HxW.")] = None,
    avgpool: Annotated[str | None, cli.Option("--avgpool", metavar="K", help="Average pooling, likewise.")] = None,
    dense: Annotated[int | None, cli.Option("--dense", min=1, help="A dense layer with so many units.")] = None,
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
    groups: Annotated[int | None, cli.Option("--groups", min=1, help="Groups of channels. [default: 1]")] = None,
    no_bias: Annotated[bool, cli.Option("--no-bias", help="Without biases.")] = False,
    batch: Annotated[
        int | None, cli.Option("--batch", min=1, help="Pictures at once, for activation_bytes. [default: 1]")
    ] = None,
    dtype: Annotated[
        dims.Dtype | None, cli.Option("--dtype", help="Type of activations, for activation_bytes. [default: float32]")
    ] = None,
    explain: Annotated[
        bool, cli.Option("--explain", help="The formulas with the numbers in, instead of the table.")
    ] = False,
    as_json: cli.Json = False,
    max_params: Annotated[int | None, cli.Option("--max-params", min=0, help="Exit 4 if there are more.")] = None,
    max_macs: Annotated[int | None, cli.Option("--max-macs", min=0, help="Exit 4 if there are more.")] = None,
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
    makers = {"filters": filters, "pool": pool, "avgpool": avgpool, "dense": dense, "layers": layers}
    options = {"kernel": kernel, "stride": stride, "pad": pad, "dilation": dilation, "groups": groups, "no-bias": no_bias}
    text = _notation(network, makers, options)
    if explain and (text is None or as_json):
        raise UsageError("--explain writes out layers as text; it goes with neither --json nor a network")

    scale = (batch or 1) * (dtype or dims.Dtype.float32).bytes
    start = dims.read_size(given) if given else None
    keras: Mapping[str, str] = {}
    if network is not None:
        rows, keras = _network(network, start, scale)
    else:
        before = () if start else _stage_before()
        chain = notation.parse(text or "", taken=[row.layer for row in before])
        if not chain:
            raise UsageError("--layers holds no layer")
        if start:
            rows = dims.measure_from(start, chain, bytes_per_value=scale)
        else:
            start = dims.behind(before[-1])
            scale = scale if batch or dtype else dims.bytes_of(before)
            rows = dims.extend(before, chain, bytes_per_value=scale)

    total = dims.total(rows)
    if explain:
        ...
    cli.emit([*rows, total] if as_json else (table.as_record(row, keras) for row in (*rows, total)), as_json)
    bounds = {"params": (total.params, max_params), "macs": (total.macs, max_macs)}
    cli.gate({}, at_most={name: (value, bound) for name, (value, bound) in bounds.items() if bound is not None})
