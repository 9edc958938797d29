"""Ensembles: several models with the same classes; each image is decoded once, and the probabilities are combined."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import class_names, messages
from cnnkit.callbacks import Progress
from cnnkit.choices import Precision, Vote
from cnnkit.data.source import ImageFile
from cnnkit.engine import onnx_classifier, onnx_network, runner
from cnnkit.engine.batches import Views
from cnnkit.engine.config import BY_NAME, NetworkSpec, is_network_name
from cnnkit.engine.onnx_classifier import OnnxClassifier, OnnxNetwork
from cnnkit.engine.runner import Metadata, Results
from cnnkit.engine.session import Session
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import onnx_file
from cnnkit.formats.header import InputColumn, Preprocess
from cnnkit.formats.onnx_record import OnnxModel
from cnnkit.infer.config import ModelSpec
from cnnkit.option_fields import given

log = logging.getLogger("cnnkit")

#: The value of --size that keeps each image's own size.
NATIVE = "native"

#: For N images: the score of each class (N, classes), and the classes ranked from best to worst (N, classes).
Ballot = tuple[NDArray[np.float32], NDArray[np.int64]]


def class_order(
    classes: Sequence[str], reference: Sequence[str], *, name: str, reference_name: str
) -> NDArray[np.int64] | None:
    """Return the indices of a model's classes in the order of a reference model: `probabilities[:, class_order(...)]`.

    Args:
        classes: Classes of the model.
        reference: Classes of the reference model.
        name: The model's file, for messages.
        reference_name: The reference model's file.

    Returns:
        (classes,) indices, or None if the order is the same.

    Raises:
        CnnkitError: The two do not have the same classes.
    """
    classes, reference = (tuple(map(class_names.normal, each)) for each in (classes, reference))
    if classes == reference:
        return None
    only, missing = (sorted(set(one) - set(other)) for one, other in ((classes, reference), (reference, classes)))
    if only or missing:
        sides = [
            f"only {file} has {messages.shortened(labels, 5)}"
            for file, labels in ((name, only), (reference_name, missing))
            if labels
        ]
        raise CnnkitError(f"{reference_name} and {name} cannot vote, their classes differ: {', '.join(sides)}")
    if not len(classes) == len(set(classes)) == len(reference):
        raise CnnkitError(f"{reference_name} and {name} cannot vote, a class name occurs twice and their orders differ")
    places = {label: place for place, label in enumerate(classes)}
    return np.array([places[label] for label in reference], dtype=np.int64)


def count_votes(probabilities: Sequence[NDArray[np.floating]], vote: Vote) -> Ballot:
    """Combine several predictions of each image into one.

    soft: the score of a class is the mean of its probabilities. hard: the score is the share of predictions with this class first; ties are
    broken by the mean of the probabilities, then by the order of the classes. The soft vote of a single prediction is that prediction.

    Args:
        probabilities: (N, classes) of each model and view, classes in the same order.
        vote: soft or hard.

    Returns:
        The scores, from 0 to 1, with NaN in the whole row if any prediction of the image is not finite; and the ranking.
    """
    stacked = np.stack(probabilities).astype(np.float64)  # (models, N, classes)
    mean = stacked.mean(axis=0)
    if vote is Vote.SOFT:
        got = mean
    else:
        choices = stacked.argmax(axis=2)  # (models, N)
        got = (choices[:, :, None] == np.arange(stacked.shape[2])).mean(axis=0)
    # By score, then by the mean; the sort is stable
    ranking = np.lexsort((-mean, -got), axis=1)
    got = np.where(np.isfinite(mean).all(axis=1, keepdims=True), got, np.nan)
    return got.astype(np.float32), ranking


class Ensemble:
    """Classifiers with the same classes.

    Attributes:
        models: One or more.
        classes: In the order of the first model.
        native: Whether each image keeps its own size.
        gives_novelty: Whether the network computes the novelty of images; then it is the only one.
    """

    def __init__(
        self,
        models: Sequence[str | Path],
        *,
        spec: ModelSpec,
        logits: bool = False,
        device: str = "auto",
        precision: Precision = Precision.FLOAT32,
        batch: int = 1,
    ) -> None:
        """Load networks.

        Args:
            models: One `.onnx` or more, or names of networks.
            spec: For those without a Header, and those given by name.
            logits: Add the logits to the predictions; for a single network.
            device: The value of `--device`.
            precision: Precision of multiplications on a GPU.
            batch: Images of most calls on a CPU, views included.

        Raises:
            UsageError: The spec contradicts the networks or is incomplete.
            CnnkitError: The classes differ.
            FormatError: A file is not a classifier.
        """
        named = sum(map(is_network_name, models))
        if spec.weights != "default":
            _check_weights(spec.weights, named=named)
        self.models: list[OnnxClassifier] = []
        for path in models:
            # If the first network runs on the CPU, so do the others, without logging it again
            known = bool(self.models) and self.models[0].network.session.device.kind == "cpu"
            where = "cpu" if known else device
            self.models.append(_load(path, spec, device=where, precision=precision, batch=batch))
        first, self.native = self.models[0], False
        if all(model.header for model in self.models):
            others = replace(spec, size=None, weights="default", labels=None if named else spec.labels)
            unused = given(others)
            if unused:
                raise UsageError(
                    f"{first.name} has a cnnkit header with preprocessing and classes; {unused[0]} is for networks without one"
                )
            if spec.size is not None:
                self._resize(spec.size)
        if logits and not first.gives_logits:
            raise UsageError(f"{first.name} has probabilities and no logits; drop --logits")
        if len(self.models) > 1 and (boxed := next((model.name for model in self.models if model.gives_box), None)):
            raise UsageError(f"{boxed} predicts boxes, which cannot vote; give that model alone")
        kinds = {model.thresholds is None: model.name for model in self.models}
        if len(kinds) > 1:
            raise CnnkitError(
                f"{kinds[False]} predicts several labels per image and {kinds[True]} one; they cannot vote, give one of them"
            )
        self.classes, self._logits = first.classes, logits
        self.gives_novelty = first.gives_novelty and len(self.models) == 1
        if not self.gives_novelty and any(model.gives_novelty for model in self.models):
            log.info("the novelty of an image is that of one model; several give none")
        self._orders = [
            class_order(model.classes, first.classes, name=model.name, reference_name=first.name)
            for model in self.models
        ]

    @property
    def thresholds(self) -> list[NDArray[np.float32]] | None:
        """With several labels per image: the thresholds of each model, (classes,), in the order of `classes`."""
        found = [model.thresholds for model in self.models]
        return [
            each if order is None else each[order]
            for each, order in zip(found, self._orders, strict=True)
            if each is not None
        ] or None

    @property
    def gives_box(self) -> bool:
        """Whether the network predicts a box, too; then it is the only one."""
        return self.models[0].gives_box

    @property
    def device(self) -> str:
        """The kind of device that the networks run on."""
        return self.models[0].network.session.device.kind

    def _resize(self, size: str) -> None:
        """Change the size of the images that the networks get."""
        self.native = size == NATIVE
        before = [model.preprocess for model in self.models]
        for place, model in enumerate(self.models):
            if self.native and model.preprocess is not None and model.network.sides != (None, None):
                raise model.fixed()
            if model.preprocess is None or not self.native:
                self.models[place] = model.resized(size)
        if self.native or [model.preprocess for model in self.models] != before:
            log.info("images have another size than in training, which changes the probabilities")

    @property
    def ways(self) -> list[Preprocess]:
        """How images are prepared, each way once."""
        return list(dict.fromkeys(model.preprocess for model in self.models if model.preprocess is not None))

    @property
    def columns(self) -> list[tuple[str, InputColumn]]:
        """The columns that the models take next to the images, one model after the other, with the model's name."""
        return [(model.name, column) for model in self.models if model.header for column in model.header.columns or ()]

    def network(self, batches: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Return the outputs of `predict` for batches prepared in each of `ways`, or of one shape with `native`; then columns."""
        if self.native:
            return self.predict([*batches] * len(self.models))
        columns = batches[-1] if len(batches) > len(self.ways) else None
        prepared = dict(zip(self.ways, batches, strict=columns is None))
        inputs = [prepared[model.preprocess] for model in self.models if model.preprocess is not None]
        return self.predict(inputs, columns)

    def run(
        self,
        images: Iterable[ImageFile],
        *,
        batch: int,
        jobs: int | None,
        workers: int,
        views: Views | None,
        first: int,
        metadata: Metadata | None,
        progress: Progress,
    ) -> Results:
        """Pass images through all networks; each file is decoded once.

        Args, Yields as `runner.run`, or as `runner.run_native_size` with `native`, without `workers`, `first`
        and `metadata`; the outputs are those of `predict`.
        """
        if self.native:
            return runner.run_native_size(
                images,
                self.ways[0],
                self.network,
                batch=batch,
                jobs=jobs,
                views=views,
                one_shape=self.device == "cuda",
                in_flight=runner.batches_in_flight(self.device),
                progress=progress,
            )
        return runner.run(
            images,
            self.ways,
            self.network,
            batch=batch,
            jobs=jobs,
            workers=workers,
            views=views,
            first=first,
            in_flight=runner.batches_in_flight(self.device),
            metadata=metadata,
            progress=progress,
        )

    def predict(
        self, inputs: Sequence[NDArray[Any]], columns: NDArray[np.float32] | None = None
    ) -> list[NDArray[np.float32]]:
        """Return the probabilities of each model, (N, classes), followed by the logits if requested, by boxes and by the novelty (N,) if
        there are any.

        Args:
            inputs: One batch per model.
            columns: Codes of the columns of all models, (N, columns), in the order of `columns`.

        Raises:
            BadImageError: With `native`, a network does not accept images of that size.
        """
        outputs, start = [], 0
        for model, values in zip(self.models, inputs, strict=True):
            stop = start + model.network.columns
            own = None if stop == start or columns is None else columns[:, start:stop]
            run = model.on_any if self.native else model
            outputs.append(run(values, logits=self._logits, novelty=self.gives_novelty, columns=own))
            start = stop
        probabilities = [
            output[0] if order is None else output[0][:, order]
            for output, order in zip(outputs, self._orders, strict=True)
        ]
        return [*probabilities, *outputs[0][1:]]


def _check_weights(weights: str, *, named: int) -> None:
    """Check that weights are for one network given by name.

    Raises:
        UsageError: There is none, or several would have the same file.
    """
    if not named:
        raise UsageError(f"--weights is for {BY_NAME}; an .onnx has its own; drop it")
    if named > 1 and weights not in ("default", "none"):
        raise UsageError(
            f"--weights {weights} is for one network, and {named} are given by name; export them with cnn-export NAME --weights FILE"
        )


def _load(path: str | Path, spec: ModelSpec, *, device: str, precision: Precision, batch: int) -> OnnxClassifier:
    name = str(path)
    if name.endswith((".pth", ".safetensors")):
        word = messages.shell_word(name)
        raise UsageError(
            f"{name} has weights only, no classes; make a model with --backbone NAME --weights {word} of cnn-extract or cnn-finetune, "
            f"and export it; or give -m NAME --weights {word}, for the classes that it was published with"
        )
    if name.endswith(".pt"):
        word, made = (messages.shell_word(each) for each in (name, f"{Path(name).stem}.onnx"))
        raise UsageError(f"{name}: prediction needs an ONNX file; run cnn-export {word} -o {made}")
    model = _by_name(name, spec) if is_network_name(name) else onnx_file.load(path)
    # The rows of another program's network may be fixed in number, and images of their own sizes come one by one
    rows = batch if model.header is not None and spec.size != NATIVE else None
    session = Session(model.content, device=device, name=name, batch=rows, needs=model.needs, precision=precision)
    columns = 0 if model.header is None else len(model.header.columns or ())
    network = OnnxNetwork(name, session, columns=columns)
    if model.header is not None:
        return onnx_classifier.from_header(network, model.header)
    from cnnkit.formats import onnx_model  # imports onnx, as the next
    from cnnkit.infer import external_model

    return external_model.from_spec(network, spec, onnx_model.parse(model.content, name=name).graph)


def _by_name(name: str, spec: ModelSpec) -> OnnxModel:
    """Export a network of torchvision or timm, or take it from the cache."""
    return onnx_network.get(
        NetworkSpec(name=name, weights=spec.weights, labels=spec.labels, dynamic_size=spec.size is not None)
    )
