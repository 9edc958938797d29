"""Branches, loops and functions in ONNX graphs: each node counts as often as it runs."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from onnx.helper import make_function, make_graph, make_node, make_opsetid, make_tensor_value_info
from onnx_graphs import STEM, STEM_WEIGHT, filled, model

from cnnkit.errors import FormatError
from cnnkit.nets import graph_control


def body(nodes, inputs, outputs, weights=None):
    return make_graph(
        nodes,
        "body",
        [make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )


def branches(condition, *, kernel=3):
    """Make two branches with a convolution each, of about 36 weights on 10x10, after a condition."""
    one = body([make_node("Conv", ["maps", "w1"], ["y1"], pads=[1, 1, 1, 1])], {}, ["y1"], {"w1": filled(4, 4, 3, 3)})
    pads = [kernel // 2] * 4
    two = body([make_node("Conv", ["maps", "w2"], ["y2"], pads=pads)], {}, ["y2"], {"w2": filled(4, 4, kernel, kernel)})
    return [STEM, *condition, make_node("If", ["condition"], ["out"], then_branch=one, else_branch=two)]


def test_the_branch_that_runs_counts(measured):
    """A condition that depends on the size of the image is evaluated; the other branch does not count."""
    condition = [
        make_node("Shape", ["x"], ["shape"]),
        make_node("Gather", ["shape", "two"], ["height"]),
        make_node("Greater", ["height", "ten"], ["condition"]),
    ]
    made = model(branches(condition, kernel=1), {**STEM_WEIGHT, "two": np.asarray(2), "ten": np.asarray(10)})
    assert measured(made)[:2] == (108 + 144, 10_800 + 100 * 144)


def test_branches_of_the_same_cost_count_once(measured):
    """If it is unknown which branch runs, the parameters of both count, and the multiply-accumulates of one."""
    condition = [
        make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        make_node("Greater", ["largest", "half"], ["condition"]),
    ]
    made = model(branches(condition), {**STEM_WEIGHT, "half": np.float32(0.5)})
    assert measured(made)[:2] == (108 + 288, 10_800 + 100 * 144)


def test_rejects_branches_of_different_costs(measured):
    """The error explains why there are no totals."""
    condition = [
        make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        make_node("Greater", ["largest", "half"], ["condition"]),
    ]
    made = model(branches(condition, kernel=5), {**STEM_WEIGHT, "half": np.float32(0.5)})
    with pytest.raises(
        FormatError, match=r"the branches of If differ in their multiply-accumulates, and the file does not"
    ):
        measured(made)


def loop(trips, *, going_on="given", number=5):
    nodes = [
        make_node(
            "Identity" if going_on == "given" else "Greater", ["c"] if going_on == "given" else ["s0", "limit"], ["c2"]
        ),
        *([] if going_on == "given" else [make_node("ReduceMax", ["s"], ["s0"], keepdims=0)]),
        make_node("Conv", ["s", "w.weight"], ["s2"], pads=[1, 1, 1, 1]),
        make_node("GlobalAveragePool", ["s2"], ["seen"]),
    ]
    inner = body(
        [*nodes[1:-2], nodes[0], *nodes[-2:]] if going_on != "given" else nodes,
        {"i": (TensorProto.INT64, ()), "c": (TensorProto.BOOL, ()), "s": (TensorProto.FLOAT, None)},
        ["c2", "s2", "seen"],
    )
    weights = {**STEM_WEIGHT, "w.weight": filled(4, 4, 3, 3), "yes": np.asarray(True), "limit": np.float32(1)}
    after = [
        make_node("Loop", [trips, "yes", "maps"], ["last", "all"], body=inner),
        make_node("Relu", ["all"], ["out"]),
    ]
    return model([STEM, *after], {**weights, **({"trips": np.asarray(number)} if trips else {})})


@pytest.mark.parametrize("number", [5, [5]], ids=["scalar", "one value"])
def test_loop_counts_every_run(measured, number):
    """Its weights count once, its products for every run; an output that collects the runs has one more side."""
    params, macs, rows = measured(loop("trips", number=number))
    assert (params, macs) == (108 + 144, 10_800 + 5 * 100 * 144)
    assert [row.layer for row in rows].count("w") == 1
    assert rows[-1].activation_bytes == 5 * 4 * 4


@pytest.mark.parametrize(("trips", "going_on"), [("", "given"), ("trips", "worked out")])
def test_rejects_loop_of_unknown_length(measured, trips, going_on):
    """A loop whose end depends on the image is an error of one line."""
    with pytest.raises(FormatError, match="the file does not determine how often Loop runs"):
        measured(loop(trips, going_on=going_on))


def test_a_long_loop_is_counted_without_running_it(measured):
    """A million equal runs cost a million times as much."""
    made = loop("trips")
    made.graph.initializer.remove(next(tensor for tensor in made.graph.initializer if tensor.name == "trips"))
    made.graph.initializer.append(numpy_helper.from_array(np.asarray(10**6), "trips"))
    params, macs, rows = measured(made)
    assert (params, macs) == (108 + 144, 10_800 + 10**6 * 100 * 144)
    assert rows[-1].activation_bytes == 10**6 * 4 * 4


def test_loop_ended_by_its_counter(measured):
    """A condition that depends on the number of the run, without a limit, ends the loop in time."""
    inner = body(
        [
            make_node("Conv", ["s", "w"], ["s2"], pads=[1, 1, 1, 1]),
            make_node("Less", ["i", "two"], ["c2"]),
        ],
        {"i": (TensorProto.INT64, ()), "c": (TensorProto.BOOL, ()), "s": (TensorProto.FLOAT, None)},
        ["c2", "s2"],
    )
    nodes = [STEM, make_node("Loop", ["", "yes", "maps"], ["out"], body=inner)]
    weights = {**STEM_WEIGHT, "w": filled(4, 4, 3, 3), "yes": np.asarray(True), "two": np.asarray(2)}
    assert measured(model(nodes, weights))[:2] == (108 + 144, 10_800 + 3 * 100 * 144)


@pytest.mark.parametrize(("trips", "condition"), [("many", "c"), ("", "yes")])
def test_empty_loop_ends(measured, monkeypatch, trips, condition):
    """A body without nodes, which passes on a known value."""
    monkeypatch.setattr(graph_control, "_MOST_STEPS", 500)
    given = {"i": (TensorProto.INT64, ()), "c": (TensorProto.BOOL, ()), "s": (TensorProto.INT64, ())}
    inner = body([], given, [condition, "s"])
    nodes = [
        make_node("Loop", [trips, "yes", "start"], ["end"], body=inner),
        STEM,
        make_node("Relu", ["maps"], ["out"]),
    ]
    weights = {**STEM_WEIGHT, "yes": np.asarray(True), "start": np.asarray(3), "many": np.asarray(10**12)}
    with pytest.raises(FormatError, match="its loops run more than"):
        measured(model(nodes, weights))


def test_scan_counts_every_slice(measured):
    """The body runs once for each row of the map."""
    inner = body(
        [
            make_node("MatMul", ["row", "m"], ["made"]),
            make_node("Add", ["state", "made"], ["next"]),
            make_node("Identity", ["made"], ["kept"]),
        ],
        {"state": (TensorProto.FLOAT, None), "row": (TensorProto.FLOAT, None)},
        ["next", "kept"],
    )
    nodes = [
        STEM,
        make_node("Reshape", ["maps", "rows"], ["table"]),
        make_node("Scan", ["start", "table"], ["end", "out"], body=inner, num_scan_inputs=1),
    ]
    weights = {**STEM_WEIGHT, "rows": np.asarray([40, 10]), "start": np.zeros(6, np.float32), "m": filled(10, 6)}
    params, macs, rows = measured(model(nodes, weights))
    assert (params, macs) == (108 + 60, 10_800 + 40 * 60)
    assert rows[-1].kind == "add"


def test_functions_are_inlined(measured):
    """A model's own functions count as their nodes."""
    function = make_function(
        "own",
        "Block",
        ["a", "w"],
        ["c"],
        [make_node("Conv", ["a", "w"], ["b"]), make_node("Relu", ["b"], ["c"])],
        [make_opsetid("", 17)],
    )
    nodes = [
        make_node("Block", ["x", "stem.weight"], ["one"], domain="own"),
        make_node("Block", ["one", "w"], ["out"], domain="own"),
    ]
    made = model(nodes, {**STEM_WEIGHT, "w": filled(2, 4, 3, 3)}, functions=[function], domains=["own"])
    assert measured(made)[:2] == (108 + 72, 10_800 + 64 * 72)


def test_rejects_recursive_and_huge_functions(measured):
    """Neither exhausts memory or time."""
    itself = make_function(
        "own",
        "Again",
        ["a"],
        ["b"],
        [make_node("Again", ["a"], ["b"], domain="own")],
        [make_opsetid("", 17), make_opsetid("own", 1)],
    )
    with pytest.raises(FormatError, match="function Again calls itself"):
        measured(model([make_node("Again", ["x"], ["out"], domain="own")], functions=[itself], domains=["own"]))
    opsets = [make_opsetid("", 17), make_opsetid("own", 1)]
    doubling = [make_function("own", "F0", ["a"], ["b"], [make_node("Relu", ["a"], ["b"])], opsets)]
    for place in range(1, 60):
        calls = [
            make_node(f"F{place - 1}", [source], [result], domain="own") for source, result in (("a", "m"), ("m", "b"))
        ]
        doubling.append(make_function("own", f"F{place}", ["a"], ["b"], calls, opsets))
    with pytest.raises(FormatError, match="nodes after its functions are expanded"):
        measured(model([make_node("F59", ["x"], ["out"], domain="own")], functions=doubling, domains=["own"]))
