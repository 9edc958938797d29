"""Classify an image with MobileNetV2 in torch: torch_predict.py WEIGHTS IMAGE."""

import sys

import torch
import torchvision
from PIL import Image

network = torchvision.models.mobilenet_v2(num_classes=1000)
if sys.argv[1] != "none":
    network.load_state_dict(torch.load(sys.argv[1], weights_only=True))
network.classifier = torch.nn.Linear(1280, 2)
network.eval()
transforms = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
with torch.inference_mode():
    image = transforms(Image.open(sys.argv[2]).convert("RGB"))
    probabilities = network(image[None]).softmax(1)[0]
print(sys.argv[2], int(probabilities.argmax()), float(probabilities.max()))
