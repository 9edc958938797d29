"""cnn-maps: images of channels, values against torch, and error messages."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy import ndimage
from torch import nn

from cnnkit.choices import Pool
from cnnkit.data import preprocessing
from cnnkit.explain import mosaics
from cnnkit.formats import picture_style, torch_model
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones, catalogue
from cnnkit.nets import classifier as classifiers

TEXT = "conv 6 k3 relu, pool 2, conv 8 k3 bn relu"
CPU = ("--device", "cpu")


def write(name, head, *, grey=False, dead=False, pool=Pool.AVG):
    """Write an untrained model of 24 pixels; channel 4 of its first layer is silent, or all are."""
    extractor, backbone, preprocess = backbones.by_notation(TEXT, size=24, seed=1, grey=grey, pool=pool)
    made = classifiers.build_head(head, (8,) if pool is Pool.AVG else (8, 9, 9))
    with torch.no_grad():
        extractor.bn1.running_mean += torch.linspace(-0.3, 0.3, 8)
        extractor.conv1.weight[slice(None) if dead else 4] = 0
        extractor.conv1.bias[slice(None) if dead else 4] = -1
    state = {f"base.{key}": value for key, value in extractor.state_dict().items()}
    state |= {f"head.{key}": value for key, value in made.state_dict().items()}
    header = Header(ArtefactKind.MODEL, ("blue", "red"), preprocess, backbone, head, {"command": "cnn-train"})
    torch_model.save(name, TorchModel(header, state))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a colour and a grey model, each as .pt and exported."""
    folder = tmp_path_factory.mktemp("models")
    (entry,) = entry_points(group="console_scripts", name="cnn-export")
    for name, head in (("colour", "dense 5 relu, dense 2 softmax"), ("grey", "dense 1 sigmoid")):
        write(folder / f"{name}.pt", head, grey=name == "grey")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "warnoptions", ["error"])
            with pytest.raises(SystemExit) as stop:
                entry.load()([str(folder / f"{name}.pt"), "-o", str(folder / f"{name}.onnx"), *CPU])
        assert not stop.value.code
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, images, models):
    """A working folder with the models and one image, photos/grey/00.png."""
    images(grey=1)
    for file in models.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


IMAGE = "photos/grey/00.png"


def maps(run, model, *words, **others):
    return run("cnn-maps", "-m", model, IMAGE, *CPU, *words, **others)


def hooked(module, given, kinds):
    """Record the outputs of modules of some types for one image, in order, by forward hooks."""
    seen = []
    handles = [
        each.register_forward_hook(lambda _module, _given, made: seen.append(made[0].clone().numpy()))
        for each in module.modules()
        if isinstance(each, kinds)
    ]
    with torch.no_grad():
        module.eval()(given)
    for handle in handles:
        handle.remove()
    return seen


def expected(model):
    """Compute the outputs of the ReLUs and the pooling of a backbone for the image, (C, h, w) each."""
    loaded = torch_model.load(model)
    made = classifiers.from_header(loaded.header, loaded.state, name=model)
    head = len([each for each in made.head.modules() if isinstance(each, nn.ReLU)])
    seen = hooked(made, torch.tensor(preprocessing.load(IMAGE, made.preprocess)[None]), (nn.ReLU, nn.MaxPool2d))
    return seen[: len(seen) - head]


def raws(outcome):
    return [np.load(f"{row['mosaic'].removesuffix('.png')}.npy") for row in outcome.rows]


# ---------------------------------------------------------------- what a layer outputs


@pytest.mark.parametrize("name", ["colour", "grey"])
def test_maps_agree_with_torch_and_the_exported_graph(run, here, name):
    """--raw equals the outputs seen by forward hooks of torch, activation included; for the .onnx within 1e-4."""
    ours = maps(run, f"{name}.pt", "-o", "pt", "--raw")
    theirs = maps(run, f"{name}.onnx", "-o", "onnx", "--raw")
    assert [row["layer"] for row in ours.rows] == ["conv1", "pool1", "bn1"]
    assert (
        [row["shape"] for row in ours.rows] == [row["shape"] for row in theirs.rows] == ["6x22x22", "6x11x11", "8x9x9"]
    )
    reference = expected(f"{name}.pt")
    assert len(reference) == 3
    for found, exported, wanted in zip(raws(ours), raws(theirs), reference, strict=True):
        assert found.dtype == exported.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(exported, wanted, atol=1e-4)


def test_maps_of_a_network_for_any_size(run, here):
    """Exported with --cam --dynamic-size: the values of the .pt at its own size; the map of classes is no layer."""
    write("net.pt", "dense 2 softmax")
    run("cnn-export", "net.pt", "-o", "net.onnx", "--cam", "--dynamic-size", *CPU)
    ours, theirs = maps(run, "net.pt", "-o", "pt", "--raw"), maps(run, "net.onnx", "-o", "onnx", "--raw")
    assert [row["layer"] for row in theirs.rows] == [row["layer"] for row in maps(run, "colour.onnx").rows]
    assert [row["shape"] for row in theirs.rows] == [row["shape"] for row in ours.rows]
    for found, wanted in zip(raws(theirs), raws(ours), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("model", ["colour.pt", "grey.onnx"])
def test_records_by_hand(run, here, model):
    """Shape, silent channels, zeros, mean, maximum and the most active channel follow from the arrays; the same without -o."""
    outcome = maps(run, model, "-o", "out", "--raw", "--json")
    records = [json.loads(line) for line in outcome.out.splitlines()]
    for record in records:
        found = np.load(f"{record['mosaic'].removesuffix('.png')}.npy")
        assert record["shape"] == "x".join(map(str, found.shape))
        assert record["most_active"] == found.mean((1, 2)).argmax()
        told = [record[name] for name in ("silent", "zeros", "mean", "maximum")]
        by_hand = [np.mean((found == 0).all((1, 2))), np.mean(found == 0), found.mean(), found.max()]
        assert told == pytest.approx([float(each) for each in by_hand], rel=1e-5)
    assert records[0]["silent"] >= 1 / 6 - 1e-6  # channel 4, by its weights
    alone = [json.loads(line) for line in maps(run, model, "--json").out.splitlines()]
    assert alone == [{**record, "mosaic": None} for record in records]
    assert sorted(os.listdir("out")) == sorted(
        f"{record['layer']}{end}" for record in records for end in ("", ".npy", ".png")
    )


def test_layers_of_a_trained_network(run, here):
    """A model of cnn-train with flatten in its head has each layer of its backbone once."""
    write("flat.pt", "flatten, dense 2 softmax", pool=Pool.NONE)
    assert [row["layer"] for row in maps(run, "flat.pt").rows] == ["conv1", "pool1", "bn1"]


def test_network_given_by_name(run, here):
    """Maps of a torchvision network with weights from a file equal those seen by hooks on the torchvision module."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = torchvision.models.squeezenet1_1(weights=None)
    torch.save(network.state_dict(), "w.pth")
    words = (
        "--weights",
        "w.pth",
        "--size",
        "64",
        "--layer",
        "features.1",
        "--layer",
        "features.12",
        "-o",
        "out",
        "--raw",
    )
    outcome = maps(run, "squeezenet1_1", *words)
    published = catalogue.published_preprocess("squeezenet1_1", "w.pth")
    pixels = preprocessing.load(IMAGE, preprocessing.with_size(published, size=64)) / 255
    given = torch.tensor((pixels - published.mean) / published.std, dtype=torch.float32).permute(2, 0, 1)[None]
    first, last = hooked(network, given, nn.ReLU)[0], hooked(network, given, type(network.features[12]))[-1]
    assert [(row["layer"], row["shape"]) for row in outcome.rows] == [
        ("features.1", "64x31x31"), ("features.12", "512x3x3"),
    ]  # fmt: skip
    np.testing.assert_allclose(raws(outcome)[0], first, atol=1e-5)
    np.testing.assert_allclose(raws(outcome)[1], last, atol=1e-5)


def test_vgg_layers_have_the_names_of_keras(run, here):
    """In records and in file names."""
    outcome = maps(run, "vgg11", "--weights", "none", "--size", "32", "--channels", "0-1", "-o", "out")
    names = [row["layer"] for row in outcome.rows]
    assert (names[0], outcome.rows[0]["shape"]) == ("block1_conv1", "64x32x32")
    assert {"block3_conv1", "block3_conv2", "block3_pool", "block5_conv2"} <= set(names)
    assert sorted(path.name for path in Path("out/block3_conv2").iterdir()) == ["000.png", "001.png"]


# ---------------------------------------------------------------- images


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize("scale", ["channel", "layer"])
def test_channels_and_mosaic_have_the_scaled_values(run, here, scale):
    """Scaled by the range of the channel or of the layer; the mosaic has all channels, row by row."""
    outcome = maps(run, "colour.pt", "-o", "out", "--raw", "--scale", scale, "--colormap", "gray", "--layer", "conv1")
    (found,) = raws(outcome)
    low, high = (found.min((1, 2)), found.max((1, 2))) if scale == "channel" else (found.min(), found.max())
    low, high = np.broadcast_to(low, 6), np.broadcast_to(high, 6)
    assert sorted(os.listdir("out/conv1")) == [f"00{index}.png" for index in range(6)]
    mosaic = pixels("out/conv1.png")[picture_style.TITLE_HEIGHT :]
    wide = mosaic.shape[1] // 3  # six in two rows of three, below their numbers
    high_ = (wide - 2) // 22 * 22 + mosaics.NUMBER_HEIGHT + 2
    for index, values in enumerate(found):
        share = (values - low[index]) / (high[index] - low[index] or 1)
        single = pixels(f"out/conv1/00{index}.png")
        zoom = len(single) // 22
        assert single.shape == (22 * zoom, 22 * zoom, 3)
        np.testing.assert_allclose(single, np.kron(255 * share, np.ones((zoom, zoom)))[..., None].repeat(3, 2), atol=1)
        top, left = 2 + mosaics.NUMBER_HEIGHT + index // 3 * high_, 2 + index % 3 * wide
        tile = mosaic[top:, left:]
        middles = ((np.arange(22) + 0.5) * ((wide - 2) // 22)).astype(int)
        np.testing.assert_array_equal(tile[np.ix_(middles, middles)], single[zoom // 2 :: zoom, zoom // 2 :: zoom])


def test_colour_map_option(run, here):
    """The default is viridis; an unknown name proposes similar ones."""
    maps(run, "colour.pt", "-o", "out", "--raw", "--layer", "bn1")
    maps(run, "colour.pt", "-o", "jet", "--colormap", "jet", "--layer", "bn1")
    channel = int(np.load("out/bn1.npy").mean((1, 2)).argmax())
    found = np.load("out/bn1.npy")[channel]
    share = (found - found.min()) / (found.max() - found.min())
    for folder, name in (("out", "viridis"), ("jet", "jet")):
        single = pixels(f"{folder}/bn1/00{channel}.png")
        zoom = len(single) // 9
        colours = mpl.colormaps[name](np.round(255 * share).astype(int))[..., :3]
        np.testing.assert_allclose(single[zoom // 2 :: zoom, zoom // 2 :: zoom], 255 * colours, atol=6)
    line = maps(run, "colour.pt", "-o", "other", "--colormap", "virdis", status=2).err
    assert line.startswith('cnn-maps: --colormap: no colour map "virdis"; did you mean viridis or ')


def test_selects_layers_and_channels(run, here):
    """Layers by name, number and number from the end, repeated; only the given channels are drawn, but all are counted."""
    words = ("--layer", "bn1", "--layer", "0", "--layer", "-2", "--channels", "0-3,5")
    outcome = maps(run, "colour.pt", *words, "-o", "out", "--raw")
    assert [row["layer"] for row in outcome.rows] == ["bn1", "conv1", "pool1"]
    for name, count in (("bn1", 8), ("conv1", 6), ("pool1", 6)):
        assert sorted(path.stem for path in Path("out", name).iterdir()) == ["000", "001", "002", "003", "005"]
        assert len(np.load(f"out/{name}.npy")) == count
    mosaic = pixels("out/bn1.png")[:-50]  # without the scale
    assert (mosaic[-len(mosaic) // 4 :, -mosaic.shape[1] // 4 :] == 255).all()  # five of six places are taken
    everything = maps(run, "colour.pt")
    assert maps(run, "colour.pt", "--layer", "all").out == everything.out
    by_name = {row["layer"]: {**row, "mosaic": ""} for row in outcome.rows}
    assert [by_name[row["layer"]] for row in everything.rows] == everything.rows
    assert maps(run, "colour.onnx", "--layer", "-1").rows == maps(run, "colour.onnx").rows[-1:]


@pytest.mark.parametrize("scale", ["channel", "layer"])
def test_layer_of_zeros_is_drawn_flat(run, here, scale):
    """Without a warning or NaN."""
    write("dead.pt", "dense 2 softmax", dead=True)
    outcome = maps(run, "dead.pt", "-o", "out", "--raw", "--scale", scale)
    told = {name: outcome.rows[0][name] for name in ("silent", "zeros", "mean", "maximum", "most_active")}
    assert told == {"silent": "1", "zeros": "1", "mean": "0", "maximum": "0", "most_active": "0"}
    assert outcome.err == ""
    single = pixels("out/conv1/002.png")
    assert (single == single[0, 0]).all()
    assert all(np.isfinite(found).all() for found in raws(outcome))


# ---------------------------------------------------------------- folders


def test_force_replaces_old_images(run, here):
    """A folder that is not empty needs --force; then the folder of a layer is replaced, and other files stay."""
    maps(run, "colour.pt", "-o", "out")
    Path("out/notes.txt").write_text("mine")
    before = sorted(str(path) for path in Path("out").rglob("*"))
    outcome = maps(run, "colour.pt", "-o", "out", status=1)
    assert outcome.err == "cnn-maps: out is not empty; choose another folder, or add --force\n"
    assert outcome.out == ""
    maps(run, "colour.pt", "-o", "out", "--force", "--layer", "conv1", "--channels", "2", "--scale", "layer")
    assert os.listdir("out/conv1") == ["002.png"]
    after = sorted(str(path) for path in Path("out").rglob("*"))
    assert set(before) - set(after) == {f"out/conv1/00{index}.png" for index in (0, 1, 3, 4, 5)}
    assert set(after) <= set(before)


@pytest.mark.parametrize("folder", ["photos", "photos/grey", "."])
def test_rejects_output_folder_that_has_the_image(run, here, folder):
    """Also with --force; nothing is written."""
    outcome = maps(run, "colour.pt", "-o", folder, "--force", status=1)
    assert outcome.err.startswith(f"cnn-maps: {folder} contains the images")
    assert [path.name for path in Path("photos").rglob("*.png")] == ["00.png"]


# ---------------------------------------------------------------- words that do not fit


@pytest.mark.parametrize(
    ("model", "words", "status", "line"),
    [
        ("colour.pt", ("--layer", "cov1"), 2, 'colour.pt has no layer "cov1"; did you mean conv1?'),
        ("colour.onnx", ("--layer", "cov1"), 2, '--layer: colour.onnx has no layer "cov1" that outputs maps; did you mean conv1?'),
        ("colour.pt", ("--layer", "3"), 2, "colour.pt has 3 layers with maps, numbered from 0; there is no 3"),
        ("colour.pt", ("--layer", "head.dense1"), 2, "head.dense1 outputs a vector of 5 values, not maps"),
        ("colour.pt", ("--channels", "6"), 2, "--channels 6: conv1 has 6, numbered 0 to 5"),
        ("colour.pt", ("--channels", "first"), 2, '--channels "first": give numbers and ranges, as in 0-63 or 3,7,12-20'),
        ("colour.pt", ("--raw",), 2, "--raw writes arrays next to the mosaics; give their folder with -o DIR"),
        ("colour.pt", ("--weights", "none"), 2, "colour.pt has its own weights; --weights is for a network given by name"),
        ("colour.onnx", ("--size", "32"), 2, "colour.onnx: --size, --fit and --weights do not work for an exported network"),
        ("none.pt", (), 1, "none.pt: No such file or directory"),
        ("squeezenet9", (), 2, 'no network is called "squeezenet9"; did you mean squeezenet'),
    ],
)  # fmt: skip
def test_rejects_invalid_options(run, here, model, words, status, line):
    """Each error is one line with a remedy; nothing is printed or written."""
    there = sorted(os.listdir())
    if "--raw" not in words:
        words = (*words, "-o", "out")
    outcome = maps(run, model, *words, status=status)
    assert outcome.err.startswith(f"cnn-maps: {line}")
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""
    assert sorted(os.listdir()) == there


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--raw",), "--raw writes arrays next to the mosaics; give their folder with -o DIR"),
        (("--force",), "--force replaces images in their folder; give it with -o DIR"),
        (("--channels", "0-3"), "--channels sets how maps are drawn; draw them with -o DIR"),
        (("--scale", "layer"), "--scale sets how maps are drawn; draw them with -o DIR"),
        (("--scale", "channel"), "--scale sets how maps are drawn; draw them with -o DIR"),
        (("--colormap", "jet"), "--colormap sets how maps are drawn; draw them with -o DIR"),
    ],
)  # fmt: skip
def test_rejects_drawing_options_without_a_folder(run, here, words, line):
    """They would have no effect."""
    outcome = maps(run, "colour.pt", *words, status=2)
    assert (outcome.out, outcome.err) == ("", f"cnn-maps: {line}\n")


@pytest.mark.parametrize("content", [None, b"", b"no image at all", "cut"])
def test_broken_image_exits_3(run, here, content):
    """Missing, empty, another kind of file or truncated: one line that names the file."""
    if content is not None:
        Path("x.png").write_bytes(Path(IMAGE).read_bytes()[:900] if content == "cut" else content)
    outcome = run("cnn-maps", "-m", "colour.onnx", "x.png", "-o", "out", *CPU, status=1)
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("cnn-maps: x.png: ")
    assert not Path("out").exists()


def test_an_exported_network_needs_no_torch(here):
    """cnn-maps on an .onnx does not import torch."""
    code = (
        "import sys\n"
        "from cnnkit_tools.cnn_maps import main\n"
        "try:\n"
        f"    main(['-m', 'colour.onnx', {IMAGE!r}, '-o', 'out', '--raw', '--device', 'cpu'])\n"
        "finally:\n"
        "    print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "torchvision", "sklearn", "onnxscript"}


# ---------------------------------------------------------------- the book's three observations


@pytest.mark.slow
@pytest.mark.photos
def test_first_layer_has_edges_and_later_ones_are_sparser(run, photos, tmp_path):
    """On a photograph: the first layer correlates best with edges; later maps are coarser and sparser."""
    weights = photos / "weights" / "squeezenet1_1.pth"
    image = photos / "pictures" / "coral_cat.bmp"
    words = (
        "-m",
        "squeezenet1_1",
        "--weights",
        weights,
        image,
        "-o",
        tmp_path / "out",
        "--raw",
        "--channels",
        "0",
        *CPU,
    )
    rows = [row for row in run("cnn-maps", *words).rows if row["layer"].startswith("features.")]
    found = [np.load(row["mosaic"].removesuffix("png") + "npy") for row in rows]
    grey = preprocessing.load(image, catalogue.published_preprocess("squeezenet1_1", weights)).mean(2)
    slopes = [ndimage.sobel(grey, axis)[1:-1:2, 1:-1:2] for axis in (0, 1)]  # where the first layer's windows lie
    edges = np.stack([np.maximum(sign * slope, 0) for slope in slopes for sign in (1, -1)])  # one side of each

    def likeness(maps):
        large = nn.functional.interpolate(torch.tensor(maps)[None], edges.shape[1:], mode="bilinear")[0].numpy()
        large = large[large.std((1, 2)) > 0].reshape(-1, edges[0].size)
        return np.corrcoef(np.concatenate([edges.reshape(4, -1), large]))[:4, 4:].max(1)  # the best channel for each

    first, last = likeness(found[0]), likeness(found[-1])
    assert (first > 0.8).all()
    assert (first > last + 0.3).all()
    third = len(rows) // 3
    zeros = [float(row["zeros"]) for row in rows]
    assert np.mean(zeros[-third:]) > np.mean(zeros[:third]) + 0.2
    sides = [maps.shape[-1] for maps in found]
    assert sides == sorted(sides, reverse=True)
