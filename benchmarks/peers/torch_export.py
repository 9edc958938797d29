"""Export MobileNetV2 with a head to ONNX and compare the outputs on a batch: torch_export.py WEIGHTS OUTPUT."""

import sys

import numpy as np
import onnxruntime
import torch
import torchvision

network = torchvision.models.mobilenet_v2()
if sys.argv[1] != "none":
    network.load_state_dict(torch.load(sys.argv[1], weights_only=True))
network.classifier = torch.nn.Linear(1280, 2)
network = torch.nn.Sequential(network, torch.nn.Softmax(1)).eval()
images = torch.rand(2, 3, 224, 224)
torch.onnx.export(
    network,
    (images,),
    sys.argv[2],
    dynamo=True,
    external_data=False,
    verbose=False,
    input_names=["images"],
    output_names=["probabilities"],
    dynamic_shapes={"input": {0: torch.export.Dim("N")}},
)
session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
with torch.inference_mode():
    np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], network(images).numpy(), atol=1e-4)
