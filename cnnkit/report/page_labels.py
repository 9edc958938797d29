"""Sections of the page on several labels per image: measures of labels, confusions, wrong labels."""

from collections.abc import Sequence
from itertools import groupby
from xml.etree.ElementTree import Element

from cnnkit import messages
from cnnkit.report import charts, content, label_content, page_images, page_measures, style
from cnnkit.report import page_parts as parts
from cnnkit.report.label_content import LabelContent, LabelMistake, LabelRow
from cnnkit.report.markup import Content, element, name

_TITLES = {
    "mAP": "mAP",
    "f1_micro": "Micro F1",
    "f1_macro": "Macro F1",
    "subset_accuracy": "Subset accuracy",
    "precision_micro": "Micro precision",
    "recall_micro": "Micro recall",
}


def summary(report: LabelContent) -> str:
    """Say in words what was measured."""
    found = report.evaluation
    return f"All labels are right for {report.exact:,} of {messages.count_images(found.n)} with {len(found.per_class):,} labels"


def tiles(report: LabelContent) -> list[Element]:
    """Show the main measures."""
    overall, main = report.evaluation.overall, report.main
    value, between = overall[main], report.interval(main)
    notes = ["mean average precision"] if main == "mAP" else []
    if between:
        notes.append(f"95 % interval {parts.share(between[0])} to {parts.share(between[1])} (bootstrap)")
    made = [
        parts.tile(
            _TITLES[main],
            parts.share(value),
            "; ".join(notes),
            drawn=charts.interval(value, *between) if value is not None and between else None,
            kind="main",
        )
    ]
    for measure, title in _TITLES.items():
        if measure in (main, "mAP"):
            continue
        interval = report.interval(measure)
        note = f"{parts.share(interval[0])} to {parts.share(interval[1])}" if interval else None
        made.append(parts.tile(title, parts.share(overall[measure]), note))
    made += [
        parts.tile(
            "Images",
            f"{report.evaluation.n:,}",
            f"{report.wrong:,} wrong labels; Hamming loss {parts.measure(overall['hamming_loss'])}",
        ),
    ]
    return made


def labels(report: LabelContent) -> Element:
    """Show the measures of each label, and its counts of right and wrong predictions."""
    rows = label_content.label_rows(report.evaluation)
    words = element(
        "p",
        {},
        "A label is predicted if its probability is at least its threshold; average precision (AP) does not depend on thresholds. Images "
        "with the label are true positives (TP) where it is predicted and false negatives (FN) where it is missed; images without it are "
        "false positives (FP) and true negatives (TN). The colour is the share of the images with the label (TP, FN), or of those it is "
        "predicted for (FP).",
    )
    most = page_measures.CLASSES
    if len(rows) <= most:
        return parts.section("labels", "Labels", words, _table(rows))
    caption = f"The {most} of {len(rows):,} labels with the lowest F1"
    return parts.section(
        "labels",
        "Labels",
        words,
        _table(content.lowest(rows, most), caption=caption),
        element("details", {}, element("summary", {}, f"All {len(rows):,} labels"), _table(rows)),
    )


def _table(rows: Sequence[LabelRow], *, caption: str | None = None) -> Element:
    heads: list[Content | tuple[Content, str]] = [
        "label",
        ("images", "number"),
        ("AP", "number"),
        ("precision", "number optional"),
        ("recall", "number optional"),
        ("F1", "number"),
        ("", "optional"),
        ("threshold", "number optional"),
        ("TP", "number"),
        ("FN", "number"),
        ("FP", "number"),
        ("TN", "number optional"),
    ]
    made = []
    for row in rows:
        values, support = row.values, row.support
        threshold = "–" if values.threshold is None else f"{values.threshold:.3g}"
        made.append(
            element(
                "tr",
                {},
                element("th", {"scope": "row"}, name(row.name)),
                element("td", {"class": "number"}, f"{support:,}"),
                element("td", {"class": "number"}, parts.share(values.average_precision)),
                element("td", {"class": "number optional"}, parts.share(values.precision)),
                element("td", {"class": "number optional"}, parts.share(values.recall)),
                element("td", {"class": "number"}, parts.share(row.f1)),
                parts.bar(row.f1),
                element("td", {"class": "number optional"}, threshold),
                _count(row.hits, support),
                _count(row.missed, support),
                _count(row.false_positives, values.predicted),
                element("td", {"class": "number optional"}, f"{row.true_negatives:,}"),
            )
        )
    return parts.table(heads, made, caption=caption, kind="classes limited")


def _count(count: int, whole: int) -> Element:
    """Write a count in the colour of its share."""
    shade = style.step(count / whole) if whole else 0
    return element("td", {"class": f"number h{shade}" if shade else "number"}, f"{count:,}")


def confusion(report: LabelContent) -> Element | None:
    """Show which labels are predicted where others are missed; nothing for a single label, whose counts are in the table."""
    matched = report.evaluation.matched
    if len(matched.classes) < 2:
        return None
    chosen = label_content.confusions(matched, page_measures.MATRIX)
    caption = (
        "On the diagonal: images whose label is predicted. Elsewhere: images in which the label of the row is missed and that of the "
        "column is predicted wrongly; in the last column no label is predicted wrongly, in the last row none is missed. The colour is the "
        "share of the images with the label of the row."
    )
    if len(matched.classes) > len(chosen.classes):
        caption += f" The {len(chosen.classes)} of {len(matched.classes):,} labels with the most frequent confusions."
    none = [element("span", {"class": "name muted"}, "none")]
    drawn = page_measures.matrix(
        chosen.classes, chosen.counts, chosen.support, columns=none, rows=none, corner="missed ↓ predicted wrongly →"
    )
    pairs = label_content.most_confused(matched, page_measures.CONFUSIONS)
    most = page_measures.confusions(
        [(each.missed, each.predicted, each.count, each.share) for each in pairs],
        heads=("missed", "predicted", "share of label"),
    )
    wide = len(chosen.counts) > page_measures.NARROW
    arranged = [drawn, most] if wide else element("div", {"class": "inner"}, drawn, most)
    return parts.section("confusion", "Confusion of labels", element("p", {}, caption), arranged)


def mistakes(report: LabelContent) -> Element | None:
    """Show the most confident wrong labels, by label; nothing if none was to be shown."""
    if not report.wrong:
        return parts.section("mistakes", "Mistakes", element("p", {}, "No label is wrong."))
    if not report.mistakes:
        return None
    shown = len(report.mistakes)
    words: list[Content] = [
        f"{shown:,} of {report.wrong:,} wrong labels: of each label in turn one that is predicted wrongly and one that is missed, those "
        "whose probability is farthest from the threshold first."
        if shown < report.wrong
        else "Every wrong label."
    ]
    if report.heat_maps:
        words += [" Next to each image: where the model finds evidence for the label; from none", page_images.scale()]
        words.append("to the most in this image.")
    counts = {row.name: row for row in label_content.label_rows(report.evaluation)}
    groups: list[Content] = []
    for label, group in groupby(report.mistakes, key=lambda each: each.label):
        row = counts[label]
        groups += [
            element(
                "h3",
                {"class": "limited"},
                name(label),
                element(
                    "span", {"class": "muted"}, f" {row.false_positives:,} predicted wrongly, {row.missed:,} missed"
                ),
            ),
            element("ul", {"class": "mistakes"}, [_card(each) for each in group]),
        ]
    return parts.section("mistakes", "Mistakes", element("p", {}, words), groups)


def _card(mistake: LabelMistake) -> Element:
    verdict = "✗ missed" if mistake.missed else "✗ predicted"
    threshold = "–" if mistake.threshold is None else f"{mistake.threshold:.3g}"
    said = element(
        "dl",
        {"class": "said"},
        element("dt", {}, verdict),
        element("dd", {"class": "wrong limited"}, name(mistake.label)),
        element("dd", {"class": "value"}, parts.share(mistake.probability)),
        element("dt", {}, "threshold"),
        element("dd", {"class": "both value"}, threshold),
        _set("true", mistake.true),
        _set("predicted", mistake.predicted),
    )
    what = f"image of {_listed(mistake.true)}, predicted as {_listed(mistake.predicted)}"
    return page_images.card(mistake.path, mistake.pictures, said, what=what, missing=mistake.missing)


def _set(title: str, names: Sequence[str]) -> list[Element]:
    """Write the labels of an image."""
    words: list[Content] = []
    for each in names:
        words += [", ", name(each)] if words else [name(each)]
    return [element("dt", {}, title), element("dd", {"class": "both"}, words or "no label")]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no label"
