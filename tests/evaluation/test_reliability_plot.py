"""Reliability diagrams, read back from the figure."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from cnnkit.errors import CnnkitError, UsageError
from cnnkit.evaluation import metrics, plots, report
from cnnkit.evaluation.calibration import reliability
from cnnkit.evaluation.matching import MatchedPredictions


def draw(n=500, *, digits=None):
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.4, 1, n)
    return confidence, generator.uniform(size=n) < confidence**2


def make(confidence, correct):
    names = tuple(map(str, range(len(correct))))
    truth = np.zeros(len(correct), dtype=np.int64)
    both = np.stack([confidence, 1 - np.asarray(confidence)], axis=1)
    return report.measure(
        MatchedPredictions(names, names, ("a", "b"), truth, np.where(correct, 0, 1), np.asarray(confidence), both)
    )


def test_bars_show_accuracy_and_gap():
    """The bar of a bin is its accuracy; the gap extends to the mean confidence, above or below."""
    found = reliability(*draw())
    upper, lower = plots.draw_reliability({"": found}).axes
    accuracy, sure, modest = (list(bars) for bars in upper.containers[:3])
    known = found.counts > 0
    assert np.allclose([bar.get_height() for bar in accuracy], np.nan_to_num(found.accuracy))
    for bars, low, high in ((sure, found.accuracy, found.confidence), (modest, found.confidence, found.accuracy)):
        for bar, start, end in zip(np.array(bars)[known], low[known], high[known], strict=True):
            assert bar.get_y() == pytest.approx(start)
            assert bar.get_height() == pytest.approx(max(end - start, 0))
    assert [bar.get_height() for bar in lower.containers[0]] == found.counts.tolist()
    assert [int(text.get_text()) for text in lower.texts] == found.counts[known].tolist()
    low, high = binomtest(round(float(found.accuracy[known] @ found.counts[known])), 500).proportion_ci(method="wilson")
    share = np.nansum(found.accuracy * found.counts) / 500
    expected = f"ECE {found.error:.4f}, accuracy {share:.4f} ({low:.4f} to {high:.4f}), 500 images"
    assert [text.get_text() for text in upper.texts] == [expected]


def test_points_and_intervals_are_those_of_references():
    """Points at confidence and accuracy of each bin as scikit-learn's, with Wilson's 95 % interval as scipy's."""
    confidence, correct = draw()
    found = reliability(confidence, correct)
    upper, _ = plots.draw_reliability({"": found}).axes
    points, _, (whiskers,) = upper.containers[3]
    shares, means = calibration_curve(correct, confidence, n_bins=len(found.counts))
    np.testing.assert_allclose(points.get_xydata(), np.stack([means, shares], axis=1))
    counts = found.counts[found.counts > 0]
    for ends, share, count in zip(whiskers.get_segments(), shares, counts.tolist(), strict=True):
        expected = binomtest(round(share * count), count).proportion_ci(method="wilson")
        np.testing.assert_allclose(ends[:, 1], [expected.low, expected.high], atol=1e-12)


def test_bin_of_one_image_has_a_wide_interval():
    """From 0.21 to 1 if it is correct, although its bar is 1."""
    upper, _ = plots.draw_reliability({"": reliability(np.array([0.7]), np.array([True]))}).axes
    (ends,) = upper.containers[3][2][0].get_segments()
    np.testing.assert_allclose(ends[:, 1], [1 / (1 + metrics.Z_95**2), 1])


def test_over_and_underconfidence_differ_without_colour():
    """By their hatches, also in the legend; the text of an SVG is text."""
    upper, _ = plots.draw_reliability({"": reliability(*draw())}).axes
    assert len({bars[0].get_hatch() for bars in upper.containers[:3]}) == 3


def test_text_of_svg_is_text(tmp_path):
    """It can be searched and read aloud."""
    plots.save_reliability(tmp_path / "r.svg", {"before": make(*draw())})
    written = (tmp_path / "r.svg").read_text()
    for words in ("before", "95 % interval", "500 images", "overconfident by", "confidence"):
        assert words in written


def test_two_diagrams_are_side_by_side(tmp_path):
    """Before and after, with titles that are not typeset; the same predictions give the same bytes in every format."""
    made = make(*draw())
    for suffix in (".png", ".svg", ".pdf"):
        first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
        for path in (first, second):
            plots.save_reliability(path, {"before $x$": made, "after": made})
        assert first.read_bytes() == second.read_bytes()
    with Image.open(tmp_path / "first.png") as image:
        assert 1000 < image.width < 2000
    figure = plots.draw_reliability({"before $x$": reliability(*draw()), "after": reliability(*draw())})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["before $x$", "after", "", ""]


def test_legend_is_not_wider_than_one_diagram():
    """It is not cut off, and the diagram keeps its width."""
    figure = plots.draw_reliability({"": reliability(*draw())})
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().width < figure.bbox.width
    (text,) = figure.axes[0].texts
    assert text.get_window_extent().x1 < figure.bbox.width


def test_legend_has_only_what_is_drawn():
    """A bin of a correct and a wrong prediction: over-, then underconfident; both in the legend of two diagrams, in the usual order."""
    modest, sure = (reliability(np.array([value, value]), np.array([True, False])) for value in (0.45, 0.55))
    names = {"over": "overconfident by", "under": "underconfident by"}
    for diagrams, kinds in (
        ({"": sure}, ["over"]),
        ({"": modest}, ["under"]),
        ({"a": modest, "b": sure}, ["over", "under"]),
    ):
        (legend,) = plots.draw_reliability(diagrams).legends
        found = [text.get_text() for text in legend.get_texts()]
        assert found == ["accuracy", *(names[kind] for kind in kinds), "95 % interval"]
    (legend,) = plots.draw_reliability({"": reliability(np.array([1.0]), np.array([True]))}).legends
    assert [text.get_text() for text in legend.get_texts()] == ["accuracy", "95 % interval"]


@pytest.mark.parametrize("n", [5000, 20_000])
def test_counts_do_not_overlap(n):
    """Large numbers are rotated."""
    figure = plots.draw_reliability({"": reliability(*draw(n))})
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[1].texts]
    assert all(one.x1 <= other.x0 for one, other in pairwise(boxes))
    assert all(box.y1 <= figure.axes[1].get_window_extent().y1 for box in boxes)


def test_rejects_diagram_without_probabilities(tmp_path):
    """The message has the reason, and no file is written; nor for another extension."""
    with pytest.raises(CnnkitError, match="no reliability diagram: the predictions have no probabilities"):
        plots.save_reliability(tmp_path / "r.png", {"": make([np.nan, 0.9], [True, True])})
    with pytest.raises(UsageError, match=r"a name that ends in \.png, \.svg or \.pdf"):
        plots.save_reliability(tmp_path / "r.bmp", {"": make(*draw())})
    assert not list(tmp_path.iterdir())
