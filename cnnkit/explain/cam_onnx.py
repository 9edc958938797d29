"""Class activation maps that an exported network outputs itself. No gradients, no torch.

Source: Zhou, Khosla, Lapedriza, Oliva, Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnkit.choices import CamMethod, Pool
from cnnkit.engine import onnx_classifier
from cnnkit.engine.onnx_classifier import OnnxClassifier, OnnxNetwork
from cnnkit.engine.session import Session
from cnnkit.errors import FormatError, UsageError
from cnnkit.explain.cam_methods import METHODS
from cnnkit.explain.config import CamOptions, InputOptions
from cnnkit.formats import onnx_model
from cnnkit.formats.header import Header, Preprocess
from cnnkit.nets import graph_centres


class OnnxCam:
    """An exported network with its maps.

    Attributes:
        model: The network, with its classes and preprocessing.
        layer: The name of the layer of the maps.
        centres: The centres of the cells of maps in the input; None if the graph does not determine them.
    """

    def __init__(self, path: str | Path, options: CamOptions, shown: InputOptions, *, device: str = "auto") -> None:
        """Load a network.

        Args:
            path: The `.onnx`.
            options: A method with a closed form, and contrast.
            shown: The size of images, and how they are fitted to it.
            device: auto, cpu, cuda or cuda:N.

        Raises:
            UsageError: The network outputs no maps, the method needs gradients, or the network does not accept that size.
            FormatError: The network is not a classifier made by cnnkit.
        """
        method = options.method or CamMethod.CAM
        name = str(path)
        model = onnx_model.load(path)
        if model.header is None:
            raise FormatError(f"{name}: no cnnkit header; export a network with maps by cnn-export --cam")
        model.header.refuse_columns(name)
        if not METHODS[method].has_closed_form:
            raise UsageError(f"--method {method} does not work for an exported network; give the .pt it was made from")
        proto = onnx_model.parse(model.content, name=name)
        if "cam" not in {value.name for value in proto.graph.output}:
            raise UsageError(_missing(name, model.header))
        network = OnnxNetwork(name, Session(model.content, device=device, name=name, needs=model.needs))
        self.model: OnnxClassifier = onnx_classifier.from_header(network, model.header)
        if shown.size is not None or shown.fit is not None:
            self.model = self.model.resized(shown.size, fit=shown.fit)
        prepared = self.model.preprocess or Preprocess()
        self.centres = graph_centres.centres_of(proto, "cam", size=(prepared.height, prepared.width))
        self.classes, self.layer = (
            self.model.classes,
            model.header.backbone.layer if model.header.backbone else "the backbone",
        )
        self._method, self._contrast = METHODS[method], options.contrast

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the probability of every class, (N, H, W, 3) -> (N, classes)."""
        return self.model(images)[0]

    def forward(self, images: NDArray[np.uint8]) -> "OnnxForwardPass":
        """Run the network, (N, H, W, 3)."""
        probabilities, sums = self.model.network.rows(
            images, ["probabilities", "cam"], preprocess=self.model.preprocess
        )
        maps = self._method.from_sums(sums)
        return OnnxForwardPass(probabilities, -maps if self._contrast else maps)


class OnnxForwardPass:
    """The outputs of a network for a batch of images.

    Attributes:
        probabilities: (N, classes).
    """

    def __init__(self, probabilities: NDArray[np.float32], maps: NDArray[np.float32]) -> None:
        self.probabilities = probabilities
        self._maps = maps  # (N, classes, h, w)

    def maps(self, classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the map of one class, by number, for each image, (N,) -> (N, h, w), non-negative."""
        return np.maximum(self._maps[np.arange(len(classes)), classes], 0)


def _missing(name: str, header: Header) -> str:
    """Explain why a network outputs no maps: it was exported without them, or cannot have them."""
    possible = header.backbone is not None and header.backbone.pool is Pool.AVG and "," not in (header.head or ",")
    if possible:
        return f"{name} outputs no class activation maps; export it again with cnn-export --cam"
    return (
        f"{name} outputs no class activation maps, and its head ({header.head}) is not one dense layer after global average pooling; "
        "give the .pt it was made from"
    )
