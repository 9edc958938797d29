"""Split conformal prediction: scores, quantiles and sets, against MAPIE 1.6.0 and formulas worked out by hand."""

import math

import numpy as np
import pytest
from scipy.stats import beta

from cnnkit.choices import SetMethod
from cnnkit.errors import CnnkitError
from cnnkit.evaluation import conformal, set_calibration
from cnnkit.evaluation.matching import MatchedPredictions
from cnnkit.formats.header import PredictionSets

#: MAPIE's quantile and the sizes of its sets for `drawn`: SplitConformalClassifier(conformity_score=..., random_state=RandomState(7)) with
#: 40 images to conformalize, and for aps include_last_label=True.
MAPIE = {
    ("lac", 0.8): (0.76168, [2, 3, 2, 1, 2, 1, 1, 2, 2, 2, 2, 2, 1, 2, 1, 2, 1, 1, 1, 2]),
    ("lac", 0.9): (0.806449, [2, 3, 3, 1, 2, 1, 3, 3, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 1, 2]),
    ("lac", 0.95): (0.904275, [2, 3, 3, 1, 4, 1, 4, 3, 2, 3, 2, 2, 4, 3, 2, 2, 3, 2, 2, 3]),
    ("aps", 0.8): (0.8547174627379673, [2, 3, 3, 1, 3, 1, 4, 3, 2, 3, 2, 2, 3, 3, 2, 2, 2, 2, 2, 2]),
    ("aps", 0.9): (0.909505298617022, [2, 3, 3, 2, 4, 2, 4, 3, 2, 3, 2, 2, 4, 3, 2, 3, 3, 3, 3, 3]),
    ("aps", 0.95): (0.9448446322313797, [2, 3, 4, 2, 4, 2, 4, 4, 2, 3, 2, 2, 4, 4, 3, 3, 3, 3, 3, 3]),
}


def drawn():
    """Draw probabilities of 4 classes, (60, 4), and true classes with these probabilities."""
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([0.5] * 4, size=60).round(6)
    probabilities[:, 0] += 1 - probabilities.sum(axis=1)
    shares = np.abs(probabilities) / np.abs(probabilities).sum(axis=1, keepdims=True)
    return probabilities, np.array([generator.choice(4, p=row) for row in shares])


class SharesOfMapie:
    """MAPIE subtracts the random share from the sum down to the class; here it is added to the sum before it."""

    def __init__(self):
        self._state = np.random.RandomState(7)

    def random(self, count):
        return 1 - self._state.uniform(size=count)


@pytest.mark.parametrize(("method", "coverage"), MAPIE)
def test_quantile_and_sets_are_mapies(method, coverage):
    """The threshold of 40 images, and the sets of 20 others."""
    probabilities, truth = drawn()
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked, places = np.take_along_axis(probabilities, order, axis=1), (order == truth[:, None]).argmax(axis=1)
    threshold, sizes = MAPIE[method, coverage]
    scores = conformal.true_scores(ranked[:40], places[:40], SetMethod(method), SharesOfMapie())
    found = conformal.quantile(scores, coverage)
    assert found == pytest.approx(threshold, abs=1e-12)
    sets = PredictionSets(SetMethod(method), coverage, found, 40)
    assert conformal.sizes(ranked[40:], sets).tolist() == sizes


def test_scores_by_hand():
    """lac: 1 - p; aps: the sum of the probabilities before the class. A set has at least one class."""
    ranked = np.array([[0.6, 0.3, 0.1], [0.5, 0.25, 0.25]])
    assert conformal.scores(ranked, SetMethod.LAC) == pytest.approx(np.array([[0.4, 0.7, 0.9], [0.5, 0.75, 0.75]]))
    assert conformal.scores(ranked, SetMethod.APS) == pytest.approx(np.array([[0, 0.6, 0.9], [0, 0.5, 0.75]]))
    for method, threshold, sizes in (
        (SetMethod.LAC, 0.75, [2, 3]),
        (SetMethod.LAC, 0.45, [1, 1]),  # of the second image no class has this score
        (SetMethod.APS, 0.55, [1, 2]),
        (SetMethod.APS, 0.6, [2, 2]),
    ):
        assert conformal.sizes(ranked, PredictionSets(method, 0.9, threshold, 19)).tolist() == sizes
    printed = np.array([[0.6, 0.3999995]])  # the image that gave the threshold, whose table says 0.4
    assert conformal.sizes(printed, PredictionSets(SetMethod.LAC, 0.9, 0.6, 19)).tolist() == [2]


@pytest.mark.parametrize(("n", "coverage", "place"), [(19, 0.95, 19), (20, 0.95, 20), (39, 0.95, 38), (10, 0.5, 6)])
def test_quantile_is_the_score_of_a_place(n, coverage, place):
    """Place ceil((n + 1) * coverage), Angelopoulos and Bates 2021, equation 1: 20 * 0.95 is 19."""
    scores = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    assert conformal.quantile(scores, coverage) == place


@pytest.mark.parametrize(("coverage", "needed"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99), (0.999, 999)])
def test_rejects_a_promise_with_too_few_images(coverage, needed):
    """With one image less than needed, the quantile would be above all scores."""
    conformal.quantile(np.zeros(needed), coverage)
    assert conformal.needed(coverage) == needed
    with pytest.raises(CnnkitError, match=f"cannot promise a coverage of {coverage}, that needs {needed}; label more"):
        conformal.quantile(np.zeros(needed - 1), coverage)


@pytest.mark.parametrize(("n", "coverage"), [(19, 0.95), (50, 0.9), (360, 0.99), (5000, 0.5), (1, 0.5)])
def test_expected_coverage_has_a_beta_distribution(n, coverage):
    """Beta(k, n + 1 - k) for the score at place k, by scipy."""
    place = math.ceil((n + 1) * coverage)
    assert conformal.expected(n, coverage) == pytest.approx(beta(place, n + 1 - place).ppf([0.025, 0.975]), abs=1e-8)


@pytest.mark.parametrize("method", SetMethod)
def test_promise_holds_for_new_images(method):
    """Over many draws of 50 images, the mean coverage of others is at least that promised; that of one draw has a beta distribution."""
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet([0.3] * 5, size=10_000)
    truth = (probabilities.cumsum(axis=1) > generator.random((10_000, 1))).argmax(axis=1)
    ranked = -np.sort(-probabilities, axis=1)
    places = (np.argsort(-probabilities, axis=1) == truth[:, None]).argmax(axis=1)
    low, high = conformal.expected(50, 0.9)
    found = []
    for start in range(0, 5000, 50):
        part = slice(start, start + 50)
        threshold = conformal.quantile(conformal.true_scores(ranked[part], places[part], method, generator), 0.9)
        sizes = conformal.sizes(ranked[5000:], PredictionSets(method, 0.9, threshold, 50))
        found.append((places[5000:] < sizes).mean())
    assert np.mean(found) > 0.895
    if method is SetMethod.LAC:
        assert np.mean(found) < 0.915
        assert np.mean([low < each < high for each in found]) > 0.88


def test_threshold_is_that_of_all_images():
    """The counts that are printed: coverage, size and sets of one label on the images of the calibration."""
    probabilities, truth = drawn()
    paths = tuple(map(str, range(60)))
    confidence, prediction = probabilities.max(axis=1), probabilities.argmax(axis=1)
    predictions = MatchedPredictions(paths, paths, ("a", "b", "c", "d"), truth, prediction, confidence, probabilities)
    found = set_calibration.fit(predictions, 0.9, SetMethod.LAC, generator=np.random.default_rng(0))
    inside = probabilities >= 1 - np.sort(1 - probabilities[np.arange(60), truth])[54]  # ceil(61 * 0.9) = 55
    assert found.sets.n == 60
    assert found.coverage == inside[np.arange(60), truth].mean() == 55 / 60
    assert found.set_size == inside.sum(axis=1).mean()
    assert found.single == (inside.sum(axis=1) == 1).mean()
    assert found.accuracy == (prediction == truth).mean()
