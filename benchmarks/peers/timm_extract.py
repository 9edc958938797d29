"""Extract features of MobileNetV2 with timm's loader, channels last, in bfloat16: timm_extract.py FOLDER WEIGHTS BATCH.

Prints images per second.
"""

import os
import sys
import time

import timm.data
import torch
import torchvision

folder, weights, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
network = torchvision.models.mobilenet_v2()
if weights != "none":
    network.load_state_dict(torch.load(weights, weights_only=True))
network = network.eval().to(memory_format=torch.channels_last)
loader = timm.data.create_loader(
    timm.data.create_dataset("", folder),
    input_size=(3, 224, 224),
    batch_size=batch,
    use_prefetcher=False,
    interpolation="bilinear",
    crop_pct=0.875,
    num_workers=os.cpu_count() or 1,
    persistent_workers=False,
)
with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
    network(torch.zeros(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last))
    started = time.perf_counter()
    rows = [
        network.features(images.contiguous(memory_format=torch.channels_last)).mean((2, 3)).float()
        for images, _ in loader
    ]
    features = torch.cat(rows)
print(len(features) / (time.perf_counter() - started))
