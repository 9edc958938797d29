"""Calibration of prediction sets: the threshold with which a set has the true class as often as promised, written into the network."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnkit.choices import SetMethod
from cnnkit.evaluation import conformal, temperature
from cnnkit.evaluation import report as reports
from cnnkit.evaluation.config import CalibrateConfig
from cnnkit.evaluation.matching import FolderTruth, MatchedPredictions, Truth
from cnnkit.formats.header import PredictionSets

if TYPE_CHECKING:
    from cnnkit.formats.onnx_record import OnnxModel

log = logging.getLogger("cnnkit")


@dataclass(frozen=True, slots=True)
class SetCalibration:
    """A threshold of prediction sets, and the sets that it gives the images that it was chosen with.

    `accuracy` is the share of images whose most probable class is the true one, `coverage` that of those whose set has it; `set_size` is
    the mean size and `single` the share of sets of one label.
    """

    sets: PredictionSets
    accuracy: float
    coverage: float
    set_size: float
    single: float

    def rows(self) -> list[dict[str, Any]]:
        """Return rows of measure and value."""
        record: dict[str, Any] = {
            "score": str(self.sets.method),
            "promised_coverage": self.sets.coverage,
            "quantile": self.sets.quantile,
            "n": self.sets.n,
            "accuracy": self.accuracy,
            "coverage": self.coverage,
            "set_size": self.set_size,
            "single": self.single,
        }
        return [{"measure": name, "value": value} for name, value in record.items()]


def fit(
    predictions: MatchedPredictions, coverage: float, method: SetMethod, *, generator: np.random.Generator
) -> SetCalibration:
    """Find the threshold for predictions with known labels and the probability of every class; `generator` as `conformal.true_scores`.

    Raises:
        CnnkitError: There are too few images for the promise.
    """
    order = np.argsort(-predictions.probabilities, axis=1, kind="stable")  # (N, C)
    ranked = np.take_along_axis(predictions.probabilities, order, axis=1)
    place = (order == predictions.truth[:, None]).argmax(axis=1)  # (N,) of the true class, from 0
    threshold = conformal.quantile(conformal.true_scores(ranked, place, method, generator), coverage)
    sets = PredictionSets(method, coverage, threshold, len(place))
    sizes = conformal.sizes(ranked, sets)
    return SetCalibration(
        sets,
        accuracy=float((place == 0).mean()),
        coverage=float((place < sizes).mean()),
        set_size=float(sizes.mean()),
        single=float((sizes == 1).mean()),
    )


def calibrate(
    files: Iterable[tuple[Iterable[bytes], str]],
    truth: Truth | FolderTruth,
    config: CalibrateConfig,
    *,
    demand: Callable[[MatchedPredictions], None] | None = None,
) -> SetCalibration:
    """Find the threshold of prediction sets from predictions with known labels, and write it into the network that made them.

    Args:
        files, truth, demand: As `temperature.calibrate`.
        config: With `sets`, the coverage to promise.

    Raises:
        UsageError: As `CalibrateConfig.checked`.
        CnnkitError: A class without probabilities, withheld predictions, too few images, or predictions of other classes than those of the
            network.
        FormatError: The network has no Header.
    """
    model, output = config.checked().model, config.output
    assert config.sets is not None
    network = None if model is None else _load(str(model))
    classes = None if network is None or network.header is None else network.header.classes
    (predictions,) = reports.read(files, truth, classes=classes)
    temperature.check(predictions, what="prediction sets need", of="prediction sets are of")
    if demand is not None:
        demand(predictions)
    temperature.warn_of_test_images(predictions, truth, what="a threshold is chosen with")
    result = fit(predictions, config.sets, config.score, generator=np.random.default_rng(0))
    low, high = conformal.expected(result.sets.n, result.sets.coverage)
    log.info(
        "the sets of new images have the true class in %.4g %% of cases or more, averaged over all choices of %d images; with these, "
        "in %.3g %% to %.3g %% (95 %% interval)",
        100 * result.sets.coverage,
        result.sets.n,
        100 * low,
        100 * high,
    )
    if result.accuracy > result.sets.coverage:
        log.info(
            "the accuracy, %.4g, exceeds the promise, so nearly all sets have one label; promise more, such as --sets %.4g",
            result.accuracy,
            (1 + result.accuracy) / 2,
        )
    if network is not None and output is not None:
        from cnnkit.formats import onnx_model

        onnx_model.save(output, onnx_model.with_sets(network, result.sets, name=str(model)))
    return result


def _load(name: str) -> "OnnxModel":
    """Load a network and check that it has a Header, before predictions are read."""
    from cnnkit.formats import onnx_model  # here: slow to import, and needed only with a network

    network = onnx_model.load(name)
    header = onnx_model.check_ours(network, name=name, takes="prediction sets")
    header.refuse_several_labels(name, "prediction sets are of one; its thresholds are chosen by training")
    return network
