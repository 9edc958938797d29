"""cnn-predict as it is run: against torch on real files, from every source, in every form of output."""

import functools
import json
import os
import resource
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from cnnkit.choices import Fit, Pool
from cnnkit.data import preprocess as preparing
from cnnkit.engine import export
from cnnkit.formats import bundle, features
from cnnkit.formats.header import Header, Kind, Preprocess
from cnnkit.formats.manifest import Row
from cnnkit.nets import backbones, build
from cnnkit.nets import classifier as classifiers

CLASSES = ("blue", "green", "red")
PREPROCESS = Preprocess(fit=Fit.CROP, resize=28, size=24, mean=(0.4, 0.45, 0.5), std=(0.2, 0.25, 0.3))


@functools.cache
def network(seed=0, preprocess=PREPROCESS, head="dense 8 relu, dense 3"):
    """Build a classifier with random weights, and the record of its base."""
    base, backbone, _ = backbones.by_notation(
        "conv 8 k3 relu, pool 2, conv 12 k3 relu", size=preprocess.size, seed=seed
    )
    made = classifiers.build_head(head, (12,))
    build.initialise(made, build.Initializer.HE, generator=torch.Generator().manual_seed(seed))
    return classifiers.Classifier(base, made, preprocess=preprocess, pool=Pool.AVG).eval(), backbone


@functools.cache
def content(seed=0, kind="whole", classes=CLASSES, preprocess=PREPROCESS, head="dense 8 relu, dense 3"):
    """Export a classifier: whole, with normalised input, or its head alone."""
    made, backbone = network(seed, preprocess, head)
    size = preprocess.size
    if kind == "head":
        module, shape, dtype = export.HeadAnswers(made.head), (12,), np.float32
    elif kind == "float":
        module, shape, dtype = export.Answers(made, normalised=True), (3, size, size), np.float32
    else:
        module, shape, dtype = export.Answers(made), (size, size, 3), np.uint8
    example = torch.from_numpy(export.random_inputs(shape, np.dtype(dtype), batch=2))
    proto = export.to_onnx(
        module.eval(), example, inputs="features" if kind == "head" else "images", outputs=module.names
    )
    header = Header(kind=Kind.ONNX, classes=classes, preprocess=preprocess, backbone=backbone, head="dense 3")
    return export.finished(proto, header)


@pytest.fixture
def model(tmp_path):
    """Write an exported classifier."""

    def make(name="model.onnx", **options):
        (tmp_path / name).write_bytes(content(**options))
        return tmp_path / name

    return make


@pytest.fixture
def root(pictures):
    return pictures(blue=5, green=3, red=4)


def files(root):
    return [str(path) for path in sorted(root.rglob("*.png"))]


def in_torch(paths, made=None):
    """Compute logits (N, classes) in torch, on the arrays that pictures become."""
    made = made or network()[0]
    pixels = np.stack([preparing.load(path, made.preprocess) for path in paths])
    with torch.no_grad():
        return made(torch.from_numpy(pixels))


def test_probabilities_are_those_of_torch(run, model, root):
    """Every class of every picture, to 1e-5, ranked from the most probable on, the pictures in order."""
    rows = run("cnn-predict", "-m", model(), root, "--top", 3).rows
    expected = in_torch(files(root)).softmax(1).numpy()
    assert [row["path"] for row in rows] == [path for path in files(root) for _ in CLASSES]
    for index, shares in enumerate(expected):
        mine = rows[3 * index : 3 * index + 3]
        assert [row["rank"] for row in mine] == ["1", "2", "3"]
        assert [row["label"] for row in mine] == [CLASSES[place] for place in np.argsort(-shares)]
        np.testing.assert_allclose([float(row["probability"]) for row in mine], sorted(shares)[::-1], atol=1e-5)
    assert len({row["label"] for row in rows if row["rank"] == "1"}) > 1, "the random network should not be constant"


def test_one_answer_a_picture_unless_more_are_asked_for(run, model, root):
    """The first rows of --top 3, and nothing else; more than all classes gives all."""
    everything = run("cnn-predict", "-m", model(), root, "--top", 3)
    outcome = run("cnn-predict", "-m", model(), root)
    assert outcome.rows == [row for row in everything.rows if row["rank"] == "1"]
    assert outcome.out.splitlines()[0] == "path\trank\tlabel\tprobability"
    assert run("cnn-predict", "-m", model(), root, "--top", 1000).out == everything.out


def test_logits_are_those_of_torch(run, model, root):
    """One more column, beside the probability that belongs to it."""
    rows = run("cnn-predict", "-m", model(), root, "--top", 3, "--logits").rows
    expected = in_torch(files(root)).numpy()
    for index, logits in enumerate(expected):
        mine = rows[3 * index : 3 * index + 3]
        np.testing.assert_allclose([float(row["logit"]) for row in mine], sorted(logits)[::-1], atol=1e-4)
    assert list(rows[0]) == ["path", "rank", "label", "probability", "logit"]


def test_one_sigmoid_gives_two_classes(run, model, root):
    """A head with a single output answers with both classes' probabilities, z being the logit of the second."""
    options = {"head": "dense 1", "classes": ("cold", "warm")}
    rows = run("cnn-predict", "-m", model(**options), root, "--top", 2, "--logits").rows
    second = in_torch(files(root), network(head="dense 1")[0]).sigmoid().numpy()[:, 0]
    found = [float(row["probability"]) for row in rows if row["label"] == "warm"]
    np.testing.assert_allclose(found, second, atol=1e-5)
    assert {row["logit"] for row in rows if row["label"] == "cold"} == {"0"}


def test_json_has_the_same_values_as_numbers(run, model, root):
    """One object a line, float32 in its shortest form."""
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


def test_every_way_in_gives_the_same(run, model, root, tmp_path, monkeypatch):
    """A folder, its files, a manifest, a list on standard input by line or by NUL."""
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


def test_a_part_of_a_manifest(run, model, root, tmp_path):
    """--split takes rows of a manifest; paths are as seen from the current folder."""
    manifest = tmp_path / "split.tsv"
    lines = [f"photos/{Path(name).relative_to(root)}\t{'ab'[index % 2]}" for index, name in enumerate(files(root))]
    manifest.write_text("path\tsplit\n" + "\n".join(lines) + "\n", encoding="utf-8")
    rows = run("cnn-predict", "-m", model(), manifest, "--split", "b").rows
    assert [row["path"] for row in rows] == files(root)[1::2]


def test_neither_batch_nor_jobs_change_the_answer(run, model, root):
    """To 1e-6, and twice the same call gives the same bytes."""
    path = model()
    everything = []
    for words in (["--batch", 1], ["--batch", 5], ["--batch", 32, "--jobs", 1], ["--jobs", 5]):
        rows = run("cnn-predict", "-m", path, root, "--top", 3, *words).rows
        everything.append([float(row["probability"]) for row in rows])
        assert [row["path"] for row in rows][::3] == files(root)
    np.testing.assert_allclose(everything, [everything[0]] * 4, atol=1e-6)
    assert run("cnn-predict", "-m", path, root).out == run("cnn-predict", "-m", path, root).out


def test_an_answer_below_the_bound_is_withheld(run, model, root):
    """Its label is ?, its probability stays."""
    rows = run("cnn-predict", "-m", model(), root).rows
    bound = sorted(float(row["probability"]) for row in rows)[len(rows) // 2]
    kept = run("cnn-predict", "-m", model(), root, "--min-probability", bound - 1e-5).rows
    withheld = [row["label"] == "?" for row in kept]
    assert withheld == [float(row["probability"]) < bound for row in rows]
    assert 0 < sum(withheld) < len(rows)
    assert [row["probability"] for row in kept] == [row["probability"] for row in rows]


def test_labels_alone_stay_in_line_with_the_list(run, model, root, tmp_path):
    """Line n belongs to picture n, so that paste works: a picture that was skipped has an empty line."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
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


def test_bad_pictures_are_named_and_left_out(run, model, root, tmp_path):
    """On stderr and in --errors; the exit status is 3 and the others are there."""
    (root / "red" / "broken.png").write_bytes(b"\x89PNG but no more")
    outcome = run("cnn-predict", "-m", model(), root, "--errors", tmp_path / "errors.tsv", status=3)
    assert [row["path"] for row in outcome.rows] == [name for name in files(root) if "broken" not in name]
    assert "broken.png: no picture" in outcome.err
    assert (tmp_path / "errors.tsv").read_text(encoding="utf-8").splitlines()[1].startswith(f"{root}/red/broken.png\t")


def test_names_of_any_kind_pass(run, model, root, tmp_path):
    """Tabs and newlines are escaped in TSV, and what is not UTF-8 goes through."""
    odd = tmp_path / "a\tb\nc \udcff.png"
    os.rename(files(root)[0], odd)
    outcome = run("cnn-predict", "-m", model(), odd)
    assert outcome.rows[0]["path"].startswith(f"{tmp_path}/a\\tb\\nc ")
    assert run("cnn-predict", "-m", model(), "-0", "-", stdin=os.fsencode(odd) + b"\0").out == outcome.out
    assert run("cnn-predict", "-m", model(), odd, "--json").out.count("\n") == 1


def test_models_vote(run, model, root):
    """Soft is the mean of what each says; hard is the majority, its probability the share of votes."""
    squashed = Preprocess(fit=Fit.SQUASH, resize=20, size=20)
    models = [
        model("one.onnx"),
        model("two.onnx", seed=1, preprocess=squashed),
        model("three.onnx", seed=2, classes=("red", "blue", "green")),
    ]
    words = [word for path in models for word in ("-m", path)]
    answers = [
        in_torch(files(root)),
        in_torch(files(root), network(1, squashed)[0]),
        in_torch(files(root), network(2)[0]),
    ]
    shares = np.stack([answer.softmax(1).numpy() for answer in answers])
    shares[2] = shares[2][:, [1, 2, 0]]
    rows = run("cnn-predict", *words, root, "--top", 3, "--json").out.splitlines()
    soft = np.zeros((len(files(root)), 3))
    for index, row in enumerate(map(json.loads, rows)):
        soft[index // 3, CLASSES.index(row["label"])] = row["probability"]
    np.testing.assert_allclose(soft, shares.mean(axis=0), atol=1e-5)

    votes = np.stack([np.bincount(picture, minlength=3) for picture in shares.argmax(axis=2).T])
    best = np.lexsort((-shares.mean(axis=0), -votes), axis=1)[:, 0]
    rows = run("cnn-predict", *words, root, "--vote", "hard").rows
    assert [row["label"] for row in rows] == [CLASSES[place] for place in best]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], votes.max(axis=1) / 3, atol=1e-5)


def test_models_with_other_classes_do_not_vote(run, model, root):
    """Both files are named, and what only one of them has."""
    one, two = model("one.onnx"), model("two.onnx", classes=("blue", "green", "pink"))
    outcome = run("cnn-predict", "-m", one, "-m", two, root, status=1)
    assert f"{one} and {two} cannot vote, their classes differ: only {two} has pink, only {one} has red" in outcome.err
    assert outcome.out == ""


def test_a_network_with_normalised_input_answers_the_same(run, model, root):
    """What cnn-export --input float makes is normalised outside, by the Header's mean and deviation."""
    whole = run("cnn-predict", "-m", model(), root, "--top", 3).rows
    classic = run("cnn-predict", "-m", model("float.onnx", kind="float"), root, "--top", 3).rows
    assert [row["label"] for row in classic] == [row["label"] for row in whole]
    shares = [[float(row["probability"]) for row in rows] for rows in (whole, classic)]
    np.testing.assert_allclose(*shares, atol=1e-5)


@pytest.fixture
def kept(root, tmp_path):
    """Keep the features of all pictures beside their list, as cnn-extract does, in a folder of their own."""
    folder = tmp_path / "features"
    folder.mkdir()
    made, backbone = network()
    pixels = np.stack([preparing.load(path, PREPROCESS) for path in files(root)])
    with torch.no_grad():
        values = made.features(torch.from_numpy(pixels)).numpy()
    header = Header(kind=Kind.FEATURES, preprocess=PREPROCESS, backbone=backbone)
    rows = [
        Row(f"../photos/{Path(path).relative_to(root)}", split="ab"[index % 2])
        for index, path in enumerate(files(root))
    ]
    with features.Writer(folder / "x.npy", shape=(12,), dtype="float32", header=header) as writer:
        writer.write(values, rows)
    return folder / "x.npy"


def test_a_head_answers_to_features_as_the_whole_does_to_pictures(run, model, root, kept, tmp_path, monkeypatch):
    """The same rows, whose paths lead from the current folder to the pictures."""
    monkeypatch.chdir(tmp_path)
    whole = run("cnn-predict", "-m", model(), root, "--top", 3, "--logits").rows
    rows = run("cnn-predict", "-m", model("head.onnx", kind="head"), "features/x.npy", "--top", 3, "--logits").rows
    assert [row["label"] for row in rows] == [row["label"] for row in whole]
    for column in ("probability", "logit"):
        np.testing.assert_allclose(
            [float(row[column]) for row in rows], [float(row[column]) for row in whole], atol=1e-4
        )
    assert [os.path.realpath(row["path"]) for row in rows] == [os.path.realpath(row["path"]) for row in whole]
    assert rows[0]["path"].startswith("features/../photos/")
    monkeypatch.chdir(kept.parent)
    here = run("cnn-predict", "-m", tmp_path / "head.onnx", "x.npy").rows
    assert here[0]["path"].startswith("../photos/"), "as cnn-extract was given it"
    part = run("cnn-predict", "-m", model("head.onnx", kind="head"), kept, "--split", "b")
    assert [os.path.realpath(row["path"]) for row in part.rows] == files(root)[1::2]


def test_a_bare_array_is_named_by_its_rows(run, model, kept, tmp_path, monkeypatch):
    """FILE.npy:ROW, counted from 0; that nothing could be checked is said, and a part it has not."""
    monkeypatch.chdir(tmp_path)
    np.save("bare.npy", np.load(kept)[:2])
    outcome = run("cnn-predict", "-m", model("head.onnx", kind="head"), "bare.npy")
    assert [row["path"] for row in outcome.rows] == ["bare.npy:0", "bare.npy:1"]
    assert "bare.npy has no bare.json beside it" in outcome.err
    assert (
        "no bare.tsv"
        in run("cnn-predict", "-m", model("head.onnx", kind="head"), "bare.npy", "--split", "b", status=2).err
    )


def test_features_of_another_base_are_refused(run, model, kept):
    """The Headers are compared; what differs is named with both files."""
    outcome = run("cnn-predict", "-m", model("head.onnx", kind="head", seed=1), kept, status=1)
    assert "x.npy was made with weights" in outcome.err
    assert "head.onnx was trained with" in outcome.err
    assert outcome.out == ""


def test_heads_and_whole_networks_are_not_confused(run, model, root, kept):
    """One line each that says what to give instead."""
    head, whole = model("head.onnx", kind="head"), model()
    assert "head.onnx is a head and takes features, not pictures" in run("cnn-predict", "-m", head, root, status=2).err
    assert "x.npy holds features, and" in run("cnn-predict", "-m", whole, kept, status=2).err
    assert "x.npy holds features, " in run("cnn-predict", "-m", head, kept, root, status=2).err


@pytest.mark.parametrize("words", [[], ["--input", "float"], ["--head-only"]], ids=" ".join)
def test_what_cnn_export_writes_is_read(run, root, kept, tmp_path, words):
    """Whole, with normalised input, and the head alone: each answers as torch does."""
    made, backbone = network()
    header = Header(
        kind=Kind.MODEL, classes=CLASSES, preprocess=PREPROCESS, backbone=backbone, head="dense 8 relu, dense 3"
    )
    bundle.save(tmp_path / "model.pt", bundle.Bundle(header, made.state_dict()))
    run("cnn-export", tmp_path / "model.pt", "-o", tmp_path / "written.onnx", *words)
    rows = run("cnn-predict", "-m", tmp_path / "written.onnx", kept if "--head-only" in words else root).rows
    shares, places = in_torch(files(root)).softmax(1).max(1)
    assert [row["label"] for row in rows] == [CLASSES[place] for place in places]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], shares.numpy(), atol=1e-5)


@functools.cache
def squeezenet():
    torch.manual_seed(0)
    return torchvision.models.squeezenet1_1(weights=None, num_classes=7).eval()


@functools.cache
def squeezenet_content():
    """Export torchvision's network as its users do, without our Header."""
    program = torch.onnx.export(
        squeezenet(),
        (torch.zeros(2, 3, 64, 64),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        verbose=False,
    )
    return program.model_proto.SerializeToString()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the exporter's own, inside torch
def test_a_network_of_torchvision_is_told_what_it_lacks(run, root, tmp_path):
    """Its logits are those of torch on torchvision's own transforms; what is missing is named."""
    path, labels = tmp_path / "squeezenet.onnx", tmp_path / "labels.txt"
    path.write_bytes(squeezenet_content())
    labels.write_text("".join(f"class {index}\n" for index in range(7)), encoding="utf-8")
    outcome = run("cnn-predict", "-m", path, root, "--size", 64, "--mean", 0.5, status=2)
    assert "carries no cnnkit header" in outcome.err
    assert outcome.err.endswith("say also --std, --labels\n")

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
    "option", [("--size", 24), ("--mean", 0.5), ("--std", 0.5), ("--labels", "x"), ("--fit", "pad")]
)
def test_our_models_are_told_nothing(run, model, root, option):
    """Their Header says it all; an option that contradicts it would be ignored otherwise."""
    outcome = run("cnn-predict", "-m", model(), root, *option, status=2)
    assert f"model.onnx carries its own preprocessing and classes; {option[0]} is for networks" in outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--labels-only", "--json"], "--labels-only prints nothing but the label"),
        (["--labels-only", "--top", 2], "--labels-only prints nothing but the label"),
        (["--top", 0], "invalid value for '--top'"),
        (["--min-probability", 1.5], "invalid value for '--min-probability'"),
        (["--vote", "loud"], "invalid value for '--vote'"),
        (["--vote", "hard"], "give --model several times"),
    ],
)
def test_words_that_do_not_fit_are_refused(run, model, root, words, said):
    """With status 2, one line, and nothing on stdout."""
    outcome = run("cnn-predict", "-m", model(), root, *words, status=2)
    assert said in outcome.err
    assert outcome.out == ""


def test_what_is_no_model_is_one_line(run, root, tmp_path):
    """A missing file, a torch file, and no model at all."""
    assert "nowhere.onnx: No such file" in run("cnn-predict", "-m", tmp_path / "nowhere.onnx", root, status=1).err
    assert "make it with cnn-export head.pt -o head.onnx" in run("cnn-predict", "-m", "head.pt", root, status=2).err
    assert "missing option" in run("cnn-predict", root, status=2).err


def test_cnn_eval_reads_what_is_written(run, model, root):
    """The accuracy that comes out of the pipe is that of torch's own answers; all classes given, so is the log-loss."""
    path = model()
    expected = in_torch(files(root)).double()
    truth = torch.tensor([CLASSES.index(Path(name).parent.name) for name in files(root)])
    for form in ([], ["--json"]):
        written = run("cnn-predict", "-m", path, root, "--top", 3, *form).out
        report = json.loads(run("cnn-eval", "--json", "--truth", root, stdin=written).out)
        assert report["accuracy"] == pytest.approx(float((expected.argmax(1) == truth).double().mean()))
        assert report["log_loss"] == pytest.approx(float(nn.functional.cross_entropy(expected, truth)), abs=1e-4)


def program(*words):
    """Give the words that run the command as a process of its own."""
    return [sys.executable, "-m", "cnnkit_tools.cnn_predict", *map(str, words)]


def test_rows_appear_while_the_list_still_grows(model, root):
    """A list on standard input that never ends is answered as batches are done."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    # Unbuffered: what readline read ahead would be lost for communicate
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


def test_it_starts_without_torch_and_in_little_time(model, root):
    """A cold call on one picture imports no torch, and needs less than a second of one core."""
    code = (
        "import sys\n"
        "from cnnkit_tools.cnn_predict import main\n"
        "try:\n"
        f"    main(['-m', {str(model())!r}, {files(root)[0]!r}, '--logits'])\n"
        "finally:\n"
        "    print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "torchvision", "matplotlib", "sklearn", "scipy", "onnxscript", "rich"}
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 1


@pytest.mark.parametrize("stdout_is_terminal", [False, True])
def test_the_bar_is_on_stderr_alone(model, root, stdout_is_terminal):
    """It is drawn where stderr is a terminal, unless the rows go there, too."""
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


@functools.cache
def mobilenet(folder):
    """Put torchvision's own network of the photographs' weights behind our preprocessing."""
    weights = folder / "weights" / "mobilenet_v2.pth"
    base, backbone, preprocess = backbones.pretrained(
        "mobilenet_v2", weights=weights, layer="features.18", pool=Pool.AVG
    )
    torchs = torchvision.models.mobilenet_v2(weights=None).eval()
    torchs.load_state_dict(torch.load(weights, weights_only=True))
    index = json.loads((folder / "imagenet_class_index.json").read_text(encoding="utf-8"))
    header = Header(
        kind=Kind.ONNX,
        classes=tuple(index[str(place)][1] for place in range(1000)),
        preprocess=preprocess,
        backbone=backbone,
    )
    made = classifiers.Classifier(
        base, nn.Sequential(torchs.classifier[1]), preprocess=preprocess, pool=Pool.AVG
    ).eval()
    answers = export.Answers(made)
    example = torch.from_numpy(export.random_inputs((224, 224, 3), np.dtype(np.uint8), batch=2))
    proto = export.to_onnx(answers, example, inputs="images", outputs=answers.names)
    return torchs, export.finished(proto, header)


@pytest.mark.photos
def test_the_elephants_are_african(run, photos, tmp_path):
    """The textbook's photograph, through real weights and 1,000 classes, agrees with plain torchvision to 1e-5."""
    torchs, written = mobilenet(photos)
    path = tmp_path / "mobilenet.onnx"
    path.write_bytes(written)
    elephants = photos / "pictures" / "creative_commons_elephant.jpg"
    rows = run("cnn-predict", "-m", path, elephants, "--top", 5).rows
    assert rows[0]["label"] == "African_elephant"
    transform = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    with torch.no_grad():
        picture = torchvision.datasets.folder.default_loader(str(elephants))
        shares = torchs(transform(picture)[None]).softmax(1)[0]
    expected = shares.topk(5).values.numpy()
    np.testing.assert_allclose([float(row["probability"]) for row in rows], expected, atol=1e-5)


@pytest.mark.photos
def test_photographs_of_every_format_agree_with_torch(run, photos, tmp_path):
    """JPEG, PNG, BMP and JFIF of any size: all 1,000 probabilities of each, to 1e-5."""
    torchs, written = mobilenet(photos)
    path = tmp_path / "mobilenet.onnx"
    path.write_bytes(written)
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
