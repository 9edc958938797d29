"""How images and features go through networks: batches, decoding, order, and what is refused."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnkit.callbacks import SILENT, Callbacks
from cnnkit.choices import Fit, Pool, Vote
from cnnkit.data import decode
from cnnkit.data.source import ImageFile
from cnnkit.engine.onnx_classifier import OnnxNetwork
from cnnkit.errors import BadImageError, CnnkitError, FormatError, UsageError
from cnnkit.formats import features, onnx_model
from cnnkit.formats.header import ArtefactKind, Backbone, Header, Preprocess
from cnnkit.formats.manifest import ManifestRow
from cnnkit.infer import feature_input, predict
from cnnkit.infer.config import ModelSpec, PredictConfig
from cnnkit.infer.predict import Predictor

CLASSES = ("blue", "green", "red")
BACKBONE = Backbone(name="layers", layer="conv1", pool=Pool.AVG, weights_sha256="a" * 64, notation="conv 3 k1")
PREPROCESS = Preprocess(size=16, resize=18)
# The mean of blue is the evidence for blue and so on, as the images of the fixture are tinted
WEIGHTS = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=np.float32) / 20


def header(**changes):
    made = Header(kind=ArtefactKind.ONNX, classes=CLASSES, preprocess=PREPROCESS, backbone=BACKBONE, head="dense 3")
    return made.but(**changes)


def save(path, inputs, nodes, constants, saved):
    """Write a graph with the outputs of cnn-export, and a Header."""
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("probabilities", "logits")]
    nodes = [
        *nodes,
        helper.make_node("MatMul", ["features", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    given = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "net", [inputs], outputs, given)
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx_model.save(path, onnx_model.finished(proto, saved))
    return path


def whole(path, *, weights=WEIGHTS, **changes):
    """Write a network of images: logits are the means of the channels times `weights`."""
    saved = header(**changes)
    size = saved.preprocess.size
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["features"], keepdims=0),
    ]
    inputs = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", size, size, 3])
    return save(path, inputs, nodes, {"axes": np.array([1, 2], dtype=np.int64), "weights": weights}, saved)


def head(path, **changes):
    """Write a head of three features."""
    inputs = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3])
    return save(path, inputs, [], {"weights": WEIGHTS}, header(**changes))


def keep_features(path, values, *, rows=None, **changes):
    """Write features as cnn-extract does."""
    saved = header(kind=ArtefactKind.FEATURES, head=None, **changes)
    rows = rows or [ManifestRow(f"photos/{number}.png", split="ab"[number % 2]) for number in range(len(values))]
    with features.FeatureWriter(path, shape=values.shape[1:], dtype=str(values.dtype), header=saved) as writer:
        writer.write(values, rows)
    return path


def load(*models, **options):
    spec = options.pop("spec", None)
    return Predictor(models, PredictConfig(device="cpu", **options), spec=spec)


@pytest.fixture
def found(images):
    return [ImageFile(str(path)) for path in sorted(images(red=4, blue=3).rglob("*.png"))]


@pytest.fixture
def batch_sizes(monkeypatch):
    """List how many inputs networks are given at once."""
    sizes = []
    run = OnnxNetwork.run

    def recording(self, inputs, outputs, **options):
        sizes.append(len(inputs))
        return run(self, inputs, outputs, **options)

    monkeypatch.setattr(OnnxNetwork, "run", recording)
    return sizes


@pytest.mark.parametrize(
    ("count", "batch", "sizes"),
    [(1, 32, [1]), (7, 32, [7]), (7, 7, [7]), (7, 6, [4, 4]), (7, 3, [3, 3, 3]), (7, 1, [1] * 7)],
)
@pytest.mark.parametrize("listed", [True, False])
def test_batches_are_equal_and_hardly_padded(tmp_path, found, batch_sizes, count, batch, sizes, listed):
    """A known number of images is divided evenly; a stream is known if it ends within the first batch."""
    predictor = load(whole(tmp_path / "net.onnx"), batch=batch)
    coming = found[:count] if listed else iter(found[:count])
    assert len(list(predictor.images(coming))) == count
    assert batch_sizes == (sizes if listed or count < batch else [batch] * -(-count // batch))


def test_features_go_in_equal_batches(tmp_path, batch_sizes):
    """Ten rows, at most four at once."""
    path = keep_features(tmp_path / "x.npy", np.zeros((10, 3), dtype=np.float32))
    assert len(list(load(head(tmp_path / "head.onnx"), batch=4).features(feature_input.find([str(path)])))) == 10
    assert batch_sizes == [4, 4, 4]


def test_every_file_is_decoded_once(tmp_path, found, monkeypatch):
    """Three models, two preprocessings: each model predicts as it does alone."""
    small = Preprocess(size=8, resize=8, fit=Fit.SQUASH)
    models = [
        whole(tmp_path / "one.onnx"),
        whole(tmp_path / "two.onnx", weights=WEIGHTS[:, [1, 0, 2]], preprocess=small),
        whole(tmp_path / "three.onnx", weights=-WEIGHTS),
    ]
    alone = [np.stack([prediction.probabilities for prediction in load(model).images(found)]) for model in models]
    decoded = []
    real = decode.load_pixels
    monkeypatch.setattr(
        decode, "load_pixels", lambda image, path, **more: decoded.append(path) or real(image, path, **more)
    )
    together = np.stack([prediction.probabilities for prediction in load(*models).images(found)])
    assert sorted(decoded) == sorted(image.path for image in found)
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 0.01


@pytest.mark.parametrize(("batch", "sizes"), [(1, [8] * 7), (8, [8] * 7), (20, [16] * 4), (32, [32, 32]), (100, [56])])
def test_views_of_an_image_are_in_one_batch(tmp_path, found, batch_sizes, batch, sizes):
    """A batch counts views and has whole images; seven images of eight views each are divided evenly."""
    predictor = load(whole(tmp_path / "net.onnx"), tta="crop 0.5, hflip", batch=batch)
    predictions = list(predictor.images(found))
    assert batch_sizes == sizes
    alone = list(load(whole(tmp_path / "net.onnx"), tta="crop 0.5, hflip", batch=8).images(found))
    np.testing.assert_allclose(
        [prediction.probabilities for prediction in predictions],
        [prediction.probabilities for prediction in alone],
        atol=1e-6,
    )


def test_ensemble_averages_over_models_and_views(tmp_path, found):
    """Three models, two preprocessings, two orders of the classes: each model and view counts once."""
    models = [
        whole(tmp_path / "one.onnx"),
        whole(tmp_path / "two.onnx", preprocess=Preprocess(size=8, resize=8, fit=Fit.SQUASH)),
        whole(tmp_path / "three.onnx", weights=-WEIGHTS[:, ::-1].copy(), classes=CLASSES[::-1]),
    ]
    views = {"tta": "crop 0.3", "views": 4}
    together = np.stack([prediction.probabilities for prediction in load(*models, **views, batch=5).images(found)])
    alone = [
        [dict(zip(predictor.classes, prediction.probabilities, strict=True)) for prediction in predictor.images(found)]
        for predictor in (load(model, **views) for model in models)
    ]
    expected = [
        [np.mean([shares[place][label] for shares in alone]) for label in CLASSES] for place in range(len(found))
    ]
    np.testing.assert_allclose(together, expected, atol=1e-6)
    plain = np.stack([prediction.probabilities for prediction in load(*models).images(found)])
    assert np.abs(plain - together).max() > 1e-3


def test_skipped_images_keep_their_place_among_views(tmp_path, found):
    """An image that cannot be used has no views, and later images keep theirs."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    order = [ImageFile(str(broken)), found[0], ImageFile(str(broken)), *found[1:]]
    predictor = load(whole(tmp_path / "net.onnx"), tta="vflip, hflip", vote=Vote.HARD, batch=8)
    predictions = list(predictor.images(order, callbacks=SILENT))
    assert [prediction.path for prediction in predictions] == [image.path for image in order]
    assert [prediction.probabilities is None for prediction in predictions] == [True, False, True, *[False] * 6]
    # The mean colour does not depend on flips: the four views agree
    assert all(
        prediction.probabilities.max() == 1 for prediction in predictions if prediction.probabilities is not None
    )


def test_models_with_another_class_order_agree(tmp_path, found):
    """The same network with reversed columns and names does not change a vote."""
    one = whole(tmp_path / "one.onnx")
    turned = whole(tmp_path / "turned.onnx", weights=WEIGHTS[:, ::-1].copy(), classes=CLASSES[::-1])
    alone = np.stack([prediction.probabilities for prediction in load(one).images(found)])
    for vote in Vote:
        voted = list(load(one, turned, vote=vote).images(found))
        assert [prediction.ranking[0] for prediction in voted] == alone.argmax(axis=1).tolist()
    np.testing.assert_allclose(np.stack([a.probabilities for a in load(one, turned).images(found)]), alone, atol=1e-6)


def test_skipped_images_keep_their_place(tmp_path, found):
    """One prediction per image in order, usable or not; the same image may come twice."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    bad = ImageFile(str(broken))
    order = [bad, found[0], found[0], bad, bad, *found[1:], bad]
    skipped = []
    predictions = load(whole(tmp_path / "net.onnx"), batch=2).images(
        order, callbacks=Callbacks(skip=lambda path, reason: skipped.append((path, reason)))
    )
    predictions = list(predictions)
    assert [prediction.path for prediction in predictions] == [image.path for image in order]
    assert [prediction.probabilities is None for prediction in predictions] == [image is bad for image in order]
    assert len(skipped) == 4
    lines = list(predict.labels(predictions, CLASSES))
    assert [line == "" for line in lines] == [image is bad for image in order]


def test_bad_image_is_an_error_without_a_skip_callback(tmp_path):
    """The library raises by default."""
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(BadImageError, match=r"broken\.png: empty file"):
        list(load(whole(tmp_path / "net.onnx")).images([ImageFile(str(tmp_path / "broken.png"))]))


def test_prediction_that_is_not_finite_is_skipped(tmp_path):
    """Features that are not finite give no probability; the other rows do."""
    values = np.array([[1, 2, 3], [np.nan, 0, 0], [np.inf, -np.inf, 0], [3, 2, 1]], dtype=np.float32)
    path = keep_features(tmp_path / "x.npy", values)
    skipped = []
    predictions = list(
        load(head(tmp_path / "head.onnx")).features(
            feature_input.find([str(path)]),
            callbacks=Callbacks(skip=lambda path, reason: skipped.append((path, reason))),
        )
    )
    assert [prediction.probabilities is None for prediction in predictions] == [False, True, True, False]
    assert skipped == [(f"{tmp_path}/photos/{row}.png", "the network's output is not finite") for row in (1, 2)]


def test_progress_counts_all_images(tmp_path, found):
    """With the total if it is known, skipped images included."""
    seen = []
    predictor = load(whole(tmp_path / "net.onnx"), batch=3)
    callbacks = Callbacks(progress=lambda *done: seen.append(done))
    list(predictor.images(found, callbacks=callbacks))
    assert seen[-1] == (7, 7)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    seen.clear()
    list(predictor.images(iter(found), callbacks=callbacks))
    assert seen[-1] == (7, None)


def test_column_view_counts_only_with_the_header(tmp_path):
    """A user's own column of that name leaves no row out; with views in the Header, only the unchanged rows are predicted."""
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((3, 4), dtype=np.float32))
    path.with_suffix(".tsv").write_text("path\tview\na.png\t0\na.png\t1\nb.png\t2\n")
    assert feature_input.find([str(path)])[0].rows == [0, 1, 2]
    for training, found, views in (({}, [0, 1, 2], [None] * 3), ({"views": 2}, [0], [0, 1, 2])):
        path.with_suffix(".json").write_text(Header(ArtefactKind.FEATURES, training=training).to_json())
        assert feature_input.find([str(path)])[0].rows == found
        assert [row.view for row in features.load(path).rows] == views


def test_features_are_memory_mapped(tmp_path):
    """In any float type, from any number of files, and only the rows of a split."""
    values = np.random.default_rng(0).normal(0, 9, (7, 3))
    one = keep_features(tmp_path / "one.npy", values.astype(np.float32))
    two = keep_features(tmp_path / "two.npy", values.astype(np.float16))
    predictor = load(head(tmp_path / "head.onnx"), batch=2)
    powers = np.exp(values @ WEIGHTS)
    expected = powers / powers.sum(axis=1, keepdims=True)
    found = feature_input.find([str(one), str(two)])
    assert isinstance(found[0].values, np.memmap)
    given = np.stack([prediction.probabilities for prediction in predictor.features(found)])
    np.testing.assert_allclose(given[:7], expected, atol=1e-6)
    np.testing.assert_allclose(given[7:], expected, atol=2e-3)
    chosen = list(predictor.features(feature_input.find([str(one)], split="b")))
    np.testing.assert_allclose(np.stack([prediction.probabilities for prediction in chosen]), expected[1::2], atol=1e-6)
    assert [prediction.path for prediction in chosen] == [f"{tmp_path}/photos/{row}.png" for row in (1, 3, 5)]


def test_rows_without_a_table_are_named_by_number(tmp_path, caplog):
    """A bare array has neither names nor a Header: a notice says that nothing was checked."""
    np.save(tmp_path / "x.npy", np.zeros((2, 3), dtype=np.float64))
    predictions = list(load(head(tmp_path / "head.onnx")).features(feature_input.find([str(tmp_path / "x.npy")])))
    assert [prediction.path for prediction in predictions] == [f"{tmp_path}/x.npy:0", f"{tmp_path}/x.npy:1"]
    assert "no x.json next to it: cannot check that" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": None}, "made with backbone None, .* trained with layers"),
        (
            {"backbone": Backbone("vgg16", "block5", Pool.AVG, "a" * 64)},
            "made with backbone vgg16, .* trained with layers",
        ),
        (
            {"backbone": Backbone("layers", "conv2", Pool.AVG, "a" * 64, "conv 3 k1")},
            "made with layer conv2, .* trained with conv1",
        ),
        (
            {"backbone": Backbone("layers", "conv1", Pool.MAX, "a" * 64, "conv 3 k1")},
            "made with pool max, .* trained with avg",
        ),
        (
            {"backbone": Backbone("layers", "conv1", Pool.AVG, "b" * 64, "conv 3 k1")},
            "made with weights b+, .* trained with a+;",
        ),
        ({"preprocess": Preprocess(size=16, resize=20)}, "made with resize 20, .* trained with 18"),
        (
            {"preprocess": Preprocess(size=16, resize=18, mean=(0.5, 0.5, 0.5))},
            r"made with mean \(0\.5, .* trained with \(0\.485",
        ),
    ],
    ids=["none", "backbone", "layer", "pool", "weights", "resize", "mean"],
)
def test_rejects_features_of_another_backbone(tmp_path, changes, message):
    """The difference is named, with both files and both values."""
    path = keep_features(tmp_path / "x.npy", np.zeros((2, 3), dtype=np.float32), **changes)
    with pytest.raises(FormatError, match=message) as error:
        load(head(tmp_path / "head.onnx")).features(feature_input.find([str(path)]))
    assert "x.npy" in str(error.value)
    assert "head.onnx" in str(error.value)


@pytest.mark.parametrize(
    ("shape", "message"), [((2, 4), "rows of 4, .* takes 3"), ((2, 3, 5, 5), "3 x 5 x 5, .* takes 3")]
)
def test_rejects_features_of_another_shape(tmp_path, shape, message):
    """The message has both shapes."""
    path = keep_features(tmp_path / "x.npy", np.zeros(shape, dtype=np.float32))
    with pytest.raises(FormatError, match=message):
        load(head(tmp_path / "head.onnx")).features(feature_input.find([str(path)]))


def test_rejects_table_of_another_length(tmp_path):
    """Rows would get wrong names."""
    path = keep_features(tmp_path / "x.npy", np.zeros((2, 3), dtype=np.float32))
    np.save(path, np.zeros((3, 3), dtype=np.float32))
    with pytest.raises(FormatError, match=r"has 3 rows, x\.tsv has 2"):
        feature_input.find([str(path)])


def test_heads_take_features_and_networks_images(tmp_path, found):
    """Otherwise one line says what to give."""
    path = keep_features(tmp_path / "x.npy", np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(UsageError, match=r"head\.onnx is a head and takes features, not images"):
        load(head(tmp_path / "head.onnx")).images(found)
    with pytest.raises(UsageError, match=r"x\.npy holds features, and .*net\.onnx takes images"):
        load(whole(tmp_path / "net.onnx")).features(feature_input.find([str(path)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spec": ModelSpec(resize=8)}, "has a cnnkit header with preprocessing and classes; --resize is for networks"),
        (
            {"spec": ModelSpec(size="8")},
            "takes only 16 x 16 pixels; export it again with cnn-export --dynamic-size",
        ),
        ({"spec": ModelSpec(size="native")}, "takes only 16 x 16 pixels; export it again with"),
        ({"vote": Vote.HARD}, "give a second --model, or --tta"),
        ({"logits": True, "tta": "hflip"}, "a vote has probabilities and no logits"),
    ],
)
def test_rejects_options_that_a_model_with_header_does_not_need(tmp_path, options, message):
    """They would be ignored or misunderstood."""
    with pytest.raises(UsageError, match=message):
        load(whole(tmp_path / "net.onnx"), **options)


def test_rejects_logits_of_a_vote(tmp_path):
    """The mean of probabilities is not the softmax of any logits."""
    with pytest.raises(UsageError, match="a vote has probabilities and no logits"):
        load(whole(tmp_path / "a.onnx"), whole(tmp_path / "b.onnx"), logits=True)


def test_rejects_files_that_are_not_classifiers(tmp_path, found):
    """A backbone without classes, a graph with another number of outputs than classes, and a torch file."""
    with pytest.raises(FormatError, match="no output probabilities, or no class names"):
        load(whole(tmp_path / "base.onnx", classes=None))
    with pytest.raises(FormatError, match="header has no preprocessing"):
        load(without_preprocess(whole(tmp_path / "broken.onnx")))
    two = load(whole(tmp_path / "two.onnx", classes=("a", "b")))
    with pytest.raises(FormatError, match="gives 3 numbers per image, but has 2 classes: a, b"):
        list(two.images(found))
    with pytest.raises(UsageError, match=r"head\.pt: prediction needs an ONNX file; run cnn-export"):
        load("head.pt")
    with pytest.raises(
        UsageError, match=r"^w\.pth has weights only, no classes; make a model with .* --weights w\.pth "
    ):
        load("w.pth")
    (tmp_path / "text.onnx").write_text("hello", encoding="utf-8")
    with pytest.raises(CnnkitError, match=r"text\.onnx: not an ONNX network"):
        load(tmp_path / "text.onnx")


def without_preprocess(path):
    """Remove the preprocessing from a network's Header."""
    proto = onnx.load(path)
    path.write_bytes(onnx_model.finished(proto, header(preprocess=None)))
    return path


def test_rows_are_ranked_and_cut(tmp_path, found):
    """The best K, or all if there are fewer; below --min-probability, the label is replaced and the probability kept."""
    predictions = list(load(whole(tmp_path / "net.onnx"), logits=True).images(found))
    every = list(predict.rows(predictions, CLASSES, top=9))
    assert [row.rank for row in every] == [1, 2, 3] * 7
    for start in range(0, 21, 3):
        shares = [row.probability for row in every[start : start + 3]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-6)
        powers = np.exp([row.logit for row in every[start : start + 3]])
        np.testing.assert_allclose(powers / powers.sum(), shares, atol=1e-6)
    bound = every[0].probability
    kept = list(predict.rows(predictions, CLASSES, top=2, min_probability=bound))
    assert all((row.label == "?") == (row.probability < bound) for row in kept)
    assert {row.label for row in kept} > {"?"}
    assert [row.probability for row in kept] == [row.probability for row in every if row.rank < 3]
