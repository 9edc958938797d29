"""The report as one HTML page: no scripts, no files from elsewhere, the same bytes for the same content."""

import base64
from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from cnnkit import __version__
from cnnkit.audit.record import Finding, Level
from cnnkit.explain import curves
from cnnkit.formats.header import Header, Preprocess
from cnnkit.formats.predictions import WITHHELD
from cnnkit.report import charts, content, style
from cnnkit.report.content import ClassRow, Mistake, Picture, ReportContent
from cnnkit.report.markup import Content, element, html, name

#: What the page may load: images that are in it, and its own style.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

#: Classes of the confusion matrix, and from how many on it is dense.
_MATRIX, _DENSE = 20, 9
#: A class name longer than this is turned at the head of its column.
_UPRIGHT = 8
#: Classes of the table that is always shown, most frequent confusions, and findings.
_CLASSES, _CONFUSIONS, _FINDINGS = 30, 10, 50

_EXPLAINED = {
    "balanced_accuracy": ("Balanced accuracy", "mean recall of the classes"),
    "log_loss": ("Log-loss", "lower is better"),
    "roc_auc": ("ROC AUC", "one class against the others"),
    "ece": ("Calibration error", "expected, 15 bins; lower is better"),
    "accuracy_predicted": ("Accuracy of predictions", "without withheld ones"),
}


def render(report: ReportContent) -> str:
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
        ),
        element("main", {}, sections),
        element("footer", {}, element("p", {}, f"Made by cnn-report, cnnkit {__version__}.")),
    )
    return html(element("html", {"lang": "en"}, head, body))


def _style_element() -> Element:
    made = Element("style")
    made.text = style.SHEET  # not escaped, as the rules are not user data
    return made


def _section(anchor: str, title: str, *inner: Content) -> Element:
    return element("section", {"id": anchor}, element("h2", {}, title), inner)


def _sections(report: ReportContent) -> Iterator[Element | None]:
    yield _gates(report)
    yield _confusion(report)
    yield _confidence(report)
    yield _classes(report)
    yield _mistakes(report)
    yield _history(report)
    yield _images(report)
    yield _model(report)


# ---------------------------------------------------------------- text


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _measure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _images_of(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def _summary(report: ReportContent) -> list[Content]:
    """Say in words what was measured."""
    found = report.evaluation
    withheld = found.n - found.predicted
    words: list[Content] = [
        f"{report.hits:,} of {_images_of(found.n)} of {len(found.classes):,} classes are predicted correctly"
        f"{f', and {withheld:,} predictions were withheld' if withheld else ''}. Predictions: ",
        name(report.predictions_name),
    ]
    return [*words, "; true labels: ", name(report.truth_name), "."] if report.truth_name else [*words, "."]


# ---------------------------------------------------------------- measures


def _tile(title: str, value: str, note: Content = None, *, drawn: Content = None, main: bool = False) -> Element:
    small = element("small", {}, note) if note else None
    return element(
        "div",
        {"class": "tile main" if main else "tile"},
        element("dt", {}, title),
        element("dd", {}, value, drawn, small),
    )


def _tiles(report: ReportContent) -> Element:
    found = report.evaluation
    tiles = [
        _tile(
            "Accuracy",
            _percent(found.accuracy),
            f"95 % interval {_percent(found.accuracy_low)} to {_percent(found.accuracy_high)} (Wilson)",
            drawn=charts.interval(found.accuracy, found.accuracy_low, found.accuracy_high),
            main=True,
        )
    ]
    names = ["balanced_accuracy", "log_loss", "roc_auc", "ece"]
    if found.predicted < found.n:
        names.append("accuracy_predicted")
    tiles += [_tile(_EXPLAINED[each][0], _measure(getattr(found, each)), _EXPLAINED[each][1]) for each in names]
    tiles.append(
        _tile(
            "Images",
            f"{found.n:,}",
            f"{report.wrong:,} wrong"
            + (f", {found.n - found.predicted:,} withheld" if found.predicted < found.n else ""),
        )
    )
    if found.boxes:
        assert found.iou is not None
        tiles.append(
            _tile(
                "Mean IoU of boxes",
                _measure(found.iou),
                f"{_measure(found.iou_50)} at least 0.5 ({_measure(found.iou_50_low)} to {_measure(found.iou_50_high)}), "
                f"{_images_of(found.boxes)}",
            )
        )
    if report.gates:
        missed = sum(not gate.met for gate in report.gates)
        tiles.append(
            _tile(
                "Bounds",
                "met" if not missed else "violated",
                f"{len(report.gates) - missed} of {len(report.gates)} met",
            )
        )
    return element("dl", {"class": "tiles"}, tiles)


def _table(
    heads: Sequence[Content | tuple[Content, str]], rows: Sequence[Element], *, caption: Content = None, kind: str = ""
) -> Element:
    """Make a table that scrolls within the page where it is too wide; a head with a class is a pair."""
    row = [
        element("th", {"scope": "col", "class": head[1]}, head[0])
        if isinstance(head, tuple)
        else element("th", {"scope": "col"}, head)
        for head in heads
    ]
    return element(
        "div",
        {"class": "scroll"},
        element(
            "table",
            {"class": kind or None},
            element("caption", {}, caption) if caption else None,
            element("thead", {}, element("tr", {}, row)) if heads else None,
            element("tbody", {}, rows),
        ),
    )


def _gates(report: ReportContent) -> Element | None:
    if not report.gates:
        return None
    rows = [
        element(
            "tr",
            {},
            element("th", {"scope": "row"}, name(gate.condition)),
            element("td", {"class": "number"}, _measure(gate.value) if gate.value is not None else "not known"),
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
    return _section(
        "bounds", "Bounds", _table(["bound", ("value", "number"), ("result", "number")], rows, kind="limited")
    )


# ---------------------------------------------------------------- confusions


def _confusion(report: ReportContent) -> Element:
    found = report.evaluation
    chosen = content.confusions(found, _MATRIX)
    left_out = len(found.classes) - len(chosen.classes)
    captions: list[Content] = ["Rows are true classes, columns predictions; the colour is the share of the row."]
    if left_out:
        captions.append(
            f" The {len(chosen.classes)} of {len(found.classes):,} classes that are involved in the most mistakes; "
            f"“others” are predictions of one of the other {left_out:,}."
        )
    columns: list[Content] = [name(each) for each in chosen.classes]
    columns += [element("span", {}, "others")] if chosen.others else []
    columns += [element("span", {"title": "withheld predictions"}, WITHHELD)] if chosen.withheld else []
    dense = len(columns) >= _DENSE
    turned = dense or max(map(len, chosen.classes)) > _UPRIGHT
    head = element(
        "tr",
        {},
        element("td", {"class": "corner"}, "true ↓ predicted →"),
        [element("th", {"scope": "col"}, column) for column in columns],
    )
    rows = []
    for place, (label, counts, support) in enumerate(zip(chosen.classes, chosen.counts, chosen.support, strict=True)):
        cells = [
            element(
                "td",
                {
                    "class": " ".join(
                        [
                            *([f"h{shade}"] if (shade := style.step(count / support if support else 0.0)) else []),
                            *(["hit"] if column == place else []),
                        ]
                    )
                    or None
                },
                f"{count:,}" if count or column == place else "",
            )
            for column, count in enumerate(counts)
        ]
        rows.append(element("tr", {}, element("th", {"scope": "row"}, name(label)), cells))
    kinds = ["matrix", *(["turned"] if turned else []), *(["dense"] if dense else [])]
    matrix = element(
        "div",
        {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "Confusion matrix"},
        element(
            "table",
            {"class": " ".join(kinds)},
            element("caption", {}, captions),
            element("thead", {}, head),
            element("tbody", {}, rows),
        ),
    )
    pairs = content.most_confused(found, _CONFUSIONS)
    most = None
    if pairs and len(found.classes) > 2:
        most = _table(
            ["true", "predicted", ("images", "number"), ("share of the true class", "number")],
            [
                element(
                    "tr",
                    {},
                    element("td", {"class": "wide"}, name(each.truth)),
                    element("td", {"class": "wide"}, name(each.label)),
                    element("td", {"class": "number"}, f"{each.count:,}"),
                    element("td", {"class": "number"}, _percent(each.share)),
                )
                for each in pairs
            ],
            caption="Most frequent confusions",
            kind="limited",
        )
    inner = [matrix, most] if dense else [element("div", {"class": "inner"}, matrix, most)]
    if dense and most is not None:
        inner = [matrix, element("h3", {}, ""), most]
    return _section("confusion", "Confusion matrix", inner)


# ---------------------------------------------------------------- confidence


def _confidence(report: ReportContent) -> Element:
    remarks = [element("p", {"class": "muted"}, remark) for remark in report.remarks]
    if not report.bins:
        return _section("confidence", "Confidence", element("p", {}, "The predictions have no probabilities."), remarks)
    ece = report.evaluation.ece
    gap = sum(each.count * (each.confidence - each.accuracy) for each in report.bins)
    mean = gap / sum(each.count for each in report.bins)
    direction = "overconfident" if mean > 0 else "underconfident"
    left = element(
        "div",
        {},
        element(
            "p",
            {},
            f"Expected calibration error {_measure(ece)}: confidence and accuracy differ by {_percent(ece or 0.0)} on average. "
            f"Over all images, the model is {direction} by {_percent(abs(mean))}. "
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
    bins = _table(
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
                element("td", {"class": "number"}, _share(each.confidence)),
                element("td", {"class": "number"}, _share(each.accuracy)),
                element("td", {"class": "number"}, f"{_share(each.accuracy_low)} to {_share(each.accuracy_high)}"),
            )
            for each in report.bins
        ],
    )
    return _section(
        "confidence",
        "Confidence",
        element("div", {"class": "inner"}, left, right),
        element("details", {}, element("summary", {}, "The bins as a table"), bins),
        remarks,
    )


def _best_coverage(report: ReportContent) -> str:
    """Say what the more confident half or more of the predictions gains."""
    half = [point for point in report.coverage if point.coverage >= 0.5]
    best = max(half, key=lambda point: (point.accuracy, point.coverage), default=None)
    if best is None or best.accuracy <= report.evaluation.accuracy:
        return ""
    return (
        f"At a probability of at least {best.min_probability:.3f}, {_percent(best.coverage)} of the images are kept, "
        f"and {_percent(best.accuracy)} of these are correct."
    )


# ---------------------------------------------------------------- classes


def _classes(report: ReportContent) -> Element:
    rows = list(content.class_rows(report.evaluation))
    if len(rows) <= _CLASSES:
        return _section("classes", "Classes", _class_table(rows))
    worst = sorted(rows, key=lambda row: (row.support == 0, row.f1 if row.f1 is not None else 0.0))[:_CLASSES]
    return _section(
        "classes",
        "Classes",
        _class_table(worst, caption=f"The {_CLASSES} of {len(rows):,} classes with the lowest F1"),
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
        between = "–" if row.recall_low is None else f"{_share(row.recall_low)} to {_share(row.recall_high)}"
        length = f"width: {100 * row.f1:.1f}%" if row.f1 is not None else "width: 0"
        made.append(
            element(
                "tr",
                {},
                element("th", {"scope": "row"}, name(row.name)),
                element("td", {"class": "number"}, f"{row.support:,}"),
                element("td", {"class": "number"}, _share(row.precision)),
                element("td", {"class": "number"}, _share(row.recall)),
                element("td", {"class": "number optional"}, between),
                element("td", {"class": "number"}, _share(row.f1)),
                element(
                    "td",
                    {"class": "optional", "aria-hidden": "true"},
                    element("span", {"class": "share"}, element("i", {"style": length})),
                ),
                element("td", {"class": "wide optional"}, None if row.taken_for is None else name(row.taken_for)),
            )
        )
    return _table(heads, made, caption=caption, kind="classes limited")


# ---------------------------------------------------------------- mistakes


def _mistakes(report: ReportContent) -> Element | None:
    if not report.wrong:
        return _section("mistakes", "Mistakes", element("p", {}, "No prediction is wrong."))
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
    return _section("mistakes", "Mistakes", element("p", {}, words), element("ul", {"class": "mistakes"}, cards))


def _card(mistake: Mistake) -> Element:
    said = element(
        "dl",
        {"class": "said"},
        element("dt", {}, "✗ predicted"),
        element("dd", {"class": "wrong limited"}, name(mistake.label)),
        element("dd", {"class": "value"}, _share(mistake.probability)),
        element("dt", {}, "true"),
        element("dd", {"class": "limited"}, name(mistake.truth)),
        element("dd", {"class": "value"}, _share(mistake.truth_probability)),
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


# ---------------------------------------------------------------- history and images


def _history(report: ReportContent) -> Element | None:
    run = report.history
    if run is None:
        return None
    drawn = [charts.history(run, panel, measures) for panel, measures in curves.panels([run]).items()]
    best = run.best
    words = (
        f"{len(run.rows)} epochs; no validation."
        if best is None
        else f"{len(run.rows)} epochs; the best is epoch {best.epoch}"
    )
    if best is not None:
        parts = [
            f"{label} {value:.4g}"
            for label, value in (("validation loss", best.val_loss), ("validation accuracy", best.val_accuracy))
            if curves.finite(value) is not None
        ]
        words += f" ({', '.join(parts)})." if parts else "."
    return _section("training", "Training", element("p", {}, words), element("div", {"class": "inner"}, drawn))


def _images(report: ReportContent) -> Element | None:
    checked = report.checked
    if checked is None:
        return None
    counts = {level: sum(each.level is level for each in checked.findings) for level in Level}
    listed = ", ".join(f"{count:,} {level if count == 1 else f'{level}s'}" for level, count in counts.items())
    words = [f"{checked.images:,} images were checked, of all splits: {listed}."]
    if checked.leaked:
        words.append(
            f" {checked.leaked:,} of the {report.evaluation.n:,} evaluated images have a duplicate, or an image of their group, in "
            "another split"
        )
        kept = checked.kept
        words.append(
            "."
            if kept is None
            else f"; without them, the accuracy is {_percent(kept.accuracy)} ({_percent(kept.accuracy_low)} to "
            f"{_percent(kept.accuracy_high)})."
        )
    elif not any(counts.values()):
        words.append(" No duplicates, and no broken images.")
    serious = sorted(checked.findings, key=lambda each: list(Level).index(each.level))
    rows = [_finding(each) for each in serious[:_FINDINGS]]
    more = len(serious) - len(rows)
    return _section(
        "images",
        "Images",
        element("p", {}, words),
        _table(["level", "finding", "image", "other image", "detail"], rows, kind="limited") if rows else None,
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


# ---------------------------------------------------------------- model


def _model(report: ReportContent) -> Element | None:
    if report.header is None:
        return None
    tables = [_facts(title, facts) for title, facts in _of_header(report.header).items() if facts]
    return _section(
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
    return element("div", {}, element("h3", {}, title), _table([], rows, kind="facts"))


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
    return {
        "Network": network,
        "Preprocessing": {} if header.preprocess is None else _of_preprocess(header.preprocess),
        "Training": {
            key.replace("_", " "): _worded(value) for key, value in header.training.items() if value is not None
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
