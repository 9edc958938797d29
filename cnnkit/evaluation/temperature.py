"""Temperature scaling: calibrate probabilities by one number that divides the logits before the softmax."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import messages
from cnnkit.errors import CnnkitError
from cnnkit.evaluation import report as reports
from cnnkit.evaluation.config import CalibrateConfig
from cnnkit.evaluation.matching import COMPLEMENT_FLOOR, FolderTruth, MatchedPredictions, Truth
from cnnkit.evaluation.report import EvaluationReport
from cnnkit.evaluation.roots import brent
from cnnkit.formats import manifest

if TYPE_CHECKING:
    from cnnkit.formats.onnx_record import OnnxModel

log = logging.getLogger("cnnkit")

_MEASURES = ("n", "accuracy", "log_loss", "ece")
#: The share of images whose logits are lost to rounding up to which there is no warning.
_FEW = 0.01
#: The 95 % quantile of chi-squared with one degree of freedom.
_CHI_SQUARED = 3.841458820694124
#: A class whose probability is nowhere above this is unknown to the predictions.
_NOTHING = 1e-5
#: A temperature this close to 1 has no visible effect.
_AS_IT_WAS = 0.005


@dataclass(frozen=True, slots=True)
class Calibration:
    """The effect of a temperature on the images that it was fitted to."""

    temperature: float
    before: EvaluationReport
    after: EvaluationReport

    def rows(self) -> list[dict[str, Any]]:
        """Return the temperature and the measures, before and after."""
        rows: list[dict[str, Any]] = [{"measure": "temperature", "before": 1.0, "after": self.temperature}]
        rows += [
            {"measure": name, "before": getattr(self.before, name), "after": getattr(self.after, name)}
            for name in _MEASURES
        ]
        return rows


def fit(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Find the temperature T for which softmax(logits / T) minimizes the negative log-likelihood of the truth.

    Log-probabilities stand in for logits: they differ by a constant per image, which the softmax cancels. The negative log-likelihood is
    convex in 1 / T, so its only minimum is where the derivative is zero.

    Args:
        truth: (N,), the true class.
        probabilities: (N, C), of every class.

    Raises:
        CnnkitError: Every prediction is correct, so there is no minimum; or the true classes are no more probable than the others.

    Source:
        Guo, Pleiss, Sun, Weinberger, On calibration of modern neural networks, ICML 2017, section 4.2.
    """
    logits = _logits(probabilities)  # (N, C)
    given = logits[np.arange(len(truth)), truth]  # (N,)
    if (given == logits.max(axis=1)).all():
        raise CnnkitError(
            f"all {len(truth)} predictions are correct, so no temperature is optimal; "
            "calibrate on more images that were not used in training"
        )

    def slope(inverse: float) -> float:
        """Compute the derivative of the mean negative log-likelihood with respect to 1 / T."""
        shares = _softmax(logits * inverse)  # (N, C)
        return float(((shares * logits).sum(axis=1) - given).mean())

    if slope(0.0) >= 0:
        raise CnnkitError(
            "the true classes are no more probable than the others, which no temperature can correct; "
            "do the truth and the predictions belong together?"
        )
    highest = 1.0
    while slope(highest) < 0:  # terminates, since a prediction is wrong
        highest *= 2
    return 1 / brent(slope, 0.0, highest, absolute=1e-12, relative=1e-10)


def interval(truth: NDArray[np.int64], probabilities: NDArray[np.float64], temperature: float) -> tuple[float, float]:
    """Compute the 95 % confidence interval of a temperature that was fitted, by its likelihood ratio; the upper end may be infinite.

    Args:
        truth: (N,), the true class.
        probabilities: (N, C), of every class.
        temperature: What `fit` found.

    Source:
        Wilks, The large-sample distribution of the likelihood ratio for testing composite hypotheses, 1938.
    """
    logits = _logits(probabilities)  # (N, C)
    given = logits[np.arange(len(truth)), truth]  # (N,)

    def loss(inverse: float) -> float:
        scaled = logits * inverse
        highest = scaled.max(axis=1, keepdims=True)
        totals = np.log(np.exp(scaled - highest).sum(axis=1)) + highest[:, 0]  # log-sum-exp
        return float((totals - given * inverse).sum())

    best = 1 / temperature
    limit = loss(best) + _CHI_SQUARED / 2
    highest = 2 * best
    while loss(highest) < limit:  # terminates, since a prediction is wrong
        highest *= 2
    low = 1 / brent(lambda inverse: loss(inverse) - limit, best, highest)
    if loss(0.0) <= limit:
        return low, math.inf
    return low, 1 / brent(lambda inverse: loss(inverse) - limit, 0.0, best)


def scaled(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Compute the probabilities (N, C) of the same logits at a temperature."""
    return _softmax(_logits(probabilities) / temperature)


def _logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take logarithms; 0 counts as the float64 epsilon, as in log-loss."""
    return np.log(np.where(probabilities > 0, probabilities, np.finfo(np.float64).eps))


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def calibrate(
    files: Iterable[tuple[Iterable[bytes], str]],
    truth: Truth | FolderTruth,
    config: CalibrateConfig,
    *,
    demand: Callable[[MatchedPredictions], None] | None = None,
) -> Calibration:
    """Fit a temperature to predictions with known labels, and write it into the network that made them.

    The measures afterwards are slightly optimistic: one number was fitted to the same images.

    Args:
        files: One file: its lines, and its name, for messages.
        truth: The true labels.
        config: The `.onnx` that predicted, which changes only if it is also the output, and the output, which is written last.
        demand: Called with the predictions first; raises if it refuses them.

    Raises:
        UsageError: As `CalibrateConfig.checked`.
        CnnkitError: A class without probabilities, withheld predictions, no optimal temperature (see `fit`), or predictions of other
            classes than those of the network.
        FormatError: The network cannot get a temperature.
    """
    model, output = config.checked().model, config.output
    network = None if model is None else _load(model)
    classes = None if network is None or network.header is None else network.header.classes
    (predictions,) = reports.read(files, truth, classes=classes)
    check(predictions, what="a temperature needs", of="a temperature calibrates")
    _warn_of_lost(predictions)
    if demand is not None:
        demand(predictions)
    warn_of_test_images(predictions, truth, what="a temperature is fitted to")
    temperature = fit(predictions.truth, predictions.probabilities)
    probabilities = scaled(predictions.probabilities, temperature)
    result = Calibration(
        temperature,
        before=reports.measure(predictions),
        after=reports.measure(
            replace(
                predictions,
                confidence=probabilities[np.arange(len(predictions.prediction)), predictions.prediction],
                probabilities=probabilities,
            )
        ),
    )
    low, high = interval(predictions.truth, predictions.probabilities, temperature)
    log.info(
        "temperature %.4g, 95 %% interval %.3g to %s: %s",
        temperature,
        low,
        f"{high:.3g}" if math.isfinite(high) else "infinity",
        _verdict(temperature, low, high, images=len(predictions.truth)),
    )
    if (result.after.ece or 0.0) > (result.before.ece or 0.0):
        log.info(
            "the temperature minimizes log-loss, but ECE went up; with %d errors in %d images, ECE is noisy",
            int((predictions.prediction != predictions.truth).sum()),
            len(predictions.prediction),
        )
    if network is not None and output is not None:
        _write(network, temperature, model=str(model), output=output)
    return result


def warn_of_test_images(predictions: MatchedPredictions, truth: Truth | FolderTruth, *, what: str) -> None:
    """Warn if a calibration, such as "a temperature is fitted to", uses the test set."""
    splits = map(truth.split_of, predictions.paths, predictions.resolved)
    count = sum((split or "").lower() in manifest.TEST_NAMES for split in splits)
    if count:
        log.warning(
            "%s of the test set: after %s them, they no longer measure the network on unseen images; "
            "use the validation set (--split val)",
            messages.count_images(count),
            what,
        )


def _verdict(temperature: float, low: float, high: float, *, images: int) -> str:
    if abs(temperature - 1) < _AS_IT_WAS:
        return "the probabilities were calibrated"
    if low <= 1 <= high:
        return f"{messages.count_images(images)} are too few to tell whether the probabilities were over- or underconfident"
    return f"the probabilities were {'overconfident' if temperature > 1 else 'underconfident'}"


def _load(model: Path) -> "OnnxModel":
    """Load a network and check that it can get a temperature, before predictions are read."""
    from cnnkit.formats import onnx_model  # here: slow to import, and needed only with a network

    network = onnx_model.load(model)
    if network.header is not None:
        network.header.refuse_several_labels(
            str(model), "a temperature is fitted to one; its thresholds are chosen by training"
        )
    onnx_model.tempered(network, 1.0, name=str(model))
    return network


def check(predictions: MatchedPredictions, *, what: str, of: str) -> None:
    """Check that the predictions are the probabilities of a softmax, of every class.

    Args:
        predictions: Those to calibrate.
        what: The subject of the error about missing probabilities: "a temperature needs".
        of: That of the error about other outputs: "a temperature calibrates".

    Raises:
        CnnkitError: A class without probabilities, withheld predictions, probabilities that do not sum to 1, or a single class.
    """
    reports.refuse_withheld(predictions)
    # A class that no row lists has 1 minus the sum of the others: a rounding error
    highest = np.nan_to_num(predictions.probabilities).max(axis=0)  # (C,)
    strange = [
        label
        for place, label in enumerate(predictions.classes)
        if highest[place] < _NOTHING and place in predictions.truth
    ]
    if strange and len(predictions.classes) > 2:
        raise CnnkitError(
            f'no image has a probability for "{strange[0]}": is it a class of the network? predict with --top all'
        )
    short = reports.about_short(predictions)
    if short is not None:
        raise CnnkitError(f"{what} the probability of every class: {short}")
    sums = reports.about_sums(predictions)
    if sums is not None:
        raise CnnkitError(f"{of} a softmax, but {sums}")
    if len(predictions.classes) < 2:
        raise CnnkitError(f"there is only one class, {predictions.classes[0]}: nothing to calibrate")


def _warn_of_lost(predictions: MatchedPredictions) -> None:
    """Warn if rounding lost the logits."""
    lowest = predictions.probabilities.min(axis=1)
    lost = int(((lowest == 0) | (lowest == COMPLEMENT_FLOOR)).sum())
    if lost > _FEW * len(predictions.paths):
        log.warning(
            "%d of %d images have a probability rounded to 0 or 1, so their logits are lost; "
            "predict with --top all --json, which prints all digits",
            lost,
            len(predictions.paths),
        )


def _write(network: "OnnxModel", temperature: float, *, model: str, output: Path) -> None:
    from cnnkit.formats import onnx_model

    onnx_model.save(output, onnx_model.tempered(network, temperature, name=model))
    before = network.header.temperature if network.header is not None else 1.0
    if before != 1.0:
        log.info(
            "%s: temperature %.6g, as %s already has %.6g (they multiply)", output, before * temperature, model, before
        )
    if network.header is not None and network.header.sets is not None:
        log.warning(
            "%s has no prediction sets: those of %s are for its probabilities before; predict again with %s and find them again, "
            "with the coverage %g",
            output,
            model,
            output,
            network.header.sets.coverage,
        )
