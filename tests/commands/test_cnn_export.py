"""cnn-export on the command line: a model to one file that is checked to compute the same, and one-line errors."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from cnnkit.choices import Pool
from cnnkit.data import preprocessing
from cnnkit.formats import onnx_model, torch_model
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones, catalogue
from cnnkit.nets import classifier as classifiers

TEXT = "conv 6 k3 s2 relu, conv 8 k3 relu"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of two classes with average pooling."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    write(path, "dense 2 softmax")
    return path


@pytest.fixture
def here(tmp_path, monkeypatch, images, model):
    """A working folder with model.pt and eleven photographs."""
    images(red=6, blue=5)
    monkeypatch.chdir(tmp_path)
    shutil.copy(model, tmp_path)
    return tmp_path


def write(name, head, *, grey=False, pool=Pool.AVG, seed=1):
    extractor, backbone, preprocess = backbones.by_notation(TEXT, size=16, seed=seed, grey=grey, pool=pool)
    made = classifiers.build_head(head, (8,) if pool is Pool.AVG else (8 * 5 * 5,))
    header = Header(ArtefactKind.MODEL, ("blue", "red"), preprocess, backbone, head, {"command": "cnn-train-head"})
    state = {f"base.{key}": value for key, value in extractor.state_dict().items()}
    state |= {f"head.{key}": value for key, value in made.state_dict().items()}
    torch_model.save(name, TorchModel(header, state))


def expected(paths, name="model.pt"):
    model = torch_model.load(name)
    made = classifiers.from_header(model.header, model.state, name=name)
    pixels = np.stack([preprocessing.load(path, made.preprocess) for path in paths])
    with torch.no_grad():
        return pixels, made(torch.from_numpy(pixels)).softmax(1).numpy()


CPU = ("--device", "cpu", "--batch", "4")


def test_model_to_one_file(run, here):
    """Records on stdout, random inputs first and then the images; the file gives torch's probabilities; the same bytes again."""
    outcome = run("cnn-export", "model.pt", "-o", "model.onnx", "--verify", "photos", "--features", "--cam", *CPU)
    assert list(outcome.rows[0]) == ["source", "batch", "rows", "max_difference", "top1_agreement"]
    assert [(row["source"], row["batch"], row["rows"]) for row in outcome.rows] == [
        ("random", "1", "1"), ("random", "2", "2"), ("random", "4", "4"), ("photos", "4", "11"),
    ]  # fmt: skip
    assert all(float(row["max_difference"]) < 1e-5 and row["top1_agreement"] == "1" for row in outcome.rows)
    assert outcome.err == ""
    paths = sorted(Path("photos").rglob("*.png"))
    pixels, shares = expected(paths)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["probabilities"], {"images": pixels})[0], shares, atol=1e-5)
    assert {item.name for item in session.get_outputs()} == {"probabilities", "logits", "features", "cam"}
    onnx.checker.check_model(Path("model.onnx").read_bytes(), full_check=True)
    found, header = onnx_model.load("model.onnx").header, torch_model.load("model.pt").header
    assert (found.classes, found.preprocess, found.backbone, found.head) == (
        header.classes, header.preprocess, header.backbone, header.head,
    )  # fmt: skip
    assert sorted(path.name for path in here.iterdir()) == ["model.onnx", "model.pt", "photos"]
    content = Path("model.onnx").read_bytes()
    run("cnn-export", "model.pt", "-o", "model.onnx", "--features", "--cam", *CPU)
    assert Path("model.onnx").read_bytes() == content


@pytest.mark.parametrize(("kind", "channels"), [("uint8", (16, 16, 3)), ("float", (1, 16, 16))])
def test_grey_model(run, here, kind, channels):
    """Colour images become grey inside, or before a float input of one channel; cnn-predict gives torch's probabilities."""
    write("grey.pt", "dense 2 softmax", grey=True)
    records = run("cnn-export", "grey.pt", "-o", "grey.onnx", "--input", kind, "--verify", "photos", "--cam", *CPU).rows
    assert all(float(row["max_difference"]) < 1e-4 for row in records)
    (taken,) = onnxruntime.InferenceSession("grey.onnx", providers=["CPUExecutionProvider"]).get_inputs()
    assert tuple(taken.shape[1:]) == channels
    found = run("cnn-predict", "-m", "grey.onnx", "photos", "--top", "2", *CPU).rows
    paths = sorted({row["path"] for row in found})
    _, shares = expected(paths, "grey.pt")
    predicted = {(row["path"], row["label"]): float(row["probability"]) for row in found}
    np.testing.assert_allclose(
        [[predicted[path, label] for label in ("blue", "red")] for path in paths], shares, atol=1e-4
    )


def test_backbone_of_a_grey_model(run, here):
    """cnn-dims and cnn-extract accept a grey model like any other: its first layer has one channel, and the same receptive field."""
    write("grey.pt", "dense 2 softmax", grey=True)
    grey, colour = (run("cnn-dims", name).rows for name in ("grey.pt", "model.pt"))
    first = next(index for index, row in enumerate(grey) if row["layer"] == "conv1")
    assert (grey[first]["params"], colour[first]["params"]) == (
        "60",
        "168",
    )  # 6 filters, 3x3 of 1 or 3 channels, and a bias
    assert [row["receptive_field"] for row in grey] == [row["receptive_field"] for row in colour]
    run("cnn-extract", "photos", "--backbone", "grey.pt", "-o", "grey.npy", *CPU)
    rows = Path("grey.tsv").read_text().splitlines()[1:]
    pixels, _ = expected([row.split("\t")[0] for row in rows], "grey.pt")
    model = torch_model.load("grey.pt")
    with torch.no_grad():
        seen = classifiers.from_header(model.header, model.state, name="grey.pt").features(torch.from_numpy(pixels))
    np.testing.assert_allclose(np.load("grey.npy"), seen.numpy(), atol=1e-4)


def test_all_sources_of_images(run, here):
    """A folder, single images, a manifest's split, and a list on standard input are compared alike."""
    paths = sorted(str(path) for path in Path("photos").rglob("*.png"))
    Path("split.tsv").write_text(
        "path\tlabel\tsplit\n" + "".join(f"{path}\tx\t{'val' if 'red' in path else 'train'}\n" for path in paths)
    )
    repeated = [word for path in paths for word in ("--verify", path)]
    found = []
    for words, stdin in [
        (("--verify", "photos"), None),
        (repeated, None),
        (("--verify", "-"), "\n".join(paths)),
        (("--verify", "-", "-0"), "\0".join(paths)),
        (("--verify", "split.tsv"), None),
    ]:
        record = run("cnn-export", "model.pt", "-o", "model.onnx", *words, *CPU, stdin=stdin).rows[-1]
        found.append((record["rows"], record["max_difference"], record["top1_agreement"]))
    assert len(set(found)) == 1
    assert found[0][0] == "11"
    part = run(
        "cnn-export", "model.pt", "-o", "model.onnx", "--verify", "split.tsv", "--split", "val", *CPU, "--json"
    ).out
    assert json.loads(part.splitlines()[-1])["rows"] == 6


def test_broken_images_are_skipped_and_named(run, here):
    """Exit status 3, and the file is written, since the others were compared. Without any usable image, nothing is written."""
    Path("photos/red/bad.png").write_bytes(b"no image")
    outcome = run(
        "cnn-export", "model.pt", "-o", "a.onnx", "--verify", "photos", "--errors", "errors.tsv", *CPU, status=3
    )
    assert "photos/red/bad.png: " in outcome.err
    assert outcome.rows[-1]["rows"] == "11"
    assert Path("a.onnx").exists()
    assert Path("errors.tsv").read_text().splitlines()[1].startswith("photos/red/bad.png\t")
    outcome = run("cnn-export", "model.pt", "-o", "b.onnx", "--verify", "photos/red/bad.png", *CPU, status=1)
    assert "no image could be used to compare on; nothing written" in outcome.err
    assert not Path("b.onnx").exists()


@pytest.mark.parametrize("words", [("--jobs", "2"), ("--errors", "errors.tsv")])
def test_options_for_images_need_verify(run, here, words):
    """They only concern the images of --verify: one line, and nothing is written."""
    outcome = run("cnn-export", "model.pt", "-o", "a.onnx", *words, status=2)
    assert outcome.err == "cnn-export: --jobs and --errors need --verify SOURCE\n"
    assert sorted(path.name for path in here.iterdir()) == ["model.pt", "photos"]


def test_above_the_tolerance_nothing_is_written(run, here):
    """Exit status 1, one line with both numbers, nothing on stdout, and an existing file is untouched."""
    Path("model.onnx").write_bytes(b"before")
    outcome = run("cnn-export", "model.pt", "-o", "model.onnx", "--fp16", "--tolerance", "1e-9", *CPU, status=1)
    assert outcome.out == ""
    assert "more than --tolerance 1e-09; nothing written" in outcome.err
    assert outcome.err.count("\n") == 1
    assert Path("model.onnx").read_bytes() == b"before"
    run("cnn-export", "model.pt", "-o", "model.onnx", "--fp16", *CPU)
    kinds = {tensor.data_type for tensor in onnx.load("model.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds


def test_options_reach_the_graph(run, here):
    """--input float, --opset and --head-only, each seen in the file."""
    run("cnn-export", "model.pt", "-o", "float.onnx", "--input", "float", "--opset", "21", *CPU)
    proto = onnx.load("float.onnx")
    (taken,) = proto.graph.input
    assert [axis.dim_value for axis in taken.type.tensor_type.shape.dim][1:] == [3, 16, 16]
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert proto.opset_import[0].version == 21
    run("cnn-export", "model.pt", "-o", "head.onnx", "--head-only", *CPU)
    (taken,) = onnx.load("head.onnx").graph.input
    assert (taken.name, [axis.dim_value for axis in taken.type.tensor_type.shape.dim][1:]) == ("features", [8])


@pytest.fixture
def exports(here, monkeypatch):
    """List the modules that torch's exporter is given, with an empty cache."""
    monkeypatch.setenv("CNNKIT_CACHE", str(here / "cache"))
    real, seen = torch.onnx.export, []

    def counted(module, *words, **options):
        seen.append(type(module).__name__)
        return real(module, *words, **options)

    monkeypatch.setattr(torch.onnx, "export", counted)
    return seen


def exported(run, name):
    """Export a model, compare probabilities with torch's, and return the bytes."""
    run("cnn-export", name, "-o", "made.onnx", *CPU)
    pixels, shares = expected(sorted(Path("photos").rglob("*.png")), name)
    session = onnxruntime.InferenceSession("made.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["probabilities"], {"images": pixels})[0], shares, atol=1e-5)
    return Path("made.onnx").read_bytes()


def test_cached_structures_give_no_old_weights(run, here, exports):
    """Another training of backbone and head runs no exporter, and is exported with its own weights; another head exports the head."""
    first = exported(run, "model.pt")
    assert exports == ["Extractor", "HeadOutputs"]
    write("trained.pt", "dense 2 softmax", seed=2)
    assert exported(run, "trained.pt") != first
    assert exported(run, "model.pt") == first
    assert len(exports) == 2
    write("deep.pt", "dense 4 relu, dense 2 softmax")
    exported(run, "deep.pt")
    assert exports[2:] == ["HeadOutputs"]


def test_cache_changes_no_bytes(run, here, exports, monkeypatch):
    """A damaged structure is exported again, and so is every structure without a writable cache."""

    def content():
        run("cnn-export", "model.pt", "-o", "made.onnx", "--head-only", *CPU)
        return Path("made.onnx").read_bytes()

    first = content()
    (entry,) = (here / "cache" / "graphs").iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    assert content() == first
    assert entry.read_bytes() == whole
    assert len(exports) == 2
    monkeypatch.setenv("CNNKIT_CACHE", str(here / "made.onnx" / "below"))  # not writable, for root neither
    assert content() == first
    assert len(exports) == 3


def test_dynamic_size(run, here):
    """Other sizes are compared, too, images at the network's own; with a flattened map, the error names the size and nothing is written."""
    outcome = run("cnn-export", "model.pt", "-o", "any.onnx", "--dynamic-size", "--verify", "photos", *CPU)
    assert [(row["source"], row["rows"]) for row in outcome.rows] == [
        ("random", "1"), ("random", "2"), ("random", "4"),
        ("random 24x24", "2"), ("random 24x16", "2"), ("random 17x17", "2"), ("photos", "11"),
    ]  # fmt: skip
    assert all(float(row["max_difference"]) < 1e-5 for row in outcome.rows)
    (taken,) = onnx.load("any.onnx").graph.input
    assert [axis.dim_param or axis.dim_value for axis in taken.type.tensor_type.shape.dim] == [
        "batch",
        "height",
        "width",
        3,
    ]
    write("flat.pt", "dense 2 softmax", pool=Pool.FLATTEN)
    refused = run("cnn-export", "flat.pt", "-o", "flat.onnx", "--dynamic-size", *CPU, status=1)
    assert "flat.pt takes only images of 16x16: its head (dense 2 softmax) reads 200 values of a map" in refused.err
    assert not Path("flat.onnx").exists()


def test_rejects_head_without_class_activation_maps(run, here):
    """The message says how to make a model that has them."""
    write("deep.pt", "dense 4 relu, dense 2 softmax")
    outcome = run("cnn-export", "deep.pt", "-o", "deep.onnx", "--cam", *CPU, status=1)
    assert (
        "needs global average pooling, then one dense layer; this model has pool avg, then Linear, ReLU, Linear"
        in outcome.err
    )
    assert "cnn-train-head without --head" in outcome.err
    assert not Path("deep.onnx").exists()


def test_invalid_files_and_options(run, here):
    """One line with the remedy; nothing is written."""
    torch.save({"weight": torch.zeros(3)}, "bare.pth")
    shutil.copy("bare.pth", "bare.pt")
    Path("text.pt").write_text("no model")
    Path("some.onnx").write_bytes(b"x")
    Path("some.npy").touch()
    Path("cut.pt").write_bytes(Path("model.pt").read_bytes()[:500])
    for words, status, message in [
        (
            ("gone.pt", "-o", "x.onnx"),
            1,
            "gone.pt: no such file; cnn-train-head, cnn-train and cnn-finetune write models",
        ),
        (("bare.pth", "-o", "x.onnx"), 1, "bare.pth: no cnnkit header in it; pass a bare state_dict with --weights"),
        (("bare.pt", "-o", "x.onnx"), 1, "bare.pt: no cnnkit header in it"),
        (("text.pt", "-o", "x.onnx"), 1, "text.pt: not a file that torch can read"),
        (("cut.pt", "-o", "x.onnx"), 1, "cut.pt: not a file that torch can read, or truncated"),
        (("some.onnx", "-o", "x.onnx"), 2, "some.onnx: already exported; give the .pt it was made from"),
        (("photos", "-o", "x.onnx"), 2, 'no network is called "photos", and the folder of this name is not a model'),
        (
            ("some.npy", "-o", "x.onnx"),
            2,
            "some.npy: features, not a model; train one with cnn-train-head some.npy -o head.pt",
        ),
        (("model.pt", "-o", "x.pb"), 2, "x.pb: the name of an exported network must end in .onnx; give -o x.onnx"),
        (("model.pt", "-o", "nowhere/x.onnx"), 1, "nowhere: no such folder to write x.onnx into"),
        (("model.pt", "-o", "x.onnx", "--opset", "9"), 2, "--opset 9: give 18 to 23"),
        (("model.pt", "-o", "x.onnx", "--device", "tpu"), 2, "tpu"),
        (("model.pt", "-o", "x.onnx", "--head-only", "--cam"), 2, "--head-only exports only the head"),
        (("model.pt", "-o", "x.onnx", "--head-only", "--dynamic-size"), 2, "--head-only exports only the head"),
        (("model.pt", "-o", "x.onnx", "--split", "val"), 2, "need --verify SOURCE"),
        (("model.pt", "-o", "x.onnx", "--verify", "nowhere"), 1, "nowhere"),
    ]:
        outcome = run("cnn-export", *words, status=status)
        assert outcome.out == ""
        assert outcome.err.startswith("cnn-export: ")
        assert message in outcome.err
        assert outcome.err.count("\n") == 1
        assert not list(here.glob("x.*"))


def test_missing_file_is_reported_before_torch_is_loaded(shell, here):
    """It takes a moment, not the seconds that torch takes."""
    seen = shell("python -X importtime -m cnnkit_tools.cnn_export gone.pt -o x.onnx", cwd=here, status=1).err
    assert "gone.pt: no such file" in seen
    modules = {line.rpartition("|")[2].strip() for line in seen.splitlines() if line.startswith("import time:")}
    assert "cnnkit.engine.config" in modules
    assert modules & {"torch", "onnx", "onnxruntime"} == set()
    started = time.perf_counter()
    shell("cnn-export gone.pt -o x.onnx", cwd=here, status=1)
    assert time.perf_counter() - started < 5


# ---------------------------------------------------------------- networks by name

TINY = "timm:test_resnet"


@pytest.fixture
def tiny(here):
    """The words for a small network of timm with the weights of a file, and names for its classes."""
    pytest.importorskip("timm")
    own = catalogue.seeded(4, lambda: catalogue.network(TINY))[0].eval()
    torch.save(own.state_dict(), "tiny.pth")
    Path("labels.txt").write_text("\n".join(f"class {number}" for number in range(1000)))
    return [TINY, "--weights", "tiny.pth", "--labels", "labels.txt"]


@pytest.mark.slow
def test_network_by_name(run, tiny):
    """The file is that of a trained model: predictions have its classes, maps agree with its logits, features are a backbone's."""
    done = run("cnn-export", *tiny, "-o", "tiny.onnx", "--features", "--cam", "--verify", "photos", *CPU)
    assert [row["source"] for row in done.rows] == ["random", "random", "random", "photos"]
    assert done.err == ""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession("tiny.onnx", providers=["CPUExecutionProvider"])
    logits, features, maps = session.run(["logits", "features", "cam"], {"images": pixels})
    own = catalogue.seeded(4, lambda: catalogue.network(TINY))[0].eval()
    given = classifiers.InputNormalization(onnx_model.load("tiny.onnx").header.preprocess)(torch.from_numpy(pixels))
    with torch.no_grad():
        expected, inside = own(given).numpy(), own.forward_head(own.forward_features(given), pre_logits=True).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(features, inside, atol=1e-4)
    np.testing.assert_allclose(maps.mean((2, 3)) + own.fc.bias.detach().numpy(), expected, atol=1e-4)
    predicted = run("cnn-predict", "-m", "tiny.onnx", "photos", *CPU).rows
    assert all(row["label"].startswith("class ") for row in predicted)
    drawn = run("cnn-cam", "-m", "tiny.onnx", "photos", *CPU).rows
    assert [row["label"] for row in drawn] == [row["label"] for row in predicted]
    run("cnn-extract", "photos", "-o", "one.npy", "--backbone", "tiny.onnx", "--device", "cpu")
    run("cnn-extract", "photos", "-o", "two.npy", "--backbone", TINY, "--weights", "tiny.pth", "--device", "cpu")
    np.testing.assert_allclose(np.load("one.npy"), np.load("two.npy"), atol=1e-5)
    run("cnn-train-head", "one.npy", "-o", "head.pt", "--epochs", "1", "--device", "cpu")


@pytest.mark.slow
def test_network_whose_last_maps_are_those_of_its_classes(run, here):
    """The maps of SqueezeNet's classes are its last maps; it has no features and no head."""
    words = ["squeezenet1_1", "--weights", "none", "-o", "squeezenet.onnx"]
    run("cnn-export", *words, "--cam", *CPU)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession("squeezenet.onnx", providers=["CPUExecutionProvider"])
    logits, maps = session.run(["logits", "cam"], {"images": pixels})
    assert maps.shape == (1, 1000, 13, 13)
    np.testing.assert_allclose(maps.mean((2, 3)), logits, rtol=1e-3, atol=1e-5)
    refused = run("cnn-export", *words, "--features", status=1).err
    assert "squeezenet1_1 does not end in a dense layer, so it has no head with features; drop --features" in refused


def test_weights_and_labels_are_for_names(run, here):
    for words in (("--weights", "none"), ("--weights", "default"), ("--labels", "few.txt")):
        refused = run("cnn-export", "model.pt", "-o", "x.onnx", *words, status=2).err
        assert f"model.pt has its own weights and classes; {words[0]} is for a network given by name" in refused
    assert "gone.pth: no such file" in run("cnn-export", "vgg16", "--weights", "gone.pth", "-o", "x.onnx", status=1).err
    assert "gone.txt" in run("cnn-export", "vgg16", "--labels", "gone.txt", "-o", "x.onnx", status=1).err
    assert "did you mean vgg19 or vgg16" in run("cnn-export", "vgg61", "-o", "x.onnx", status=2).err


def test_folder_does_not_hide_a_network_of_its_name(run, here):
    Path("vgg16").mkdir()
    assert "gone.pth: no such file" in run("cnn-export", "vgg16", "--weights", "gone.pth", "-o", "x.onnx", status=1).err
    assert (
        "gone.pth: no such file" in run("cnn-predict", "-m", "vgg16", "--weights", "gone.pth", "photos", status=1).err
    )
