"""Division of a whole network by notation into backbone and head, and the last layer for classes and loss."""

import pytest

from cnnkit.choices import Loss
from cnnkit.errors import UsageError
from cnnkit.nets import dims, notation
from cnnkit.nets.output_layer import divide, whole_head

SETTINGS = {"loss": Loss.CATEGORICAL, "classes": 3, "size": 32, "channels": 3}


@pytest.mark.parametrize(
    ("layers", "backbone", "head"),
    [
        (
            "conv 8 k3 relu, pool 2, flatten, dense 4 relu, dropout 0.5",
            "conv 8 k3 relu, pool 2",
            "flatten, dense 4 relu, dropout 0.5, dense 3 softmax",
        ),
        ("conv 8 k3 relu, pool 2", "conv 8 k3 relu, pool 2", "flatten, dense 3 softmax"),
        ("conv 8 k3 bn relu, dropout 0.2, gap", "conv 8 k3, bn relu, dropout 0.2", "gap, dense 3 softmax"),
        ("2 * (conv 4 k3 relu, pool 2), gmp", "conv 4 k3 relu, pool 2, conv 4 k3 relu, pool 2", "gmp, dense 3 softmax"),
        ("flatten, dense 16 relu, bn", "flatten", "dense 16 relu, bn, dense 3 softmax"),
        ("flatten", "flatten", "dense 3 softmax"),
        ("conv 8 k3, flatten, dense 3 softmax", "conv 8 k3", "flatten, dense 3 softmax"),
        ("conv 8 k3, gap, dense 3", "conv 8 k3", "gap, dense 3 softmax"),
        ("conv 8 k3, gap, dense 3 relu", "conv 8 k3", "gap, dense 3 relu, dense 3 softmax"),
    ],
)  # fmt: skip
def test_the_backbone_ends_with_the_last_map(layers, backbone, head):
    """A last layer that is already there is not added again; its softmax may be left out."""
    assert divide(layers, **SETTINGS) == (backbone, head)


@pytest.mark.parametrize("channels", [1, 3])
def test_parts_have_the_dims_of_the_whole(channels):
    """Backbone and head together have the sizes and parameters that cnn-dims prints for the whole network."""
    layers = "2 * (conv 8 k3 bn relu, pool 2), flatten, dense 16 relu, dropout 0.5"
    backbone, head = divide(layers, **{**SETTINGS, "channels": channels})
    start = dims.start(height=32, width=32, channels=channels)

    def measured(text):
        rows = dims.measure_from(start, notation.parse(text), bytes_per_value=4)
        return [(row.layer, row.shape, row.params) for row in rows]

    assert measured(f"{backbone}, {head}") == measured(f"{layers}, dense 3 softmax")


def test_last_layer_of_other_size_gets_an_output_layer_and_a_notice(caplog):
    """A wrong number of classes is noticed."""
    assert divide("gap, dense 10", **SETTINGS)[1] == "dense 10, dense 3 softmax"
    assert caplog.messages == ['"dense 10" is not an output layer for 3 classes; added "dense 3 softmax"']


def test_two_classes_can_share_a_sigmoid():
    """One unit; a head for maps gets a flatten, one for vectors does not."""
    settings = {**SETTINGS, "classes": 2, "loss": Loss.BINARY}
    assert divide("conv 8 k3, gap", **settings)[1] == "gap, dense 1 sigmoid"
    assert divide("conv 8 k3, gap, dense 1 sigmoid", **settings)[1] == "gap, dense 1 sigmoid"
    assert whole_head("", loss=Loss.BINARY, classes=2, spatial=False) == "dense 1 sigmoid"
    head = whole_head("dense 8 relu", loss=Loss.CATEGORICAL, classes=5, spatial=True)
    assert head == "flatten, dense 8 relu, dense 5 softmax"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("gap, dense 4 softmax", r'^the last layer is "dense 4 softmax"; 3 classes and --loss categorical need "dense 3 soft'),
        ("conv 8 k3, gap, dense 1 sigmoid", r'^the last layer is "dense 1 sigmoid"; 3 classes'),
        ("gap, dense 3 nobias softmax", r'^the last layer is "dense 3 nobias softmax"; 3 classes'),
        ("conv 3 k3, gap, softmax", r'^the last layer is "softmax"'),
        ("", r"^--layers is empty"),
        ("dense 3 softmax", r'^"dense 3 softmax" alone does not take images; write "flatten" before it$'),
        ("conv 8 k3, dense 4", r"put flatten or gap before it$"),
        ("5 * (conv 8 k3, pool 2), gap", r"^conv4 .* is larger than its input's height 2"),
        ("conv 8 k3, poll 2", r'^layer 2: "poll" is not a layer; did you mean "pool"\?$'),
    ],
)  # fmt: skip
def test_rejects_layers_that_do_not_fit(layers, message):
    """A wrong last layer is named with the right one; other errors are those of cnn-dims."""
    with pytest.raises(UsageError, match=message):
        divide(layers, **SETTINGS)
