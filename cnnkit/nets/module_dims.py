"""The dimensions of any torch network, measured by running it once, preferably on torch's meta device, where nothing is computed.

Shapes are recorded from modules as they run, everything else from torch's operations, whichever module or function calls
them: so attention and squeeze-and-excitation are counted, a weight used twice is counted once, and a weight that the pass
does not use (Inception's auxiliary head) is not counted. Where branches meet, the largest receptive field and stride hold;
where a map is cut into tokens, both are unknown from there on.
"""

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from cnnkit.errors import UsageError
from cnnkit.formats import torch_model
from cnnkit.formats.header import Header, Preprocess
from cnnkit.nets import build, catalogue, classifier, freezing, subgraph, whitening
from cnnkit.nets.dims import DimsRow, Sides, Window, Windows, bounded, shown, shown_pads, unread
from cnnkit.nets.layer_modules import CroppedConvTranspose2d, LocallyConnected2d, LocalResponseNorm
from cnnkit.nets.module_centres import tensors_in
from cnnkit.nets.notation import LayerKind
from cnnkit.nets.receptive_field import ReceptiveField, follow
from cnnkit.nets.whitening import Whitening

log = logging.getLogger("cnnkit")
aten = torch.ops.aten


def measure_network(
    name: str, *, size: Sequence[int] | None = None, bytes_per_value: int = 4, near_zero: float | None = None
) -> tuple[DimsRow, ...]:
    """Measure a network by name, or a trained model.

    Args:
        name: A name from `catalogue`, or a `.pt` file.
        size: Height, width and channels of the images; by default those that the network was made for.
        bytes_per_value: Bytes of one value in all images of the batch.
        near_zero: Also count the weights of a `.pt` whose absolute value is at most this.

    Raises:
        UsageError: There is no such network, or it does not take images of that size.
        FormatError: The file is not a model made by cnnkit.
        OSError: The file cannot be read.
    """
    module, preprocess, header = _network(name, size)
    trained = _trained(module, header)
    zeros = None if near_zero is None or header is None else _zeros(module, near_zero)
    height, width, _ = size if size and len(size) == 3 else (preprocess.size, preprocess.size, 3)
    if size:
        check_channels(name, size)
    example = _example(height, width, as_files=header is not None)
    try:
        rows = measure_module(module.to("meta"), example, bytes_per_value=bytes_per_value, trained=trained, zeros=zeros)
    except (RuntimeError, AssertionError) as error:  # torch and torchvision raise these if a map shrinks to nothing
        reason = str(error).splitlines()[0]
        raise UsageError(f"{name} does not take {height}x{width} pixels ({reason}); give another --input") from error
    # Name the layers of a trained model's backbone as --layer does
    return tuple(replace(row, layer=row.layer.removeprefix("base.")) for row in rows)


def check_channels(name: str, size: Sequence[int]) -> None:
    """Check that a size is that of colour images.

    Raises:
        UsageError: It is not.
    """
    if len(size) != 3 or size[2] != 3:
        given = "x".join(map(str, size))
        raise UsageError(f"{name} takes images with 3 channels, HxWx3, but --input is {given}")


def _network(name: str, size: Sequence[int] | None = None) -> tuple[nn.Module, Preprocess, Header | None]:
    """Build a network by name, or load a trained model: that takes images as files have them, and has a Header."""
    if not name.endswith(".pt"):
        square = size is not None and len(size) == 3 and size[0] == size[1]
        return *catalogue.for_dims(name, size=size[0] if size and square else None), None
    model = torch_model.load(name)
    module = classifier.from_header(model.header, model.state, name=name, with_columns=True)
    columns = len(model.header.columns or ())
    if columns:  # any values: only shapes are measured
        module.register_forward_pre_hook(
            lambda _, inputs: (*inputs, torch.zeros(len(inputs[0]), columns, device=inputs[0].device))
        )
    return module, model.header.preprocess or Preprocess(), model.header


def _example(height: int, width: int, *, as_files: bool) -> Tensor:
    if as_files:
        return torch.empty(1, height, width, 3, dtype=torch.uint8, device="meta")
    return torch.empty(1, 3, height, width, device="meta")


def _trained(module: nn.Module, header: Header | None) -> frozenset[str] | None:
    """Name the parameters that the training which wrote a model changed; None if its Header does not record it."""
    if header is None or header.backbone is None or not isinstance(module, classifier.Classifier):
        return None
    everything = {name for name, _ in module.named_parameters()}
    head = {name for name in everything if name.startswith("head.")}
    match header.training.get("command"):
        case "cnn-train":
            return frozenset(everything)
        case "cnn-train-head":
            return frozenset(head)
        case "cnn-finetune":
            unfreeze = str(header.training.get("unfreeze"))
            try:
                layers = freezing.find(module.base, unfreeze, network=header.backbone.name)
            except UsageError:  # a forged Header
                return None
            return frozenset(head) | {f"base.{name}" for name in freezing.parameters(module.base, layers)}
        case _:
            return None


def _zeros(module: nn.Module, near_zero: float) -> dict[str, int]:
    """Count the values close to zero in every weight, biases and the weights of normalizations aside."""
    return {
        name: int((value.detach().abs() <= near_zero).sum())
        for name, value in module.named_parameters()
        if value.ndim > 1
    }


def accepts(name: str, size: Sequence[int] | None = None) -> tuple[Callable[[int, int], str | None], tuple[int, int]]:
    """Return what checks whether a network takes images of a height and width.

    Args:
        name: As for `measure_network`.
        size: As for `measure_network`; a vision transformer by name is built for it.

    Returns:
        A function that returns why not, None if it does; and the height and width that the network was made for.

    Raises:
        UsageError, FormatError, OSError: As for `measure_network`.
    """
    module, preprocess, header = _network(name, size)
    module = module.to("meta").eval()

    def refusal(height: int, width: int) -> str | None:
        try:
            with torch.no_grad():
                module(_example(height, width, as_files=header is not None))
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            return next(iter(str(error).splitlines()), "") or type(error).__name__
        return None

    return refusal, (preprocess.height, preprocess.width)


def keras_names(name: str) -> dict[str, str]:
    """Map the modules of a VGG to Keras' names of the layers with the same output; empty for other networks."""
    if name.endswith(".pt"):
        return {}
    return {module: keras for keras, module in subgraph.keras_names(catalogue.canonical(name)).items()}


def measure_module(
    module: nn.Module,
    example: Tensor,
    *,
    bytes_per_value: int = 4,
    trained: Collection[str] | None = None,
    zeros: Mapping[str, int] | None = None,
) -> tuple[DimsRow, ...]:
    """Measure every layer of a network.

    Args:
        module: Any network; it runs once, in evaluation mode and without gradients, and its state is restored.
        example: One input, shape (1, C, H, W), or (1, H, W, C) in uint8, on the device of the network.
        bytes_per_value: Bytes of one value in all images of the batch.
        trained: The parameters that were trained, for `trainable`.
        zeros: How many values of each weight are zero, for `weights` and `zeros`.

    Returns:
        One row for each module that ran and contains no module that ran, and for each other one that has weights or
        multiplications of its own. Rows are in the order in which modules ended, named as in `module.named_modules()`. A
        module that ran several times has one row: the sums over its runs, the shape of the last.
    """
    with _watching(module, example) as watch:
        module(example)
    unused = [(name, value.numel()) for name, value in module.named_parameters() if id(value) in watch.unused]
    if unused:
        count = sum(values for _, values in unused)
        log.info("%d parameters are not used in inference and not counted (%s, ...)", count, unused[0][0])
    sizes = {name: value.numel() for name, value in module.named_parameters()}
    counts = _Counts(sizes, trained, zeros)
    return tuple(_rows(module, watch, bytes_per_value, counts))


@dataclass(frozen=True, slots=True)
class _Counts:
    """What is counted in the parameters of a layer, by their names."""

    sizes: Mapping[str, int]
    trained: Collection[str] | None
    zeros: Mapping[str, int] | None

    def of(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the fields of a row."""
        found: dict[str, Any] = {}
        if self.trained is not None:
            found["trainable"] = sum(self.sizes[name] for name in names if name in self.trained)
        if self.zeros is not None:
            weights = sum(self.sizes[name] for name in names if name in self.zeros)
            if weights:
                zeros = sum(self.zeros[name] for name in names if name in self.zeros)
                found |= {"weights": weights, "zeros": zeros / weights}
        return found


_Edges = tuple[tuple[int, int], tuple[int, int]]  # pixels (above, below), (left, right)


@dataclass(slots=True)
class _Record:
    """Measures of one module in the pass."""

    shape: tuple[int | None, int | None, int] = (None, None, 0)
    values: int = 0
    params: int = 0
    macs: int = 0
    dropped: int = 0
    receptive_field: Sides = None
    step: Sides = None
    kernel: Sides = None
    pads: _Edges | None = None  # of the window
    padded: _Edges | None = None  # of a map, before a window slides over it
    names: list[str] = field(default_factory=list)  # of the parameters


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's class is untyped
    """Intercept every operation: its cost, the module that it runs for, and the receptive field of its result."""

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's class is untyped
        self.records: defaultdict[nn.Module, _Record] = defaultdict(_Record)
        self.ended: dict[nn.Module, None] = {}  # a set that keeps order
        self.running: list[nn.Module] = [module]
        self.names = {id(value): name for name, value in module.named_parameters()}
        self.unused = set(self.names)
        self.fields: Any = WeakIdKeyDictionary()
        start = ReceptiveField((1, 1), (1, 1), last=example.dtype is torch.uint8)
        self.fields[example] = start
        self.image = start.size(tuple(example.shape))

    def __torch_dispatch__(
        self, function: OpOverload, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> object:
        kwargs = kwargs or {}
        made = function(*args, **kwargs)
        operation = function.overloadpacket
        record = self.records[self.running[-1]]
        inputs, outputs = list(tensors_in(args)), list(tensors_in(made))
        for tensor in inputs:
            if id(tensor) in self.unused:
                self.unused.remove(id(tensor))
                record.params += tensor.numel()
                record.names.append(self.names[id(tensor)])
        _note_window(record, operation, args)
        if operation in flop_registry:
            # Each multiply-accumulate is two operations
            record.macs += flop_registry[operation](*args, **kwargs, out_val=made) // 2
        traced = [(tensor, self.fields[tensor]) for tensor in inputs if tensor in self.fields]
        if traced and outputs:
            windows = _windows(operation, args, outputs[0])
            if windows and outputs[0].ndim == 4 and not isinstance(self.running[-1], CroppedConvTranspose2d):
                (height, width), (rows, columns) = args[0].shape[2:], outputs[0].shape[2:]
                record.dropped += unread(windows, (height, width), (rows, columns))
            order = _order(operation, args)
            shapes = [(tuple(tensor.shape), field) for tensor, field in traced]
            everything = _depends_on_whole_map(operation, args, shapes[0][1])
            if windows or everything or torch.Tag.pointwise in function.tags or operation in _PASSING:
                for output in outputs:
                    used = shapes[:1] if windows else shapes
                    made_shape = tuple(output.shape)
                    self.fields[output] = follow(used, made_shape, windows=windows, order=order, everything=everything)
            else:  # attention, a map rolled or flipped: receptive fields are unknown from here on
                self.fields.update(dict.fromkeys(outputs, ReceptiveField(last=shapes[0][1].last)))
        return made

    def begin(self, module: nn.Module, _inputs: object) -> None:
        self.running.append(module)

    def end(self, module: nn.Module, inputs: object, output: object) -> None:
        self.running.pop()
        self.ended.pop(module, None)
        self.ended[module] = None
        for result in tensors_in(output):
            record = self.records[module]
            found = self._field_of(module, inputs, result)
            record.values += result.numel()
            record.shape = found.output(tuple(result.shape))
            record.receptive_field, record.step = found.field, found.step
            break  # the first result is the map; attention returns its weights second

    def _field_of(self, module: nn.Module, inputs: object, result: Tensor) -> ReceptiveField:
        """Return the receptive field of a module's result; layers on maps with channels last reshape, which loses it."""
        found: ReceptiveField = self.fields.get(result, ReceptiveField())
        before = next((self.fields[tensor] for tensor in tensors_in(inputs) if tensor in self.fields), None)
        if isinstance(module, LocallyConnected2d) and before is not None:
            given = next(tensor for tensor in tensors_in(inputs) if tensor in self.fields)
            found = follow([(tuple(given.shape), before)], tuple(result.shape), windows=module.windows)
            self.records[module].dropped = unread(module.windows, module.given, module.made)
            self.fields[result] = found
        if isinstance(module, Whitening) and before is not None:
            found = follow([(tuple(result.shape), before)], tuple(result.shape), everything=True)
            self.fields[result] = found
        if before and before.last and result.ndim == 4 and found.field is None:
            found = before if isinstance(module, nn.Linear) else ReceptiveField(last=True)
            self.fields[result] = found
        return found


@contextlib.contextmanager
def _watching(module: nn.Module, example: Tensor) -> Generator[_Watch]:
    """Intercept the operations of a network; modes, hooks and settings are restored afterwards."""
    watch = _Watch(module, example)
    modes = {part: part.training for part in module.modules()}
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    hooks = []
    try:
        for part in module.modules():
            hooks += [part.register_forward_pre_hook(watch.begin), part.register_forward_hook(watch.end)]
        module.eval()
        torch.backends.mha.set_fastpath_enabled(False)  # a single fused operation, whose parts cannot be measured
        with torch.no_grad(), watch:
            yield watch
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
        for hook in hooks:
            hook.remove()
        for part, training in modes.items():
            part.training = training


# Operations, besides those that torch marks as pointwise, that are elementwise, move whole maps, or mix only their channels.
_PASSING = frozenset(
    {
        *(aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten.permute, aten.transpose, aten.t),
        *(aten.expand, aten.unsqueeze, aten.squeeze, aten.slice, aten.select, aten.split, aten.split_with_sizes),
        *(aten.unbind, aten.cat, aten.stack, aten.detach, aten.alias, aten.lift_fresh, aten._to_copy, aten.copy_),
        *(aten.contiguous, aten.hardswish, aten.hardswish_, aten._prelu_kernel, aten.rsub, aten.glu, aten.dropout),
        *(
            aten.native_dropout,
            aten.native_batch_norm,
            aten._native_batch_norm_legit_no_training,
            aten.native_layer_norm,
        ),
        *(aten._native_batch_norm_legit, aten.cudnn_batch_norm, aten._softmax, aten._log_softmax, aten.addmm, aten.mm),
        *(aten.rrelu_with_noise, aten.log_sigmoid_forward, aten.mean, aten.sum, aten.amax),
    }
)


def _depends_on_whole_map(operation: object, args: Sequence[Any], field: ReceptiveField) -> bool:
    """Check whether every value of a result depends on the whole map: normalized by its own statistics, or along height or width."""
    given = args[0]
    if not isinstance(given, Tensor) or given.ndim != 4:
        return False
    if operation is aten.native_group_norm:
        return True
    if operation in (aten.native_batch_norm, aten._native_batch_norm_legit):
        return bool(args[5])  # in training, or as instance normalization
    if operation is aten.native_layer_norm:
        axes = set(range(4 - len(args[1]), 4))
    elif operation in (aten._softmax, aten._log_softmax):
        axes = {args[1] % 4}
    else:
        return False
    return bool(axes & ({1, 2} if field.last else {2, 3}))


def _order(operation: object, args: Sequence[Any]) -> Sequence[int]:
    """Return the permutation of axes of an operation; empty if there is none."""
    if operation is aten.permute:
        return [axis % args[0].ndim for axis in args[1]]
    if operation is aten.transpose:
        order = list(range(args[0].ndim))
        first, second = args[1], args[2]
        order[first], order[second] = order[second], order[first]
        return order
    return ()


def _windows(operation: object, args: Sequence[Any], output: Tensor) -> Windows | None:
    """Return the windows of an operation that slides one over a map; a mean over a whole map is one window."""
    given = args[0]
    if not isinstance(given, Tensor) or given.ndim != 4:
        return None
    size, pads, dilation = list(given.shape[2:]), [0], [1]
    if operation is aten.convolution:
        kernel, stride, pads, dilation = list(args[1].shape[2:]), args[3], args[4], args[5]
        if args[6]:  # transposed: with stride 1 it is a convolution with other padding
            if {*stride, *(extra + 1 for extra in args[7])} != {1}:
                return None
            spans = zip(kernel, pads, dilation, strict=True)
            pads = [(side - 1) * apart - both for side, both, apart in spans]
    elif operation in (aten.max_pool2d_with_indices, aten.avg_pool2d):
        kernel = args[1]  # trailing arguments with default values are omitted
        stride = args[2] if len(args) > 2 else kernel
        pads = args[3] if len(args) > 3 else pads
        dilation = args[4] if operation is aten.max_pool2d_with_indices and len(args) > 4 else dilation
    elif operation in (aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d):
        if any(side % made for side, made in zip(size, output.shape[2:], strict=True)):
            return None  # windows of several sizes
        kernel = stride = [side // made for side, made in zip(size, output.shape[2:], strict=True)]
    elif operation is aten.constant_pad_nd:
        kernel = stride = [1]
    elif operation in (aten.mean, aten.sum, aten.amax) and len(args) > 1 and _axes(args[1]) == [2, 3]:
        kernel = stride = size
    else:
        return None
    sides = zip(*(_two(values) for values in (kernel, stride or kernel, pads, dilation)), strict=True)
    down, across = (Window(*values) for values in sides)
    return down, across


def _note_window(record: _Record, operation: object, args: Sequence[Any]) -> None:
    """Record the kernel and the padding of an operation that slides a window over a map, or pads one."""
    if not args or not isinstance(args[0], Tensor) or args[0].ndim != 4:
        return
    if operation is aten.constant_pad_nd:
        left, right, above, below = (*args[1], 0, 0)[:4]
        record.padded = (above, below), (left, right)
        return
    if operation is aten.convolution:
        kernel, pads = _two(args[1].shape[2:]), _two(args[4])
    elif operation in (aten.max_pool2d_with_indices, aten.avg_pool2d):
        kernel, pads = _two(args[1]), _two(args[3] if len(args) > 3 else [0])
    else:
        return
    record.kernel = kernel
    down, across = record.padded or ((0, 0), (0, 0))
    record.pads = (down[0] + pads[0], down[1] + pads[0]), (across[0] + pads[1], across[1] + pads[1])


def _axes(axes: Sequence[int] | None) -> list[int]:
    """Return the axes, out of four, over which a map is reduced; None stands for all."""
    return sorted(axis % 4 for axis in axes or range(4))


def _two(values: Sequence[int]) -> tuple[int, int]:
    """Return (height, width); torch allows one number for both."""
    return values[0], values[-1]


def _rows(module: nn.Module, watch: _Watch, bytes_per_value: int, counts: _Counts) -> Iterator[DimsRow]:
    """Yield the rows of the modules that ran."""
    names = {part: name for name, part in module.named_modules()}
    inside = {names[part].rpartition(".")[0] for part in watch.ended if names[part]}
    around = inside | {parent for name in inside for parent in _parents(name)}
    for part in watch.ended:
        record, name = watch.records[part], names[part]
        contains = name in around
        joins = isinstance(part, build.Block)
        if contains and not (record.params or record.macs or joins):
            continue
        height, width, channels = record.shape
        kernel, pads = _kernel_and_pads(part, record)
        yield DimsRow(
            layer=name or type(part).__name__,
            kind=_kind(part),
            height=height,
            width=width,
            channels=channels,
            params=record.params,
            macs=record.macs,
            receptive_field=shown(bounded(record.receptive_field, watch.image)),
            stride=shown(record.step),
            # Of other modules that contain some, the output is that of the last one
            activation_bytes=0 if contains and not joins else record.values * bytes_per_value,
            dropped=record.dropped,
            image=shown(watch.image),
            kernel=shown(kernel),
            pad=shown_pads(*pads) if pads else None,
            **counts.of(record.names),
        )


def _kernel_and_pads(part: nn.Module, record: _Record) -> tuple[Sides, _Edges | None]:
    """Return the kernel and the padding of a module as the notation has them."""
    if isinstance(part, LocalResponseNorm):  # it pads channels
        return None, None
    if isinstance(part, nn.ConvTranspose2d):  # its padding removes rows and columns
        return record.kernel, None
    if isinstance(part, LocallyConnected2d):
        down, across = part.windows
        return (down.kernel, across.kernel), (down.pads(part.given[0]), across.pads(part.given[1]))
    return record.kernel, record.pads or record.padded


def _parents(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


_KINDS: tuple[tuple[type[nn.Module], LayerKind], ...] = (
    (nn.Conv2d, LayerKind.conv),
    (nn.ConvTranspose2d, LayerKind.deconv),
    (LocallyConnected2d, LayerKind.local),
    (nn.MaxPool2d, LayerKind.pool),
    (nn.AvgPool2d, LayerKind.avgpool),
    (nn.Linear, LayerKind.dense),
    (nn.BatchNorm2d, LayerKind.bn),
    (nn.BatchNorm1d, LayerKind.bn),
    (nn.Dropout, LayerKind.dropout),
    (nn.Flatten, LayerKind.flatten),
    (nn.ZeroPad2d, LayerKind.pad),
    (build.SamePad, LayerKind.pad),
    (LocalResponseNorm, LayerKind.lrn),
    (nn.LocalResponseNorm, LayerKind.lrn),
    (build.Residual, LayerKind.residual),
    (build.Concat, LayerKind.concat),
)


def _kind(module: nn.Module) -> str:
    """Return the kind of a module: the notation's word if there is one, else its class."""
    if isinstance(module, classifier.ColumnEncoding):
        return "columns"
    if isinstance(module, build.GlobalPool):
        return LayerKind.gmp if module.largest else LayerKind.gap
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        average = isinstance(module, nn.AdaptiveAvgPool2d)
        if module.output_size in (1, (1, 1)):
            return LayerKind.gap if average else LayerKind.gmp
        return LayerKind.avgpool if average else LayerKind.pool
    if isinstance(module, Whitening):
        return whitening.NAME
    for known, kind in _KINDS:
        if isinstance(module, known):
            return kind
    if type(module).__module__ == "torch.nn.modules.activation" and not isinstance(module, nn.MultiheadAttention):
        return LayerKind.activation
    return type(module).__name__.lower()
