"""Votes of several models; expected values are worked by hand."""

import numpy as np
import pytest

from cnnkit.choices import Vote
from cnnkit.errors import CnnkitError
from cnnkit.infer import ensemble


def probabilities(*rows):
    return np.array(rows, dtype=np.float32)


def test_soft_vote_is_the_mean_of_probabilities():
    """Two models, one image: (0.6 + 0.1) / 2 and so on, ranked by it."""
    got, ranking = ensemble.count_votes([probabilities([0.6, 0.3, 0.1]), probabilities([0.1, 0.7, 0.2])], Vote.SOFT)
    np.testing.assert_allclose(got, [[0.35, 0.5, 0.15]], atol=1e-7)
    assert ranking.tolist() == [[1, 0, 2]]


def test_hard_vote_counts_first_choices():
    """Two of three models choose class 0, although the mean is higher for class 1."""
    models = [probabilities([0.51, 0.49, 0]), probabilities([0.51, 0.49, 0]), probabilities([0, 1, 0])]
    got, ranking = ensemble.count_votes(models, Vote.HARD)
    np.testing.assert_allclose(got, [[2 / 3, 1 / 3, 0]], atol=1e-7)
    assert ranking.tolist() == [[0, 1, 2]]
    assert ensemble.count_votes(models, Vote.SOFT)[1][0, 0] == 1


def test_mean_breaks_ties():
    """One vote each for classes 0 and 2: class 2 has the higher mean; classes without votes are ranked by their means, too."""
    models = [probabilities([0.4, 0.2, 0.3, 0.1]), probabilities([0.1, 0.05, 0.8, 0.05])]
    got, ranking = ensemble.count_votes(models, Vote.HARD)
    assert got.tolist() == [[0.5, 0, 0.5, 0]]
    assert ranking.tolist() == [[2, 0, 1, 3]]


def test_class_order_breaks_remaining_ties():
    """The result is deterministic."""
    for vote in Vote:
        assert ensemble.count_votes([np.full((1, 5), 0.2, dtype=np.float32)] * 2, vote)[1].tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("vote", Vote)
def test_prediction_that_is_not_finite_only_affects_its_row(vote):
    """One model's NaN makes the image's row NaN; the row of the next image is valid."""
    got, _ = ensemble.count_votes([probabilities([np.nan, 0.5], [1, 0]), probabilities([0.5, 0.5], [1, 0])], vote)
    assert np.isnan(got[0]).all()
    assert got[1].tolist() == [1, 0]


def test_classes_are_matched_by_name():
    """The columns of one model, reordered, are those of the other."""
    order = ensemble.class_order(["c", "a", "b"], ["a", "b", "c"], name="one", reference_name="two")
    assert np.array(["c", "a", "b"])[order].tolist() == ["a", "b", "c"]
    assert ensemble.class_order(["a", "b"], ["a", "b"], name="one", reference_name="two") is None


@pytest.mark.parametrize(
    ("classes", "reference", "message"),
    [
        (["cat", "fox"], ["cat", "dog"], "only new.onnx has fox, only first.onnx has dog"),
        (["cat"], ["cat", "dog"], "only first.onnx has dog"),
        (["dog", "cat", "cat"], ["cat", "dog", "cat"], "a class name occurs twice"),
        (["dog", "cat", "cat"], ["cat", "dog"], "a class name occurs twice"),
    ],
)
def test_models_with_different_classes_do_not_vote(classes, reference, message):
    """Both files are named, with the classes that only one of them has."""
    with pytest.raises(CnnkitError, match=message) as error:
        ensemble.class_order(classes, reference, name="new.onnx", reference_name="first.onnx")
    assert "first.onnx and new.onnx cannot vote" in str(error.value)
