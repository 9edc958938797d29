"""Multinomial logistic regression on all rows at once: L-BFGS on a convex loss, so that there is no learning rate to tune."""

import copy
import dataclasses
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cnnkit.train.epoch import Epoch
from cnnkit.train.loop import evaluate, in_order
from cnnkit.train.optim import Objective

#: The strengths tried, from strong to weak, each starting from the solution before.
STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(2, -13, -1))
#: After this many strengths in a row without a lower validation loss, weaker ones are not tried: they cost the most.
PATIENCE = 3


def solve(layer: nn.Linear, features: Tensor, targets: Tensor, *, l2: float, objective: Objective) -> None:
    """Minimise mean cross-entropy + l2 * sum w**2 in place, from where the layer stands.

    With l2 = 1 / (2 * C * N) this is scikit-learn's `LogisticRegression(C=C)`.

    Args:
        layer: (D,) -> (classes,).
        features: (N, D).
        targets: (N,).
        l2: Strength of the penalty on weights, biases left alone.
        objective: For class weights and smoothing; its own penalties do not count.
    """
    # In float64: the last steps change the loss by less than float32 can tell, and probabilities by more than 1e-3
    exact, rows = copy.deepcopy(layer).double(), features.double()
    if objective.class_weights is not None:
        objective = dataclasses.replace(objective, class_weights=objective.class_weights.double())
    optimizer = torch.optim.LBFGS(
        exact.parameters(),
        max_iter=500,
        max_eval=1000,
        history_size=20,
        tolerance_grad=1e-7,  # of the mean loss: scikit-learn's default is 1e-4, which leaves probabilities wrong by 1e-2
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(exact(rows), targets) + l2 * exact.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call] # torch ships it untyped
    layer.load_state_dict(exact.state_dict())  # rounds


def path(
    layer: nn.Linear,
    train: tuple[Tensor, Tensor],
    validate: tuple[Tensor, Tensor] | None,
    *,
    strengths: tuple[float, ...],
    objective: Objective,
) -> Iterator[tuple[float, Epoch]]:
    """Solve for one strength after another, and report each as if it were an epoch.

    Yields:
        The strength, and its measures; `lr` is 0, there is none.
    """
    plain = Objective(objective.loss)
    losses: list[float] = []
    for number, strength in enumerate(strengths, start=1):
        started = time.perf_counter()
        solve(layer, *train, l2=strength, objective=objective)
        train_loss, train_accuracy = evaluate(layer, in_order(*train), plain)
        val_loss, val_accuracy = evaluate(layer, in_order(*validate), plain) if validate else (None, None)
        seconds = round(time.perf_counter() - started, 3)
        yield strength, Epoch(number, train_loss, train_accuracy, val_loss, val_accuracy, 0.0, seconds)
        losses.append(math.inf if val_loss is None else val_loss)
        if len(losses) > PATIENCE and min(losses[-PATIENCE:]) > min(losses[:-PATIENCE]):
            return
