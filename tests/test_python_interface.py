"""The Python interface that `cnnkit` exports gives what the commands give on the same files, and loads no more than it needs."""

import ast
import functools
import inspect
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import cnnkit
from cnnkit import Classifier
from cnnkit.api import calls
from cnnkit.data import decode
from cnnkit.formats.box import Box

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "torchvision",
    "onnxruntime",
    "onnx",
    "numpy",
    "PIL",
    "matplotlib",
    "scipy",
    "sklearn",
    "typer",
    "rich",
}
BACKBONE = '--layers "conv 8 k3 same relu, pool 2" --weights none --size 16 --fit crop'
RED = "photos/red/0 red.png"
LIKE_BACKBONE = {"layers": "conv 8 k3 same relu, pool 2", "weights": "none", "size": 16, "fit": "crop"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shell):
    """Make photos/, a manifest, features, a model and two exported networks, the second with a temperature, by the commands."""
    place = tmp_path_factory.mktemp("interface")
    generator = np.random.default_rng(0)
    for label, tint in (("red", (150, 0, 0)), ("blue", (0, 0, 150))):
        (place / "photos" / label).mkdir(parents=True)
        for index in range(8):
            pixels = (generator.uniform(0, 90, (24, 36, 3)) + tint).astype(np.uint8)
            Image.fromarray(pixels).save(place / "photos" / label / f"{index} {label}.png")
    lines = (
        "cnn-split photos --ratio 0.5,0.5 --seed 0 --manifest split.tsv",
        f"cnn-extract split.tsv --split train -o train.npy {BACKBONE}",
        "cnn-train-head train.npy -o one.pt --epochs 2",
        "cnn-export one.pt -o one.onnx --cam",
        "cnn-predict -m one.onnx split.tsv --split val --top all > val.tsv",
        r"sed '0,/\tred\tval/s//\tblue\tval/' split.tsv > one-wrong.tsv",  # without a mistake there is no temperature
        "cnn-calibrate val.tsv --truth one-wrong.tsv --split val -m one.onnx -o two.onnx",  # an export takes seconds
    )
    for line in lines:
        shell(line, cwd=place)
    foreign = onnx.load(place / "one.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, place / "foreign.onnx")
    return place


@pytest.fixture(autouse=True)
def _inside(request, monkeypatch):
    """Work in the folder of those files, if a test uses them."""
    if "folder" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("folder"))


def loaded_by(program, cwd=None):
    """Run a program in a new Python, and list the packages that it has loaded."""
    text = f"{program}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", text], cwd=cwd, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_prediction_sets_are_those_of_the_command(folder, run, tmp_path):
    """None without them, and for a vote, whose probabilities are others."""
    model = tmp_path / "sets.onnx"
    run(
        "cnn-calibrate",
        "val.tsv",
        "--truth",
        "one-wrong.tsv",
        "--split",
        "val",
        "--sets",
        0.8,
        "-m",
        "one.onnx",
        "-o",
        model,
    )
    expected = {}
    for row in run("cnn-predict", "-m", model, "photos", "--sets", "--device", "cpu").rows:
        expected.setdefault(row["path"], []).append(row["label"])
    found = Classifier(model, device="cpu").predict("photos")
    assert {each.path: list(each.prediction_set) for each in found} == expected
    assert Classifier("one.onnx", device="cpu").predict(RED)[0].prediction_set is None
    assert Classifier(model, device="cpu", tta="hflip").predict(RED)[0].prediction_set is None


# ---------------------------------------------------------------- names


def test_import_loads_nothing_heavy():
    by_itself = loaded_by("pass")  # for example for an editable installation
    loaded = loaded_by("import cnnkit; assert 'Classifier' in dir(cnnkit)")
    assert loaded - by_itself == {"cnnkit"}


def test_every_public_name_is_found_and_typed():
    """`__all__`, the modules of `__getattr__` and the imports for type checkers name the same things."""
    tree = ast.parse((ROOT / "cnnkit" / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = {alias.name: node.module for node in typed.body for alias in node.names}
    lazy = {name: module for module, names in cnnkit._MODULES.items() for name in names}
    assert imports == lazy
    assert {*lazy, "__version__"} == {*cnnkit.__all__}
    assert cnnkit.__all__ == sorted(cnnkit.__all__)
    for name in cnnkit.__all__:
        assert getattr(cnnkit, name) is not None
        assert name in dir(cnnkit)
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        cnnkit.Clasifier  # noqa: B018
    assert issubclass(cnnkit.BadImageError, cnnkit.CnnkitError)


def test_loads_only_what_it_needs(folder):
    """In one process: what a call has to leave unloaded, those before it have not loaded either."""
    calls = [
        (
            "cnnkit.read_manifest('split.tsv'); cnnkit.find_images('photos'); cnnkit.read_history('one.csv');"
            "cnnkit.layer_dims('conv 32 k3 s2', input=(224, 224, 3))",
            HEAVY,
        ),
        ("cnnkit.read_features('train.npy'); cnnkit.read_header('one.onnx')", {"torch", "onnxruntime", "PIL"}),
        ("cnnkit.network_dims('one.onnx')", {"torch", "PIL"}),
        ("cnnkit.Classifier('one.onnx', device='cpu').predict('photos')", {"torch", "matplotlib", "typer", "rich"}),
        ("cnnkit.Classifier('one.onnx', device='cpu', tta='hflip').predict('photos')", {"torch", "matplotlib"}),
        ("[*cnnkit.heat_maps('one.onnx', 'photos', device='cpu')]", {"torch", "typer", "rich"}),
    ]
    lines = ["import sys, cnnkit"]
    for call, unused in calls:
        lines += [
            call,
            f"loaded = {unused} & {{name.split('.')[0] for name in sys.modules}}",
            "assert not loaded, loaded",
        ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- classification


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ""),
        ({"batch": 3}, "--batch 3"),
        ({"crops": 5}, "--crops 5"),
        ({"tta": "crop 0.8, hflip", "views": 3, "seed": 4}, '--tta "crop 0.8, hflip" --views 3 --seed 4'),
        ({"tta": "rotate 20", "views": 2, "vote": "hard"}, '--tta "rotate 20" --views 2 --vote hard'),
    ],
    ids=["plain", "batch", "crops", "tta", "resampled"],
)
def test_predictions_are_those_of_the_command(options, words, folder, shell, tmp_path):
    printed = shell(f"cnn-predict -m one.onnx split.tsv --split val --top all --device cpu {words}", cwd=folder).out
    found = Classifier("one.onnx", device="cpu", **options).predict("split.tsv", split="val")
    cnnkit.write_predictions(tmp_path / "out.tsv", [row for each in found for row in each.top()])
    assert (tmp_path / "out.tsv").read_text() == printed
    best = cnnkit.read_predictions(tmp_path / "out.tsv")[::2]
    assert [(each.path, each.label) for each in found] == [(row.path, row.label) for row in best]


def test_several_models_vote(folder, shell, tmp_path):
    printed = shell("cnn-predict -m one.onnx -m two.onnx photos --top all --device cpu", cwd=folder).out
    classifier = Classifier(["one.onnx", Path("two.onnx")], device="cpu")
    rows = [row for each in classifier.predict(Path("photos")) for row in each.top()]
    cnnkit.write_predictions(tmp_path / "out.tsv", rows)
    assert (tmp_path / "out.tsv").read_text() == printed
    alone = Classifier("one.onnx", device="cpu").predict_proba("photos")
    assert np.abs(classifier.predict_proba("photos") - alone).max() > 0.001


@pytest.mark.slow
def test_a_network_by_name(folder, shell, tmp_path):
    pytest.importorskip("timm")
    printed = shell("cnn-predict -m timm:test_resnet --weights none photos --top 3 --device cpu", cwd=folder).out
    classifier = Classifier("timm:test_resnet", weights="none", device="cpu")
    rows = [row for each in classifier.predict("photos") for row in each.top(3)]
    cnnkit.write_predictions(tmp_path / "out.tsv", rows)
    assert (tmp_path / "out.tsv").read_text() == printed
    assert classifier.classes[386] == "African elephant"
    with pytest.raises(cnnkit.UsageError, match=r"^weights is for a network given by name; an \.onnx has its own"):
        Classifier("one.onnx", weights="none")


def test_results_agree_with_each_other(folder):
    """Classes, probabilities, `predict_proba`, `top` and `stream` say the same."""
    classifier = Classifier("one.onnx", device="cpu")
    assert (classifier.classes, classifier.device) == (("blue", "red"), "cpu")
    found = classifier.predict("photos")
    shares = classifier.predict_proba("photos")
    assert (shares.shape, shares.dtype) == ((16, 2), np.float32)
    assert np.array_equal(shares, [each.probabilities for each in found])
    for each in found:
        assert each.label == classifier.classes[each.probabilities.argmax()]
        assert each.probability == pytest.approx(each.probabilities.max(), abs=1e-7)
        assert [row.label for row in each.top(1)] == [each.label]
        assert len(each.top()) == 2
    images = cnnkit.find_images("photos")
    assert {image.label for image in images} == {"red", "blue"}
    endless = (image for _ in iter(int, 1) for image in images)
    stream = classifier.stream(endless)
    assert [next(stream).path for _ in range(20)] == [each.path for each in [*found, *found[:4]]]
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, 2)


def photographs(folder):
    """Write images that need more than decoding: turned by EXIF, with alpha, of a palette, grey, of 16 bits."""
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("L").save(folder / "grey.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(folder / "deep.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("options", [{}, {"crops": 10}, {"tta": "hflip"}], ids=["plain", "crops", "flips"])
def test_pillow_images_and_arrays_are_prepared_as_files(options, folder, tmp_path):
    paths = photographs(tmp_path)
    classifier = Classifier("one.onnx", device="cpu", **options)
    expected = classifier.predict_proba(paths)
    opened = [Image.open(path) for path in paths]
    assert np.array_equal(classifier.predict_proba(opened), expected)
    assert [each.path for each in classifier.predict(opened)] == [str(path) for path in paths]
    for path, shares in zip(paths, expected, strict=True):
        if path.name in ("alpha.png", "grey.png"):
            with Image.open(path) as image:
                (each,) = classifier.predict(np.asarray(image))
            assert np.array_equal(each.probabilities, shares), path
            assert each.path == "image 0"
    batch = np.zeros((3, 20, 30, 3), dtype=np.uint8)
    assert [each.path for each in classifier.predict(batch)] == ["image 0", "image 1", "image 2"]


CALLS = {
    "predict": lambda images, progress: Classifier("one.onnx", device="cpu", batch=2, jobs=2).predict(
        images, progress=progress
    ),
    "extract": lambda images, progress: cnnkit.FeatureExtractor(device="cpu", batch=2, jobs=2, **LIKE_BACKBONE).extract(
        images, progress=progress
    ),
    "heat_maps": lambda images, progress: [
        *cnnkit.heat_maps("one.onnx", images, device="cpu", batch=2, jobs=2, progress=progress)
    ],
}


@pytest.mark.parametrize("name", CALLS)
def test_images_of_an_iterator_are_taken_while_others_are_done(name, folder):
    """Not all at once; and the generator may use one array for all of them."""
    found, seen = [], []

    def images():
        pixels = np.zeros((24, 36, 3), np.uint8)
        for number in range(40):
            seen.append(found[-1][0] if found else 0)
            pixels[:] = 6 * number
            yield pixels

    made = CALLS[name](images(), lambda done, total: found.append((done, total)))
    assert (found[-1], len(seen)) == ((40, None), 40)
    assert seen[-1] > 20
    listed = CALLS[name]([np.full((24, 36, 3), 6 * number, np.uint8) for number in range(40)], lambda *_: None)
    if name == "extract":
        assert np.allclose(made.values, listed.values, atol=1e-6)
        assert [row.path for row in made.rows] == [f"image {number}" for number in range(40)]
    else:
        assert [each.probability for each in made] == pytest.approx([each.probability for each in listed], abs=1e-6)


def test_images_of_an_iterator_may_be_closed(folder):
    paths = [image.path for image in cnnkit.find_images("photos")]

    def opened():
        for path in paths:
            with Image.open(path) as image:
                yield image

    classifier = Classifier("one.onnx", device="cpu")
    assert np.array_equal(classifier.predict_proba(opened()), classifier.predict_proba(paths))


def test_images_of_a_list_are_decoded_in_threads(folder):
    """One image at a time by one thread only, however often it is listed."""
    threads, images = set(), [Image.open(image.path) for image in cnnkit.find_images("photos")]
    for image in images:

        def load(image=image, load=image.load):
            threads.add(threading.current_thread())
            return load()

        image.load = load
    classifier = Classifier("one.onnx", device="cpu", jobs=4)
    shares = classifier.predict_proba([*images, *images])
    assert threading.main_thread() not in threads
    assert np.array_equal(shares, np.tile(classifier.predict_proba("photos"), (2, 1)))


def test_workers_decode_files_and_this_process_images_in_memory(folder):
    """The same probabilities; the two are mixed in their order."""
    mixed = [RED, np.asarray(Image.open("photos/blue/1 blue.png")), "photos/blue/2 blue.png"]
    shares = [Classifier("one.onnx", device="cpu", workers=workers).predict_proba(mixed) for workers in (0, 1)]
    assert np.array_equal(*shares)


def test_images_that_cannot_be_used_are_errors_or_skipped(folder, tmp_path, caplog):
    good = Path("photos/red/0 red.png")
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:200])
    classifier = Classifier("one.onnx", device="cpu")
    mixed = [good, tmp_path / "broken.png", Image.fromarray(np.full((4, 4), 7.0, np.float32))]
    with pytest.raises(cnnkit.BadImageError, match=r"broken\.png: "):
        classifier.predict(mixed)
    assert [each.path for each in classifier.predict(mixed, errors="skip")] == [str(good)]
    assert [record.getMessage().partition(": ")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        str(tmp_path / "broken.png"),
        "image 2",
    ]
    skipped = []
    assert len(classifier.predict(mixed, errors=lambda *each: skipped.append(each))) == 1
    assert [(Path(path).name, bool(reason)) for path, reason in skipped] == [("broken.png", True), ("image 2", True)]
    with pytest.raises(cnnkit.UsageError, match='errors="ignore": give raise or skip, or a function'):
        classifier.predict(good, errors="ignore")
    with pytest.raises(cnnkit.CnnkitError, match="nowhere"):
        classifier.predict("nowhere.jpg")


def test_shares_of_predictions_are_those_of_all(folder):
    """Also of an iterator, of an uneven last batch, and where there are more shares than images."""
    classifier = Classifier("one.onnx", device="cpu", batch=6)
    paths = [image.path for image in cnnkit.find_images("photos")]
    expected = [(each.path, each.probabilities.tobytes()) for each in classifier.predict(paths)]
    for count in (1, 3, 17):
        shards = [f"{number}/{count}" for number in range(1, count + 1)]
        listed = [each for shard in shards for each in classifier.predict(paths, shard=shard)]
        streamed = [each for shard in shards for each in classifier.stream(iter(paths), shard=shard)]
        for found in (listed, streamed):
            assert [(each.path, each.probabilities.tobytes()) for each in found] == expected
    with pytest.raises(cnnkit.UsageError, match=r'^shard="two": give I/N'):
        classifier.predict(paths, shard="two")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4, 3)), r"image 0: an array of float64, shape \(4, 4, 3\); give uint8"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        ([None], "image 0: NoneType is not an image; give a path"),
        (7, "^int is not an image"),
    ],
    ids=["floats", "two channels", "empty", "none", "number"],
)
def test_refuses_what_is_not_an_image(images, message, folder):
    with pytest.raises(cnnkit.UsageError, match=message):
        Classifier("one.onnx", device="cpu").predict(images)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Classifier("one.pt"), cnnkit.UsageError, "prediction needs an ONNX file"),
        (lambda: Classifier("split.tsv"), cnnkit.FormatError, "split.tsv"),
        (lambda: Classifier("one.onnx", precision="int4"), cnnkit.UsageError, 'precision="int4": give one of float32'),
        (lambda: Classifier("one.onnx", batch=0), cnnkit.UsageError, "from 1"),
        (lambda: Classifier("one.onnx", device="gpu"), cnnkit.CnnkitError, "gpu"),
        (lambda: cnnkit.heat_map("one.pt", "photos/red/0 red.png", target="green"), cnnkit.UsageError, "green"),
        (lambda: cnnkit.heat_map("one.pt", "photos"), cnnkit.CnnkitError, "16 maps"),
        (lambda: cnnkit.layer_dims("conv 32 q3", input=(9, 9, 3)), cnnkit.NotationError, "q3"),
        (lambda: cnnkit.layer_dims("conv 32 k3", input=(9, 9)), cnnkit.UsageError, r"input=\(9, 9\): give \(height"),
        *(
            (
                functools.partial(cnnkit.layer_dims, "conv 32 k3", input=size),
                cnnkit.UsageError,
                "give .height, width, ch",
            )
            for size in (5, "9,9,3", (9, 9.5, 3), (9, -9, 3), (9, None, 3), (9, 10**12, 3))
        ),
        (lambda: cnnkit.layer_dims("conv 32 k3", input=(9, 9, 3), dtype="int4"), cnnkit.UsageError, "bfloat16"),
        (lambda: cnnkit.read_header("split.tsv"), cnnkit.FormatError, "no cnnkit header"),
        (lambda: cnnkit.write_manifest("split.txt", []), cnnkit.UsageError, "tsv"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_are_those_of_the_library(make, error, message, folder):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classifier("one.onnx", jobs=-1), "jobs=-1: give a number from 1$"),
        (lambda: Classifier("one.onnx", tta="hflip", views=-1), "views=-1: give a number from 2$"),
        (lambda: Classifier("one.onnx", seed=-1), "seed=-1: give a number from 0 to 4294967295$"),
        (lambda: Classifier([]), "no model; give a .onnx from cnn-export"),
        (lambda: Classifier("one.onnx", device="cpu").predict("photos")[0].top(-1), "k=-1: give a number from 1$"),
        (lambda: cnnkit.FeatureExtractor(batch=0, **LIKE_BACKBONE), "batch=0: give a number from 1$"),
        (lambda: cnnkit.FeatureExtractor(batch=-2, **LIKE_BACKBONE), "batch=-2"),
        (lambda: cnnkit.FeatureExtractor(jobs=0, **LIKE_BACKBONE), "jobs=0"),
        (lambda: cnnkit.FeatureExtractor(seed=-1, **LIKE_BACKBONE), "seed=-1"),
        (lambda: cnnkit.FeatureExtractor(**{**LIKE_BACKBONE, "size": 0}), "size=0"),
        (lambda: cnnkit.FeatureExtractor(resize=0, **LIKE_BACKBONE), "resize=0"),
        (lambda: cnnkit.heat_maps("one.onnx", "photos", batch=0), "batch=0"),
        (lambda: cnnkit.heat_maps("one.onnx", "photos", jobs=0), "jobs=0"),
        (lambda: cnnkit.heat_maps("one.onnx", "photos", size=0), "0"),
        (
            lambda: cnnkit.heat_map("one.onnx", RED, device="cpu").overlay(alpha=7),
            "alpha=7: give a number from 0 to 1$",
        ),
        (lambda: cnnkit.heat_map("one.onnx", RED, device="cpu").overlay(box=-1), "box=-1"),
        (lambda: cnnkit.layer_dims("conv 32 k3", input=(9, 9, 3), batch=-3), "batch=-3: give a number from 1$"),
        (lambda: cnnkit.network_dims("one.onnx", batch=0), "batch=0"),
    ],
)
def test_numbers_out_of_range_are_usage_errors(make, message, folder):
    with pytest.raises(cnnkit.UsageError, match=message):
        make()


#: Every public function that takes a path: how it is called with one.
WITH_A_PATH = {
    "Classifier": lambda path: Classifier(path, device="cpu"),
    "Classifier.predict": lambda path: Classifier("one.onnx", device="cpu").predict(path),
    "Classifier.predict_proba": lambda path: Classifier("one.onnx", device="cpu").predict_proba(path),
    "Classifier.stream": lambda path: [*Classifier("one.onnx", device="cpu").stream(iter([path]))],
    "FeatureExtractor": lambda path: cnnkit.FeatureExtractor(path, device="cpu"),
    "FeatureExtractor weights": lambda path: cnnkit.FeatureExtractor("squeezenet1_1", weights=path, device="cpu"),
    "FeatureExtractor.extract": lambda path: cnnkit.FeatureExtractor(device="cpu", **LIKE_BACKBONE).extract(path),
    "extract_features": lambda path: cnnkit.extract_features(path, device="cpu", **LIKE_BACKBONE),
    "heat_map": lambda path: cnnkit.heat_map(path, RED, device="cpu"),
    "heat_map of an image": lambda path: cnnkit.heat_map("one.onnx", path, device="cpu"),
    "heat_maps": lambda path: cnnkit.heat_maps(path, "photos", device="cpu"),
    "heat_maps of images": lambda path: [*cnnkit.heat_maps("one.onnx", iter([path]), device="cpu")],
    "layer_dims": lambda path: cnnkit.layer_dims(f"@{path}", input=(9, 9, 3)),
    "network_dims": cnnkit.network_dims,
    "find_images": cnnkit.find_images,
    "read_features": cnnkit.read_features,
    "read_header": cnnkit.read_header,
    "read_history": cnnkit.read_history,
    "read_manifest": cnnkit.read_manifest,
    "read_predictions": cnnkit.read_predictions,
    "write_features": lambda path: cnnkit.write_features(path, cnnkit.read_features("train.npy")),
    "write_manifest": lambda path: cnnkit.write_manifest(path, []),
    "write_predictions": lambda path: cnnkit.write_predictions(path, []),
}


#: An option of a command, long or short, except those of a command that is proposed.
OPTION = re.compile(r"^(?!.*\bcnn-[a-z-]+ [^;,.()]*-)(.*\s)?--?[a-zA-Z]")


@pytest.mark.parametrize("name", WITH_A_PATH)
def test_every_error_about_a_file_is_of_cnnkit(name, folder, tmp_path):
    """For a file that is missing, of another kind, or a folder: one line that names it, with all suffixes of models and tables."""
    call = WITH_A_PATH[name]
    for suffix in ("", ".onnx", ".pt", ".npy", ".tsv", ".csv", ".json", ".png"):
        (tmp_path / f"folder{suffix}").mkdir()
        (tmp_path / f"other{suffix}").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0 not this kind \xff\n")
        for path in (tmp_path / f"missing{suffix}", tmp_path / f"folder{suffix}", tmp_path / f"other{suffix}"):
            if path.stem in ("missing", "other") and name.startswith("write_"):
                path = path / "in no folder.tsv" if name != "write_features" else path / "in no folder.npy"
            elif path.stem == "other" and name == "find_images" and suffix not in (".tsv", ".csv"):
                continue  # images are opened later
            with pytest.raises(cnnkit.CnnkitError) as caught:
                call(str(path))
            message = str(caught.value)
            assert path.stem in message or path.parent.stem in message, message
            assert "\n" not in message
            assert not OPTION.search(message), message


def test_every_public_function_with_a_path_is_tested():
    named = {each.partition(" ")[0].partition(".")[0] for each in WITH_A_PATH}
    functions = {name for name in cnnkit.__all__ if inspect.isfunction(getattr(cnnkit, name))}
    assert functions - named == {"total_dims"}
    called = [getattr(cnnkit, name) for name in functions]
    called += [Classifier.__init__, cnnkit.FeatureExtractor.__init__, cnnkit.HeatMap.overlay, Classifier.stream]
    assert all(hasattr(each, "__wrapped__") for each in called)  # by `public`


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: cnnkit.heat_map("one.onnx", RED, target="green"),
            '^target="green": not a class of the model; it has blue, red; or give top, true or all$',
        ),
        (
            lambda: cnnkit.heat_map("one.onnx", np.zeros((9, 9, 3), np.uint8), target="true"),
            '^image 0: no label, which target="true" needs',
        ),
        (lambda: cnnkit.heat_map("one.onnx", RED, layer="pool1"), "^one.onnx: layer does not work for an exported"),
        (lambda: cnnkit.heat_map("one.onnx", RED).overlay(colormap="vidiris"), '^colormap: no colour map "vidiris"'),
        (
            lambda: Classifier("one.onnx", views=3),
            '^views=3 needs tta, as in tta="crop 0.9, hflip"$',
        ),
        (
            lambda: Classifier("one.onnx", vote="hard"),
            '^vote="hard" needs several models or views; give a second model, or tta$',
        ),
        (lambda: Classifier("one.onnx", tta="hflip", crops=5), "^tta and crops both define the views"),
        (lambda: Classifier("one.onnx", device="gpu"), '^device="gpu": give auto, cpu, cuda or cuda:N$'),
        (
            lambda: cnnkit.FeatureExtractor("resnet18", layers="conv 8 k3"),
            "^give either backbone or layers$",
        ),
        (
            lambda: cnnkit.FeatureExtractor(**LIKE_BACKBONE | {"fit": "pad"}, resize=20),
            '^resize needs fit="crop"; fit="pad" resizes directly to size$',
        ),
        (lambda: cnnkit.find_images("photos", split="a/b"), '^split="a/b": give the name of one split'),
        (lambda: cnnkit.find_images(RED, split="val"), "has no split val; split needs a manifest or a folder$"),
        (lambda: cnnkit.layer_dims("", input=(9, 9, 3)), "^layers is empty"),
        (lambda: cnnkit.layer_dims("flatten, conv 8 k3", input=(4, 4, 2)), r"as in input=\(224, 224, 3\)$"),
        (
            lambda: cnnkit.write_features("out/my x.npz", cnnkit.read_features("train.npy")),
            '^out/my x.npz: features .* next to it; give path="out/my x.npy"$',
        ),
        (lambda: cnnkit.heat_map(bare(), RED), "; give a bare state_dict as weights, and its network by name, or make"),
        (lambda: cnnkit.read_header(bare()), "no cnnkit header in it; make a model with cnn-train-head$"),
        (lambda: cnnkit.read_history(RED), "a figure, not a training history$"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_messages_name_parameters_instead_of_options(make, message, folder):
    with pytest.raises(cnnkit.CnnkitError, match=message):
        make()


def bare():
    """Write a state_dict without a header."""
    import torch

    torch.save({"weight": torch.zeros(2)}, "bare.pt")
    return "bare.pt"


@pytest.mark.parametrize("name", ["c--split.png", "no --split val.png", "x -o y --split.png", "cnn-cam --split.png"])
def test_file_names_in_messages_stay(name, folder, tmp_path, caplog):
    """Given, found in a folder, or yielded by an iterator; in errors and in notices."""
    classifier = Classifier("one.onnx", device="cpu")
    with pytest.raises(cnnkit.CnnkitError) as caught:
        classifier.predict(name)
    assert str(caught.value).startswith(f"{name}: no such image")
    path = tmp_path / "in --split val" / name
    path.parent.mkdir()
    path.write_bytes(Path(RED).read_bytes()[:200])
    for images in (path, [str(path)], path.parent, iter([path]), cnnkit.find_images(path)):
        with pytest.raises(cnnkit.BadImageError) as caught:
            classifier.predict(images)
        assert str(caught.value).startswith(f"{path}: ")
        assert len([*classifier.stream(iter([path]), errors="skip")]) == 0
    assert {record.getMessage().partition(": ")[0] for record in caplog.records if record.levelname == "WARNING"} == {
        str(path)
    }


def test_options_of_a_proposed_command_stay():
    message = "drop --size, or export it with cnn-export --size 9; --fit pad has no effect with --window"
    assert calls.in_python(message, {"size", "fit"}) == (
        'drop size, or export it with cnn-export --size 9; fit="pad" has no effect with --window'
    )


def test_there_is_no_command_to_run_again():
    message = "a.tar has changed while it was read; run the command again when no other program writes to it"
    expected = "a.tar has changed while it was read; find its images again when no other program writes to it"
    assert calls.in_python(message, {"images"}) == expected


def test_remedies_are_those_of_python(folder, tmp_path, caplog, monkeypatch):
    """Where only a command has the option that is proposed."""
    image = Image.open(RED)
    for name in ("train", "val"):
        (tmp_path / "two" / name).mkdir(parents=True)
        image.save(tmp_path / "two" / name / "0.png")
    with caplog.at_level("INFO", logger="cnnkit"):
        assert {each.label for each in cnnkit.find_images(tmp_path / "two")} == {None}
    remedy = 'to read the folders as classes, pass find_images(..., folders="classes")'
    assert [record.getMessage().partition("; ")[2] for record in caplog.records] == [remedy]
    found = cnnkit.find_images(tmp_path / "two", folders="classes")
    assert {each.label for each in found} == {"train", "val"}
    classifier = Classifier("one.onnx", device="cpu")
    monkeypatch.setattr(decode, "_most_pixels", 9)
    with pytest.raises(cnnkit.BadImageError, match=r"at most 9; open it with Pillow and pass that image$"):
        classifier.predict(RED)
    assert len(classifier.predict(image)) == 1
    with pytest.raises(cnnkit.UsageError, match="preprocessing and classes; run cnn-predict, which takes both as opt"):
        Classifier("foreign.onnx", device="cpu")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "mine.txt"),
        MemoryError("mine"),
        RuntimeError("CUDA error: out of memory"),
        cnnkit.BadImageError("mine --split val"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_functions_and_iterators_of_the_caller_pass_unchanged(error, folder):
    before = error.args

    def stop(_done, _total):
        raise error

    def images():
        yield RED
        raise error

    class Lazy(list):
        def __iter__(self):
            return images()

    classifier = Classifier("one.onnx", device="cpu")
    extractor = cnnkit.FeatureExtractor(device="cpu", **LIKE_BACKBONE)
    for call in (
        lambda: classifier.predict(RED, progress=stop),
        lambda: extractor.extract(RED, progress=stop),
        lambda: [*cnnkit.heat_maps("one.onnx", RED, device="cpu", progress=stop)],
        lambda: classifier.predict(images()),
        lambda: classifier.predict(images(), errors="skip"),
        lambda: classifier.predict(Lazy([RED])),
        lambda: [*classifier.stream(images())],
        lambda: extractor.extract(images()),
        lambda: [*cnnkit.heat_maps("one.onnx", images(), device="cpu")],
        lambda: cnnkit.find_images(images()),
        lambda: cnnkit.write_manifest("failed.tsv", (cnnkit.read_manifest("split.tsv")[0] for _ in images())),
        lambda: cnnkit.write_predictions(
            "failed.tsv", (row for _ in images() for row in classifier.predict(RED)[0].top())
        ),
    ):
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value is error
        assert error.args == before
    assert not Path("failed.tsv").exists()


def test_errors_after_one_of_the_caller_are_their_own(folder):
    """While the caller handles an exception of its own iterator."""

    def images():
        yield RED
        raise ValueError("mine")

    classifier = Classifier("one.onnx", device="cpu")
    try:
        classifier.predict(images())
    except ValueError:
        with pytest.raises(cnnkit.CnnkitError, match=r"^missing\.png: no such"):
            classifier.predict("missing.png")


# ---------------------------------------------------------------- features, heat maps, layers


def test_features_are_those_of_the_command(folder, shell, tmp_path):
    shell(f"cnn-extract split.tsv --split val -o '{tmp_path}/command.npy' {BACKBONE} --device cpu", cwd=folder)
    found = cnnkit.extract_features("split.tsv", split="val", device="cpu", **LIKE_BACKBONE)
    assert found.values.shape == (8, 8)
    assert found.labels == ["blue"] * 4 + ["red"] * 4
    cnnkit.write_features(tmp_path / "python.npy", found)
    for suffix in (".npy", ".tsv", ".json"):
        assert (tmp_path / f"python{suffix}").read_bytes() == (tmp_path / f"command{suffix}").read_bytes(), suffix
    again = cnnkit.read_features(tmp_path / "python.npy")
    assert np.array_equal(again.values, found.values)
    assert again.header == found.header == cnnkit.read_header(tmp_path / "python.npy")
    assert [Path(row.path).samefile(other.path) for row, other in zip(again.rows, found.rows, strict=True)] == [
        True
    ] * 8


def test_a_backbone_is_loaded_once_for_several_calls(folder):
    """Maps instead of vectors, of float16, by torch as by ONNX Runtime, of files as of images in memory."""
    extractor = cnnkit.FeatureExtractor(pool="none", device="cpu", **LIKE_BACKBONE)
    paths = [image.path for image in cnnkit.find_images("photos")][:3]
    maps = extractor.extract(paths).values
    assert maps.shape == (3, 8, 8, 8)
    assert np.array_equal(extractor.extract([Image.open(path) for path in paths]).values, maps)
    assert extractor.header.backbone.layer == "pool1"
    other = cnnkit.FeatureExtractor(pool="none", device="cpu", dtype="float16", engine="torch", **LIKE_BACKBONE)
    assert other.extract(paths).values == pytest.approx(maps, abs=1e-2)
    assert other.extract(paths).values.dtype == np.float16
    with pytest.raises(cnnkit.CnnkitError, match="no image"):
        extractor.extract([])


def test_a_large_file_is_decoded_at_a_reduced_size(folder, tmp_path):
    """As by the commands, unless decoding is full, as that of an image in memory always is."""
    path = tmp_path / "large.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((400, 300), Image.Resampling.BICUBIC).save(path)
    values = {
        decoding: [
            cnnkit.FeatureExtractor(decoding=decoding, device="cpu", **LIKE_BACKBONE).extract([image]).values
            for image in (path, Image.open(path))
        ]
        for decoding in (None, "full")
    }
    of_file, in_memory = values["full"]
    assert np.array_equal(of_file, in_memory)
    assert np.array_equal(values[None][1], in_memory)
    assert not np.array_equal(values[None][0], of_file)
    assert values[None][0] == pytest.approx(of_file, abs=0.05)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("one.onnx", {}, ""),
        ("one.pt", {"target": ["top", "blue"], "method": "gradcam++"}, "--class top --class blue --method gradcam++"),
        ("one.pt", {"target": "true", "contrast": True, "size": 24}, "--class true --contrast --size 24"),
    ],
    ids=["onnx", "two classes", "contrast"],
)
def test_heat_maps_are_those_of_the_command(model, options, words, folder, shell, tmp_path):
    line = f"cnn-cam -m {model} photos -o '{tmp_path}/maps' --raw --box 0.5 --json --device cpu {words}"
    records = [json.loads(line) for line in shell(line, cwd=folder).out.splitlines()]
    maps = [*cnnkit.heat_maps(model, "photos", device="cpu", **options)]
    assert len(maps) == len(records) >= 16
    for found, record in zip(maps, records, strict=True):
        told = (found.path, found.label, found.target, found.probability)
        assert told == (record["path"], record["label"], record["class"], record["probability"])
        assert np.array_equal(found.values, np.load(f"{record['overlay']}.map.npy"))
        assert np.array_equal(found.pixels(), np.load(f"{record['overlay']}.pixels.npy"))
        with Image.open(record["overlay"]) as drawn:
            assert np.array_equal(found.overlay(box=0.5), drawn)
        assert found.box(0.5) == (record["box"] and Box.parse(record["box"]).edges)
        assert found.peak() == (record["peak"] and tuple(record["peak"]))


def test_heat_maps_report_what_the_command_reports(folder, shell, caplog):
    """Notices with the parameters' names; progress; and a missing true class."""
    words = "photos 'turned round.png' --class true --class blue --sheet sheet.png"
    Image.new("RGB", (30, 40)).save("turned round.png")
    printed = shell(f"cnn-cam -m one.onnx {words} --device cpu", cwd=folder).err
    done = []
    with caplog.at_level("INFO", logger="cnnkit"):
        maps = cnnkit.heat_maps(
            "one.onnx",
            ["photos", "turned round.png"],
            target=["true", "blue"],
            device="cpu",
            progress=lambda *numbers: done.append(numbers),
        )
        assert len([*maps]) == 8 + 2 * 8 + 1
    assert done == [(number, 17) for number in range(1, 18)]
    notices = [record.getMessage() for record in caplog.records]
    assert [f"cnn-cam: {each}".replace('target="true"', "--class true") for each in notices] == printed.splitlines()
    assert 'no map of target="true" for 1 image without a label' in " ".join(notices)


def test_a_heat_map_of_an_image_in_memory(folder):
    path = "photos/red/0 red.png"
    one = cnnkit.heat_map("one.onnx", path, device="cpu")
    with Image.open(path) as image:
        other = cnnkit.heat_map("one.onnx", np.asarray(image), device="cpu", target="red")
    assert np.array_equal(cnnkit.heat_map("one.onnx", path, device="cpu", target="red").values, other.values)
    assert (one.path, other.path) == (path, "image 0")
    assert other.overlay(colormap="viridis", alpha=0.3).size == (36, 24)


def test_an_image_in_memory_is_in_no_class_folder(folder, monkeypatch):
    """Its true class is unknown, also in a current folder that has the name of a class."""
    network = os.path.abspath("one.onnx")
    monkeypatch.chdir("photos/red")
    with pytest.raises(cnnkit.BadImageError, match="no label"):
        cnnkit.heat_map(network, np.zeros((24, 36, 3), np.uint8), device="cpu", target="true")
    assert cnnkit.heat_map(network, "0 red.png", device="cpu", target="true").target == "red"


def test_layer_arithmetic_is_that_of_the_command(folder, shell):
    layers = "conv 32 k3 s2 relu, pool 2, flatten, dense 10 softmax"
    line = f'cnn-dims --input 64,48,3 --layers "{layers}" --batch 4 --dtype float16 --json'
    records = [json.loads(line) for line in shell(line, cwd=folder).out.splitlines()]
    rows = cnnkit.layer_dims(layers, input=(64, 48, 3), batch=4, dtype="float16")
    assert [asdict(row) for row in (*rows, cnnkit.total_dims(rows))] == records
    assert rows[0].shape == (31, 23, 32)
    with pytest.raises(cnnkit.UsageError, match="no layers"):
        cnnkit.total_dims([])


@pytest.mark.parametrize(
    ("network", "options", "words"),
    [("one.onnx", {}, ""), (Path("one.pt"), {}, ""), ("squeezenet1_1", {"input": (64, 64, 3)}, "--input 64,64,3")],
    ids=["onnx", "pt", "name"],
)
def test_dims_of_networks_are_those_of_the_command(network, options, words, folder, shell):
    records = [json.loads(line) for line in shell(f"cnn-dims {network} {words} --json", cwd=folder).out.splitlines()]
    rows = cnnkit.network_dims(network, **options)
    assert [asdict(row) for row in (*rows, cnnkit.total_dims(rows))] == records


# ---------------------------------------------------------------- files


def test_a_manifest_is_written_as_it_was_read(folder, tmp_path):
    rows = cnnkit.read_manifest("split.tsv")
    assert {row.split for row in rows} == {"train", "val"}
    cnnkit.write_manifest("again.tsv", rows)
    assert Path("again.tsv").read_bytes() == Path("split.tsv").read_bytes()
    cnnkit.write_manifest(tmp_path / "elsewhere.tsv", rows)
    found = cnnkit.read_manifest(tmp_path / "elsewhere.tsv")
    assert all(Path(row.path).samefile(other.path) for row, other in zip(found, rows, strict=True))
    images = cnnkit.find_images([tmp_path / "elsewhere.tsv"], split="val")
    assert {(image.label, image.split) for image in images} == {("red", "val"), ("blue", "val")}


def test_headers_and_histories_are_read(folder):
    kinds = [cnnkit.read_header(name).kind for name in ("train.npy", "one.pt", "one.onnx")]
    assert kinds == ["features", "model", "onnx"]
    assert cnnkit.read_header("one.onnx").classes == ("blue", "red")
    assert [row.epoch for row in cnnkit.read_history("one.csv")] == [1, 2]


def test_features_of_images_in_memory_keep_their_names(folder, tmp_path, shell):
    """`image N`, also in another folder; a file of that name is a file."""
    arrays = [np.full((24, 36, 3), tint, np.uint8) for tint in (0, 90, 200)]
    found = cnnkit.extract_features([*arrays, RED], device="cpu", **LIKE_BACKBONE)
    names = ["image 0", "image 1", "image 2"]
    assert [row.path for row in found.rows] == [*names, RED]
    for place in (tmp_path, Path()):
        cnnkit.write_features(place / "memory.npy", found)
        lines = (place / "memory.tsv").read_text().splitlines()
        assert [line.partition("\t")[0] for line in lines][1:4] == names
        again = cnnkit.read_features(place / "memory.npy")
        assert np.array_equal(again.values, found.values)
        assert [row.path for row in again.rows[:3]] == names
        assert Path(again.rows[3].path).samefile(RED)
    (tmp_path / "image 1").touch()
    again = cnnkit.read_features(tmp_path / "memory.npy")
    assert [row.path for row in again.rows[:3]] == ["image 0", str(tmp_path / "image 1"), "image 2"]


#: Maps of odd sizes: an image has other last bits in another row of its batch.
VARIANT = {"layers": "conv 5 k3 s2 same relu, pool 2, conv 7 k3 bn relu", "weights": "none", "size": 20}


def test_shares_of_features_are_written_as_one(folder, shell, tmp_path):
    """The files of cnn-extract, byte by byte: an image has its row of the batch; a share may be empty."""
    words = " ".join(f"--{name} '{value}'" for name, value in VARIANT.items())
    shell(f"cnn-extract photos -o '{tmp_path}/command.npy' {words} --batch 4 --device cpu", cwd=folder)
    extractor = cnnkit.FeatureExtractor(device="cpu", batch=4, **VARIANT)
    for count in (5, 18):
        parts = (extractor.extract("photos", shard=f"{number}/{count}") for number in range(1, count + 1))
        cnnkit.write_features(tmp_path / "python.npy", parts)
        for suffix in (".npy", ".tsv", ".json"):
            assert (tmp_path / f"python{suffix}").read_bytes() == (tmp_path / f"command{suffix}").read_bytes(), suffix


def test_refuses_features_that_do_not_belong_together(folder, tmp_path):
    found = cnnkit.read_features("train.npy")
    others = {
        "part 1 is float32 of shape": cnnkit.Features(found.values[:, :3], found.rows, found.header),
        "part 1 has another header than part 0": cnnkit.Features(
            found.values, found.rows, found.header.but(training={"views": 1})
        ),
        "part 1: rows": None,
    }
    for message, other in others.items():
        with pytest.raises(cnnkit.UsageError if other else ZeroDivisionError, match=message if other else "mine"):
            cnnkit.write_features(tmp_path / "both.npy", iter_parts(found, other))
    with pytest.raises(cnnkit.UsageError, match="no features to write"):
        cnnkit.write_features(tmp_path / "both.npy", [])
    assert not (tmp_path / "both.npy").exists()


def iter_parts(first, second):
    yield first
    if second is None:
        raise ZeroDivisionError("mine")
    yield second


def test_features_need_a_row_for_each_value(folder, tmp_path):
    found = cnnkit.read_features("train.npy")
    short = cnnkit.Features(found.values, found.rows[:-1], found.header)
    with pytest.raises(cnnkit.UsageError, match="8 rows of values, but 7 images"):
        cnnkit.write_features(tmp_path / "short.npy", short)


@pytest.mark.parametrize(("dtype", "shape"), [("int64", (8, -1)), ("float32", (8, 1, -1)), ("complex64", (8, -1))])
def test_writes_no_features_that_it_would_not_read(dtype, shape, folder, tmp_path):
    found = cnnkit.read_features("train.npy")
    other = cnnkit.Features(found.values.astype(dtype).reshape(shape), found.rows, found.header)
    with pytest.raises(cnnkit.UsageError, match=rf"values of {dtype} and shape .*; give float16, float32 or float64"):
        cnnkit.write_features(tmp_path / "other.npy", other)
    assert not [*tmp_path.iterdir()]
