"""cnn-calibrate, as it is typed: what it prints, and what the network that it writes predicts."""

import functools
import json
import math
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from cnnkit.choices import Fit, Pool
from cnnkit.engine import classifier_outputs, export
from cnnkit.formats import features, onnx_model
from cnnkit.formats.header import ArtefactKind, Header, Preprocess
from cnnkit.formats.manifest import ManifestRow
from cnnkit.nets import backbones, build, classifier

PREPROCESS = Preprocess(fit=Fit.CROP, resize=20, size=16)
CLASSES = {"dense 3": ("blue", "green", "red"), "dense 1": ("blue", "red")}


@functools.cache
def content(head="dense 3", kind="whole"):
    """Export a small network with random weights: whole, in float16, for normalized images, or only the head."""
    extractor, backbone, _ = backbones.by_notation("conv 6 k3 relu", size=PREPROCESS.size, seed=0)
    made = classifier.build_head(head, (6,))
    build.initialise(made, build.Initializer.HE, generator=torch.Generator().manual_seed(0))
    network = classifier.Classifier(extractor, made, preprocess=PREPROCESS, pool=Pool.AVG).eval()
    module = (
        classifier_outputs.HeadOutputs(network.head)
        if kind == "head"
        else classifier_outputs.ClassifierOutputs(network, normalised=kind == "float", half=kind == "half")
    )
    shape, dtype = {"head": ((6,), np.float32), "float": ((3, 16, 16), np.float32)}.get(kind, ((16, 16, 3), np.uint8))
    example = torch.from_numpy(export.random_inputs(shape, np.dtype(dtype), batch=2))
    proto = export.to_onnx(
        module.eval(), example, inputs="features" if kind == "head" else "images", outputs=module.names
    )
    header = Header(ArtefactKind.ONNX, CLASSES[head], PREPROCESS, backbone, head, training={"seed": 0})
    return export.checked_bytes(proto, header)


def predict(run, model, source="photos", *words):
    """Return the rows of predictions of all classes, with all digits."""
    lines = run("cnn-predict", "-m", model, source, "--top", 3, "--logits", "--json", "--device", "cpu", *words).out
    return [json.loads(line) for line in lines.splitlines()]


def by_image(rows, field, classes):
    """Return (N, C), images in the order of their paths."""
    found = {(row["path"], row["label"]): row[field] for row in rows}
    return np.array([[found[path, label] for label in classes] for path in sorted({path for path, _ in found})])


def save_truth(rows, classes, path="truth.tsv"):
    """Write labels that agree with seven of ten predictions; the others are the class of rank 2."""
    lines = ["path\tlabel\tsplit"]
    ranked = {(row["path"], row["rank"]): row["label"] for row in rows}
    for index, image in enumerate(sorted({image for image, _ in ranked})):
        lines.append(f"{image}\t{ranked[image, 2 if index % 10 in (1, 4, 7) else 1]}\tval")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def made(tmp_path, monkeypatch, images, run):
    """A working folder with photos/, net.onnx, val.tsv and truth.tsv; returns a function that makes it from another network."""
    monkeypatch.chdir(tmp_path)
    images(red=10, blue=10, green=10)

    def make(head="dense 3", kind="whole", source="photos"):
        (tmp_path / "net.onnx").write_bytes(content(head, kind))
        rows = predict(run, "net.onnx", source)
        save_truth(rows, CLASSES[head], tmp_path / "truth.tsv")
        (tmp_path / "val.tsv").write_text(
            run("cnn-predict", "-m", "net.onnx", source, "--top", 3, "--device", "cpu").out
        )
        return rows

    return make


TRUTH = ("--truth", "truth.tsv", "--split", "val")


def calibrate(run, *words, **options):
    return {row["measure"]: row for row in run("cnn-calibrate", "val.tsv", *TRUTH, *words, **options).rows}


@pytest.mark.parametrize(
    ("head", "kind"), [("dense 3", "whole"), ("dense 3", "half"), ("dense 3", "float"), ("dense 1", "whole")]
)
def test_calibrated_network_divides_its_logits(run, made, tmp_path, head, kind):
    """Its probabilities are softmax(logits / T); accuracy does not change, and cnn-eval finds the reported measures."""
    before = made(head, kind)
    found = calibrate(run, "-m", "net.onnx", "-o", "new.onnx")
    heat = onnx_model.load("new.onnx").header.temperature
    assert float(found["temperature"]["after"]) == pytest.approx(heat, rel=1e-5)
    assert found["accuracy"]["before"] == found["accuracy"]["after"] == "0.7"

    after, classes = predict(run, "new.onnx"), CLASSES[head]
    expected = by_image(before, "logit", classes) / heat
    assert np.allclose(by_image(after, "logit", classes), expected, rtol=1e-5, atol=1e-5)
    assert np.allclose(by_image(after, "probability", classes), softmax(expected, axis=1), rtol=0, atol=1e-6)
    measured = json.loads(
        run("cnn-eval", "--truth", "truth.tsv", "--json", stdin="\n".join(map(json.dumps, after))).out
    )
    for name in ("n", "accuracy", "log_loss", "ece"):
        assert float(found[name]["after"]) == pytest.approx(measured[name], abs=2e-5), name
    assert float(found["log_loss"]["after"]) < float(found["log_loss"]["before"])


def test_head_without_backbone_is_calibrated(run, made, tmp_path):
    """A network whose input is features."""
    values = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    (tmp_path / "head.onnx").write_bytes(content(kind="head"))
    header = onnx_model.load("head.onnx").header.but(kind=ArtefactKind.FEATURES, classes=None)
    with features.FeatureWriter("f.npy", shape=(6,), dtype="float32", header=header) as writer:
        writer.write(values, [ManifestRow(f"{index}.jpg") for index in range(40)])
    before = made("dense 3", "head", source="f.npy")
    calibrate(run, "-m", "net.onnx", "-o", "new.onnx")
    heat = onnx_model.load("new.onnx").header.temperature
    after = by_image(predict(run, "new.onnx", "f.npy"), "logit", CLASSES["dense 3"])
    assert np.allclose(after, by_image(before, "logit", CLASSES["dense 3"]) / heat, atol=1e-5)


def test_same_input_gives_same_bytes(run, made, tmp_path):
    """Only the temperature is new in the header; the old file is unchanged unless it is the output."""
    made()
    for name in ("one.onnx", "two.onnx"):
        calibrate(run, "-m", "net.onnx", "-o", name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    assert (tmp_path / "net.onnx").read_bytes() == content()
    old, new = (onnx_model.load(name).header for name in ("net.onnx", "one.onnx"))
    assert new == old.but(training={"seed": 0, "temperature": new.temperature})
    calibrate(run, "-m", "net.onnx", "-o", "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == (tmp_path / "one.onnx").read_bytes()
    onnx.checker.check_model((tmp_path / "net.onnx").read_bytes(), full_check=True)


def test_second_temperature_multiplies(run, made, tmp_path):
    """A calibrated network gets 1 on its predictions; predictions of the old network are refused."""
    made()
    heat = float(calibrate(run, "-m", "net.onnx", "-o", "new.onnx")["temperature"]["after"])
    outcome = run("cnn-calibrate", "val.tsv", *TRUTH, "-m", "new.onnx", "-o", "again.onnx", status=1)
    assert "val.tsv was not predicted by new.onnx: photos/" in outcome.err
    assert not (tmp_path / "again.onnx").exists()
    (tmp_path / "val.tsv").write_text(run("cnn-predict", "-m", "new.onnx", "photos", "--top", 3).out)
    outcome = run("cnn-calibrate", "val.tsv", *TRUTH, "-m", "new.onnx", "-o", "same.onnx")
    assert float(outcome.rows[0]["after"]) == pytest.approx(1, abs=1e-4)
    assert "the probabilities were calibrated" in outcome.err
    assert onnx_model.load("same.onnx").header.temperature == pytest.approx(heat, rel=1e-4)
    assert f"as new.onnx already has {heat:.3f}" in outcome.err
    flipped = run("cnn-predict", "-m", "net.onnx", "photos", "--top", 3, "--tta", "crop 0.5").out
    outcome = run("cnn-calibrate", *TRUTH, "-m", "net.onnx", "-o", "again.onnx", stdin=flipped, status=1)
    assert "standard input was not predicted by net.onnx" in outcome.err


def test_first_rank_is_enough_for_two_classes(run, made):
    """The same temperature as with all rows, from a file, `-` and a pipe."""
    made("dense 1")
    both = run("cnn-calibrate", "val.tsv", *TRUTH).out
    text = run("cnn-predict", "-m", "net.onnx", "photos", "--device", "cpu").out
    rows = run("cnn-calibrate", *TRUTH, stdin=text).rows
    assert float(rows[0]["after"]) == pytest.approx(float(both.split()[5]), rel=1e-3)
    assert run("cnn-calibrate", "-", *TRUTH, stdin=text).rows == rows


def test_warns_of_a_temperature_of_the_test_set(run, made, tmp_path):
    """By the split of the truth, or by the folder above the class folders."""
    made()
    warning = (
        "30 images of the test set: after a temperature is fitted to them, they no longer measure the network on unseen"
    )
    assert warning not in run("cnn-calibrate", "val.tsv", *TRUTH).err
    (tmp_path / "truth.tsv").write_text((tmp_path / "truth.tsv").read_text().replace("\tval\n", "\ttest\n"))
    assert warning in run("cnn-calibrate", "val.tsv", "--truth", "truth.tsv").err
    (tmp_path / "val.tsv").write_text((tmp_path / "val.tsv").read_text().replace("photos/", "photos/test/"))
    assert warning in run("cnn-calibrate", "val.tsv", status=None).err
    deeper = re.sub(r"/([^/]+\.png)", r"/a/\1", (tmp_path / "val.tsv").read_text())
    assert warning in run("cnn-calibrate", stdin=deeper, status=None).err


def test_rows_as_json_carry_all_digits(run, made):
    """One object per row: measure, before, after."""
    made()
    found = [json.loads(line) for line in run("cnn-calibrate", "val.tsv", *TRUTH, "--json").out.splitlines()]
    assert [row["measure"] for row in found] == ["temperature", "n", "accuracy", "log_loss", "ece"]
    assert found[0]["before"] == 1
    assert found[1]["before"] == found[1]["after"] == 30


@pytest.mark.parametrize(
    ("images", "verdict"),
    [
        (20, "20 images are too few to tell whether the probabilities were over- or underconfident"),
        (400, "the probabilities were overconfident"),
    ],
)
def test_names_the_interval_of_the_temperature(run, tmp_path, monkeypatch, images, verdict):
    """No verdict if it contains 1; log(0.8/0.2) / T = log(0.7/0.3) if probabilities of 0.8 are right in 7 of 10."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{'cat' if place % 10 < 7 else 'dog'}/{place}.jpg\tcat\t0.8" for place in range(images // 2)]
    rows += [f"{'dog' if place % 10 < 7 else 'cat'}/{place}.jpg\tdog\t0.8" for place in range(images // 2, images)]
    Path("val.tsv").write_text("\n".join(["path\tlabel\tprobability", *rows, ""]))
    found = re.search(r"temperature (\S+), 95 % interval (\S+) to (\S+): (.*)", run("cnn-calibrate", "val.tsv").err)
    heat, low, high = map(float, found.groups()[:3])
    assert heat == pytest.approx(math.log(4) / math.log(7 / 3), rel=1e-3)
    assert (low < 1) == (images == 20)
    assert low < heat < high
    assert found[4] == verdict


def test_before_and_after_are_drawn(run, made, tmp_path):
    """`--reliability` writes an image of two diagrams; stdout is as it is without."""
    made()
    drawn = run("cnn-calibrate", "val.tsv", *TRUTH, "--reliability", "r.png").out
    assert drawn == run("cnn-calibrate", "val.tsv", *TRUTH).out
    with Image.open(tmp_path / "r.png") as image:
        assert image.width > image.height


def test_network_may_have_classes_without_images(run, made, tmp_path):
    """The validation set has two of three classes."""
    rows = made()
    labels = {row["path"]: row["label"] for row in rows if row["rank"] == 1}
    chosen = [path for path, label in sorted(labels.items()) if label != "green"]
    truth = ["red" if index % 4 == 0 else labels[path] for index, path in enumerate(chosen)]
    lines = [f"{path}\t{label}\tval\n" for path, label in zip(chosen, truth, strict=True)]
    (tmp_path / "truth.tsv").write_text("path\tlabel\tsplit\n" + "".join(lines))
    (tmp_path / "val.tsv").write_text("\n".join(json.dumps(row) for row in rows if row["path"] in chosen))
    assert {*truth} == {"red", "blue"}
    assert calibrate(run) == calibrate(run, "-m", "net.onnx", "-o", "new.onnx")


def test_rejects_predictions_that_cannot_be_calibrated(run, made, tmp_path):
    """A class without probabilities, withheld predictions, only correct ones, other classes: one line, and no file."""
    rows = made()
    wrong = ("-m", "net.onnx", "-o", "new.onnx")

    def refused(text, *words):
        outcome = run("cnn-calibrate", *TRUTH, *words, stdin=text, status=1)
        assert outcome.out == ""
        assert not (tmp_path / "new.onnx").exists()
        return outcome.err.splitlines()[-1]

    text = (tmp_path / "val.tsv").read_text()
    short = "\n".join(
        line for line in text.splitlines() if not line.startswith(("photos/red/05.png\t2", "photos/red/05.png\t3"))
    )
    assert refused(short, *wrong) == (
        "cnn-calibrate: a temperature needs the probability of every class: 1 of 30 images lack a probability for some of the 3 "
        "classes; predict with --top all"
    )
    header, *lines = (line.split("\t") for line in text.splitlines())
    more = [[*fields[:3], str(min(1.0, float(fields[3]) + 0.3))] for fields in lines]
    assert "a temperature calibrates a softmax, but the probabilities of 30 of 30 images do not sum to 1" in refused(
        "\n".join("\t".join(fields) for fields in (header, *more))
    )
    withheld = run("cnn-predict", "-m", "net.onnx", "photos", "--top", 3, "--min-probability", 0.999).out
    assert "predictions were withheld; predict without --min-probability" in refused(withheld, *wrong)
    assert 'predicts the class "zebra" (photos/blue/00.png), but the classes are blue, green, red' in refused(
        text.replace("\tgreen\t", "\tzebra\t"), *wrong
    )
    known = (tmp_path / "truth.tsv").read_text()
    (tmp_path / "truth.tsv").write_text(known.replace("\tblue\t", "\tbleu\t", 1))
    assert 'no image has a probability for "bleu": is it a class of the network?' in refused(text)
    assert 'truth.tsv (val): the label "bleu" is not one of the classes blue, green, red' in refused(text, *wrong)
    labels = {row["path"]: row["label"] for row in rows if row["rank"] == 1}
    (tmp_path / "truth.tsv").write_text(
        "path\tlabel\tsplit\n" + "".join(f"{path}\t{label}\tval\n" for path, label in labels.items())
    )
    assert "all 30 predictions are correct, so no temperature is optimal" in refused(text, *wrong)


def test_logits_lost_to_rounding_are_counted(run, tmp_path, monkeypatch):
    """Probabilities of 0 or 1 have no logit; a warning from 1 % of the images."""
    monkeypatch.chdir(tmp_path)
    lines = [f"cat/{index}.jpg\t{'dog' if index % 7 == 0 else 'cat'}\t0.{6 + index % 4}" for index in range(200)]
    for count, warned in ((2, False), (3, True)):
        text = "path\tlabel\tprobability\n" + "\n".join(lines) + "\n"
        text += "".join(f"dog/{index}.jpg\tdog\t1\n" for index in range(count))
        outcome = run("cnn-calibrate", stdin=text)
        assert (f"{count} of {200 + count} images have a probability rounded to 0 or 1" in outcome.err) is warned


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["-m", "net.onnx"],
            "-m without -o: -m is the network to calibrate, -o the one to write; add -o CALIBRATED.onnx",
        ),
        (["-o", "new.onnx"], "add -m MODEL.onnx"),
        (["-m", "net.pt", "-o", "new.onnx"], "run cnn-export net.pt -o net.onnx"),
        (["-m", "net.onnx", "-o", "new.pt"], "new.pt: a network is written to a .onnx file"),
        (["--reliability", "r.bmp"], "a name that ends in .png, .svg or .pdf"),
        (["--split", "val"], "pass one with --truth"),
        (["--truth", "-"], "cannot both come from standard input"),
    ],
)
def test_rejects_contradictory_options(run, tmp_path, monkeypatch, words, message):
    """Exit 2, one line, before anything is read."""
    monkeypatch.chdir(tmp_path)
    outcome = run("cnn-calibrate", *words, stdin="", status=2)
    assert outcome.out == ""
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
