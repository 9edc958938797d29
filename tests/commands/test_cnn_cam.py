"""cnn-cam: overlays, records and sheets, with torch and without; error messages."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import weakref
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from cnnkit.choices import CamMethod, Fit, Pool
from cnnkit.data import preprocessing, source
from cnnkit.explain import cam, cam_run
from cnnkit.explain.cam_methods import METHODS
from cnnkit.explain.config import CamOptions, InputOptions, RenderOptions
from cnnkit.formats import picture_style, torch_model
from cnnkit.formats.box import Box
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones, graph_centres
from cnnkit.nets import classifier as classifiers

CPU = ("--device", "cpu")
FIELDS = ["path", "label", "probability", "class", "overlay", "box", "peak", "maximum"]
GREY, RED, BLUE = (128, 128, 128), (255, 0, 0), (0, 0, 255)


def write_model(
    name,
    *,
    head="dense 2 softmax",
    classes=("blue", "red"),
    layers="conv 2 k1 relu",
    pool=Pool.AVG,
    weights=None,
    **changes,
):
    """Write a model with two channels, red and blue, and a head that uses one for each class."""
    extractor, backbone, preprocess = backbones.by_notation(layers, size=16, seed=0, pool=pool)
    preprocess = replace(preprocess, **changes)
    shape = classifiers.feature_shape(
        classifiers.Extractor(extractor, preprocess=preprocess, pool=backbone.pool).eval(), preprocess
    )
    made = classifiers.build_head(head, shape)
    with torch.no_grad():
        next(iter(extractor.parameters())).copy_(torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]])[:, :, None, None])
        for parameter in made.parameters():
            parameter.zero_()
        first = next(iter(made.parameters()))
        first.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]])[-len(first) :] if weights is None else weights)
    header = Header(ArtefactKind.MODEL, classes, preprocess, backbone, head, {"command": "cnn-train-head"})
    state = {f"base.{key}": value for key, value in extractor.state_dict().items()}
    state |= {f"head.{key}": value for key, value in made.state_dict().items()}
    torch_model.save(name, TorchModel(header, state))


def write_image(path, *, size=(64, 32), red=(8, 8, 24, 16), blue=(40, 4, 48, 12)):
    """Write a grey image with a red and a blue rectangle (left, top, right, bottom)."""
    image = Image.new("RGB", size, GREY)
    for box, colour in ((red, RED), (blue, BLUE)):
        if box is not None:
            image.paste(colour, box)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({"quality": 95, "subsampling": 0} if str(path).endswith("jpg") else {}))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with model.pt, and photos of two classes in three formats."""
    monkeypatch.chdir(tmp_path)
    write_model("model.pt")
    write_image("photos/blue/1.png", red=None)
    write_image("photos/blue/deep/1.jpg", red=None)
    write_image("photos/red/2.gif", blue=None)
    write_image("photos/red/3.png", blue=None, size=(40, 56), red=(20, 28, 30, 42))
    return tmp_path


@pytest.fixture(scope="module")
def exported(tmp_path_factory, made):
    """A folder with model.pt and any.pt exported, the second for images of any size."""
    folder = tmp_path_factory.mktemp("exported")
    write_model(folder / "model.pt")
    write_model(folder / "any.pt", layers="conv 2 k1 relu, avgpool 3 s1 same")
    write_model(
        folder / "strided.pt", layers="conv 2 k1 s4 same relu"
    )  # whose padding the graph computes from the size
    return made(
        ("cnn-export", "strided.pt", "-o", "strided.onnx", "--cam", "--dynamic-size", *CPU),
        ("cnn-export", "model.pt", "-o", "model.onnx", "--cam", *CPU),
        ("cnn-export", "any.pt", "-o", "any.onnx", "--cam", "--dynamic-size", *CPU),
        folder=folder,
    )


def boxes(row):
    """Left, top, right, bottom."""
    return [int(edge) for edge in Box.parse(row["box"]).edges] if row["box"] else None


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int64)


# ---------------------------------------------------------------- output files


def test_one_overlay_per_image(run, here):
    """With its name, class folder, size and format; peak and box of the record lie on the coloured rectangle."""
    outcome = run("cnn-cam", "-m", "model.pt", "photos", "-o", "maps", "--box", "0.5", *CPU)
    assert list(outcome.rows[0]) == FIELDS
    expected = {
        "photos/blue/1.png": ("maps/blue/1.png", "PNG", [40, 4, 48, 12]),
        "photos/blue/deep/1.jpg": ("maps/blue/deep/1.jpg", "JPEG", [40, 4, 48, 12]),
        "photos/red/2.gif": ("maps/red/2.gif.png", "PNG", [8, 8, 24, 16]),
        "photos/red/3.png": ("maps/red/3.png", "PNG", [20, 28, 30, 42]),
    }
    assert [row["path"] for row in outcome.rows] == list(expected)
    for row in outcome.rows:
        overlay, kind, region = expected[row["path"]]
        label = row["path"].split("/")[1]
        assert (row["label"], row["class"], row["overlay"]) == (label, label, overlay)
        with Image.open(overlay) as drawn, Image.open(row["path"]) as original:
            assert (drawn.size, drawn.format) == (original.size, kind)
            cell = (original.width / 16, original.height / 16)
        # The network squashes images to 16 x 16: the size of a cell in pixels, within which a box may end
        assert np.abs(np.array(boxes(row)) - region).max() <= max(cell)
        x, y = json.loads(row["peak"])
        assert region[0] <= x < region[2]
        assert region[1] <= y < region[3]
        assert float(row["maximum"]) > 0
    assert sorted(str(path) for path in Path("maps").rglob("*.*")) == sorted(
        overlay for overlay, _, _ in expected.values()
    )
    assert outcome.err.splitlines() == ["cnn-cam: maps of conv1, 16x16"]


def test_names_of_maximum_length_are_shortened(run, here):
    """Names of overlays and arrays are shortened and made unique by a hash, also for two with the same beginning."""
    names = ["n" * 251 + ".png", "n" * 250 + "m.png"]
    Path("long").mkdir()
    for name in names:
        shutil.copy("photos/red/3.png", f"long/{name}")
    outcome = run("cnn-cam", "-m", "model.pt", "long", "-o", "maps", "--raw", "--class", "red", "--class", "blue", *CPU)
    assert len({row["overlay"] for row in outcome.rows}) == len(outcome.rows) == 4
    assert len(os.listdir("maps")) == 12
    assert all(os.path.exists(f"{row['overlay']}{ending}") for row in outcome.rows for ending in ("", ".pixels.npy"))


def test_maximum_of_a_map_worked_example(run, here):
    """One dense layer after the mean of 16 x 16 pixels: Grad-CAM is the channel times the weight, divided by 256."""
    run("cnn-cam", "-m", "model.pt", "photos/red/3.png", "-o", "maps", "--raw", *CPU)
    found, spread = np.load("maps/3.png.map.npy"), np.load("maps/3.png.pixels.npy")
    assert (found.dtype, found.shape, spread.dtype, spread.shape) == (np.float32, (16, 16), np.float32, (56, 40))
    preprocess = torch_model.load("model.pt").header.preprocess
    prepared = preprocessing.load("photos/red/3.png", preprocess) / 255 * 2 - 1
    bias = float(torch_model.load("model.pt").state["base.conv1.bias"][0])
    expected = np.maximum(prepared @ [1, -1, -1] + bias, 0) / 256
    np.testing.assert_allclose(found, expected, atol=1e-6)
    wide = torch.nn.functional.interpolate(torch.from_numpy(found)[None, None], (56, 40), mode="bilinear")[0, 0]
    np.testing.assert_allclose(spread, wide, atol=1e-6)


@pytest.mark.parametrize("kind", ["pt", "onnx"])
@pytest.mark.parametrize("size", [16, 32])
def test_cell_is_drawn_at_its_receptive_field(run, here, exported, kind, size):
    """Cells of a stride of 4 are at 0, 4, 8 and 12 of 16 pixels without padding, and do not tile the image.

    The square lies about pixel 4, which is 16 to 20 of the image's 64: the peak is at 18, and the map halves half a step from there.
    """
    model = exported / f"strided.{kind}"
    step = 64 * 4 / size
    low = round(64 / size * 4.5 - 6), round(64 / size * 4.5 + 6)
    write_image("square.png", size=(64, 64), red=(low[0], low[0], low[1], low[1]), blue=None)
    words = ("--class", "red", "--box", "0.5", "--raw", "--size", size, "-o", "maps", *CPU)
    (row,) = run("cnn-cam", "-m", model, "square.png", *words).rows
    middle = 64 / size * 4.5  # the second cell, in pixels of the image
    assert json.loads(row["peak"]) == [int(middle)] * 2
    found, spread = np.load("maps/square.png.map.npy"), np.load("maps/square.png.pixels.npy")
    assert found.shape == (size // 4, size // 4)
    assert np.unravel_index(found.argmax(), found.shape) == (1, 1)
    around = int(min(middle, step))
    centre = int(middle)
    np.testing.assert_allclose(
        spread[centre : centre + around, centre], spread[centre - around : centre, centre][::-1], atol=1e-5
    )
    left, top, right, bottom = boxes(row)
    assert ((left + right) / 2, (top + bottom) / 2) == (middle, middle)
    assert (right - left) == pytest.approx(step, abs=1)


def test_where_centres_are_unknown_cells_tile_the_image(run, here, exported, monkeypatch):
    """With a notice: the second of four cells of an exported network is at 24 of 64 pixels, not at 18."""
    monkeypatch.setattr(graph_centres, "centres_of", lambda *_, **__: None)
    write_image("square.png", size=(64, 64), red=(12, 12, 24, 24), blue=None)
    outcome = run("cnn-cam", "-m", exported / "strided.onnx", "square.png", "--class", "red", *CPU)
    assert json.loads(outcome.rows[0]["peak"]) == [24, 24]
    assert "the cells of maps are drawn as equal tiles" in outcome.err


@pytest.mark.parametrize("fit", [Fit.CROP, Fit.PAD])
def test_map_covers_the_input_of_the_network(run, here, fit):
    """Outside of the crop the overlay equals the image and the array is zero; also for a padded image."""
    write_model("other.pt", fit=fit, resize=16 if fit is Fit.PAD else 20)
    outcome = run(
        "cnn-cam", "-m", "other.pt", "photos/red/2.gif", "-o", "maps", "--raw", "--box", "0.5", "--alpha", "0.9", *CPU
    )
    # 64x32: the crop is the middle 16 of 40 columns and of 20 rows; red lies at 8 to 24, the crop begins at 19.2
    drawn, original = pixels("maps/2.gif.png"), pixels("photos/red/2.gif")
    spread = np.load("maps/2.gif.png.pixels.npy")
    left, top, right, bottom = (19, 3, 45, 29) if fit is Fit.CROP else (0, 0, 64, 32)
    inside = np.zeros((32, 64), dtype=bool)
    inside[top:bottom, left:right] = True
    assert (np.abs(drawn - original).sum(2) > 0)[inside].all()
    assert (drawn == original)[~inside].all()
    assert (spread[~inside] == 0).all()
    (row,) = outcome.rows
    expected = [19, 8, 24, 16] if fit is Fit.CROP else [8, 8, 24, 16]
    cell = 1.6 if fit is Fit.CROP else 4
    assert np.abs(np.array(boxes(row)) - expected).max() <= cell + 1


def test_alpha_and_colormap_options(run, here):
    """With --alpha 1 a pixel has the colour of its share of the largest value; with 0 the overlay equals the image."""
    for colormap in ("inferno", "jet"):
        words = ("--alpha", "1", "--colormap", colormap, "--raw", "--force")
        run("cnn-cam", "-m", "model.pt", "photos/red/3.png", "-o", "maps", *words, *CPU)
        spread = np.load("maps/3.png.pixels.npy")
        table = (mpl.colormaps[colormap](np.arange(256) / 255)[:, :3] * 255).round()
        expected = table[(spread / spread.max() * 255).round().astype(int)]
        assert np.abs(pixels("maps/3.png") - expected).max() <= 1
    run("cnn-cam", "-m", "model.pt", "photos/red/3.png", "-o", "plain", "--alpha", "0", *CPU)
    np.testing.assert_array_equal(pixels("plain/3.png"), pixels("photos/red/3.png"))
    refused = run("cnn-cam", "-m", "model.pt", "photos", "-o", "maps", "--colormap", "infero", *CPU, status=2)
    assert refused.err == 'cnn-cam: --colormap: no colour map "infero"; did you mean inferno or inferno_r?\n'


def test_box_is_drawn_as_recorded(run, here):
    """White between two black lines, only on the box of the record."""
    words = ("--alpha", "0", "--box", "0.5")
    (row,) = run("cnn-cam", "-m", "model.pt", "photos/red/3.png", "-o", "maps", *words, *CPU).rows
    left, top, right, bottom = boxes(row)
    changed = np.abs(pixels("maps/3.png") - pixels("photos/red/3.png")).sum(2) > 0
    rows, columns = np.nonzero(changed)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)
    assert (pixels("maps/3.png")[top, left:right] == 0).all()
    assert (pixels("maps/3.png")[top + 1, left + 1 : right - 1] == 255).all()


def test_sheet_shows_all_images_and_classes(run, here):
    """Image and overlay side by side, without writing overlays."""
    run("cnn-cam", "-m", "model.pt", "photos", "--sheet", "sheet.png", "--class", "all", *CPU)
    with Image.open("sheet.png") as drawn:
        assert drawn.width > 3 * 160
        # Both classes of four images: the first of each cell is red or blue on grey, without any colour map
        colours = {colour for _, colour in drawn.getcolors(drawn.width * drawn.height)}
    assert {RED, BLUE, GREY, (255, 255, 255)} <= colours
    assert sorted(path.name for path in here.iterdir()) == ["model.pt", "photos", "sheet.png"]
    refused = run("cnn-cam", "-m", "model.pt", "photos", "--sheet", "sheet.jpg", *CPU, status=2)
    assert "--sheet sheet.jpg: the image is written as PNG" in refused.err


def test_file_pipe_and_stdin_give_the_same_output(run, here):
    """A folder, a manifest and a list on standard input give the same records and the same overlays."""
    listed = sorted(str(path) for path in Path("photos").rglob("*.*"))
    lines = ["path\tlabel", *(f"{path}\t{path.split('/')[1]}" for path in listed)]
    Path("list.tsv").write_text("\n".join(lines) + "\n")
    whole = run("cnn-cam", "-m", "model.pt", "photos", *CPU).out
    assert run("cnn-cam", "-m", "model.pt", "list.tsv", *CPU).out == whole
    assert run("cnn-cam", "-m", "model.pt", "-", *CPU, stdin="\n".join(listed) + "\n").out == whole
    run("cnn-cam", "-m", "model.pt", "photos", "-o", "one", *CPU)
    run("cnn-cam", "-m", "model.pt", "-", "-o", "two", *CPU, stdin="\n".join(lines) + "\n")
    one, two = (
        {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*.*")}
        for folder in ("one", "two")
    )
    assert len(one) == 4
    assert one == two


# ---------------------------------------------------------------- classes


def test_classes_by_name_label_or_all(run, here):
    """`probability` is that of the class of the map, whatever is predicted; overlays have the class in their names."""
    write_image("photos/red/both.png", blue=(40, 4, 60, 24))
    both = run(
        "cnn-cam", "-m", "model.pt", "photos/red/both.png", "-o", "maps", "--class", "all", "--box", "0.5", *CPU
    ).rows
    assert [(row["label"], row["class"], row["overlay"]) for row in both] == [
        ("blue", "blue", "maps/both~blue.png"), ("blue", "red", "maps/both~red.png"),
    ]  # fmt: skip
    assert sum(float(row["probability"]) for row in both) == pytest.approx(1)
    assert boxes(both[0])[0] >= 36
    assert boxes(both[1])[2] <= 28
    named = run("cnn-cam", "-m", "model.pt", "photos/red/both.png", "--class", "red", "--class", "top", *CPU).rows
    assert [row["class"] for row in named] == ["red", "blue"]
    assert float(named[0]["probability"]) == float(both[1]["probability"])
    once = run("cnn-cam", "-m", "model.pt", "photos/red/both.png", "--class", "blue", "--class", "top", *CPU).rows
    assert [row["class"] for row in once] == ["blue"]
    true = run("cnn-cam", "-m", "model.pt", "photos", "--class", "true", *CPU).rows
    assert [row["class"] for row in true] == [row["path"].split("/")[1] for row in true]
    assert ("red", "blue") in [(row["class"], row["label"]) for row in true]


def test_output_of_cnn_eval_worst_is_explained(run, here):
    """`--class true` is the column `truth`, not the wrong prediction in `label`; in a pipe and from a file."""
    lines = ["path\trank\tlabel\tprobability"]
    lines += [f"{path}\t1\tblue\t0.9" for path in ("photos/blue/1.png", "photos/red/2.gif", "photos/red/3.png")]
    worst = run("cnn-eval", "-", "--worst", "5", stdin="\n".join(lines) + "\n").out
    assert worst.splitlines()[0] == "path\ttruth\tlabel\tprobability"
    Path("worst.tsv").write_text(worst)
    words = ("cnn-cam", "-m", "model.pt", "--class", "true", "--sheet", "s.png", *CPU)
    piped, named = run(*words, "-", stdin=worst), run(*words, "worst.tsv")
    assert [(row["path"], row["class"]) for row in piped.rows] == [
        ("photos/red/2.gif", "red"),
        ("photos/red/3.png", "red"),
    ]
    assert piped.out == named.out


def test_true_class_of_a_plain_list_is_the_folder(run, here):
    """As in cnn-eval, the nearest one that is a class; an image below none gets only its other maps, if any."""
    shutil.copy("photos/red/3.png", "loose.png")
    listed = "photos/red/3.png\nloose.png\nphotos/blue/deep/1.jpg\n"  # photos/blue is a class, deep is not
    both = run("cnn-cam", "-m", "model.pt", "-", "--class", "true", "--class", "blue", *CPU, stdin=listed)
    assert [(row["path"], row["class"]) for row in both.rows] == [
        ("photos/red/3.png", "red"), ("photos/red/3.png", "blue"), ("loose.png", "blue"), ("photos/blue/deep/1.jpg", "blue"),
    ]  # fmt: skip
    assert (
        "no map of --class true for 1 image without a label that is a class of the model; the first is loose.png: no label"
        in both.err
    )
    alone = run("cnn-cam", "-m", "model.pt", "-", "--class", "true", *CPU, stdin=listed, status=3)
    assert [(row["path"], row["class"]) for row in alone.rows] == [
        ("photos/red/3.png", "red"),
        ("photos/blue/deep/1.jpg", "blue"),
    ]
    assert "loose.png: no label, which --class true needs" in alone.err


def test_sheet_names_the_true_class(run, here):
    """A wrong prediction is marked and written in red; images of unknown class have the prediction alone."""
    heights = {}
    for name in ("photos/red/3.png", "photos/blue/3.png", "none/3.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        if not Path(name).exists():
            shutil.copy("photos/red/3.png", name)
        run("cnn-cam", "-m", "model.pt", name, "--sheet", "s.png", *CPU)
        heights[name] = pixels("s.png")
    (right, wrong, unknown) = heights.values()
    assert wrong.shape == right.shape
    assert right.shape[0] == unknown.shape[0] + picture_style.LINE_HEIGHT
    ink = (wrong - [0xA0, 0x20, 0x20] == 0).all(2)
    assert ink.any()
    assert not (right - [0xA0, 0x20, 0x20] == 0).all(2).any()


def test_class_names_are_made_valid_file_names(run, here):
    """Spaces and slashes are replaced; classes that are then equal get numbers."""
    write_model("named.pt", classes=("a b", "a/b"))
    rows = run("cnn-cam", "-m", "named.pt", "photos/red/3.png", "-o", "maps", "--class", "all", "--raw", *CPU).rows
    assert [row["overlay"] for row in rows] == ["maps/3~a_b-0.png", "maps/3~a_b-1.png"]
    assert len(list(Path("maps").iterdir())) == 6
    lines = ["path\tlabel", "photos/red/3.png\ta/b", "photos/red/2.gif\ta b"]
    Path("list.tsv").write_text("\n".join(lines) + "\n")
    refused = run("cnn-cam", "-m", "named.pt", "list.tsv", "-o", "none", *CPU, status=1)
    assert "class 'a/b' cannot be the name of a folder" in refused.err
    assert not Path("none").exists()
    outcome = run("cnn-cam", "-m", "named.pt", "-", "-o", "some", *CPU, stdin="\n".join(lines) + "\n", status=3)
    assert [row["path"] for row in outcome.rows] == ["photos/red/2.gif"]


def test_rejects_unknown_class(run, here):
    """The message proposes the nearest name; with --class true an image without a label is skipped."""
    refused = run("cnn-cam", "-m", "model.pt", "photos", "--class", "read", *CPU, status=2)
    assert refused.err.endswith('--class "read": not a class of the model; did you mean red?\n')
    write_image("photos/green/1.png")
    write_image("photos/0.png")
    outcome = run("cnn-cam", "-m", "model.pt", "photos", "--class", "true", *CPU, status=3)
    assert len(outcome.rows) == 4
    said = "no label, which --class true needs; give class folders or a manifest; skipped"
    assert f"photos/0.png: {said}" in outcome.err
    assert "photos/green/1.png: its label green is not a class of the model" in outcome.err


def test_class_named_like_a_word_of_the_option(run, here):
    """The word keeps its meaning, with a notice; with the prefix `name:` it is the class."""
    write_model("words.pt", classes=("all", "top"))
    words = ("cnn-cam", "-m", "words.pt", "photos/red/3.png", *CPU)
    (plain,) = run(*words).rows
    outcome = run(*words, "--class", "top")
    assert outcome.rows == [plain]
    assert (
        'cnn-cam: --class top is the predicted class, not the class named "top"; for that give --class name:top'
        in outcome.err.splitlines()
    )
    for name in ("all", "top"):
        named = run(*words, "--class", f"name:{name}")
        assert [row["class"] for row in named.rows] == [name]
        assert "not the class" not in named.err
    assert "not the class" not in run(*words).err
    assert [row["class"] for row in run(*words, "--class", "name:top", "--class", "all").rows] == ["top", "all"]
    assert 'the class named "all"' in run(*words, "--class", "all").err
    assert "not a class of the model" in run(*words, "--class", "name:tip", status=2).err


def test_contrast_maps_the_evidence_against_a_class(run, here):
    """With a negative weight of blue for red, the contrast of red is at blue."""
    write_model("against.pt", weights=torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))
    write_image("both.png")
    for words, region in (((), (8, 24)), (("--contrast",), (40, 48))):
        (row,) = run("cnn-cam", "-m", "against.pt", "both.png", "--class", "red", "--box", "0.5", *words, *CPU).rows
        left, _, right, _ = boxes(row)
        assert region[0] - 4 <= left < right <= region[1] + 4
    for method in [method for method, computation in METHODS.items() if not computation.uses_gradients]:
        refused = run("cnn-cam", "-m", "against.pt", "both.png", "--contrast", "--method", method, *CPU, status=2)
        assert f"--contrast needs gradients, and {method} uses none" in refused.err


@pytest.mark.parametrize("method", CamMethod)
def test_every_method_finds_the_red_rectangle(run, here, method):
    """The peak is on the red rectangle."""
    (row,) = run("cnn-cam", "-m", "model.pt", "photos/red/3.png", "--method", method, *CPU).rows
    x, y = json.loads(row["peak"])
    assert 20 <= x < 30
    assert 28 <= y < 42


def test_help_describes_every_method(run, here):
    """Each value of `--method` has a line."""
    listed = run("cnn-cam", "--help").out.partition("Values of --method:\n")[2]
    assert [line.split()[0] for line in listed.splitlines()] == [str(method) for method in METHODS]
    assert [line.split(maxsplit=1)[1] for line in listed.splitlines()] == [each.help for each in METHODS.values()]


def test_map_of_zeros_is_reported(run, here):
    """Without evidence for the class the overlay equals the image, without box, peak and NaN; a notice says so."""
    write_image("photos/plain.png", red=None, blue=None)
    words = ("-o", "maps", "--class", "red", "--box", "0.5", "--raw", "--faithful")
    write_model("none.pt", weights=torch.zeros(2, 2))
    outcome = run("cnn-cam", "-m", "none.pt", "photos/plain.png", *words, *CPU)
    (row,) = outcome.rows
    assert (row["box"], row["peak"], float(row["maximum"])) == ("", "", 0)
    np.testing.assert_array_equal(pixels("maps/plain.png"), pixels("photos/plain.png"))
    assert not np.load("maps/plain.png.pixels.npy").any()
    said = "1 of 1 maps are zero everywhere, so nothing is drawn on the image; the first is that of red in photos/plain.png"
    assert said in outcome.err
    assert (row["deletion"], row["insertion"]) == ("", "")
    assert "mean of" not in outcome.err
    assert "nan" not in outcome.out.lower()


def test_a_single_sigmoid(run, here):
    """z is the score of the second class: with a negative weight, red is evidence for the first."""
    write_model("binary.pt", head="dense 1 sigmoid", weights=torch.tensor([[-1.0, 1.0]]))
    write_image("both.png")
    rows = run("cnn-cam", "-m", "binary.pt", "both.png", "--class", "all", "--box", "0.5", *CPU).rows
    assert [row["class"] for row in rows] == ["blue", "red"]
    assert boxes(rows[0])[2] <= 28
    assert boxes(rows[1])[0] >= 36


def test_image_with_nan_output_is_skipped(run, here, monkeypatch):
    """Each image is named; it is an error if all are skipped."""
    monkeypatch.setattr(cam, "class_probabilities", lambda logits, multi_label: torch.full((len(logits), 2), torch.nan))
    outcome = run("cnn-cam", "-m", "model.pt", "photos", "-o", "maps", *CPU, status=1)
    assert outcome.out == ""
    assert outcome.err.count("the network's output is not finite; skipped") == 4
    assert not Path("maps").exists()


# ---------------------------------------------------------------- layers and sizes


def test_layers_by_name_and_number(run, here):
    """By default the last spatial layer, named on stderr; a layer without height and width is refused, similar names are proposed."""
    head, weights = "dense 3 relu, dense 2 softmax", torch.eye(3)[:, :2]
    write_model("deep.pt", layers="conv 2 k1 relu, pool 2, dropout 0.5", head=head, weights=weights)
    for words, name in (
        ((), "pool1, 8x8"),
        (("--layer", "conv1"), "conv1, 16x16"),
        (("--layer", "0"), "conv1, 16x16"),
        (("--layer", "-1"), "pool1, 8x8"),
    ):
        outcome = run("cnn-cam", "-m", "deep.pt", "photos/red/3.png", *words, *CPU)
        assert outcome.err.splitlines()[0] == f"cnn-cam: maps of {name}"
    refused = run("cnn-cam", "-m", "deep.pt", "photos", "--layer", "head.dense1", *CPU, status=2)
    assert "head.dense1 of deep.pt has output 3, without height and width" in refused.err
    refused = run("cnn-cam", "-m", "deep.pt", "photos", "--layer", "conv2", *CPU, status=2)
    assert 'deep.pt has no layer "conv2"; did you mean conv1' in refused.err
    refused = run("cnn-cam", "-m", "deep.pt", "photos", "--layer", "7", *CPU, status=2)
    assert "deep.pt has 2 layers with maps, numbered from 0; there is no 7" in refused.err


def test_fine_maps_have_twice_the_rows(run, here):
    """Every second value equals the coarse map, up to the number of pixels that divides the gradient."""
    write_model("strided.pt", layers="conv 2 k1 relu, pool 2")
    for folder, words in (("coarse", ()), ("fine", ("--fine",))):
        run("cnn-cam", "-m", "strided.pt", "photos/red/3.png", "-o", folder, "--raw", *words, *CPU)
    coarse, fine = (np.load(f"{folder}/3.png.map.npy") for folder in ("coarse", "fine"))
    assert (coarse.shape, fine.shape) == ((8, 8), (16, 16))
    assert coarse.max() > 0
    np.testing.assert_allclose(4 * fine[::2, ::2], coarse, rtol=1e-4, atol=1e-7)


def test_size_option(run, here):
    """Larger and rectangular inputs; an error for a head of fixed size."""
    run("cnn-cam", "-m", "model.pt", "photos/red/3.png", "-o", "maps", "--raw", "--size", "28x20", *CPU)
    assert np.load("maps/3.png.map.npy").shape == (28, 20)
    write_model("flat.pt", layers="conv 2 k1 relu, pool 16", pool=Pool.FLATTEN, weights=torch.eye(2))
    refused = run("cnn-cam", "-m", "flat.pt", "photos", "--layer", "conv1", "--size", "64", *CPU, status=2)
    assert "flat.pt does not take images of 64x64" in refused.err
    refused = run("cnn-cam", "-m", "flat.pt", "photos", "--layer", "pool1", "--fine", *CPU, status=2)
    assert "--fine makes the maps of flat.pt larger, but its later layers take a single size" in refused.err
    refused = run("cnn-cam", "-m", "model.pt", "photos", "--size", "0", *CPU, status=2)
    assert '--size "0" is not a size' in refused.err


# ---------------------------------------------------------------- without torch


def test_an_exported_network_gives_the_same_maps(run, here):
    """CAM equals Zhou's sum to 1e-4, Grad-CAM and HiResCAM those of torch; also contrast, classes and overlays."""
    run("cnn-export", "model.pt", "-o", "model.onnx", "--cam", *CPU)
    for method in [method for method, computation in METHODS.items() if computation.has_closed_form]:
        for extra in ((), ("--contrast",)):
            words = ("--method", method, "--class", "all", "--raw", "--force", "--box", "0.3", *extra)
            ours = run("cnn-cam", "-m", "model.pt", "photos", "-o", "torch", *words, *CPU)
            theirs = run("cnn-cam", "-m", "model.onnx", "photos", "-o", "onnx", *words, *CPU)
            for one, other in zip(ours.rows, theirs.rows, strict=True):
                assert [one[each] for each in ("path", "label", "class", "box", "peak")] == [
                    other[each] for each in ("path", "label", "class", "box", "peak")
                ]
            for path in Path("torch").rglob("*.npy"):
                one, other = np.load(path), np.load("onnx" / path.relative_to("torch"))
                np.testing.assert_allclose(other, one, atol=1e-4 * max(one.max(), 1e-9))
    plain = run("cnn-cam", "-m", "model.onnx", "photos/red/3.png", "-o", "plain", "--raw", *CPU)
    run("cnn-cam", "-m", "model.pt", "photos/red/3.png", "-o", "other", "--raw", *CPU)
    np.testing.assert_allclose(np.load("plain/3.png.map.npy"), 256 * np.load("other/3.png.map.npy"), atol=1e-4)
    assert plain.err == "cnn-cam: maps of conv1\n"


def test_an_exported_network_needs_no_torch(here, exported):
    """Neither for maps nor for their faithfulness."""
    program = (
        "import sys\n"
        "from cnnkit_tools.cnn_cam import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    shutil.copy(exported / "model.onnx", here)
    words = ["-m", "model.onnx", "photos", "-o", "maps", "--faithful", "--sheet", "sheet.png"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] in ("None False", "0 False"), done.stderr


def test_rejects_options_that_an_exported_network_lacks(run, here):
    """The message has the reason, and the remedy."""
    run("cnn-export", "model.pt", "-o", "bare.onnx", *CPU)
    refused = run("cnn-cam", "-m", "bare.onnx", "photos", *CPU, status=2)
    assert "bare.onnx outputs no class activation maps; export it again with cnn-export --cam" in refused.err
    write_model("deep.pt", head="dense 3 relu, dense 2 softmax", weights=torch.eye(3)[:, :2])
    run("cnn-export", "deep.pt", "-o", "deep.onnx", *CPU)
    refused = run("cnn-cam", "-m", "deep.onnx", "photos", *CPU, status=2)
    assert "its head (dense 3 relu, dense 2 softmax) is not one dense layer after global average pooling" in refused.err
    assert "give the .pt it was made from" in refused.err
    run("cnn-export", "model.pt", "-o", "model.onnx", "--cam", *CPU)
    for words, said in (
        *(
            (("--method", method), f"--method {method} does not work for an exported network; give the .pt")
            for method, computation in METHODS.items()
            if not computation.has_closed_form
        ),
        (("--layer", "conv1"), "model.onnx: --layer does not work for an exported network; give the .pt"),
        (("--fine",), "model.onnx: --fine does not work for an exported network; give the .pt"),
        (("--size", "32"), "model.onnx takes only 16 x 16 pixels; export it again with cnn-export --dynamic-size"),
        (("--size", "16x20"), "model.onnx takes only 16 x 16 pixels"),
    ):
        assert said in run("cnn-cam", "-m", "model.onnx", "photos", *words, *CPU, status=2).err


# ---------------------------------------------------------------- large images


@pytest.fixture
def large(here, exported):
    """Noise of 200 x 150 pixels with a red square of 12, and model.onnx for any size."""
    noise = np.random.default_rng(0).integers(90, 166, (150, 200, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.paste(RED, (161, 97, 173, 109))
    image.save("large.png")
    for name in ("any.pt", "any.onnx"):
        shutil.copy(exported / name, here)
    return 161, 97, 173, 109


@pytest.mark.parametrize("size", ["150x200", "75x100", "160"])
def test_small_object_in_a_large_image(run, large, size):
    """The peak is on it, with the .pt and with the exported network, whose maps are equal."""
    words = ("--class", "red", "--method", "gradcam", "--raw", "--size", size, "large.png")
    found = []
    for model in ("any.pt", "any.onnx"):
        outcome = run("cnn-cam", "-m", model, "-o", model[4:], *words, *CPU)
        (row,) = outcome.rows
        x, y = json.loads(row["peak"])
        assert 161 <= x < 173
        assert 97 <= y < 109
        assert "with --size, --fit or --fine, probabilities differ" in outcome.err
        found.append(np.load(f"{model[4:]}/large.png.map.npy"))
    height, width = preprocessing.sides(size)
    assert found[0].shape == found[1].shape == (height, width)
    np.testing.assert_allclose(found[1], found[0], atol=1e-4 * found[0].max())


def test_fit_option_of_an_exported_network(run, here, exported):
    """As with a .pt, also for a fixed size; too small images are refused."""
    shutil.copy(exported / "model.onnx", here)
    for words in (("--fit", "pad"), ("--fit", "squash", "--size", "16")):
        ours, theirs = (
            run("cnn-cam", "-m", name, "photos", "--method", "gradcam", "--box", "0.5", *words, *CPU).rows
            for name in ("model.pt", "model.onnx")
        )
        assert [(row["box"], row["peak"]) for row in ours] == [(row["box"], row["peak"]) for row in theirs]
    write_model("wide.pt", layers="conv 2 k1 relu, conv 2 k5 relu")
    run("cnn-export", "wide.pt", "-o", "wide.onnx", "--cam", "--dynamic-size", *CPU)
    refused = run("cnn-cam", "-m", "wide.onnx", "photos", "--size", "3x20", *CPU, status=2)
    assert "--size 3x20: 20 x 3 pixels are too small for wide.onnx" in refused.err


# ---------------------------------------------------------------- faithfulness


def test_faithful_maps_score_better_than_their_opposites(run, here):
    """Hiding red pixels first lowers the probability of red early; two fields per record, and a notice with the means."""
    write_image("photos/red/3.png", blue=None, size=(32, 32), red=(4, 4, 14, 14))
    write_model("sharp.pt", weights=torch.tensor([[0.0, 30.0], [30.0, 0.0]]))
    outcome = run("cnn-cam", "-m", "sharp.pt", "photos", "--class", "true", "--faithful", *CPU)
    assert list(outcome.rows[0]) == [*FIELDS, "deletion", "insertion"]
    row = next(row for row in outcome.rows if row["path"] == "photos/red/3.png")
    assert float(row["deletion"]) < 0.6
    assert float(row["insertion"]) > 0.9
    means = {name: np.mean([float(each[name]) for each in outcome.rows]) for name in ("deletion", "insertion")}
    assert f"mean of 4 maps: deletion {means['deletion']:.4g}, insertion {means['insertion']:.4g}" in outcome.err


# ---------------------------------------------------------------- folders


def test_folder_that_is_not_empty_needs_force(run, here):
    """--force replaces files; the folder of the images is refused even with it."""
    run("cnn-cam", "-m", "model.pt", "photos", "-o", "maps", *CPU)
    refused = run("cnn-cam", "-m", "model.pt", "photos", "-o", "maps", *CPU, status=1)
    assert refused.err.endswith("maps is not empty; choose another folder, or add --force\n")
    run("cnn-cam", "-m", "model.pt", "photos", "-o", "maps", "--alpha", "0", "--force", *CPU)
    np.testing.assert_array_equal(pixels("maps/red/3.png"), pixels("photos/red/3.png"))
    before = Path("photos/red/3.png").read_bytes()
    for folder, stdin in (("photos", None), ("photos/red", None), (".", "photos/red/3.png\n")):
        words = ["-"] if stdin else ["photos"]
        refused = run("cnn-cam", "-m", "model.pt", *words, "-o", folder, "--force", *CPU, stdin=stdin, status=1)
        assert "contains the images that are to be explained" in refused.err
    assert Path("photos/red/3.png").read_bytes() == before


def test_rejects_two_images_of_one_name(run, here):
    """Images of several sources have different overlays; two paths of one overlay are refused."""
    write_image("others/red/3.png")
    rows = run("cnn-cam", "-m", "model.pt", "photos/red", "others/red", "-o", "maps", *CPU).rows
    assert len({row["overlay"] for row in rows}) == len(rows) == len(list(Path("maps").rglob("*.*"))) == 3
    same = ["photos/red/3.png", "./photos/red/3.png"]
    refused = run("cnn-cam", "-m", "model.pt", *same, "-o", "twice", *CPU, status=1)
    assert "would both be written to 3.png; rename one of them" in refused.err
    assert not Path("twice").exists()
    outcome = run("cnn-cam", "-m", "model.pt", "-", "-o", "twice", *CPU, stdin="\n".join(same) + "\n", status=3)
    assert len(outcome.rows) == 1
    assert "would both be written to photos/red/3.png; rename one of them" in outcome.err


def test_memory_does_not_grow_with_the_images(here, monkeypatch):
    """Only a few batches and images are in memory at once; a sheet keeps thumbnails."""
    listed = source.find(["photos/red/3.png"])
    opened = cam_run.open_model("model.pt", CamOptions(), InputOptions(), device="cpu", batch=8)
    alive, most = weakref.WeakSet(), []
    forward = opened.network.forward

    def watched(images):
        found = forward(images)
        alive.add(found)
        alive.update([found.seen, found.seen.images])
        most.append(len(alive))
        return found

    monkeypatch.setattr(opened.network, "forward", watched)
    options = RenderOptions(output=Path("maps"), force=True, box=0.5, sheet=Path("sheet.png"), raw=True)

    def peak(count):
        most.clear()
        tracemalloc.start()
        many = (listed[0] for _ in range(count))
        number = sum(1 for _ in cam_run.explain(many, opened, options=options, batch=8, jobs=2))
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert number == count
        assert len(most) == -(-count // 8)
        assert max(most) <= 3 * 3  # of three batches at the most
        return held

    peak(40)
    few, many = peak(50), peak(200)
    assert many < 1.1 * few + 150 * 2 * 160 * 160 * 3  # thumbnails, and some paths


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--raw",), "--raw writes arrays next to the overlays; give their folder with -o DIR"),
        (("--raw", "--sheet", "s.png"), "--raw writes arrays next to the overlays; give their folder with -o DIR"),
        (("--force",), "--force replaces overlays in their folder; give it with -o DIR"),
        (("--force", "--sheet", "s.png"), "--force replaces overlays in their folder; give it with -o DIR"),
        (("--alpha", "0.3"), "--alpha sets how overlays are drawn; draw them with -o DIR or --sheet FILE.png"),
        (("--alpha", "0.5"), "--alpha sets how overlays are drawn; draw them with -o DIR or --sheet FILE.png"),
        (("--colormap", "jet"), "--colormap sets how overlays are drawn; draw them with -o DIR or --sheet FILE.png"),
    ],
)  # fmt: skip
def test_rejects_drawing_options_without_output(run, here, words, line):
    """Colours need a folder or a sheet; --raw and --force need the folder."""
    outcome = run("cnn-cam", "-m", "model.pt", "photos", *words, *CPU, status=2)
    assert (outcome.out, outcome.err) == ("", f"cnn-cam: {line}\n")
    assert not Path("s.png").exists()
    if words == ("--raw",):
        drawn_nowhere = run("cnn-cam", "-m", "model.pt", "photos/blue/1.png", *CPU)
        assert "cnn-cam: no map is drawn; add -o DIR for overlays, or --sheet FILE.png\n" in drawn_nowhere.err


def test_sheet_has_alpha_and_colormap(run, here):
    """The overlays of a sheet follow --alpha and --colormap."""
    contents = set()
    for words in ((), ("--alpha", "0.3"), ("--colormap", "jet")):
        run("cnn-cam", "-m", "model.pt", "photos", "--sheet", "s.png", *words, *CPU)
        contents.add(Path("s.png").read_bytes())
    assert len(contents) == 3


# ---------------------------------------------------------------- photographs


@pytest.mark.slow
@pytest.mark.photos
def test_maps_of_rotated_images_are_centred(run, photos, tmp_path, monkeypatch):
    """The mean centroid over 20 photographs and their rotations by 180 degrees is the centre; with tiles it was off by .03 and .05."""
    monkeypatch.chdir(tmp_path)
    chosen = [path for folder in sorted((photos / "flowers").iterdir()) for path in sorted(folder.iterdir())[:4]]
    for number, path in enumerate(chosen):
        with Image.open(path) as image:
            side = min(image.size)
            plain = image.convert("RGB").resize((224, 224), box=(0, 0, side, side))
        for name, turned in (("plain", plain), ("turned", plain.rotate(180))):
            Path(name).mkdir(exist_ok=True)
            turned.save(f"{name}/{number:02d}.png")
    weights = ("--weights", photos / "weights" / "mobilenet_v2.pth")
    run("cnn-cam", "-m", "mobilenet_v2", *weights, "plain", "turned", "--raw", "-o", "maps", "--fit", "squash", *CPU)

    def centroids(kind):
        maps = [np.load(path) for path in sorted(Path("maps").rglob(f"*.{kind}.npy"))]
        assert len(maps) == 40
        places = (np.arange(len(maps[0])) + 0.5) / len(maps[0])
        return np.mean([(each.sum(0) @ places, each.sum(1) @ places) / each.sum() for each in maps], axis=0)

    np.testing.assert_allclose(centroids("pixels"), 0.5, atol=0.02)
    assert (centroids("map") - centroids("pixels")).min() > 0.02  # what tiles would give


@pytest.mark.slow
@pytest.mark.photos
def test_maps_of_cats_and_dogs_lie_on_them(run, photos, tmp_path, monkeypatch):
    """A head trained on a hundred cats and dogs, and two photographs with one of each."""
    monkeypatch.chdir(tmp_path)
    backbone = ("--backbone", "mobilenet_v2", "--weights", photos / "weights" / "mobilenet_v2.pth")
    folder = photos / "dogs-vs-cats"
    listed = [path for label in ("cat", "dog") for path in sorted((folder / label).iterdir())[:60]]
    Path("list.tsv").write_text("path\tlabel\n" + "".join(f"{path}\t{path.parent.name}\n" for path in listed))
    run("cnn-extract", "list.tsv", "-o", "train.npy", *backbone, *CPU)
    run("cnn-train-head", "train.npy", "-o", "head.pt", "--solver", "lbfgs", *CPU)
    #: Where the animals are, looked up by eye: left, top, right, bottom
    places = {
        "both.png": {"cat": (45, 115, 205, 224), "dog": (75, 10, 165, 140)},
        "dog_cat.jfif": {"cat": (145, 35, 245, 172), "dog": (0, 5, 165, 177)},
    }
    outcome = run(
        "cnn-cam",
        "-m",
        "head.pt",
        *(photos / "pictures" / name for name in places),
        "--class",
        "all",
        "--box",
        "0.5",
        *CPU,
    )
    assert len(outcome.rows) == 4
    for row in outcome.rows:
        left, top, right, bottom = places[Path(row["path"]).name][row["class"]]
        x, y = json.loads(row["peak"])
        assert left <= x < right, row
        assert top <= y < bottom, row
        box = boxes(row)  # and the middle of what is hot
        assert left <= (box[0] + box[2]) / 2 < right, row
        assert top <= (box[1] + box[3]) / 2 < bottom, row


@pytest.mark.slow
@pytest.mark.photos
def test_small_dog_in_a_large_landscape(run, photos, tmp_path, monkeypatch):
    """A dog of 150 pixels in 1200 x 900 pixels of dandelions: the peak is on the dog, with torch and without."""
    monkeypatch.chdir(tmp_path)
    backbone = ("--backbone", "mobilenet_v2", "--weights", photos / "weights" / "mobilenet_v2.pth")
    listed = [
        path
        for folder, label in (("dogs-vs-cats/dog", "dog"), ("flowers/dandelion", "dandelion"))
        for path in sorted((photos / folder).iterdir())[:15]
    ]
    lines = [f"{path}\t{'dog' if 'dogs' in str(path) else 'dandelion'}" for path in listed]
    Path("list.tsv").write_text("path\tlabel\n" + "\n".join(lines) + "\n")
    run("cnn-extract", "list.tsv", "-o", "train.npy", *backbone, *CPU)
    run("cnn-train-head", "train.npy", "-o", "head.pt", "--solver", "lbfgs", *CPU)
    run("cnn-export", "head.pt", "-o", "any.onnx", "--cam", "--dynamic-size", "--batch", 2, *CPU)
    with Image.open(sorted((photos / "flowers" / "dandelion").iterdir())[90]) as landscape:
        scene = landscape.convert("RGB").resize((1200, 900), Image.Resampling.BICUBIC)
    with Image.open(sorted((photos / "dogs-vs-cats" / "dog").iterdir())[100]) as dog:
        small = dog.convert("RGB")
        small.thumbnail((150, 150))
    left, top = 820, 560
    scene.paste(small, (left, top))
    scene.save("scene.png")
    peaks = []
    for model in ("head.pt", "any.onnx"):
        (row,) = run("cnn-cam", "-m", model, "scene.png", "--class", "dog", "--size", "900x1200", *CPU).rows
        x, y = json.loads(row["peak"])
        assert left <= x < left + small.width, row
        assert top <= y < top + small.height, row
        peaks.append((x, y))
    assert peaks[0] == peaks[1]
    whole, small = (
        next(
            row
            for row in run("cnn-predict", "-m", "any.onnx", "scene.png", "--top", 2, *words, *CPU).rows
            if row["label"] == "dog"
        )
        for words in (("--size", "native"), ())
    )
    assert float(whole["probability"]) > 10 * float(small["probability"]), "224 pixels hardly show a dog"


def listed(name):
    """Read a manifest."""
    header, *lines = Path(name).read_text().splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


@pytest.mark.parametrize("words", [(), ("-o", "maps")])
def test_manifest_has_boxes_in_pixels_of_the_upright_file(run, here, words):
    """Also of an image turned by EXIF, and of a crop; with the columns of the source, and the score of the class."""
    (here / "lists").mkdir()
    write_image("one.png", blue=None)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees to the left
    Image.fromarray(np.rot90(pixels("one.png")).astype(np.uint8)).save("turned.png", exif=exif)
    write_image("wide.png", size=(128, 96), red=(28, 48, 44, 56), blue=None)
    write_image("none.png", red=None)
    rows = [
        "path\tlabel\tsplit\tgroup\tbox\tcamera\tscore",
        "../one.png\tred\ttrain\tfilm\t\tNikon\t0.5",
        "../turned.png\tred\tval\t\t\tCanon\t",
        "../wide.png\tred\tval\t\t20,40,64,32\tSony\t",
        "../none.png\tblue\tval\t\t\t\t",
    ]
    Path("lists/all.tsv").write_text("\n".join([*rows, ""]))
    flags = ("--class", "red", "--box", "0.5", "--size", "32x64", *CPU)
    outcome = run("cnn-cam", "-m", "model.pt", "lists/all.tsv", *words, *flags, "--manifest", "lists/out.tsv")
    found = listed("lists/out.tsv")
    assert list(found[0]) == ["path", "label", "split", "group", "box", "camera", "score"]
    assert [row["camera"] for row in found] == ["Nikon", "Canon", "Sony", ""]
    assert [row["path"] for row in found] == ["../one.png", "../turned.png", "../wide.png", "../none.png"]
    assert [(row["label"], row["split"], row["group"]) for row in found[:2]] == [
        ("red", "train", "film"),
        ("red", "val", ""),
    ]
    assert [row["box"] for row in found] == ["8,8,16,8", "8,8,16,8", "28,48,16,8", ""]
    assert [row["score"] for row in found] == [row["probability"] for row in outcome.rows]
    assert boxes(outcome.rows[0]) == [8, 8, 24, 16]
    assert "lists/out.tsv: 1 image without evidence for the class: whole, without a box" in outcome.err


def test_manifest_chains_into_training_on_what_was_found(run, here):
    """The features of the boxes are those of the red rectangles cut out."""
    words = ("photos/red", "--class", "red", "--box", "0.5", "--size", "32x64", *CPU)
    run("cnn-cam", "-m", "model.pt", *words, "--manifest", "boxes.tsv")
    backbone = ("--layers", "conv 4 k3 relu", "--weights", "none", "--size", "16", *CPU)
    run("cnn-extract", "boxes.tsv", "-o", "x.npy", *backbone)
    for row in listed("boxes.tsv"):
        left, top, width, height = map(int, row["box"].split(","))
        target = Path("cut", f"{Path(row['path']).stem}.png")
        target.parent.mkdir(exist_ok=True)
        cut = pixels(row["path"])[top : top + height, left : left + width]
        Image.fromarray(cut.astype(np.uint8)).save(target)
    run("cnn-extract", "cut", "-o", "y.npy", *backbone)
    assert np.array_equal(np.load("x.npy"), np.load("y.npy"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--manifest writes the boxes that --box finds; add --box SHARE"),
        (
            ("--box", "0.5", "--class", "red", "--class", "blue"),
            "--manifest has one box for each image; give --class once",
        ),
        (("--box", "0.5", "--class", "all"), "--manifest has one box for each image"),
    ],
)
def test_manifest_needs_one_box_of_each_image(run, here, words, message):
    assert message in run("cnn-cam", "-m", "model.pt", "photos", "--manifest", "b.tsv", *words, status=2).err


def test_manifest_is_written_as_tsv(run, here):
    words = ("-m", "model.pt", "photos", "--box", "0.5", "--manifest", "b.csv")
    assert "give it a name that ends in .tsv" in run("cnn-cam", *words, status=2).err
