"""Several answers, of models or to views of a picture, become one. Models' classes are matched by name: each may have its own order."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cnnkit import spelling
from cnnkit.choices import Vote
from cnnkit.errors import CnnkitError

#: Of N pictures: what each class gets (N, classes), and the classes from the best to the last (N, classes).
Ballot = tuple[NDArray[np.float32], NDArray[np.int64]]


def order(
    classes: Sequence[str], reference: Sequence[str], *, name: str, reference_name: str
) -> NDArray[np.int64] | None:
    """Find where a model has the classes of another one: `probabilities[:, order(...)]` has them in the other's order.

    Args:
        classes: Of the model.
        reference: Of the other one.
        name: The model's file, for messages.
        reference_name: The other's file.

    Returns:
        (classes,) indices, or None where there is nothing to change.

    Raises:
        CnnkitError: The two do not have the same classes.
    """
    if tuple(classes) == tuple(reference):
        return None
    only, missing = (sorted(set(one) - set(other)) for one, other in ((classes, reference), (reference, classes)))
    if only or missing:
        sides = [
            f"only {file} has {spelling.some(labels, 5)}"
            for file, labels in ((name, only), (reference_name, missing))
            if labels
        ]
        raise CnnkitError(f"{reference_name} and {name} cannot vote, their classes differ: {', '.join(sides)}")
    if not len(classes) == len(set(classes)) == len(reference):
        raise CnnkitError(f"{reference_name} and {name} cannot vote, they name a class twice and in another order")
    places = {label: place for place, label in enumerate(classes)}
    return np.array([places[label] for label in reference], dtype=np.int64)


def count(probabilities: Sequence[NDArray[np.floating]], vote: Vote) -> Ballot:
    """Come to one answer a picture.

    soft: a class gets the mean of its probabilities. hard: a class gets the share of the answers whose first choice it is; among
    equals the mean of the probabilities decides, and after that the order of the classes. A single answer's soft vote is itself.

    Args:
        probabilities: (N, classes) of each model and view, classes in the same order.
        vote: How.

    Returns:
        What each class gets, from 0 to 1; NaN in the whole row where one answer is not a number. And the ranking.
    """
    stacked = np.stack(probabilities).astype(np.float64)  # (models, N, classes)
    mean = stacked.mean(axis=0)
    if vote is Vote.SOFT:
        got = mean
    else:
        choices = stacked.argmax(axis=2)  # (models, N)
        got = (choices[:, :, None] == np.arange(stacked.shape[2])).mean(axis=0)
    # By what a class gets, then by the mean; the first of equals stays first
    ranking = np.lexsort((-mean, -got), axis=1)
    got = np.where(np.isfinite(mean).all(axis=1, keepdims=True), got, np.nan)
    return got.astype(np.float32), ranking
