"""Configuration of backbones and exports: one dataclass field for each option. No torch, numpy or ONNX."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit.choices import ExportInput, Fit, Pool, Precision
from cnnkit.engine import device as devices
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import atomic
from cnnkit.option_fields import DEFAULT_BATCH, RemembersGiven, batch_option, device_option, jobs_option, option

#: The backbone of an extraction that names none.
DEFAULT_BACKBONE = "mobilenet_v2"

#: The largest difference of a probability that passes, unless the user says otherwise.
TOLERANCE = 1e-4
#: The same for float16, whose steps near 1 are 1e-3: through the fifty layers of MobileNetV2 they grow to 3e-2.
HALF_TOLERANCE = 5e-2
#: The lowest and the highest operator set that the exporter writes.
OPSETS = (18, 23)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig(RemembersGiven):
    """Where a network runs, and how many threads decode images for it."""

    device: str = device_option(after=("resume", "null"))
    jobs: int | None = jobs_option(after=("device", "batch"))


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig(DeviceConfig):
    """The same, and how many images, or views of them, go through the network at once."""

    batch: int = batch_option(after=("device",))


#: How many images go through a network at once on a GPU, unless it is said: 32 leave a large one idle.
GPU_BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkConfig(InferenceConfig):
    """The same, of commands that send many images through one network."""

    batch: int = option(
        DEFAULT_BATCH,
        f"Pictures that go through the network at once; on a GPU {GPU_BATCH} unless it is given.",
        minimum=1,
        after=("device",),
    )
    precision: Precision = option(
        Precision.FLOAT32,
        "What a GPU multiplies in: float32, the CPU's numbers to rounding; faster tf32, other by thousandths, or float16, by hundredths.",
        after=("device",),
    )

    def batch_on(self, device: str) -> int:
        """Give the batch for a kind of device."""
        given = "batch" in self.on_command_line or self.batch != DEFAULT_BATCH
        return GPU_BATCH if device == "cuda" and not given else self.batch


def check_backbone_weights(weights: str) -> None:
    """Demand that `--weights` names a file, or one of the words that stand for weights.

    Raises:
        CnnkitError: There is no such file.
    """
    if weights not in ("default", "none") and not Path(weights).is_file():
        raise CnnkitError(f"{weights}: no such file; --weights takes a state_dict file, default or none")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec(RemembersGiven):
    """A backbone as the command line names it; equal specs give the same backbone.

    `backbone` is a network of torchvision, `timm:NAME`, or a `.pt` or `.onnx` made by cnnkit, and `layers` a notation in its place;
    `pool` is None for the model's own, others take avg; `seed` is that of random weights.
    """

    backbone: str | None = option(
        None,
        "A torchvision network, timm:NAME, or a .pt or .onnx of ours. [default: mobilenet_v2]",
        metavar="NAME",
    )
    layers: str | None = option(None, "A base by notation, or @FILE.", metavar="NOTATION")
    weights: str = option(
        "default", "A state_dict; the library's own; or seeded random values.", metavar="FILE|default|none"
    )
    layer: str | None = option(
        None,
        "Cut behind this layer, by a name that cnn-dims lists. [default: the last with spatial extent]",
        metavar="NAME",
    )
    pool: Pool | None = option(None, "What becomes of the layer's map. [default: avg, or what the .pt or .onnx does]")
    size: int | None = option(None, "Side of the network's input in pixels. [default: the network's own]", minimum=1)
    resize: int | None = option(
        None, "Shorter side before the centre crop. [default: in proportion to --size]", minimum=1
    )
    fit: Fit | None = option(None, "How a picture becomes a square. [default: crop]")
    seed: int = 0

    def named(self, *, seed: int) -> Self:
        """Give the spec with a seed, and with the default network where none is named."""
        backbone = self.backbone if self.backbone or self.layers else DEFAULT_BACKBONE
        return dataclasses.replace(self, backbone=backbone, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig(InferenceConfig):
    """What is exported, and how it is compared with torch.

    `input` float takes normalised float32 (N, 3, H, W), grey images (N, 1, H, W). ONNX Runtime runs on `device` for the comparison, on
    batches of up to `batch`.
    """

    input: ExportInput = option(ExportInput.UINT8, "uint8 pictures (N, H, W, 3), or normalised float32 (N, 3, H, W).")
    features: bool = option(False, "One more output: what the head reads, (N, D).")
    cam: bool = option(False, "One more output: class activation maps, (N, classes, h, w).")
    head_only: bool = option(False, "The head alone: features in, probabilities out.")
    fp16: bool = option(False, "float16 inside, float32 outputs.")
    dynamic_size: bool = option(
        False,
        "Take pictures of any height and width; needs global pooling before the first dense layer.",
    )
    opset: int | None = option(None, "ONNX operator set. [default: the exporter's]")
    tolerance: float | None = option(
        None, "Largest difference of a probability. [default: 0.0001; 0.05 with --fp16]", minimum=0.0
    )

    @property
    def bound(self) -> float:
        """The largest difference that passes."""
        if self.tolerance is not None:
            return self.tolerance
        return HALF_TOLERANCE if self.fp16 else TOLERANCE

    def checked(self, model: str | Path, output: str | Path, *, verifies: bool) -> Self:
        """Refuse what cannot be exported, before torch is loaded.

        Args:
            model: A `.pt`.
            output: The `.onnx`.
            verifies: Images are compared, too.

        Raises:
            UsageError: Options contradict each other, or a name does not end in .onnx.
            FormatError: The model is exported already.
            CnnkitError: There is no such model, or no folder to write into.
        """
        whole = (self.features, self.cam, self.fp16, self.dynamic_size, verifies, self.input is not ExportInput.UINT8)
        if self.head_only and any(whole):
            raise UsageError(
                "--head-only takes features: --features, --cam, --fp16, --dynamic-size, --input and --verify go with a whole network"
            )
        if self.opset is not None and not OPSETS[0] <= self.opset <= OPSETS[1]:
            raise UsageError(f"--opset {self.opset}: give {OPSETS[0]} to {OPSETS[1]}")
        devices.parse(self.device)
        model, output = Path(model), Path(output)
        if output.suffix != ".onnx":
            raise UsageError(f"{output}: a network is written to a .onnx file")
        if model.suffix == ".onnx":
            raise FormatError(f"{model}: is exported already; give the .pt that it was made from")
        if not model.exists():
            raise CnnkitError(f"{model}: no such file; a model comes from cnn-train-head")
        atomic.check_folder(output)
        return self
