"""Confident learning, against numbers that cleanlab 2.9.0 gave for the same arrays (Northcutt et al. wrote both)."""

import numpy as np
import pytest

from cnnkit.evaluation import confident_learning

#: find_label_issues(filter_by="predicted_neq_given", return_indices_ranked_by="self_confidence")
DIFFERENT = [
    *(
        143,
        18,
        22,
        39,
        37,
        149,
        24,
        134,
        131,
        104,
        28,
        100,
        93,
        112,
        63,
        72,
        70,
        145,
        105,
        122,
        74,
        135,
        103,
        88,
        61,
        27,
    ),
    *(3, 8, 102, 119, 96, 10, 16, 73, 87, 107, 144, 14, 21, 109, 41, 15, 95, 89, 26, 126, 6, 98, 67, 148, 19, 2),
]


@pytest.fixture(scope="module")
def noisy():
    """Return 150 labels of 3 classes, 20 % of them wrong, and probabilities, (150, 3)."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 150)
    true = np.where(generator.random(150) < 0.7, labels, generator.integers(0, 3, 150))
    logits = generator.normal(size=(150, 3)) + 2 * np.eye(3)[true]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_thresholds_scores_and_joint_are_cleanlabs(noisy):
    """get_confident_thresholds, get_label_quality_scores, and compute_confident_joint without and with calibration, which rounds."""
    np.testing.assert_allclose(confident_learning.thresholds(*noisy), [0.5408, 0.512563, 0.527023], atol=1e-6)
    scores = confident_learning.self_confidence(*noisy)[:4]
    np.testing.assert_allclose(scores, [0.79967, 0.824623, 0.458894, 0.138583], atol=1e-6)
    joint = confident_learning.confident_joint(*noisy)
    np.testing.assert_array_equal(joint, [[25, 6, 6], [7, 28, 9], [6, 8, 33]])
    estimate = confident_learning.estimated_joint(*noisy)
    np.testing.assert_allclose(estimate, [[29, 7, 7], [8, 33, 11], [7, 9, 39]], atol=1)
    np.testing.assert_allclose(estimate.sum(axis=1), np.bincount(noisy[0]))


def test_labels_are_ranked_as_by_cleanlab(noisy):
    """The count of wrong labels is that of the calibrated joint outside its diagonal: 49 in cleanlab."""
    ranked = confident_learning.rank(*noisy)
    assert ranked.order.tolist() == DIFFERENT
    assert ranked.wrong == 49


def test_a_class_without_labels_takes_none():
    """As in cleanlab: no image counts for a class that is no image's label."""
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.05, 0.05], [0.1, 0.1, 0.8], [0.1, 0.9, 0.0], [0.1, 0.8, 0.1]])
    assert confident_learning.thresholds(labels, probabilities).tolist() == pytest.approx([0.5, 0.85, np.inf])
    joint = confident_learning.confident_joint(labels, probabilities)
    assert joint.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    ranked = confident_learning.rank(labels, probabilities)
    assert (ranked.order.tolist(), ranked.wrong) == ([1], 0)


def test_a_class_with_one_label_has_its_probability_as_threshold():
    labels, probabilities = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6]])
    assert confident_learning.thresholds(labels, probabilities) == pytest.approx([0.8, 0.6])


def test_equal_scores_keep_the_order_of_the_images():
    """Of 200 images, more than the 16 that unstable sorting leaves in order."""
    labels = np.arange(200) % 2
    probabilities = np.where(np.arange(2) == labels[:, None], 0.3, 0.7)
    assert confident_learning.rank(labels, probabilities).order.tolist() == list(range(200))


def test_image_that_reaches_two_thresholds_counts_for_the_more_probable_class():
    """By hand: thresholds 0.4, 0.45, 0.8; the first image reaches those of the first two classes."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    probabilities = np.array([[0.42, 0.48, 0.1], [0.38, 0.52, 0.1], *[[0.05, 0.45, 0.5]] * 2, *[[0.1, 0.1, 0.8]] * 2])
    joint = confident_learning.confident_joint(labels, probabilities)
    assert joint.tolist() == [[1, 2, 0], [0, 2, 0], [0, 0, 2]]


def test_equal_probabilities_reach_their_mean():
    """The mean of three times 0.1 is above 0.1 in floating point."""
    labels, probabilities = np.zeros(3, np.int64), np.array([[0.1, 0.9]] * 3)
    assert confident_learning.thresholds(labels, probabilities)[0] > 0.1
    assert confident_learning.confident_joint(labels, probabilities).tolist() == [[3, 0], [0, 1]]


def test_no_more_suspects_than_labels_that_differ():
    """The first image counts for the second class, although its label is predicted."""
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.5, 0.45, 0.05], [0.9, 0.05, 0.05], [0.25, 0.4, 0.35], [0.35, 0.4, 0.25]])
    assert confident_learning.confident_joint(labels, probabilities).tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 1]]
    ranked = confident_learning.rank(labels, probabilities)
    assert (ranked.order.tolist(), ranked.wrong) == ([], 0)


def test_perfect_labels_have_no_suspect():
    """No label differs from the prediction."""
    labels = np.array([0, 1, 0, 1])
    ranked = confident_learning.rank(labels, np.eye(2)[labels] * 0.8 + 0.1)
    assert (ranked.order.tolist(), ranked.wrong) == ([], 0)
