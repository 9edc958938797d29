"""Configuration of dataset checks and of advice: one dataclass field for each option. No numpy or torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit.choices import ProbeName
from cnnkit.data.config import NEAR_BITS
from cnnkit.engine import device as devices
from cnnkit.errors import UsageError
from cnnkit.option_fields import device_option, jobs_option, option, seed_option


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig:
    """What is looked for in a set of images."""

    features: Path | None = option(
        None, "Features of the images, from cnn-extract: look for neighbours in them, too.", metavar="X.npy"
    )
    similarity: float | None = option(
        None,
        "With --features: from here on two are neighbours. [default: 0.93]",
        minimum=0.0,
        maximum=1.0,
        metavar="COSINE",
    )
    near_bits: int = option(
        NEAR_BITS,
        "Bits of 256 by which the perceptual hashes of two images that look alike may differ.",
        minimum=0,
        maximum=80,
        metavar="N",
    )
    probes: str = option("all", f"Which leak probes: all, none, or some of {', '.join(ProbeName)}.", metavar="A,B,...")
    seed: int = seed_option(after=("null",))
    jobs: int | None = jobs_option(after=("seed",))

    def checked(self) -> Self:
        """Refuse probes that there are not, and options that do not go together.

        Raises:
            UsageError: There is no such probe, or --similarity without --features.
        """
        self.probe_names()
        if self.similarity is not None and self.features is None:
            raise UsageError("--similarity is that of features; give them with --features X.npy")
        return self

    def probe_names(self) -> tuple[ProbeName, ...]:
        """Read `width,bytes`, `all` or `none`.

        Raises:
            UsageError: There is no such probe.
        """
        if self.probes in ("all", "none"):
            return tuple(ProbeName) if self.probes == "all" else ()
        words = [word.strip() for word in self.probes.split(",")]
        for word in words:
            if word not in list(ProbeName):
                raise UsageError(f'--probes: no probe "{word}"; there are {", ".join(ProbeName)}, or all, or none')
        return tuple(ProbeName(word) for word in words)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdviseConfig:
    """The pretrained network that a set of images is measured with; `seed` chooses the images that are looked at, and divides them."""

    backbone: str = option("mobilenet_v2", "A pretrained network to measure with.", metavar="NAME")
    weights: str = option("default", "Its weights: a state_dict, or the library's own.", metavar="FILE|default")
    device: str = device_option()
    jobs: int | None = jobs_option()
    seed: int = seed_option()

    def checked(self) -> Self:
        """Refuse what is no pretrained network.

        Raises:
            UsageError: A model file, random weights, or a device that is none.
        """
        if self.backbone.endswith((".pt", ".onnx")):
            raise UsageError(
                f"--backbone {self.backbone}: cnn-advise measures with a pretrained network by name, such as mobilenet_v2"
            )
        if self.weights == "none":
            raise UsageError(
                "--weights none: random layers say nothing about what a set is similar to; give a FILE or default"
            )
        devices.parse(self.device)
        return self
