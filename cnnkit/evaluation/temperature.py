"""One number that makes probabilities mean what they say: the temperature that logits are divided by before the softmax."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import CnnkitError
from cnnkit.evaluation import report as reports
from cnnkit.evaluation.config import CalibrateConfig
from cnnkit.evaluation.matching import COMPLEMENT_FLOOR, FolderTruth, MatchedPredictions, Truth
from cnnkit.evaluation.report import EvaluationReport

if TYPE_CHECKING:
    from cnnkit.formats.onnx_model import OnnxModel

log = logging.getLogger("cnnkit")

_MEASURES = ("n", "accuracy", "log_loss", "ece")
#: Of the images whose logits are lost to rounding, the share that may be passed over in silence.
_FEW = 0.01
#: A class with no more than this anywhere is one that the predictions do not know.
_NOTHING = 1e-5
#: A temperature this close to 1 changes nothing that could be seen.
_AS_IT_WAS = 0.005


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a temperature changes on the images that it was fitted on."""

    temperature: float
    before: EvaluationReport
    after: EvaluationReport

    def rows(self) -> list[dict[str, Any]]:
        """Give the temperature and the measures, before and after."""
        rows: list[dict[str, Any]] = [{"measure": "temperature", "before": 1.0, "after": self.temperature}]
        rows += [
            {"measure": name, "before": getattr(self.before, name), "after": getattr(self.after, name)}
            for name in _MEASURES
        ]
        return rows


def fit(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Find the temperature T whose softmax(logits / T) makes the negative log-likelihood of the truth smallest.

    Logits are known up to a constant an image, which the softmax does not see: their place is taken by log-probabilities. The
    likelihood is convex in 1 / T, so its one minimum is where the derivative is zero.

    Args:
        truth: (N,), the true class.
        probabilities: (N, C), of every class.

    Raises:
        CnnkitError: Every prediction is right, so the surest is the best; or the true classes are no more probable than the others.

    Source:
        Guo, Pleiss, Sun, Weinberger, On calibration of modern neural networks, ICML 2017, section 4.2.
    """
    from scipy.optimize import brentq  # here, for it is slow to load

    logits = _logits(probabilities)  # (N, C)
    given = logits[np.arange(len(truth)), truth]  # (N,)
    if (given == logits.max(axis=1)).all():
        raise CnnkitError(
            f"every answer is right ({len(truth)} pictures), so no temperature is the best: the surer the better; "
            "calibrate on pictures that training has not seen, and more of them"
        )

    def slope(inverse: float) -> float:
        """Derive the mean negative log-likelihood by 1 / T."""
        shares = _softmax(logits * inverse)  # (N, C)
        return float(((shares * logits).sum(axis=1) - given).mean())

    if slope(0.0) >= 0:
        raise CnnkitError(
            "the true classes are no more probable than the others, which no temperature mends; does the truth belong to these "
            "predictions?"
        )
    highest = 1.0
    while slope(highest) < 0:  # ends, since some prediction is wrong
        highest *= 2
    return 1 / float(brentq(slope, 0.0, highest, xtol=1e-12, rtol=1e-10))


def scaled(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Give the probabilities (N, C) that the same logits have at a temperature."""
    return _softmax(_logits(probabilities) / temperature)


def _logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take logarithms; of 0 that of the smallest number that can be told from it, as log-loss has it."""
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
    demand: Callable[[MatchedPredictions], None] = lambda _predictions: None,
) -> Calibration:
    """Fit a temperature to predictions whose truth is known, and put it into the network that made them.

    What is measured afterwards is measured on the same images, so it flatters a little: one number was fitted to them.

    Args:
        files: One: its lines, and where they come from, for messages.
        truth: Where labels are looked up.
        config: The `.onnx` that predicted, which is not changed unless it is the output as well, and the output, which is written last.
        demand: Called with the predictions before anything is made of them; it may refuse them.

    Raises:
        UsageError: As `CalibrateConfig.checked`.
        CnnkitError: A class without probability, predictions that were withheld, no temperature to be found (see `fit`), or predictions
            of other classes than the network's.
        FormatError: The network is none that a temperature can be put into.
    """
    model, output = config.checked().model, config.output
    network = None if model is None else _load(model)
    classes = None if network is None or network.header is None else network.header.classes
    (predictions,) = reports.read(files, truth, classes=classes)
    _check(predictions)
    demand(predictions)
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
    log.info("temperature %.4g: the probabilities were %s", temperature, _verdict(temperature))
    if (result.after.ece or 0.0) > (result.before.ece or 0.0):
        log.info(
            "the log-loss is what a temperature makes small; counted in bins, the calibration error rose: of %d pictures, %d answered "
            "wrongly, little can be told",
            len(predictions.prediction),
            int((predictions.prediction != predictions.truth).sum()),
        )
    if network is not None and output is not None:
        _write(network, temperature, model=str(model), output=output)
    return result


def _verdict(temperature: float) -> str:
    if abs(temperature - 1) < _AS_IT_WAS:
        return "as they should be"
    return "too sure" if temperature > 1 else "too modest"


def _load(model: Path) -> "OnnxModel":
    """Load a network that a temperature can be put into: better to be refused before predictions are waited for."""
    from cnnkit.formats import onnx_model  # here, for onnx is slow to load, and needed with a network alone

    network = onnx_model.load(model)
    onnx_model.tempered(network, 1.0, name=str(model))
    return network


def _check(predictions: MatchedPredictions) -> None:
    """Refuse what has no logits; warn where rounding took them."""
    withheld = int((predictions.prediction < 0).sum())
    if withheld:
        raise CnnkitError(
            f"{withheld} of {len(predictions.paths)} answers were withheld; predict without --min-probability"
        )
    # What no row lists has what the others leave up to 1, which is nothing but their rounding
    highest = np.nan_to_num(predictions.probabilities).max(axis=0)  # (C,)
    strange = [
        label
        for place, label in enumerate(predictions.classes)
        if highest[place] < _NOTHING and place in predictions.truth
    ]
    if strange and len(predictions.classes) > 2:
        raise CnnkitError(
            f'no picture has a probability for "{strange[0]}": is that a class of the network? '
            f"cnn-predict --top {len(predictions.classes)} prints every class"
        )
    short = reports.about_short(predictions)
    if short is not None:
        raise CnnkitError(f"a temperature needs the probability of every class: {short}")
    sums = reports.about_sums(predictions)
    if sums is not None:
        raise CnnkitError(f"a temperature belongs to a softmax, and {sums}")
    if len(predictions.classes) < 2:
        raise CnnkitError(
            f"all pictures are {predictions.classes[0]}, and no other class is predicted: nothing to calibrate"
        )
    lowest = predictions.probabilities.min(axis=1)
    lost = int(((lowest == 0) | (lowest == COMPLEMENT_FLOOR)).sum())
    if lost > _FEW * len(predictions.paths):
        log.warning(
            "%d of %d pictures have a probability that was rounded to 0 or 1, which tells no logit any more; cnn-predict --top %d --json "
            "prints every class with all its digits",
            lost,
            len(predictions.paths),
            len(predictions.classes),
        )


def _write(network: "OnnxModel", temperature: float, *, model: str, output: Path) -> None:
    from cnnkit.formats import onnx_model

    onnx_model.save(output, onnx_model.tempered(network, temperature, name=model))
    before = network.header.temperature if network.header is not None else 1.0
    if before != 1.0:
        log.info("%s: temperature %.6g, for %s has %.6g already", output, before * temperature, model, before)
