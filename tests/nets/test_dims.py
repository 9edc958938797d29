"""Arithmetic of layers, compared with torch, with brute force and with the textbooks' worked examples."""

import itertools
import math
import re

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from cnnkit.errors import FormatError, UsageError
from cnnkit.nets import build, dims, dims_pipe
from cnnkit.nets.dims import Window
from cnnkit.nets.notation import parse


def measure(text, height, width, channels, **words):
    return dims.measure(parse(text), height=height, width=width, channels=channels, **words)


def only(text, height, width, channels):
    (row,) = measure(text, height, width, channels)
    return row


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("text", "size", "shapes"),
    [
        ("conv 32 k3 s2 same", (128, 128, 3), [(64, 64, 32)]),
        ("conv 32 k3", (28, 28, 1), [(26, 26, 32)]),
        ("conv 16 k2 s2 valid", (200, 200, 1), [(100, 100, 16)]),
        ("pool 2", (100, 100, 15), [(50, 50, 15)]),
        ("conv 96 k11 s4", (227, 227, 3), [(55, 55, 96)]),  # AlexNet
        (
            "conv 16 k2 same relu, pool 2, conv 32 k2 same relu, pool 2, conv 64 k2 same relu, pool 2,"
            "flatten, dense 500 relu, dense 10 softmax",
            (32, 32, 3),
            [(32, 32, 16), (16, 16, 16), (16, 16, 32), (8, 8, 32), (8, 8, 64), (4, 4, 64), (1024,), (500,), (10,)],
        ),
        (
            "pad 2, conv 192 k5 relu, 11 * (conv 192 k3 same relu), conv 1 k1",  # AlphaGo's policy network
            (19, 19, 48),
            [(23, 23, 48), *[(19, 19, 192)] * 12, (19, 19, 1)],
        ),
    ],
)
def test_worked_examples(text, size, shapes):
    """The textbooks' networks have the textbooks' sizes."""
    assert [row.shape for row in measure(text, *size)] == shapes


VGG16 = (
    "2 * (conv 64 k3 same relu), pool 2, 2 * (conv 128 k3 same relu), pool 2, 3 * (conv 256 k3 same relu), pool 2,"
    "2 * (3 * (conv 512 k3 same relu), pool 2), flatten, 2 * (dense 4096 relu, dropout 0.5), dense 1000 softmax"
)


def test_vgg16_by_notation():
    """VGG16 has the published number of parameters and of multiply-accumulates, and its known receptive field."""
    rows = measure(VGG16, 224, 224, 3)
    total = dims.total(rows)
    assert total.params == 138_357_544
    assert round(total.macs / 1e9, 2) == 15.47  # torchvision's table
    last_pool = next(row for row in rows if row.layer == "pool5")
    assert (last_pool.receptive_field, last_pool.stride) == (212, 32)


WORKED_BY_HAND = [  # size, kernel, stride, dilation -> windows, pixels before, pixels after
    (5, 3, 1, 1, 5, 1, 1),
    (5, 3, 2, 1, 3, 1, 1),
    (6, 3, 2, 1, 3, 0, 1),
    (4, 2, 1, 1, 4, 0, 1),
    (4, 2, 2, 1, 2, 0, 0),
    (7, 5, 3, 1, 3, 2, 2),
    (10, 3, 4, 1, 3, 0, 1),
    (7, 1, 3, 1, 3, 0, 0),
    (7, 3, 1, 2, 7, 2, 2),
    (3, 7, 1, 1, 3, 3, 3),
    (1, 3, 2, 1, 1, 1, 1),
]


@pytest.mark.parametrize(("size", "kernel", "stride", "dilation", "count", "before", "after"), WORKED_BY_HAND)
def test_same_padding_is_that_of_keras(size, kernel, stride, dilation, count, before, after):
    """`same` gives ceil(size / stride) windows, and an odd pixel of padding goes after; worked out by hand."""
    window = Window(kernel, stride, build.Padding.same, dilation)
    assert (window.count(size), window.pads(size)) == (count, (before, after))
    torchs = nn.functional.conv1d(
        nn.functional.pad(torch.zeros(1, 1, size), (before, after)),
        torch.zeros(1, 1, kernel),
        None,
        stride,
        0,
        dilation,
    )
    assert torchs.shape[-1] == count
    assert window.unread(size) == 0


GRID = list(itertools.product((5, 8, 13), (1, 2, 3, 5), (1, 2, 3), ("valid", "p1", "p2"), (1, 2), (1, 2, 4)))


def test_convolutions_agree_with_torch_over_a_grid():
    """Output, parameters and multiply-accumulates are torch's, for every (size, k, s, pad, dilation, groups)."""
    compared = 0
    for size, kernel, stride, padding, dilation, groups in GRID:
        text = f"conv 8 k{kernel}x3 s{stride}x1 {padding} d{dilation} g{groups}"
        pad = int(padding.removeprefix("p")) if padding != "valid" else 0
        layer = nn.Conv2d(4, 8, (kernel, 3), (stride, 1), pad, dilation, groups, device="meta")
        try:
            made = layer(torch.zeros(1, 4, size, 9, device="meta"))
        except RuntimeError:  # how torch reports a kernel larger than the input
            with pytest.raises(UsageError, match="is larger than its input's height"):
                only(text, size, 9, 4)
            continue
        row = only(text, size, 9, 4)
        assert row.shape == (*made.shape[2:], 8), text
        assert row.params == sum(value.numel() for value in layer.parameters()), text
        assert row.macs == made[0].numel() * layer.weight[0].numel(), text
        compared += 1
    assert compared > 300


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([("pool", nn.MaxPool2d), ("avgpool", nn.AvgPool2d)]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.integers(0, 2),
)
def test_pools_agree_with_torch(kind, size, kernel, stride, padding):
    """Pooling has torch's sizes for all windows, strides and paddings that torch takes, and refuses others."""
    word, module = kind
    text = f"{word} {kernel[0]}x{kernel[1]} s{stride[0]}x{stride[1]} p{padding}"
    try:
        made = module(kernel, stride, padding)(torch.zeros(1, 3, *size, device="meta"))
    except RuntimeError:
        with pytest.raises(UsageError):
            only(text, *size, 3)
        return
    row = only(text, *size, 3)
    assert row.shape == (*made.shape[2:], 3)
    assert (row.params, row.macs) == (0, 0)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 30),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from(["conv 4", "pool", "avgpool"]),
)
def test_same_agrees_with_the_built_network(size, kernel, stride, dilation, word):
    """The network built from `same` layers has the sizes in the table."""
    text = f"conv 4 k{kernel} s{stride} same d{dilation}" if word == "conv 4" else f"{word} {kernel} s{stride} same"
    network = build.build(parse(text), channels=4, height=size, width=size + 3)
    made = network(torch.zeros(1, 4, size, size + 3))
    assert only(text, size, size + 3, 4).shape == (*made.shape[2:], made.shape[1])


@pytest.mark.parametrize(
    "text",
    [
        "pad 1, conv 6 k3 bn relu, avgpool 2, conv 6 k3 g3 nobias, dropout 0.2, relu, pool 2 same, flatten, dense 7 nobias bn",
        "local 4 k3 s2 bn relu, lrn 3, residual(conv 8 k3 s2 same, bn), concat(conv 4 k1 | pool 3 s1 same) relu, conv 4 k1 bias position,"
        "deconv 6 k3 s2 p1 g2, deconv 2 k4 s3 same, residual(deconv 2 k3 same nobias), gap, residual(dense 3, bn)",
    ],
)
def test_every_kind_agrees_with_the_built_network(text):
    """Shapes, parameters and bytes of a chain with every kind of layer are those of torch's modules."""
    rows = measure(text, 21, 18, 3, batch=5, bytes_per_value=2)
    network = build.build(parse(text), channels=3, height=21, width=18).eval()
    for row in rows:
        part = network.upto(row.layer)
        made = part(torch.zeros(1, 3, 21, 18))[0]
        assert row.shape == ((*made.shape[1:], made.shape[0]) if made.ndim == 3 else tuple(made.shape))
        assert row.activation_bytes == made.numel() * 5 * 2
    assert dims.total(rows).params == sum(value.numel() for value in network.parameters())


def test_global_pools_and_vectors():
    """gap and gmp keep the channels; dense, bn, dropout and activations take vectors."""
    rows = measure("gmp, dense 7 relu, bn, dropout 0.5, tanh", 9, 8, 5)
    assert [row.shape for row in rows] == [(5,), (7,), (7,), (7,), (7,)]
    assert measure("gap", 9, 8, 5)[0].shape == (5,)
    head = measure("dense 256 relu, dropout 0.5, dense 2", None, None, 1280)
    assert [row.params for row in head] == [1280 * 256 + 256, 0, 514]
    assert all(row.receptive_field is None and row.height is None for row in head)


# ---------------------------------------------------------------- counts


@settings(deadline=None, max_examples=40)
@given(
    st.integers(3, 7),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 2]),
    st.sampled_from(["valid", "same", "p1"]),
)
def test_macs_count_the_products_of_the_textbook_loops(size, kernel, stride, groups, padding):
    """Counting in the textbook's seven nested loops gives the same multiply-accumulates."""
    row = only(f"conv 4 k{kernel} s{stride} {padding} g{groups}", size, size + 1, 2)
    count = 0
    for _row, _column, filter_ in itertools.product(range(row.height), range(row.width), range(4)):
        group = filter_ // (4 // groups)
        channels = [channel for channel in range(2) if channel // (2 // groups) == group]
        for _channel, _down, _across in itertools.product(channels, range(kernel), range(kernel)):
            count += 1
    assert row.macs == count


@settings(deadline=None, max_examples=60)
@given(st.tuples(st.integers(3, 17), st.integers(3, 17)), st.integers(1, 4), st.integers(1, 4), st.integers(0, 1))
def test_dropped_pixels_have_no_gradient(size, kernel, stride, padding):
    """`dropped` is the number of input pixels without effect on the output, if windows leave no gaps."""
    assume(stride <= kernel and kernel <= min(size))
    assume(padding <= kernel // 2)
    image = torch.zeros(1, 1, *size, requires_grad=True)
    nn.functional.conv2d(image, torch.ones(1, 1, kernel, kernel), None, stride, padding).sum().backward()
    assert only(f"conv 1 k{kernel} s{stride} p{padding}", *size, 1).dropped == int((image.grad == 0).sum())


@pytest.mark.parametrize(
    ("text", "size", "dropped"),
    [
        ("pool 2", (5, 5), 9),  # one row and one column: 25 - 16
        ("pool 2", (5, 4), 4),
        ("pool 2 same", (5, 5), 0),
        ("conv 1 k1 s3", (6, 6), 0),  # pixel 5 is in a gap: a third window would start after it
        ("conv 1 k2 s4", (5, 5), 9),  # a second window would start at pixel 4, and does not fit
        ("conv 1 k3 d2 s2", (8, 8), 15),
        ("conv 96 k11 s4", (224, 224), 224 * 224 - 223 * 223),  # AlexNet needs 227
    ],
)
def test_dropped_pixels_by_hand(text, size, dropped):
    """Rows and columns that only a further window would read are dropped; gaps between windows are not."""
    assert only(text, *size, 1).dropped == dropped


# ---------------------------------------------------------------- receptive fields


def extent(network, image, row, column):
    """Return first and last (row, column) of the pixels that one output value depends on."""
    image.grad = None
    network(image)[0, :, row, column].sum().backward()
    seen = (image.grad[0].abs().sum(0) > 0).nonzero()
    return seen.amin(0), seen.amax(0)


@pytest.mark.parametrize(
    "text",
    [
        "conv 2 k3",
        "conv 2 k3x5 s2x1 same",
        "conv 2 k3 d3 same, conv 2 k2 s2, avgpool 3 s1",
        "conv 2 k5 s2 p2, conv 2 k3 s2 p1, conv 2 k3x1 d2 p1, bn, dropout 0.1",
        "pad 1, 3 * (conv 2 k3 same, avgpool 2)",
    ],
)
def test_receptive_field_and_stride_agree_with_gradients(text):
    """The pixels that one output value depends on span the receptive field; its neighbour's are one stride further."""
    layers = parse(text)
    row = dims.measure(layers, height=90, width=85, channels=2)[-1]
    network = build.build(layers, channels=2, height=90, width=85).double().eval()
    for value in network.parameters():
        nn.init.constant_(value, 0.5)  # no two paths cancel
    image = torch.ones(1, 2, 90, 85, dtype=torch.double, requires_grad=True)
    down, across = row.height // 2, row.width // 2
    first, last = extent(network, image, down, across)
    following, _ = extent(network, image, down + 1, across + 1)
    field = [int(side) for side in (last - first + 1)]
    stride = [int(side) for side in (following - first)]
    assert row.receptive_field == (field[0] if field[0] == field[1] else f"{field[0]}x{field[1]}")
    assert row.stride == (stride[0] if stride[0] == stride[1] else f"{stride[0]}x{stride[1]}")


def test_receptive_field_of_global_pooling_is_the_whole_map():
    """After gap and after flatten, a value depends on all pixels that the map depends on."""
    layers = parse("conv 2 k3 s2, gap, dense 3")
    rows = dims.measure(layers, height=20, width=20, channels=1)
    network = build.build(layers, channels=1, height=20, width=20)
    for value in network.parameters():
        nn.init.constant_(value, 0.5)
    image = torch.ones(1, 1, 20, 20, requires_grad=True)
    network(image).sum().backward()
    assert rows[-1].receptive_field == int((image.grad[0, 0].sum(0) > 0).sum()) == 19
    assert rows[-1].stride is None
    assert measure("conv 2 k3 s2, flatten, dense 3", 20, 20, 1)[-1].receptive_field == 19


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "size", "words"),
    [
        ("conv 8 k5", (3, 9, 1), ['conv1 ("conv 8 k5")', "kernel 5", "height 3"]),
        ("conv 8 k5", (9, 3, 1), ["kernel 5", "width 3"]),
        ("conv 8 k3 d4", (8, 8, 1), ["dilation 4 spans 9", "height 8"]),
        ("conv 8 k7 p1", (4, 4, 1), ["kernel 7", "height 4 with padding 1 (6 in all)"]),
        ("pool 2, pool 2, pool 2", (5, 5, 1), ['pool3 ("pool 2")', "kernel 2", "height 1"]),
        ("conv 8 k3 g2", (9, 9, 3), ["2 groups", "3 input channels"]),
        ("conv 9 k3 g2", (9, 9, 4), ["2 groups", "9 filters"]),
        ("pool 2 p2", (9, 9, 1), ["padding 2", "window 2"]),
        ("dense 10", (7, 7, 512), ["7x7x512", "put flatten or gap before it"]),
        (
            "flatten, conv 8 k3",
            (4, 4, 2),
            ['conv1 ("conv 8 k3") needs height and width', "a vector of 32", "as in --input 224,224,3"],
        ),
        ("gap, gap", (4, 4, 2), ["gap2", "a vector of 2"]),
        ("relu", (0, 4, 2), ["height is 0"]),
    ],
)
def test_a_layer_that_does_not_fit_is_named_with_both_numbers(text, size, words):
    """The message has the layer, what it needs and what its input is, on one line."""
    with pytest.raises(UsageError) as caught:
        measure(text, *size)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- totals, formulas, tables


MANY = "pad 2, conv 16 k3x5 s2 p1 relu, bn, avgpool 3 s2, conv 32 k3 d2 g2, pool 2 same, dropout 0.1, gap, dense 10 softmax"


BRANCHED = (
    "local 4 k3 s2 bn relu, lrn, residual(conv 8 k3 s2 same relu, conv 8 k3 same), concat(conv 4 k1 | pool 3x5 s1 same) relu,"
    "conv 4 k1 bias position, residual(concat(linear | gelu), conv 4 k1 bn | dropout 0.1), deconv 6 k3 s2 p1 g2, deconv 2 k4 s2 same,"
    "residual(deconv 2 k3 same nobias), gap, residual(dense 3, bn)"
)


def test_the_total_is_the_sum_of_the_rows():
    """Params, MACs, bytes and dropped pixels are summed; the shape is the last one."""
    rows = measure(MANY, 61, 64, 4)
    total = dims.total(rows)
    assert (total.layer, total.kind, total.shape) == ("total", "total", (10,))
    for column in ("params", "macs", "activation_bytes", "dropped"):
        assert getattr(total, column) == sum(getattr(row, column) for row in rows)


@pytest.mark.parametrize(
    "text", [MANY, BRANCHED, "conv 32 k3 s2 same", "gmp", "flatten, dense 4 nobias, tanh", VGG16, "pool 3x2 s2"]
)
def test_formulas_evaluate_to_their_values(text):
    """Python evaluates every formula to its value, and the values are those of the table."""
    rows = measure(text, 61, 64, 4, batch=3)
    start = dims.start(height=61, width=64, channels=4)
    lines = list(dims_pipe.explain(start, parse(text), batch=3))
    values = []
    for line in lines:
        parts = line.split(" = ")
        if len(parts) == 3:
            assert math.isclose(eval(parts[1], {"ceil": math.ceil, "floor": math.floor}), int(parts[2])), line
        if len(parts) > 1:
            values.append((parts[0].strip(), parts[-1]))
    for name in ("params", "macs", "activation_bytes", "channels"):
        written = [int(value) for found, value in values if found == name][: len(rows)]
        assert written == [getattr(row, name) for row in rows]
    assert [line.split(":")[0] for line in lines if re.match(r"\S+: ", line)] == [row.layer for row in rows]


def test_formulas_of_the_first_example():
    """Every number of a convolution, line by line."""
    start = dims.start(height=128, width=128, channels=3)
    assert list(dims_pipe.explain(start, parse("conv 32 k3 s2 same"))) == [
        "conv1: conv 32 k3 s2 same, input 128x128x3",
        "  height = ceil(128 / 2) = 64",
        "  width = ceil(128 / 2) = 64",
        "  channels = 32",
        "  params = 32*3*3*3 + 32 = 896",
        "  macs = 64*64*32*3*3*3 = 3538944",
        "  receptive_field = 1 + (3 - 1)*1 = 3",
        "  stride = 1*2 = 2",
        "  activation_bytes = 1*64*64*32*4 = 524288",
        "  dropped = 0",
    ]


def test_formulas_where_branches_meet():
    """The layers of the branches, the projection among them, then the sum or the concatenation with its own numbers."""
    start = dims.start(height=28, width=28, channels=16)
    text = "residual(conv 32 k3 s2 same, conv 32 k3 same) relu, concat(conv 8 k1 | pool 3 s1 same)"
    lines = list(dims_pipe.explain(start, parse(text)))
    headings = [line for line in lines if not line.startswith(" ")]
    assert headings == [
        "residual1.conv1: conv 32 k3 s2 same, input 28x28x16",
        "residual1.conv2: conv 32 k3 same, input 14x14x32",
        "residual1.projection: conv 32 k1 s2, input 28x28x16",
        "residual1: sum of 14x14x32 and 14x14x32",
        "concat1.conv1: conv 8 k1, input 14x14x32",
        "concat1.pool1: pool 3 s1 same, input 14x14x32",
        "concat1: concatenation of 14x14x8, 14x14x32",
        "total",
    ]
    place = lines.index("residual1: sum of 14x14x32 and 14x14x32")
    assert lines[place + 1 : place + 9] == [
        "  height = 14",
        "  width = 14",
        "  channels = 32",
        "  params = 0",
        "  macs = 0",
        "  receptive_field = max(7, 1) = 7",
        "  stride = 2",
        "  activation_bytes = 1*14*14*32*4 = 25088",
    ]
    assert "  channels = 8 + 32 = 40" in lines
    assert "  receptive_field = max(7, 11) = 11" in lines


def test_formulas_of_weights_at_positions():
    """The parameters of AlexNet's first layer with unshared weights; a bias for every position; sizes of transposed convolutions."""
    start = dims.start(height=227, width=227, channels=3)
    assert "  params = 55*55*96*11*11*3 + 55*55*96 = 105705600" in dims_pipe.explain(start, parse("local 96 k11 s4"))
    start = dims.start(height=19, width=19, channels=192)
    lines = list(
        dims_pipe.explain(start, parse("conv 1 k1 bias position, deconv 8 k3 s2 p1, deconv 4 k4 s2 same, deconv 2 k3"))
    )
    for line in (
        *(
            "  params = 1*1*1*192 + 19*19*1 = 553",
            "  height = (19 - 1)*2 + 3 - 2*1 = 37",
            "  macs = 19*19*8*3*3*1 = 25992",
        ),
        *("  height = 37*2 = 74", "  height = (74 - 1)*1 + 3 = 76"),
    ):
        assert line in lines, line
    assert not [line for line in lines if line.endswith("None")]  # the receptive field after a stride of deconv


def as_tsv(rows):
    records = list(dims_pipe.records(rows))
    lines = [
        list(records[0]),
        *([("" if cell is None else str(cell)) for cell in record.values()] for record in records),
    ]
    return [("\t".join(line) + "\n").encode() for line in lines]


def test_table_round_trips_through_tsv():
    """Rows with maps, vectors and strides of two sides are restored from TSV, without the totals."""
    rows = measure(MANY, 61, 64, 4)
    assert dims_pipe.read(as_tsv([*rows, dims.total(rows)]), name="a pipe") == rows


@pytest.mark.parametrize("cut", range(1, 8))
def test_stages_add_up_to_the_whole_chain(cut):
    """Wherever a chain is cut, the rows of both stages are those of the whole."""
    texts = MANY.split(", ")
    first = measure(", ".join(texts[:cut]), 61, 64, 4, batch=2, bytes_per_value=2)
    later = dims_pipe.later(", ".join(texts[cut:]), as_tsv(first), name="a pipe")
    assert later.rows() == measure(MANY, 61, 64, 4, batch=2, bytes_per_value=2)


def test_stages_with_branches_add_up_to_the_whole_chain():
    """Names of layers in branches pass through a pipe, and a later stage numbers its blocks on."""
    first, second = "conv 4 k3, residual(conv 4 k3 same)", "residual(conv 8 k3 s2 same bn), concat(conv 1 k1 | linear)"
    later = dims_pipe.later(second, as_tsv(measure(first, 20, 20, 3)), name="a pipe")
    assert later.rows() == measure(f"{first}, {second}", 20, 20, 3)


def test_a_later_stage_may_change_the_bytes_of_the_whole_table():
    """--batch and --dtype apply to all rows, also to those of earlier stages."""
    first = measure("conv 8 k3", 9, 9, 1)
    later = dims_pipe.later("pool 2", as_tsv(first), name="a pipe", bytes_per_value=64)
    assert later.rows() == measure("conv 8 k3, pool 2", 9, 9, 1, bytes_per_value=64)


@pytest.mark.parametrize(
    ("lines", "kind", "message"),
    [
        ([], UsageError, "a pipe is empty"),
        ([b"\n"], UsageError, "a pipe is empty"),
        ([b"path\tlabel\n", b"a.jpg\tcat\n"], FormatError, "not a table of cnn-dims"),
        ([b'{"layer": "conv1"}\n'], FormatError, "not a table of cnn-dims"),
        ([b"{not json\n"], FormatError, "not a table of cnn-dims"),
        ([b"\xff\xfe\n"], FormatError, "not a table of cnn-dims"),
        (["\t".join(dims_pipe.COLUMNS).encode()], FormatError, "the table has no layers"),
    ],
)
def test_rejects_other_tables(lines, kind, message):
    """Anything else than a table of cnn-dims is an error of one line that names the source."""
    with pytest.raises(kind, match=message):
        dims_pipe.later("pool 2", lines, name="a pipe")


@pytest.mark.parametrize("text", ["128", "128,128,3", "128x128x3", " 128, 128, 3"])
def test_size_formats(text):
    """H,W,C or HxWxC, or a number for a vector."""
    assert dims_pipe.size(text) in ((128,), (128, 128, 3))


@pytest.mark.parametrize("text", ["", "128,128", "a,b,c", "1,2,3,4", "-1,2,3", "1.5,2,3"])
def test_rejects_other_sizes(text):
    """The message shows the value and the right form."""
    with pytest.raises(UsageError, match="is not a size; give H,W,C"):
        dims_pipe.size(text)
