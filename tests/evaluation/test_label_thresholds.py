"""Thresholds for several labels per image: the largest F1 score of each class, against scikit-learn's over all cuts."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from cnnkit.evaluation import label_thresholds


def f1(present, probabilities, threshold):
    return f1_score(present, probabilities >= np.float32(threshold), zero_division=0)


@pytest.mark.parametrize("digits", [1, 2, 8])
def test_no_other_cut_has_a_larger_f1_score(digits):
    """With many ties (one digit) and none (eight digits), for rare and for frequent classes, and for few images."""
    generator = np.random.default_rng(digits)
    for count in (1, 2, 5, 40):
        probabilities = generator.random((count, 5)).round(digits).astype(np.float32)
        targets = generator.random((count, 5)) < [0.05, 0.2, 0.5, 0.9, 1.0]
        for column, present, chosen in zip(
            probabilities.T, targets.T, label_thresholds.best(probabilities, targets), strict=True
        ):
            cuts = [*np.unique(column), 1.1]
            assert f1(present, column, chosen) == max(f1(present, column, cut) for cut in cuts)


def test_a_threshold_is_in_the_middle_between_two_probabilities():
    """Cut between 0.2 and 0.3: 0.25."""
    probabilities = np.array([[0.1], [0.2], [0.3], [0.4]], dtype=np.float32)
    assert label_thresholds.best(probabilities, np.array([[0], [0], [1], [1]])) == (0.25,)


def test_one_half_stays_where_it_is_as_good_as_any_other():
    probabilities = np.array([[0.1], [0.2], [0.8], [0.9]], dtype=np.float32)
    assert label_thresholds.best(probabilities, np.array([[0], [0], [1], [1]])) == (0.5,)


def test_of_equal_scores_the_cut_nearest_to_one_half_is_chosen():
    """Labels of the ranks 1 and 4 of 4: F1 is 2/3 from 0.9 on and from 0.05 on; 0.8 is nearer to one half than 0.025."""
    probabilities = np.array([[0.9], [0.7], [0.6], [0.05]], dtype=np.float32)
    present = np.array([[1], [0], [0], [1]])
    (chosen,) = label_thresholds.best(probabilities, present)
    assert f1(present[:, 0], probabilities[:, 0], chosen) == f1(present[:, 0], probabilities[:, 0], 0.05)
    assert chosen == pytest.approx(0.8)


def test_a_class_without_images_keeps_one_half():
    assert label_thresholds.best(np.array([[0.9], [0.1]], dtype=np.float32), np.zeros((2, 1))) == (0.5,)


def test_another_preferred_threshold_takes_the_place_of_one_half():
    """It stays where it is as good as any other cut, and in a class without images; else the best cut nearest to it is chosen."""
    probabilities = np.array([[0.9, 0.1, 0.9], [0.7, 0.2, 0.1], [0.6, 0.8, 0.3], [0.05, 0.9, 0.4]], dtype=np.float32)
    present = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 1, 0]])
    chosen = label_thresholds.best(probabilities, present, near=[0.1, 0.3, 0.7])
    assert chosen == (pytest.approx(0.025), 0.3, 0.7)


def test_neighbouring_numbers_are_told_apart():
    """Between two neighbouring float32 there is no middle: the threshold is the larger one."""
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    (chosen,) = label_thresholds.best(np.array([[low], [high]]), np.array([[0], [1]]))
    assert np.float32(chosen) == high
