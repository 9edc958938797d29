"""Centres of the cells of maps, compared with torch's gradients and with values computed by hand."""

import math
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from onnx import TensorProto, helper
from torch import nn

from cnnkit.nets import backbones, dilation, layer_graph
from cnnkit.nets.cell_centres import Along, CellCentres, TracedMap, merged, middle, tiled
from cnnkit.nets.graph_centres import centres_of
from cnnkit.nets.module_centres import CentreTracer


class Swapped(nn.Module):
    """Channels last inside, as in Swin transformers, whose patches are merged by slices."""

    def forward(self, maps):
        maps = nn.functional.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 3, 1))
        maps = torch.cat([maps[:, down::2, right::2] for down in (0, 1) for right in (0, 1)], -1)
        return maps.transpose(1, 3).transpose(2, 3)


class Branches(nn.Module):
    """A residual block with squeeze-and-excitation and a channel shuffle."""

    def __init__(self):
        super().__init__()
        self.long = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 5, padding=2))
        self.short, self.squeeze = nn.Conv2d(4, 4, 1, stride=2), torchvision.ops.SqueezeExcitation(4, 2)

    def forward(self, maps):
        found = self.squeeze(self.long(maps)) + self.short(maps)
        batch, channels, height, width = found.shape
        found = found.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return found.view(batch, channels, height, width)


MODULES = {
    "conv": nn.Conv2d(3, 4, 3, padding=1),
    "strided": nn.Sequential(nn.Conv2d(3, 4, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, padding=1)),
    "without padding": nn.Sequential(nn.Conv2d(3, 4, (5, 3), stride=(3, 2)), nn.Conv2d(4, 4, 3, dilation=(2, 3))),
    "padding of torch's own": nn.Conv2d(3, 4, (5, 3), padding="same"),
    "pools": nn.Sequential(nn.AvgPool2d(2), nn.MaxPool2d(2), nn.AvgPool2d((3, 2), stride=1)),
    "padding": nn.Sequential(nn.ZeroPad2d((1, 0, 2, 0)), nn.ReflectionPad2d((1, 1, 0, 2)), nn.ReplicationPad2d(1)),
    "transposed": nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ConvTranspose2d(4, 4, 5, stride=2, padding=1)),
    "larger": nn.Sequential(nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.Upsample(scale_factor=3, mode="nearest")),
    "blocks": nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 4, 3), nn.PixelShuffle(2), nn.Conv2d(1, 4, 2)),
    "adaptive": nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d((16, 8))),
    "merged patches": nn.Sequential(Swapped(), nn.Conv2d(12, 4, 3)),
    "branches": nn.Sequential(nn.Conv2d(3, 4, 3), Branches()),
}


def traced(module, height, width):
    tracer = CentreTracer()
    images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    tracer.known[images] = TracedMap()
    with torch.no_grad(), tracer:
        made = module.eval()(images)
    return made, tracer.known[made]


def seen(module, height, width, row, column):
    """Return the first and the last of the pixels that a cell depends on, by row and by column, without global paths."""
    images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1), requires_grad=True)
    module(images)[0, :, row, column].sum().backward()
    strength = images.grad[0].abs().sum(0)
    rows, columns = (strength > 1e-3 * strength.max()).nonzero(as_tuple=True)
    return (int(rows.min()), int(rows.max())), (int(columns.min()), int(columns.max()))


def reached(module, height, width, row, column):
    """Return the middle of these pixels, (y, x)."""
    return tuple((first + last) / 2 for first, last in seen(module, height, width, row, column))


@pytest.mark.parametrize("name", MODULES)
def test_centres_agree_with_gradients(name):
    """For an image of 48x40 pixels and a cell whose receptive field is inside."""
    module = MODULES[name]
    with torch.no_grad():
        for index, weight in enumerate(module.parameters()):  # no two paths cancel, and no excitation is 0
            weight.copy_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(index)) + 0.1)
    if name == "branches":  # global paths reach every pixel: replaced by a constant
        nn.init.zeros_(module[1].squeeze.fc2.weight)
    made, found = traced(module, 48, 40)
    row, column = made.shape[-2] // 2, made.shape[-1] // 2
    if name in (
        "pools",
        "strided",
    ):  # the gradient of a maximum is a single pixel: use the mean, with the same windows
        module = nn.Sequential(
            *(nn.AvgPool2d(each.kernel_size, each.stride, each.padding) if isinstance(each, nn.MaxPool2d) else each for each in module)
        )  # fmt: skip
    expected = reached(module, 48, 40, row, column)
    if name == "larger":  # cells are repeated: the middle one of three has the centre of the original
        row, column = 3 * (row // 3) + 1, 3 * (column // 3) + 1
    if name == "transposed":  # an output at an even position depends on two inputs, at an odd one on three
        row, column = row | 1, column | 1
        expected = reached(module, 48, 40, row, column)
    assert found.rows.first + row * found.rows.step == pytest.approx(expected[0])
    assert found.columns.first + column * found.columns.step == pytest.approx(expected[1])


@pytest.mark.parametrize("name", MODULES)
def test_receptive_fields_agree_with_gradients(name):
    """Exact for convolutions, pools and their branches; no smaller where cells are interpolated."""
    module = MODULES[name]
    with torch.no_grad():
        for index, weight in enumerate(module.parameters()):
            weight.copy_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(index)) + 0.1)
    if name == "branches":
        nn.init.zeros_(module[1].squeeze.fc2.weight)
    made, found = traced(module, 48, 40)
    row, column = made.shape[-2] // 2, made.shape[-1] // 2
    if name in ("pools", "strided"):
        module = nn.Sequential(
            *(nn.AvgPool2d(each.kernel_size, each.stride, each.padding) if isinstance(each, nn.MaxPool2d) else each for each in module)
        )  # fmt: skip
    for side, cell, (first, last), length in zip(
        (found.rows, found.columns), (row, column), seen(module, 48, 40, row, column), (48, 40), strict=True
    ):
        start, stop = side.seen(cell, length)
        if name in ("larger", "transposed", "blocks", "adaptive"):
            assert start <= first < last < stop
        else:
            assert (start, stop) == (first, last + 1)


@pytest.mark.parametrize(("name", "extent"), [("mobilenet_v2", 491), ("squeezenet1_1", 207)])
def test_receptive_field_of_networks_is_that_of_cnn_dims(name, extent):
    """Of the last map; the largest path through blocks counts."""
    network, _ = layer_graph.of_name(name, weights="none")
    place = network.centres[network.last_spatial().node]
    assert (place.rows.extent, place.columns.extent) == (extent, extent)


def test_receptive_field_after_attention_is_unknown():
    """Tokens mix the cells of a map; a cell then sees the whole input."""
    tracer = CentreTracer()
    images = torch.rand(1, 3, 8, 8)
    tracer.known[images] = TracedMap()
    with torch.no_grad(), tracer:
        maps = nn.functional.conv2d(images, torch.ones(4, 3, 3, 3), stride=2, padding=1)
        again = maps.flatten(2).softmax(2).view(1, 4, 4, 4).clone()
    tracer.regain([], again, channels_last=False)
    assert tracer.known[maps].rows.seen(1, 8) == (1, 4)
    assert tracer.known[again].rows.seen(1, 8) == (0, 8)
    with torch.no_grad(), tracer:
        later = nn.functional.conv2d(again, torch.ones(4, 4, 3, 3))
    assert tracer.known[later].rows.seen(0, 8) == (0, 8)


@pytest.mark.parametrize(
    ("name", "size", "first", "step"),
    [
        ("mobilenet_v2", 224, 0, 32),  # every strided convolution is padded: cell i at 32 i
        ("resnet18", 224, 0, 32),
        ("squeezenet1_1", 224, 15, 16),
    ],
)
def test_networks_by_name(name, size, first, step):
    """By hand: first + ((k - 1) / 2 - padding) * step, layer by layer."""
    network, _ = layer_graph.of_name(name, weights="none")
    network.resize(replace(network.preprocess, size=size, resize=size))
    expected = Along(first, step)
    assert network.centres[network.last_spatial().node] == CellCentres(expected, expected, (size, size))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first", "step", "size"),
    [
        ("vgg11", 15.5, 32, 250),  # five pools of 2: the cells tile the image, except for 26 pixels at the end
        ("densenet121", 14, 32, 224),  # padded convolution and pool, then three pools of 2: 2 + 4 + 8
        ("inception_v3", 37, 32, 299),  # (299 - 1) / 2 - 3.5 * 32: eight cells around the middle
        ("swin_t", 15.5, 32, 224),  # patches merged in pairs tile the image
        ("efficientnet_b0", 0, 32, 224),
        ("shufflenet_v2_x0_5", 0, 32, 224),
    ],
)
def test_more_networks_by_name(name, first, step, size):
    """With branches, attention, channels last and shuffled channels; every layer with a map has centres."""
    network, _ = layer_graph.of_name(name, weights="none")
    network.resize(replace(network.preprocess, size=size, resize=size))
    assert all(layer.node in network.centres for layer in network.layers())
    expected = Along(first, step)
    assert network.centres[network.last_spatial().node] == CellCentres(expected, expected, (size, size))


def test_gradient_of_a_mobilenet_cell_is_around_its_centre():
    """features.18, cell (3, 3): 96, counted from the middle of the first pixel, not 111.5, as if the cells tiled the image."""
    network, _ = layer_graph.of_name("mobilenet_v2", weights="none")
    layer = network.find("features.18")
    part = network.upto([layer.node]).eval()
    total = torch.zeros(224, 224)
    for seed in range(4):
        images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(seed), requires_grad=True)
        part(images)[0][0, :, 3, 3].sum().backward()
        total += images.grad[0].abs().sum(0)
    places = torch.arange(224.0)
    for axis in (0, 1):
        centroid = float((total.sum(1 - axis) * places).sum() / total.sum())
        assert abs(centroid - 96) < 4, centroid


def test_finer_map_has_the_centres_of_the_coarse_one():
    """Every second row is the coarse map: the first cell keeps its centre, and the step is halved."""
    network, _ = layer_graph.of_name("mobilenet_v2", weights="none")
    finer, place = dilation.remove_last_stride(network, network.last_spatial())
    assert finer.centres[place.node].rows == Along(0, 16)


def test_map_reassembled_from_tokens_has_the_last_centres_of_its_size():
    """As in attention in windows; tokens of another size, and vectors, have no centres."""
    tracer = CentreTracer()
    images = torch.rand(1, 3, 8, 8)
    tracer.known[images] = TracedMap()
    with torch.no_grad(), tracer:
        maps = nn.functional.conv2d(images, torch.ones(4, 3, 3, 3), stride=2, padding=1)
        tokens = maps.flatten(2).softmax(2)
        again, other = tokens.view(1, 4, 4, 4).clone(), tokens.view(1, 4, 2, 8).clone()
        last = tokens.transpose(1, 2).reshape(1, 4, 4, 4)
    assert not any(each in tracer.known for each in (tokens, again, other, last))
    tracer.regain([], again, channels_last=False)
    tracer.regain([], last, channels_last=True)
    tracer.regain([], other, channels_last=False)
    assert tracer.known[again] == TracedMap(Along(0, 2), Along(0, 2))
    assert tracer.known[last] == TracedMap(Along(0, 2), Along(0, 2), (-3, -2))
    assert other not in tracer.known


def test_padding_of_keras_depends_on_the_size():
    """`same` adds nothing before an even side, and one pixel before an odd one."""
    backbone, _, preprocess = backbones.by_notation("conv 2 k3 s2 same relu", size=16, seed=0)
    found = [traced(backbone, height, 17)[1] for height in (16, 17)]
    assert preprocess.size == 16
    assert [each.rows for each in found] == [Along(1, 2), Along(0, 2)]
    assert [each.columns for each in found] == [Along(0, 2), Along(0, 2)]


def test_where_branches_differ_the_middle_holds():
    """The middle between the outermost; maps of another size are ignored."""
    assert middle([Along(0, 2), Along(3, 2), Along(1, 2)]) == Along(1.5, 2)
    one, other = TracedMap(Along(0, 2), Along(0, 2)), TracedMap(Along(1, 2), Along(4, 2))
    assert merged([((1, 4, 8, 8), one), ((1, 4, 8, 8), other)], (1, 4, 8, 8)) == TracedMap(Along(0.5, 2), Along(2, 2))
    assert merged([((1, 4, 8, 8), one), ((1, 4, 1, 1), other)], (1, 4, 8, 8)) == one
    assert merged([((1, 4, 8, 8), one)], (1, 4, 7, 8)) is None


# ---------------------------------------------------------------- exported networks


INT, FLOAT = TensorProto.INT64, TensorProto.FLOAT


def graph(nodes, shape, *, constants=(), opset=18, domains=()):
    """Make a model with input `x` and map `y`; a constant has values, or only a shape if it is a weight."""
    stored = [
        helper.make_tensor(name, INT, [len(values)], values)
        if kind == INT
        else helper.make_tensor(name, kind, values, [0.0] * math.prod(values))
        for name, kind, values in constants
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(each, 1) for each in domains)]
    made = helper.make_graph(nodes, "g", [x], [y], stored)
    return helper.make_model(made, opset_imports=opsets)


NODES = {
    "conv": ([("Conv", "x w", {"strides": [2, 2], "pads": [3, 3, 3, 3]})], [("w", FLOAT, (4, 3, 7, 7))], (0, 2)),
    "same": (
        [("Conv", "x w", {"strides": [2, 2], "auto_pad": "SAME_UPPER"})],
        [("w", FLOAT, (4, 3, 3, 3))],
        (1, 2),
    ),
    "same, more before": (
        [("Conv", "x w", {"strides": [2, 2], "auto_pad": "SAME_LOWER"})],
        [("w", FLOAT, (4, 3, 3, 3))],
        (0, 2),
    ),
    "dilated": ([("Conv", "x w", {"dilations": [2, 2]})], [("w", FLOAT, (4, 3, 3, 3))], (2, 1)),
    "pools": (
        [
            ("MaxPool", "x", {"kernel_shape": [2, 2], "strides": [2, 2]}),
            ("AveragePool", "_", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ],
        [],
        (1.5, 4),
    ),
    "pad": ([("Pad", "x pads", {})], [("pads", INT, (0, 0, 2, 2, 0, 0, 1, 1))], (-2, 1)),
    "slice": (
        [("Slice", "x starts ends axes steps", {})],
        [("starts", INT, (1, -31)), ("ends", INT, (99, 99)), ("axes", INT, (2, 3)), ("steps", INT, (2, 2))],
        (1, 2),
    ),
    "transposed": (
        [("ConvTranspose", "x w", {"strides": [2, 2], "pads": [1, 1, 1, 1]})],
        [("w", FLOAT, (3, 4, 4, 4))],
        (-0.25, 0.5),
    ),
    "resized": (
        [("Resize", "x _0 _0 sizes", {"mode": "linear"})],
        [("sizes", INT, (1, 3, 64, 64))],
        (-0.25, 0.5),
    ),
    "resized, corners": (
        [("Resize", "x _0 _0 sizes", {"mode": "linear", "coordinate_transformation_mode": "align_corners"})],
        [("sizes", INT, (1, 3, 63, 63))],
        (0, 0.5),
    ),
    "activations": ([("Relu", "x", {}), ("Cast", "_", {"to": TensorProto.FLOAT16})], [], (0, 1)),
    "excitation": (
        [("GlobalAveragePool", "x", {}), ("Sigmoid", "_", {}), ("Mul", "_ x", {})],
        [],
        (0, 1),
    ),
    "blocks": ([("SpaceToDepth", "x", {"blocksize": 4}), ("DepthToSpace", "_", {"blocksize": 2})], [], (0.5, 2)),
    "shuffled channels": (
        [("Reshape", "x groups", {}), ("Transpose", "_", {"perm": [0, 2, 1, 3, 4]}), ("Reshape", "_ back", {})],
        [("groups", INT, (0, 3, 1, 32, 32)), ("back", INT, (1, -1, 32, 32))],
        (0, 1),
    ),
    "one channel, and again": (
        [
            ("Gather", "x one", {"axis": 1}),
            ("Squeeze", "_ one", {}),
            ("Unsqueeze", "_ one", {}),
            ("Concat", "_ _", {"axis": 1}),
        ],
        [("one", INT, (1,))],
        (0, 1),
    ),
    "dense on channels": (
        [("Transpose", "x", {"perm": [0, 2, 3, 1]}), ("MatMul", "_ w", {}), ("Transpose", "_", {"perm": [0, 3, 1, 2]})],
        [("w", FLOAT, (3, 5))],
        (0, 1),
    ),
    "fused": (
        [("com.microsoft.FusedConv", "x w", {"strides": [4, 4], "kernel_shape": [4, 4], "activation": "Relu"})],
        [("w", FLOAT, (4, 3, 4, 4))],
        (1.5, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_nodes_of_a_graph(name):
    """For an image of 32x32 pixels; computed by hand."""
    described, constants, (first, step) = NODES[name]
    nodes, before = [], "x"
    for number, (kind, words, attributes) in enumerate(described):
        made = "y" if number == len(described) - 1 else f"v{number}"
        inputs = [before if word == "_" else word.replace("_0", "") for word in words.split()]
        domain, _, kind = kind.rpartition(".")
        nodes.append(helper.make_node(kind, inputs, [made], domain=domain, **attributes))
        before = made
    model = graph(nodes, [1, 3, 32, 32], constants=constants, domains=["com.microsoft"])
    expected = Along(first, step)
    assert centres_of(model, "y", size=(32, 32)) == CellCentres(expected, expected, (32, 32))


def test_channels_last_and_a_free_size():
    """As in exports of cnn-export: uint8 (N, H, W, 3), transposed in the graph; the size of the images is given."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["a", "w"], ["y"], strides=[2, 2], auto_pad="SAME_UPPER"),
    ]
    model = graph(nodes, ["batch", "height", "width", 3], constants=[("w", FLOAT, (4, 3, 3, 3))])
    assert centres_of(model, "y", size=(32, 31)) == CellCentres(Along(1, 2), Along(0, 2), (32, 31))


def test_padding_that_the_graph_computes_from_the_size():
    """The exported `same` of a network for any size: half of (ceil(n / 2) - 1) * 2 + 3 - n, twice in a row."""
    constants = [
        ("one", INT, (1,)),
        ("two", INT, (2,)),
        ("zero", INT, (0,)),
        ("w", FLOAT, (3, 3, 3, 3)),
        ("hw", INT, (2, 3)),
    ]
    nodes, given = [], "x"
    for number in range(2):
        steps = [
            ("Shape", [given], "shape"), ("Gather", ["shape", "hw"], "n"), ("Add", ["n", "one"], "more"),
            ("Div", ["more", "two"], "half"), ("Sub", ["half", "one"], "less"), ("Mul", ["less", "two"], "last"),
            ("Add", ["last", "one"], "end"), ("Add", ["end", "two"], "span"), ("Sub", ["span", "n"], "both"),
            ("Div", ["both", "two"], "before"), ("Sub", ["both", "before"], "after"),
            ("Concat", ["zero", "zero", "before", "zero", "zero", "after"], "pads"),
        ]  # fmt: skip
        own = {made: f"{made}{number}" for _, _, made in steps}
        for kind, names, made in steps:
            attributes = {"axis": 0} if kind == "Concat" else {}
            nodes.append(helper.make_node(kind, [own.get(name, name) for name in names], [own[made]], **attributes))
        nodes.append(helper.make_node("Pad", [given, own["pads"]], [f"padded{number}"]))
        given = "y" if number else "v"
        nodes.append(helper.make_node("Conv", [f"padded{number}", "w"], [given], strides=[2, 2]))
    found = centres_of(graph(nodes, [1, 3, "height", "width"], constants=constants), "y", size=(32, 31))
    # 32: one after, one after of 16; 31: one on both sides, one after of 16
    assert found == CellCentres(Along(1 + 2, 4), Along(0 + 2, 4), (32, 31))


RESIZES = [
    ("Resize", 18, {"mode": mode, "coordinate_transformation_mode": way})
    for mode in ("linear", "cubic")
    for way in ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")
]


@pytest.mark.parametrize(
    ("kind", "opset", "attributes"),
    [
        *RESIZES,
        ("Resize", 18, {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        ("Resize", 10, {"mode": "linear"}),
        ("Upsample", 9, {"mode": "linear"}),
        ("Upsample", 9, {"mode": "nearest"}),
    ],
)
def test_interpolation_agrees_with_onnx_runtime(kind, opset, attributes):
    """The mean row that a cell responds to, for a stride of 4 and upsampling by 2, far from the borders."""
    inputs = ["a", "", "scales"] if opset > 10 else ["a", "scales"]
    nodes = [
        helper.make_node("AveragePool", ["x"], ["a"], kernel_shape=[1, 1], strides=[4, 4]),
        helper.make_node(kind, inputs, ["y"], **attributes),
    ]
    model = graph(nodes, [1, 1, 64, 64], opset=opset)
    model.graph.initializer.append(helper.make_tensor("scales", FLOAT, [4], [1, 1, 2, 2]))
    model.ir_version = 8
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = np.zeros((64, 1, 64, 64), np.float32)
    rows[range(64), :, range(64)] = 1
    response = np.array([session.run(None, {"x": row[None]})[0][0, 0, :, 16] for row in rows])  # (64 rows, cells)
    found = centres_of(model, "y", size=(64, 64)).rows
    cells = np.arange(12, 20)
    centres = (np.arange(64) @ response)[cells]
    if attributes["mode"] == "nearest":  # two neighbours copy one cell
        cells, centres = cells.reshape(-1, 2).mean(axis=1), centres.reshape(-1, 2).mean(axis=1)
    slack = 0.2 if attributes["mode"] == "cubic" else 1e-3  # the centre of a cubic's weights is only near the position
    np.testing.assert_allclose(found.first + found.step * cells, centres, atol=slack)


def test_unknown_centres_are_none():
    """A map that was cut into tokens, or a padding that depends on the image."""
    flat = [helper.make_node("Reshape", ["x", "s"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    assert centres_of(graph(flat, [1, 3, 8, 8], constants=[("s", INT, (1, 3, 64))]), "y", size=(8, 8)) is None
    summed = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    assert centres_of(graph(summed, [1, 3, 8, 8], constants=[("w", FLOAT, (8, 8))]), "y", size=(8, 8)) is None
    cut = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    assert centres_of(graph(cut, [1, 3, 8, 8], constants=[("s", INT, (1, 8, 8, 3))]), "y", size=(8, 8)) is None
    words = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "linear"}
    cropped = [helper.make_node("Resize", ["x", "box", "", "s"], ["y"], **words)]
    made = graph(cropped, [1, 3, 8, 8], constants=[("s", INT, (1, 3, 4, 4)), ("box", FLOAT, (8,))])
    assert centres_of(made, "y", size=(8, 8)) is None
    padded = [helper.make_node("NonZero", ["x"], ["s"]), helper.make_node("Pad", ["x", "s"], ["y"])]
    assert centres_of(graph(padded, [1, 3, 8, 8]), "y", size=(8, 8)) is None


def test_tiled_cells_are_centred():
    """In units of the map itself."""
    assert tiled((3, 4)) == CellCentres(Along(0, 1), Along(0, 1), (3, 4))


@pytest.mark.parametrize(
    ("opset", "operator", "attrs"),
    [
        (17, "Resize", {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}),
        (17, "Resize", {"mode": "cubic", "coordinate_transformation_mode": "asymmetric"}),
        (17, "Resize", {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}),
        (17, "Resize", {"mode": "cubic", "cubic_coeff_a": -0.5}),
        (10, "Resize", {"mode": "linear"}),
        (9, "Upsample", {"mode": "linear"}),
    ],
)
def test_upsampled_map_agrees_with_onnx_runtime(opset, operator, attrs):
    """The centre of gravity of ONNX Runtime's response to single rows of the image is the centre of the cell."""
    scales = helper.make_tensor("s", TensorProto.FLOAT, [4], [1, 1, 2, 2])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [1])
    given = ["y", "", "s"] if opset > 10 else ["y", "s"]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], strides=[4, 4], kernel_shape=[1, 1]),
        helper.make_node(operator, given, ["z"], **attrs),
    ]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [32, 1, 32, 32])]
    ends += [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    made = helper.make_graph(nodes, "", ends[:1], ends[1:], [weight, scales])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    rows = np.broadcast_to(np.eye(32, dtype=np.float32)[:, None, :, None], (32, 1, 32, 32))  # one row of each image
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    reached = session.run(None, {"x": rows})[0][:, 0, :, 5]
    found = centres_of(model, "z", size=(32, 32))
    for cell in (6, 7):
        expected = (np.arange(32) * reached[:, cell]).sum() / reached[:, cell].sum()
        assert found.rows.first + cell * found.rows.step == pytest.approx(expected, abs=1e-4)


def test_centres_after_crop_and_resize_are_unknown():
    """The region of tf_crop_and_resize is an input."""
    attrs = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}
    nodes = [helper.make_node("Resize", ["x", "r", "s"], ["y"], **attrs)]
    model = graph(nodes, [1, 3, 8, 8])
    for name, values in (("r", [0.0, 0, 0, 0, 1, 1, 1, 1]), ("s", [1.0, 1, 2, 2])):
        model.graph.initializer.append(helper.make_tensor(name, FLOAT, [len(values)], values))
    assert centres_of(model, "y", size=(8, 8)) is None
