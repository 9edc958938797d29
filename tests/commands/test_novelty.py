"""cnn-calibrate --novelty and cnn-predict --reject, as they are typed: the distance to the training images as an output of the network."""

import json
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from predict_models import CLASSES, content, files, network, squares

import cnnkit
from cnnkit.engine import classifier_outputs, export, half_precision, novelty_graph
from cnnkit.evaluation import novelty
from cnnkit.formats import features, onnx_model
from cnnkit.formats.header import ArtefactKind
from cnnkit.formats.manifest import ManifestRow

WORDS = ("--novelty", "train.npy", "--val", "val.npy")


def half():
    """Export the classifier in float16."""
    made = classifier_outputs.ClassifierOutputs(network()[0], half=True).eval()
    example = torch.from_numpy(export.random_inputs((24, 24, 3), np.dtype(np.uint8), batch=2))
    return export.checked_bytes(export.to_onnx(made, example, inputs="images", outputs=made.names), header())


def header():
    return onnx_model.checked(content(), name="net.onnx").header


def save(path, values, paths, *, split="val", **changes):
    """Write features of images as cnn-extract does."""
    described = header().but(kind=ArtefactKind.FEATURES, classes=None, head=None, **changes)
    with features.FeatureWriter(path, shape=values.shape[1:], dtype="float32", header=described) as writer:
        rows = [ManifestRow(each, label=Path(each).parent.name, split=split) for each in paths]
        writer.write(np.asarray(values, np.float32), rows)


@pytest.fixture
def made(tmp_path, monkeypatch, root):
    """A working folder with net.onnx, and with features of twelve images and of noisy copies of them; returns those of the images."""
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(content())
    with torch.no_grad():
        values = network()[0].features(squares(files(root))).numpy()
    noise = np.random.default_rng(0).uniform(0.8, 1.2, (5, *values.shape))
    save("train.npy", np.concatenate(values * noise), files(root) * 5, split="train")
    save("val.npy", values, files(root))
    # The copies have the names of the images: nearer than new images would be
    rows = Path("train.tsv").read_text().replace(".png", ".copy.png")
    Path("train.tsv").write_text(rows)
    return values


def predict(run, model, source, *words):
    return [json.loads(line) for line in run("cnn-predict", "-m", model, source, "--json", *words).out.splitlines()]


def reference(values):
    """Return the novelty of features (N, D) by NumPy."""
    known = features.load("train.npy")
    return novelty.distances(novelty.fit(np.asarray(known.values), known.labels), values)


@pytest.mark.parametrize("kind", ["whole", "head", "float", "any", "half"])
def test_novelty_in_the_graph_is_that_of_numpy(run, made, root, kind):
    """Of whole networks, heads, normalized input, dynamic sizes and float16; the classes and probabilities do not change."""
    Path("net.onnx").write_bytes(half() if kind == "half" else content(kind=kind))
    (row,) = run("cnn-calibrate", *WORDS, "-m", "net.onnx", "-o", "new.onnx").rows
    source = "val.npy" if kind == "head" else root
    before, after = predict(run, "net.onnx", source), predict(run, "new.onnx", source)
    distances = np.array([row.pop("novelty") for row in after])
    assert before == after
    assert np.allclose(distances, reference(made), rtol=0.01 if kind == "half" else 1e-3)
    assert (row["train"], row["val"], row["method"]) == ("60", "12", "mahalanobis")
    assert float(row["kept"]) == (distances <= float(row["threshold"])).mean() >= 0.95
    onnx.checker.check_model(Path("new.onnx").read_bytes(), full_check=True)


def test_reject_withholds_labels_of_novel_images(run, made, root):
    """Of all ranks, and together with --min-probability; cnn-eval counts them as withheld, and other columns stay."""
    run("cnn-calibrate", *WORDS, "--keep", "0.5", "-m", "net.onnx", "-o", "new.onnx")
    limit = onnx_model.load("new.onnx").header.novelty.threshold
    whole, rejected = (predict(run, "new.onnx", root, "--top", "all", *more) for more in ((), ("--reject",)))
    for before, after in zip(whole, rejected, strict=True):
        assert after == before | {"label": "?" if before["novelty"] > limit else before["label"]}
    assert sum(row["label"] == "?" for row in rejected) == 18  # six images of three classes

    best = predict(run, "new.onnx", root, "--reject", "--min-probability", "0.9")
    expected = ["?" if row["novelty"] > limit or row["probability"] < 0.9 else row["label"] for row in best]
    assert [row["label"] for row in best] == expected
    lines = run("cnn-predict", "-m", "new.onnx", root, "--reject", "--labels-only").out.splitlines()
    assert lines == [row["label"] for row in rejected if row["rank"] == 1]

    Path("rejected.tsv").write_text(run("cnn-predict", "-m", "new.onnx", root, "--reject").out)
    measured = json.loads(run("cnn-eval", "rejected.tsv", "--truth", root, "--json").out)
    correct = [row["label"] == Path(row["path"]).parent.name for row in rejected if row["rank"] == 1]
    assert measured["predicted"] == 6
    assert measured["accuracy"] == pytest.approx(np.mean(correct))
    assert measured["accuracy_predicted"] == pytest.approx(sum(correct) / 6)


def test_views_have_the_novelty_of_the_unchanged_image(run, made, root):
    run("cnn-calibrate", *WORDS, "-m", "net.onnx", "-o", "new.onnx")
    one, several = (predict(run, "new.onnx", root, *more) for more in ((), ("--tta", "hflip")))
    assert [row["novelty"] for row in one] == pytest.approx([row["novelty"] for row in several], rel=1e-6)


def test_any_program_computes_the_novelty(run, made, root):
    """The output is float32 (N,)."""
    run("cnn-calibrate", *WORDS, "-m", "net.onnx", "-o", "new.onnx")
    session = onnxruntime.InferenceSession("new.onnx")
    (found,) = session.run(["novelty"], {"images": squares(files(root)).numpy()})
    assert (found.dtype, found.shape) == (np.float32, (12,))
    assert np.allclose(found, reference(made), rtol=1e-3)


def test_python_interface_has_novelty_and_threshold(run, made, root):
    run("cnn-calibrate", *WORDS, "-m", "net.onnx", "-o", "new.onnx")
    classifier = cnnkit.Classifier("new.onnx", device="cpu")
    found = [each.novelty for each in classifier.predict(files(root))]
    assert found == pytest.approx(list(reference(made)), rel=1e-3)
    assert classifier.novelty_threshold == onnx_model.load("new.onnx").header.novelty.threshold
    plain = cnnkit.Classifier("net.onnx", device="cpu")
    assert plain.novelty_threshold is plain.predict(files(root)[0])[0].novelty is None


def test_novelty_stays_in_float32_on_a_gpu_in_float16(run, made, root):
    """Only the features change when a network is converted, as for --precision float16."""
    run("cnn-calibrate", *WORDS, "-m", "net.onnx", "-o", "new.onnx")
    session = onnxruntime.InferenceSession(half_precision.converted(Path("new.onnx").read_bytes(), name="new.onnx"))
    (found,) = session.run(["novelty"], {"images": squares(files(root)).numpy()})
    assert np.allclose(found, reference(made), rtol=0.02)


def test_same_input_gives_same_bytes(run, made):
    """A second novelty replaces the first; a temperature keeps it, and so does a file without it its header."""
    for name in ("one.onnx", "two.onnx"):
        run("cnn-calibrate", *WORDS, "-m", "net.onnx", "-o", name)
    run("cnn-calibrate", *WORDS, "--keep", "0.5", "-m", "one.onnx", "-o", "half.onnx")
    run("cnn-calibrate", *WORDS, "-m", "half.onnx", "-o", "three.onnx")
    assert Path("one.onnx").read_bytes() == Path("two.onnx").read_bytes() == Path("three.onnx").read_bytes()
    record = onnx_model.load("one.onnx").header.novelty
    assert (record.keep, record.train, record.val) == (0.95, 60, 12)
    warm = onnx_model.checked(onnx_model.tempered(onnx_model.load("one.onnx"), 2.0, name="one.onnx"), name="warm.onnx")
    assert warm.header.novelty == record
    assert '"novelty"' not in onnx_model.load("net.onnx").header.to_json()


def test_one_file_may_hold_both_splits(run, made, root):
    """Then its rows of split val give the threshold, as in training."""
    train, val = features.load("train.npy"), features.load("val.npy")
    (expected,) = run("cnn-calibrate", *WORDS).rows
    with features.FeatureWriter("all.npy", shape=(12,), dtype="float32", header=train.header) as writer:
        writer.write(np.concatenate([train.values, val.values]), [*train.rows, *val.rows])
    (found,) = run("cnn-calibrate", "--novelty", "all.npy").rows
    assert found == expected
    assert expected["bytes"] == ""
    assert "no rows of split val" in run("cnn-calibrate", "--novelty", "train.npy", status=2).err


def test_reject_needs_a_novelty(run, made, root):
    outcome = run("cnn-predict", "-m", "net.onnx", root, "--reject", status=2)
    assert "net.onnx computes no novelty, which --reject needs; add it with cnn-calibrate --novelty" in outcome.err
    run("cnn-calibrate", *WORDS, "-m", "net.onnx", "-o", "new.onnx")
    two = ("-m", "new.onnx", "-m", "net.onnx", root)
    assert "--reject needs the novelty of one model" in run("cnn-predict", *two, "--reject", status=2).err
    outcome = run("cnn-predict", *two)
    assert list(outcome.rows[0]) == ["path", "rank", "label", "probability"]
    assert "several give none" in outcome.err
    sized = run("cnn-predict", "-m", "new.onnx", root, "--reject", "--size", "24", status=2)
    assert "is for its own size of images; drop --size, or drop --reject" in sized.err
    assert (
        "--reject prints ? for labels" in run("cnn-predict", "-m", "new.onnx", root, "--sets", "--reject", status=2).err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--val", "val.npy"), "without --novelty FILE.npy, no features are read; drop --val"),
        (("--keep", "0.9"), "without --novelty FILE.npy, no features are read; drop --keep"),
        (("--novelty", "train.npy", "--val", "train.npy"), "train.npy has the training images"),
        ((*WORDS, "-m", "net.onnx"), "-m without -o"),
    ],
)
def test_rejects_options_without_effect(run, made, words, message):
    assert message in run("cnn-calibrate", *words, status=2).err


#: What calibration has and a novelty has no use for, with the words on the command line.
UNUSED = {
    "PREDICTIONS": ["predictions.tsv"],
    "--truth": ["--truth", "val.tsv"],
    "--split": ["--split", "val"],
    "--folders": ["--folders", "classes"],
    "--margin": ["--margin", "0.1"],
    "--reliability": ["--reliability", "diagram.png"],
    "--sets": ["--sets", "0.9"],
    "--score": ["--score", "lac"],
}


@pytest.mark.parametrize("option", UNUSED)
def test_options_of_a_calibration_are_refused(run, tmp_path, monkeypatch, option):
    """In one line, before anything is read, even if they have their default value."""
    monkeypatch.chdir(tmp_path)
    outcome = run("cnn-calibrate", *UNUSED[option], *WORDS, status=2)
    assert outcome.err == f"cnn-calibrate: --novelty reads features, not predictions; drop {option}\n"


def test_every_option_is_used_or_refused():
    """An option that is added to cnn-calibrate must be listed as one of the two."""
    (program,) = distribution("cnnkit").entry_points.select(group="console_scripts", name="cnn-calibrate")
    names = {max(each.opts, key=len) for each in program.load().parser().params if each.opts[0].startswith("-")}
    common = {"--json", "--quiet", "--version", "--help", "--install-completion", "--show-completion"}
    assert names - common == {"--novelty", "--val", "--keep", "--model", "--output", *UNUSED} - {"PREDICTIONS"}


def test_rejects_features_of_another_network(run, made, root):
    """By the header, and by passing images through the network where the header is the same."""
    other = network(seed=1)[1]
    save("other.npy", made, files(root), backbone=other)
    words = ("-m", "net.onnx", "-o", "new.onnx")
    outcome = run("cnn-calibrate", "--novelty", "other.npy", "--val", "other.npy.npy", *words, status=1)
    assert "other.npy.npy: no such file" in outcome.err
    outcome = run("cnn-calibrate", "--novelty", "train.npy", "--val", "other.npy", *words, status=1)
    assert "other.npy was made with weights_sha256" in outcome.err
    save("wrong.npy", made[::-1] * 1.1, files(root))
    outcome = run("cnn-calibrate", "--novelty", "train.npy", "--val", "wrong.npy", *words, status=1)
    assert "net.onnx computes other features than those in wrong.npy" in outcome.err
    assert not Path("new.onnx").exists()


def test_features_of_a_less_exact_network_are_accepted(run, made, root):
    """As in int8: small differences on average, larger ones of single images; the largest is printed."""
    near = made.copy()
    near[0] *= np.random.default_rng(0).uniform(0.99, 1.01, near.shape[1])
    save("near.npy", near, files(root))
    ratios = np.abs(reference(near) / reference(made) - 1)
    assert ratios.mean() < 0.02 < ratios.max()
    outcome = run("cnn-calibrate", "--novelty", "train.npy", "--val", "near.npy", "-m", "net.onnx", "-o", "new.onnx")
    assert "net.onnx is less exact than near.npy: on 12 images, the novelty differs by up to" in outcome.err


def test_a_graph_that_computes_something_else_is_not_written(run, made, root, monkeypatch):
    """Its output is compared with NumPy: here, a factor is half as large again."""
    original = novelty_graph.with_novelty

    def wrong(bare, training, **words):
        return original(bare, replace(training, across=np.float32(training.across * 1.5)), **words)

    monkeypatch.setattr(novelty_graph, "with_novelty", wrong)
    outcome = run("cnn-calibrate", *WORDS, "-m", "net.onnx", "-o", "new.onnx", status=1)
    assert float(outcome.err.partition("net.onnx: its novelty differs by ")[2].split()[0]) > 0.01
    assert not Path("new.onnx").exists()


def test_images_that_are_gone_need_an_output_of_features(run, made, root):
    for path in files(root):
        Path(path).unlink()
    outcome = run("cnn-calibrate", *WORDS, "-m", "net.onnx", "-o", "new.onnx", status=1)
    assert "export it with cnn-export --features" in outcome.err
    assert onnx_model.load("net.onnx").header.classes == CLASSES


def test_warns_of_validation_images_among_the_training_images(run, made, root):
    """They are nearer than new ones, whose novelty the threshold is for."""
    save("both.npy", np.concatenate([made, 1.1 * made[::-1]]), files(root) + [f"{path}.copy" for path in files(root)])
    outcome = run("cnn-calibrate", "--novelty", "both.npy", "--val", "val.npy")
    assert "12 images of val.npy in the training features, too" in outcome.err
    assert "in the training features" not in run("cnn-calibrate", *WORDS).err


def test_augmented_views_are_no_training_images(run, made, root):
    """Of features with several views of each image, only the plain images count."""
    known = features.load("train.npy")
    rows = [replace(row, view=number % 2) for number, row in enumerate(known.rows)]
    described = known.header.but(training={"views": 1})
    features.save("views.npy", [features.Features(known.values, rows, described)])
    (row,) = run("cnn-calibrate", "--novelty", "views.npy", "--val", "val.npy").rows
    assert row["train"] == "30"
