"""Compute output sizes, parameters and costs of layers and of whole networks, before training."""

import sys
from collections.abc import Iterable, Mapping
from typing import Annotated

from cnnkit import cli
from cnnkit.errors import UsageError
from cnnkit.nets import dims, dims_pipe, network_dims
from cnnkit.nets.dims import Dtype
from cnnkit.nets.dims_config import DimsConfig


@cli.command
def main(
    network: Annotated[
        str | None,
        cli.Argument(
            metavar="NETWORK",
            show_default=False,
            help="Network by name (vgg16, resnet50, ...), or a .pt or .onnx file.",
        ),
    ] = None,
    *,
    config: DimsConfig,
    explain: Annotated[
        bool, cli.Option("--explain", help="Print each formula with its numbers, instead of the table.")
    ] = False,
    output_file: cli.options.TableFile = None,
    as_json: cli.options.Json = False,
) -> None:
    """Compute output sizes, parameters and costs of layers or of a whole network, before training.

    Give one layer by flags, several by --layers, or a network by name. Without --input, the table of another cnn-dims is read
    from standard input and the new layers are appended to it.

    Columns: params (weights and biases), macs (multiply-accumulates for one image, without biases), receptive_field and stride (in
    pixels of the input image; empty where unknown, as after attention and upsampling), activation_bytes (size of the output for the
    whole batch), dropped (pixels at the edge of the layer's input that no window reads), image (size of the input image, which
    limits receptive fields), kernel and pad (size and padding of the layer's window: 1 on all edges, 1x2 above and below x left and
    right, 0+1 before + after), trainable (of a .pt: the parameters that its training changed; cnn-finetune freezes the others).

    --output works backwards: it lists the kernels, strides and paddings that turn the input into that size, those that use every pixel
    first, then small kernels first. --any-size lists the sizes that a network takes: dense layers after flatten, local
    and bias position fix them.

    An .onnx file may be quantized, or optimized by ONNX Runtime: its weights and biases count as params, its scales and zero
    points do not. A file that ONNX Runtime refuses to load or run is an error.

    Examples:
      cnn-dims --input 128,128,3 --filters 32 --k 3 --s 2 --pad same
      cnn-dims --input 128,128,3 --filters 32 --k 3 --s 2 --pad same --explain
      cnn-dims --input 32,32,3 --layers "conv 16 k2 same relu, pool 2, flatten, dense 10 softmax"
      cnn-dims --input 200,200,1 --filters 16 --k 2 --s 2 \\
          | cnn-dims --filters 32 --k 3 --pad same | cnn-dims --pool 2
      cnn-dims --input H,W,3 --layers "conv 16 k3 same relu, pool 2, gap, dense 10"
      cnn-dims --input 14,14,512 --output 7,7
      cnn-dims vgg16 --batch 32 --dtype float16
      cnn-dims mobilenet_v2 --any-size
      cnn-dims model.pt --zeros 0.001
      cnn-dims vgg16 -o vgg16.csv
      cnn-dims model.onnx --max-params 5000000 --json | jq .params
    """
    lines = "--explain" if explain else None
    as_json = cli.to_file(output_file, as_json, inputs=[network, (config.layers or "").removeprefix("@")], lines=lines)
    config.check(network, explain=explain, as_json=as_json)
    if config.output is not None:
        cli.emit(config.solutions(dims_pipe.start(config.size(), _table, name="standard input")), as_json)
        return
    text, scale = config.notation(), config.bytes_per_value
    if config.has_symbols:
        bytes_per_value = scale or Dtype.float32.bytes
        cli.emit(dims_pipe.symbolic_rows(text or "", config.input or "", bytes_per_value=bytes_per_value), as_json)
        return
    size = config.size()
    if config.any_size:
        sizes = network_dims.find_input_sizes(network, size=size) if network is not None else None
        cli.emit(sizes or dims_pipe.find_input_sizes(text or "", size or ()), as_json)
        return

    keras: Mapping[str, str] = {}
    if network is not None:
        bytes_per_value = scale or Dtype.float32.bytes
        rows = network_dims.measure(network, size=size, bytes_per_value=bytes_per_value, near_zero=config.zeros)
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
    """Start from the given size, or else from the table on standard input; with a size, nothing is read."""
    if size is not None:
        return dims_pipe.first(text, size, bytes_per_value=scale or Dtype.float32.bytes)
    return dims_pipe.later(text, _table(), name="standard input", bytes_per_value=scale)


def _table() -> Iterable[bytes]:
    """Return the lines of standard input."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "no --input, and standard input is a terminal; give --input H,W,C, or pipe in the output of cnn-dims"
        )
    return cli.stdin()


if __name__ == "__main__":
    main()
