"""Train with torch on augmented images: torch_train.py convnet|finetune FOLDER WEIGHTS float32|bf16 EPOCHS.

Prints the seconds of each epoch.
convnet: the textbook's network at 96 pixels, from random weights; finetune: MobileNetV2 at 224 pixels from features.14 on, the rest
frozen. With bf16, the network is in channels-last layout.
"""

import os
import sys
import time

import torch
import torchvision
from torch import nn
from torchvision.transforms import v2

kind, folder, weights, precision, epochs = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
bf16 = precision == "bf16"
augment = [
    v2.RandomHorizontalFlip(),
    v2.RandomAffine(36, scale=(0.8, 1.2), interpolation=v2.InterpolationMode.BILINEAR),
]
to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]


def convnet() -> nn.Module:
    """Return the network of chapter 5.2."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128), (128, 128)):
        layers += [nn.Conv2d(before, after, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, 512), nn.ReLU(), nn.Linear(512, 2))


def mobilenet() -> nn.Module:
    """Return MobileNetV2 with a new head, frozen up to features.13."""
    network = torchvision.models.mobilenet_v2()
    if weights != "none":
        network.load_state_dict(torch.load(weights, weights_only=True))
    network.features[:14].requires_grad_(False)
    network.classifier = nn.Linear(1280, 2)
    return network  # type: ignore[no-any-return] # torchvision has no types


if kind == "convnet":
    network = convnet()
    transforms = v2.Compose([v2.Resize((96, 96)), *augment, *to_tensor])
else:
    network = mobilenet()
    normalize = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    transforms = v2.Compose([v2.Resize(256), v2.CenterCrop(224), *augment, *to_tensor, normalize])
layout = torch.channels_last if bf16 else torch.contiguous_format
network = network.to(memory_format=layout)
network.train()
if kind != "convnet":
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
optimizer = torch.optim.Adam([each for each in network.parameters() if each.requires_grad], lr=1e-4)
loss_function = nn.CrossEntropyLoss()
loader = torch.utils.data.DataLoader(
    torchvision.datasets.ImageFolder(folder, transforms),
    batch_size=32,
    shuffle=True,
    num_workers=os.cpu_count() or 1,
    persistent_workers=True,
)
for _ in range(epochs):
    started = time.perf_counter()
    for images, labels in loader:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_function(network(images.contiguous(memory_format=layout)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(time.perf_counter() - started, flush=True)
