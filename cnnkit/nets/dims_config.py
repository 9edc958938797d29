"""Options of cnn-dims: layers by flags or notation, their input, and what is computed."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnnkit.errors import UsageError
from cnnkit.nets import dims, dims_pipe, symbolic_dims, window_solver
from cnnkit.nets.dims import DimsRow, Dtype, Volume
from cnnkit.nets.notation import Layer, LayerKind, Padding
from cnnkit.nets.window_solver import Sought
from cnnkit.option_fields import option


@dataclass(frozen=True, slots=True, kw_only=True)
class DimsConfig:
    """Options of cnn-dims: layers by flags or notation, their input, and the bounds that `--max-params` and `--max-macs` set."""

    input: str | None = option(
        None,
        "Size of the input; one number for a vector. Height and width may be symbols, as in H,W,3, for formulas as output.",
        metavar="H,W,C",
    )
    layers: str | None = option(None, "Layers in the layer notation, or @FILE to read them from.", metavar="NOTATION")
    filters: int | None = option(None, "Convolution with N filters.", metavar="N", minimum=1)
    pool: str | None = option(None, "Max pooling; window size K or HxW.", metavar="K")
    avgpool: str | None = option(None, "Average pooling; window size K or HxW.", metavar="K")
    dense: int | None = option(None, "Dense layer with N units.", metavar="N", minimum=1)
    kernel: str | None = option(
        None, "Kernel size of the convolution, K or HxW. [required with --filters]", "--kernel", "--k", metavar="K"
    )
    stride: str | None = option(
        None, "Stride, S or HxW. [default: 1; for pooling, the window size]", "--stride", "--s", metavar="S"
    )
    pad: str | None = option(
        None, "Padding as in Keras, or N pixels on each side. [default: valid]", metavar="same|valid|N"
    )
    dilation: str | None = option(None, "Dilation of the convolution, D or HxW. [default: 1]", metavar="D")
    groups: int | None = option(None, "Channel groups of the convolution. [default: 1]", metavar="N", minimum=1)
    no_bias: bool = option(False, "Leave out the biases.")
    output: str | None = option(
        None,
        "Size of an output: list the kernels, strides and paddings that give it, instead of the table. --filters, --pool, --avgpool, "
        "--k, --s and --pad limit the list.",
        metavar="H,W",
    )
    any_size: bool = option(
        False, "List the sizes of images that the network, or the layers made for --input, take, instead of the table."
    )
    batch: int | None = option(None, "Images per batch, for activation_bytes. [default: 1]", metavar="N", minimum=1)
    dtype: Dtype | None = option(None, "Data type of activations, for activation_bytes. [default: float32]")
    zeros: float | None = option(
        None,
        "Add the columns weights and zeros for a .pt or .onnx file: the number of weights without biases, and the share of them with an "
        "absolute value of at most T (0: exact zeros).",
        metavar="T",
        minimum=0.0,
    )
    max_params: int | None = option(
        None, "Exit with status 4 if there are more than N parameters.", metavar="N", minimum=0, after=("as_json",)
    )
    max_macs: int | None = option(
        None, "Exit with status 4 if there are more than N MACs.", metavar="N", minimum=0, after=("max_params",)
    )

    def check(self, network: str | None, *, explain: bool, as_json: bool) -> None:
        """Reject options that contradict each other, or would have no effect.

        Args:
            network: The network by name or file, if one is given.
            explain: `--explain`.
            as_json: `--json`.

        Raises:
            UsageError: There are such options.
        """
        if self.output is not None:
            self._check_output(network, explain=explain)
            return
        if (self.notation() is None) == (network is None):
            raise UsageError("give either a network, or layers by --layers, --filters, --pool, --avgpool or --dense")
        if explain and (network or as_json):
            raise UsageError(
                "--explain prints formulas of layers as text; give layers instead of a network, and drop --json"
            )
        if self.zeros is not None and network is None:
            raise UsageError("--zeros counts the weights of a .pt or .onnx file, and layers have none; drop it")
        if self.has_symbols:
            self._check_symbols(network, explain=explain)
        if self.any_size:
            unused = _first_given({"--explain": explain, "--zeros": self.zeros, **self._of_the_table()})
            if unused:
                raise UsageError(f"--any-size lists sizes instead of the table; drop {unused}")
            if network is None and self.input is None:
                raise UsageError("--any-size needs the size that the layers are made for; give --input H,W,C")

    def _of_the_table(self) -> dict[str, Any]:
        bounds = {"--max-params": self.max_params, "--max-macs": self.max_macs}
        return {"--batch": self.batch, "--dtype": self.dtype, **bounds}

    def _check_output(self, network: str | None, *, explain: bool) -> None:
        if network is not None:
            raise UsageError("--output is about a single layer; drop the network, and give the layer's --input")
        others = {"--layers": self.layers, "--dense": self.dense, "--explain": explain, "--any-size": self.any_size}
        unused = _first_given({**others, "--zeros": self.zeros, **self._of_the_table()})
        if unused:
            raise UsageError(f"--output lists windows of a single layer; drop {unused}")
        if self.has_symbols:
            raise UsageError(f"--output needs numbers; give them in place of the symbols of --input {self.input}")
        kinds = {"--filters": self.filters, "--pool": self.pool, "--avgpool": self.avgpool}
        if sum(value is not None for value in kinds.values()) > 1:
            raise UsageError("give at most one of --filters, --pool and --avgpool")
        if self.pool is None and self.avgpool is None:
            return
        of_convolutions = {"--k": self.kernel, "--dilation": self.dilation, "--groups": self.groups}
        unused = _first_given({**of_convolutions, "--no-bias": self.no_bias})
        if unused:
            raise UsageError(f"{unused} is an option of convolutions; drop it, or give --filters instead of pooling")

    def _check_symbols(self, network: str | None, *, explain: bool) -> None:
        if network is not None:
            raise UsageError(
                f"--input {self.input}: symbols are for layers; for a network give numbers, or --any-size without --input"
            )
        bounds = {"--max-params": self.max_params, "--max-macs": self.max_macs}
        needing = _first_given({"--explain": explain, "--any-size": self.any_size, **bounds})
        if needing:
            raise UsageError(f"{needing} needs numbers; give them in place of the symbols of --input {self.input}")

    @property
    def has_symbols(self) -> bool:
        """Whether the size of the input has symbols, as in H,W,3."""
        return self.input is not None and symbolic_dims.is_symbolic(self.input)

    def size(self) -> tuple[int, ...] | None:
        """Return the size of the input.

        Raises:
            UsageError: `--input` is not a size.
        """
        return dims_pipe.size(self.input) if self.input else None

    @property
    def bytes_per_value(self) -> int | None:
        """Bytes of one value in all images of the batch; None where neither batch nor data type is given."""
        return (self.batch or 1) * (self.dtype or Dtype.float32).bytes if self.batch or self.dtype else None

    def notation(self) -> str | None:
        """Translate the flags of one layer into the notation, so that there is one grammar and one arithmetic.

        Returns:
            The layers; None where none are given.

        Raises:
            UsageError: There are flags of several layers, or options without a layer.
        """
        makers: Mapping[str, int | str | None] = {
            "conv": self.filters,
            "pool": self.pool,
            "avgpool": self.avgpool,
            "dense": self.dense,
        }
        flags = {
            "k": self.kernel,
            "s": self.stride,
            "p": self.pad,
            "d": self.dilation,
            "g": self.groups,
            "nobias": "" if self.no_bias else None,
        }
        made = {kind: number for kind, number in makers.items() if number is not None}
        options = {letter: value for letter, value in flags.items() if value is not None}
        if len(made) + (self.layers is not None) > 1:
            raise UsageError("give one layer; for several use --layers, or a pipe of cnn-dims")
        if not made:
            if options:
                raise UsageError("options of a layer without a layer; add --filters, --pool, --avgpool or --dense")
            return self.layers
        sides = {"k": ("--k", self.kernel), "s": ("--s", self.stride), "d": ("--dilation", self.dilation)}
        options |= {letter: _side(flag, side) for letter, (flag, side) in sides.items() if side is not None}
        ((kind, number),) = made.items()
        if isinstance(number, str):
            number = _side(f"--{kind}", number)
        if kind == "conv" and "k" not in options:
            raise UsageError(f"--filters {number} needs a kernel size; give --k")
        self._check_pad()
        words = [str(value) if value in ("same", "valid") else f"{letter}{value}" for letter, value in options.items()]
        return " ".join([kind, str(number), *words])

    def _check_pad(self) -> None:
        if self.pad is not None and not re.fullmatch("same|valid|[0-9]+", self.pad):
            raise UsageError(f'--pad is same, valid or a number of pixels, not "{self.pad}"')

    def solutions(self, given: Volume) -> Iterator[dict[str, int | str | None]]:
        """Find the layers that give the output wanted.

        Args:
            given: Their input.

        Yields:
            Records, the best solution first.

        Raises:
            UsageError: There are none, or an option is wrong.
        """
        self._check_pad()
        for found, row in window_solver.solve(given, *self._sought(given)):
            yield {
                "layer": found.text,
                "kernel": row.kernel,
                "stride": dims.shown(found.stride),
                "pad": row.pad,
                "output": "x".join(map(str, row.shape)),
                "params": row.params,
                "macs": row.macs,
                "dropped": row.dropped,
            }

    def _sought(self, given: Volume) -> tuple[tuple[int, int], Sought]:
        height, width, channels = _output_size(self.output or "")
        kind = LayerKind.pool if self.pool else LayerKind.avgpool if self.avgpool else LayerKind.conv
        made = (self.filters or channels or given.channels) if kind is LayerKind.conv else given.channels
        if channels not in (None, made):
            raise UsageError(f"--output {self.output} has {channels} channels, but the layer {made}; leave them out")
        layer = Layer(
            kind=kind,
            name=f"{kind}1",
            text=kind.value,
            filters=made if kind is LayerKind.conv else None,
            dilation=_pair("--dilation", self.dilation) or (1, 1),
            groups=self.groups or 1,
            bias=not self.no_bias,
        )
        windows = {"--k": self.kernel, "--pool": self.pool, "--avgpool": self.avgpool}
        kernel = next((_pair(flag, text) for flag, text in windows.items() if text is not None), None)
        padding: Padding | int | None = None
        if self.pad is not None:
            padding = int(self.pad) if self.pad.isdecimal() else Padding(self.pad)
        return (height, width), Sought(layer=layer, kernel=kernel, stride=_pair("--s", self.stride), padding=padding)

    def gates(self, total: DimsRow) -> dict[str, tuple[int, int]]:
        """Return value and bound of each measure that has a bound, by name."""
        bounds = {"params": (total.params, self.max_params), "macs": (total.macs, self.max_macs)}
        return {name: (value, bound) for name, (value, bound) in bounds.items() if bound is not None}


def _first_given(options: Mapping[str, Any]) -> str | None:
    """Return the first option that was given: neither None nor False."""
    return next((name for name, value in options.items() if value is not None and value is not False), None)


def _side(flag: str, text: str) -> str:
    """Translate a size of a window, `3`, `3x5` or `3,5`, into the notation.

    Raises:
        UsageError: It is none.
    """
    sides = re.fullmatch("([0-9]{1,9})(?:[x,]([0-9]{1,9}))?", text)
    if sides is None:
        raise UsageError(f'{flag} "{text}" is not a size; give one number, or HxW as in 3x5')
    return sides[1] if sides[2] is None else f"{sides[1]}x{sides[2]}"


def _pair(flag: str, text: str | None) -> tuple[int, int] | None:
    """Read a size of a window as (height, width).

    Raises:
        UsageError: It is none, or a side is 0.
    """
    if text is None:
        return None
    height, _, width = _side(flag, text).partition("x")
    pair = int(height), int(width or height)
    if min(pair) < 1:
        raise UsageError(f'{flag} "{text}": give a whole number, 1 or more')
    return pair


def _output_size(text: str) -> tuple[int, int, int | None]:
    """Read the size of an output, `7`, `7,7` or `7,7,64` (or with x), as height, width and channels.

    Raises:
        UsageError: It is none.
    """
    words = [word.strip() for word in re.split("[,x]", text)]
    if len(words) > 3 or not all(re.fullmatch("[1-9][0-9]{0,8}", word) for word in words):
        raise UsageError(f'--output "{text}" is not a size; give H,W as in 7,7')
    height, width, channels = [*map(int, words), None, None, None][:3]
    assert height is not None
    return height, width or height, channels
