"""The layer notation: parsing, and errors that name the word."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnkit.errors import NotationError
from cnnkit.nets.notation import MOST_LAYERS, Activation, LayerKind, Padding, every, parse


def names(text):
    return [layer.name for layer in parse(text)]


def test_every_option_of_a_convolution_is_read():
    """Filters, kernel, stride, padding, dilation, groups, bias and activation, in any order."""
    (layer,) = parse("conv 64 nobias g4 d2x1 p3 s1x2 k3x5 leaky_relu")
    assert (layer.kind, layer.name, layer.filters) == (LayerKind.conv, "conv1", 64)
    assert (layer.kernel, layer.stride, layer.dilation) == ((3, 5), (1, 2), (2, 1))
    assert (layer.padding, layer.groups, layer.bias) == (3, 4, False)
    assert layer.activation is Activation.leaky_relu


def test_defaults_are_those_of_keras():
    """Convolutions have stride 1 and no padding; the stride of a pool is its window size."""
    conv, pool, overlapping, wide = parse("conv 8 k3, pool 2, avgpool 3 s2 same, pool 2x3")
    assert (conv.stride, conv.padding, conv.dilation, conv.groups, conv.bias) == ((1, 1), "valid", (1, 1), 1, True)
    assert (pool.kernel, pool.stride) == ((2, 2), (2, 2))
    assert (overlapping.kernel, overlapping.stride, overlapping.padding) == ((3, 3), (2, 2), Padding.same)
    assert (wide.kernel, wide.stride) == ((2, 3), (2, 3))


def test_activation_belongs_to_the_layer_before_it():
    """After a layer an activation is the layer's, after bn it is bn's; between commas it is a layer."""
    conv, bn = parse("conv 64 k3 same bn relu")
    assert (conv.activation, bn.name, bn.activation) == (None, "bn1", Activation.relu)
    conv, bn = parse("conv 64 k3 relu bn")
    assert (conv.activation, bn.activation) == (Activation.relu, None)
    conv, relu = parse("conv 64 k3, relu")
    assert (conv.activation, relu.kind, relu.name) == (None, LayerKind.activation, "relu1")


def test_every_activation_works_after_a_layer_and_alone():
    """Every activation can be part of a layer or a layer of its own."""
    for word in Activation:
        after, alone = parse(f"dense 3 {word}, {word}")
        assert after.activation is alone.activation is word


def test_layers_are_counted_by_kind():
    """Names number each kind from 1, also through repetitions, and are unique."""
    assert names("conv 1 k1, 2 * (conv 1 k1 bn, pool 2), relu, dense 3") == [
        *("conv1", "conv2", "bn1", "pool1", "conv3", "bn2", "pool2", "relu1", "dense1")
    ]
    many = names("70 * (relu, relu6)")
    assert len(set(many)) == 140  # the 61st relu is relu61, so the first relu6 cannot be


def test_numbering_skips_taken_names():
    """Names that are taken are not used again."""
    assert [layer.name for layer in parse("conv 1 k1, pool 2", taken={"conv1", "conv2"})] == ["conv3", "pool1"]


def test_repetitions_nest():
    """3 * ( ... ) repeats its layers three times, also inside another repetition."""
    assert [layer.kind for layer in parse("2 * (conv 1 k1, 3*(pool 2))")] == ["conv", "pool", "pool", "pool"] * 2


def test_layers_with_branches():
    """A residual has one branch or two, a concat any number; bn and activations follow the parentheses."""
    residual, bn = parse("residual(conv 8 k3 same bn relu, 2 * (conv 8 k3 same)) bn relu")
    assert [[layer.name for layer in branch] for branch in residual.branches] == [
        [*("residual1.conv1", "residual1.bn1", "residual1.conv2", "residual1.conv3")]
    ]
    assert (bn.name, bn.activation) == ("bn1", Activation.relu)
    (concat,) = parse("concat(conv 8 k1 | pool 3 s1 same, conv 4 k1 | residual(conv 3 k1 | linear)) relu")
    assert concat.activation is Activation.relu
    assert [layer.name for layer in every([concat])] == [
        *("concat1.conv1", "concat1.pool1", "concat1.conv2"),
        *("concat1.residual1.conv1", "concat1.residual1.linear1", "concat1.residual1", "concat1"),
    ]


def test_branches_may_stand_on_lines():
    """In a file, layers and branches stand on lines of their own, and blocks are repeated."""
    one = parse("2 * concat(conv 8 k1 | conv 4 k1, conv 8 k3 same) relu")
    assert parse("2 * (\n  concat(\n    conv 8 k1  # narrow\n  | conv 4 k1\n    conv 8 k3 same\n  ) relu\n)\n") == one
    assert [layer.name for layer in one] == ["concat1", "concat2"]


def test_text_with_branches_round_trips():
    """The text of layers parses to the same layers, as the header of a model needs it."""
    text = "local 3 k3 s2, lrn, lrn 3, deconv 4 k2 s2 nobias elu, conv 1 k1 bias position, residual(conv 1 k3 p1 bn | linear) bn relu"
    layers = parse(f"{text}, concat(residual(conv 1 k3 p1 relu), dropout 0.5 | gelu) tanh")
    assert parse(", ".join(layer.text for layer in layers)) == layers


def test_options_of_the_newer_layers():
    """Number, options and defaults of deconv, local, lrn and the bias of positions."""
    deconv, local, lrn, narrow, conv = parse(
        "deconv 6 k4x2 s2 same g2, local 5 k3, lrn, lrn 3, conv 2 k1 s2 bias position relu"
    )
    assert (deconv.filters, deconv.kernel, deconv.stride, deconv.padding, deconv.groups) == (
        6,
        (4, 2),
        (2, 2),
        "same",
        2,
    )
    assert (local.filters, local.kernel, local.stride, local.padding, local.bias) == (5, (3, 3), (1, 1), "valid", True)
    assert (lrn.channels, narrow.channels) == (5, 3)
    assert (conv.position_bias, conv.stride, conv.activation) == (True, (2, 2), Activation.relu)


def test_commas_and_new_lines_are_equivalent():
    """A chain is the same on one line and on many, with comments, Windows line ends and capital letters."""
    one = parse("conv 32 k3 relu, 2 * (pool 2, bn), dense 10")
    many = parse("# a net\r\nConv 32 K3 ReLU   # first, (with a bracket\r\n\n2 * (\npool 2,\nbn\n),\ndense 10\n")
    assert one == many


def test_reads_layers_from_a_file(tmp_path):
    """@FILE reads layers from a file; an error names the file."""
    file = tmp_path / "net.txt"
    file.write_text("conv 32 k3 relu\npool 2\n", encoding="utf-8")
    assert parse(f"@{file}") == parse("conv 32 k3 relu, pool 2")
    file.write_text("conv 32 k3 relu\npoll 2\n", encoding="utf-8")
    with pytest.raises(NotationError, match=r'net\.txt: layer 2: "poll" is not a layer; did you mean "pool"\?'):
        parse(f"@{file}")


def test_unreadable_file_is_named(tmp_path):
    """A missing file and a file that is not text are errors of one line."""
    with pytest.raises(NotationError, match=r"none\.txt: No such file"):
        parse(f"@{tmp_path / 'none.txt'}")
    (tmp_path / "image.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(NotationError, match="not a text file"):
        parse(f"@{tmp_path / 'image.jpg'}")


def test_empty_text_has_no_layers():
    """Empty text, as for a head of one layer, has no layers."""
    assert parse("") == parse(" \n# nothing\n,") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv 3 k3, pool 2, poll 3", 'layer 3: "poll" is not a layer; did you mean "pool"?'),
        ("2 * (conv 3 k3), poll 3", 'layer 2: "poll"'),  # counted as written
        ("conv2d 3 k3", 'did you mean "conv"?'),
        ("fc 10", 'did you mean "dense"?'),
        ("dense 10 sofmax", 'did you mean "softmax"?'),
        ("conv 32", 'layer 1: "conv 32" has no kernel size; write "conv 32 k3"'),
        ("conv k3", '"conv k3" needs a number; write "conv 32 k3"'),
        ("pool", '"pool" needs a number; write "pool 2"'),
        ("dense ten", '"dense ten" needs a number'),
        ("conv 3 k3 s2 s1", '"s1": the stride is given twice'),
        ("conv 3 k3 same p1", '"p1": the padding is given twice'),
        ("conv 3 k0", '"k0": give a whole number, 1 or more'),
        ("conv 3 k3x", '"k3x": give a whole number'),
        ("conv 3.5 k3", '"3.5": give a whole number'),
        ("dense 10 k3", '"k3" does not belong to dense; dense takes nobias'),
        ("pool 2 d2", '"d2" does not belong to pool; pool takes sN, pN, same, valid'),
        ("gap 3", '"3" does not belong to gap; write "gap"'),
        ("relu 3", '"3" does not belong to relu'),
        ("conv 3 k3 relu tanh", '"tanh" after "relu": a layer has one activation'),
        ("dropout 1", "1 is not a share; give a number of at least 0 and less than 1"),
        ("dropout 1.2.3", "1.2.3 is not a share"),
        ("conv 3 k3 pool 2", 'a comma is missing before "pool"'),
        ("2 * (pool 2) gap", 'a comma is missing before "gap"'),
        ("3 * conv 3 k3", '"3 * conv 3 k3" is not a repetition; write "3 * ( ... )"'),
        ("2 * (pool 2", '"(" without ")"'),
        ("pool 2)", '")" without "("'),
        ("(pool 2)", '"(" without a count'),
        ("0 * (pool 2)", "a repetition has 1 to"),
        ("1000 * (1000 * (relu))", f"1 to {MOST_LAYERS}"),
        ("activation", '"activation" is not a layer'),
        ("deconv 8", '"deconv 8" has no kernel size; write "deconv 8 k3"'),
        ("local 8 k3 d2", '"d2" does not belong to local; local takes kN, sN, pN, nobias, same, valid'),
        ("conv 8 k3 bias", 'write "bias position" for one at every position'),
        ("conv 8 k3 bias postion", 'did you mean "bias position"?'),
        ("conv 8 k3 nobias bias position", '"bias position": the bias is given twice'),
        ("lrn 0", '"0": give a whole number, 1 or more'),
        ("conv2dtranspose 3 k3", 'did you mean "deconv"?'),
        ("residul(pool 2)", '"residul" is not a layer; did you mean "residual"?'),
        ("residual", '"residual" has no layers in parentheses after it; write "residual(conv 64 k3 same relu,'),
        ("concat 2 (pool 2)", '"concat 2" has no layers in parentheses after it'),
        ("residual(pool 2", '"(" without ")"'),
        ("conv 3 k3, residual(pool 2 | )", "layer 2: residual has an empty branch"),
        ("concat(pool 2 | )", 'concat has an empty branch; write "linear" for the input itself'),
        ("residual()", "residual has an empty branch"),
        ("concat(pool 2)", 'concat has one branch; separate several with "|"'),
        ("residual(pool 2 | pool 2 | pool 2)", "residual has 3 branches; it takes layers and one shortcut"),
        ("pool 2 | pool 2", '"|" separates the branches of a layer'),
        ("concat(2 * (pool 2 | pool 2))", '"|" separates the branches of a layer'),
        ("residual(pool 2) pool 2", 'a comma is missing before "pool"'),
        ("2 * residual pool 2", '"2 * residual pool 2" is not a repetition'),
        ("2 * residual, pool 2", '"residual" has no layers in parentheses after it'),
        ("residual(pool 2) k3", '"k3" does not belong to residual'),
        ("residual(pool 2) relu tanh", '"tanh" after "relu"'),
        ("residual(conv 3 k3), residual(conv 3 k3, poll 2)", 'layer 5: "poll"'),
        ("100 * (100 * (residual(relu)))", f"1 to {MOST_LAYERS}"),
    ],
)
def test_errors_name_layer_word_and_remedy(text, message):
    """One line, with the number of the layer, the word and a remedy."""
    with pytest.raises(NotationError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith("layer ")
    assert "\n" not in str(caught.value)


def test_brackets_cannot_exhaust_the_stack():
    """Deep nesting is a usage error, not a crash."""
    with pytest.raises(NotationError, match="brackets"):
        parse("1*(" * 5000 + "gap" + ")" * 5000)
    with pytest.raises(NotationError, match="brackets"):
        parse("residual(" * 5000 + "gap" + ")" * 5000)


@given(
    st.text(alphabet="convpldesgaktruifb0123456789 x,.*()|\n#@-", max_size=60).filter(lambda text: "@" not in text[:1])
)
def test_any_text_is_layers_or_a_notation_error(text):
    """Any text parses or raises NotationError, and names are unique."""
    layers = ()
    with contextlib.suppress(NotationError):
        layers = parse(text)
    assert len({layer.name for layer in every(layers)}) == len(list(every(layers)))


_options = st.tuples(
    st.integers(1, 999),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(["same", "valid", "p0", "p3"]),
    st.integers(1, 4),
    st.booleans(),
)


@given(_options)
def test_layer_text_round_trips(options):
    """The text of a layer parses to the same layer."""
    filters, kernel, stride, padding, groups, bias = options
    written = f"conv {filters} k{kernel} s{stride} {padding} g{groups}{'' if bias else ' nobias'} relu"
    (layer,) = parse(written)
    assert layer.text == written
    assert parse(layer.text) == (layer,)
