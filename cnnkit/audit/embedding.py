"""A map of features in two dimensions: by t-SNE, which keeps neighbours together, or by PCA.

Sources: van der Maaten, Hinton, "Visualizing Data using t-SNE", JMLR 2008; trustworthiness: Venna, Kaski, "Neighborhood preservation in
nonlinear projection methods", ICANN 2001.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics.pairwise import euclidean_distances
from threadpoolctl import threadpool_limits

from cnnkit import messages
from cnnkit.callbacks import Phase, ignore_phase
from cnnkit.choices import EmbedMethod
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import atomic, manifest, tsv
from cnnkit.formats.header import difference
from cnnkit.infer import feature_input
from cnnkit.infer.feature_input import FeatureRows

log = logging.getLogger("cnnkit")

#: Endings of files that are neither features nor images.
_NO_IMAGES = frozenset({".pt", ".pth", ".safetensors", ".onnx", ".json"})
#: Principal components that t-SNE gets, as scikit-learn advises: less noise, and faster.
_COMPONENTS = 50
#: The default perplexity, and the number of neighbours for each unit of perplexity that t-SNE looks at.
_PERPLEXITY, _NEIGHBOURS_EACH = 30.0, 3
#: Rows of feature files that are read at once.
_ROWS_AT_ONCE = 1024
#: Neighbours whose ranks are compared for the trustworthiness, as in scikit-learn; and the most images whose neighbours are.
_NEIGHBOURS, _MOST_COMPARED = 5, 2000
#: Images that are compared with all others at once: the least and the most, and about the number of distances, which limits the memory.
_COMPARED_AT_ONCE, _DISTANCES_AT_ONCE = (32, 256), 1 << 23


@dataclass(frozen=True, slots=True)
class MapPoint:
    """The place of an image on the map; `label` is empty if it is unknown."""

    path: str
    label: str | None
    x: float
    y: float


#: The fields of a point.
COLUMNS = ("path", "label", "x", "y")


@dataclass(frozen=True, slots=True)
class EmbeddingRecord:
    """A map.

    Attributes:
        method: tsne or pca.
        images: The number of images.
        classes: The number of classes.
        dimensions: The number of values of a feature vector.
        perplexity: Of t-SNE.
        divergence: Of t-SNE: the Kullback-Leibler divergence that remains; lower is better.
        variance: Of PCA: the share of the variance that the map shows.
        trustworthiness: 1 if all neighbours on the map are neighbours in feature space, about 0.5 for a random map.
    """

    method: str
    images: int
    classes: int
    dimensions: int
    perplexity: float | None
    divergence: float | None
    variance: float | None
    trustworthiness: float


@dataclass(frozen=True, slots=True)
class Embedding:
    """A map of features.

    Attributes:
        points: The images.
        record: The description of the map.
        shares: Of PCA: the share of the variance along each axis.
    """

    points: list[MapPoint]
    record: EmbeddingRecord
    shares: tuple[float, float] | None = None


def find(sources: Sequence[str], *, split: str | None = None, images: bool = False) -> list[FeatureRows]:
    """Open files of features.

    Args:
        sources: `.npy` files.
        split: Use only the rows of this split.
        images: The paths of the images are needed.

    Raises:
        UsageError: A file is not a .npy, two were not made alike, or there is no `.tsv` with the paths.
        FormatError: As `feature_input.find`.
    """
    for source in sources:
        if not source.lower().endswith(".npy"):
            remedy = f"make features with cnn-extract {messages.shell_word(source)} -o features.npy"
            if source == "-" or Path(source).suffix.lower() in _NO_IMAGES:
                remedy = "give the .npy that cnn-extract writes"
            raise UsageError(f"{source}: not a features file (.npy); {remedy}")
        listed = Path(source).with_suffix(".tsv")
        if images and Path(source).exists() and not listed.exists():
            raise UsageError(
                f"{source} has no {listed.name} next to it, which names the images that --thumbnails draws"
            )
    found = feature_input.find(sources, split=split)
    first = found[0]
    for other in found[1:]:
        if other.values.shape[1:] != first.values.shape[1:]:
            sizes = (" x ".join(map(str, each.values.shape[1:])) for each in (first, other))
            raise UsageError(
                "{0} has rows of {2}, {1} of {3}; map them separately".format(first.name, other.name, *sizes)
            )
        if (
            first.header is not None
            and other.header is not None
            and (differs := difference(first.header, other.header))
        ):
            raise UsageError(f"{first.name} and {other.name} were made with another {differs[0]}; map them separately")
    return found


def name_of(found: Sequence[FeatureRows]) -> str:
    """Return the names of files, for messages."""
    return messages.shortened([rows.name for rows in found], 3)


def check_outputs(paths: Sequence[Path], sources: Sequence[str]) -> None:
    """Check files to write, before any work is done.

    Args:
        paths: The files.
        sources: The files of features.

    Raises:
        UsageError: One is the `.tsv` of the features.
        CnnkitError: There is no such folder.
    """
    own = {Path(source).with_suffix(".tsv").resolve() for source in sources if source.lower().endswith(".npy")}
    for path in paths:
        if path.resolve() in own:
            raise UsageError(f"-o {path} would overwrite the names of the features; choose another name")
        atomic.check_folder(path)


def embed(
    found: Sequence[FeatureRows],
    *,
    method: EmbedMethod = EmbedMethod.TSNE,
    perplexity: float | None = None,
    seed: int = 0,
    phase: Phase = ignore_phase,
) -> Embedding:
    """Map features to two dimensions.

    The features of an image are those of its first view; maps (C, h, w) are averaged over their places.

    Args:
        found: From `find`.
        method: The method.
        perplexity: Of t-SNE; by default 30, or a third of the other images.
        seed: For the solvers.
        phase: Called with the name of each phase.

    Raises:
        UsageError: The perplexity is too large.
        CnnkitError: There are fewer than three images, or their features are equal or not finite.
    """
    phase("reading features")
    names = name_of(found)
    values = _values(found)
    paths = [path for rows in found for path in rows.paths]
    labels = [label for rows in found for label in rows.labels]
    _check(values, paths, names)
    chosen, divergence, shares = None, None, None
    if method is EmbedMethod.TSNE:
        chosen = _perplexity(perplexity, len(values), names)
        phase("t-SNE")
        places, divergence = tsne(values, perplexity=chosen, seed=seed)
    else:
        phase("PCA")
        places, shares = pca(values, seed=seed)
    phase("measuring")
    points = [
        MapPoint(path, label, _rounded(x), _rounded(y))
        for path, label, (x, y) in zip(paths, labels, places.tolist(), strict=True)
    ]
    record = EmbeddingRecord(
        method=str(method),
        images=len(values),
        classes=len({label for label in labels if label is not None}),
        dimensions=values.shape[1],
        perplexity=None if chosen is None else _rounded(chosen),
        divergence=None if divergence is None else _rounded(divergence),
        variance=None if shares is None else _rounded(sum(shares)),
        trustworthiness=_rounded(trustworthiness(values, places)),
    )
    return Embedding(points, record, shares)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _values(found: Sequence[FeatureRows]) -> NDArray[np.float32]:
    """Read the features, (N, D), straight to their place: memory holds them once."""
    shape = found[0].values.shape[1:2]
    values = np.empty((sum(len(rows.rows) for rows in found), *shape), dtype=np.float32)
    at = 0
    for rows in found:
        if rows.values.ndim == 4:
            log.info("%s has maps of %s; their mean is used", rows.name, "x".join(map(str, rows.values.shape[1:])))
        left_out = len(rows.values) - len(rows.rows)
        if left_out and rows.header is not None and rows.header.has_views:
            log.info(
                "%s: %d of %d rows are used: the first view of each image", rows.name, len(rows.rows), len(rows.values)
            )
        for start in range(0, len(rows.rows), _ROWS_AT_ONCE):
            part = feature_input.values_of(rows, start, start + _ROWS_AT_ONCE)
            values[at : at + len(part)] = part.mean((2, 3)) if part.ndim == 4 else part
            at += len(part)
    return values


def _check(values: NDArray[np.float32], paths: Sequence[str], names: str) -> None:
    """Raise an error for features that cannot be mapped."""
    if len(values) < 3:
        raise CnnkitError(f"{names}: a map needs at least 3 images, not {len(values)}")
    if values.shape[1] < 2:
        raise CnnkitError(f"{names}: a map needs features of at least 2 values, not {values.shape[1]}")
    are_equal = True
    for start in range(0, len(values), _ROWS_AT_ONCE):
        part = values[start : start + _ROWS_AT_ONCE]
        broken = np.flatnonzero(~np.isfinite(part).all(1))
        if len(broken):
            raise CnnkitError(
                f"{names}: the features of {paths[start + broken[0]]} are not finite; run cnn-extract again"
            )
        are_equal = are_equal and bool((part == values[0]).all())
    if are_equal:
        raise CnnkitError(f"{names}: the features of all images are equal, so there is nothing to map")


def _perplexity(given: float | None, count: int, names: str) -> float:
    """Return the perplexity of t-SNE."""
    if given is None:
        return min(_PERPLEXITY, max(1.0, (count - 1) / _NEIGHBOURS_EACH))
    if given >= count:
        raise UsageError(
            f"--perplexity {given:g} needs more than {given:g} images, and {names} has {count}; give a smaller one"
        )
    return given


def pca(values: NDArray[np.float32], *, seed: int = 0) -> tuple[NDArray[Any], tuple[float, float]]:
    """Project features to their first two principal components, (N, D) -> (N, 2).

    Returns:
        The places; and the share of the variance along each axis.
    """
    solver = PCA(2, random_state=seed)
    with _one_thread():
        places = solver.fit_transform(values)
    first, second = solver.explained_variance_ratio_.tolist()
    return places, (first, second)


def tsne(values: NDArray[np.float32], *, perplexity: float, seed: int = 0) -> tuple[NDArray[Any], float]:
    """Map features by t-SNE, from their first 50 principal components, (N, D) -> (N, 2).

    Returns:
        The places; and the Kullback-Leibler divergence that remains.
    """
    components = min(_COMPONENTS, *values.shape)
    solver = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    with _one_thread():
        if values.shape[1] > _COMPONENTS:
            values = PCA(components, random_state=seed).fit_transform(values)
        places = solver.fit_transform(values)
    return places, float(solver.kl_divergence_)


def _one_thread() -> threadpool_limits:
    """Limit linear algebra and t-SNE to one thread: the order of sums would change the last bits, and from them t-SNE makes another map."""
    return threadpool_limits(limits=1)


def trustworthiness(
    values: NDArray[Any], places: NDArray[Any], *, neighbours: int = _NEIGHBOURS, most: int = _MOST_COMPARED
) -> float:
    """Measure whether neighbours on a map are neighbours in feature space; 1 is best.

    As in scikit-learn, whose memory is quadratic in the number of images; here, of more than `most` images the neighbours of that many, at
    even distances, are compared.

    Args:
        values: The features, (N, D).
        places: The map, (N, 2).
        neighbours: The number of neighbours of an image on the map.
        most: The maximum number of images.
    """
    count = len(values)
    neighbours = min(neighbours, (count - 1) // 2)
    rows = np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
    least, greatest = _COMPARED_AT_ONCE
    at_once = min(max(_DISTANCES_AT_ONCE // count, least), greatest)
    penalty = 0
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        on_map, between = (euclidean_distances(each[part], each, squared=True) for each in (places, values))
        itself = np.arange(len(part)), part
        on_map[itself] = between[itself] = np.inf
        for column in _nearest(on_map, neighbours).T:
            ranks = 1 + np.count_nonzero(between < between[itself[0], column][:, None], axis=1)
            penalty += int(np.maximum(ranks - neighbours, 0).sum())
    return 1 - penalty * 2 / (len(rows) * neighbours * (2 * count - 3 * neighbours - 1))


def _nearest(distances: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return the places of the smallest distances of each row, (n, N) -> (n, count), as a stable sort without sorting all of them."""
    farthest = np.partition(distances, count - 1, axis=1)[:, count - 1]
    found = np.empty((len(distances), count), dtype=np.int64)
    for row, (each, limit) in enumerate(zip(distances, farthest, strict=True)):
        near = np.flatnonzero(each <= limit)  # more than `count`, if distances are equal
        found[row] = near[np.argsort(each[near], kind="stable")[:count]]
    return found


def save_points(path: Path, points: Sequence[MapPoint]) -> None:
    """Write coordinates as a table; as in a manifest, its paths are relative to its folder."""
    rows = (
        (manifest.seen_from(path.parent, each.path), each.label, f"{each.x:.6g}", f"{each.y:.6g}") for each in points
    )
    tsv.save(path, COLUMNS, rows)
