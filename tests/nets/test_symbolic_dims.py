"""Dimensions with symbols for sizes, compared with those of numbers."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnkit.errors import UsageError
from cnnkit.nets import dims, symbolic_dims
from cnnkit.nets.notation import parse
from cnnkit.nets.symbolic_dims import Side

ROOT = Path(__file__).parents[2]
CHAINS = [
    "conv 8 k3 s2 p1 relu, pool 3 s2 same, conv 6 k3 d2 g2 bn, pad 2, avgpool 2, conv 5 k1 nobias, dropout 0.2, gap, dense 7",
    "conv 4 k5x3 s2x1, pool 2, flatten, bn, dense 9 relu, dense 2 nobias",
    "pool 2 p1, conv 3 k4 s3 same, gmp",
    "conv 2 k1 s3, conv 2 k1 s2",
    "conv 6 k3 same relu, lrn, pool 2, conv 3 k5 bias position, flatten, dense 2",
    "pool 2, local 3 k3x2 s2 p1, local 2 k1 nobias, gap",
    "residual(conv 4 k3 p1 bn relu, conv 4 k3 p1), residual(conv 8 k3 s2x1 p1, conv 8 k3 same bn) relu, gap, dense 3",
    "concat(conv 2 k1 | conv 3 k3 same, concat(linear | lrn 3) | pool 3 s1 same), gmp",
    "residual(conv 6 k3 s2 same | pool 2 same, conv 6 k1), residual(conv 6 k1 bias position)",
    "concat(flatten | gap), residual(dense 4)",
]


def value(cell, **symbols):
    return eval(cell, {"floor": math.floor, **symbols}) if isinstance(cell, str) else cell


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(CHAINS), st.integers(0, 70), st.integers(0, 70))
def test_formulas_have_the_values_of_numbers(text, more, wider):
    """For every size from the smallest on, each formula evaluates to the number of the table with numbers."""
    layers = parse(text)
    smallest = symbolic_dims.smallest_size(layers, Side("H"), Side("W"), 4)
    height, width = smallest["H"] + more, smallest["W"] + wider
    rows = dims.measure(layers, height=height, width=width, channels=4, bytes_per_value=2)
    for row, formula in zip(
        (*rows, dims.total(rows)), symbolic_dims.measure(layers, "H,W,4", bytes_per_value=2), strict=True
    ):
        sides = tuple(value(side, H=height, W=width) for side in formula.output.split(", "))
        assert (formula.layer, formula.kind, sides) == (row.layer, row.kind, row.shape)
        for column in ("params", "macs", "activation_bytes"):
            assert value(getattr(formula, column), H=height, W=width) == getattr(row, column), column
        assert formula.kernel == row.kernel
        assert formula.pad in (row.pad, "same")
        assert formula.stride == row.stride


@pytest.mark.parametrize("text", CHAINS)
def test_the_smallest_size_is_the_smallest_that_numbers_allow(text):
    layers = parse(text)
    smallest = symbolic_dims.smallest_size(layers, Side("H"), Side("W"), 4)
    dims.measure(layers, height=smallest["H"], width=smallest["W"], channels=4)
    for height, width in ((smallest["H"] - 1, 90), (90, smallest["W"] - 1)):
        with pytest.raises(UsageError):
            dims.measure(layers, height=height, width=width, channels=4)


@pytest.mark.parametrize("name", ["resnet-small", "inception-small", "alexnet2012"])
def test_networks_of_the_examples_have_formulas(name):
    """Their formulas have the values of the table with numbers, in every row."""
    layers = parse(f"@{ROOT / 'examples' / 'networks' / name}.txt")
    rows = dims.measure(layers, height=227, width=227, channels=3)
    rows = (*rows, dims.total(rows))
    for row, formula in zip(rows, symbolic_dims.measure(layers, "N,N,3"), strict=True):
        assert (value(formula.params, N=227), value(formula.macs, N=227)) == (row.params, row.macs), row.layer


def test_a_size_without_its_projection_is_too_small():
    """With one row no projection is needed, so that the formulas, which count it, hold from two rows on."""
    assert symbolic_dims.smallest_size(parse("residual(conv 3 k3 s2x1 same)"), Side("H"), Side("W"), 3) == {
        "H": 2,
        "W": 1,
    }


def test_formulas_are_short(caplog):
    """Nested roundings become one; numbers stay numbers, and equal symbols are one symbol."""
    with caplog.at_level("INFO", logger="cnnkit"):
        rows = symbolic_dims.measure(parse("conv 8 k3 s2 same, pool 2, flatten"), "N,N,3")
    assert [row.output for row in rows[:3]] == [
        "floor((N + 1)/2), floor((N + 1)/2), 8",
        "floor((N + 1)/4), floor((N + 1)/4), 8",
        "8*floor((N + 1)/4)*floor((N + 1)/4)",
    ]
    assert rows[0].macs == "216*floor((N + 1)/2)*floor((N + 1)/2)"
    assert "the formulas hold for N of 3 or more" in caplog.text
    rows = symbolic_dims.measure(parse("conv 8 k3, pool 2, gap, dense 5"), "H,20,3")
    assert [row.output for row in rows] == ["H - 2, 18, 8", "floor((H - 2)/2), 9, 8", "8", "5", "5"]
    assert (rows[0].macs, rows[-1].macs) == ("3888*(H - 2)", "3888*(H - 2) + 40")
    assert rows[-1].params == 224 + 45


@pytest.mark.parametrize(
    ("text", "size", "message"),
    [
        ("conv 8 k3", "H,W,C", "size; give H,W,C as in 128,128,3, or symbols for height and width as in H,W,3"),
        ("conv 8 k3", "H,3", "is not a size"),
        ("conv 8 k3", "HxWx3", "is not a size"),
        ("conv 8 k3 g2", "H,W,3", "3 input channels are not divisible by 2 groups"),
        ("gap, conv 8 k3", "H,W,3", "needs height and width"),
        ("deconv 8 k2 s2", "H,W,3", "no formula for symbols"),
        (
            "concat(conv 4 k3 s2 same | pool 2)",
            "H,W,3",
            re.escape(
                "floor((H + 1)/2), floor((W + 1)/2), 4 and floor(H/2), floor(W/2), 3, which differ for some sizes"
            ),
        ),
        ("residual(conv 3 k3)", "H,W,3", "its layers turn"),
        ("conv 8 k5", "3,W,3", "kernel 5 is larger than its input's height 3"),
    ],
)
def test_errors(text, size, message):
    with pytest.raises(UsageError, match=message):
        symbolic_dims.measure(parse(text), size)
