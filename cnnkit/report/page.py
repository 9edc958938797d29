"""The report as one HTML page: no scripts, no files from elsewhere, the same bytes for the same content."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from cnnkit import __version__, messages
from cnnkit.report import charts, page_images, page_labels, page_measures, page_model, style
from cnnkit.report import page_parts as parts
from cnnkit.report.content import ReportContent
from cnnkit.report.label_content import LabelContent
from cnnkit.report.markup import Content, element, html, name

#: What the page may load: images that are in it, and its own style.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_EXPLAINED = {
    "balanced_accuracy": ("Balanced accuracy", "mean recall of the classes"),
    "log_loss": ("Log-loss", "lower is better"),
    "roc_auc": ("ROC AUC", "one class against the others"),
    "ece": ("Calibration error", "expected, 15 bins; lower is better"),
    "accuracy_predicted": ("Accuracy of predictions", "without withheld ones"),
}


def render(report: ReportContent | LabelContent) -> str:
    """Render the page."""
    sections = [section for section in _sections(report) if section is not None]
    links = [element("a", {"href": f"#{section.get('id')}"}, section[0].text or "") for section in sections]
    head = element(
        "head",
        {},
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("meta", {"name": "generator", "content": f"cnnkit {__version__}"}),
        element("title", {}, report.title),
        _style_element(),
    )
    body = element(
        "body",
        {},
        element(
            "header",
            {},
            element("h1", {}, name(report.title)),
            element("p", {"class": "muted"}, _summary(report)),
            element("nav", {"aria-label": "Contents"}, links),
            _tiles(report),
            [element("p", {"class": "muted remark"}, remark) for remark in report.remarks],
        ),
        element("main", {}, sections),
        element("footer", {}, element("p", {}, f"Made by cnn-report, cnnkit {__version__}.")),
    )
    return html(element("html", {"lang": "en"}, head, body))


def _style_element() -> Element:
    made = Element("style")
    made.text = style.sheet()  # not escaped, as the rules are not user data
    return made


def _sections(report: ReportContent | LabelContent) -> Iterator[Element | None]:
    yield _gates(report)
    if isinstance(report, LabelContent):
        yield page_labels.labels(report)
        yield page_labels.confusion(report)
        yield page_labels.mistakes(report)
    else:
        yield page_measures.confusion(report)
        yield page_measures.confidence(report)
        yield page_measures.classes(report)
        yield page_images.mistakes(report)
    yield page_model.history(report)
    yield page_images.images(report)
    yield page_model.model(report)


def _summary(report: ReportContent | LabelContent) -> list[Content]:
    """Say in words what was measured."""
    measured = page_labels.summary(report) if isinstance(report, LabelContent) else _correct(report)
    words: list[Content] = [f"{measured}. Predictions: ", name(report.predictions_name)]
    return [*words, "; true labels: ", name(report.truth_name), "."] if report.truth_name else [*words, "."]


def _correct(report: ReportContent) -> str:
    found = report.evaluation
    withheld = found.n - found.predicted
    return (
        f"{report.hits:,} of {messages.count_images(found.n)} of {len(found.classes):,} classes are predicted correctly"
        f"{f', and {withheld:,} predictions were withheld' if withheld else ''}"
    )


def _tiles(report: ReportContent | LabelContent) -> Element:
    tiles = page_labels.tiles(report) if isinstance(report, LabelContent) else _measures(report)
    if report.gates:
        missed = sum(not gate.met for gate in report.gates)
        tiles.append(
            parts.tile(
                "Bounds",
                "met" if not missed else "violated",
                f"{len(report.gates) - missed} of {len(report.gates)} met",
                kind="bad" if missed else "",
            )
        )
    return element("dl", {"class": "tiles"}, tiles)


def _measures(report: ReportContent) -> list[Element]:
    found = report.evaluation
    tiles = [
        parts.tile(
            "Accuracy",
            parts.percent(found.accuracy),
            f"95 % interval {parts.percent(found.accuracy_low)} to {parts.percent(found.accuracy_high)} (Wilson)",
            drawn=charts.interval(found.accuracy, found.accuracy_low, found.accuracy_high),
            kind="main",
        )
    ]
    names = ["balanced_accuracy", "log_loss", "roc_auc", "ece"]
    if found.predicted < found.n:
        names.append("accuracy_predicted")
    tiles += [
        parts.tile(_EXPLAINED[each][0], parts.measure(getattr(found, each)), _EXPLAINED[each][1]) for each in names
    ]
    tiles.append(
        parts.tile(
            "Images",
            f"{found.n:,}",
            f"{report.wrong:,} wrong"
            + (f", {found.n - found.predicted:,} withheld" if found.predicted < found.n else ""),
        )
    )
    if found.boxes:
        assert found.iou is not None
        tiles.append(
            parts.tile(
                "Mean IoU of boxes",
                parts.measure(found.iou),
                f"{parts.measure(found.iou_50)} at least 0.5 ({parts.measure(found.iou_50_low)} to {parts.measure(found.iou_50_high)}), "
                f"{messages.count_images(found.boxes)}",
            )
        )
    if found.coverage is not None:
        tiles.append(
            parts.tile(
                "Prediction sets",
                parts.percent(found.coverage),
                f"have the true class ({parts.share(found.coverage_low)} to {parts.share(found.coverage_high)}); "
                f"{parts.share(found.set_size)} labels on average",
            )
        )
    return tiles


def _gates(report: ReportContent | LabelContent) -> Element | None:
    if not report.gates:
        return None
    rows = [
        element(
            "tr",
            {},
            element("th", {"scope": "row"}, name(gate.condition)),
            element("td", {"class": "number"}, parts.measure(gate.value) if gate.value is not None else "not known"),
            element(
                "td",
                {"class": "number"},
                element(
                    "span",
                    {"class": f"verdict {'pass' if gate.met else 'fail'}"},
                    "✓ met" if gate.met else "✗ violated",
                ),
            ),
        )
        for gate in report.gates
    ]
    return parts.section(
        "bounds", "Bounds", parts.table(["bound", ("value", "number"), ("result", "number")], rows, kind="limited")
    )
