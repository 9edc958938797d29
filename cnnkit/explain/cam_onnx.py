"""Class activation maps out of an exported network that gives them itself. No gradients, no torch.

Source: Zhou, Khosla, Lapedriza, Oliva, Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnkit.choices import CamMethod, Fit, Pool
from cnnkit.engine import onnx_classifier
from cnnkit.engine.onnx_classifier import OnnxClassifier, OnnxNetwork
from cnnkit.engine.session import Session
from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import onnx_model
from cnnkit.formats.header import Header

#: For one dense layer behind global average pooling all of these are the same sum, CAM without the mean's 1 / (h * w).
METHODS = frozenset({CamMethod.CAM, CamMethod.GRADCAM, CamMethod.HIRESCAM})


class OnnxCam:
    """An exported network and its maps.

    Attributes:
        model: With its classes and preprocessing.
        layer: The name of the layer whose maps they are.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        method: CamMethod,
        contrast: bool,
        size: str | None = None,
        fit: Fit | None = None,
        device: str,
    ) -> None:
        """Load a network.

        Args:
            path: The `.onnx`.
            method: One of METHODS.
            contrast: Maps of what speaks against a class in place of what speaks for it.
            size: Of what it is shown, in place of its own: `448` or `320x480`.
            fit: How a picture becomes that.
            device: Where it runs.

        Raises:
            UsageError: It gives no maps, or the method takes gradients, or it does not take that size.
            FormatError: It is no classifier of ours.
        """
        name = str(path)
        model = onnx_model.load(path)
        if model.header is None:
            raise FormatError(f"{name}: no cnnkit header in it; cnn-export --cam makes a network that gives maps")
        if method not in METHODS:
            raise UsageError(
                f"--method {method} needs more than an exported network gives; give the .pt it was made from"
            )
        graph = onnx_model.parse(model.content, name=name).graph
        if "cam" not in {value.name for value in graph.output}:
            raise UsageError(_missing(name, model.header))
        network = OnnxNetwork(name, Session(model.content, device=device, name=name))
        self.model: OnnxClassifier = onnx_classifier.ours(network, model.header)
        if size is not None or fit is not None:
            self.model = self.model.resized(size, fit=fit)
        self.classes, self.layer = (
            self.model.classes,
            model.header.backbone.layer if model.header.backbone else "the base",
        )
        self._mean, self._contrast = method is not CamMethod.CAM, contrast

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give the probability of every class, (N, H, W, 3) -> (N, classes)."""
        return self.model(images)[0]

    def look(self, images: NDArray[np.uint8]) -> "OnnxForwardPass":
        """Run the network, (N, H, W, 3)."""
        probabilities, maps = self.model.network.run(images, ["probabilities", "cam"], preprocess=self.model.preprocess)
        if self._mean:
            maps = maps / (maps.shape[2] * maps.shape[3])
        return OnnxForwardPass(probabilities, -maps if self._contrast else maps)


class OnnxForwardPass:
    """What a network answered for a batch."""

    def __init__(self, probabilities: NDArray[np.float32], maps: NDArray[np.float32]) -> None:
        #: (N, classes)
        self.probabilities = probabilities
        self._maps = maps  # (N, classes, h, w)

    def maps(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give the map of a class for each picture, (N,) -> (N, h, w), nowhere negative."""
        return np.maximum(self._maps[np.arange(len(chosen)), chosen], 0)


def _missing(name: str, header: Header) -> str:
    """Say why a network gives no maps: it was not asked to, or it cannot."""
    possible = header.backbone is not None and header.backbone.pool is Pool.AVG and "," not in (header.head or ",")
    if possible:
        return f"{name} gives no class activation maps; export it again with cnn-export --cam"
    return (
        f"{name} gives no class activation maps, and its head ({header.head}) is not one dense layer behind global average pooling, "
        "whose weights alone would make them; give the .pt it was made from, which has gradients"
    )
