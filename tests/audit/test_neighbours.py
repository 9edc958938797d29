"""Neighbours in feature space, against the definition."""

import numpy as np
import pytest

from cnnkit.audit import neighbours
from cnnkit.data.source import ImageFile
from cnnkit.errors import CnnkitError, FormatError
from cnnkit.formats import features
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.manifest import ManifestRow


@pytest.fixture
def write(tmp_path):
    """Write features with rows of given names."""

    def make(values, names, views=None):
        header = Header(kind=ArtefactKind.FEATURES, training={"views": 1} if views else {})
        rows = [ManifestRow(name, view=view) for name, view in zip(names, views or [None] * len(names), strict=True)]
        with features.FeatureWriter(
            tmp_path / "x.npy",
            shape=values.shape[1:],
            dtype=str(values.dtype),
            header=header,
            columns=(*features.COLUMNS, "view"),
        ) as writer:
            writer.write(values, rows)
        return tmp_path / "x.npy"

    return make


def images(folder, names):
    return [ImageFile(str(folder / name)) for name in names]


def test_pairs_equal_those_of_the_definition(write, tmp_path, monkeypatch):
    """All pairs by cosine, for any block size."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(6, 12))
    values = (np.repeat(centres, 5, axis=0) + 0.15 * generator.normal(size=(30, 12))).astype(np.float32)
    names = [f"{number}.png" for number in range(30)]
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = {(i, j) for i in range(30) for j in range(i + 1, 30) if cosines[i, j] >= 0.95}
    assert 10 < len(expected) < 70
    path = write(values, names)
    for block in (4, 7, 1024):
        monkeypatch.setattr(neighbours, "_BLOCK", block)
        found = list(neighbours.near(neighbours.load(path, images(tmp_path, names)), similarity=0.95))
        assert {(i, j) for i, j, _ in found} == expected
        assert all(cosine == pytest.approx(cosines[i, j], abs=1e-6) for i, j, cosine in found)


def test_rows_are_matched_with_images(write, tmp_path):
    """In any order; other images, augmented views, and rows of zeros or NaN are ignored."""
    values = np.eye(6, dtype=np.float32)
    values[5] = np.nan
    values[4] = 0
    path = write(values, ["b.png", "b.png", "a.png", "other.png", "zero.png", "nan.png"], views=[0, 1, 0, 0, 0, 0])
    seen = neighbours.load(path, images(tmp_path, ["a.png", "b.png", "not-there.png", "zero.png", "nan.png"]))
    assert seen.positions == [0, 1]
    np.testing.assert_array_equal(seen.values, values[[2, 0]])


def test_rejects_maps_and_features_of_other_images(write, tmp_path):
    """The message says what to run."""
    path = write(np.eye(2, dtype=np.float32), ["a.png", "b.png"])
    with pytest.raises(CnnkitError, match="features of none of the images; run cnn-extract"):
        neighbours.load(path, images(tmp_path, ["c.png"]))
    path = write(np.zeros((1, 2, 3, 3), dtype=np.float32), ["a.png"])
    with pytest.raises(FormatError, match="--pool avg"):
        neighbours.load(path, images(tmp_path, ["a.png"]))
