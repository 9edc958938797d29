"""Write Grad-CAM overlays with pytorch-grad-cam, as in its README: gradcam.py FOLDER WEIGHTS BATCH OUTPUT. Prints images per second."""

import sys
import time
from pathlib import Path

import torch
import torchvision
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image

folder, weights, batch, output = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
network = torchvision.models.mobilenet_v2().eval()
if weights != "none":
    network.load_state_dict(torch.load(weights, weights_only=True))
prepare = torchvision.transforms.Compose(
    [
        torchvision.transforms.Resize(256),
        torchvision.transforms.CenterCrop(224),
        torchvision.transforms.ToTensor(),
    ]
)
normalize = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
output.mkdir()
paths = sorted(folder.glob("*/*"))
with GradCAM(model=network, target_layers=[network.features[-1]]) as maps:
    started = time.perf_counter()
    for start in range(0, len(paths), batch):
        some = paths[start : start + batch]
        crops = torch.stack([prepare(Image.open(path).convert("RGB")) for path in some])
        found = maps(input_tensor=normalize(crops), targets=None)
        for path, crop, values in zip(some, crops, found, strict=True):
            drawn = show_cam_on_image(crop.permute(1, 2, 0).numpy(), values, use_rgb=True)
            Image.fromarray(drawn).save(output / f"{path.stem}.jpg", quality=95)
print(len(paths) / (time.perf_counter() - started))
