"""Sections of the page about measures: confusions, confidence, classes."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from cnnkit.evaluation.report import EvaluationReport
from cnnkit.formats.predictions import WITHHELD
from cnnkit.report import charts, content, style
from cnnkit.report import page_parts as parts
from cnnkit.report.content import ClassRow, ReportContent
from cnnkit.report.markup import Content, element, name

#: Classes of the confusion matrix, and from how many on it is dense.
MATRIX, _DENSE = 20, 9
#: A class name longer than this is turned at the head of its column; the second one if the matrix is dense.
_UPRIGHT, _UPRIGHT_DENSE = 8, 3
#: The most columns of a matrix that leaves room for a table next to it.
NARROW = 12
#: A difference between confidence and accuracy that is printed as 0.0 %.
_SMALL = 0.0005
#: Classes of the table that is always shown, and most frequent confusions.
CLASSES, CONFUSIONS = 30, 10


def confusion(report: ReportContent) -> Element:
    """Show the confusion matrix, and the most frequent confusions."""
    found = report.evaluation
    chosen = content.confusions(found, MATRIX)
    caption = "Rows are true classes, columns predictions; the colour is the share of the row."
    if left_out := len(found.classes) - len(chosen.classes):
        caption += (
            f" The {len(chosen.classes)} of {len(found.classes):,} classes with the most frequent confusions; "
            f"“others” are predictions of one of the other {left_out:,}."
        )
    further: list[Content] = [element("span", {"class": "name muted"}, "others")] if chosen.others else []
    further += (
        [element("span", {"class": "name muted", "title": "withheld predictions"}, WITHHELD)] if chosen.withheld else []
    )
    drawn = matrix(chosen.classes, chosen.counts, chosen.support, columns=further, corner="true ↓ predicted →")
    most = _most_confused(found)
    arranged = [drawn, most] if len(chosen.counts[0]) > NARROW else element("div", {"class": "inner"}, drawn, most)
    return parts.section("confusion", "Confusion matrix", element("p", {}, caption), arranged)


def matrix(
    classes: Sequence[str],
    counts: Sequence[Sequence[int]],
    support: Sequence[int],
    *,
    columns: Sequence[Content] = (),
    rows: Sequence[Content] = (),
    corner: str,
) -> Element:
    """Draw a confusion matrix.

    Args:
        classes: The names of the first rows and columns.
        counts: (rows, columns).
        support: The number of which the counts of each row are shares.
        columns: The heads of further columns.
        rows: The heads of further rows.
        corner: What rows and columns are.
    """
    dense = len(counts[0]) >= _DENSE
    turned = max(map(len, classes)) > (_UPRIGHT_DENSE if dense else _UPRIGHT)
    kinds = ["matrix", *(["turned"] if turned else []), *(["dense"] if dense else [])]
    heads = [element("th", {"scope": "col"}, column) for column in [*map(name, classes), *columns]]
    made = []
    for place, (head, row, whole) in enumerate(zip([*map(name, classes), *rows], counts, support, strict=True)):
        cells = [_cell(count, whole, hit=column == place < len(classes)) for column, count in enumerate(row)]
        made.append(element("tr", {}, element("th", {"scope": "row"}, head), cells))
    return element(
        "div",
        {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "Confusion matrix"},
        element(
            "table",
            {"class": " ".join(kinds)},
            element("thead", {}, element("tr", {}, element("td", {"class": "corner"}, corner), heads)),
            element("tbody", {}, made),
        ),
    )


def _cell(count: int, support: int, *, hit: bool) -> Element:
    """Write a count of a class with `support` images, in the colour of its share; nothing for no confusion."""
    shade = style.step(count / support) if support else 0
    kinds = [*([f"h{shade}"] if shade else []), *(["hit"] if hit else [])]
    return element("td", {"class": " ".join(kinds) or None}, f"{count:,}" if count or hit else "")


def _most_confused(found: EvaluationReport) -> Element | None:
    """List the most frequent confusions; nothing where the matrix shows only two."""
    pairs = [] if len(found.classes) <= 2 else content.most_confused(found, CONFUSIONS)
    return confusions(
        [(each.truth, each.label, each.count, each.share) for each in pairs],
        heads=("true", "predicted", "share of class"),
    )


def confusions(pairs: Sequence[tuple[str, str, int, float]], *, heads: tuple[str, str, str]) -> Element | None:
    """List confusions: two classes, the number of images and its share of the first class; nothing if there are none.

    Args:
        pairs: As above.
        heads: Of the columns of classes, and of the shares.
    """
    if not pairs:
        return None
    rows = [
        element(
            "tr",
            {},
            element("td", {"class": "wide"}, name(first)),
            element("td", {"class": "wide"}, name(second)),
            element("td", {"class": "number"}, f"{count:,}"),
            element("td", {"class": "number"}, parts.percent(share)),
        )
        for first, second, count, share in pairs
    ]
    first, second, share_of = heads
    columns = [first, second, ("images", "number"), (share_of, "number")]
    return parts.table(columns, rows, caption="Most frequent confusions", kind="limited confusions")


def confidence(report: ReportContent) -> Element:
    """Show the reliability diagram, and accuracy against coverage."""
    if not report.bins:
        return parts.section("confidence", "Confidence", element("p", {}, _without_bins(report)))
    ece = report.evaluation.ece
    gap = sum(each.count * (each.confidence - each.accuracy) for each in report.bins)
    mean = gap / sum(each.count for each in report.bins)
    direction = "overconfident" if mean > 0 else "underconfident"
    whole = (
        f"Over all images, the model is {direction} by {parts.percent(abs(mean))}."
        if abs(mean) >= _SMALL
        else "Over all images, they agree."
    )
    left = element(
        "div",
        {},
        element(
            "p",
            {},
            f"Expected calibration error {parts.measure(ece)}: confidence and accuracy differ by {parts.percent(ece or 0.0)} on average. "
            f"{whole} "
            "A dot on the dashed line is calibrated; the lines through dots are 95 % intervals (Wilson).",
        ),
        charts.reliability(report.bins),
    )
    right = None
    if report.coverage:
        right = element(
            "div",
            {},
            element(
                "p",
                {},
                "Accuracy if only the most confident predictions are kept (cnn-predict --min-probability), with its 95 % "
                f"interval. {_best_coverage(report)}",
            ),
            charts.coverage(report.coverage),
        )
    bins = parts.table(
        [
            "confidence",
            ("images", "number"),
            ("mean confidence", "number"),
            ("accuracy", "number"),
            ("95 % interval", "number"),
        ],
        [
            element(
                "tr",
                {},
                element("th", {"scope": "row"}, f"{each.low:.3f} to {each.high:.3f}"),
                element("td", {"class": "number"}, f"{each.count:,}"),
                element("td", {"class": "number"}, parts.share(each.confidence)),
                element("td", {"class": "number"}, parts.share(each.accuracy)),
                element(
                    "td", {"class": "number"}, f"{parts.share(each.accuracy_low)} to {parts.share(each.accuracy_high)}"
                ),
            )
            for each in report.bins
        ],
    )
    return parts.section(
        "confidence",
        "Confidence",
        element("div", {"class": "inner"}, left, right),
        element("details", {}, element("summary", {}, "The bins as a table"), bins),
    )


def _without_bins(report: ReportContent) -> str:
    return "The predictions have no probabilities." if report.evaluation.predicted else "Every prediction was withheld."


def _best_coverage(report: ReportContent) -> str:
    """Say what the more confident half or more of the predictions gains."""
    half = [point for point in report.coverage if point.coverage >= 0.5]
    best = max(half, key=lambda point: (point.accuracy, point.coverage), default=None)
    if best is None or best.accuracy <= report.evaluation.accuracy:
        return ""
    return (
        f"At a probability of at least {best.min_probability:.3f}, {parts.percent(best.coverage)} of the images are kept, "
        f"and {parts.percent(best.accuracy)} of these are correct."
    )


def classes(report: ReportContent) -> Element:
    """Show the measures of each class."""
    rows = list(content.class_rows(report.evaluation))
    if len(rows) <= CLASSES:
        return parts.section("classes", "Classes", _class_table(rows))
    return parts.section(
        "classes",
        "Classes",
        _class_table(
            content.lowest(rows, CLASSES), caption=f"The {CLASSES} of {len(rows):,} classes with the lowest F1"
        ),
        element("details", {}, element("summary", {}, f"All {len(rows):,} classes"), _class_table(rows)),
    )


def _class_table(rows: Sequence[ClassRow], *, caption: str | None = None) -> Element:
    heads: list[Content | tuple[Content, str]] = [
        "class",
        ("images", "number"),
        ("precision", "number"),
        ("recall", "number"),
        ("95 % interval of recall", "number optional"),
        ("F1", "number"),
        ("", "optional"),
        ("most often mistaken for", "optional"),
    ]
    made = []
    for row in rows:
        between = "–" if row.recall_low is None else f"{parts.share(row.recall_low)} to {parts.share(row.recall_high)}"
        made.append(
            element(
                "tr",
                {},
                element("th", {"scope": "row"}, name(row.name)),
                element("td", {"class": "number"}, f"{row.support:,}"),
                element("td", {"class": "number"}, parts.share(row.precision)),
                element("td", {"class": "number"}, parts.share(row.recall)),
                element("td", {"class": "number optional"}, between),
                element("td", {"class": "number"}, parts.share(row.f1)),
                parts.bar(row.f1),
                element("td", {"class": "wide optional"}, None if row.taken_for is None else name(row.taken_for)),
            )
        )
    return parts.table(heads, made, caption=caption, kind="classes limited")
