"""Bounds on measures, as given on the command line: `accuracy=0.95`, `recall:cat=0.9`, `log_loss=0.2`."""

import math
from collections.abc import Iterable, Mapping

from cnnkit import class_names, messages
from cnnkit.errors import UsageError

#: Measures over all classes of several labels per image; each has an interval.
OF_LABELS = (
    "mAP",
    "f1_micro",
    "f1_macro",
    "precision_micro",
    "precision_macro",
    "recall_micro",
    "recall_macro",
    "subset_accuracy",
)
HIGHER_IS_BETTER = (
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "accuracy_predicted",
    "balanced_accuracy",
    "roc_auc",
    "n",
    "predicted",
    "iou",
    "iou_50",
    "iou_50_low",
    "iou_50_high",
    "boxes",
    "coverage",
    "coverage_low",
    "coverage_high",
    "single",
    *OF_LABELS,
    "average_precision:CLASS",
    "precision:CLASS",
    "recall:CLASS",
    "f1:CLASS",
    "support:CLASS",
    "coverage:CLASS",
)
LOWER_IS_BETTER = ("log_loss", "ece", "set_size", "hamming_loss")

_OF_SETS = ("coverage", "coverage_low", "coverage_high", "single", "set_size", "coverage:CLASS")

#: Measures of predictions of several labels per image, and of boxes.
_SEVERAL = frozenset(OF_LABELS) | {"hamming_loss"}
_BOXES = frozenset({"iou", "iou_50", "iou_50_low", "iou_50_high", "boxes"})

_UP_TO_ONE = frozenset(HIGHER_IS_BETTER) - {"n", "predicted", "boxes", "support:CLASS"} | {"ece", "hamming_loss"}


def parse(words: Iterable[str], *, option: str, lower_is_better: bool = False) -> dict[str, float]:
    """Parse `measure=bound`, before any work is done; `check` finds classes that do not exist.

    Args:
        words: The values of the option.
        option: The option, for messages.
        lower_is_better: Whether they are upper bounds on measures such as log-loss, or lower bounds on measures such as accuracy.

    Raises:
        UsageError: There is no such measure, it belongs to the other option, or the bound is outside its range.
    """
    measures: tuple[str, ...] = LOWER_IS_BETTER if lower_is_better else HIGHER_IS_BETTER
    others: tuple[str, ...] = HIGHER_IS_BETTER if lower_is_better else LOWER_IS_BETTER
    bounds: dict[str, float] = {}
    for word in words:
        name, _, number = class_names.normal(word).rpartition("=")
        kind = f"{name.partition(':')[0]}:CLASS" if ":" in name else name
        if kind in others:
            better, instead = ("higher", "--fail-under") if lower_is_better else ("lower", "--fail-over")
            raise UsageError(f"{option} {word}: a {better} {name} is better; use {instead} {word}")
        if kind not in measures:
            raise UsageError(f"{option} {word}: {_unknown(name, measures)}")
        if name in bounds:
            raise UsageError(f"{option} {word}: {name} already has the bound {bounds[name]:g}; give one")
        try:
            bounds[name] = float(number)
        except ValueError:
            bounds[name] = math.nan
        if not (0 <= bounds[name] <= (1 if kind in _UP_TO_ONE else math.inf) and math.isfinite(bounds[name])):
            between = "between 0 and 1" if kind in _UP_TO_ONE else "from 0"
            raise UsageError(f'{option} {word}: "{number}" is not a valid bound; {name} is a number {between}')
    return bounds


def check(measures: Mapping[str, float | None], bounds: Mapping[str, float]) -> dict[str, tuple[float | None, float]]:
    """Compare each measure with its bound.

    Raises:
        UsageError: A bound on a class that does not exist, or on boxes or prediction sets if there are none.
    """
    for name in bounds:
        if name not in measures:
            if name.partition(":")[0] in _OF_SETS and "coverage" not in measures:
                raise UsageError(
                    f"no {name} without prediction sets; it needs the column set_size, which cnn-predict --sets prints"
                )
            several = "mAP" in measures
            if not several and (name in _SEVERAL or name.startswith("average_precision:")):
                raise UsageError(f"no {name} with one label per image; it needs predictions of a multi-label model")
            if ":" not in name and name not in _BOXES:
                raise UsageError(_unknown(name, [other for other in measures if ":" not in other]))
            if name in HIGHER_IS_BETTER:
                raise UsageError(
                    f"no {name} without boxes; it needs the column box in the predictions of a network of cnn-train --predict-box, and "
                    "in the manifest of --truth"
                )
            kind = name.partition(":")[0]
            raise UsageError(_unknown(name, [other for other in measures if other.startswith(f"{kind}:")]))
    return {name: (measures[name], bound) for name, bound in bounds.items()}


def _unknown(name: str, measures: Iterable[str]) -> str:
    listed = list(measures)
    near = messages.similar(name, listed, most=1)
    shown = ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")
    what = f'no measure "{name}"' if name else "expected MEASURE=BOUND"
    meant = f'; did you mean "{near[0]}"?' if near else ""
    return f"{what}{meant} (measures: {shown})"
