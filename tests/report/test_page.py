"""What the page and the summary say in words, computed again from the predictions."""

import re
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score
from test_content import evaluation

from cnnkit.audit.record import Finding, FindingKind, Level
from cnnkit.evaluation import coverage
from cnnkit.evaluation.matching import MatchedPredictions
from cnnkit.evaluation.report import measure
from cnnkit.report import content, markdown, page, style
from cnnkit.report.content import CheckedImages, Gate, ReportContent


def report(predictions, **changes):
    found = measure(predictions)
    points = coverage.curve(predictions)
    return ReportContent("a title", found, "p.tsv", "", bins=content.bins(found), coverage=points, **changes)


@pytest.mark.parametrize(("power", "word"), [(0.2, "over"), (4, "under")])
def test_difference_of_confidence_and_accuracy(power, word):
    """Of their means over all images."""
    predictions = evaluation().predictions
    predictions = replace(predictions, confidence=predictions.confidence**power)
    difference = predictions.confidence.mean() - (predictions.prediction == predictions.truth).mean()
    assert bool(difference > 0) is (word == "over")
    text = f"Over all images, the model is {word}confident by {100 * abs(difference):.1f} %."
    assert text in page.render(report(predictions))


def test_most_accurate_share_of_at_least_half_of_the_images():
    """Its probability, share and accuracy; nothing where no share is more accurate than the whole."""
    predictions = evaluation().predictions
    correct = predictions.prediction == predictions.truth
    words = "At a probability of at least (.*?), (.*?) % of the images are kept, and (.*?) % of these are correct"
    ((least, share, accuracy),) = re.findall(words, page.render(report(predictions)))
    kept = {
        point.min_probability: predictions.confidence >= point.min_probability for point in coverage.curve(predictions)
    }
    own = next(each for threshold, each in kept.items() if f"{threshold:.3f}" == least)
    assert (share, accuracy) == (f"{100 * own.mean():.1f}", f"{100 * correct[own].mean():.1f}")
    assert correct[own].mean() == max(correct[each].mean() for each in kept.values() if each.mean() >= 0.5)
    assert max(correct[each].mean() for each in kept.values()) > correct[own].mean()  # of less than half of the images
    same = replace(predictions, confidence=np.full(400, correct.mean()))
    text = page.render(report(same))
    assert "of the images are kept" not in text
    assert "Over all images, they agree." in text


def test_of_many_classes_those_with_the_lowest_f1_are_listed():
    """As of scikit-learn; a class without images has none, and is last."""
    predictions = evaluation(30, n=900).predictions
    unseen = np.zeros((900, 1))
    predictions = replace(
        predictions,
        classes=(*predictions.classes, "unseen"),
        probabilities=np.hstack([predictions.probabilities, unseen]),
    )
    scores = f1_score(predictions.truth, predictions.prediction, average=None)
    expected = [f"class {place:03d}" for place in np.argsort(scores, kind="stable")]
    found = report(predictions)
    shown = page.render(found).partition('id="classes"')[2].partition("<details")[0]
    assert "The 30 of 31 classes with the lowest F1" in shown
    assert re.findall("class [0-9]{3}(?=</bdi></th>)", shown) == expected
    assert "unseen" not in shown
    table = markdown.render(found).partition("The 20 of 31 classes with the lowest F1")[2].partition("Most frequent")[0]
    assert re.findall("`(.*?)`", table) == expected[:20]
    assert "| class | images | precision | recall | F1 |\n| --- | ---: | ---: | ---: | ---: |\n" in table


def test_errors_are_listed_before_warnings():
    """At most 50 findings, in their order; the page says how many more there are."""
    kind = next(iter(FindingKind))
    levels = [Level.WARNING] * 49 + [Level.ERROR] * 2
    findings = [Finding(level, kind, f"{number}.png", None, "") for number, level in enumerate(levels)]
    text = page.render(report(evaluation().predictions, checked=CheckedImages(60, findings, 0, None)))
    assert "60 images were checked, of all splits: 2 errors, 49 warnings" in text
    assert re.findall("[0-9]+[.]png", text) == [f"{number}.png" for number in (49, 50, *range(48))]
    assert "And 1 more; cnn-check lists all." in text


@pytest.mark.parametrize(("share", "step"), [(0, 0), (1e-6, 1), (0.05, 2), (0.25, 4), (0.5, 6), (1, 9)])
def test_colour_is_the_square_root_of_the_share(share, step):
    assert style.step(share) == step


def test_confusions_have_the_colour_of_their_share():
    """A cell has its count and colour, those of the diagonal a frame; a cell without images is empty, except on the diagonal."""
    found = measure(confused([[3, 1, 0], [0, 0, 2], [0, 0, 4]]))
    text = page.render(ReportContent("a title", found, "p.tsv", "t.tsv"))
    cells = re.findall("<td([^>]*)>([0-9]*)</td>", text.partition("<tbody>")[2].partition("</tbody>")[0])
    shown = [(re.sub('.*"(.*)"', r"\1", attributes), count) for attributes, count in cells]
    assert shown == [
        *((f"h{style.step(0.75)} hit", "3"), (f"h{style.step(0.25)}", "1"), ("", "")),
        *(("", ""), ("hit", "0"), ("h9", "2")),
        *(("", ""), ("", ""), ("h9 hit", "4")),
    ]
    pairs = re.findall(
        "<bdi[^>]*>([xyz])</bdi>", text.partition("Most frequent confusions")[2].partition("</table>")[0]
    )
    assert pairs == ["y", "z", "x", "y"]
    taken = re.findall('<td class="wide optional">(?:<bdi[^>]*>(.)</bdi>)?</td>', text)
    assert taken == ["y", "z", ""]
    assert "; true labels: " in text
    assert '<th scope="col">class</th><th scope="col" class="number">images</th>' in re.sub("\n *", "", text)
    two = measure(confused([[3, 1], [0, 2]]))
    assert "Most frequent confusions" not in page.render(ReportContent("a title", two, "p.tsv", ""))


def confused(counts):
    """Return predictions with a confusion matrix, without probabilities."""
    truth, prediction = np.repeat(np.indices(np.shape(counts)).reshape(2, -1), np.ravel(counts), axis=1)
    paths, unknown = tuple(map(str, range(len(truth)))), np.full((len(truth), len(counts)), np.nan)
    names = tuple("xyz"[: len(counts)])
    return MatchedPredictions(paths, paths, names, truth, prediction, unknown[:, 0], unknown)


def test_tiles_are_those_of_what_is_known():
    """Withheld predictions, boxes and bounds have their own."""
    found = evaluation(n=40, withheld=3)
    gates = [Gate("accuracy", found.accuracy, 0.0, True), Gate("ece", 0.5, 0.1, False), Gate("n", 40, 40, True)]
    made = replace(found, boxes=7, iou=0.8125, iou_50=0.75, iou_50_low=0.5, iou_50_high=0.875)
    whole = page.render(ReportContent("a title", made, "p.tsv", "", gates=gates))
    words = ["Accuracy of predictions", f"{made.predicted - report_hits(made)} wrong, 3 withheld", "Mean IoU of boxes"]
    words += ["0.7500 at least 0.5 (0.5000 to 0.8750), 7 images", "2 of 3 met", ">violated<"]
    for each in words:
        assert each in whole
    met = page.render(ReportContent("a title", evaluation(n=40), "p.tsv", "", gates=gates[:1]))
    assert "1 of 1 met" in met
    summary = markdown.render(ReportContent("a title", evaluation(n=40), "p.tsv", "", gates=gates[:1]))
    assert "The bound is met.\n" in summary
    assert ">met<" in met
    plain = page.render(ReportContent("a title", evaluation(n=40), "p.tsv", ""))
    for each in ("Accuracy of predictions", "withheld", "IoU", "Bounds", "true labels"):
        assert each not in plain


def report_hits(found):
    return int((found.predictions.prediction == found.predictions.truth).sum())


def test_nothing_wrong_and_nothing_found():
    """Both are said."""
    found = measure(confused([[3, 0], [0, 2]]))
    text = page.render(ReportContent("a title", found, "p.tsv", "", checked=CheckedImages(5, [], 0, None)))
    assert "No prediction is wrong." in text
    assert "No duplicates, and no broken images." in text
    some = CheckedImages(5, [Finding(Level.NOTE, FindingKind.EXIF, "a.png", None, "")], 2, None)
    text = page.render(replace(report(evaluation().predictions), checked=some))
    assert "2 of the 400 evaluated images have a duplicate, or an image of their group, in another split." in text
    assert "No duplicates" not in text
    assert "No prediction is wrong." not in text
