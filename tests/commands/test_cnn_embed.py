"""cnn-embed: coordinates compared with scikit-learn, the map as an image, and error messages."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics.pairwise import euclidean_distances
from threadpoolctl import threadpool_limits

from cnnkit.audit import embedding, embedding_plot
from cnnkit.audit.embedding import Embedding, EmbeddingRecord, MapPoint
from cnnkit.formats import features, picture_style
from cnnkit.formats.features import Features
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.manifest import ManifestRow


def write(path, values, labels=None, *, views=None, split=None):
    """Write features with rows named photos/LABEL/INDEX.png."""
    labels = labels if labels is not None else ["a"] * len(values)
    rows = [
        ManifestRow(
            f"photos/{label}/{index:03d}.png",
            label,
            split=split,
            **({"view": views[index]} if views is not None else {}),
        )
        for index, label in enumerate(labels)
    ]
    header = Header(kind=ArtefactKind.FEATURES, training={"views": max(views)} if views is not None else {})
    features.save(path, [Features(np.asarray(values, dtype=np.float32), rows, header)])


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """A working folder with digits.npy, the pixels of 120 digits of ten classes; returns the values."""
    monkeypatch.chdir(tmp_path)
    values, labels = load_digits(return_X_y=True)
    write("digits.npy", values[:120], [f"digit {label}" for label in labels[:120]])
    return values[:120].astype(np.float32)


def coordinates(outcome):
    return np.array([(float(row["x"]), float(row["y"])) for row in outcome.rows])


def test_pca_is_scikit_learns(run, digits):
    """Coordinates in a pipe, and the share of the variance."""
    outcome = run("cnn-embed", "digits.npy", "--method", "pca")
    reference = PCA(2, random_state=0).fit(digits)
    np.testing.assert_allclose(coordinates(outcome), reference.transform(digits), rtol=1e-3, atol=1e-3)
    assert list(outcome.rows[0]) == ["path", "label", "x", "y"]
    assert (outcome.rows[3]["path"], outcome.rows[3]["label"]) == ("photos/digit 3/003.png", "digit 3")
    record = json.loads(run("cnn-embed", "digits.npy", "--method", "pca", "-o", "map.tsv", "--json").out)
    assert record["variance"] == pytest.approx(reference.explained_variance_ratio_.sum(), rel=1e-4)
    assert (record["method"], record["images"], record["classes"], record["dimensions"]) == ("pca", 120, 10, 64)
    assert (record["perplexity"], record["divergence"]) == (None, None)
    assert (Path("map.tsv").read_text(), outcome.err) == (outcome.out, "")


def test_tsne_is_scikit_learns(run, digits):
    """From 50 principal components; trustworthiness as scikit-learn's; the same seed gives the same bytes."""
    (record,) = (
        json.loads(line) for line in run("cnn-embed", "digits.npy", "-o", "map.tsv", "--json").out.splitlines()
    )
    reduced = PCA(50, random_state=0).fit_transform(digits)
    reference = TSNE(2, perplexity=30, init="pca", learning_rate="auto", random_state=0).fit(reduced)
    rows = [line.split("\t") for line in Path("map.tsv").read_text().splitlines()[1:]]
    found = np.array([[float(each) for each in row[2:]] for row in rows])
    np.testing.assert_allclose(found, reference.embedding_, rtol=1e-4, atol=1e-4)
    assert record["divergence"] == pytest.approx(float(reference.kl_divergence_), rel=1e-4)
    assert record["trustworthiness"] == pytest.approx(
        trustworthiness(digits, reference.embedding_),
        abs=1e-4,  # many distances of whole numbers are equal
    )
    assert record["trustworthiness"] > 0.9
    assert (record["perplexity"], record["variance"]) == (30, None)
    content = Path("map.tsv").read_bytes()
    run("cnn-embed", "digits.npy", "-o", "map.tsv")
    assert Path("map.tsv").read_bytes() == content


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_map_does_not_depend_on_the_number_of_threads(method):
    """The last bits of principal components would, and from them t-SNE makes another map."""
    values = np.random.default_rng(0).normal(size=(120, 700)).astype(np.float32)
    values[:, :20] *= 9
    found = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            places, _ = embedding.pca(values) if method == "pca" else embedding.tsne(values, perplexity=9)
        found.append(places)
    np.testing.assert_array_equal(*found)


def test_trustworthiness_is_scikit_learns():
    """Also of random maps, for any number of neighbours; of a part of the images, close to that of all."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(600, 20))
    for places in (values[:, :2], generator.normal(size=(600, 2))):
        for neighbours in (1, 5, 40):
            expected = trustworthiness(values, places, n_neighbors=neighbours)
            found = embedding.trustworthiness(values, places, neighbours=neighbours)
            assert found == pytest.approx(expected, abs=1e-9)
        part = embedding.trustworthiness(values, places, most=200)
        assert part == pytest.approx(trustworthiness(values, places), abs=0.03)


def test_trustworthiness_does_not_depend_on_what_is_compared_at_once(monkeypatch):
    """Of equal distances, as those of duplicate images, the first counts, as in a stable sort."""
    generator = np.random.default_rng(0)
    places = generator.integers(0, 6, (300, 2)).astype(np.float32)
    values = generator.integers(0, 3, (300, 4)).astype(np.float32)
    distances = euclidean_distances(places, squared=True)
    np.fill_diagonal(distances, np.inf)
    between = euclidean_distances(values, squared=True)
    np.fill_diagonal(between, np.inf)
    penalty = 0
    for row, order in enumerate(np.argsort(distances, axis=1, kind="stable")[:, :5]):
        ranks = [1 + (between[row] < between[row, column]).sum() for column in order]
        penalty += sum(max(0, rank - 5) for rank in ranks)
    expected = 1 - penalty * 2 / (300 * 5 * (2 * 300 - 3 * 5 - 1))
    assert embedding.trustworthiness(values, places) == expected
    monkeypatch.setattr(embedding, "_COMPARED_AT_ONCE", (7, 7))
    assert embedding.trustworthiness(values, places) == expected


def test_first_views_and_means_of_maps(run, tmp_path, monkeypatch):
    """Augmented copies are left out, maps are averaged, and a notice reports both."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(24, 3, 2, 2))
    write("views.npy", values, [f"{index // 2:02d}" for index in range(24)], views=[index % 2 for index in range(24)])
    write("means.npy", values[::2].mean((2, 3)), [f"{index:02d}" for index in range(12)])
    one, other = (run("cnn-embed", f"{name}.npy", "--method", "pca") for name in ("views", "means"))
    np.testing.assert_allclose(coordinates(one), coordinates(other), atol=1e-5)
    assert "views.npy has maps of 3x2x2; their mean is used" in one.err
    assert "views.npy: 12 of 24 rows are used: the first view of each image" in one.err


def test_several_files_and_a_split(run, digits):
    """The rows of all files are on one map; --split chooses rows."""
    write("one.npy", digits[:70], split="train")
    write("two.npy", digits[70:], split="val")
    both = run("cnn-embed", "one.npy", "two.npy", "--method", "pca")
    np.testing.assert_allclose(
        coordinates(both), coordinates(run("cnn-embed", "digits.npy", "--method", "pca")), atol=1e-3
    )
    assert len(run("cnn-embed", "two.npy", "--split", "val", "--method", "pca").rows) == 50


def test_table_has_paths_relative_to_its_folder(run, digits):
    """As in a manifest."""
    Path("out").mkdir()
    run("cnn-embed", "digits.npy", "--method", "pca", "-o", "out/map.tsv")
    assert Path("out/map.tsv").read_text().splitlines()[1].startswith("../photos/digit 0/000.png\tdigit 0\t")


# ---------------------------------------------------------------- maps as images


def shown(path):
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def test_map_has_a_point_in_the_colour_of_each_class(run, digits):
    """In a .png and a .svg; the same input gives the same bytes."""
    words = ("cnn-embed", "digits.npy", "--method", "pca", "-o", "m.svg")
    outcome = run(*words, "-o", "m.png")
    assert outcome.err == ""
    assert [row["images"] for row in outcome.rows] == ["120"]
    drawn, content = shown("m.png"), Path("m.svg").read_bytes()
    for colour in picture_style.DISTINCT:
        wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert (drawn == wanted).all(2).sum() > 100
        assert f"fill: {colour}".encode() in content
    assert b"PCA of digits.npy: 120 images, trustworthiness" in content
    run(*words)
    assert Path("m.svg").read_bytes() == content


def drawn_map(labels):
    """A map of points at random places."""
    places = np.random.default_rng(0).normal(size=(len(labels), 2)).tolist()
    points = [
        MapPoint(f"{index}.png", label, x, y) for index, (label, (x, y)) in enumerate(zip(labels, places, strict=True))
    ]
    return Embedding(points, EmbeddingRecord("pca", len(points), 3, 9, None, None, 0.5, 0.9), (0.3, 0.2))


@pytest.mark.parametrize("classes", [1, 5, 100, 130])
def test_legend_has_every_class(classes):
    """Names do not overlap, for 100 classes too; of more than 120, the smallest are grey."""
    names = [f"class {number}" for number in range(classes)]
    figure = embedding_plot.render(drawn_map(names * 3 + names[:120] + [None]), name="x.npy")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    texts = axes.get_legend().get_texts()
    assert len(texts) == min(classes, 120) + 1
    assert texts[-1].get_text() == f"other ({1 + 3 * max(0, classes - 120)})"
    boxes = [text.get_window_extent() for text in texts]
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    styles = {(style.colour, style.marker) for style in embedding_plot.styles(names)}
    assert len(styles) == min(classes, 120) + (classes > 120)


def test_axes_of_pca_have_the_share_of_the_variance():
    (axes,) = embedding_plot.render(drawn_map(["a", "b", "c"]), name="x.npy").axes
    assert axes.get_xlabel() == "component 1, 30.0 % of the variance"
    assert axes.get_ylabel() == "component 2, 20.0 % of the variance"


def test_legend_shows_names_as_they_are():
    """Formulas and underscores at the beginning have no meaning; long names are shortened."""
    names = ["$x$", "_hidden", "n" * 60, "b"]
    figure = embedding_plot.render(drawn_map(names * 3), name="x.npy")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["$x$", "_hidden", "b", "n" * 31 + "…"]


def test_thumbnails_do_not_cover_each_other():
    """The largest size with which half of the points have room; each is around its point."""
    places = np.random.default_rng(1).uniform(0, 1000, (80, 2))
    chosen, side = embedding_plot.fitting(places)
    assert len(chosen) >= 40
    apart = np.abs(places[chosen][:, None] - places[chosen]).max(2) + 1e9 * np.eye(len(chosen))
    assert apart.min() >= side
    for larger in [each for each in embedding_plot._SIDES if each > side]:
        kept = []
        for place in places:
            if all(np.abs(other - place).max() >= larger + 6 for other in kept):
                kept.append(place)
        assert len(kept) < 40


def test_thumbnails_are_the_images(run, tmp_path, monkeypatch, images):
    """In the frame of their class, around their points; an image that is missing is skipped."""
    monkeypatch.chdir(tmp_path)
    images(red=3, blue=3)
    rows = [ManifestRow(f"photos/{label}/{index:02d}.png", label) for label in ("red", "blue") for index in range(3)]
    values = np.array([[0, 0], [100, 0], [200, 0], [0, 150], [100, 150], [200, 155]], dtype=np.float32)
    features.save("x.npy", [Features(values, rows, Header(kind=ArtefactKind.FEATURES))])
    run("cnn-embed", "x.npy", "--method", "pca", "-o", "map.png", "--thumbnails")
    drawn = shown("map.png").astype(int)
    assert ((drawn[..., 0] > 150) & (drawn[..., 2] < 150)).sum() > 3 * 0.8 * 160 * 128
    assert ((drawn[..., 2] > 150) & (drawn[..., 0] < 150)).sum() > 3 * 0.8 * 160 * 128
    os.remove("photos/red/01.png")
    outcome = run("cnn-embed", "x.npy", "--method", "pca", "-o", "map.png", "--thumbnails", status=3)
    assert "photos/red/01.png: " in outcome.err
    assert outcome.err.count("skipped") >= 1


# ---------------------------------------------------------------- words that do not fit


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (("photos",), 2, "photos: not a features file (.npy); make features with cnn-extract photos -o features.npy"),
        (("model.pt",), 2, "model.pt: not a features file (.npy); give the .npy that cnn-extract writes"),
        (("-",), 2, "-: not a features file (.npy); give the .npy that cnn-extract writes"),
        (("digits.npy", "-o", "map.jpg"), 2, "-o map.jpg: unknown format; give it a name that ends in .png, .svg or .pdf for"),
        (("digits.npy", "--perplexity", "120"), 2, "--perplexity 120 needs more than 120 images, and digits.npy has 120"),
        (("digits.npy", "--perplexity", "9", "--method", "pca"), 2, "--perplexity is a setting of t-SNE; drop it, or"),
        (("digits.npy", "--jobs", "2"), 2, "--jobs sets the threads that decode --thumbnails; drop it, or add --thumbnails"),
        (("digits.npy", "-o", "digits.tsv"), 2, "-o digits.tsv would overwrite the names of the features; choose another name"),
        (("digits.npy", "-o", "nowhere/map.png"), 1, "nowhere"),
        (("digits.npy", "--thumbnails"), 2, "--thumbnails are drawn on the map; give its file with -o FILE.png"),
        (("plain.npy", "--thumbnails", "-o", "m.png"), 2, "plain.npy has no plain.tsv next to it, which names the images"),
        (("digits.npy", "plain.npy"), 2, "digits.npy has rows of 64, plain.npy of 8; map them separately"),
        (("two.npy",), 1, "two.npy: a map needs at least 3 images, not 2"),
        (("thin.npy",), 1, "thin.npy: a map needs features of at least 2 values, not 1"),
        (("equal.npy",), 1, "equal.npy: the features of all images are equal, so there is nothing to map"),
        (("broken.npy",), 1, "broken.npy: the features of photos/a/001.png are not finite; run cnn-extract again"),
    ],
)  # fmt: skip
def test_rejects_invalid_input(run, digits, words, status, line):
    """Each error is one line with a remedy; nothing is printed or written."""
    np.save("plain.npy", digits[:, :8])
    write("two.npy", digits[:2])
    write("thin.npy", digits[:, :1])
    write("equal.npy", np.ones((9, 4)))
    write("broken.npy", [[1, 2], [np.nan, 2], [3, 4]])
    there = sorted(os.listdir())
    outcome = run("cnn-embed", *words, status=status)
    assert outcome.err.startswith(f"cnn-embed: {line}")
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""
    assert sorted(os.listdir()) == there


def test_features_without_names(run, digits):
    """Rows are numbered, and few images get a smaller perplexity."""
    np.save("plain.npy", digits[:6])
    outcome = run("cnn-embed", "plain.npy")
    assert [row["path"] for row in outcome.rows] == [f"plain.npy:{index}" for index in range(6)]
    assert {row["label"] for row in outcome.rows} == {""}
