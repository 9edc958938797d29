"""Whether predictions are a network's own: it is asked again about a few of the pictures, and must say the same."""

import logging
from pathlib import Path

import numpy as np

from cnnkit.data.source import Picture
from cnnkit.errors import CnnkitError
from cnnkit.evaluation.matching import Answers
from cnnkit.infer.predict import Predictor

log = logging.getLogger("cnnkit")

#: So many pictures are asked about, those that the answers are least sure of: there networks differ most.
_ASKED = 8

#: A probability of another device, or of float16, may differ by so much; those of another network, another temperature or a vote do not
#: all stay below.
_TOLERANCE = 0.02


def check(model: Path, answers: Answers, *, name: str) -> None:
    """Demand that a network gives the probabilities that stand in a file.

    A head alone takes features, which the predictions do not name: that it is not checked is said, as where no picture is there any more.

    Args:
        model: The `.onnx`.
        answers: With the probability of every class, in the network's order.
        name: Where they come from, for messages.

    Raises:
        CnnkitError: It gives others.
    """
    predictor = Predictor([model], device="cpu")
    least = np.argsort(answers.confidence, kind="stable")[:_ASKED].tolist()
    if predictor.takes_features:
        log.info("%s takes features: not checked that %s is what it predicts", model, name)
        return
    asked = [Picture(answers.paths[row]) for row in least]
    seen = 0
    for row, answer in zip(least, predictor.pictures(asked, skip=lambda _path, _reason: None), strict=True):
        if answer.probabilities is None:
            continue
        seen += 1
        said, known = answer.probabilities, answers.probabilities[row]
        worst = int(np.abs(said - known).argmax())
        if abs(said[worst] - known[worst]) > _TOLERANCE:
            raise CnnkitError(
                f"{name} is not what {model} predicts: {answers.paths[row]} has {answers.classes[worst]} {known[worst]:.4g} there, and the "
                f"network says {said[worst]:.4g}; predict with cnn-predict -m {model}, without --tta and its like"
            )
    if not seen:
        log.warning(
            "%s: its pictures cannot be read from here, so it is not checked that %s predicts that", name, model
        )
