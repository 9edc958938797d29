"""Export to ONNX, compared with torch and with values computed in numpy, and the check that a file must pass."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from cnnkit.choices import ExportInput, Initializer, Pool
from cnnkit.engine import export
from cnnkit.engine.classifier_outputs import ClassifierOutputs, HeadOutputs
from cnnkit.engine.config import OPSETS, ExportConfig
from cnnkit.engine.session import Session
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import torch_model
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.torch_model import TorchModel
from cnnkit.nets import backbones, build
from cnnkit.nets import classifier as classifiers

TEXT = "conv 6 k3 s2 bn relu, conv 10 k2 relu"
SIZE = 11
CLASSES = ("blue", "green", "red")


def network(head="dense 3 softmax", pool=Pool.AVG, text=TEXT, seed=0):
    """A classifier with random values in all parameters, and its Header."""
    module, backbone, preprocess = backbones.by_notation(text, size=SIZE, pool=pool, seed=seed)
    extractor = classifiers.Extractor(module, preprocess=preprocess, pool=pool).eval()
    made = classifiers.build_head(head, classifiers.feature_shape(extractor, preprocess))
    generator = torch.Generator().manual_seed(seed)
    build.initialise(made, Initializer.HE, generator=generator)
    for part in (*module.modules(), *made.modules()):
        if getattr(part, "bias", None) is not None:
            nn.init.normal_(part.bias, std=0.3, generator=generator)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.3, generator=generator)
            nn.init.uniform_(part.running_var, 0.5, 2.0, generator=generator)
    classes = CLASSES[:2] if head.endswith("sigmoid") else CLASSES
    header = Header(
        ArtefactKind.MODEL, classes, preprocess, backbone, head, {"command": "cnn-train-head"}, {"cnnkit": "0"}
    )
    return classifiers.Classifier(module, made, preprocess=preprocess, pool=pool).eval(), header


def pixels(batch, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)


def written(tmp_path, made=None, header=None, **options):
    """Write a model, export it, and return the records and the bytes."""
    if made is None:
        made, header = network()
    torch_model.save(tmp_path / "model.pt", TorchModel(header, made.state_dict()))
    config = {name: options.pop(name) for name in list(options) if name in ExportConfig.__dataclass_fields__}
    records = export.export_model(
        tmp_path / "model.pt",
        tmp_path / "model.onnx",
        ExportConfig(**{"batch": 4, "device": "cpu", **config}),
        **options,
    )
    return records, (tmp_path / "model.onnx").read_bytes()


def answered(content, images, name="images"):
    """Outputs of ONNX Runtime, by names."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return dict(zip([item.name for item in session.get_outputs()], session.run(None, {name: images}), strict=True))


def in_torch(made, images):
    with torch.no_grad():
        features = made.features(torch.from_numpy(images))
        logits = made.head(features)
    return classifiers.class_logits(logits).softmax(1).numpy(), logits.numpy(), features.numpy()


# ---------------------------------------------------------------- the graph


def test_whole_network_matches_torch(tmp_path):
    """Probabilities, logits and features, also at other batch sizes than in the export; names, types and shapes as documented."""
    made, header = network("dense 8 relu, dropout 0.5, dense 3 softmax")
    _, content = written(tmp_path, made, header, features=True)
    for batch in (1, 2, 7):
        found = answered(content, pixels(batch))
        for output, expected in zip(
            ("probabilities", "logits", "features"), in_torch(made, pixels(batch)), strict=True
        ):
            np.testing.assert_allclose(found[output], expected, atol=1e-5)
    graph = onnx.load_model_from_string(content).graph
    shapes = {
        value.name: (
            value.type.tensor_type.elem_type,
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {
        "images": (onnx.TensorProto.UINT8, ["batch", SIZE, SIZE, 3]),
        "probabilities": (onnx.TensorProto.FLOAT, ["batch", 3]),
        "logits": (onnx.TensorProto.FLOAT, ["batch", 3]),
        "features": (onnx.TensorProto.FLOAT, ["batch", 10]),
    }


def test_sigmoid_gives_two_columns(tmp_path):
    """The second column is the sigmoid, the first its complement; the logits are 0 and z."""
    made, header = network("dense 1 sigmoid")
    _, content = written(tmp_path, made, header)
    found = answered(content, pixels(5))
    with torch.no_grad():
        z = made(torch.from_numpy(pixels(5))).numpy()[:, 0]
    np.testing.assert_allclose(
        found["probabilities"], np.stack([1 - 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(-z))], 1), atol=1e-6
    )
    np.testing.assert_allclose(found["logits"], np.stack([np.zeros(5), z], 1), atol=1e-5)


def test_normalised_float_input(tmp_path):
    """The classic input, (N, 3, H, W), gives the same outputs for images that are normalized outside."""
    made, header = network()
    _, content = written(tmp_path, made, header, input=ExportInput.FLOAT)
    floats = ((pixels(3) / 255 - np.array(header.preprocess.mean)) / np.array(header.preprocess.std)).transpose(
        0, 3, 1, 2
    )
    found = answered(content, floats.astype(np.float32))
    np.testing.assert_allclose(found["probabilities"], in_torch(made, pixels(3))[0], atol=1e-5)


@pytest.mark.parametrize(("pool", "shape"), [(Pool.AVG, (10,)), (Pool.NONE, (10, 4, 4))])
def test_head_only(tmp_path, pool, shape):
    """Features in (vectors or maps), probabilities out."""
    made, header = network(
        "flatten, dense 8 relu, dense 3 softmax" if pool is Pool.NONE else "dense 8 relu, dense 3 softmax", pool
    )
    records, content = written(tmp_path, made, header, head_only=True)
    _, _, features = in_torch(made, pixels(7))
    assert features.shape[1:] == shape
    np.testing.assert_allclose(
        answered(content, features, "features")["probabilities"], in_torch(made, pixels(7))[0], atol=1e-5
    )
    assert [(record.source, record.batch) for record in records] == [("random", 1), ("random", 2), ("random", 4)]


CAM_HEADS = {
    "dense": ("dense 3 softmax", Pool.AVG),
    "dropout": ("dropout 0.5, dense 3 softmax", Pool.AVG),
    "gap in the head": ("gap, dense 3 softmax", Pool.NONE),
    "nobias": ("dense 3 nobias softmax", Pool.AVG),
}


@pytest.mark.parametrize(("head", "pool"), CAM_HEADS.values(), ids=CAM_HEADS)
def test_class_activation_maps_match_closed_form(tmp_path, head, pool):
    """Each map is the sum of the backbone's maps with the class's weights; its mean plus the bias is the logit."""
    made, header = network(head, pool)
    _, content = written(tmp_path, made, header, cam=True)
    found = answered(content, pixels(3))
    with torch.no_grad():
        maps = made.base(made.normalise(torch.from_numpy(pixels(3)))).numpy()  # (N, K, h, w)
    layer = made.head[-1]
    weights = layer.weight.detach().numpy()  # (classes, K)
    np.testing.assert_allclose(found["cam"], np.einsum("ck,nkhw->nchw", weights, maps), atol=1e-5)
    bias = 0 if layer.bias is None else layer.bias.detach().numpy()
    np.testing.assert_allclose(found["cam"].mean((2, 3)) + bias, found["logits"], atol=1e-5)


@pytest.mark.parametrize(
    "head", ["conv 6 k3 s2 bn relu, gap, dense 3", "conv 6 k3 same bn relu, dropout 0.2, conv 3 k1, gap"]
)
def test_class_activation_maps_of_heads_with_convolutions(tmp_path, head):
    """They are sums of the maps that global average pooling reads, so the mean of each is the class's logit without the bias."""
    made, header = network(head, Pool.NONE)
    _, content = written(tmp_path, made, header, cam=True, features=True)
    found = answered(content, pixels(3))
    read = []
    made.head[-2 if "dense" in head else -1].register_forward_pre_hook(lambda _, inputs: read.extend(inputs))
    with torch.no_grad():
        expected = made.head(made.base(made.normalise(torch.from_numpy(pixels(3)))))
    (maps,) = read
    bias = torch.zeros(3)
    if "dense" in head:
        weights, bias = made.head[-1].weight, made.head[-1].bias
        maps = torch.einsum("ck,nkhw->nchw", weights, maps)
    np.testing.assert_allclose(found["cam"], maps.detach(), atol=1e-5)
    np.testing.assert_allclose(found["cam"].mean((2, 3)) + bias.detach().numpy(), expected, atol=1e-5)


def test_class_activation_maps_of_one_sigmoid(tmp_path):
    """The second class's map gives its logit, the first class's map is its negative."""
    made, header = network("dense 1 sigmoid")
    _, content = written(tmp_path, made, header, cam=True)
    found = answered(content, pixels(3))
    assert found["cam"].shape == (3, 2, 4, 4)
    np.testing.assert_allclose(
        found["cam"][:, 1].mean((1, 2)) + made.head[-1].bias.detach().numpy(), found["logits"][:, 1], atol=1e-5
    )
    np.testing.assert_array_equal(found["cam"][:, 0], -found["cam"][:, 1])


@pytest.mark.parametrize(
    ("head", "pool", "text", "reason"),
    [
        (
            "dense 8 relu, dense 3 softmax",
            Pool.AVG,
            TEXT,
            "one dense layer; this model has pool avg, then Linear, ReLU, Linear",
        ),
        ("dense 3 softmax", Pool.MAX, TEXT, "pool max"),
        ("dense 3 softmax", Pool.FLATTEN, TEXT, "pool flatten"),
        ("flatten, dense 3 softmax", Pool.NONE, TEXT, "pool none"),
        ("gmp, dense 3 softmax", Pool.NONE, TEXT, "GlobalPool"),
        ("dense 3 softmax", Pool.AVG, f"{TEXT}, gap", "ends in a vector of 10"),
    ],
)
def test_rejects_heads_without_class_activation_maps(tmp_path, head, pool, text, reason):
    """The message says why; nothing is written."""
    made, header = network(head, pool, text)
    with pytest.raises(CnnkitError) as caught:
        written(tmp_path, made, header, cam=True)
    assert str(caught.value).startswith("a class activation map")
    assert reason in str(caught.value)
    assert not (tmp_path / "model.onnx").exists()


def test_fp16_weights_with_float32_outputs(tmp_path):
    """Weights of backbone and head are float16, normalization is not; outputs are float32 and close; the model in memory is unchanged."""
    made, header = network()
    records, content = written(tmp_path, made, header, fp16=True, features=True, cam=True)
    proto = onnx.load_model_from_string(content)
    kinds = {
        tensor.data_type for tensor in proto.graph.initializer if len(tensor.dims) > 1 and np.prod(tensor.dims) > 3
    }
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert {value.type.tensor_type.elem_type for value in proto.graph.output} == {onnx.TensorProto.FLOAT}
    found = answered(content, pixels(7))
    np.testing.assert_allclose(found["probabilities"], in_torch(made, pixels(7))[0], atol=3e-3)
    assert any(record.max_difference > 1e-6 for record in records), "float16 should have cost something"
    outputs = ClassifierOutputs(made, half=True)
    assert torch.equal(outputs.classifier.normalise.scale, made.normalise.scale)
    assert {parameter.dtype for parameter in made.parameters()} == {torch.float32}


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[1]])
def test_writes_the_requested_operator_set(tmp_path, opset):
    """The file has it, and ONNX Runtime computes the same."""
    made, header = network()
    _, content = written(tmp_path, made, header, opset=opset)
    assert [item.version for item in onnx.load_model_from_string(content).opset_import if not item.domain] == [opset]
    np.testing.assert_allclose(answered(content, pixels(3))["probabilities"], in_torch(made, pixels(3))[0], atol=1e-5)


# ---------------------------------------------------------------- any size


@pytest.mark.parametrize("kind", [ExportInput.UINT8, pytest.param(ExportInput.FLOAT, marks=pytest.mark.slow)])
def test_dynamic_height_and_width(tmp_path, kind):
    """One graph matches torch at other sizes than in the export; axes are named, and maps have the sizes that result."""
    made, header = network()
    records, content = written(tmp_path, made, header, dynamic_size=True, cam=True, features=True, input=kind)
    assert [(record.source, record.batch) for record in records] == [
        ("random", 1), ("random", 2), ("random", 4), ("random 16x16", 2), ("random 16x11", 2), ("random 13x13", 2),
    ]  # fmt: skip
    graph = onnx.load_model_from_string(content).graph
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    axes = ["batch", "height", "width", 3] if kind is ExportInput.UINT8 else ["batch", 3, "height", "width"]
    assert shapes == {
        "images": axes,
        "probabilities": ["batch", 3],
        "logits": ["batch", 3],
        "features": ["batch", 10],
        "cam": ["batch", 3, "cam_height", "cam_width"],
    }
    for height, width in ((11, 11), (40, 23), (9, 30), (12, 12)):
        images = np.random.default_rng(height).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
        given = images
        if kind is ExportInput.FLOAT:
            with torch.no_grad():
                given = made.normalise(torch.from_numpy(images)).numpy()
        found = answered(content, given)
        for output, expected in zip(("probabilities", "logits", "features"), in_torch(made, images), strict=True):
            np.testing.assert_allclose(found[output], expected, atol=1e-5)
        # stride 2 without padding, then a window of 2: (H - 3) // 2 + 1 - 1 rows
        assert found["cam"].shape == (3, 3, (height - 3) // 2, (width - 3) // 2)


@pytest.mark.slow
def test_fp16_with_dynamic_size(tmp_path):
    """Both options work together."""
    records, _ = written(tmp_path, *network(), dynamic_size=True, fp16=True)
    assert 0 < max(record.max_difference for record in records) < 5e-2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"pool": Pool.FLATTEN},
            r"takes only images of 11x11: its head \(dense 3 softmax\) reads 160 values of a map; .* \(gap, or --pool avg\)",
        ),
        (
            {"pool": Pool.NONE, "head": "flatten, dense 3 softmax"},
            r"only images of 11x11: its head \(flatten, dense 3 softmax\) reads 10x4x4 values of a map",
        ),
        (
            {"text": f"{TEXT}, flatten, dense 6 relu", "pool": Pool.NONE},
            r"only images of 11x11: its backbone \(conv 6 .* flatten, dense 6 relu\) reads flattened maps; --dynamic-size needs global",
        ),
    ],
    ids=["pooled by flatten", "flattened by the head", "flattened by the backbone"],
)
def test_rejects_dynamic_size_with_flattened_maps(tmp_path, words, message):
    """The part that fixes the size is named with that size; nothing is written, even if another size would happen to work."""
    with pytest.raises(CnnkitError, match=message):
        written(tmp_path, *network(**words), dynamic_size=True)
    assert not (tmp_path / "model.onnx").exists()


def test_dynamic_size_with_pooling_in_the_head(tmp_path):
    """Global pooling may be in the head."""
    made, header = network("gmp, dense 8 relu, dense 3 softmax", Pool.NONE)
    _, content = written(tmp_path, made, header, dynamic_size=True)
    images = np.random.default_rng(0).integers(0, 256, (2, 25, 14, 3), dtype=np.uint8)
    np.testing.assert_allclose(answered(content, images)["probabilities"], in_torch(made, images)[0], atol=1e-5)


def test_rejects_axis_that_cannot_be_dynamic():
    """Weights fix the width: the reason is one line, without torch's advice."""
    with pytest.raises(CnnkitError, match=r"torch cannot export this network to ONNX: .*conflicts between") as refused:
        export.to_onnx(
            nn.Linear(7, 2).eval(), torch.zeros(2, 9, 7), inputs="x", outputs=["y"], free={0: "batch", 2: "width"}
        )
    assert "\n" not in str(refused.value)


# ---------------------------------------------------------------- the file


def test_file_is_valid_and_has_nothing_of_this_machine(tmp_path):
    """onnx.checker passes; weights are inside; the Header is the only metadata entry; no paths, no stack traces."""
    made, header = network()
    _, content = written(tmp_path, made, header, features=True, cam=True)
    onnx.checker.check_model(content, full_check=True)
    proto = onnx.load_model_from_string(content)
    assert [entry.key for entry in proto.metadata_props] == ["cnnkit"]
    found = Header.from_json(proto.metadata_props[0].value, name="x", kind=ArtefactKind.ONNX)
    assert found == header.but(kind=ArtefactKind.ONNX, made_by=found.made_by)
    assert set(found.made_by) == {"cnnkit", "torch", "onnx", "onnxscript"}
    for trace in (str(tmp_path), "site-packages", ".py", "/home", "/tmp", "stack_trace", "Traceback"):
        assert trace.encode() not in content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.pt"]


def test_same_model_gives_same_bytes(tmp_path):
    """Twice in a row, and under another name."""
    made, header = network()
    first = written(tmp_path, made, header)[1]
    (tmp_path / "elsewhere").mkdir()
    assert written(tmp_path / "elsewhere", copy.deepcopy(made), header)[1] == first


# ---------------------------------------------------------------- the gate


def test_records_have_the_differences(tmp_path):
    """Batches 1, 2 and N, each with its difference and the share of equal predictions."""
    records, _ = written(tmp_path, batch=5)
    assert [(record.source, record.batch, record.rows) for record in records] == [
        ("random", size, size) for size in (1, 2, 5)
    ]
    assert all(0 <= record.max_difference < 1e-5 and record.top1_agreement == 1 for record in records)


def test_above_the_tolerance_nothing_is_written(tmp_path):
    """The message has both numbers; an existing file is untouched, and no other file is left."""
    made, header = network()
    (tmp_path / "model.onnx").write_bytes(b"before")
    with pytest.raises(
        CnnkitError, match=r"differ by [\d.e-]+ on random at batch \d, more than --tolerance 1e-07; nothing written"
    ):
        written(tmp_path, made, header, fp16=True, tolerance=1e-7)
    assert (tmp_path / "model.onnx").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.pt"]


@pytest.fixture(scope="module")
def everything():
    """All optional outputs, in torch and in ONNX Runtime; exporting takes a second or more."""
    outputs = ClassifierOutputs(network()[0], features=True, cam=True).eval()
    proto = export.to_onnx(outputs, torch.from_numpy(pixels(2)), inputs="images", outputs=outputs.names)
    return outputs, Session(proto.SerializeToString(), device="cpu")


@pytest.mark.parametrize("output", ["probabilities", "logits", "features", "cam"])
@pytest.mark.parametrize("value", [0.01, np.nan])
def test_detects_error_in_any_output(everything, output, value):
    """All outputs are compared, and a value that is not finite exceeds every tolerance."""
    outputs, session = everything
    honest = export.compare(outputs, session, iter([pixels(3)]), source="random", classes=True)
    assert honest.max_difference < 1e-5

    def off(images):
        given = list(outputs(images))
        given[outputs.names.index(output)] = given[outputs.names.index(output)] * (1 + value)
        return tuple(given)

    found = export.compare(off, session, iter([pixels(3)]), source="random", classes=True)
    assert found.max_difference > 1e-3


def test_agreement_and_difference_worked_by_hand():
    """Over batches of different sizes: the largest difference anywhere, the share of rows with the same top class."""

    class Fixed:
        inputs = ("x",)

        def run(self, given):
            return [np.array([[0.9, 0.1]] * len(given["x"]), dtype=np.float32)]

    def reference(given):
        return (torch.tensor([[0.8, 0.2] if value > 0 else [0.4, 0.6] for value in given[:, 0]]),)

    batches = iter([np.array([[1.0], [1.0], [-1.0]], dtype=np.float32), np.array([[1.0]], dtype=np.float32)])
    found = export.compare(reference, Fixed(), batches, source="mine", classes=True)
    assert (found.source, found.batch, found.rows, found.top1_agreement) == ("mine", 3, 4, 0.75)
    assert found.max_difference == pytest.approx(0.5)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("opset", [17, 24, -1])
def test_rejects_unsupported_operator_set(tmp_path, opset):
    """The message has the range."""
    with pytest.raises(UsageError, match=f"--opset {opset}: give 18 to 23"):
        written(tmp_path, opset=opset)


@pytest.mark.parametrize(
    "options",
    [{"features": True}, {"cam": True}, {"fp16": True}, {"verify": []}, {"input": ExportInput.FLOAT}],
    ids=str,
)
def test_head_only_rejects_options_of_a_whole_network(tmp_path, options):
    """They would be ignored."""
    with pytest.raises(UsageError, match="--head-only exports only the head"):
        written(tmp_path, head_only=True, **options)


def test_rejects_network_with_fixed_batch():
    """It would fail at prediction, so it fails here."""

    class Fixed(nn.Module):
        def forward(self, images):
            return torch.zeros(2, 3) + images[:2, :1]

    with pytest.raises(CnnkitError, match=r"exporter|export this network"):
        export.to_onnx(Fixed(), torch.zeros(2, 4), inputs="images", outputs=["out"])


def test_head_outputs_are_probabilities_and_logits():
    """In this order, with two columns for one sigmoid."""
    made, _ = network("dense 1 sigmoid")
    probabilities, logits = HeadOutputs(made.head)(torch.zeros(4, 10))
    assert probabilities.shape == logits.shape == (4, 2)
    torch.testing.assert_close(probabilities, logits.softmax(1))
