"""Multinomial logistic regression on all rows at once: L-BFGS on a convex loss, so that there is no learning rate to tune."""

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cnnkit.errors import CnnkitError
from cnnkit.train.loop import Epoch, evaluate, in_order
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

    Raises:
        CnnkitError: The search left the numbers that float32 has.
    """
    optimizer = torch.optim.LBFGS(
        layer.parameters(),
        max_iter=200,
        history_size=20,
        tolerance_grad=1e-5,  # of the mean loss, ten times as strict as scikit-learn's default
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(layer(features), targets) + l2 * layer.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call] # torch ships it untyped
    if not bool(layer.weight.isfinite().all()) or not math.isfinite(float(closure().detach())):
        raise CnnkitError(
            f"logistic regression found no solution at l2 {l2:g}: the features are too large; try --standardize"
        )


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
