"""Which images a check of labels compares, and which ones stay in the manifest of --fix."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnnkit.audit import label_errors, out_of_fold
from cnnkit.formats import features, manifest
from cnnkit.formats.features import Features
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.manifest import ManifestRow


def write(paths, labels, *, far=2.0):
    """Write features of images, clusters of their classes, as x.npy."""
    generator = np.random.default_rng(0)
    places = np.unique(labels, return_inverse=True)[1]
    values = far * np.eye(8)[places] + 0.5 * generator.normal(size=(len(labels), 8))
    rows = [ManifestRow(path, label) for path, label in zip(paths, labels, strict=True)]
    features.save("x.npy", [Features(values.astype(np.float32), rows, Header(kind=ArtefactKind.FEATURES))])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_fix_keeps_what_could_not_be_checked(run, here):
    """Images without features or a label are in the manifest, with their split; a suspect is not, under any spelling of its path."""
    paths = [f"photos/{number:02}.png" for number in range(40)]
    write(paths, ["ab"[number % 2] for number in range(40)])
    labels = ["ab"[number % 2] if number else "b" for number in range(40)]  # the first is wrong
    listed = [f"./{path}\t{label}\ttrain" for path, label in zip(paths, labels, strict=True)]
    more = ["photos/new.png\ta\ttest", "photos/other.png\t\ttest"]
    Path("all.tsv").write_text("\n".join(["path\tlabel\tsplit", *listed, *more]) + "\n")
    outcome = run("cnn-check", "all.tsv", "--labels", "x.npy", "--fix", "clean.tsv")
    assert "2 images without features, not checked" in outcome.err
    assert [row["path"].removeprefix("./") for row in outcome.rows if row["suspect"] == "true"] == paths[:1]
    kept = {Path(row.path): (row.label, row.split) for row in manifest.load("clean.tsv")}
    assert set(kept) == {Path(path) for path in (*paths[1:], "photos/new.png", "photos/other.png")}
    assert kept[Path("photos/new.png")] == ("a", "test")
    assert kept[Path("photos/other.png")] == (None, "test")
    assert "clean.tsv: 41 of 42 images; left out: suspect labels 1" in outcome.err


def test_crops_of_one_file_are_in_one_fold(here):
    """So an image with all crops of its class has no probabilities: no other fold has the class."""
    paths = [f"{number % 10}.png#xywh={number},0,9,9" for number in range(40)]
    labels = ["c" if number % 10 == 0 else "ab"[number % 2] for number in range(40)]
    write(paths, labels)
    found = label_errors.cross_validated(Path("x.npy"))
    unknown = {image.path for image, row in zip(found.images, found.probabilities, strict=True) if np.isnan(row).any()}
    assert unknown == {path for path in paths if path.startswith("0.png")}
    assert label_errors.check(found).unchecked == ["c"]


def test_there_are_no_more_folds_than_groups():
    """Of 16 images in 4 groups, each with both classes; as scikit-learn's StratifiedGroupKFold."""
    labels, groups = np.arange(16) % 2, np.arange(16) // 4
    values = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=3 / 8, max_iter=300))
    folds = StratifiedGroupKFold(4, shuffle=True, random_state=0)
    expected = cross_val_predict(model, values, labels, cv=folds, groups=groups, method="predict_proba")
    np.testing.assert_allclose(out_of_fold.probabilities(values, labels, groups, classes=2), expected, atol=1e-6)


def test_withheld_predictions_are_named(run, here):
    """The remedy for ? is another than that for a missing class."""
    Path("all.tsv").write_text("path\tlabel\na.png\tcat\nb.png\tdog\n")
    head = "path\trank\tlabel\tprobability\n"
    Path("p.tsv").write_text(f"{head}a.png\t1\tcat\t0.9\na.png\t2\tdog\t0.1\nb.png\t1\t?\t0.6\nb.png\t2\t?\t0.4\n")
    message = run("cnn-check", "all.tsv", "--predictions", "p.tsv", status=1).err
    assert "p.tsv: 1 of 2 predictions were withheld; predict without --min-probability and --reject" in message
    message = run("cnn-eval", "p.tsv", "--truth", "all.tsv").err
    assert "predict with --top all, without --min-probability and --reject" in message
