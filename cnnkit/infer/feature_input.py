"""Prediction from features: which rows of a `.npy`, their names, and a check that the head was trained on such features."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.data import split_names
from cnnkit.engine.onnx_classifier import OnnxClassifier
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import features, label_sets, manifest
from cnnkit.formats.header import Header, difference

log = logging.getLogger("cnnkit")

_MOST_SHOWN = 40  # characters of a value in a message: hashes are long


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Some rows of a `.npy`: row `rows[i]` of `values`, (N, D) or (N, C, h, w), is called `paths[i]`, and its class is `labels[i]`.

    Several labels of an image are one text, such as `cat;indoor`.
    """

    name: str
    values: NDArray[Any]
    rows: list[int]
    paths: list[str]
    header: Header | None
    labels: list[str | None]


def are_feature_files(sources: Sequence[str] | None) -> bool:
    """Return whether the sources are files of features.

    Raises:
        UsageError: Some are, and others are not.
    """
    named = [source for source in sources or [] if source.lower().endswith(".npy")]
    if named and len(named) < len(sources or []):
        other = next(source for source in sources or [] if source not in named)
        raise UsageError(f"{named[0]} holds features, {other} does not; predict them in separate runs")
    return bool(named)


def tables(sources: Sequence[str]) -> list[Path]:
    """Return the tables that list the images of sources: manifests, and the `.tsv` of features."""
    found = [
        features.sibling(Path(source), ".tsv") if source.lower().endswith(".npy") else Path(source)
        for source in sources
        if source.lower().endswith((".npy", *manifest.MANIFEST_EXTENSIONS))
    ]
    return [table for table in found if table.is_file()]


def find(sources: Sequence[str], *, split: str | None = None) -> list[FeatureRows]:
    """Open files of features; the values are memory-mapped, not read.

    The `.tsv` next to a `.npy` names its rows, as paths from the current folder; without it, row i of x.npy is named `x.npy:i`,
    counted from 0. Augmented views are left out: predictions are of the images themselves.

    Args:
        sources: `.npy` files.
        split: Use only the rows of this split.

    Raises:
        FormatError: A file next to a `.npy` is broken, or has another length.
        UsageError: `split` without a `.tsv`.
        CnnkitError: There is no such split.
        OSError: A file cannot be read.
    """
    return [_one(Path(source), split) for source in sources]


def _one(path: Path, split: str | None) -> FeatureRows:
    values = features.load_values(path)
    described, listed = features.sibling(path, ".json"), features.sibling(path, ".tsv")
    header = features.load_header(path) if described.exists() else None
    if not listed.exists():
        if split is not None:
            raise UsageError(f"{path} has no {listed.name} next to it, which --split {split} needs")
        return FeatureRows(
            str(path),
            values,
            list(range(len(values))),
            [f"{path}:{row}" for row in range(len(values))],
            header,
            [None] * len(values),
        )
    named = manifest.load(listed, views=header is not None and header.has_views)
    if len(named) != len(values):
        raise FormatError(f"{path} has {len(values)} rows, {listed.name} has {len(named)}; run cnn-extract again")
    splits = sorted({row.split for row in named if row.split is not None})
    meant = split and split_names.meant(split, splits)
    if meant and meant != split:
        log.info("%s: --split %s takes %s", listed, split, meant)
    rows = [number for number, row in enumerate(named) if not row.view and (split is None or row.split == meant)]
    if split is not None and not rows:
        raise CnnkitError(f"{listed}: no rows with split {split}; it has {', '.join(splits) or 'none'}")
    return FeatureRows(
        str(path),
        values,
        rows,
        [manifest.seen_here(os.path.dirname(path), named[row].path) for row in rows],
        header,
        [_label(named[row]) for row in rows],
    )


def _label(row: manifest.ManifestRow) -> str | None:
    return row.label if row.labels is None else label_sets.joined(sorted(row.labels)) or None


def check(found: FeatureRows, head: OnnxClassifier) -> None:
    """Check that features are like those that a head was trained on.

    Raises:
        FormatError: Backbone, layer, pooling, weights, preprocessing or shape differ; the message has both values.
    """
    shape = head.network.shape[1:]
    given = found.values.shape[1:]
    if len(given) != len(shape) or any(size not in (None, side) for size, side in zip(shape, given, strict=True)):
        sizes = " x ".join("any" if size is None else str(size) for size in shape)
        raise FormatError(f"{found.name} has rows of {' x '.join(map(str, given))}, {head.name} takes {sizes}")
    if found.header is None:
        log.warning(
            "%s has no %s next to it: cannot check that %s was trained on such features",
            found.name,
            features.sibling(Path(found.name), ".json").name,
            head.name,
        )
        return
    assert head.header is not None
    differs = difference(found.header, head.header)
    if differs:
        field, *values = differs
        what = {"name": "backbone", "weights_sha256": "weights"}.get(field, field)
        one, other = (str(value)[:_MOST_SHOWN] for value in values)
        raise FormatError(
            f"{found.name} was made with {what} {one}, {head.name} was trained with {other}; run cnn-extract with the settings of the head"
        )


def values_of(found: FeatureRows, start: int, stop: int) -> NDArray[np.float32]:
    """Read some of the rows."""
    return np.asarray(found.values[found.rows[start:stop]], dtype=np.float32)
