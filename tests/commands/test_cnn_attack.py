"""cnn-attack: bounds, files that keep their pixels, predictions, targets and error messages."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from cnnkit.choices import Fit
from cnnkit.data import preprocessing
from cnnkit.formats import torch_model
from cnnkit.formats.header import ArtefactKind, Header, Preprocess
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones
from cnnkit.nets import classifier as classifiers

CPU = ("--device", "cpu")
FITS = {"crop": Fit.CROP, "squash": Fit.SQUASH, "pad": Fit.PAD}


@pytest.fixture(scope="module")
def models(made):
    """A folder with photos/red, photos/blue, and for every fit a network that tells the two apart, crop.pt and so on, and crop.onnx."""
    folder = made(photos={"": {"red": 5, "blue": 5}})
    with Image.open(folder / "photos" / "red" / "04.png") as image:
        image.resize((90, 50)).save(folder / "photos" / "red" / "wide.jpg", quality=95)
    for name, fit in FITS.items():
        save(folder, name, fit)
    made(("cnn-export", "crop.pt", "-o", "crop.onnx", *CPU), folder=folder)
    return folder


def save(folder, name, fit):
    """Train a head on random filters."""
    extractor, backbone, _ = backbones.by_notation("conv 6 k3 relu, pool 2", size=24, seed=1)
    preprocess = Preprocess(fit=fit, resize=29 if fit is Fit.CROP else 24, size=24)
    files = sorted((folder / "photos").rglob("*.*g"))
    images = torch.tensor(np.stack([preprocessing.load(path, preprocess) for path in files]))
    classes = torch.tensor([int(path.parent.name == "red") for path in files])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = classifiers.Classifier(
            extractor, classifiers.build_head("dense 2 softmax", (6,)), preprocess=preprocess, pool=backbone.pool
        )
    features = whole.features(images).detach()
    optimizer = torch.optim.LBFGS(whole.head.parameters(), max_iter=30)

    def loss():
        optimizer.zero_grad()
        value = functional.cross_entropy(whole.head(features), classes) + 1e-2 * whole.head[0].weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    state = {f"base.{key}": value for key, value in extractor.state_dict().items()}
    state |= {f"head.{key}": value for key, value in whole.head.state_dict().items()}
    header = Header(
        ArtefactKind.MODEL, ("blue", "red"), preprocess, backbone, "dense 2 softmax", {"command": "cnn-train"}
    )
    torch_model.save(folder / f"{name}.pt", TorchModel(header, state))


@pytest.fixture
def here(models, tmp_path, monkeypatch):
    """A working folder with links to the images and networks."""
    for path in models.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def attack(run, *words, model="crop.pt", source="photos", status=0):
    """Run with --quiet, and return the records."""
    outcome = run("cnn-attack", "-m", model, source, "-o", "made", *CPU, *words, "--json", "--quiet", status=status)
    return [json.loads(line) for line in outcome.out.splitlines()]


def rows(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def loaded(name):
    """The network of a file, and its preprocessing."""
    model = torch_model.load(name)
    return classifiers.from_header(model.header, model.state, name=name).eval(), model.header.preprocess


@pytest.mark.parametrize("words", [("--epsilon", "3"), ("--epsilon", "9", "--steps", "4")])
@pytest.mark.parametrize("name", FITS)
def test_files_keep_what_the_network_sees(run, here, name, words):
    """The PNG, prepared again, differs from the prepared image by at most epsilon, and has the class and probability of the record."""
    network, preprocess = loaded(f"{name}.pt")
    records = attack(run, *words, model=f"{name}.pt")
    assert len(records) == 11
    for record in records:
        seen = [preprocessing.load(record[column], preprocess) for column in ("path", "adversarial")]
        change = np.abs(seen[0].astype(int) - seen[1])
        assert change.max() == record["change"] == int(words[1])
        with Image.open(record["adversarial"]) as image:
            assert image.format == "PNG"
            assert image.size == ((29, 29) if name == "crop" else (24, 24))
        with torch.no_grad():
            probabilities = network(torch.tensor(np.stack(seen))).softmax(1).numpy()
        for row, when in zip(probabilities, ("before", "after"), strict=True):
            assert record[f"class_{when}"] == ("blue", "red")[row.argmax()]
            assert record[f"probability_{when}"] == pytest.approx(row.max(), abs=1e-5)
    if name != "pad":  # grey bars
        assert all(record["label"] == record["class_before"] for record in records)


def test_robust_accuracy(run, here):
    """cnn-predict of the manifest gives the printed classes; accuracy falls with epsilon, and is that of the notice."""
    found = []
    for epsilon in ("1", "130"):
        outcome = run("cnn-attack", "-m", "crop.pt", "photos", "-o", f"made{epsilon}", "--epsilon", epsilon, *CPU)
        printed = [line.split("\t") for line in outcome.out.splitlines()[1:]]
        predictions = run("cnn-predict", "-m", "crop.onnx", f"made{epsilon}/attack.tsv", *CPU).out
        predicted = {path: label for path, _, label, _ in (line.split("\t") for line in predictions.splitlines()[1:])}
        assert predicted == {row[7]: row[4] for row in printed}
        measured = run("cnn-eval", "--truth", f"made{epsilon}/attack.tsv", "--json", stdin=predictions).out
        found.append(json.loads(measured)["accuracy"])
        assert f"accuracy 1 before and {found[-1]:.4g} after, of 11 labelled images" in outcome.err
    assert found[0] > found[1]
    assert found[1] == 0


def test_manifest_and_names(run, here):
    """Rows in the order of the images, with labels and sources as seen from the folder; extensions other than .png stay in the name."""
    records = attack(run)
    assert [row["path"] for row in rows("made/attack.tsv")] == [
        *(f"blue/{number:02d}.png" for number in range(5)),
        *(f"red/{number:02d}.png" for number in range(5)),
        "red/wide.jpg.png",
    ]
    last = rows("made/attack.tsv")[-1]
    assert last == {
        "path": "red/wide.jpg.png",
        "label": "red",
        "split": "",
        "group": "",
        "source": "../photos/red/wide.jpg",
    }
    assert records[-1]["adversarial"] == "made/red/wide.jpg.png"
    assert sorted(map(str, Path("made").rglob("*.*"))) == sorted(
        [record["adversarial"] for record in records] + ["made/attack.tsv"]
    )


def test_split_and_group_of_a_manifest_are_kept(run, here):
    Path("list.tsv").write_text(
        "path\tlabel\tsplit\tgroup\nphotos/red/00.png\tred\ttest\tg1\nphotos/blue/00.png\tblue\ttrain\tg2\n"
    )
    attack(run, "--split", "test", source="list.tsv")
    (row,) = rows("made/attack.tsv")
    assert (row["path"], row["label"], row["split"], row["group"]) == ("red/00.png", "red", "test", "g1")


def test_same_seed_gives_same_bytes(run, here, contents):
    """In batches of any size."""
    made = []
    for words in (("--batch", "11"), ("--batch", "4"), ("--seed", "1")):
        attack(run, "--steps", "3", "--step-size", "0.2", *words, "--force")
        made.append(contents("made"))
    assert made[0] == made[1]
    assert {name for name in made[0] if made[0][name] != made[2][name]} == set(made[0]) - {"attack.tsv"}


def test_target(run, here):
    """All images become the target; images of that class stay so."""
    outcome = run("cnn-attack", "-m", "crop.pt", "photos", "-o", "made", "--epsilon", "130", "--target", "blue", *CPU)
    found = [line.split("\t") for line in outcome.out.splitlines()[1:]]
    assert {row[4] for row in found} == {"blue"}
    assert "6 of 6 images of other classes are now predicted as blue" in outcome.err


def test_images_without_label_are_attacked_as_predicted(run, here):
    """The folder of a single image is its label, if it is a class of the model."""
    Path("elsewhere").mkdir()
    with Image.open("photos/red/00.png") as image:
        image.save("elsewhere/0.png")
    outcome = run(
        "cnn-attack", "-m", "crop.pt", "elsewhere/0.png", "photos/red/01.png", "-o", "made", "--epsilon", "130", *CPU
    )
    first, second = (line.split("\t") for line in outcome.out.splitlines()[1:])
    assert (first[1], first[2], first[4]) == ("", "red", "blue")
    assert second[1] == "red"
    assert "1 image without a label that is a class of the model" in outcome.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("-m", "crop.onnx", "photos"), "crop.onnx: an exported network has no gradients; give the .pt it was made from"),
        (("-m", "crop.pt", "photos", "--target", "rde"), '--target "rde": not a class of the model; did you mean red?'),
        (("-m", "crop.pt", "photos", "--step-size", "1"), "--step-size is for PGD, which takes several steps; add --steps 10"),
        (("-m", "crop.pt", "photos", "--seed", "1"), "--seed is for PGD"),
        (("-m", "crop.pt", "photos", "--no-random-start"), "--no-random-start is for PGD"),
        (("-m", "crop.pt", "photos", "--steps", "3", "--step-size", "0"), "--step-size 0 changes nothing"),
        (("-m", "crop.pt", "photos", "--steps", "3", "--no-random-start", "--seed", "1"), "--seed is for the random start"),
        (("-m", "crop.pt", "photos", "--epsilon", "0"), "invalid value for '--epsilon'"),
        (("-m", "crop.pt", "photos", "--epsilon", "0.5"), "invalid value for '--epsilon'"),
    ],
)  # fmt: skip
def test_rejects_invalid_options(run, here, words, line):
    """Each error is one line; nothing is printed or written."""
    before = sorted(os.listdir())
    outcome = run("cnn-attack", *words, "-o", "made", *CPU, status=2)
    assert outcome.err.startswith(f"cnn-attack: {line}")
    assert (outcome.err.count("\n"), outcome.out) == (1, "")
    assert sorted(os.listdir()) == before


def test_rejects_folders_in_use(run, here):
    """A folder that is not empty, that of the images, and two images with one name."""
    Path("made").mkdir()
    Path("made/kept.txt").write_text("kept")
    assert "made is not empty" in run("cnn-attack", "-m", "crop.pt", "photos", "-o", "made", *CPU, status=1).err
    error = run("cnn-attack", "-m", "crop.pt", "photos", "-o", "photos", "--force", *CPU, status=1).err
    assert "photos contains the images that are to be attacked" in error
    Path("list.tsv").write_text("path\tlabel\nphotos/red/00.png\tred\nmade/red/00.png\tred\n")
    error = run("cnn-attack", "-m", "crop.pt", "list.tsv", "-o", "other", *CPU, status=1).err
    assert "would both be written to red/00.png" in error
    assert not Path("other").exists()


def test_unusable_images_are_skipped(run, here):
    Path("bad").mkdir()
    Path("bad/1.png").write_bytes(b"no image")
    outcome = run("cnn-attack", "-m", "crop.pt", "photos/red/00.png", "bad/1.png", "-o", "made", *CPU, status=3)
    assert "bad/1.png: not an image" in outcome.err
    assert len(rows("made/attack.tsv")) == 1
