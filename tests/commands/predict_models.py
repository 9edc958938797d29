"""Small exported classifiers and their images, for the tests of cnn-predict."""

import functools

import numpy as np
import torch

from cnnkit.choices import Fit, Pool
from cnnkit.data import preprocessing
from cnnkit.engine import classifier_outputs, export
from cnnkit.formats.header import ArtefactKind, Header, Preprocess
from cnnkit.nets import backbones, build
from cnnkit.nets import classifier as classifiers

CLASSES = ("blue", "green", "red")


LAYERS = "conv 8 k3 relu, pool 2, conv 12 k3 relu"


PREPROCESS = Preprocess(fit=Fit.CROP, resize=28, size=24, mean=(0.4, 0.45, 0.5), std=(0.2, 0.25, 0.3))


@functools.cache
def network(seed=0, preprocess=PREPROCESS, head="dense 8 relu, dense 3", layers=LAYERS):
    """Build a classifier with random weights, and the record of its backbone."""
    extractor, backbone, _ = backbones.by_notation(layers, size=preprocess.size, seed=seed)
    made = classifiers.build_head(head, (12,))
    build.initialise(made, build.Initializer.HE, generator=torch.Generator().manual_seed(seed))
    return classifiers.Classifier(extractor, made, preprocess=preprocess, pool=Pool.AVG).eval(), backbone


@functools.cache
def content(seed=0, kind="whole", classes=CLASSES, preprocess=PREPROCESS, head="dense 8 relu, dense 3", layers=LAYERS):
    """Export a classifier: whole, with a dynamic size, with normalized input, or only its head."""
    made, backbone = network(seed, preprocess, head, layers)
    size = preprocess.size
    if kind == "head":
        module, shape, dtype = classifier_outputs.HeadOutputs(made.head), (12,), np.float32
    elif kind == "float":
        module, shape, dtype = classifier_outputs.ClassifierOutputs(made, normalised=True), (3, size, size), np.float32
    elif kind == "any":
        module, shape, dtype = classifier_outputs.ClassifierOutputs(made), (size + 9, size, 3), np.uint8
    else:
        module, shape, dtype = classifier_outputs.ClassifierOutputs(made), (size, size, 3), np.uint8
    example = torch.from_numpy(export.random_inputs(shape, np.dtype(dtype), batch=2))
    proto = export.to_onnx(
        module.eval(),
        example,
        inputs="features" if kind == "head" else "images",
        outputs=module.names,
        free=export.BATCH_AXIS | ({1: "height", 2: "width"} if kind == "any" else {}),
    )
    header = Header(kind=ArtefactKind.ONNX, classes=classes, preprocess=preprocess, backbone=backbone, head="dense 3")
    return export.checked_bytes(proto, header)


def files(root):
    return [str(path) for path in sorted(root.rglob("*.png"))]


def in_torch(paths, made=None):
    """Compute logits (N, classes) in torch, on prepared images."""
    made = made or network()[0]
    pixels = np.stack([preprocessing.load(path, made.preprocess) for path in paths])
    with torch.no_grad():
        return made(torch.from_numpy(pixels))


def shares_of(outcome):
    """The probabilities of all classes of all images, (N, 3), from rows of --top 3."""
    rows = outcome.rows
    found = np.zeros((len(rows) // 3, 3))
    for index, row in enumerate(rows):
        found[index // 3, CLASSES.index(row["label"])] = float(row["probability"])
    return found


def squares(paths, preprocess=PREPROCESS):
    return torch.from_numpy(np.stack([preprocessing.load(path, preprocess) for path in paths]))


def torch_probabilities(pixels, made=None):
    with torch.no_grad():
        return (made or network()[0])(pixels).softmax(1).numpy()
