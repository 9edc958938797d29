"""Extract features of MobileNetV2 with torch, as in torchvision's examples: torch_extract.py FOLDER WEIGHTS BATCH.

Prints images per second.
"""

import os
import sys
import time

import torch
import torchvision

folder, weights, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
network = torchvision.models.mobilenet_v2()
if weights != "none":
    network.load_state_dict(torch.load(weights, weights_only=True))
network.eval()
transforms = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
dataset = torchvision.datasets.ImageFolder(folder, transforms)
loader = torch.utils.data.DataLoader(dataset, batch, num_workers=os.cpu_count() or 1)
with torch.inference_mode():
    network(torch.zeros(batch, 3, 224, 224))
    started = time.perf_counter()
    rows = [network.features(images).mean((2, 3)) for images, _ in loader]
    features = torch.cat(rows)
print(len(features) / (time.perf_counter() - started))
