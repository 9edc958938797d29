"""Sections of the page with images: mistakes, and what a check of the images found."""

import base64
from xml.etree.ElementTree import Element

from cnnkit.audit.record import Finding, Level
from cnnkit.report import page_parts as parts
from cnnkit.report.content import Mistake, Picture, ReportContent
from cnnkit.report.markup import Content, element, name

#: The most findings that are listed.
_FINDINGS = 50


def mistakes(report: ReportContent) -> Element | None:
    """Show the most confident mistakes; nothing if none was to be shown."""
    if not report.wrong:
        return parts.section("mistakes", "Mistakes", element("p", {}, "No prediction is wrong."))
    if not report.mistakes:
        return None
    shown = len(report.mistakes)
    words: list[Content] = [
        f"The {shown:,} most confident of {report.wrong:,} wrong predictions."
        if shown < report.wrong
        else "Every wrong prediction."
    ]
    if report.heat_maps:
        words += [
            " Next to each image: where the model finds evidence for the predicted class, and for the true one; from none",
            element("span", {"class": "scale", "role": "img", "aria-label": "from black through red to yellow"}),
            "to the most in this image.",
        ]
    cards = [_card(mistake) for mistake in report.mistakes]
    return parts.section("mistakes", "Mistakes", element("p", {}, words), element("ul", {"class": "mistakes"}, cards))


def _card(mistake: Mistake) -> Element:
    said = element(
        "dl",
        {"class": "said"},
        element("dt", {}, "✗ predicted"),
        element("dd", {"class": "wrong limited"}, name(mistake.label)),
        element("dd", {"class": "value"}, parts.share(mistake.probability)),
        element("dt", {}, "true"),
        element("dd", {"class": "limited"}, name(mistake.truth)),
        element("dd", {"class": "value"}, parts.share(mistake.truth_probability)),
    )
    if mistake.missing is not None:
        shown = element("p", {"class": "muted"}, f"No image: {mistake.missing}")
    else:
        kind = "pictures single" if len(mistake.pictures) == 1 else "pictures"
        shown = element("div", {"class": kind}, [_picture(each, mistake) for each in mistake.pictures])
    return element("li", {"class": "mistake"}, shown, said, element("p", {"class": "path"}, mistake.path))


def _picture(picture: Picture, mistake: Mistake) -> Element:
    encoded = base64.b64encode(picture.content).decode("ascii")
    plain = picture is mistake.pictures[0]
    words = (
        f"image of the class {mistake.truth}, predicted as {mistake.label}"
        if plain
        else f"heat map of {picture.caption}"
    )
    shown = element(
        "img",
        {
            "src": f"data:image/{picture.kind};base64,{encoded}",
            "alt": words,
            "width": picture.size[0],
            "height": picture.size[1],
            "class": "small" if picture.small else None,
        },
    )
    caption = None if len(mistake.pictures) == 1 else element("figcaption", {}, name(picture.caption))
    return element("figure", {}, shown, caption)


def images(report: ReportContent) -> Element | None:
    """List what a check of the images found; nothing without a check."""
    checked = report.checked
    if checked is None:
        return None
    counts = {level: sum(each.level is level for each in checked.findings) for level in Level}
    listed = ", ".join(f"{count:,} {level if count == 1 else f'{level}s'}" for level, count in counts.items())
    words = [f"{checked.images:,} images were checked, of all splits: {listed}."]
    if checked.leaked:
        has = "has" if checked.leaked == 1 else "have"
        words.append(
            f" {checked.leaked:,} of the {report.evaluation.n:,} evaluated images {has} a duplicate, or an image of their group, in "
            "another split"
        )
        kept = checked.kept
        words.append(
            "."
            if kept is None
            else f"; without them, the accuracy is {parts.percent(kept.accuracy)} ({parts.percent(kept.accuracy_low)} to "
            f"{parts.percent(kept.accuracy_high)})."
        )
    elif not any(counts.values()):
        words.append(" No duplicates, and no broken images.")
    serious = sorted(checked.findings, key=lambda each: list(Level).index(each.level))
    rows = [_finding(each) for each in serious[:_FINDINGS]]
    more = len(serious) - len(rows)
    return parts.section(
        "images",
        "Images",
        element("p", {}, words),
        parts.table(["level", "finding", "image", "other image", "detail"], rows, kind="limited") if rows else None,
        element("p", {"class": "muted"}, f"And {more:,} more; cnn-check lists all.") if more else None,
    )


def _finding(finding: Finding) -> Element:
    level = (
        element("span", {"class": "verdict fail"}, finding.level)
        if finding.level is Level.ERROR
        else str(finding.level)
    )
    return element(
        "tr",
        {},
        element("td", {}, level),
        element("td", {}, str(finding.finding)),
        element("td", {"class": "wide path"}, finding.path or ""),
        element("td", {"class": "wide path"}, finding.other or ""),
        element("td", {"class": "wide"}, finding.detail),
    )
