"""Configuration of backbones and exports: one dataclass field per option. Imports no torch, numpy or ONNX."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit import messages
from cnnkit.choices import Decoding, ExportInput, Fit, Pool, Precision
from cnnkit.engine import device as devices
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import atomic
from cnnkit.option_fields import (
    DEFAULT_BATCH,
    RemembersGiven,
    batch_option,
    decoding_option,
    device_option,
    fit_option,
    given,
    jobs_option,
    option,
    resize_option,
    size_option,
    weights_option,
    workers_option,
)

#: The backbone of an extraction without --backbone and --layers.
DEFAULT_BACKBONE = "mobilenet_v2"

#: The largest difference of a probability that an export may have, by default.
TOLERANCE = 1e-4
#: The same for float16, whose steps near 1 are 1e-3; over the fifty layers of MobileNetV2 they add up to 3e-2.
HALF_TOLERANCE = 5e-2
#: How much lower the accuracy of an int8 export may be, by default.
MAX_DROP = 0.01
#: The lowest and the highest operator set that the exporter writes.
OPSETS = (18, 23)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig(RemembersGiven):
    """Where a network runs, and how many threads decode images for it."""

    device: str = device_option(after=("resume", "null"))
    jobs: int | None = jobs_option(after=("device", "batch"))


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig(DeviceConfig):
    """The same, and the batch size, in images or views of them."""

    batch: int = batch_option(after=("device",))


#: The default batch size on a GPU: with 32 images a large GPU is idle most of the time.
GPU_BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkConfig(InferenceConfig):
    """The same, for commands that pass many images through one network."""

    batch: int = option(
        DEFAULT_BATCH,
        f"Batch size, in images. [default: {DEFAULT_BATCH}; {GPU_BATCH} on a GPU]",
        minimum=1,
        after=("device",),
    )
    precision: Precision = option(
        Precision.FLOAT32,
        "Precision of multiplications on a GPU. tf32 is faster and changes outputs by thousandths, float16 by hundredths.",
        after=("device",),
    )

    workers: int = workers_option(after=("jobs",))

    def check_workers(self) -> None:
        """Check that each process has a thread.

        Raises:
            UsageError: There are fewer threads than processes.
        """
        if self.jobs is not None and self.jobs < self.workers:
            raise UsageError(
                f"--workers {self.workers} with --jobs {self.jobs}: each worker has at least one of the threads; "
                f"give --jobs {self.workers} or more, or fewer workers"
            )

    def batch_on(self, device: str) -> int:
        """Return the batch size for a kind of device."""
        given = "batch" in self.on_command_line or self.batch != DEFAULT_BATCH
        return GPU_BATCH if device == "cuda" and not given else self.batch


def check_backbone_weights(weights: str) -> None:
    """Check that `--weights` is a file, `default` or `none`.

    Raises:
        CnnkitError: There is no such file.
    """
    if weights not in ("default", "none") and not Path(weights).is_file():
        raise CnnkitError(f"{weights}: no such file; --weights takes a state_dict file, default or none")


#: What the weights of a network given by name are, in the help.
BY_NAME = "a network given by name"


def is_network_name(model: str | Path) -> bool:
    """Return whether a model is the name of a network of torchvision or timm, in place of a file; whether there is one is not checked.

    A folder of that name, such as one for outputs, does not hide the network.
    """
    text, path = str(model), Path(model)
    named = re.fullmatch(r"[A-Za-z][\w-]*", text) is not None and (path.is_dir() or not path.exists())
    return named or text.startswith("timm:")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec(RemembersGiven):
    """A backbone as given on the command line; equal specs give the same backbone.

    `backbone` is a network of torchvision, `timm:NAME`, or a `.pt` or `.onnx` made by cnnkit; `layers` is a notation in its place.
    `pool` None means avg, or the pooling of the `.pt` or `.onnx`. `seed` is the seed of random weights.
    """

    backbone: str | None = option(
        None,
        "Torchvision network, timm:NAME, or a .pt or .onnx made by cnnkit. [default: mobilenet_v2]",
        metavar="NAME",
    )
    layers: str | None = option(None, "Backbone in layer notation, or @FILE.", metavar="NOTATION")
    weights: str = weights_option(default="pretrained; with --layers, random")
    layer: str | None = option(
        None,
        "Layer whose output is used, by name (cnn-dims lists them) or number (30 is features.30). [default: the last layer with spatial "
        "dimensions]",
        metavar="NAME",
    )
    pool: Pool | None = option(
        None,
        "Pooling of the output of --layer; avg, cls (the class token) and cls+avg also of the tokens of a vision transformer. "
        "[default: avg, or that of the .pt or .onnx; of a vision transformer, that of its classifier]",
    )
    size: int | None = size_option("the network's; with --layers: 32")
    resize: int | None = resize_option("in proportion to --size")
    fit: Fit | None = fit_option("crop; squash with --layers; as stored in a .pt or .onnx")
    decoding: Decoding | None = decoding_option("scaled; as stored in a .pt or .onnx")
    seed: int = 0

    def named(self, *, seed: int) -> Self:
        """Return the spec with a seed, and with the default backbone if it names none."""
        backbone = self.backbone if self.backbone or self.layers else DEFAULT_BACKBONE
        return dataclasses.replace(self, backbone=backbone, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """A network by name, as it is exported for prediction; equal specs give the same network. `labels` is a file of class names."""

    name: str
    weights: str = "default"
    labels: Path | None = None
    dynamic_size: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig(InferenceConfig):
    """What is exported, and how it is compared with torch.

    `input` float is normalized float32 (N, 3, H, W), for grey images (N, 1, H, W). For the comparison, ONNX Runtime runs on `device` with
    batches of up to `batch`.
    """

    weights: str = weights_option(of=BY_NAME)
    labels: Path | None = option(
        None,
        "Class names of a network given by name, one per line, in the order of its outputs. "
        "[default: those of its default weights, ImageNet's for most]",
        metavar="FILE",
    )
    input: ExportInput = option(
        ExportInput.UINT8, "Input of the graph: uint8 images (N, H, W, 3), or normalized float32 (N, 3, H, W)."
    )
    features: bool = option(False, "Add the output features: the input of the head, (N, D).")
    cam: bool = option(
        False,
        "Add the output cam: class activation maps, (N, classes, h, w); needs global average pooling, then one dense layer.",
    )
    head_only: bool = option(False, "Export only the head: features in, probabilities out.")
    fp16: bool = option(False, "Compute in float16; outputs stay float32.")
    int8: bool = option(
        False,
        "Compute in int8 on CPUs, two to three and a half times as fast; inputs, outputs and the last layer stay float32. "
        "Needs --calibrate.",
    )
    max_drop: float = option(
        MAX_DROP,
        "With --int8: maximum drop in accuracy, as a share of the held-out images (mAP with several labels per image). Layers stay in "
        "float32 until it holds.",
        minimum=0.0,
        maximum=1.0,
    )
    dynamic_size: bool = option(
        False,
        "Accept images of any height and width; needs global pooling before the first dense layer.",
    )
    opset: int | None = option(None, f"ONNX operator set, {OPSETS[0]} to {OPSETS[1]}. [default: the exporter's]")
    tolerance: float | None = option(
        None, "Maximum absolute difference between probabilities. [default: 0.0001; 0.05 with --fp16]", minimum=0.0
    )

    @property
    def bound(self) -> float:
        """The largest allowed difference."""
        if self.tolerance is not None:
            return self.tolerance
        return HALF_TOLERANCE if self.fp16 else TOLERANCE

    def checked(
        self, model: str | Path, output: str | Path, *, verifies: bool = False, calibrates: bool = False
    ) -> Self:
        """Check options and files before torch is loaded.

        Args:
            model: A `.pt`, or the name of a network.
            output: The `.onnx`.
            verifies: Whether `--verify` is given.
            calibrates: Whether `--calibrate` is given.

        Raises:
            UsageError: Options contradict each other, the output does not end in .onnx, or the model is neither a `.pt` nor a name.
            CnnkitError: There is no such model, or no folder to write into.
        """
        whole = (self.features, self.cam, self.fp16, self.dynamic_size, verifies, self.input is not ExportInput.UINT8)
        if self.head_only and any((*whole, self.int8)):
            raise UsageError(
                "--head-only exports only the head: "
                "--features, --cam, --fp16, --int8, --dynamic-size, --input and --verify need the whole network"
            )
        self._check_int8(calibrates=calibrates)
        if self.opset is not None and not OPSETS[0] <= self.opset <= OPSETS[1]:
            raise UsageError(f"--opset {self.opset}: give {OPSETS[0]} to {OPSETS[1]}")
        devices.parse(self.device)
        named = is_network_name(model)
        if not named and (unused := given(self, names={"weights", "labels"})):
            raise UsageError(f"{model} has its own weights and classes; {unused[0]} is for {BY_NAME}; drop it")
        if named:
            check_backbone_weights(self.weights)
        model, output = Path(model), Path(output)
        if output.suffix != ".onnx":
            remedy = f"give -o {messages.output_name(output, '.onnx')}"
            raise UsageError(f"{output}: the name of an exported network must end in .onnx; {remedy}")
        if model.suffix == ".onnx":
            raise UsageError(f"{model}: already exported; give the .pt it was made from")
        if model.suffix == ".npy":
            raise UsageError(f"{model}: features, not a model; train one with cnn-train-head {model} -o head.pt")
        if not named and not model.exists():
            raise CnnkitError(f"{model}: no such file; cnn-train-head, cnn-train and cnn-finetune write models")
        if self.labels is not None:
            self.labels.stat()  # before torch is loaded
        atomic.check_folder(output)
        return self

    def _check_int8(self, *, calibrates: bool) -> None:
        if not self.int8:
            without = ["--calibrate"] if calibrates else []
            without += given(self, names={"max_drop"})
            if without:
                raise UsageError(f"{' and '.join(without)} {'need' if len(without) > 1 else 'needs'} --int8")
            return
        if not calibrates:
            raise UsageError(
                "--int8 needs --calibrate SOURCE: labelled images with the splits train and val, such as split.tsv"
            )
        if self.fp16:
            raise UsageError("--int8 and --fp16 are two precisions; give one of them")
        if devices.parse(self.device).kind == "cuda":
            raise UsageError(
                "--int8 is for CPUs, and measured there; on a GPU, --fp16 is faster: drop --device or --int8"
            )
