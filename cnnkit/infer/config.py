"""Configuration of extraction and prediction: one dataclass field for each option. No torch, numpy or ONNX."""

from dataclasses import dataclass, fields
from pathlib import Path

from cnnkit.choices import Crops, Engine, FeatureDtype, Fit, Interpolation, Vote
from cnnkit.errors import UsageError

Channels = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractConfig:
    """How features are computed and kept.

    Attributes:
        dtype: float16 halves the file.
        engine: ONNX Runtime or torch.
        views: So many augmented copies of each training image have rows as well.
        augment: How they are augmented, as a notation.
        seed: Of the augmented copies; that of random weights is BackboneSpec's.
        resume: Go on after an interrupted run; the files are the same, byte for byte.
        device: For the backbone.
        batch: Images at once.
        jobs: Threads that decode.
    """

    dtype: FeatureDtype = FeatureDtype.FLOAT32
    engine: Engine = Engine.ONNX
    views: int | None = None
    augment: str | None = None
    seed: int = 0
    resume: bool = False
    device: str = "auto"
    batch: int = 32
    jobs: int | None = None

    def __post_init__(self) -> None:
        """Refuse options that do not go together.

        Raises:
            UsageError: There are views without augmentation, or the other way round.
        """
        if (self.views is None) != (self.augment is None):
            raise UsageError("--views says how many copies, --augment what may become of them; give both or neither")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictConfig:
    """How several models, or several views of an image, become one prediction.

    Attributes:
        vote: By the mean of the probabilities, or by majority.
        logits: Predictions carry these as well.
        tta: An augmentation that makes the views, as a notation.
        views: How many of them are drawn, the plain image included.
        crops: Five or ten crops in their place.
        seed: Of what is drawn.
        device: Where the networks run.
    """

    vote: Vote = Vote.SOFT
    logits: bool = False
    tta: str | None = None
    views: int | None = None
    crops: Crops | None = None
    seed: int = 0
    device: str = "auto"

    def check(self, *, models: int) -> None:
        """Refuse options that do not go together.

        Args:
            models: How many there are.

        Raises:
            UsageError: They do not.
        """
        one_view = self.tta is None and self.crops is None
        if self.logits and (models > 1 or not one_view):
            raise UsageError(
                "a vote has probabilities and no logits; give --logits with a single --model and one view of each picture"
            )
        if self.vote is Vote.HARD and models == 1 and one_view:
            raise UsageError(
                "--vote hard counts answers to each class; give --model several times, or views with --tta"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What the command line says about networks that carry no Header; None was not given.

    `size` is a number of pixels, as it was written. `mean` and `std` are per channel, for values from 0 to 1; `labels` is a file of
    classes in the order of the network's outputs. Of networks with a Header, `size` alone: `448`, `320x480` or `native`.
    """

    size: str | None = None
    mean: Channels | None = None
    std: Channels | None = None
    labels: Path | None = None
    resize: int | None = None
    fit: Fit | None = None
    interpolation: Interpolation | None = None

    def given(self) -> list[str]:
        """List the options that were given."""
        return [f"--{field.name}" for field in fields(self) if getattr(self, field.name) is not None]
