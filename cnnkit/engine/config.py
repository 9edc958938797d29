"""Configuration of backbones and exports: one dataclass field for each option. No torch, numpy or ONNX."""

from dataclasses import dataclass
from pathlib import Path

from cnnkit.choices import ExportInput, Fit, Pool
from cnnkit.engine import device as devices
from cnnkit.errors import CnnkitError, FormatError, UsageError

#: The largest difference of a probability that passes, unless the user says otherwise.
TOLERANCE = 1e-4
#: The same for float16, whose steps near 1 are 1e-3: through the fifty layers of MobileNetV2 they grow to 3e-2.
HALF_TOLERANCE = 5e-2
#: The lowest and the highest operator set that the exporter writes.
OPSETS = (18, 23)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """A backbone as the command line names it; equal specs give the same backbone.

    Attributes:
        backbone: A network of torchvision, `timm:NAME`, or a `.pt` or `.onnx` of ours.
        layers: A notation in its place.
        weights: A state_dict file, `default` or `none`.
        layer: Where it is cut.
        pool: None for the model's own; others take avg.
        size: Side of the square input in pixels.
        resize: Shorter side before the crop.
        fit: How an image becomes a square.
        seed: Of random weights.
    """

    backbone: str | None = None
    layers: str | None = None
    weights: str = "default"
    layer: str | None = None
    pool: Pool | None = None
    size: int | None = None
    resize: int | None = None
    fit: Fit | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """What is exported, and how it is compared with torch.

    Attributes:
        input: uint8 images (N, H, W, 3), or normalised float32 (N, 3, H, W), grey ones (N, 1, H, W).
        features: Also output what the head reads.
        cam: Also output the class activation maps.
        head_only: Take features in place of images.
        fp16: float16 inside, float32 outside.
        dynamic_size: Take images of any size.
        opset: ONNX operator set; the exporter's own by default.
        tolerance: The largest difference of a probability that passes.
        batch: The largest batch compared.
        jobs: Threads that decode.
        device: Where ONNX Runtime runs for the comparison.
    """

    input: ExportInput = ExportInput.UINT8
    features: bool = False
    cam: bool = False
    head_only: bool = False
    fp16: bool = False
    dynamic_size: bool = False
    opset: int | None = None
    tolerance: float | None = None
    batch: int = 32
    jobs: int | None = None
    device: str = "auto"

    @property
    def bound(self) -> float:
        """The largest difference that passes."""
        if self.tolerance is not None:
            return self.tolerance
        return HALF_TOLERANCE if self.fp16 else TOLERANCE

    def check(self, model: str | Path, output: str | Path, *, verifies: bool) -> None:
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
        if not output.parent.is_dir():
            raise CnnkitError(f"{output.parent}: no such folder to write {output.name} into")
