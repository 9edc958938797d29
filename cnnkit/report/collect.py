"""Collect what a report contains, from predictions, truth, model, history and images."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cnnkit import class_names, messages
from cnnkit import files as regular_files
from cnnkit.callbacks import Callbacks
from cnnkit.choices import Monitor
from cnnkit.data.source import ImageFile
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.evaluation import bounds, coverage, label_report, metrics
from cnnkit.evaluation import report as evaluations
from cnnkit.evaluation.label_report import LabelReport
from cnnkit.evaluation.report import EvaluationReport
from cnnkit.explain import curves
from cnnkit.explain.curves import TrainingRun
from cnnkit.formats import peek
from cnnkit.formats.header import Header
from cnnkit.report import content, label_content
from cnnkit.report.config import ReportConfig
from cnnkit.report.content import CheckedImages, Gate, Mistake, ReportContent, ShownPaths
from cnnkit.report.label_content import LabelContent, LabelMistake

log = logging.getLogger("cnnkit")


def collect(
    evaluation: EvaluationReport | LabelReport,
    config: ReportConfig,
    *,
    predictions_name: str,
    truth_name: str,
    images: Sequence[ImageFile] | None,
    callbacks: Callbacks,
) -> ReportContent | LabelContent:
    """Collect what a report contains.

    Args:
        evaluation: The measures.
        config: What is wanted. Without a page, nothing that only a page shows is collected.
        predictions_name: The file of predictions, as it is to be shown.
        truth_name: The source of the true labels, as it is to be shown.
        images: All images of the truth, to be checked; None for no check.
        callbacks: Progress and skipped images.

    Raises:
        UsageError: A bound on a class that does not exist.
        CnnkitError: The model or the history cannot be read, or the model has other classes.
    """
    gates = [
        *_gates(evaluation, config.floors(), is_floor=True),
        *_gates(evaluation, config.ceilings(), is_floor=False),
    ]
    model_name = None if config.model is None else config.model.name
    title = config.title or f"{model_name or predictions_name}{f' on {truth_name}' if truth_name else ''}"
    named: dict[str, Any] = {
        "title": title,
        "evaluation": evaluation,
        "predictions_name": predictions_name,
        "truth_name": truth_name,
        "gates": gates,
        "model_name": model_name,
    }
    if config.output is not None:
        header = None if config.model is None else _header(config.model, evaluation, predictions_name=predictions_name)
        named |= {"header": header, "history": _history(config, header)}
    if isinstance(evaluation, LabelReport):
        if config.output is None:
            return LabelContent(**named)
        shown = ShownPaths(evaluation.matched.paths)
        wrong, has_maps = _wrong_labels(evaluation, shown, config, callbacks)
        return LabelContent(
            **named,
            mistakes=wrong,
            heat_maps=has_maps,
            checked=_checked(evaluation, images, shown, config, callbacks),
            remarks=tuple(evaluation.notices()),
        )
    if config.output is None:
        return ReportContent(**named)
    shown = ShownPaths(evaluation.predictions.paths)
    mistakes, has_maps = _mistakes(evaluation, shown, config, callbacks)
    return ReportContent(
        **named,
        mistakes=mistakes,
        heat_maps=has_maps,
        checked=_checked(evaluation, images, shown, config, callbacks),
        remarks=_remarks(evaluation, shown),
        bins=content.bins(evaluation),
        coverage=_coverage(evaluation),
    )


def _gates(evaluation: EvaluationReport | LabelReport, limits: Mapping[str, float], *, is_floor: bool) -> list[Gate]:
    found = bounds.check(evaluation.measures(), limits)
    return [Gate(measure, value, bound, is_floor) for measure, (value, bound) in found.items()]


def _header(model: Path, evaluation: EvaluationReport | LabelReport, *, predictions_name: str) -> Header:
    """Read the Header of a model, without torch and onnx.

    Raises:
        FormatError: It has none.
        UsageError: It predicts several labels per image and the predictions have one, or the reverse.
        CnnkitError: It lacks a class that was predicted.
        OSError: There is no such file.
    """
    model.stat()
    found = peek.header(str(model))
    if not found:
        raise FormatError(f"{model}: no cnnkit header; leave out --model for a network that cnnkit did not make")
    header = Header.from_record(found, name=str(model))
    if isinstance(evaluation, LabelReport):
        if not header.multi_label:
            raise UsageError(
                f"{model} predicts one label per image, and {predictions_name} has several; give the model that made the predictions"
            )
        matched = evaluation.matched
        predicted = [matched.classes[place] for place in np.flatnonzero(matched.predicted.any(axis=0)).tolist()]
    else:
        header.refuse_several_labels(str(model), "the predictions have one; give the model that made them")
        given = evaluation.predictions.prediction
        predicted = [evaluation.classes[place] for place in np.unique(given[given >= 0]).tolist()]
    known = None if header.classes is None else set(map(class_names.normal, header.classes))
    if known is not None and (strange := [label for label in predicted if label not in known]):
        raise CnnkitError(
            f'{model} has no class "{strange[0]}", which {predictions_name} predicts; give the model that made the predictions'
        )
    return header


def _history(config: ReportConfig, header: Header | None) -> TrainingRun | None:
    """Read the training history: the given one, or that next to the model.

    Raises:
        CnnkitError: The given one is not a history, or has no epoch.
    """
    path = config.history
    if path is None:
        if config.model is None:
            return None
        path = config.model.with_suffix(".csv")
        if not path.is_file():
            log.info("no training history: there is no %s; give --history FILE.csv", path)
            return None
    try:
        monitor = Monitor(header.training.get("monitor", Monitor.VAL_LOSS) if header is not None else Monitor.VAL_LOSS)
    except ValueError:
        monitor = Monitor.VAL_LOSS
    with regular_files.open_text(path) as file:
        try:
            (run,) = curves.collect([(file, str(path))], monitor=monitor)
        except CnnkitError as error:
            if config.history is not None:
                raise
            log.info("no training history: %s", error)
            return None
    return run


def _remarks(evaluation: EvaluationReport, shown: ShownPaths) -> tuple[str, ...]:
    """Explain measures that are unknown, and probabilities that do not sum to 1."""
    predictions = evaluation.predictions
    named = replace(predictions, paths=tuple(map(shown.of, predictions.paths)))
    return tuple(evaluations.about_measures(replace(evaluation, predictions=named)))


def _coverage(evaluation: EvaluationReport) -> list[coverage.CoveragePoint]:
    """Return the coverage curve; empty without probabilities."""
    predictions = evaluation.predictions
    given = predictions.prediction >= 0
    if not given.any() or np.isnan(predictions.confidence[given]).any():
        return []
    return coverage.curve(predictions)


def name_of_truth(source: str | None, split: str | None) -> str:
    """Return the source of the true labels as it is shown: without its folders, which may be absolute. Empty for folders of the images."""
    if source is None:
        return ""
    name = "standard input" if source == "-" else os.path.basename(os.path.normpath(source))
    return f"{name} ({split})" if split is not None else name


# ---------------------------------------------------------------- mistakes


def _mistakes(
    evaluation: EvaluationReport, shown: ShownPaths, config: ReportConfig, callbacks: Callbacks
) -> tuple[list[Mistake], bool]:
    """Return the most confident mistakes with their images, and whether there are heat maps."""
    predictions = evaluation.predictions
    wrong = np.flatnonzero((predictions.prediction >= 0) & (predictions.prediction != predictions.truth)).tolist()
    confidence = np.nan_to_num(predictions.confidence, nan=-1.0)
    rows = sorted(wrong, key=lambda row: (-confidence[row], predictions.paths[row]))[: config.worst]
    mistakes = [
        Mistake(
            shown.of(predictions.paths[row]),
            predictions.classes[predictions.truth[row]],
            predictions.classes[predictions.prediction[row]],
            metrics.known(predictions.confidence[row]),
            metrics.known(predictions.probabilities[row, predictions.truth[row]]),
        )
        for row in rows
    ]
    if not mistakes:
        return [], False
    from cnnkit.report import pictures  # here, since it imports what draws heat maps: a second that a summary saves

    callbacks.phase("showing mistakes")
    model = None if config.model is None else pictures.open_model(str(config.model), device=config.device)
    files = [predictions.paths[row] for row in rows]
    images = [ImageFile(path, label=mistake.truth) for path, mistake in zip(files, mistakes, strict=True)]
    drawn = pictures.illustrated(images, model, classes=["top", "true"], jobs=config.jobs, callbacks=callbacks)
    others = sum(each.label not in (None, mistake.label) for each, mistake in zip(drawn, mistakes, strict=True))
    if others:
        log.warning(
            "the model predicts another class for %s of the mistakes shown: did another model make the predictions?",
            messages.count_images(others),
        )
    return [
        replace(mistake, pictures=[*each.images, *each.maps.values()], missing=each.missing)
        for each, mistake in zip(drawn, mistakes, strict=True)
    ], model is not None


def _wrong_labels(
    evaluation: LabelReport, shown: ShownPaths, config: ReportConfig, callbacks: Callbacks
) -> tuple[list[LabelMistake], bool]:
    """Return the most confident wrong labels of each class with their images, and whether there are heat maps."""
    chosen = label_content.chosen(evaluation.matched, config.worst)
    if not chosen:
        return [], False
    from cnnkit.report import pictures  # here, as in `_mistakes`

    callbacks.phase("showing mistakes")
    model = None if config.model is None else pictures.open_model(str(config.model), device=config.device)
    of_image: dict[str, dict[str, None]] = {}
    for wrong in chosen:
        of_image.setdefault(wrong.path, {})[wrong.label] = None
    # The classes of the maps are those of the mistakes of each image: they take the place of its true labels
    known = set() if model is None else set(map(class_names.normal, model.classes))
    images = [
        ImageFile(path, labels=tuple(name for name in names if name in known)) for path, names in of_image.items()
    ]
    drawn = pictures.illustrated(images, model, classes=["true"], jobs=config.jobs, callbacks=callbacks)
    made = {image.path: each for image, each in zip(images, drawn, strict=True)}
    return [
        replace(
            wrong,
            path=shown.of(wrong.path),
            pictures=[*made[wrong.path].images, *filter(None, [made[wrong.path].maps.get(wrong.label)])],
            missing=made[wrong.path].missing,
        )
        for wrong in chosen
    ], model is not None


# ---------------------------------------------------------------- images


def labelled(evaluation: EvaluationReport) -> list[ImageFile]:
    """Return the evaluated images with their true class, for a check where the truth is the folders of the images."""
    predictions = evaluation.predictions
    return [
        ImageFile(path, label=predictions.classes[truth])
        for path, truth in zip(predictions.paths, predictions.truth.tolist(), strict=True)
    ]


def _checked(
    evaluation: EvaluationReport | LabelReport,
    images: Sequence[ImageFile] | None,
    shown: ShownPaths,
    config: ReportConfig,
    callbacks: Callbacks,
) -> CheckedImages | None:
    """Check images, and measure the predictions again without those that belong together with an image of another split."""
    if images is None:
        return None
    from cnnkit.audit import check, findings  # here, as in `_mistakes`
    from cnnkit.audit.config import CheckConfig

    callbacks.phase("checking images")
    found = check.check(
        images, CheckConfig(probes="none", jobs=config.jobs), progress=callbacks.progress, phase=callbacks.phase
    )
    splits: dict[int, set[str]] = {}
    for image, root in zip(found.sound, found.together, strict=True):
        if image.split is not None:
            splits.setdefault(root, set()).add(image.split)
    together = zip(found.sound, found.together, strict=True)
    leaked = {os.path.realpath(image.path) for image, root in together if len(splits.get(root, ())) > 1}
    leaked |= {os.path.realpath(pair.path.path) for pair in found.again if findings.apart(pair.path, pair.other)}
    matched = evaluation.matched if isinstance(evaluation, LabelReport) else evaluation.predictions
    resolved = matched.resolved
    kept = [row for row, path in enumerate(resolved) if path not in leaked]
    return CheckedImages(
        len(found.sound),
        [
            replace(each, path=each.path and shown.of(each.path), other=each.other and shown.of(each.other))
            for each in found.findings
        ],
        len(resolved) - len(kept),
        _main_measure(evaluation, kept) if 0 < len(kept) < len(resolved) else None,
    )


def _main_measure(
    evaluation: EvaluationReport | LabelReport, rows: Sequence[int]
) -> tuple[str, float, float, float] | None:
    """Return name, value and interval of the main measure for some of the images; None where it is unknown."""
    if isinstance(evaluation, EvaluationReport):
        some = evaluations.measure(evaluation.predictions.of(rows))
        return "accuracy", some.accuracy, some.accuracy_low, some.accuracy_high
    measures = label_report.measure(evaluation.matched.of(rows)).overall
    name = "f1_micro" if measures["mAP"] is None else "mAP"
    value, low, high = (measures[f"{name}{end}"] for end in ("", "_low", "_high"))
    return None if value is None or low is None or high is None else (label_report.in_words(name), value, low, high)
