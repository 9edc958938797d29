"""cnn-filters: patterns, kernels and error messages."""

import json
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from cnnkit.explain import mosaics
from cnnkit.formats import picture_style, torch_model
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones
from cnnkit.nets import classifier as classifiers

CPU = ("--device", "cpu")
SIDE = 24


def stripes(folder):
    """Draw images of two classes: horizontal and vertical stripes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for label in ("lying", "standing"):
            (folder / split / label).mkdir(parents=True)
            for index in range(count):
                wave = np.sin(np.arange(SIDE) / generator.uniform(3, 8) * 2 * np.pi + generator.uniform(0, 6))
                pixels = 127 + 90 * wave[:, None, None] + generator.normal(0, 20, (SIDE, SIDE, 3))
                pixels += generator.uniform(-30, 30, 3)
                pixels = pixels if label == "lying" else pixels.transpose(1, 0, 2)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / split / label / f"{index}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small network that distinguishes horizontal and vertical stripes, from cnn-train."""
    folder = tmp_path_factory.mktemp("stripes")
    stripes(folder)
    words = ["--layers", "conv 6 k5 relu, pool 2, conv 8 k3 bn relu", "--size", str(SIDE), *CPU, "--epochs", "8"]
    (entry,) = entry_points(group="console_scripts", name="cnn-train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "warnoptions", ["error"])
        with pytest.raises(SystemExit) as stop:
            entry.load()([str(folder), "-o", str(folder / "m.pt"), *words, "--batch", "8", "--lr", "0.01"])
    assert not stop.value.code
    return folder / "m.pt"


def write(name, text, head="dense 2 softmax", *, width, grey=False, change=None):
    """Write an untrained model for 24 pixels with modified weights of its backbone."""
    extractor, backbone, preprocess = backbones.by_notation(text, size=SIDE, seed=1, grey=grey)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = classifiers.build_head(head, (width,))
    if change is not None:
        with torch.no_grad():
            change(extractor)
    state = {f"base.{key}": value for key, value in extractor.state_dict().items()}
    state |= {f"head.{key}": value for key, value in made.state_dict().items()}
    torch_model.save(
        name,
        TorchModel(Header(ArtefactKind.MODEL, ("a", "b"), preprocess, backbone, head, {"command": "cnn-train"}), state),
    )


@pytest.fixture
def here(tmp_path, monkeypatch, trained):
    """A working folder with the trained network, m.pt."""
    (tmp_path / "m.pt").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def filters(run, *words, model="m.pt", out="f.png"):
    """Run, and return the records."""
    outcome = run("cnn-filters", model, "-o", out, *CPU, *words, "--json")
    assert outcome.err == ""
    return [json.loads(line) for line in outcome.out.splitlines()]


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


def tiles(path, count, *, height=SIDE, width=SIDE):
    """Cut a mosaic into its images at their own size, (N, H, W, 3), without its title and their numbers."""
    drawn = pixels(path)[picture_style.TITLE_HEIGHT :]
    across = int(np.ceil(np.sqrt(count)))
    zoom = (drawn.shape[1] - 2) // across // width
    found = []
    for index in range(count):
        row = mosaics.NUMBER_HEIGHT + zoom * height + 2
        top, left = (2 + mosaics.NUMBER_HEIGHT + index // across * row, 2 + index % across * (zoom * width + 2))
        tile = drawn[top : top + zoom * height, left : left + zoom * width]
        small = tile[::zoom, ::zoom]
        np.testing.assert_array_equal(tile, small.repeat(zoom, 0).repeat(zoom, 1))  # enlarged by whole pixels
        found.append(small)
    return np.stack(found)


def responses(images, until, model="m.pt"):
    """Compute the mean activation of each filter of a module of the backbone, (N, K), by torch."""
    loaded = torch_model.load(model)
    network = classifiers.from_header(loaded.header, loaded.state, name=model).eval()
    with torch.no_grad():
        values = network.normalise(torch.tensor(np.asarray(images)))
        for name, module in network.base.named_children():
            values = module(values)
            if name == until:
                return values.mean((2, 3)).numpy()
    raise AssertionError(until)


# ---------------------------------------------------------------- patterns


@pytest.mark.parametrize(("layer", "module"), [("conv1", "conv1_relu"), ("pool1", "pool1")])
def test_pattern_activates_its_filter_most(run, here, layer, module):
    """More than noise and than the patterns of other filters; records equal the activations by torch."""
    records = filters(run, "--layer", layer)
    assert [(record["layer"], record["filter"]) for record in records] == [(layer, index) for index in range(6)]
    found = responses(tiles("f.png", 6), module)  # (6 patterns, 6 filters)
    generator = np.random.default_rng(0)
    noise = np.stack(
        [128 + loud * generator.uniform(-1, 1, (SIDE, SIDE, 3)) for loud in (10, 40, 127) for _ in range(8)]
    )
    assert (np.diag(found) > responses(noise.astype(np.uint8), module).max(0)).all()
    others = (found.sum(0) - np.diag(found)) / 5
    assert (np.diag(found) > others).all()
    if layer == "conv1":  # after pooling, a pattern may activate another filter as well
        assert (found.argmax(0) == np.arange(6)).all()
    np.testing.assert_allclose([record["activation"] for record in records], np.diag(found), rtol=1e-4)


def test_search_starts_from_grey_noise(run, here):
    """With --rate 0 the image stays the grey noise of `start`, the same as in a real search."""
    still = filters(run, "--layer", "conv1", "--rate", "0", "--jitter", "0", "--blur", "0", "--steps", "1")
    noise = tiles("f.png", 6).astype(int)
    assert 118 <= noise.min() < 119 < 137 < noise.max() <= 138
    np.testing.assert_allclose(noise.mean((1, 2, 3)), 128, atol=1)
    np.testing.assert_allclose(
        [record["start"] for record in still], np.diag(responses(noise.astype(np.uint8), "conv1_relu")), atol=0.01
    )
    searched = filters(run, "--layer", "conv1")
    assert [record["start"] for record in searched] == [record["start"] for record in still]
    assert len({noise[index].tobytes() for index in range(6)}) == 6


def test_first_step_has_the_given_rate(run, here):
    """The root mean square of the change is the rate, for any gradient and jitter."""
    plain = ("--layer", "conv1", "--blur", "0", "--steps", "1")
    filters(run, *plain, "--rate", "0")
    begun = tiles("f.png", 6).astype(float)
    for words in (("--rate", "5", "--jitter", "0"), ("--rate", "9", "--jitter", "3")):
        filters(run, *plain, *words)
        change = np.sqrt(np.square(tiles("f.png", 6) - begun).mean((1, 2, 3)))
        np.testing.assert_allclose(change, float(words[1]), atol=0.1)


def test_more_steps_increase_activation_and_blur_smooths(run, here):
    """After 40 steps every filter responds more than after 4; a stronger blur reduces differences of neighbours."""
    few, many = (filters(run, "--layer", "conv1", "--steps", steps) for steps in (4, 40))
    assert all(one["activation"] < other["activation"] for one, other in zip(few, many, strict=True))
    variations = []
    for blur in (0, 0.5, 1.5):
        filters(run, "--layer", "conv1", "--steps", "20", "--blur", blur)
        found = tiles("f.png", 6).astype(float)
        variations.append(
            np.abs(np.diff(found, axis=1)).mean((1, 2, 3)) + np.abs(np.diff(found, axis=2)).mean((1, 2, 3))
        )
    assert (np.diff(variations, axis=0) < 0).all()


def test_pattern_depends_on_the_seed_but_not_on_other_filters(run, here):
    """The same seed gives the same bytes; other filters in the batch change only rounding."""
    words = ("--layer", "conv1", "--steps", "8")
    records = filters(run, *words)
    content = Path("f.png").read_bytes()
    assert (filters(run, *words), Path("f.png").read_bytes()) == (records, content)
    assert filters(run, *words, "--seed", "1") != records
    assert Path("f.png").read_bytes() != content
    filters(run, *words)
    together = tiles("f.png", 6).astype(int)
    for others, which in (
        (("--batch", "1"), range(6)),
        (("--batch", "4"), range(6)),
        (("--filters", "4,1-2"), (4, 1, 2)),
    ):
        found = filters(run, *words, *others)
        assert [record["filter"] for record in found] == list(which)
        for record, tile in zip(found, tiles("f.png", len(found)), strict=True):
            # A sum in another order may turn a pixel that lies between two values
            np.testing.assert_allclose(tile, together[record["filter"]], atol=1)
            assert record["activation"] == pytest.approx(records[record["filter"]]["activation"], rel=1e-2)


def test_size_option(run, here):
    """A square, or height and width; by default that of the model."""
    for words, height, width in (((), SIDE, SIDE), (("--size", "16"), 16, 16), (("--size", "12x20"), 12, 20)):
        filters(run, "--layer", "conv1", "--filters", "0-2", "--steps", "1", *words)
        assert tiles("f.png", 3, height=height, width=width).shape == (3, height, width, 3)


def test_default_layer_is_the_last_spatial_one(run, here):
    """The record has its name."""
    assert filters(run, "--steps", "2") == filters(run, "--steps", "2", "--layer", "bn1")


@pytest.mark.parametrize("head", ["dense 3 relu, dense 2 softmax", "dense 1 sigmoid"])
def test_filters_of_dense_layers(run, here, head):
    """Also of the single output of a binary network."""
    write("head.pt", "conv 6 k3 relu, pool 2, conv 8 k3 relu", head, width=8)
    records = filters(run, "--layer", "head.dense1", model="head.pt")
    assert len(records) == int(head.split()[1])
    loaded = torch_model.load("head.pt")
    network = classifiers.from_header(loaded.header, loaded.state, name="head.pt").eval()
    found = torch.tensor(tiles("f.png", len(records)))
    with torch.no_grad():
        logits = network.head[0](network.features(found)).diagonal()
    wanted = logits.relu() if "relu" in head else logits  # networks output logits
    assert [record["activation"] for record in records] == pytest.approx(wanted.tolist(), rel=1e-3)
    assert all(record["activation"] > record["start"] for record in records)


# ---------------------------------------------------------------- filters that are silent


def test_dead_filter_keeps_its_noise(run, here):
    """A filter without weights has its bias as activation, and no NaN."""

    def kill(backbone):
        backbone.conv2.weight[1], backbone.conv2.bias[1] = 0, 0.25

    write("dead.pt", "conv 6 k3 relu, conv 3 k3 relu", width=3, change=kill)
    filters(run, "--layer", "conv2", "--rate", "0", "--blur", "0", "--steps", "1", model="dead.pt")
    noise = tiles("f.png", 3)[1]
    records = filters(run, "--layer", "conv2", model="dead.pt")
    assert (records[1]["start"], records[1]["activation"]) == (0.25, 0.25)
    assert np.isfinite([[record["start"], record["activation"]] for record in records]).all()
    np.testing.assert_array_equal(tiles("f.png", 3)[1], noise)
    assert all(records[index]["activation"] > records[index]["start"] for index in (0, 2))


def test_louder_noise_is_tried_for_silent_filters(run, here):
    """A filter that needs strong red is zero on weak noise: the search starts from stronger noise, and finds red."""

    def strong_red(backbone):
        backbone.conv1.weight.zero_()
        backbone.conv1.weight[0, 0], backbone.conv1.bias[0] = 1, -0.3  # 0.3 of 1 are 38 of 255 above the middle
        backbone.conv2.weight.fill_(1)
        backbone.conv2.bias.zero_()

    write("red.pt", "conv 1 k1 relu, conv 1 k1 relu", width=1, change=strong_red)
    filters(run, "--layer", "conv2", "--rate", "0", "--blur", "0", "--steps", "1", model="red.pt")
    begun = np.abs(tiles("f.png", 1).astype(int) - 128).max()
    assert 38 < begun <= 41
    (record,) = filters(run, "--layer", "conv2", "--blur", "0", "--jitter", "0", model="red.pt")
    assert 0 < record["start"] < 0.01
    assert record["activation"] > 10 * record["start"]
    red, green, blue = tiles("f.png", 1)[0].astype(int).transpose(2, 0, 1)
    assert red.max() == 255
    assert max(np.abs(green - 128).max(), np.abs(blue - 128).max()) <= 41  # no gradient goes there


# ---------------------------------------------------------------- kernels


@pytest.mark.parametrize("grey", [False, True])
def test_kernels_worked_example(run, here, grey):
    """Zero is grey and the largest absolute weight at the end of the range; a kernel of zeros is grey."""

    def kill(backbone):
        backbone.conv1.weight[2] = 0

    write("k.pt", "conv 5 k3 relu", width=5, grey=grey, change=kill)
    records = filters(run, "--kernels", model="k.pt")
    weights = torch_model.load("k.pt").state["base.conv1.weight"].numpy()
    assert [record["layer"] for record in records] == ["conv1"] * 5
    assert {record["shape"] for record in records} == {"3x3x1" if grey else "3x3x3"}
    np.testing.assert_allclose([record["mean"] for record in records], weights.mean((1, 2, 3)), atol=1e-6)
    np.testing.assert_allclose([record["norm"] for record in records], np.sqrt((weights**2).sum((1, 2, 3))), rtol=1e-5)
    largest = np.abs(weights).max((1, 2, 3), keepdims=True)
    wanted = 127.5 + 127.5 * weights / np.where(largest == 0, 1, largest)
    wanted = np.broadcast_to(wanted, (5, 3, 3, 3)).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(tiles("f.png", 5, height=3, width=3), wanted, atol=1)
    some = filters(run, "--kernels", "--filters", "3,1", model="k.pt")
    assert some == [records[3], records[1]]


# ---------------------------------------------------------------- images that excite filters most


def top(run, *words, model="m.pt", out="t.png", status=0):
    """Run with --top-images, and return the records and the messages."""
    outcome = run("cnn-filters", model, "-o", out, *CPU, *words, "--json", status=status)
    return [json.loads(line) for line in outcome.out.splitlines()], outcome.err


def squares(folder, shades, *, at=(7, 12), size=3):
    """Write black images with a red square, one for each shade."""
    folder.mkdir()
    for name, shade in shades.items():
        drawn = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        drawn[at[1] : at[1] + size, at[0] : at[0] + size, 0] = shade
        Image.fromarray(drawn).save(folder / f"{name}.png")


def sum_of_red(backbone):
    """Let filter 0 add up the red of its window, and filter 1 be 0 everywhere."""
    with torch.no_grad():
        backbone.conv1.weight.zero_()
        backbone.conv1.bias.zero_()
        backbone.conv1.weight[0, 0] = 1


def test_strongest_patch_by_hand(run, here):
    """A window of 3x3 pixels is brightest on a red square of 3x3: box, order and pixels of the patch are those of the square."""
    write("red.pt", "conv 2 k3 relu", width=2, change=sum_of_red)
    squares(here / "in", {"a": 120, "b": 250, "c": 200, "d": 250})
    records, messages = top(run, "--top-images", "in", "--count", "3", model="red.pt")
    assert [(each["filter"], each["rank"], each["path"]) for each in records] == [
        (0, 1, "in/b.png"),  # of equal activations, the first
        (0, 2, "in/d.png"),
        (0, 3, "in/c.png"),
    ]
    assert [each["box"] for each in records] == ["7,12,3,3"] * 3
    assert {each["layer"] for each in records} == {"conv1"}
    mean, std = (getattr(torch_model.load("red.pt").header.preprocess, name)[0] for name in ("mean", "std"))
    expected = [9 * (shade / 255 - mean) / std for shade in (250, 250, 200)]
    np.testing.assert_allclose([each["activation"] for each in records], expected, rtol=1e-5)
    assert "receptive fields of conv1: 3x3 pixels of 24x24" in messages
    assert (
        "1 of 2 filters have fewer than 3 images with a positive activation" in messages
    )  # filter 1, whose activations are 0
    sheet = pixels("t.png")
    first = (sheet == [250, 0, 0]).all(2)
    rows, columns = first.nonzero()
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (
        129,
        2 * 129 + 2,
    )  # two patches, each wholly red, next to each other; a pixel is 43 of the sheet
    assert (sheet == [200, 0, 0]).all(2).sum() == 129 * 129


def test_top_images_are_those_of_torch(run, here, trained):
    """Activations, order and receptive fields behind a pool and a batch norm, for any batch size and several sources."""
    words = ("--top-images", trained.parent / "train", "--top-images", trained.parent / "val", "--count", "4")
    records, _ = top(run, *words, "--layer", "bn1")
    paths = sorted({*(trained.parent / "train").rglob("*.png")}, key=lambda path: path.as_posix().encode())
    paths += sorted({*(trained.parent / "val").rglob("*.png")}, key=lambda path: path.as_posix().encode())
    loaded = torch_model.load("m.pt")
    network = classifiers.from_header(loaded.header, loaded.state, name="m.pt").eval()
    with torch.no_grad():
        maps = network.base(network.normalise(torch.tensor(np.stack([pixels(path) for path in paths]))))  # (N, 8, h, w)
    found = maps.flatten(2).max(2)
    order = found.values.argsort(dim=0, descending=True, stable=True)[:4]  # (4, 8)
    assert len(records) == 4 * 8
    for record in records:
        index = order[record["rank"] - 1, record["filter"]]
        assert Path(record["path"]) == paths[index]
        assert record["activation"] == pytest.approx(float(found.values[index, record["filter"]]), rel=1e-4)
        row, column = divmod(int(found.indices[index, record["filter"]]), maps.shape[3])
        assert record["box"] == f"{2 * column},{2 * row},10,10"  # 5 + 1 + 2 * 2 pixels, two from cell to cell
    others, _ = top(run, *words, "--layer", "bn1", "--batch", "7")
    assert [each["box"] for each in others] == [each["box"] for each in records]
    assert [each["path"] for each in others] == [each["path"] for each in records]


def test_padding_of_a_patch_has_the_mean_colour(run, here):
    """The receptive field of a corner is cut to the image in the box, and shown whole."""
    write("padded.pt", "conv 2 k5 same relu", width=2, change=sum_of_red)
    squares(here / "in", {"corner": 250}, at=(0, 0), size=3)
    (record,), _ = top(run, "--top-images", "in", "--count", "1", "--filters", "0", model="padded.pt")
    assert record["box"] == "0,0,3,3"
    mean = [round(255 * value) for value in torch_model.load("padded.pt").header.preprocess.mean]
    patch = pixels("t.png")[picture_style.TITLE_HEIGHT :][16 + 16 : 16 + 16 + 128, 16 : 16 + 128]
    assert (patch[:50] == mean).all()
    assert (patch[:, :50] == mean).all()
    assert (patch[52:, 52:] == [250, 0, 0]).all()


def test_top_images_of_a_dense_layer_are_whole(run, here, trained):
    """A unit of a vector sees the whole image."""
    records, _ = top(run, "--top-images", trained.parent / "val", "--layer", "head.dense1", "--count", "2")
    assert {each["box"] for each in records} == {f"0,0,{SIDE},{SIDE}"}


def test_top_images_reads_a_split_and_skips_broken_images(run, here):
    """Status 3, and a table of skipped images; the same input gives the same bytes."""
    write("red.pt", "conv 2 k3 relu", width=2, change=sum_of_red)
    squares(here / "in", {"a": 200, "b": 250})
    (here / "in" / "c.png").write_text("no image")
    (here / "m.tsv").write_text("path\tlabel\tsplit\nin/a.png\tx\ttrain\nin/b.png\tx\tval\nin/c.png\tx\ttrain\n")
    words = ("--top-images", "m.tsv", "--split", "train", "--errors", "e.tsv", "--filters", "0")
    records, messages = top(run, *words, model="red.pt", status=3)
    assert [each["path"] for each in records] == ["in/a.png"]
    assert "in/c.png: not an image" in messages
    assert "in/c.png" in (here / "e.tsv").read_text()
    content = (here / "t.png").read_bytes()
    assert top(run, *words, model="red.pt", status=3)[0] == records
    assert (here / "t.png").read_bytes() == content


@pytest.mark.photos
def test_top_images_of_squeezenet(run, photos, here):
    """Three of twelve photographs for each of eight filters, compared with a hook of torch; boxes in pixels of the files."""
    weights = photos / "weights" / "squeezenet1_1.pth"
    files = sorted((photos / "flowers" / "tulip").glob("*.jpg"))[:12]
    words = ["--weights", weights, "--layer", "features.3", "--filters", "0-7", "--count", "3"]
    for path in files:
        words += ["--top-images", path]
    records, _ = top(run, *words, model="squeezenet1_1")
    network = torchvision.models.squeezenet1_1(weights=None).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    prepare = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    kept = []
    network.features[3].register_forward_hook(lambda _module, _given, made: kept.append(made))
    with torch.no_grad():
        for path in files:
            with Image.open(path) as image:
                network(prepare(image.convert("RGB"))[None])
    values = torch.cat(kept)[:, :8].flatten(2).max(2)
    order = values.values.argsort(dim=0, descending=True)[:3]
    assert [(each["filter"], each["rank"]) for each in records] == [(f, rank) for f in range(8) for rank in (1, 2, 3)]
    for record in records:
        index = int(order[record["rank"] - 1, record["filter"]])
        assert Path(record["path"]) == files[index]
        assert record["activation"] == pytest.approx(float(values.values[index, record["filter"]]), rel=1e-3)
        with Image.open(files[index]) as image:
            width, height = image.size
        scale = min(width, height) / 256
        _, column = divmod(int(values.indices[index, record["filter"]]), kept[0].shape[3])
        # conv 3 s2, pool 3 s2 (rounded up), 1x1 and 3x3: 15 pixels, 4 from cell to cell, the first at 3 - 4
        left = 4 * column - 4 + ((width / scale) - 224) / 2
        x, y, wide, high = map(int, record["box"].split(","))
        assert 0 <= x < x + wide <= width
        assert 0 <= y < y + high <= height
        if 0 < column < 54:
            assert x == pytest.approx(left * scale, abs=1.5 * scale)
            assert wide == pytest.approx(15 * scale, abs=1.5)


# ---------------------------------------------------------------- words that do not fit


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (("m.onnx", "-o", "f.png"), 2, "m.onnx: an exported network has no gradients; give the .pt it was made from"),
        (("m.pt", "-o", "f.png", "--layer", "cov1"), 2, 'm.pt has no layer "cov1"; did you mean conv1?'),
        (("m.pt", "-o", "f.png", "--filters", "8", "--layer", "bn1"), 2, "--filters 8: bn1 has 8, numbered 0 to 7"),
        (("m.pt", "-o", "f.png", "--kernels", "--layer", "conv1"), 2, "--kernels draws the kernels of the first convolution"),
        (("m.pt", "-o", "f.png", "--kernels", "--batch", "4"), 2, "--batch has no effect with --kernels; drop it"),
        (("m.pt", "-o", "f.png", "--kernels", "--blur", "1"), 2, "--blur has no effect with --kernels; drop it"),
        (("m.pt", "-o", "f.png", "--kernels", "--steps", "9"), 2, "--steps has no effect with --kernels; drop it"),
        (("m.pt", "-o", "f.png", "--kernels", "--steps", "64"), 2, "--steps has no effect with --kernels; drop it"),
        (("m.pt", "-o", "f.png", "--kernels", "--rate", "9"), 2, "--rate has no effect with --kernels; drop it"),
        (("m.pt", "-o", "f.png", "--kernels", "--jitter", "9"), 2, "--jitter has no effect with --kernels; drop it"),
        (("m.pt", "-o", "f.png", "--kernels", "--size", "9"), 2, "--size has no effect with --kernels; drop it"),
        (("m.pt", "-o", "f.png", "--kernels", "--seed", "9"), 2, "--seed has no effect on the weights that --kernels draws"),
        (("m.onnx", "-o", "f.png", "--top-images", "m.png"), 1, "m.png: no such"),
        (("m.pt", "-o", "f.png", "--count", "4"), 2, "without --top-images, no images are read; drop --count"),
        (("m.pt", "-o", "f.png", "--split", "val"), 2, "without --top-images, no images are read; drop --split"),
        (("m.pt", "-o", "f.png", "--top-images", "x", "--kernels"), 2, "--kernels draws weights, --top-images patches of"),
        (("m.pt", "-o", "f.png", "--top-images", "x", "--steps", "64"), 2, "--steps has no effect with --top-images; drop it"),
        (("m.pt", "-o", "f.png", "--top-images", "x", "--size", "9"), 2, "--size has no effect with --top-images; drop it"),
        (("m.pt", "-o", "f.png", "--octaves", "2"), 2, "--dream is now a separate command: cnn-dream"),
        (("m.pt", "-o", "f.png", "--octave-scale", "1.3"), 2, "--dream is now a separate command: cnn-dream"),
        (("m.pt", "-o", "f.png", "--dream", "sky.png", "--octaves", "2"), 2, "--dream is now a separate command: cnn-dream"),
        (("m.pt", "-o", "f.png", "--dream", "sky.png"), 2, "--dream is now a separate command: cnn-dream"),
        (("--dream", "sky.png"), 2, "--dream is now a separate command: cnn-dream MODEL IMAGE -o FILE.png"),
        (("m.pt", "-o", "f.png", "--dream", "sky.png", "--kernels"), 2, "--dream is now a separate command: cnn-dream"),
        (("m.pt", "-o", "f.png", "--size", "big"), 2, '--size "big"'),
        (("m.pt", "-o", "f.png", "--size", "2", "--layer", "conv1"), 2, "images of 2x2 are too small for conv1"),
        (("m.pt", "-o", "f.png", "--size", "9", "--blur", "50", "--layer", "conv1"), 2, "--blur 50"),
        (("none.pt", "-o", "f.png"), 1, "none.pt: No such file or directory"),
        (("-m", "none.pt", "-o", "f.png"), 1, "none.pt: No such file or directory"),
        (("n.pt", "-m", "m.pt", "-o", "f.png"), 2, "two models are given, n.pt and -m m.pt; drop one of them"),
    ],
)  # fmt: skip
def test_rejects_invalid_options(run, here, words, status, line):
    """Each error is one line with a remedy; nothing is printed or written."""
    there = sorted(os.listdir())
    outcome = run("cnn-filters", *words, *CPU, status=status)
    assert outcome.err.startswith(f"cnn-filters: {line}")
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""
    assert sorted(os.listdir()) == there


@pytest.mark.parametrize("mode", [(), ("--kernels",)])
@pytest.mark.parametrize("output", ["f.jpg", "nowhere/f.png"])
def test_rejects_output_before_loading_the_network(run, here, monkeypatch, mode, output):
    """A name that is not .png, or in a folder that does not exist."""
    monkeypatch.setattr(
        "cnnkit.explain.load_network.load_network", lambda *_, **__: pytest.fail("the network was loaded")
    )
    outcome = run("cnn-filters", "m.pt", "-o", output, *mode, *CPU, status=None)
    assert outcome.status in (1, 2)
    assert outcome.err.count("\n") == 1
    assert output.split("/")[0] in outcome.err


# ---------------------------------------------------------------- a real network


@pytest.mark.photos
def test_patterns_of_squeezenet(run, photos, here):
    """Each of eight patterns activates its filter most, and more than its noise; without blur, more than any noise."""
    weights = photos / "weights" / "squeezenet1_1.pth"
    words = ("--weights", weights, "--layer", "features.6", "--filters", "0-7", "--size", "64")
    network = torchvision.models.squeezenet1_1(weights=None)
    network.load_state_dict(torch.load(weights, weights_only=True))

    def means(images):
        shares = (torch.tensor(images) / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
            [0.229, 0.224, 0.225]
        )
        with torch.no_grad():
            return network.eval().features[:7](shares.permute(0, 3, 1, 2).float())[:, :8].mean((2, 3)).numpy()

    records = filters(run, *words, model="squeezenet1_1")
    found = means(tiles("f.png", 8, height=64, width=64))
    np.testing.assert_allclose([record["activation"] for record in records], np.diag(found), rtol=1e-3)
    assert (found.argmax(0) == np.arange(8)).all()
    generator = np.random.default_rng(0)
    quiet, loud = (128 + size * generator.uniform(-1, 1, (8, 64, 64, 3)) for size in (10, 127))
    assert (np.diag(found) > means(quiet).max(0)).all()
    sharp = filters(run, *words, "--blur", "0", model="squeezenet1_1")
    assert ([record["activation"] for record in sharp] > means(loud).max(0)).all()
