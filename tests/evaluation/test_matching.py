"""Predictions matched with the truth: arrays, and errors that name mismatches."""

import os
from dataclasses import dataclass

import numpy as np
import pytest

from cnnkit.errors import CnnkitError
from cnnkit.evaluation.matching import FolderTruth, Truth, match, match_each
from cnnkit.formats.prediction_columns import PredictionColumns
from cnnkit.formats.predictions import Prediction

NAN = float("nan")


@dataclass
class Image:
    path: str
    label: str | None
    split: str | None = None
    group: str | None = None
    labels: tuple[str, ...] | None = None


def truth(**labels):
    """Make a truth of images named after the keywords: a="cat" is a.jpg."""
    return Truth([Image(f"{name}.jpg", label) for name, label in labels.items()], name="split.tsv")


def run(rows, against, **words):
    return match(PredictionColumns.of(Prediction(*row) for row in rows), against, name="p.tsv", **words)


def test_arrays_are_in_the_order_of_predictions():
    """Rows of an image may be anywhere; classes are sorted; unlisted probabilities are NaN."""
    rows = [
        ("b.jpg", 1, "dog", 0.5),
        ("a.jpg", 2, "owl", 0.2),
        ("b.jpg", 2, "cat", 0.3),
        ("a.jpg", 1, "cat", 0.7),
        ("b.jpg", 3, "owl", 0.2),
        ("c.jpg", 1, "cat", 0.6),
    ]
    predictions, missing = run(rows, truth(a="cat", b="owl", c="dog"))
    assert missing == []
    assert predictions.paths == ("b.jpg", "a.jpg", "c.jpg")
    assert predictions.classes == ("cat", "dog", "owl")
    assert predictions.truth.tolist() == [2, 0, 1]
    assert predictions.prediction.tolist() == [1, 0, 0]
    assert predictions.confidence.tolist() == [0.5, 0.7, 0.6]
    expected = [[0.3, 0.5, 0.2], [0.7, 0.1, 0.2], [0.6, NAN, NAN]]
    assert np.allclose(predictions.probabilities, expected, equal_nan=True)


def test_one_probability_is_enough_for_two_classes():
    """The unlisted class gets 1 minus the other, but at least half of the sixth digit."""
    predictions, _ = run([("a.jpg", 1, "cat", 0.7), ("b.jpg", 1, "dog", 1.0)], truth(a="cat", b="dog"))
    assert np.allclose(predictions.probabilities[0], [0.7, 0.3])
    assert predictions.probabilities[1].tolist() == [5e-7, 1.0]


def test_withheld_prediction_is_minus_one():
    """The index of `?` is -1; its probability belongs to the unlisted class if all others are listed."""
    rows = [("a.jpg", 1, "?", 0.6), ("a.jpg", 2, "cat", 0.4), ("b.jpg", 1, "?", 0.6)]
    predictions, _ = run(rows, truth(a="cat", b="dog"))
    assert predictions.prediction.tolist() == [-1, -1]
    assert np.allclose(predictions.probabilities, [[0.4, 0.6], [NAN, NAN]], equal_nan=True)


def test_real_paths_are_compared(tmp_path, monkeypatch):
    """Links, dots and absolute paths lead to the same image; predictions keep the path as written."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    for written in ("real/a.jpg", "./link/../real/a.jpg", "link/a.jpg", os.path.join(tmp_path, "link", "a.jpg")):
        predictions, missing = run([(written, 1, "cat", 1.0)], Truth([Image("real/a.jpg", "cat")], name="split.tsv"))
        assert predictions.paths == (written,)
        assert missing == []


def test_returns_truth_without_predictions():
    """The second result has the images of the truth that were not predicted."""
    _, missing = run([("b.jpg", 1, "dog", 1.0)], truth(a="cat", b="dog", c="cat"))
    assert [image.path for image in missing] == ["a.jpg", "c.jpg"]


def test_class_is_the_folder(tmp_path, monkeypatch):
    """Without a manifest, the class is the folder in the path as written, even if the image is a link."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "1.jpg").touch()
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").symlink_to("../store/1.jpg")
    monkeypatch.chdir(tmp_path / "cat")
    predictions, _ = run([("1.jpg", 1, "cat", 1.0), ("../dog/2.jpg", 1, "cat", 1.0)], FolderTruth())
    assert [predictions.classes[index] for index in predictions.truth] == ["cat", "dog"]


def test_files_share_classes():
    """A class in one file is a class of the other too, also if folders are the truth."""
    files = [
        (PredictionColumns.of([Prediction("cat/1.jpg", 1, "cat", 0.9)]), "a.tsv"),
        (PredictionColumns.of([Prediction("dog/2.jpg", 1, "cat", 0.8)]), "b.tsv"),
    ]
    (one, other), _ = match_each(files, FolderTruth())
    assert one.classes == other.classes == ("cat", "dog")
    assert np.allclose(one.probabilities, [[0.9, 0.1]])
    whole = one.and_of([other])
    assert whole.paths == ("cat/1.jpg", "dog/2.jpg")
    assert (whole.truth.tolist(), whole.prediction.tolist()) == ([0, 1], [0, 0])
    assert whole.of([1]).paths == other.paths


def test_predictions_may_have_more_classes_than_the_truth():
    """A network may have classes without images in the truth."""
    rows = [Prediction("a.jpg", 1, "owl", 0.5), Prediction("a.jpg", 2, "cat", 0.4), Prediction("a.jpg", 3, "?", 0.1)]
    (predictions,), _ = match_each([(PredictionColumns.of(rows), "p.tsv")], truth(a="cat"))
    assert predictions.classes == ("cat", "owl")


def test_given_classes_define_the_order():
    """Classes without images in the truth can be given, and are counted."""
    predictions, _ = run([("a.jpg", 1, "owl", 1.0)], truth(a="cat"), classes=("owl", "cat"))
    assert predictions.classes == ("owl", "cat")
    assert (predictions.truth.tolist(), predictions.prediction.tolist()) == ([1], [0])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("x.jpg", 1, "cat", 1.0), ("y.jpg", 1, "cat", 1.0)],
            "p.tsv: split.tsv has no label for x.jpg, y.jpg (looked for /",
        ),
        ([("u.jpg", 1, "cat", 1.0)], "p.tsv: split.tsv has no label for u.jpg"),
        (
            [("a.jpg", 1, "cat", 0.9), ("a.jpg", 1, "dog", 0.1)],
            'p.tsv: a.jpg is predicted twice: "cat" at rank 1, "dog" at rank 1',
        ),
        (
            [("a.jpg", 1, "cat", 0.9), ("a.jpg", 2, "cat", 0.1)],
            'p.tsv: a.jpg is predicted twice: "cat" at rank 1, "cat" at rank 2',
        ),
        (
            [("a.jpg", 1, "cat", 0.9), ("./a.jpg", 1, "cat", 0.9)],
            'p.tsv: ./a.jpg is predicted twice, also as a.jpg: "cat" at rank 1, "cat" at rank 1',
        ),
        ([("a.jpg", 2, "cat", 0.1)], "p.tsv: a.jpg has no prediction of rank 1"),
        (
            [("a.jpg", 1, "cta", 0.1)],
            'p.tsv predicts the class "cta" (a.jpg), but the labels in split.tsv are cat, dog; spell "cta" and "cat" alike',
        ),
        (
            [("a.jpg", 1, "zebra", 0.1), ("b.jpg", 1, "yak", 0.1)],
            'p.tsv predicts the class "zebra" (a.jpg; also unknown: yak), but the labels in split.tsv are cat, dog; '
            "they have no class in common",
        ),
    ],
)
def test_errors_name_mismatches(rows, message):
    """A prediction without a true label, a duplicate, an image without rank 1, an unknown label."""
    with pytest.raises(CnnkitError) as caught:
        run(rows, truth(a="cat", b="dog", u=None))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([Image("a.jpg", None)], "t.tsv: no labels; the truth is"),
        ([], "t.tsv: no labels; the truth is"),
        ([Image("a.jpg", "cat"), Image("./a.jpg", "dog")], 't.tsv: ./a.jpg has two labels: "dog", and "cat" as a.jpg'),
    ],
)
def test_rejects_truth_without_labels_or_with_two(images, message):
    """No labels at all, or two for one image."""
    with pytest.raises(CnnkitError) as caught:
        Truth(images, name="t.tsv")
    assert str(caught.value).startswith(message)


def test_rejects_truth_outside_of_given_classes():
    """Given classes must include every label of the truth."""
    with pytest.raises(CnnkitError, match=r'split\.tsv: the label "dog" is not one of the classes cat'):
        run([("a.jpg", 1, "cat", 1.0)], truth(a="cat", b="dog"), classes=("cat",))


def test_rejects_predictions_outside_of_given_classes():
    """The message does not propose to give the classes again."""
    with pytest.raises(CnnkitError) as caught:
        run([("a.jpg", 1, "zebra", 1.0)], truth(a="cat"), classes=("cat", "dog"))
    assert str(caught.value) == 'p.tsv predicts the class "zebra" (a.jpg), but the classes are cat, dog'
