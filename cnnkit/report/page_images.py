"""Sections of the page with images: mistakes, and what a check of the images found."""

import base64
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from cnnkit.audit.record import Finding, Level
from cnnkit.report import page_parts as parts
from cnnkit.report.content import Mistake, Picture, ReportContent
from cnnkit.report.label_content import LabelContent
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
            scale(),
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
    what = f"image of the class {mistake.truth}, predicted as {mistake.label}"
    return card(mistake.path, mistake.pictures, said, what=what, missing=mistake.missing)


def card(path: str, pictures: Sequence[Picture], said: Element, *, what: str, missing: str | None) -> Element:
    """Show a mistake: its pictures, the words about it, and the path.

    Args:
        path: As it is to be shown.
        pictures: The image and its heat maps.
        said: The words.
        what: The image in words, for those who do not see it.
        missing: Why there is no image.
    """
    if missing is not None:
        shown = element("p", {"class": "muted"}, f"No image: {missing}")
    else:
        kind = {1: "pictures single", 2: "pictures pair"}.get(len(pictures), "pictures")
        captions = len(pictures) > 1
        drawn = [
            _picture(each, what if place == 0 else f"heat map of {each.caption}", captions=captions)
            for place, each in enumerate(pictures)
        ]
        shown = element("div", {"class": kind}, drawn)
    return element("li", {"class": "mistake"}, shown, said, element("p", {"class": "path"}, path))


def _picture(picture: Picture, words: str, *, captions: bool) -> Element:
    encoded = base64.b64encode(picture.content).decode("ascii")
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
    return element("figure", {}, shown, element("figcaption", {}, name(picture.caption)) if captions else None)


def scale() -> Element:
    """Draw the colours of heat maps."""
    return element("span", {"class": "scale", "role": "img", "aria-label": "from black through red to yellow"})


def images(report: ReportContent | LabelContent) -> Element | None:
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
        if checked.without is None:
            words.append(".")
        else:
            measure, *values = checked.without
            value, low, high = map(parts.percent, values)
            words.append(f"; without them, the {measure} is {value} ({low} to {high}).")
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
