"""Metadata as a second input: trained by cnn-train-head --use, exported, and predicted from manifests; against scikit-learn and torch."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import cnnkit
from cnnkit.errors import CnnkitError
from cnnkit.formats import features, onnx_model, torch_model, tsv
from cnnkit.nets import classifier

CPU = ("--device", "cpu")
BACKBONE = ("--layers", "conv 6 k3 s2 relu, conv 8 k3 relu", "--weights", "none", "--size", "16", *CPU)
TRAIN = ("cnn-train-head", "train.npy", "--val", "val.npy", "-o", "head.pt", *CPU)
LBFGS = ("--solver", "lbfgs", "--l2", "0.001", "--loss", "binary")
USE = ("--use", "width,camera,day:category", "--columns", "meta.tsv")

#: One image in the validation set has a camera that no training image has.
UNSEEN = "photos/val/red/3.png"


def write_photos(folder):
    """Write noise of two classes, and a manifest with columns that say something about them."""
    generator = np.random.default_rng(0)
    rows = []
    for split, count in (("train", 12), ("val", 6)):
        for label, level in (("blue", 100), ("red", 104)):
            (folder / "photos" / split / label).mkdir(parents=True)
            for number in range(count):
                path = f"photos/{split}/{label}/{number}.png"
                wide = 30 + int(generator.integers(10)) + 2 * (label == "red")
                pixels = generator.normal(level, 40, (32, wide, 3)).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / path)
                camera = ["", "Nikon", "Canon"][(number + generator.integers(2) * (label == "red")) % 3]
                camera = "new" if path == UNSEEN else camera
                rows.append((path, label, split, camera, str(number % 4 + (label == "red"))))
    (folder / "meta.tsv").write_bytes(tsv.render(["path", "label", "split", "camera", "day"], rows))


@pytest.fixture(scope="module")
def made_once(made, tmp_path_factory):
    """Make a folder with features, a model of metadata, and its exported forms."""
    folder = tmp_path_factory.mktemp("metadata")
    write_photos(folder)
    return made(
        *(("cnn-extract", "photos", "--split", split, "-o", f"{split}.npy", *BACKBONE) for split in ("train", "val")),
        (*TRAIN, *LBFGS, *USE),
        ("cnn-export", "head.pt", "-o", "head.onnx", *CPU),
        ("cnn-export", "head.pt", "-o", "only.onnx", "--head-only", *CPU),
        folder=folder,
    )


@pytest.fixture
def here(made_once, tmp_path, monkeypatch):
    """Work in a copy of that folder."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def width_of(path):
    """Return the width of an image, in pixels."""
    with Image.open(path) as image:
        return image.width


def table(split, names=("width", "camera", "day")):
    """Return features, and the columns of their images as objects, (N, 8 + 3), and the labels."""
    found = features.load(f"{split}.npy")
    fields = {row["path"]: row for row in tsv.load("meta.tsv", required=["path"])}
    own = [[{"width": width_of(row.path), **fields[row.path]}[name] for name in names] for row in found.rows]
    values = np.hstack([found.values.astype(object), np.array(own, dtype=object)])
    return values, [row.label for row in found.rows]


def predicted(outcome):
    """Return the probability of red by path."""
    rows = map(json.loads, outcome.out.splitlines())
    return {row["path"]: row["probability"] for row in rows if row["label"] == "red"}


def test_model_is_that_of_scikit_learn(run, here):
    """StandardScaler, OneHotEncoder and LogisticRegression on the joined matrix give the same probabilities, unseen categories included."""
    train, labels = table("train")
    encoder = ColumnTransformer(
        [
            ("features", "passthrough", slice(0, 8)),
            ("numbers", StandardScaler(), [8]),
            ("words", OneHotEncoder(handle_unknown="ignore"), [9, 10]),
        ]
    )
    reference = make_pipeline(encoder, LogisticRegression(C=1 / (2 * 0.001 * len(train)), tol=1e-8, max_iter=5000))
    reference.fit(train, labels)
    val, truth = table("val")
    outcome = run("cnn-predict", "-m", "head.onnx", "meta.tsv", "--split", "val", "--top", "all", "--json", *CPU)
    found = predicted(outcome)
    expected = dict(
        zip([row.path for row in features.load("val.npy").rows], reference.predict_proba(val)[:, 1], strict=True)
    )
    assert found == pytest.approx(expected, abs=2e-4)
    assert 'column camera: the value "new" of 1 image is not in the training set: encoded as zeros' in outcome.err
    accuracy = np.mean([(found[path] > 0.5) == (label == "red") for path, label in zip(expected, truth, strict=True)])
    (result,) = run(*TRAIN, *LBFGS, *USE).rows
    assert float(result["val_accuracy"]) == pytest.approx(accuracy)
    with_alone = run("cnn-train-head", "train.npy", "--val", "val.npy", *LBFGS, "--with", "width", *CPU).rows
    assert float(run(*TRAIN, *LBFGS, "--use", "width").rows[0]["val_loss"]) == pytest.approx(
        float(with_alone[1]["val_loss"]), abs=1e-5
    )


def test_header_has_kinds_means_deviations_and_categories(here):
    """Of the training rows only; the ONNX file has the same record, and other models have none."""
    header = torch_model.load("head.pt").header
    train, _ = table("train")
    widths = train[:, 8].astype(float)
    width, camera, day = json.loads(header.to_json())["columns"]
    assert width == {
        "name": "width",
        "kind": "number",
        "mean": pytest.approx(widths.mean()),
        "std": pytest.approx(widths.std()),
    }
    assert camera == {"name": "camera", "kind": "category", "categories": ["", "Canon", "Nikon"]}
    assert day == {"name": "day", "kind": "category", "categories": ["0", "1", "2", "3", "4"]}
    assert onnx_model.load("head.onnx").header.columns == header.columns
    assert header.training["use"] == "width,camera,day:category"
    assert "columns" not in json.loads(features.load_header("train.npy").to_json())


@pytest.mark.parametrize(
    "words",
    [
        ("--standardize", "--pca", "3", "--whiten", "--head", "dense 4 relu, dropout 0.2", "--epochs", "3"),
        ("--loss", "binary", "--l1", "0.001", "--standardize", "--head", "bn, dense 4 relu", "--epochs", "3"),
    ],
    ids=["pca", "binary"],
)
def test_prepared_features_and_deep_heads_export_with_parity(run, here, words):
    """The columns are raw values: the graph encodes them. ONNX Runtime computes what torch does."""
    run(*TRAIN, *words, *USE)
    run("cnn-export", "head.pt", "-o", "head.onnx", "--features", "--verify", "photos/val", *CPU)
    model = torch_model.load("head.pt")
    network = classifier.from_header(model.header, model.state, name="head.pt", with_columns=True)
    assert not [name for name in model.state if name.startswith("columns")]
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    columns = np.array([[31, 0, 1], [35, 1, -1], [44, -1, 4], [0, 2, 0], [38.5, 0, 2]], dtype=np.float32)
    session = onnxruntime.InferenceSession("head.onnx", providers=["CPUExecutionProvider"])
    assert [(each.name, each.type, each.shape) for each in session.get_inputs()] == [
        ("images", "tensor(uint8)", ["batch", 16, 16, 3]),
        ("columns", "tensor(float)", ["batch", 3]),
    ]
    logits, feature = session.run(["logits", "features"], {"images": images, "columns": columns})
    with torch.no_grad():
        expected = classifier.class_logits(network(torch.from_numpy(images), torch.from_numpy(columns))).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    width = model.header.columns[0]
    hot = [[(code == place) for place in range(3)] for code in columns[:, 1]]
    encoded = np.hstack([(columns[:, :1] - width.mean) / width.std, hot, columns[:, 2:] == np.arange(5)])
    with torch.no_grad():
        joined = torch.from_numpy(np.hstack([feature, encoded]).astype(np.float32))
        np.testing.assert_allclose(logits, classifier.class_logits(network.head(joined)).numpy(), atol=1e-4)


def test_same_predictions_from_all_sources(run, here):
    """A manifest, a folder with --columns, paths on standard input, features of a head, shards, and the Python interface."""
    shown = ("--top", "all", "--json", *CPU)
    whole = predicted(run("cnn-predict", "-m", "head.onnx", "meta.tsv", "--split", "val", *shown))
    columns = ("--columns", "meta.tsv")
    assert predicted(run("cnn-predict", "-m", "head.onnx", "photos/val", *columns, *shown)) == whole
    piped = "\n".join(reversed(whole)).encode()
    assert predicted(run("cnn-predict", "-m", "head.onnx", "-", *columns, *shown, stdin=piped)) == pytest.approx(
        whole, abs=1e-6
    )
    head = predicted(run("cnn-predict", "-m", "only.onnx", "val.npy", *columns, *shown))
    assert head == pytest.approx(whole, abs=1e-5)
    parts = [run("cnn-predict", "-m", "head.onnx", "photos/val", *columns, "--shard", f"{n}/2", *shown) for n in (1, 2)]
    assert predicted(parts[0]) | predicted(parts[1]) == whole
    found = cnnkit.Classifier("head.onnx", device="cpu").predict("meta.tsv", split="val")
    assert {each.path: each.top()[each.label != "red"].probability for each in found} == whole
    with pytest.raises(CnnkitError, match="image 0 has no file, and the model takes columns of it"):
        cnnkit.Classifier("head.onnx", device="cpu", columns="meta.tsv").predict(Image.new("RGB", (20, 20)))


def test_columns_of_a_manifest_with_boxes(run, here):
    """A crop has the columns of its row: boxes of the whole images change nothing, in training and prediction."""
    rows = [list(row.values()) for row in tsv.load("meta.tsv", required=["path"])]
    boxes = [[*row, f"0,0,{width_of(row[0])},32"] for row in rows]
    Path("boxes.tsv").write_bytes(tsv.render(["path", "label", "split", "camera", "day", "box"], boxes))
    shown = ("--split", "val", "--top", "all", "--json", *CPU)
    whole = predicted(run("cnn-predict", "-m", "head.onnx", "meta.tsv", *shown))
    found = predicted(run("cnn-predict", "-m", "head.onnx", "boxes.tsv", *shown))
    assert {path.partition("#xywh=")[0]: probability for path, probability in found.items()} == whole
    assert found == predicted(run("cnn-predict", "-m", "head.onnx", "boxes.tsv", *shown, "--columns", "meta.tsv"))
    run("cnn-extract", "boxes.tsv", "-o", "crops.npy", *BACKBONE)
    words = ("cnn-train-head", "crops.npy", "-o", "crops.pt", *CPU, *LBFGS, *USE[:2], "--columns", "boxes.tsv")
    assert run(*words).rows[0]["val_loss"] == run(*TRAIN, *LBFGS, *USE).rows[0]["val_loss"]


def test_views_and_several_models(run, here):
    """Views of an image share its columns; each model gets its own, and one without takes only images."""
    run(*TRAIN[:-4], "-o", "plain.pt", *CPU, *LBFGS)
    run(*TRAIN[:-4], "-o", "wide.pt", *CPU, *LBFGS, "--use", "width")
    for name in ("plain", "wide"):
        run("cnn-export", f"{name}.pt", "-o", f"{name}.onnx", *CPU)
    shown = ("photos/val", "--columns", "meta.tsv", "--top", "all", "--json", *CPU)
    names = ("plain", "head", "wide")
    alone = [
        predicted(
            run("cnn-predict", "-m", f"{name}.onnx", shown[0], *shown[3:] if name == "plain" else shown[1:], *extra)
        )
        for name in ("plain", "head")
        for extra in ((), ("--tta", "hflip"))
    ]
    plain, _, head, flipped = alone
    wide = predicted(run("cnn-predict", "-m", "wide.onnx", "photos/val", *shown[3:]))
    vote = predicted(run("cnn-predict", *(word for name in names for word in ("-m", f"{name}.onnx")), *shown))
    assert vote == pytest.approx({path: (plain[path] + head[path] + wide[path]) / 3 for path in plain}, abs=1e-5)
    for path in ("photos/val/red/1.png", "photos/val/blue/2.png"):
        with Image.open(path) as image:
            mirror = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirror.save(path)
    mirrored = predicted(run("cnn-predict", "-m", "head.onnx", *shown))
    for path in ("photos/val/red/1.png", "photos/val/blue/2.png"):
        assert flipped[path] == pytest.approx((head[path] + mirrored[path]) / 2, abs=1e-5)


def test_columns_of_the_features_own_table(run, here):
    """Without --columns, columns that were added to the .tsv of the features are used, and those of each file for its rows."""
    expected = run(*TRAIN, *LBFGS, *USE).rows
    fields = {row["path"]: row for row in tsv.load("meta.tsv", required=["path"])}
    for split in ("train", "val"):
        rows = list(tsv.load(f"{split}.tsv", required=["path"]))
        rows = [{**row, "camera": fields[row["path"]]["camera"], "day": fields[row["path"]]["day"]} for row in rows]
        Path(f"{split}.tsv").write_bytes(tsv.render(list(rows[0]), [list(row.values()) for row in rows]))
    assert run(*TRAIN, *LBFGS, *USE[:2]).rows == expected
    run("cnn-predict", "-m", "only.onnx", "val.npy", *CPU)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ((*TRAIN, "--use", "lens", "--columns", "meta.tsv"), 2, "--use lens: no such column; there are width, height, aspect, bytes, "),
        ((*TRAIN, "--use", "camera"), 2, "--use camera: no such column; there are width, height, aspect, bytes, split, group; colum"),
        ((*TRAIN, "--use", "day:word", "--columns", "meta.tsv"), 2, "; the kinds after a colon are number and category"),
        ((*TRAIN, "--use", "label", "--columns", "meta.tsv"), 2, "--use label: the label is the target; drop it"),
        ((*TRAIN, "--use", "camera:number", "--columns", "meta.tsv"), 2, '--use camera:number: "" is not a number; give camera:category'),
        ((*TRAIN, "--use", "width", "--with", "width"), 2, "--with writes no model; drop -o"),
        ((*TRAIN[:4], "--use", "width", "--with", "width"), 2, "--with compares models with and without columns; drop --use"),
        ((*TRAIN, "--columns", "meta.tsv"), 2, "--columns goes with --use and --with; name the columns with --use NAME,..."),
        ((*TRAIN, "--use", "day", "--columns", "short.tsv"), 1, "photos/train/blue/0.png is not in short.tsv; --columns needs a manif"),
        (("cnn-predict", "-m", "head.onnx", "photos/val"), 2, "head.onnx takes the column camera; give a manifest that has it with"),
        (("cnn-predict", "-m", "head.onnx", "bare.tsv"), 2, "column camera, and it is not in bare.tsv, which has day; give a manifest"),
        (("cnn-predict", "-m", "head.onnx", "short.tsv"), 1, "photos/val/red/0.png: column width is "),
        (("cnn-predict", "-m", "head.onnx", "photos/val", "--columns", "short.tsv"), 1, "photos/val/blue/0.png is not in short.tsv"),
        (("cnn-predict", "-m", "head.onnx", "meta.tsv", "--bench"), 2, "--bench measures networks that take only images"),
    ],
)  # fmt: skip
def test_rejects(run, here, words, status, message):
    """Missing columns and rows, and options that contradict each other: one line with the remedy."""
    Path("short.tsv").write_bytes(
        tsv.render(["path", "camera", "day", "width"], [("photos/val/red/0.png", "Nikon", "1", "wide")])
    )
    Path("bare.tsv").write_bytes(tsv.render(["path", "day"], [("photos/val/red/0.png", "1")]))
    outcome = run(*words, *(() if "--device" in words else CPU), status=status)
    assert message in outcome.err.splitlines()[-1]


TAKES = "takes columns next to the image (width, camera, day)"


@pytest.mark.parametrize(
    "words",
    [
        ("cnn-cam", "-m", "head.pt", "photos/val", "-o", "maps", *CPU),
        ("cnn-cam", "-m", "head.onnx", "photos/val", "-o", "maps", *CPU),
        ("cnn-maps", "-m", "head.onnx", "photos/val/red/0.png", "-o", "maps.png", *CPU),
        ("cnn-attack", "-m", "head.pt", "photos/val", "-o", "adversarial", *CPU),
        ("cnn-finetune", "head.pt", "meta.tsv", "-o", "tuned.pt", *CPU),
        ("cnn-export", "head.pt", "-o", "cam.onnx", "--cam", *CPU),
        ("cnn-export", "head.pt", "-o", "int8.onnx", "--int8", "--calibrate", "meta.tsv", *CPU),
    ],
    ids=lambda words: f"{words[0]} {words[-4]}",
)
def test_commands_that_give_no_columns_refuse(run, here, words):
    """In one line, with the remedy."""
    outcome = run(*words, status=2)
    (line,) = outcome.err.splitlines()
    assert TAKES in line
    assert line.endswith("train a head without --use")


def test_other_commands_work(run, here):
    """Dimensions of both files, the backbone, half precision, and a temperature."""
    for name in ("head.pt", "head.onnx"):
        rows = run("cnn-dims", name).rows
        assert rows[-1]["layer"] == "total"
        assert next(row for row in rows if row["layer"] == "head.dense1")["params"] == "18", (
            "8 features, 9 of columns, a bias"
        )
    run("cnn-extract", "photos", "--split", "val", "--backbone", "head.pt", "-o", "again.npy", *CPU)
    np.testing.assert_array_equal(np.load("again.npy"), np.load("val.npy"))
    run("cnn-export", "head.pt", "-o", "half.onnx", "--fp16", "--tolerance", "0.02", *CPU)
    predictions = run("cnn-predict", "-m", "head.onnx", "meta.tsv", "--split", "val", "--top", "all", "--json", *CPU)
    Path("p.jsonl").write_text(predictions.out)
    words = ("cnn-calibrate", "p.jsonl", "--truth", "meta.tsv", "-m", "head.onnx", "-o", "calibrated.onnx")
    assert "head.onnx takes columns next to the image: cannot check that it predicted p.jsonl" in run(*words).err
    run("cnn-predict", "-m", "calibrated.onnx", "meta.tsv", "--split", "val", *CPU)


def test_spatial_features_are_refused(run, here):
    """Columns are appended to vectors."""
    for split in ("train", "val"):
        run("cnn-extract", "photos", "--split", split, "-o", f"{split}.npy", *BACKBONE, "--pool", "none")
    outcome = run(*TRAIN, "--use", "width", status=2)
    assert "--use needs vectors, and these features are maps; extract with --pool avg, max or flatten" in outcome.err
