"""One training of one head on rows in memory, by either solver."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from cnnkit.choices import ClassWeights, Initializer, Solver
from cnnkit.engine import torch_device
from cnnkit.errors import CnnkitError
from cnnkit.formats.features import Features
from cnnkit.nets import build, classifier
from cnnkit.train import logistic, optim, preparation
from cnnkit.train.ending import whole_head
from cnnkit.train.epoch import Epoch
from cnnkit.train.head import Settings
from cnnkit.train.loop import Best, fit, in_order, shuffled
from cnnkit.train.optim import Objective, answers
from cnnkit.train.step import Step


@dataclass(frozen=True, slots=True)
class Rows:
    """Features and targets on the device."""

    values: Tensor  # (N, D) or (N, C, H, W)
    targets: Tensor  # (N,)


def rows(found: Features, classes: tuple[str, ...], place: torch.device, *, name: str) -> Rows:
    """Bring features to the device, with the numbers of their classes.

    Raises:
        CnnkitError: A value is no number.
    """
    numbers = {label: number for number, label in enumerate(classes)}
    values = torch.from_numpy(found.values.astype("float32")).to(place)
    if not bool(values.isfinite().all()):
        row = int((~values.flatten(1).isfinite().all(1)).nonzero()[0, 0])
        raise CnnkitError(
            f"{name}: row {row} ({found.rows[row].path}) holds values that are no numbers; extract it again, in float32"
        )
    return Rows(values, torch.tensor([numbers[row.label or ""] for row in found.rows], device=place))


class Training:
    """One training of one head on rows in memory, by either solver."""

    def __init__(self, settings: Settings, learning: Rows, checking: Rows | None, *, classes: int) -> None:
        self.settings = settings
        self.best = Best(settings.monitor)
        self.epochs: list[Epoch] = []
        self.strength: float | None = None
        self.prepared = preparation.fit(
            learning.values, standardize=settings.standardize, pca=settings.pca, whiten=settings.whiten
        )
        self.learning = self._prepared(learning)
        self.checking = None if checking is None else self._prepared(checking)
        self.text = whole_head(settings.head, loss=settings.loss, classes=classes, spatial=learning.values.ndim == 4)
        place = self.learning.values.device
        self.head = classifier.build_head(self.text, tuple(self.learning.values.shape[1:]))
        self.generator = torch.Generator().manual_seed(settings.seed)
        # The solution of a convex problem does not depend on the start; zeros are near the strongest penalty's
        start = Initializer.ZEROS if settings.solver is Solver.LBFGS else settings.init
        build.initialise(self.head, start, generator=self.generator)
        self.head.to(place)
        balanced = settings.class_weights is ClassWeights.BALANCED
        self.objective = Objective(
            settings.loss,
            settings.smoothing,
            optim.balanced_weights(self.learning.targets, classes) if balanced else None,
            settings.l1,
            settings.l2,
        )
        self.expected = settings.epochs if settings.solver is Solver.GRADIENT else len(self._strengths())

    def _prepared(self, rows: Rows) -> Rows:
        return Rows(preparation.applied(self.prepared, rows.values), rows.targets)

    def _strengths(self) -> tuple[float, ...]:
        if self.settings.l2:
            return (self.settings.l2,)
        if self.checking is None:  # scikit-learn's default, C = 1
            return (0.5 / len(self.learning.targets),)
        return logistic.STRENGTHS

    def run(self) -> Iterator[Epoch]:
        """Train, yielding every epoch as it is done."""
        rows = self.settings.batch if self.settings.solver is Solver.GRADIENT else len(self.learning.targets)
        # Dropout draws from torch's global generator, which is lent to us and given back.
        generators = torch.random.fork_rng(
            devices=[self.learning.values.device] if self.learning.values.is_cuda else []
        )
        with torch_device.threads(torch_device.threads_for(self.head, self.learning.values[:rows])), generators:
            torch.manual_seed(self.settings.seed)
            for epoch in self._lbfgs() if self.settings.solver is Solver.LBFGS else self._gradient():
                self.epochs.append(epoch)
                yield epoch

    def _gradient(self) -> Iterator[Epoch]:
        settings, learning, checking = self.settings, self.learning, self.checking
        optimizer = optim.optimizer(settings.optimizer, self.head.parameters(), lr=settings.lr)
        return fit(
            Step(self.head, self.objective, optimizer),
            train=lambda _number: shuffled(
                learning.values, learning.targets, batch=settings.batch, generator=self.generator
            ),
            validate=partial(in_order, checking.values, checking.targets) if checking else None,
            best=self.best,
            epochs=settings.epochs,
            patience=settings.patience,
        )

    def _lbfgs(self) -> Iterator[Epoch]:
        layer = self.head[-1]
        assert isinstance(layer, nn.Linear)
        found = logistic.path(
            layer,
            (self.learning.values.flatten(1), self.learning.targets),
            (self.checking.values.flatten(1), self.checking.targets) if self.checking else None,
            strengths=self._strengths(),
            objective=self.objective,
        )
        for strength, epoch in found:
            self.best.offer(epoch, self.head)
            if self.best.epoch is epoch:
                self.strength = strength
            yield epoch

    def answered(self) -> Tensor:
        """Give the best epoch's answers to the validation rows, (N,)."""
        assert self.checking is not None
        self.head.load_state_dict(self.best.state)
        self.head.eval()
        with torch.inference_mode():
            batches = in_order(self.checking.values, self.checking.targets)
            return torch.cat([answers(self.head(inputs)) for inputs, _ in batches])

    def finished(self) -> tuple[build.Network, str]:
        """Give the best epoch's head, preparation folded in, with its notation."""
        self.head.load_state_dict(self.best.state)
        self.head.eval().cpu()
        if self.prepared is None:
            return self.head, self.text
        return preparation.fold(self.prepared, self.head, self.text)
