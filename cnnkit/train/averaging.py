"""An exponential moving average of the weights, which often answers better than the last ones do."""

import contextlib
from collections.abc import Generator, Mapping

import torch
from torch import Tensor, nn


class Average:
    """average = decay * average + (1 - decay) * weights, after every step; integers are taken as they are.

    The decay grows from 0.1 up to what was asked for, min(decay, (1 + n) / (10 + n)) in step n: else the random weights of the
    start would count for a thousand steps.

    Source: TensorFlow's ExponentialMovingAverage with `num_updates`.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.restart()

    def restart(self) -> None:
        """Begin with the weights of the moment."""
        self.steps = 0
        self.values = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of the moment in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point():
                self.values[name].lerp_(tensor, 1 - decay)
            else:
                self.values[name].copy_(tensor)

    @contextlib.contextmanager
    def in_place(self) -> Generator[None]:
        """Let the module have the averages for a while, and its own weights again afterwards."""
        own = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}
        self.module.load_state_dict(self.values)
        try:
            yield
        finally:
            self.module.load_state_dict(own)

    def state(self) -> dict[str, object]:
        """Give what a checkpoint keeps."""
        return {"steps": self.steps, "values": self.values}

    def restore(self, steps: int, values: Mapping[str, Tensor]) -> None:
        """Take up what a checkpoint kept."""
        self.steps = steps
        for name, tensor in values.items():
            self.values[name].copy_(tensor)
