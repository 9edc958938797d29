"""Multinomial logistic regression on all rows at once: L-BFGS on a convex loss, so that there is no learning rate to tune."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cnnkit.choices import Loss
from cnnkit.train.loop import Epoch, evaluate, in_order
from cnnkit.train.optim import Objective

#: The strengths tried, from strong to weak, each starting from the solution before.
STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(4, -13, -1))


def solve(layer: nn.Linear, features: Tensor, targets: Tensor, *, l2: float, objective: Objective) -> None:
    """Minimise mean cross-entropy + l2 * sum w**2 in place, from where the layer stands, in float64.

    With l2 = 1 / (2 * C * N) this is scikit-learn's `LogisticRegression(C=C)`.

    Args:
        layer: (D,) -> (classes,).
        features: (N, D).
        targets: (N,).
        l2: Strength of the penalty on weights, biases left alone.
        objective: For class weights and smoothing; its own penalties do not count.
    """
    double = nn.Linear(layer.in_features, layer.out_features, device=features.device, dtype=torch.float64)
    double.load_state_dict({name: tensor.double() for name, tensor in layer.state_dict().items()})
    rows = features.double()
    loss_of = Objective(
        objective.loss,
        objective.smoothing,
        None if objective.class_weights is None else objective.class_weights.double(),
    )
    optimizer = torch.optim.LBFGS(
        double.parameters(),
        max_iter=500,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(double(rows), targets) + l2 * double.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call] # torch ships it untyped
    layer.load_state_dict({name: tensor.float() for name, tensor in double.state_dict().items()})


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
    plain = Objective(Loss(objective.loss))
    for number, strength in enumerate(strengths, start=1):
        started = time.perf_counter()
        solve(layer, *train, l2=strength, objective=objective)
        train_loss, train_accuracy = evaluate(layer, in_order(*train), plain)
        val_loss, val_accuracy = evaluate(layer, in_order(*validate), plain) if validate else (None, None)
        yield (
            strength,
            Epoch(
                number, train_loss, train_accuracy, val_loss, val_accuracy, 0.0, round(time.perf_counter() - started, 3)
            ),
        )
