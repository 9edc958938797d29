"""Milliseconds per image of cnn-cam and pytorch-grad-cam: `python benchmarks/cam.py FOLDER [WEIGHTS [IMAGES [BATCH [ROUNDS]]]]`.

FOLDER contains images; WEIGHTS is a state_dict of MobileNetV2, random by default. Both programs make maps of the most probable class at
the last layer, on the CPU, with the same method, batch and images; starting and loading are not counted. They alternate, so that a
busy machine slows both alike:

- maps: from a batch in memory to its maps;
- whole: from image files to overlay files, including decoding and drawing. pytorch-grad-cam runs as in its README: Pillow,
  torchvision's transforms, `show_cam_on_image` on the crop, a JPEG. cnn-cam draws on the whole image.

Score-CAM runs the network once for each of 1,280 channels, so it gets only one image.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pytorch_grad_cam
import torch
import torchvision
from PIL import Image
from pytorch_grad_cam.utils.image import show_cam_on_image

from cnnkit.choices import CamMethod
from cnnkit.data import preprocessing, source
from cnnkit.data.source import ImageFile
from cnnkit.explain import cam_run
from cnnkit.explain.cam_run import CamModel
from cnnkit.explain.config import CamOptions, InputOptions, RenderOptions

RIVALS = {
    CamMethod.GRADCAM: pytorch_grad_cam.GradCAM,
    CamMethod.GRADCAM_PLUS_PLUS: pytorch_grad_cam.GradCAMPlusPlus,
    CamMethod.HIRESCAM: pytorch_grad_cam.HiResCAM,
    CamMethod.LAYERCAM: pytorch_grad_cam.LayerCAM,
    CamMethod.EIGENCAM: pytorch_grad_cam.EigenCAM,
    CamMethod.SCORECAM: pytorch_grad_cam.ScoreCAM,
}


def our_maps(opened: CamModel, batches: list[np.ndarray]) -> None:
    """Make the maps of batches in memory with cnnkit."""
    for batch in batches:
        seen = opened.network.forward(batch)
        seen.maps(seen.probabilities.argmax(1))


def their_maps(maps: pytorch_grad_cam.base_cam.BaseCAM, batches: list[torch.Tensor]) -> None:
    """Make the maps of normalized batches in memory with pytorch-grad-cam, which always enlarges them to the input."""
    for batch in batches:
        maps(input_tensor=batch, targets=None)


def our_whole(opened: CamModel, images: list[ImageFile], batch: int) -> None:
    """Make overlay files from image files with cnnkit."""
    with tempfile.TemporaryDirectory() as folder:
        options = RenderOptions(output=Path(folder, "maps"))
        count = sum(1 for _ in cam_run.explain(images, opened, options=options, batch=batch))
        assert count == len(images)


def their_whole(maps: pytorch_grad_cam.base_cam.BaseCAM, images: list[ImageFile], batch: int) -> None:
    """Make overlay files from image files with pytorch-grad-cam."""
    prepare = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(256), torchvision.transforms.CenterCrop(224), torchvision.transforms.ToTensor()]
    )
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, len(images), batch):
            some = images[start : start + batch]
            crops = torch.stack([prepare(Image.open(image.path).convert("RGB")) for image in some])
            found = maps(input_tensor=normalise(crops), targets=None)
            for index, (crop, values) in enumerate(zip(crops, found, strict=True), start=start):
                drawn = show_cam_on_image(crop.permute(1, 2, 0).numpy(), values, use_rgb=True)
                Image.fromarray(drawn).save(Path(folder, f"{index}.jpg"), quality=95)


def main(folder: str, weights: str = "none", images: str = "64", batch: str = "16", rounds: str = "5") -> None:
    """Print two rows for each method."""
    found = source.find([folder])
    assert isinstance(found, list)
    chosen = found[:: max(1, len(found) // int(images))][: int(images)]
    network = torchvision.models.mobilenet_v2(weights=None).eval()
    if weights != "none":
        network.load_state_dict(torch.load(weights, weights_only=True))
    print("method", "measured", "cnn_cam_ms", "pytorch_grad_cam_ms", "ratio", sep="\t")
    for method, rival in RIVALS.items():
        some = chosen[:1] if method is CamMethod.SCORECAM else chosen
        shown = InputOptions(weights=str(weights))
        opened = cam_run.open_model("mobilenet_v2", CamOptions(method=method), shown, device="cpu", batch=16)
        prepared = [preprocessing.load(image.path, opened.preprocess) for image in some]
        ours = [np.stack(prepared[start : start + int(batch)]) for start in range(0, len(some), int(batch))]
        normalise = opened.network.network.normalise  # type: ignore[attr-defined] # of the maps that torch makes
        theirs = [normalise(torch.from_numpy(pixels)) for pixels in ours]
        with rival(model=network, target_layers=[network.features[-1]]) as maps:
            runs: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
                "maps": (partial(our_maps, opened, ours), partial(their_maps, maps, theirs)),
                "whole": (
                    partial(our_whole, opened, some, int(batch)),
                    partial(their_whole, maps, some, int(batch)),
                ),
            }
            for name, both in runs.items():
                times: tuple[list[float], list[float]] = ([], [])
                for number in range(1 if method is CamMethod.SCORECAM else int(rounds) + 1):
                    for run, spent in zip(both, times, strict=True):
                        began = time.perf_counter()
                        run()
                        if number or method is CamMethod.SCORECAM:  # the first round warms up
                            spent.append((time.perf_counter() - began) * 1000 / len(some))
                one, other = map(median, times)
                print(method, name, f"{one:.1f}", f"{other:.1f}", f"{one / other:.2f}", sep="\t", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
