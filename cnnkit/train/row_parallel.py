"""A training step on several cores: each computes some rows of a batch, forwards and backwards, through all layers.

Against all cores in every layer, where they wait for each other after each one, a step of convolutions with a small dense part takes a
tenth less time on two cores that are free (the textbook's convnet at 96 pixels: 75 to 92 % of the processor time), and about half of it
where other programs use the cores. Networks with batch norm gain in the layers before the first one, and those of mostly dense layers
gain nothing.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, fx, nn

from cnnkit.engine.rows import ROWS_OF_A_CORE
from cnnkit.train.mixed_precision import Precision

#: The most trained parameters of the stages in parts, for each value that their layers return for a row. Each part has gradients of its
#: own: within this bound they take no more memory than the outputs of the fewest rows of a part, which are freed meanwhile. Large dense
#: layers exceed it (206 MB of parameters, 16 threads: 4.2 GB in parts, 1.2 GB together), and a step takes
#: a fifth longer with them in parts (2 threads).
PARAMETERS_PER_OUTPUT = ROWS_OF_A_CORE

#: Classes of torchvision and timm that skip whole branches at random.
_RANDOM_DEPTH = ("StochasticDepth", "DropPath")

_T = TypeVar("_T")


@runtime_checkable
class Staged(Protocol):
    """A network that is a sequence of stages."""

    def stages(self) -> Sequence[nn.Module]:
        """Return the modules that `forward` calls, one after another."""
        ...


class RowParallel:
    """Computes the logits of a batch on the CPU: the stages whose rows do not depend on each other in parts, the others together.

    From the first stage that is not computed in parts, all stages are computed together: dropout, since its random numbers depend on the
    order of the threads; batch norm with the statistics of the batch; layers that write buffers, such as instance norm with running
    statistics; and large dense layers, see `PARAMETERS_PER_OUTPUT`.
    """

    def __init__(self, module: nn.Module, precision: Precision) -> None:
        """Prepare.

        Args:
            module: Inputs (N, ...) -> outputs (N, ...); in parts if it is `Staged`, and at the first call in the mode it is trained in.
            precision: Of the forward pass.
        """
        self._module, self._precision = module, precision
        self._prepared = False
        self._first: list[nn.Module] = []
        self._rest: list[nn.Module] = []
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Compute the outputs of a batch, with as many cores as torch's number of threads."""
        if not self._prepared:
            self._prepare(inputs)
        parts = _parts_of(inputs)
        if self._pool is None or parts < 2:
            with self._precision.autocast():
                return self._module(inputs)  # type: ignore[no-any-return] # modules return Any
        parameters = _trained(self._first)
        computed: Tensor = _InParts.apply(_Run(self._first_stages, self._pool, parts, parameters), inputs, *parameters)
        with self._precision.autocast():
            return _through(self._rest, computed)

    def _prepare(self, inputs: Tensor) -> None:
        """Find the stages that can be computed in parts, and make as many threads as torch has; none if that is not worth it."""
        self._prepared = True
        module, parts = self._module, _parts_of(inputs)
        if inputs.device.type != "cpu" or parts < 2 or not isinstance(module, Staged):
            return
        stages = list(module.stages())
        count = self._stages_in_parts(stages, inputs[:1])
        self._first, self._rest = stages[:count], stages[count:]
        if not _trained(self._first):
            return
        threads = torch.get_num_threads() // parts
        self._pool = ThreadPoolExecutor(parts, "rows", initializer=torch.set_num_threads, initargs=(threads,))

    def _first_stages(self, inputs: Tensor) -> Tensor:
        with torch.enable_grad(), self._precision.autocast():
            return _through(self._first, inputs)

    def _stages_in_parts(self, stages: Sequence[nn.Module], row: Tensor) -> int:
        """Return how many of the stages can be computed in parts, and are worth it; one row passes through them."""
        count = values = 0
        with torch.random.fork_rng(devices=[]), torch.no_grad(), self._precision.autocast():
            for place, stage in enumerate(stages, start=1):
                if not _has_independent_rows(stage):
                    break
                state, drawn = State(stage), torch.get_rng_state()
                with _counted_outputs(stage) as sizes:
                    row = stage(row)
                if state.restore() or not torch.equal(drawn, torch.get_rng_state()):
                    break
                values += sum(sizes)
                if sum(each.numel() for each in _trained(stages[:place])) <= PARAMETERS_PER_OUTPUT * values:
                    count = place
        return count


class State:
    """The buffers of a stage, and other tensors that its modules keep, such as a weight that a hook computes."""

    def __init__(self, stage: nn.Module) -> None:
        self._kept = [
            (kept, name, tensor, None if tensor.is_inference() else tensor._version, tensor.detach().clone())
            for module in stage.modules()
            for kept in (module._buffers, vars(module))
            for name, tensor in kept.items()
            if isinstance(tensor, Tensor)
        ]

    def restore(self) -> bool:
        """Undo what was written since; return whether there was anything."""
        changed = False
        for kept, name, tensor, version, values in self._kept:
            if kept.get(name) is not tensor:
                kept[name], changed = tensor, True
            if version != (None if tensor.is_inference() else tensor._version) or not _same_bits(tensor, values):
                tensor.detach().copy_(values)
                changed = True
        return changed


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(*(each.contiguous().flatten().view(torch.uint8) for each in (one.detach(), other)))


@contextlib.contextmanager
def _counted_outputs(stage: nn.Module) -> Generator[list[int]]:
    """Count the values that each layer of a stage returns within the context."""
    sizes: list[int] = []

    def count(_layer: nn.Module, _given: object, made: object) -> None:
        if isinstance(made, Tensor):
            sizes.append(made.numel())

    layers = [layer for layer in stage.modules() if next(layer.children(), None) is None]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield sizes
    finally:
        for each in hooks:
            each.remove()


def _parts_of(batch: Tensor) -> int:
    """Return how many parts a batch is computed in: one per core, each of at least `ROWS_OF_A_CORE` rows."""
    return min(torch.get_num_threads(), len(batch) // ROWS_OF_A_CORE)


def _trained(stages: Sequence[nn.Module]) -> list[Tensor]:
    """Return the parameters that are trained, each once: stages may share some, and one module may be two stages."""
    return list(dict.fromkeys(each for stage in stages for each in stage.parameters() if each.requires_grad))


def _through(stages: Sequence[nn.Module], rows: Tensor) -> Tensor:
    for stage in stages:
        rows = stage(rows)
    return rows


def _has_independent_rows(stage: nn.Module) -> bool:
    for module in stage.modules():
        if not module.training:
            continue
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or type(module).__name__ in _RANDOM_DEPTH:
            return False
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p:
            return False
        if isinstance(module, fx.GraphModule) and any(_is_batch_norm(node) for node in module.graph.nodes):
            return False
    return True


def _is_batch_norm(node: fx.Node) -> bool:
    return node.op == "call_function" and "batch_norm" in str(node.target)


class _Run:
    """How one batch is computed in parts; keeps the graph of each part until the gradients are computed."""

    def __init__(
        self, forward: Callable[[Tensor], Tensor], pool: ThreadPoolExecutor, parts: int, parameters: Sequence[Tensor]
    ) -> None:
        self._forward, self._pool, self._parts, self._parameters = forward, pool, parts, parameters
        self._outputs: list[Tensor] = []

    def outputs(self, inputs: Tensor) -> Tensor:
        with contextlib.closing(_in_order(self._pool, self._forward, inputs.tensor_split(self._parts))) as arriving:
            self._outputs = list(arriving)
        return torch.cat([each.detach() for each in self._outputs])

    def gradients(self, of_outputs: Tensor) -> list[Tensor | None]:
        """Return the gradient of each parameter, summed in the order of the parts; None for one that is not used.

        A part's gradients are freed as soon as they are added. They may share memory with each other and with the graph, so that only
        sums are written to.
        """

        def backward(output: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(output, self._parameters, gradient, allow_unused=True)

        pieces = torch.split(of_outputs, [len(each) for each in self._outputs])
        outputs, self._outputs = self._outputs, []
        found: list[Tensor | None] = [None] * len(self._parameters)
        summed = [False] * len(found)
        with contextlib.closing(_in_order(self._pool, backward, outputs, pieces)) as arriving:
            del outputs
            for part in arriving:
                for place, gradient in enumerate(part):
                    before = found[place]
                    if gradient is None:
                        continue
                    if before is None:
                        found[place] = gradient
                    elif summed[place]:
                        before += gradient
                    else:
                        found[place], summed[place] = before + gradient, True
                    del before, gradient
                del part
        return [each if each is None or is_sum else each.clone() for each, is_sum in zip(found, summed, strict=True)]


def _in_order(pool: ThreadPoolExecutor, function: Callable[..., _T], *arguments: Sequence[Tensor]) -> Generator[_T]:
    """Yield the results of a function, and keep none of them; at the end, and after an exception, no call is still running."""
    running = deque(pool.submit(function, *each) for each in zip(*arguments, strict=True))
    try:
        while running:
            yield running.popleft().result()
    finally:
        for each in running:
            each.cancel()
        wait(running)


class _InParts(torch.autograd.Function):
    """The function of a `_Run` as one step of torch's graph; its inputs get no gradient."""

    @staticmethod
    def forward(context: Any, run: _Run, inputs: Tensor, *parameters: Tensor) -> Tensor:  # noqa: ANN401 - torch's signature
        context.run = run
        return run.outputs(inputs)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:  # noqa: ANN401 - torch's signature
        return None, None, *context.run.gradients(gradient)
