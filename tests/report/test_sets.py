"""Prediction sets, novelty and withheld predictions in a report."""

from dataclasses import replace

import numpy as np
from test_content import evaluation

from cnnkit.choices import NoveltyMethod, SetMethod
from cnnkit.evaluation.report import measure
from cnnkit.formats.header import ArtefactKind, Header, Novelty, PredictionSets
from cnnkit.report import markdown, page
from cnnkit.report.content import ReportContent


def report(**changes):
    """A report on predictions of which 3 in 4 have a set with the true class."""
    found = evaluation(n=40).predictions
    sizes = np.arange(40) % 2 + 1
    found = measure(replace(found, set_sizes=sizes, covered=np.arange(40) % 4 > 0))
    return ReportContent("a title", found, "p.tsv", "split.tsv", **changes)


def test_coverage_of_prediction_sets_is_shown():
    made = report()
    assert "| true class in the prediction set | 0.7500 (0.5981 to 0.8581) |" in markdown.render(
        made
    )  # Wilson, by hand
    assert "| labels in a set | 1.5000 |" in markdown.render(made)
    assert "75.0 %" in page.render(made)
    assert "have the true class (0.598 to 0.858); 1.500 labels on average" in page.render(made)
    without = replace(made, evaluation=evaluation(n=40))
    assert "prediction set" not in markdown.render(without)
    assert "Prediction sets" not in page.render(without)


def test_sets_and_novelty_of_the_model_are_shown():
    header = Header(
        kind=ArtefactKind.ONNX,
        classes=tuple("abcdefghijklm"),
        head="dense 13",
        sets=PredictionSets(SetMethod.LAC, 0.95, 0.8125, 100),
        novelty=Novelty(NoveltyMethod.MAHALANOBIS, 1.25, 0.95, 200, 50, 8),
    )
    text = page.render(report(header=header, model_name="m.onnx"))
    assert "0.95 promised; score lac, quantile 0.8125, 100 images" in text
    assert "13: a, b, c, d, e, f, g, h, i, j, k, l, …<" in text
    assert "dense 13" in text
    assert "mahalanobis; threshold 1.25, which keeps 0.95 of 50 images; 200 images of training" in text
    bare = page.render(report(header=Header(kind=ArtefactKind.ONNX, classes=("a", "b")), model_name="m.onnx"))
    assert "2: a, b<" in bare
    for absent in ("novelty", "prediction sets", "columns", "head", "backbone"):
        assert f'<th scope="row">{absent}' not in bare
