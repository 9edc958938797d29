"""cnn-predict on the command line: against torch on real files, from all sources, in all forms of output."""

import functools
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from predict_models import CLASSES, PREPROCESS, files, in_torch, network
from torch import nn

from cnnkit.choices import Decoding, Fit
from cnnkit.data import preprocessing
from cnnkit.engine import export
from cnnkit.engine.config import ExportConfig
from cnnkit.errors import UsageError
from cnnkit.formats import features, onnx_file, torch_model
from cnnkit.formats.header import ArtefactKind, Header, Preprocess
from cnnkit.formats.manifest import ManifestRow
from cnnkit.nets import catalogue, named_network
from cnnkit.nets import classifier as classifiers


def test_probabilities_match_torch(run, model, root):
    """Every class of every image, to 1e-5, ranked by probability, the images in order."""
    rows = run("cnn-predict", "-m", model(), root, "--top", 3).rows
    expected = in_torch(files(root)).softmax(1).numpy()
    assert [row["path"] for row in rows] == [path for path in files(root) for _ in CLASSES]
    for index, shares in enumerate(expected):
        mine = rows[3 * index : 3 * index + 3]
        assert [row["rank"] for row in mine] == ["1", "2", "3"]
        assert [row["label"] for row in mine] == [CLASSES[place] for place in np.argsort(-shares)]
        np.testing.assert_allclose([float(row["probability"]) for row in mine], sorted(shares)[::-1], atol=1e-5)
    assert len({row["label"] for row in rows if row["rank"] == "1"}) > 1, "the random network should not be constant"


def test_one_prediction_per_image_by_default(run, model, root):
    """The first rows of --top 3, and nothing else; --top above the number of classes gives all."""
    everything = run("cnn-predict", "-m", model(), root, "--top", 3)
    outcome = run("cnn-predict", "-m", model(), root)
    assert outcome.rows == [row for row in everything.rows if row["rank"] == "1"]
    assert outcome.out.splitlines()[0] == "path\trank\tlabel\tprobability"
    assert run("cnn-predict", "-m", model(), root, "--top", 1000).out == everything.out
    assert run("cnn-predict", "-m", model(), root, "--top", "all").out == everything.out
    for wrong in ("0", "-1", "1.5", "ALL", "3,", "99999999999"):
        refused = run("cnn-predict", "-m", model(), root, f"--top={wrong}", status=2).err
        assert refused == f'cnn-predict: --top "{wrong}": give a number of 1 or more, or all\n'


def test_logits_match_torch(run, model, root):
    """One more column, next to the probability."""
    rows = run("cnn-predict", "-m", model(), root, "--top", 3, "--logits").rows
    expected = in_torch(files(root)).numpy()
    for index, logits in enumerate(expected):
        mine = rows[3 * index : 3 * index + 3]
        np.testing.assert_allclose([float(row["logit"]) for row in mine], sorted(logits)[::-1], atol=1e-4)
    assert list(rows[0]) == ["path", "rank", "label", "probability", "logit"]


def test_one_sigmoid_gives_two_classes(run, model, root):
    """A head with a single output z gives the probabilities of both classes; z is the logit of the second."""
    options = {"head": "dense 1", "classes": ("cold", "warm")}
    rows = run("cnn-predict", "-m", model(**options), root, "--top", 2, "--logits").rows
    second = in_torch(files(root), network(head="dense 1")[0]).sigmoid().numpy()[:, 0]
    found = [float(row["probability"]) for row in rows if row["label"] == "warm"]
    np.testing.assert_allclose(found, second, atol=1e-5)
    assert {row["logit"] for row in rows if row["label"] == "cold"} == {"0"}


def test_json_has_the_same_values_as_numbers(run, model, root):
    """One object per line, float32 in its shortest form."""
    rows = run("cnn-predict", "-m", model(), root, "--top", 2, "--logits").rows
    objects = [
        json.loads(line)
        for line in run("cnn-predict", "-m", model(), root, "--top", 2, "--logits", "--json").out.splitlines()
    ]
    assert [list(each) for each in objects] == [["path", "rank", "label", "probability", "logit"]] * len(rows)
    for each, row in zip(objects, rows, strict=True):
        assert (each["path"], each["rank"], each["label"]) == (row["path"], int(row["rank"]), row["label"])
        assert isinstance(each["probability"], float)
        assert f"{each['probability']:.6g}" == row["probability"]
        assert each["probability"] == float(str(np.float32(each["probability"])))


def test_all_sources_give_the_same(run, model, root, tmp_path, monkeypatch):
    """A folder, its files, a manifest, a list on standard input separated by newlines or NUL."""
    path, paths = model(), files(root)
    expected = run("cnn-predict", "-m", path, root).out
    monkeypatch.chdir(tmp_path)
    relative = [os.path.relpath(name) for name in paths]
    manifest = tmp_path / "list.tsv"
    manifest.write_text("path\tlabel\n" + "".join(f"{name}\t\n" for name in paths), encoding="utf-8")
    assert run("cnn-predict", "-m", path, *paths).out == expected
    assert run("cnn-predict", "-m", path, manifest).out == expected
    assert run("cnn-predict", "-m", path, "-", stdin="\n".join(paths)).out == expected
    assert run("cnn-predict", "-m", path, stdin="\n".join(paths)).out == expected
    assert run("cnn-predict", "-m", path, "-0", stdin="\0".join(paths)).out == expected
    assert run("cnn-predict", "-m", path, *relative).out == expected.replace(f"{tmp_path}/", "")


def test_split_of_a_manifest(run, model, root, tmp_path):
    """--split takes rows of a manifest; paths are relative to the current folder."""
    manifest = tmp_path / "split.tsv"
    lines = [f"photos/{Path(name).relative_to(root)}\t{'ab'[index % 2]}" for index, name in enumerate(files(root))]
    manifest.write_text("path\tsplit\n" + "\n".join(lines) + "\n", encoding="utf-8")
    rows = run("cnn-predict", "-m", model(), manifest, "--split", "b").rows
    assert [row["path"] for row in rows] == files(root)[1::2]


def test_batch_and_jobs_do_not_change_predictions(run, model, root):
    """To 1e-6, and the same call twice gives the same bytes."""
    path = model()
    everything = []
    for words in (["--batch", 1], ["--batch", 5], ["--batch", 32, "--jobs", 1], ["--jobs", 5]):
        rows = run("cnn-predict", "-m", path, root, "--top", 3, *words).rows
        everything.append([float(row["probability"]) for row in rows])
        assert [row["path"] for row in rows][::3] == files(root)
    np.testing.assert_allclose(everything, [everything[0]] * 4, atol=1e-6)
    assert run("cnn-predict", "-m", path, root).out == run("cnn-predict", "-m", path, root).out


def test_workers_do_not_change_the_output(run, model, root):
    """The same bytes, messages and status, for two models with different preprocessing, several views, and a broken image; from a list."""
    (root / "green" / "broken.png").write_bytes(b"no image")
    paths = "\n".join(sorted(map(str, root.rglob("*.png")))) + "\n"
    other = model("other.onnx", seed=1, preprocess=Preprocess(fit=Fit.SQUASH, resize=20, size=20))
    words = ["-m", model(), "-m", other, "-", "--tta", "hflip, vflip", "--top", "all", "--batch", "7"]
    expected = run("cnn-predict", *words, stdin=paths, status=3)
    assert run("cnn-predict", *words, "--workers", "2", "--jobs", "2", stdin=paths, status=3) == expected
    refused = run("cnn-predict", *words, "--workers", "3", "--jobs", "2", status=2).err
    assert refused == (
        "cnn-predict: --workers 3 with --jobs 2: each worker has at least one of the threads; "
        "give --jobs 3 or more, or fewer workers\n"
    )
    any_size = model("any.onnx", kind="any")
    refused = run("cnn-predict", "-m", any_size, root, "--size", "native", "--workers", "2", status=2).err
    assert refused == "cnn-predict: --size native decodes in this process; drop --workers\n"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGPIPE, 141)])
def test_signals_end_the_workers(model, root, wait_for, number, status):
    """Ctrl-C and SIGTERM, which the whole group of processes gets, and a closed output: no traceback, no process is left."""
    command = [Path(sys.executable).parent / "cnn-predict", "-m", model(), "-", "--workers", "2", "--batch", "1"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    shared = set(os.listdir("/dev/shm"))
    with subprocess.Popen(command, start_new_session=True, text=True, bufsize=1, **pipes) as process:
        process.stdin.write("".join(f"{path}\n" for path in files(root)) * 5)  # more than are read ahead
        assert process.stdout.readline().startswith("path\t")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        if number == signal.SIGPIPE:
            process.stdout.close()
            process.stdin.close()
        else:
            os.killpg(process.pid, number)
        message = process.stderr.read()
        assert process.wait(timeout=20) == status
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    interrupted = "cnn-predict: interrupted\n" if number == signal.SIGINT else ""
    assert message == f"cnn-predict: running on the CPU\n{interrupted}"
    assert set(os.listdir("/dev/shm")) <= shared


def test_bench(run, model, root):
    """The columns of cnn-extract --bench, for two models with views; nothing is predicted, and options of the output are refused."""
    other = model("other.onnx", seed=1, preprocess=Preprocess(fit=Fit.SQUASH, resize=20, size=20))
    outcome = run("cnn-predict", "-m", model(), "-m", other, root, "--tta", "hflip", "--bench", "--json")
    record = json.loads(outcome.out)
    assert list(record) == ["images", "decode", "network", "reached", "possible", "share"]
    assert record["images"] == 12
    assert "cnn-predict: the network's images per second by batch size: 8: " in outcome.err
    for words, named in (
        (["--top", "3"], "--top"),
        (["--errors", "e.tsv"], "--errors"),
        (["--shard", "1/2"], "--shard"),
    ):
        refused = run("cnn-predict", "-m", model(), root, "--bench", *words, status=2).err
        assert refused == f"cnn-predict: --bench predicts nothing; drop {named}\n"
    native = run("cnn-predict", "-m", model("any.onnx", kind="any"), root, "--size", "native", "--bench", status=2).err
    assert native.endswith("cnn-predict: --bench measures batches of one size; drop --size native\n")


def test_label_below_min_probability_is_withheld(run, model, root):
    """The label is ?, the probability stays."""
    rows = run("cnn-predict", "-m", model(), root).rows
    bound = sorted(float(row["probability"]) for row in rows)[len(rows) // 2]
    kept = run("cnn-predict", "-m", model(), root, "--min-probability", bound - 1e-5).rows
    withheld = [row["label"] == "?" for row in kept]
    assert withheld == [float(row["probability"]) < bound for row in rows]
    assert 0 < sum(withheld) < len(rows)
    assert [row["probability"] for row in kept] == [row["probability"] for row in rows]


def test_labels_only_keeps_the_order_of_the_list(run, model, root, tmp_path):
    """Line n belongs to image n, for use with paste: a skipped image has an empty line."""
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "empty.png").touch()
    order = [
        tmp_path / "broken.png",
        *files(root)[:3],
        tmp_path / "empty.png",
        *files(root)[3:],
        tmp_path / "missing.png",
    ]
    listed = "".join(f"{name}\n" for name in order)
    outcome = run("cnn-predict", "-m", model(), "--labels-only", "--batch", 2, "-", stdin=listed, status=3)
    labels = outcome.out.split("\n")[:-1]
    expected = [row["label"] for row in run("cnn-predict", "-m", model(), root).rows]
    assert labels == ["", *expected[:3], "", *expected[3:], ""]
    assert outcome.err.count("; skipped") == 3


def test_bad_images_are_named_and_left_out(run, model, root, tmp_path):
    """On stderr and in --errors; the exit status is 3 and the others are predicted."""
    (root / "red" / "broken.png").write_bytes(b"\x89PNG but no more")
    outcome = run("cnn-predict", "-m", model(), root, "--errors", tmp_path / "errors.tsv", status=3)
    assert [row["path"] for row in outcome.rows] == [name for name in files(root) if "broken" not in name]
    assert "broken.png: not an image" in outcome.err
    assert (tmp_path / "errors.tsv").read_text(encoding="utf-8").splitlines()[1].startswith(f"{root}/red/broken.png\t")


def test_names_of_any_kind(run, model, root, tmp_path):
    """Tabs and newlines are escaped in TSV, and bytes that are not UTF-8 are kept."""
    odd = tmp_path / "a\tb\nc \udcff.png"
    os.rename(files(root)[0], odd)
    outcome = run("cnn-predict", "-m", model(), odd)
    assert outcome.rows[0]["path"].startswith(f"{tmp_path}/a\\tb\\nc ")
    assert run("cnn-predict", "-m", model(), "-0", "-", stdin=os.fsencode(odd) + b"\0").out == outcome.out
    assert run("cnn-predict", "-m", model(), odd, "--json").out.count("\n") == 1


def test_models_vote(run, model, root):
    """soft is the mean of the models' probabilities; hard is the majority, with the share of votes as probability."""
    squashed = Preprocess(fit=Fit.SQUASH, resize=20, size=20)
    models = [
        model("one.onnx"),
        model("two.onnx", seed=1, preprocess=squashed),
        model("three.onnx", seed=2, classes=("red", "blue", "green")),
    ]
    words = [word for path in models for word in ("-m", path)]
    predictions = [
        in_torch(files(root)),
        in_torch(files(root), network(1, squashed)[0]),
        in_torch(files(root), network(2)[0]),
    ]
    shares = np.stack([prediction.softmax(1).numpy() for prediction in predictions])
    shares[2] = shares[2][:, [1, 2, 0]]
    rows = run("cnn-predict", *words, root, "--top", 3, "--json").out.splitlines()
    soft = np.zeros((len(files(root)), 3))
    for index, row in enumerate(map(json.loads, rows)):
        soft[index // 3, CLASSES.index(row["label"])] = row["probability"]
    np.testing.assert_allclose(soft, shares.mean(axis=0), atol=1e-5)

    votes = np.stack([np.bincount(image, minlength=3) for image in shares.argmax(axis=2).T])
    best = np.lexsort((-shares.mean(axis=0), -votes), axis=1)[:, 0]
    rows = run("cnn-predict", *words, root, "--vote", "hard").rows
    assert [row["label"] for row in rows] == [CLASSES[place] for place in best]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], votes.max(axis=1) / 3, atol=1e-5)


def test_models_with_different_classes_do_not_vote(run, model, root):
    """Both files are named, with the classes that only one of them has."""
    one, two = model("one.onnx"), model("two.onnx", classes=("blue", "green", "pink"))
    outcome = run("cnn-predict", "-m", one, "-m", two, root, status=1)
    assert f"{one} and {two} cannot vote, their classes differ: only {two} has pink, only {one} has red" in outcome.err
    assert outcome.out == ""


def test_normalised_input_predicts_the_same(run, model, root):
    """A model from cnn-export --input float is normalized outside, by the Header's mean and standard deviation."""
    whole = run("cnn-predict", "-m", model(), root, "--top", 3).rows
    classic = run("cnn-predict", "-m", model("float.onnx", kind="float"), root, "--top", 3).rows
    assert [row["label"] for row in classic] == [row["label"] for row in whole]
    shares = [[float(row["probability"]) for row in rows] for rows in (whole, classic)]
    np.testing.assert_allclose(*shares, atol=1e-5)


@pytest.fixture
def kept(root, tmp_path):
    """Save the features of all images with their table, as cnn-extract does, in a folder of their own."""
    folder = tmp_path / "features"
    folder.mkdir()
    made, backbone = network()
    pixels = np.stack([preprocessing.load(path, PREPROCESS) for path in files(root)])
    with torch.no_grad():
        values = made.features(torch.from_numpy(pixels)).numpy()
    header = Header(kind=ArtefactKind.FEATURES, preprocess=PREPROCESS, backbone=backbone)
    rows = [
        ManifestRow(f"../photos/{Path(path).relative_to(root)}", split="ab"[index % 2])
        for index, path in enumerate(files(root))
    ]
    with features.FeatureWriter(folder / "x.npy", shape=(12,), dtype="float32", header=header) as writer:
        writer.write(values, rows)
    return folder / "x.npy"


def test_head_on_features_matches_the_whole_network(run, model, root, kept, tmp_path, monkeypatch):
    """The same rows, with paths from the current folder to the images."""
    monkeypatch.chdir(tmp_path)
    whole = run("cnn-predict", "-m", model(), root, "--top", 3, "--logits").rows
    rows = run("cnn-predict", "-m", model("head.onnx", kind="head"), "features/x.npy", "--top", 3, "--logits").rows
    assert [row["label"] for row in rows] == [row["label"] for row in whole]
    for column in ("probability", "logit"):
        np.testing.assert_allclose(
            [float(row[column]) for row in rows], [float(row[column]) for row in whole], atol=1e-4
        )
    assert [os.path.realpath(row["path"]) for row in rows] == [os.path.realpath(row["path"]) for row in whole]
    assert rows[0]["path"].startswith("photos/")
    monkeypatch.chdir(kept.parent)
    here = run("cnn-predict", "-m", tmp_path / "head.onnx", "x.npy").rows
    assert here[0]["path"].startswith("../photos/"), "as cnn-extract was given it"
    part = run("cnn-predict", "-m", model("head.onnx", kind="head"), kept, "--split", "b")
    assert [os.path.realpath(row["path"]) for row in part.rows] == files(root)[1::2]


def test_rows_of_a_bare_array_are_numbered(run, model, kept, tmp_path, monkeypatch):
    """FILE.npy:ROW, counted from 0; a notice says that nothing was checked, and --split is refused."""
    monkeypatch.chdir(tmp_path)
    np.save("bare.npy", np.load(kept)[:2])
    outcome = run("cnn-predict", "-m", model("head.onnx", kind="head"), "bare.npy")
    assert [row["path"] for row in outcome.rows] == ["bare.npy:0", "bare.npy:1"]
    assert "bare.npy has no bare.json next to it" in outcome.err
    assert (
        "no bare.tsv"
        in run("cnn-predict", "-m", model("head.onnx", kind="head"), "bare.npy", "--split", "b", status=2).err
    )


def test_rejects_features_of_another_backbone(run, model, kept):
    """The Headers are compared; the difference is named with both files."""
    outcome = run("cnn-predict", "-m", model("head.onnx", kind="head", seed=1), kept, status=1)
    assert "x.npy was made with weights" in outcome.err
    assert "head.onnx was trained with" in outcome.err
    assert outcome.out == ""


def test_heads_and_whole_networks_are_not_confused(run, model, root, kept):
    """One line each that says what to give."""
    head, whole = model("head.onnx", kind="head"), model()
    assert "head.onnx is a head and takes features, not images" in run("cnn-predict", "-m", head, root, status=2).err
    assert "x.npy holds features, and" in run("cnn-predict", "-m", whole, kept, status=2).err
    assert "x.npy holds features, " in run("cnn-predict", "-m", head, kept, root, status=2).err


@pytest.mark.parametrize("words", [[], ["--input", "float"], ["--head-only"]], ids=" ".join)
def test_reads_all_forms_of_cnn_export(run, root, kept, tmp_path, words):
    """Whole, with normalized input, and only the head: each predicts as torch does."""
    made, backbone = network()
    header = Header(
        kind=ArtefactKind.MODEL, classes=CLASSES, preprocess=PREPROCESS, backbone=backbone, head="dense 8 relu, dense 3"
    )
    torch_model.save(tmp_path / "model.pt", torch_model.TorchModel(header, made.state_dict()))
    run("cnn-export", tmp_path / "model.pt", "-o", tmp_path / "written.onnx", *words)
    rows = run("cnn-predict", "-m", tmp_path / "written.onnx", kept if "--head-only" in words else root).rows
    shares, places = in_torch(files(root)).softmax(1).max(1)
    assert [row["label"] for row in rows] == [CLASSES[place] for place in places]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], shares.numpy(), atol=1e-5)


def test_features_have_no_views(run, model, kept):
    """Views need images."""
    head = model("head.onnx", kind="head")
    for words in (("--tta", "hflip"), ("--crops", 5)):
        refused = run("cnn-predict", "-m", head, kept, *words, status=2).err
        assert "x.npy holds features, which have no other views; drop --tta or --crops" in refused
    refused = run("cnn-predict", "-m", head, kept, "--size", "native", status=2).err
    assert "head.onnx is a head and takes features; --size needs a network that takes images" in refused
    for words in (("--jobs", 2), ("--workers", 2), ("--bench",), ("--null",), ("--seed", 3)):
        refused = run("cnn-predict", "-m", head, kept, *words, status=2).err
        assert words[0] in refused
        assert refused.count("\n") == 1


@functools.cache
def squeezenet():
    torch.manual_seed(0)
    return torchvision.models.squeezenet1_1(weights=None, num_classes=7).eval()


@functools.cache
def squeezenet_content():
    """Export torchvision's network as its users do, without a cnnkit header."""
    program = torch.onnx.export(
        squeezenet(),
        (torch.zeros(2, 3, 64, 64),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        verbose=False,
    )
    return program.model_proto.SerializeToString()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the exporter's own, inside torch
def test_torchvision_network_needs_options(run, root, tmp_path):
    """Its logits match torch on torchvision's own transforms; missing options are named."""
    path, labels = tmp_path / "squeezenet.onnx", tmp_path / "labels.txt"
    path.write_bytes(squeezenet_content())
    labels.write_text("".join(f"class {index}\n" for index in range(7)), encoding="utf-8")
    outcome = run("cnn-predict", "-m", path, root, "--size", 64, "--mean", 0.5, status=2)
    assert "has no cnnkit header" in outcome.err
    assert outcome.err.endswith("give also --std, --labels\n")

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    words = [
        "--size",
        64,
        "--resize",
        70,
        "--mean",
        "0.485,0.456,0.406",
        "--std",
        "0.229,0.224,0.225",
        "--labels",
        labels,
    ]
    rows = run("cnn-predict", "-m", path, *words, root, "--top", 7, "--logits").rows
    transforms = torchvision.transforms
    transform = transforms.Compose(
        [transforms.Resize(70), transforms.CenterCrop(64), transforms.ToTensor(), transforms.Normalize(mean, std)]
    )
    loader = torchvision.datasets.folder.default_loader
    with torch.no_grad():
        expected = squeezenet()(torch.stack([transform(loader(name)) for name in files(root)])).numpy()
    found = np.zeros_like(expected)
    for index, row in enumerate(rows):
        found[index // 7, int(row["label"].split()[1])] = float(row["logit"])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "option", [("--mean", 0.5), ("--std", 0.5), ("--labels", "x"), ("--fit", "pad"), ("--resize", 30)]
)
def test_models_with_a_header_reject_preprocessing_options(run, model, root, option):
    """The Header has everything; the options would be ignored."""
    outcome = run("cnn-predict", "-m", model(), root, *option, status=2)
    assert f"model.onnx has a cnnkit header with preprocessing and classes; {option[0]} is for networks" in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels-only", "--json"], "--labels-only prints only labels"),
        (["--labels-only", "--top", 2], "--labels-only prints only labels"),
        (["--top", 0], '--top "0": give a number of 1 or more, or all'),
        (["--min-probability", 1.5], "invalid value for '--min-probability'"),
        (["--vote", "loud"], "invalid value for '--vote'"),
        (["--vote", "hard"], "give a second --model, or --tta"),
        (["--tta", "hflip", "--logits"], "a vote has probabilities and no logits"),
        (["--tta", "hflop"], '"hflop" is not an augmentation; did you mean "hflip"?'),
        (["--tta", "hflip", "--views", 4], "always has 2 views"),
        (["--tta", "crop 0.9", "--views", 1], "invalid value for '--views'"),
        (["--tta", "hflip", "--crops", 5], "give one of the two"),
        (["--views", 4], "--views 4 needs --tta"),
        (["--crops", 7], "invalid value for '--crops'"),
        (["--size", "native"], "model.onnx takes only 24 x 24 pixels; export it again with cnn-export --dynamic-size"),
        (["--size", "48"], "model.onnx takes only 24 x 24 pixels; export it again with cnn-export --dynamic-size"),
        (["--size", "large"], '--size "large" is not a size'),
    ],
)
def test_rejects_contradicting_options(run, model, root, words, message):
    """With exit status 2, one line, and nothing on stdout."""
    outcome = run("cnn-predict", "-m", model(), root, *words, status=2)
    assert message in outcome.err
    assert outcome.out == ""


def test_rejects_files_that_are_not_models(run, root, tmp_path):
    """A missing file, a torch file, and no model at all."""
    assert "nowhere.onnx: No such file" in run("cnn-predict", "-m", tmp_path / "nowhere.onnx", root, status=1).err
    assert "run cnn-export head.pt -o head.onnx" in run("cnn-predict", "-m", "head.pt", root, status=2).err
    assert "missing option" in run("cnn-predict", root, status=2).err


def test_cnn_eval_reads_the_output(run, model, root):
    """The accuracy at the end of the pipe is that of torch's predictions; with all classes, so is the log-loss."""
    path = model()
    expected = in_torch(files(root)).double()
    truth = torch.tensor([CLASSES.index(Path(name).parent.name) for name in files(root)])
    for form in ([], ["--json"]):
        written = run("cnn-predict", "-m", path, root, "--top", 3, *form).out
        report = json.loads(run("cnn-eval", "--json", "--truth", root, stdin=written).out)
        assert report["accuracy"] == pytest.approx(float((expected.argmax(1) == truth).double().mean()))
        assert report["log_loss"] == pytest.approx(float(nn.functional.cross_entropy(expected, truth)), abs=1e-4)


def program(*words):
    """Return the command line that runs the command as a process of its own."""
    return [sys.executable, "-m", "cnnkit_tools.cnn_predict", *map(str, words)]


def test_rows_are_printed_while_the_list_grows(model, root):
    """A list on standard input that never ends is predicted batch by batch."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    # Unbuffered: communicate would lose what readline read ahead
    process = subprocess.Popen(program("-m", model(), "--batch", 4, "-"), bufsize=0, **pipes)
    try:
        process.stdin.write(f"{files(root)[0]}\n".encode() * 80)
        lines = []
        deadline = time.monotonic() + 60
        while len(lines) < 3 and time.monotonic() < deadline:
            if select.select([process.stdout], [], [], 1)[0]:
                lines.append(process.stdout.readline())
        assert process.poll() is None
        assert lines[0] == b"path\trank\tlabel\tprobability\n"
        assert lines[1].startswith(files(root)[0].encode())
    finally:
        out, err = process.communicate()
    assert len(lines) + out.count(b"\n") == 81, err
    assert process.returncode == 0


@pytest.mark.parametrize(
    "words",
    [["--logits"], ["--tta", "crop 0.9, hflip, fill wrap"], ["--crops", "10"], ["--size", "native", "--tta", "vflip"]],
    ids=" ".join,
)
def test_starts_without_torch_and_fast(model, root, words):
    """A cold call on one image imports neither torch nor onnx, whatever the views, and takes less than a second of one core."""
    name = str(model(kind="any"))
    onnx_file.load(name)  # checked once: then onnx is not imported
    code = (
        "import sys\n"
        "from cnnkit_tools.cnn_predict import main\n"
        "try:\n"
        f"    main(['-m', {name!r}, {files(root)[0]!r}, *{words!r}])\n"
        "finally:\n"
        "    print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "onnxruntime" in loaded
    assert not loaded & {
        "torch",
        "torchvision",
        "matplotlib",
        "sklearn",
        "scipy",
        "onnx",
        "google",
        "onnxscript",
        "rich",
    }
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 1


@pytest.mark.parametrize("stdout_is_terminal", [False, True])
def test_progress_bar_is_only_on_stderr(model, root, stdout_is_terminal):
    """It is drawn if stderr is a terminal, unless stdout is, too."""
    master, slave = os.openpty()
    try:
        process = subprocess.Popen(
            program("-m", model(), root, "--json"),
            stdin=subprocess.DEVNULL,
            stdout=slave if stdout_is_terminal else subprocess.PIPE,
            stderr=slave,
            env={**os.environ, "TERM": "xterm"},
        )
        out, _ = process.communicate()
        shown = b""
        while select.select([master], [], [], 0)[0]:
            shown += os.read(master, 65536)
    finally:
        os.close(slave)
        os.close(master)
    assert (b"predicting" in shown) != stdout_is_terminal
    if not stdout_is_terminal:
        assert [json.loads(line)["path"] for line in out.decode().splitlines()] == files(root)


# ---------------------------------------------------------------- networks by name


TINY = "timm:test_resnet"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A small network of timm with the weights of a file, in a cache of its own: the words for the command, and the network."""
    pytest.importorskip("timm")
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    own = catalogue.seeded(4, lambda: catalogue.network(TINY))[0].eval()
    torch.save(own.state_dict(), tmp_path / "tiny.pth")
    return ["-m", TINY, "--weights", tmp_path / "tiny.pth", "--device", "cpu"], own


def test_network_by_name_predicts_its_own_classes(run, shell, tiny, root, tmp_path):
    """As in torch; exported with the first call, and without torch afterwards. Options for other networks are refused."""
    words, own = tiny
    done = run("cnn-predict", *words, root, "--top", 2)
    preprocess = catalogue.network(TINY)[1]
    pixels = torch.from_numpy(np.stack([preprocessing.load(path, preprocess) for path in files(root)]))
    with torch.no_grad():
        shares, places = own(classifiers.InputNormalization(preprocess)(pixels)).softmax(1).topk(2)
    names = torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"]
    assert [row["label"] for row in done.rows] == [names[place] for place in places.flatten()]
    np.testing.assert_allclose([float(row["probability"]) for row in done.rows], shares.flatten(), atol=1e-5)
    cache = tmp_path / "cache"
    assert f"exporting {TINY} to ONNX, once; cached in {cache}" in done.err
    notice = f"cnn-predict: {tmp_path / 'tiny.pth'} has no class names: they are those of the default weights of {TINY}"
    assert notice in done.err.splitlines()
    line = " ".join(map(str, ("cnn_predict", *words, root, "--top", 2)))
    again = shell(f"python -X importtime -m cnnkit_tools.{line}", cwd=tmp_path)
    assert again.out == done.out
    assert notice in again.err.splitlines()
    assert "exporting" not in again.err
    modules = {each.rpartition("|")[2].strip() for each in again.err.splitlines() if each.startswith("import time:")}
    assert "onnxruntime" in modules
    assert modules & {"torch", "torchvision", "timm", "onnx"} == set()
    refused = run("cnn-predict", *words, root, "--mean", "0.5", status=2).err
    assert f"{TINY} has a cnnkit header with preprocessing and classes; --mean is for networks without one" in refused


@pytest.mark.slow
def test_network_by_name_at_other_sizes(run, tiny, root):
    words, own = tiny
    done = run("cnn-predict", *words, root, "--size", 96, "--logits")
    preprocess = preprocessing.shown_as(catalogue.network(TINY)[1], size="96")
    pixels = torch.from_numpy(np.stack([preprocessing.load(path, preprocess) for path in files(root)]))
    with torch.no_grad():
        logits = own(classifiers.InputNormalization(preprocess)(pixels)).max(1).values
    np.testing.assert_allclose([float(row["logit"]) for row in done.rows], logits, rtol=1e-3)


@pytest.mark.slow
def test_network_by_name_of_one_size(run, root, tmp_path, monkeypatch):
    """Its own size is no error, and the remedy for another one is not that for an .onnx."""
    pytest.importorskip("timm")
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    words = ["-m", "timm:test_vit", "--weights", "none", "--device", "cpu", files(root)[0]]
    assert len(run("cnn-predict", *words, "--size", 160).rows) == 1
    for size in (96, "native"):
        refused = run("cnn-predict", *words, "--size", size, status=2)
        assert refused.err.splitlines()[-1] == "cnn-predict: timm:test_vit takes only 160 x 160 pixels; drop --size"


def test_a_folder_does_not_hide_a_network(run, root, tmp_path, monkeypatch):
    """A folder of results may have the name of a network; one of another name is named in the error."""
    monkeypatch.setenv("CNNKIT_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    for name in ("resnet18", "results"):
        (tmp_path / name).mkdir()
    assert "forbids downloading weights for resnet18" in run("cnn-predict", "-m", "resnet18", root, status=1).err
    refused = run("cnn-predict", "-m", "results", root, status=2).err
    assert 'no network is called "results", and the folder of this name is not a model' in refused


@pytest.mark.slow
def test_network_by_name_with_labels(run, tiny, root, tmp_path):
    """They rename the outputs; the number must be that of the network."""
    words, _ = tiny
    (tmp_path / "own.txt").write_text("\n".join(f"class {number}" for number in range(1000)))
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    done = run("cnn-predict", *words, root, "--labels", tmp_path / "own.txt")
    plain = run("cnn-predict", *words, root)
    names = torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"]
    assert [f"class {names.index(row['label'])}" for row in plain.rows] == [row["label"] for row in done.rows]
    assert "has no class names" not in done.err
    refused = run("cnn-predict", *words, root, "--labels", tmp_path / "few.txt", status=2)
    assert f"--labels has 2 classes, and {TINY} has 1000 outputs" in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "resnet81"], 'no network is called "resnet81"; did you mean '),
        (["-m", "model.onnx", "--weights", "none"], "--weights is for a network given by name; an .onnx has its own"),
        (
            ["-m", "resnet18", "-m", "resnet34", "--weights", "model.onnx"],
            "--weights model.onnx is for one network, and 2 are given by name",
        ),
    ],
)
def test_rejects_wrong_names_and_options_of_names(words, message, run, model, root, monkeypatch):
    monkeypatch.chdir(model().parent)
    assert message in run("cnn-predict", *words, root, status=2).err


@functools.cache
def mobilenet(folder):
    """Return torchvision's own network, with the weights of the photographs."""
    torchs = torchvision.models.mobilenet_v2(weights=None).eval()
    torchs.load_state_dict(torch.load(folder / "weights" / "mobilenet_v2.pth", weights_only=True))
    return torchs


@pytest.mark.slow
@pytest.mark.photos
def test_elephants_are_african(run, photos, tmp_path):
    """The textbook's photograph, with pretrained weights: names and probabilities are torchvision's, to 1e-5."""
    (tmp_path / "African elephant").mkdir()
    elephants = shutil.copy(photos / "pictures" / "creative_commons_elephant.jpg", tmp_path / "African elephant")
    weights = photos / "weights" / "mobilenet_v2.pth"
    done = run("cnn-predict", "-m", "mobilenet_v2", "--weights", weights, elephants, "--top", 5)
    assert done.rows[0]["label"] == "African elephant"
    published = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1
    with torch.no_grad():
        image = torchvision.datasets.folder.default_loader(elephants)
        shares, places = mobilenet(photos)(published.transforms()(image)[None]).softmax(1)[0].topk(5)
    assert [row["label"] for row in done.rows] == [published.meta["categories"][place] for place in places]
    np.testing.assert_allclose([float(row["probability"]) for row in done.rows], shares, atol=1e-5)
    (tmp_path / "predictions.tsv").write_text(done.out)
    assert "accuracy\t1\n" in run("cnn-eval", tmp_path / "predictions.tsv").out


@pytest.mark.slow
@pytest.mark.photos
def test_photographs_of_every_format_match_torch(run, photos, tmp_path):
    """JPEG, PNG, BMP and JFIF of any size: all 1,000 probabilities of each, to 1e-5."""
    torchs, path = mobilenet(photos), tmp_path / "mobilenet.onnx"
    network, header = named_network.load("mobilenet_v2", weights=photos / "weights" / "mobilenet_v2.pth")
    header = header.but(preprocess=replace(header.preprocess, decoding=Decoding.FULL))  # as torchvision does
    config = ExportConfig(device="cpu", batch=2)
    path.write_bytes(export.compared(network, header, config, name="mobilenet_v2").content)
    names = sorted(
        str(name) for name in (photos / "pictures").iterdir() if name.suffix in (".jpg", ".png", ".bmp", ".jfif")
    )
    rows = [
        json.loads(line) for line in run("cnn-predict", "-m", path, *names, "--top", 1000, "--json").out.splitlines()
    ]
    assert len(rows) == 1000 * len(names)
    transform = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    loader = torchvision.datasets.folder.default_loader
    with torch.no_grad():
        expected = torchs(torch.stack([transform(loader(name)) for name in names])).softmax(1).sort(descending=True)[0]
    found = np.array([row["probability"] for row in rows]).reshape(len(names), 1000)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_device_is_reported_before_the_first_batch(run, model, root, monkeypatch):
    """A long first batch shows where it runs."""

    def fail(*_args, **_words):
        raise UsageError("first batch")
        yield

    monkeypatch.setattr("cnnkit.infer.ensemble.Ensemble.run", fail)
    refused = run("cnn-predict", "-m", model(), root, status=2)
    assert refused.err == "cnn-predict: running on the CPU\ncnn-predict: first batch\n"
