"""The command cnn-dims."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cnnkit.formats import torch_model
from cnnkit.formats.header import ArtefactKind, Header, Pool
from cnnkit.nets import backbones, classifier

CARD = ["--input", "128,128,3", "--filters", "32", "--k", "3", "--s", "2", "--pad", "same"]
FIELDS = [
    *("layer", "kind", "height", "width", "channels", "params", "macs"),
    *("receptive_field", "stride", "activation_bytes", "dropped", "image", "kernel", "pad"),
    *("trainable", "weights", "zeros"),
]
CIFAR = (
    "conv 16 k2 same relu, pool 2, conv 32 k2 same relu, pool 2, conv 64 k2 same relu, pool 2,"
    "flatten, dense 500 relu, dense 10 softmax"
)


def objects(outcome):
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_first_example(run):
    """The first example gives 64x64x32 and 896 parameters, with a row of totals."""
    outcome = run("cnn-dims", *CARD)
    assert outcome.out == (
        "layer\tkind\toutput\tparams\tmacs\treceptive_field\tstride\tactivation_bytes\tdropped\timage\tkernel\tpad\n"
        "conv1\tconv\t64x64x32\t896\t3538944\t3\t2\t524288\t0\t128\t3\t0+1\n"
        "total\ttotal\t64x64x32\t896\t3538944\t3\t2\t524288\t0\t128\t\t\n"
    )
    assert outcome.err == ""


def test_json_has_the_documented_fields(run):
    """--json prints one object for each layer, with the documented fields in order, and a last one of kind total."""
    rows = objects(run("cnn-dims", "--input", "32,32,3", "--layers", CIFAR, "--json"))
    assert all(list(row) == FIELDS for row in rows)
    assert rows[0] == {
        "layer": "conv1",
        "kind": "conv",
        "height": 32,
        "width": 32,
        "channels": 16,
        "params": 208,
        "macs": 196608,
        "receptive_field": 2,
        "stride": 1,
        "activation_bytes": 65536,
        "dropped": 0,
        "image": 32,
        "kernel": 2,
        "pad": "0+1",
        "trainable": None,
        "weights": None,
        "zeros": None,
    }
    assert (rows[-2]["height"], rows[-2]["width"], rows[-2]["channels"]) == (None, None, 10)
    assert (rows[-1]["layer"], rows[-1]["kind"]) == ("total", "total")


GOLDEN = """\
layer     kind     output    params  macs     receptive_field  stride  activation_bytes  dropped  image  kernel  pad
conv1     conv     32x32x16  208     196608   2                1       65536             0        32     2       0+1
pool1     pool     16x16x16  0       0        3                2       16384             0        32     2       0
conv2     conv     16x16x32  2080    524288   5                2       32768             0        32     2       0+1
pool2     pool     8x8x32    0       0        7                4       8192              0        32     2       0
conv3     conv     8x8x64    8256    524288   11               4       16384             0        32     2       0+1
pool3     pool     4x4x64    0       0        15               8       4096              0        32     2       0
flatten1  flatten  1024      0       0        32                       4096              0        32
dense1    dense    500       512500  512000   32                       2000              0        32
dense2    dense    10        5010    5000     32                       40                0        32
total     total    10        528054  1762184  32                       149496            0        32
"""


def test_the_table_of_a_chain(run):
    """The table of a network for CIFAR, and totals that are the sums of the rows."""
    outcome = run("cnn-dims", "--input", "32,32,3", "--layers", CIFAR)
    *rows, total = outcome.rows
    for column in ("params", "macs", "activation_bytes", "dropped"):
        assert int(total[column]) == sum(int(row[column]) for row in rows)
    table = [line.split("\t") for line in outcome.out.splitlines()]
    widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
    drawn = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    assert drawn == GOLDEN.splitlines()


@pytest.mark.parametrize(
    ("words", "layers"),
    [
        (["--filters", 4, "--kernel", "3x5", "--stride", "2x1", "--pad", 1, "--dilation", 2], "conv 4 k3x5 s2x1 p1 d2"),
        (["--filters", 6, "--k", 3, "--groups", 3, "--no-bias"], "conv 6 k3 g3 nobias"),
        (["--filters", 6, "--k", "3,3", "--s", "2,1"], "conv 6 k3 s2x1"),
        (["--filters", 6, "--k", "2x2", "--dilation", "1,2"], "conv 6 k2 d1x2"),
        (["--pool", "3,2", "--s", "2,2"], "pool 3x2 s2"),
        (["--pool", 3, "--s", 2, "--pad", "same"], "pool 3 s2 same"),
        (["--avgpool", "2x3"], "avgpool 2x3"),
    ],
)
def test_flags_are_notation(run, words, layers):
    """A layer by flags has the table of the same layer by notation."""
    given = ["--input", "21,20,3"]
    assert run("cnn-dims", *given, *words).out == run("cnn-dims", *given, "--layers", layers).out


def test_dense_and_vectors(run):
    """One number is the length of a vector."""
    (row, _) = run("cnn-dims", "--input", 1280, "--dense", 10).rows
    assert (row["output"], row["params"], row["macs"], row["receptive_field"]) == ("10", "12810", "12800", "")


def test_layers_from_a_file(run, tmp_path):
    """--layers @FILE reads the notation from a file."""
    file = tmp_path / "net.txt"
    file.write_text("conv 16 k3 same relu # first\npool 2\n", encoding="utf-8")
    rows = run("cnn-dims", "--input", "32,32,3", "--layers", f"@{file}").rows
    assert [row["output"] for row in rows] == ["32x32x16", "16x16x16", "16x16x16"]


def test_explain_prints_formulas(run):
    """--explain prints formulas with numbers, and no table."""
    lines = [line.strip() for line in run("cnn-dims", *CARD, "--explain").out.splitlines()]
    assert "height = ceil(128 / 2) = 64" in lines
    assert "params = 32*3*3*3 + 32 = 896" in lines
    assert not any("\t" in line for line in lines)


def test_a_pipe_of_three_stages(shell, tmp_path):
    """Each stage repeats the rows of the one before and appends its own."""
    line = "cnn-dims --input 200,200,1 --filters 16 --k 2 --s 2 | cnn-dims --filters 32 --k 3 --pad same | cnn-dims --pool 2"
    piped = shell(line, cwd=tmp_path)
    whole = shell(
        'cnn-dims --input 200,200,1 --layers "conv 16 k2 s2, conv 32 k3 same, pool 2" < /dev/null', cwd=tmp_path
    )
    assert piped.out == whole.out
    assert [row["output"] for row in piped.rows] == ["100x100x16", "100x100x32", "50x50x32", "50x50x32"]


def test_pipe_accepts_json(run):
    """A stage reads JSON Lines as well as TSV, and its own output format does not depend on that."""
    first = ["--input", "64,48,3", "--layers", "conv 8 k3x5 s2x1, conv 8 k1"]
    as_json, as_tsv = (run("cnn-dims", *first, *words).out for words in (["--json"], []))
    assert run("cnn-dims", "--pool", 2, stdin=as_json).out == run("cnn-dims", "--pool", 2, stdin=as_tsv).out
    assert objects(run("cnn-dims", "--pool", 2, "--json", stdin=as_tsv))[-2]["receptive_field"] == "5x6"


def test_a_pipe_keeps_names_and_bytes(run):
    """Layers are numbered on, and batch and data type of the first stage apply to the next one by default."""
    first = run("cnn-dims", "--input", "8,8,3", "--filters", 4, "--k", 1, "--batch", 4, "--dtype", "float16").out
    kept = run("cnn-dims", "--filters", 4, "--k", 1, stdin=first).rows
    assert [(row["layer"], row["activation_bytes"]) for row in kept] == [
        ("conv1", "2048"),
        ("conv2", "2048"),
        ("total", "4096"),
    ]
    changed = run("cnn-dims", "--filters", 4, "--k", 1, "--dtype", "float32", stdin=first).rows
    assert [row["activation_bytes"] for row in changed] == ["1024", "1024", "2048"]


def test_input_option_does_not_read_stdin(tmp_path):
    """Under cron or CI, standard input may be a pipe without a writer: --input never waits for it."""
    reading, writing = os.pipe()
    try:
        command = [sys.executable, "-m", "cnnkit_tools.cnn_dims", *CARD]
        done = subprocess.run(command, stdin=reading, capture_output=True, timeout=30, cwd=tmp_path, check=True)
    finally:
        os.close(reading)
        os.close(writing)
    assert b"64x64x32" in done.stdout


def test_an_empty_pipe_asks_for_the_input(run):
    """A stage without a table reports what is missing."""
    outcome = run("cnn-dims", "--pool", 2, stdin="", status=2)
    assert "standard input is empty; give --input H,W,C" in outcome.err
    assert outcome.out == ""


def test_rejects_other_tables(run):
    """The output of another program is an error."""
    assert "not a table of cnn-dims" in run("cnn-dims", "--pool", 2, stdin="path\tlabel\na\tb\n", status=1).err


@pytest.mark.parametrize(
    "changed",
    [
        {"height": 6.5},
        {"height": -1},
        {"height": True},
        {"height": "6x6"},
        {"height": None},
        {"channels": None},
        {"params": None},
        {"params": "1x2"},
        {"kernel": 3.5},
        {"receptive_field": []},
        {"layer": ["conv1"]},
        {"kind": 3},
        {"zeros": "many"},
        {"zeros": 2},
        {"pad": "1x"},
        {"pad": 0.5},
    ],
)
def test_rejects_rows_that_it_does_not_print(changed, run):
    """A record that another program has changed is an error of one line, whatever is in it."""
    (row, _total) = run("cnn-dims", "--input", "8,8,3", "--layers", "conv 4 k3", "--json").out.splitlines()
    lines = json.dumps({**json.loads(row), **changed})
    assert "not a table of cnn-dims" in run("cnn-dims", "--filters", 2, "--k", 1, stdin=lines, status=1).err


def test_a_row_of_fewer_bytes_than_values_is_extended(run):
    """Also one without values, as of a module that returns no tensor."""
    (row, _total) = run("cnn-dims", "--input", "8,8,3", "--layers", "conv 4 k3", "--json").out.splitlines()
    for changed in ({"activation_bytes": 5}, {"height": 0, "activation_bytes": 9}):
        lines = "\n".join([json.dumps({**json.loads(row), **changed, "layer": "first"}), row])
        assert run("cnn-dims", "--filters", 2, "--k", 1, stdin=lines).rows[-1]["output"] == "6x6x2"


@pytest.mark.parametrize(
    ("words", "status", "numbers"),
    [
        (["--max-params", 896, "--max-macs", 3538944], 0, []),
        (["--max-params", 895], 4, ["params 896", "895"]),
        (["--max-macs", 1000], 4, ["macs 3538944", "1000"]),
    ],
)
def test_gates(run, words, status, numbers):
    """A missed bound ends with status 4 and both numbers, after the table."""
    outcome = run("cnn-dims", *CARD, *words, status=status)
    assert "64x64x32" in outcome.out
    assert all(number in outcome.err for number in numbers)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "3,3,3", "--filters", 8, "--k", 5], "kernel 5 is larger than its input's height 3"),
        (
            ["--input", "9,9,3", "--filters", 8, "--k", 3, "--groups", 2],
            "3 input channels are not divisible by 2 groups",
        ),
        (["--input", "0,9,3", "--pool", 2], "height is 0"),
        (["--input", "9,9", "--pool", 2], '"9,9" is not a size; give H,W,C'),
        (
            ["--input", "9,9,3", "--filters", 2, "--k", "3,3,3"],
            '--k "3,3,3" is not a size; give one number, or HxW as in 3x5',
        ),
        (["--input", "9,9,3", "--filters", 2, "--k", "3 same"], '--k "3 same" is not a size'),
        (["--input", "9,9,3", "--filters", 2, "--k", 3, "--s", "2;1"], '--s "2;1" is not a size'),
        (["--input", "9,9,3", "--pool", "2, dense 10"], '--pool "2, dense 10" is not a size'),
        (
            ["--input", "9,9,3", "--layers", "conv 3 k3, pool 2, poll 3"],
            'layer 3: "poll" is not a layer; did you mean "pool"?',
        ),
        (["--input", "9,9,3", "--layers", ""], "--layers is empty"),
        (["--input", "9,9,3", "--filters", 8], "give --k"),
        (["--input", "9,9,3", "--pool", 2, "--pad", "full"], '--pad is same, valid or a number of pixels, not "full"'),
        (["--input", "9,9,3", "--pool", 2, "--k", 3], '"k3" does not belong to pool'),
        (["--input", "9,9,3", "--pool", 2, "--dense", 3], "give one layer"),
        (["--input", "9,9,3", "--k", 3], "options of a layer without a layer"),
        (["--input", "9,9,3"], "give either a network, or layers"),
        (["vgg16", "--pool", 2], "give either a network, or layers"),
        (["vgg16", "--explain"], "--explain"),
        (["--input", "9,9,3", "--pool", 2, "--explain", "--json"], "--explain"),
        (
            ["--input", "9,9,3", "--output", "9", "--pad", "valid", "--s", 2],
            "no conv with stride 2 and padding valid turns 9x9",
        ),
        (["--input", "9,9,3", "--output", "0,3"], '--output "0,3" is not a size; give H,W as in 7,7'),
        (["--input", "9,9,3", "--output", "3,3", "--layers", "pool 2"], "drop --layers"),
        (["--input", "9,9,3", "--output", "3,3", "--batch", 2], "drop --batch"),
        (["--input", "9,9,3", "--output", "3,3", "--pool", 3, "--filters", 3], "at most one of --filters, --pool"),
        (["--input", "9,9,3", "--output", "3,3", "--pool", 3, "--k", 3], "--k is an option of convolutions"),
        (["--input", "9,9,3", "--output", "3,3,8", "--pool", 3], "has 8 channels, but the layer 3"),
        (["--input", "9,9,3", "--output", "3,3", "--k", "x"], '--k "x" is not a size'),
        (["--input", "H,W,3", "--output", "3,3"], "--output needs numbers"),
        (["vgg16", "--output", "3,3"], "drop the network"),
        (["--input", "H,W,C", "--pool", 2], "symbols for height and width as in H,W,3"),
        (["--input", "H,W,3", "--pool", 2, "--explain"], "--explain needs numbers"),
        (["--input", "H,W,3", "--pool", 2, "--any-size"], "--any-size needs numbers"),
        (["--input", "H,W,3", "--pool", 2, "--max-macs", 9], "--max-macs needs numbers"),
        (["vgg16", "--input", "H,W,3"], "symbols are for layers"),
        (["--pool", 2, "--any-size"], "--any-size needs the size that the layers are made for"),
        (["vgg16", "--any-size", "--max-params", 9], "--any-size lists sizes instead of the table; drop --max-params"),
        (["squeezenet1_1", "--any-size", "--input", "224,224,1"], "squeezenet1_1 takes images with 3 channels"),
        (["squeezenet1_1", "--any-size", "--input", "5,5,3"], "squeezenet1_1 does not take 5x5 pixels"),
        (["--input", "9,9,3", "--pool", 2, "--zeros", 0], "--zeros counts the weights of a .pt or .onnx file"),
        (["squeezenet1_1", "--zeros", 0], "squeezenet1_1 is the name of a network"),
        (["vgg17"], 'no network is called "vgg17"; did you mean'),
    ],
)
def test_usage_errors(run, words, message):
    """Wrong arguments are an error of one line, with status 2 and nothing on stdout."""
    outcome = run("cnn-dims", *words, status=2)
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


@pytest.mark.parametrize("name", ["model.pt", "model.onnx"])
def test_a_missing_file_is_named(run, tmp_path, name):
    """A missing file is an error of one line."""
    outcome = run("cnn-dims", tmp_path / name, status=1)
    assert name in outcome.err
    assert outcome.err.count("\n") == 1


def test_vgg16(run):
    """A network by name has its published parameters, and the names of torch and of Keras for --layer."""
    rows = run("cnn-dims", "vgg16").rows
    assert rows[-1]["params"] == "138357544"
    assert {row["layer"]: row["keras"] for row in rows}["features.30"] == "block5_pool"
    assert rows[0] == {
        "layer": "features.0",
        "kind": "conv",
        "output": "224x224x64",
        "params": "1792",
        "macs": "86704128",
        "receptive_field": "3",
        "stride": "1",
        "activation_bytes": "12845056",
        "dropped": "0",
        "image": "224",
        "keras": "",
        "kernel": "3",
        "pad": "1",
    }


def test_a_network_of_another_size(run):
    """--input sets the size of the images of a network; a classifier can be appended in a pipe."""
    small = run("cnn-dims", "resnet18", "--input", "64,64,3").rows
    assert {row["layer"]: row["output"] for row in small}["layer4.1.conv2"] == "2x2x512"
    piped = run("cnn-dims", "--dense", 2, stdin=run("cnn-dims", "resnet18").out).rows
    assert [row["params"] for row in piped][-2:] == ["2002", str(11689512 + 2002)]


def test_a_trained_model(run, tmp_path):
    """A model.pt has a row for each of its layers, backbone and head, with the parameters in its file."""
    text = "conv 8 k3 same relu, pool 2, conv 12 k3 bn relu"
    extractor, backbone, preprocess = backbones.by_notation(text, size=16)
    head = classifier.build_head("dense 5 relu, dense 2", (12,))
    network = classifier.Classifier(extractor, head, preprocess=preprocess, pool=Pool.AVG)
    header = Header(
        kind=ArtefactKind.MODEL,
        classes=("cat", "dog"),
        preprocess=preprocess,
        backbone=backbone,
        head="dense 5 relu, dense 2",
    )
    torch_model.save(tmp_path / "model.pt", torch_model.TorchModel(header, network.state_dict()))
    *rows, total = run("cnn-dims", tmp_path / "model.pt").rows
    assert int(total["params"]) == sum(value.numel() for value in network.parameters())
    outputs = {row["layer"]: row["output"] for row in rows}
    assert (outputs["conv1"], outputs["conv2"], outputs["head.dense2"]) == ("16x16x8", "6x6x12", "2")
    fields = {row["layer"]: row["receptive_field"] for row in rows}
    assert (fields["conv1"], fields["conv2"]) == ("3", "8")


TEXT = "conv 8 k3 same relu, pool 2, conv 12 k3 bn relu"


@pytest.fixture
def model(tmp_path):
    """Write a model whose Header records a training: `model(command="cnn-train")`."""

    def write(**training):
        extractor, backbone, preprocess = backbones.by_notation(TEXT, size=16)
        head = classifier.build_head("dense 5 relu, dense 2", (12,))
        network = classifier.Classifier(extractor, head, preprocess=preprocess, pool=Pool.AVG)
        with torch.no_grad():
            network.get_submodule("base.conv2").weight[:3] = 0.0
            network.get_submodule("head.dense2").weight[0, 0] = -0.0005
        header = Header(
            kind=ArtefactKind.MODEL,
            classes=("cat", "dog"),
            preprocess=preprocess,
            backbone=backbone,
            head="dense 5 relu, dense 2",
            training=training,
        )
        torch_model.save(tmp_path / "model.pt", torch_model.TorchModel(header, network.state_dict()))
        return tmp_path / "model.pt"

    return write


HEAD = 12 * 5 + 5 + 5 * 2 + 2


@pytest.mark.parametrize(
    ("training", "trainable"),
    [
        ({"command": "cnn-train"}, 224 + 8 * 12 * 9 + 12 + 24 + HEAD),
        ({"command": "cnn-train-head"}, HEAD),
        ({"command": "cnn-finetune", "unfreeze": "none"}, HEAD),
        ({"command": "cnn-finetune", "unfreeze": "conv2"}, 8 * 12 * 9 + 12 + 24 + HEAD),
        ({"command": "cnn-finetune", "unfreeze": "1"}, 24 + HEAD),
        ({"command": "cnn-finetune", "unfreeze": "all"}, 224 + 8 * 12 * 9 + 12 + 24 + HEAD),
    ],
)
def test_trainable_counts_the_parameters_that_were_trained(run, model, training, trainable):
    """By the command and the layers in the Header; the total is the number that cnn-finetune prints."""
    *rows, total = run("cnn-dims", model(**training)).rows
    assert int(total["trainable"]) == sum(int(row["trainable"]) for row in rows) == trainable
    assert all(int(row["trainable"]) in (0, int(row["params"])) for row in rows)


@pytest.mark.parametrize("training", [{}, {"command": "other"}, {"command": "cnn-finetune", "unfreeze": "conv9"}])
def test_without_a_record_of_its_training_a_model_has_no_such_column(run, model, training):
    """Also if a Header names a layer that the network does not have."""
    assert "trainable" not in run("cnn-dims", model(**training)).rows[0]


def test_zeros_is_the_share_of_weights_that_are_zero(run, model):
    """Per layer and in total, without biases; a threshold counts small weights, too."""
    file = model(command="cnn-train")
    exact = {row["layer"]: row for row in run("cnn-dims", file, "--zeros", 0).rows}
    assert (exact["conv2"]["weights"], exact["conv2"]["zeros"]) == ("864", "0.25")
    assert (exact["head.dense2"]["weights"], exact["head.dense2"]["zeros"]) == ("10", "0")
    assert (exact["bn1"]["weights"], exact["bn1"]["zeros"]) == ("", "")
    weights = 216 + 864 + 60 + 10
    assert (exact["total"]["weights"], exact["total"]["zeros"]) == (str(weights), f"{216 / weights:.6g}")
    small = {row["layer"]: row for row in run("cnn-dims", file, "--zeros", 0.001).rows}
    assert float(small["head.dense2"]["zeros"]) >= 0.1


def test_a_layer_after_a_model_is_trained_and_has_no_weights_yet(run, model):
    """The columns of a file are kept in a pipe."""
    piped = run("cnn-dims", model(command="cnn-train-head"), "--zeros", 0).out
    *_, added, total = run("cnn-dims", "--dense", 3, stdin=piped).rows
    assert (added["trainable"], added["weights"], added["zeros"]) == ("", "", "")
    assert int(total["trainable"]) == HEAD + 9
    assert total["weights"] == "1150"


def test_output_is_solved_for(run):
    """--output lists layers of the notation with their windows, in a pipe as well; --json has the same."""
    outcome = run("cnn-dims", "--input", "14,14,512", "--output", "7,7", "--filters", 256)
    assert outcome.rows[0] == {
        "layer": "conv 256 k2 s2",
        "kernel": "2",
        "stride": "2",
        "pad": "0",
        "output": "7x7x256",
        "params": str(256 * 512 * 4 + 256),
        "macs": str(49 * 256 * 512 * 4),
        "dropped": "0",
    }
    table = run("cnn-dims", "--input", "28,28,512", "--pool", 2).out
    assert run("cnn-dims", "--output", 7, "--filters", 256, stdin=table).out == outcome.out
    words = ["--input", "14,14,512", "--output", "7x7x256", "--pad", "same", "--k", "3,3", "--json"]
    (record,) = objects(run("cnn-dims", *words))
    assert (record["layer"], record["pad"]) == ("conv 256 k3 s2 same", "0+1")
    (pooled,) = run("cnn-dims", "--input", "13,13,8", "--output", "6,6", "--pool", 3, "--pad", "valid").rows
    assert (pooled["layer"], pooled["output"]) == ("pool 3 s2", "6x6x8")


def test_symbols_give_formulas(run):
    """Sizes may be symbols: every number that depends on them is a formula, and a notice has the smallest size."""
    outcome = run("cnn-dims", "--input", "H,W,3", "--layers", "conv 16 k3 s2 same relu, pool 2, gap, dense 10")
    assert [row["output"] for row in outcome.rows] == [
        "floor((H + 1)/2), floor((W + 1)/2), 16",
        "floor((H + 1)/4), floor((W + 1)/4), 16",
        "16",
        "10",
        "10",
    ]
    assert outcome.rows[-1]["macs"] == "432*floor((H + 1)/2)*floor((W + 1)/2) + 160"
    assert outcome.rows[-1]["params"] == str(16 * 28 + 170)
    assert "the formulas hold for H of 3 or more and W of 3 or more" in outcome.err


def test_any_size_of_a_transformer_is_the_size_that_it_is_built_for(run):
    for words, size in (([], "224"), (["--input", "336,336,3"], "336")):
        rows = run("cnn-dims", "vit_b_16", "--any-size", *words).rows
        assert {(row["smallest"], row["largest"], row["step"]) for row in rows} == {(size, size, "")}


def test_symbols_without_formula_have_no_notice_of_formulas(run):
    refused = run("cnn-dims", "--input", "H,W,3", "--layers", "conv 8 k3, deconv 8 k3 s2", status=2).err
    assert refused == ('cnn-dims: deconv1 ("deconv 8 k3 s2") has no formula for symbols; give numbers as --input\n')


def test_any_size_lists_the_sizes_that_are_taken(run, model):
    """For layers and models; the size that layers are made for is given."""
    (height, width) = run(
        "cnn-dims", "--input", "64,48,3", "--layers", "conv 8 k3 same, pool 4, flatten, dense 2", "--any-size"
    ).rows
    assert (height["smallest"], height["largest"], height["step"]) == ("64", "67", "1")
    assert (width["smallest"], width["largest"]) == ("48", "51")
    assert height["too_large"] == "dense1 has 1536 inputs, not 1632"
    file = model(command="cnn-train")
    assert {(row["smallest"], row["largest"]) for row in run("cnn-dims", file, "--any-size").rows} == {("6", "")}


def write_onnx(path, *, size):
    """Write a network of one convolution, a quarter of whose weights are 0."""
    import onnx
    from onnx.helper import make_graph, make_model, make_node, make_tensor_value_info

    values = torch.ones(4, 3, 3, 3)
    values[1] = 0.0
    weights = onnx.numpy_helper.from_array(values.numpy(), "stem.weight")
    ends = [
        make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", 3, *size]), ("y", None))
    ]
    graph = make_graph([make_node("Conv", ["x", "stem.weight"], ["y"])], "net", ends[:1], ends[1:], [weights])
    onnx.save(make_model(graph), path)


def test_onnx_weights_and_sizes(run, tmp_path):
    """The weights of a .onnx are counted, and its sizes are those of its input, or those that fit where it leaves them open."""
    fixed, free = tmp_path / "fixed.onnx", tmp_path / "free.onnx"
    write_onnx(fixed, size=(9, 9))
    write_onnx(free, size=("H", "W"))
    (row, _) = run("cnn-dims", fixed, "--zeros", 0).rows
    assert (row["weights"], row["zeros"], row["kernel"], row["pad"]) == ("108", "0.25", "3", "0")
    rows = run("cnn-dims", fixed, "--any-size").rows
    assert [(row["side"], row["smallest"], row["largest"]) for row in rows] == [
        ("height", "9", "9"),
        ("width", "9", "9"),
    ]
    assert rows[0]["too_small"] == "fixed in the file"
    rows = run("cnn-dims", free, "--any-size", "--input", "9,9,3").rows
    assert {(row["smallest"], row["largest"]) for row in rows} == {("3", "")}
    assert "give one that it takes, --input H,W,C" in run("cnn-dims", free, "--any-size", status=2).err
    assert "height is 9, but --input has 8" in run("cnn-dims", fixed, "--any-size", "--input", "8,9,3", status=2).err
    for file in (fixed, free):
        refused = run("cnn-dims", file, "--any-size", "--input", "9,9,1", status=2).err
        assert "channels is 3, but --input has 1" in refused


def test_onnx_network_and_gates(run, tmp_path):
    """A model.onnx is measured like any other network, gates included."""
    write_onnx(tmp_path / "model.onnx", size=(9, 9))
    outcome = run("cnn-dims", tmp_path / "model.onnx", "--max-params", 100, status=4)
    assert outcome.rows[0]["layer"] == "stem"
    assert outcome.rows[0]["output"] == "7x7x4"
    assert "params 108 is above 100" in outcome.err


def test_arithmetic_imports_no_network_library(tmp_path):
    """Layers are measured without torch, onnxruntime, onnx, numpy, Pillow or, off a terminal, rich."""
    code = (
        "import sys, cnnkit_tools.cnn_dims as tool\n"
        "try: tool.main(sys.argv[1:])\n"
        "finally: print(sorted({'torch', 'onnxruntime', 'onnx', 'numpy', 'PIL', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *CARD]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
    assert done.stderr == "[]\n"


SHARED = Path(os.environ.get("CNNKIT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
CASES = SHARED.parent / "cases" / "onnx"


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the files at ../shared/cases")
@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("t1", 77, 3_092),
        ("up18", 505, 115_742),
        ("resize", 224 + 292 + 25, 314_516),
        ("up9", 504, 350_208),
        ("zoo7", 216 + 16 + 90, 256 * 216 + 80),
        ("slice9", 216, 256 * 216),
        ("mix", 376, 17 * 17 * 216 + 36 * 72 + 40),
    ],
)
def test_onnx_regressions(run, name, params, macs):
    """Transposed convolutions, constants that are not weights, and old opsets."""
    total = run("cnn-dims", CASES / f"{name}.onnx").rows[-1]
    assert (int(total["params"]), int(total["macs"])) == (params, macs)


def test_receptive_field_is_limited_to_the_image_in_a_pipe(run):
    """The table has the size of the image, and the formula shows the limit."""
    first = run("cnn-dims", "--input", "9,12,1", "--layers", "conv 4 k7 p3 s2").out
    row = run("cnn-dims", "--filters", 2, "--k", 3, "--pad", "same", stdin=first).rows[-1]
    assert (row["receptive_field"], row["image"]) == ("9x11", "9x12")
    lines = run("cnn-dims", "--filters", 2, "--k", 3, "--pad", "same", "--explain", stdin=first).out.splitlines()
    assert "  receptive_field (height) = min(7 + (3 - 1)*2, 9) = 9" in lines
    assert "  receptive_field (width) = 7 + (3 - 1)*2 = 11" in lines


def test_accepts_tables_without_column_image(run):
    """Tables of earlier versions are accepted in a pipe."""
    text = "layer\tkind\toutput\tparams\tmacs\treceptive_field\tstride\tactivation_bytes\tdropped\n"
    text += "conv1\tconv\t4x4x2\t20\t288\t3\t1\t128\t0\n"
    assert run("cnn-dims", "--pool", 2, stdin=text).rows[-1]["receptive_field"] == "4"


def test_unknown_operator_is_one_error_line(run, tmp_path):
    """The message names file and operator, without advice that does not help."""
    import onnx
    from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

    ends = [make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 9, 9]) for name in "xy"]
    graph = make_graph([make_node("Fold", ["x"], ["y"], domain="acme")], "net", ends[:1], ends[1:])
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 17), make_opsetid("acme", 1)]), tmp_path / "a.onnx")
    outcome = run("cnn-dims", tmp_path / "a.onnx", status=1)
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert "a.onnx: the multiply-accumulates of the operator acme.Fold are unknown" in outcome.err


def test_onnx_that_onnx_runtime_refuses_is_an_error(run, tmp_path):
    """A scale of zero, which onnx accepts: the node is named although ONNX Runtime does not name it."""
    import onnx
    from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

    x, y = (
        make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 9, 9]), ("y", None))
    )
    nodes = [make_node("Relu", ["x"], ["r"]), make_node("Resize", ["r", "", "factors"], ["y"], name="larger")]
    factors = onnx.numpy_helper.from_array(torch.tensor([1.0, 1, 0, 0]).numpy(), "factors")
    graph = make_graph(nodes, "net", [x], [y], [factors])
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=8), tmp_path / "a.onnx")
    outcome = run("cnn-dims", tmp_path / "a.onnx", status=1)
    assert outcome.out == ""
    assert outcome.err.endswith(
        "a.onnx: ONNX Runtime cannot run it: larger (Resize): Scale value should be greater than 0\n"
    )


def test_modules_in_the_current_folder_are_not_imported(run, tmp_path, monkeypatch):
    """Files named like modules that cnn-dims imports are not run, and do not change the result."""
    import onnx
    from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

    x = make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 9, 9])
    y = make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    nodes = [
        make_node("Greater", ["x", "mean"], ["bright"]),
        make_node("NonZero", ["bright"], ["places"]),  # its shape depends on the image, so the network has to be run
        make_node("Cast", ["places"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    mean = onnx.numpy_helper.from_array(torch.tensor(-1.0).numpy(), "mean")
    graph = make_graph(nodes, "", [x], [y], [mean])
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    (tmp_path / "cnnkit").mkdir()
    for name in ("onnx.py", "json.py", "numpy.py", "onnxruntime.py", "cnnkit/__init__.py"):
        (tmp_path / name).write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    outcome = run("cnn-dims", "m.onnx")
    assert not (tmp_path / "ran").exists()
    assert (outcome.rows[-1]["output"], outcome.err) == ("243", "")
