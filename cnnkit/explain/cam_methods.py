"""The methods of class activation maps: one class for each.

To add a method:
  1. `choices.CamMethod`: a member, whose value is the word for `--method`.
  2. Here: a subclass of `ClassActivationMap` with `method=` that member, its source in the docstring, one line of `help`, and
     - `weights` if its map is a weighted sum of the channels of the layer, otherwise `maps`;
     - `uses_gradients = False` if it needs none; `is_slow`, `is_class_agnostic` or `needs_linear_head` if they apply;
     - `has_closed_form` and `from_sums` if an exported network can provide it.
  3. tests/explain/test_cam.py: a row in `REFERENCES` with a published implementation, or in `OTHER_REFERENCES` with a separate test.

The option, its help and completion, the registry and the other tests follow from these. Nothing heavy is imported at the top: cnn-cam
takes its help from this file, and explains exported networks without torch.
"""

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Protocol

from cnnkit.choices import CamMethod

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Maps = NDArray[np.float32]


class LayerPass(Protocol):
    """A forward pass of N images up to the layer of the maps.

    Attributes:
        images: Normalized, (N, C, H, W).
        activations: Of the layer, (N, K, h, w).
        batch: The maximum number of images to run at once.
    """

    images: "Tensor"
    activations: "Tensor"
    batch: int

    def gradients(self, classes: "Tensor") -> "Tensor":
        """Compute the gradient of each image's class score at the layer, (N,) -> (N, K, h, w)."""

    def scores(self, images: "Tensor") -> "Tensor":
        """Run the network on other images, (M, C, H, W) -> (M, classes)."""


#: The class of each method.
METHODS: dict[CamMethod, type["ClassActivationMap"]] = {}


class ClassActivationMap:
    """A method, applied to one forward pass. By default a map is a weighted sum of the channels of the layer.

    Attributes:
        help: One line for `--help`.
        uses_gradients: It uses gradients; negated, they show the evidence against a class.
        is_slow: It runs the network many times for each image.
        is_class_agnostic: Its map is the same for every class.
        needs_linear_head: It is defined only for one dense layer after global average pooling.
        has_closed_form: For such a network its map follows from the weighted sums that cnn-export --cam adds as an output.
    """

    help: ClassVar[str]
    uses_gradients: ClassVar[bool] = True
    is_slow: ClassVar[bool] = False
    is_class_agnostic: ClassVar[bool] = False
    needs_linear_head: ClassVar[bool] = False
    has_closed_form: ClassVar[bool] = False

    def __init_subclass__(cls, *, method: CamMethod) -> None:
        """Register a method."""
        METHODS[method] = cls

    def __init__(self, seen: LayerPass) -> None:
        self.seen = seen

    def weights(self, classes: "Tensor") -> "Tensor":
        """Compute the weights of the channels for the class of each image, (N,) -> (N, K, 1, 1), or (N, K, h, w) per pixel."""
        raise NotImplementedError

    def maps(self, classes: "Tensor") -> "Tensor":
        """Compute the map of the class of each image, (N,) -> (N, h, w); negative values are evidence against the class."""
        return (self.weights(classes) * self.seen.activations).sum(1)

    @staticmethod
    def from_sums(sums: "Maps") -> "Maps":
        """Compute maps from the channels summed with the weights of the dense layer, (N, classes, h, w) -> the same."""
        raise NotImplementedError


def _over_places(sums: "Maps") -> "Maps":
    """Divide by the number of pixels: after global average pooling the gradient is the weight / (h * w)."""
    maps: Maps = sums / (sums.shape[2] * sums.shape[3])
    return maps


class GradCam(ClassActivationMap, method=CamMethod.GRADCAM):
    """Channels weighted by their mean gradient.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
    """

    help = "channels weighted by their mean gradient"
    has_closed_form = True

    @staticmethod
    def from_sums(sums: "Maps") -> "Maps":
        return _over_places(sums)

    def weights(self, classes: "Tensor") -> "Tensor":
        return self.seen.gradients(classes).mean((2, 3), keepdim=True)


class GradCamPlusPlus(ClassActivationMap, method=CamMethod.GRADCAM_PLUS_PLUS):
    """Positive gradients, weighted per pixel.

    Source: Chattopadhay, Sarkar, Howlader, Balasubramanian, "Grad-CAM++", WACV 2018, equation 19, for an exponential score.
    """

    help = "channels weighted by their positive gradients, weighted per pixel; finds several objects"

    def weights(self, classes: "Tensor") -> "Tensor":
        gradients, activations = self.seen.gradients(classes), self.seen.activations
        squared = gradients.square()
        below = 2 * squared + activations.sum((2, 3), keepdim=True) * squared * gradients
        shares = (squared / below.masked_fill(below == 0, 1)).masked_fill(~(squared > 0), 0)
        return (shares * gradients.relu()).sum((2, 3), keepdim=True)


class HiResCam(ClassActivationMap, method=CamMethod.HIRESCAM):
    """Each activation times its gradient.

    Source: Draelos, Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks", 2020.
    """

    help = "each activation times its gradient"
    has_closed_form = True

    @staticmethod
    def from_sums(sums: "Maps") -> "Maps":
        return _over_places(sums)

    def weights(self, classes: "Tensor") -> "Tensor":
        return self.seen.gradients(classes)


class LayerCam(ClassActivationMap, method=CamMethod.LAYERCAM):
    """Each activation times its gradient if that is positive.

    Source: Jiang, Zhang, Hou, Cheng, Wei, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", TIP 2021.
    """

    help = "each activation times its positive gradient; for early layers"

    def weights(self, classes: "Tensor") -> "Tensor":
        return self.seen.gradients(classes).relu()


class Cam(ClassActivationMap, method=CamMethod.CAM):
    """The weights of the dense layer after global average pooling.

    Source: Zhou, Khosla, Lapedriza, Oliva, Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016.
    """

    help = "channels weighted by the one dense layer after global average pooling"
    needs_linear_head = True
    has_closed_form = True

    @staticmethod
    def from_sums(sums: "Maps") -> "Maps":
        return sums

    def weights(self, classes: "Tensor") -> "Tensor":
        return self.seen.gradients(classes).sum((2, 3), keepdim=True)  # the gradient is the weight / (h * w)


class ScoreCam(ClassActivationMap, method=CamMethod.SCORECAM):
    """Channels weighted by the score of the class when the image is masked by the channel.

    Source: Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR 2020.
    """

    help = "channels weighted by a forward pass with the image masked by each: no gradients, slow"
    uses_gradients = False
    is_slow = True

    def weights(self, classes: "Tensor") -> "Tensor":
        scores = self._scores.gather(2, classes[:, None, None].expand(-1, self._scores.shape[1], 1))[:, :, 0]  # (N, K)
        return scores.softmax(1)[:, :, None, None]

    @cached_property
    def _scores(self) -> "Tensor":
        """The scores of each image, masked by each channel in turn, (N, K, classes)."""
        import torch

        seen = self.seen
        return torch.stack([self._masked(*each) for each in zip(seen.images, seen.activations, strict=True)])

    def _masked(self, image: "Tensor", activations: "Tensor") -> "Tensor":
        """Score an image masked by each channel, (C, H, W), (K, h, w) -> (K, classes)."""
        import torch
        from torch.nn import functional

        found = []
        for some in torch.split(activations, self.seen.batch):
            masks = functional.interpolate(some[None], image.shape[1:], mode="bilinear", align_corners=True)[0]
            low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
            masks = (masks - low) / (high - low + 1e-8)  # (k, H, W)
            found.append(self.seen.scores(image[None] * masks[:, None]))
        return torch.cat(found)


class EigenCam(ClassActivationMap, method=CamMethod.EIGENCAM):
    """The projection of the activations of each pixel on their first principal component.

    Source: Muhammad, Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020.
    """

    help = "first principal component of the activations; ignores the class"
    uses_gradients = False
    is_class_agnostic = True

    def maps(self, classes: "Tensor") -> "Tensor":
        return self._principal

    @cached_property
    def _principal(self) -> "Tensor":
        """The projection, (N, h, w). The sign of a component is arbitrary: it is chosen to be positive where activations are large."""
        import torch

        rows = self.seen.activations.flatten(2).transpose(1, 2)  # (N, h*w, K)
        rows = rows - rows.mean(1, keepdim=True)
        _, _, components = torch.linalg.svd(rows, full_matrices=False)  # (N, r, K)
        found = rows @ components[:, 0, :, None]  # (N, h*w, 1)
        strength = (rows.sum(2, keepdim=True) * found).sum(1, keepdim=True)
        activations = self.seen.activations
        return torch.where(strength < 0, -found, found).reshape(activations.shape[0], *activations.shape[2:])
