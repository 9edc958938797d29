"""How much memory a training takes: gradients, the optimizer's state, and what each image of a batch leaves for the gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnkit.choices import Optimizer
from cnnkit.data import memory
from cnnkit.train.mixed_precision import Precision
from cnnkit.train.row_parallel import State

#: Tensors of the size of the trained parameters that an optimizer keeps, without that of --momentum; others keep two.
_STATES = {Optimizer.SGD: 0, Optimizer.RMSPROP: 1, Optimizer.ADAGRAD: 1}


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that training takes in addition to what is in memory before: `fixed`, and `per_image` of a batch."""

    fixed: int
    per_image: int

    def of_batch(self, size: int) -> int:
        """Return the bytes for a batch."""
        return self.fixed + size * self.per_image

    def largest_batch(self, memory: int) -> int:
        """Return how many images fit, 0 if not even one does."""
        return max((memory - self.fixed) // max(self.per_image, 1), 0)


def estimate(
    module: nn.Module,
    inputs: Tensor,
    *,
    optimizer: Optimizer,
    momentum: bool = False,
    ema: bool = False,
    precision: Precision | None = None,
) -> MemoryEstimate:
    """Measure what the forward passes of a few images, and of half of them, keep for the gradients.

    The tensors that torch's graph saves are counted once each, without parameters. What does not grow with the images, such as weights
    in half precision, is fixed. Twice the largest output is added, for the gradients that the backward pass needs next to them. The
    module and torch's generators are as they were afterwards.

    Args:
        module: In training mode, with its parameters.
        inputs: Four images or more, an even number (N, ...), on the module's device.
        optimizer: Whose state is kept.
        momentum: The optimizer has --momentum.
        ema: The weights are averaged.
        precision: Of the forward pass.
    """
    trained = sum(each.numel() * each.element_size() for each in module.parameters() if each.requires_grad)
    half = len(inputs) // 2
    device = inputs.device
    state = State(module)
    try:
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            (precision or Precision(device)).autocast(),
        ):
            few, many = (_kept(module, part) for part in (inputs[:half].clone(), inputs.clone()))
    finally:
        state.restore()
    per_image = max((many - few) // half, 0)
    states = _STATES.get(optimizer, 2) + momentum + ema
    return MemoryEstimate(trained * (1 + states) + max(few - half * per_image, 0), per_image)


def _kept(module: nn.Module, inputs: Tensor) -> int:
    """Return the bytes that a forward pass keeps, with those of the inputs and of gradients of the largest output."""
    own = {each.untyped_storage().data_ptr() for each in (*module.parameters(), *module.buffers())}
    saved = {inputs.untyped_storage().data_ptr(): inputs.nbytes}
    largest = 0

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def watch(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel() * output.element_size())

    hooks = [each.register_forward_hook(watch) for each in module.modules() if next(each.children(), None) is None]
    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            kept = module(inputs)  # its graph keeps the tensors, so that no two have the same address
        del kept
    finally:
        for hook in hooks:
            hook.remove()
    return sum(saved.values()) + 2 * largest


def shown(size: int) -> str:
    """Format a number of bytes: 310 MiB, 2.1 GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{max(round(size / 2**20), 1)} MiB"


def available(device: torch.device) -> int | None:
    """Return the free memory of a device, in bytes; None if the system does not report it."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return memory.available()
