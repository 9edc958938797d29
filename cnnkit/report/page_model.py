"""Sections of the page about the model: its training, and how it was made."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from cnnkit import messages
from cnnkit.explain import curves
from cnnkit.formats.header import Header, Preprocess
from cnnkit.report import charts
from cnnkit.report import page_parts as parts
from cnnkit.report.content import ReportContent
from cnnkit.report.label_content import LabelContent
from cnnkit.report.markup import element, name


def history(report: ReportContent | LabelContent) -> Element | None:
    """Draw the training history; nothing if it is unknown."""
    run = report.history
    if run is None:
        return None
    drawn = [charts.history(run, panel, measures) for panel, measures in curves.panels([run]).items()]
    best, epochs = run.best, messages.count_epochs(run.epochs)
    if best is None:
        words = f"{epochs}; no validation."
    elif best is run.start:
        words = f"{epochs}, none of which is better than the network before training"
    else:
        words = f"{epochs}; the best is epoch {best.epoch}"
    if best is not None:
        values = [
            f"{label} {value:.4g}"
            for label, value in (("validation loss", best.val_loss), ("validation accuracy", best.val_accuracy))
            if curves.finite(value) is not None
        ]
        words += f" ({', '.join(values)})." if values else "."
    return parts.section("training", "Training", element("p", {}, words), element("div", {"class": "inner"}, drawn))


def model(report: ReportContent | LabelContent) -> Element | None:
    """List what the Header of the model records; nothing without a model."""
    if report.header is None:
        return None
    tables = [_facts(title, facts) for title, facts in _of_header(report.header).items() if facts]
    return parts.section(
        "model",
        "Model",
        element("p", {}, "How ", name(report.model_name or "the model"), " was made, as recorded in the file."),
        element("div", {"class": "inner"}, tables),
    )


def _facts(title: str, facts: dict[str, str]) -> Element:
    rows = [
        element("tr", {}, element("th", {"scope": "row"}, key), element("td", {}, value))
        for key, value in facts.items()
    ]
    return element("div", {}, element("h3", {}, title), parts.table([], rows, kind="facts"))


def _of_header(header: Header) -> dict[str, dict[str, str]]:
    """Return the fields of a Header as tables of words."""
    network: dict[str, str] = {}
    if header.backbone is not None:
        backbone = header.backbone
        network["backbone"] = backbone.notation or backbone.name
        network["layer of the features"] = backbone.layer
        network["pooling"] = str(backbone.pool)
        if backbone.weights_sha256:
            network["weights (SHA-256)"] = backbone.weights_sha256
        if backbone.whiten is not None:
            network["whitening"] = str(backbone.whiten)
    if header.head is not None:
        network["head"] = header.head
    if header.box_head is not None:
        network["head of boxes"] = header.box_head
    if header.columns is not None:
        network["columns"] = ", ".join(f"{column.name} ({column.kind})" for column in header.columns)
    if header.classes is not None:
        network["classes"] = _listed(header.classes)
    if header.multi_label:
        thresholds = zip(header.classes or (), header.label_thresholds, strict=True)
        network["thresholds"] = _listed([f"{label} {threshold:.4g}" for label, threshold in thresholds])
    if header.sets is not None:
        sets = header.sets
        network["prediction sets"] = (
            f"{sets.coverage:g} promised; score {sets.method}, quantile {sets.quantile:.6g}, {messages.count_images(sets.n)}"
        )
    if header.novelty is not None:
        novelty = header.novelty
        network["novelty"] = (
            f"{novelty.method}; threshold {novelty.threshold:g}, which keeps {novelty.keep:g} of "
            f"{messages.count_images(novelty.val)}; {messages.count_images(novelty.train)} of training"
        )
    return {
        "Network": network,
        "Preprocessing": {} if header.preprocess is None else _of_preprocess(header.preprocess),
        "Training": {
            key.replace("_", " "): _worded(value) for key, value in header.training.items() if value not in (None, "")
        },
        "Versions": dict(header.made_by),
    }


def _listed(classes: Sequence[str], most: int = 12) -> str:
    return f"{len(classes):,}: {', '.join(classes[:most])}{', …' if len(classes) > most else ''}"


def _of_preprocess(preprocess: Preprocess) -> dict[str, str]:
    return {
        "input": f"{preprocess.size} × {preprocess.size} pixels, {'grey' if preprocess.grey else 'RGB'}",
        "fit": f"{preprocess.fit}, resized to {preprocess.resize} pixels"
        if preprocess.fit == "crop"
        else str(preprocess.fit),
        "interpolation": str(preprocess.interpolation),
        "mean": ", ".join(f"{value:.4g}" for value in preprocess.mean),
        "standard deviation": ", ".join(f"{value:.4g}" for value in preprocess.std),
        "decoding": str(preprocess.decoding),
    }


def _worded(value: object) -> str:
    """Write a setting as a word."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_worded, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_worded(each)}" for key, each in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value) or "–"
