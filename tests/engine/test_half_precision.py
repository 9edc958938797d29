"""Networks in float16: recognized by their weights, converted with outputs that stay close to float32's."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from cnnkit.engine import export, half_precision
from cnnkit.engine.session import Session
from cnnkit.errors import UsageError


@pytest.fixture(scope="module")
def content():
    """A small classifier of uint8 images with batch norm, groups, squeeze and softmax."""
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            layers = [
                nn.Conv2d(3, 16, 3, 2),
                nn.BatchNorm2d(16),
                nn.ReLU6(),
                nn.Conv2d(16, 16, 3, groups=16),
                nn.Hardswish(),
            ]
            self.base = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

        def forward(self, images):
            return torch.softmax(self.base(images.permute(0, 3, 1, 2).float() / 255), 1)

    example = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    return export.to_onnx(Network().eval(), example, inputs="images", outputs=["probabilities"]).SerializeToString()


def test_outputs_stay_close_to_float32(content):
    """Weights are float16, inputs and outputs keep their types, and probabilities agree within 1e-3."""
    half = half_precision.converted(content, name="net")
    assert half_precision.is_half(half)
    assert not half_precision.is_half(content)
    assert onnx.load_from_string(half).graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert onnx.load_from_string(half).graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    images = {"images": np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)}
    (expected,), (found,) = (Session(each, device="cpu").run(images) for each in (content, half))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_rejects_network_that_cannot_be_converted(content, monkeypatch):
    """The message has a remedy."""
    from onnxruntime.transformers import float16

    def failing(*_, **__):
        raise ValueError("no such operator\nmore")

    monkeypatch.setattr(float16, "convert_float_to_float16", failing)
    with pytest.raises(
        UsageError, match=r"^net cannot be converted to float16 \(no such operator\); use --precision tf32$"
    ):
        half_precision.converted(content, name="net")
