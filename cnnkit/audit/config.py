"""Configuration of dataset checks and of advice: one dataclass field for each option. No numpy or torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit.choices import EmbedMethod, ProbeName
from cnnkit.data import shards
from cnnkit.data.config import NEAR_BITS
from cnnkit.engine import device as devices
from cnnkit.errors import UsageError
from cnnkit.formats import atomic, figures
from cnnkit.option_fields import (
    RemembersGiven,
    device_option,
    given,
    jobs_option,
    option,
    refuse_unused,
    seed_option,
    shard_option,
    weights_option,
)

#: Options of a check of images and files that a check of labels has, too.
_OF_LABELS = ("--seed", "--jobs")

#: The heading of the options of a check of labels in the help.
_LABELS = "Labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig(RemembersGiven):
    """Settings of a check."""

    features: Path | None = option(
        None, "Features of the images, from cnn-extract; also finds neighbours in feature space.", metavar="FILE.npy"
    )
    similarity: float | None = option(
        None,
        "Minimum cosine similarity of neighbours, with --features. [default: 0.93]",
        minimum=0.0,
        maximum=1.0,
        metavar="COSINE",
    )
    near_bits: int = option(
        NEAR_BITS,
        "Maximum number of differing bits, of 256, in the perceptual hashes of near duplicates.",
        minimum=0,
        maximum=80,
        metavar="N",
    )
    probes: str = option("all", f"Leak probes to run: all, none, or some of {', '.join(ProbeName)}.", metavar="A,B,...")
    shard: str | None = shard_option(
        after=("split",), result="A block is checked for findings of single images and for duplicates within it."
    )
    seed: int = seed_option(after=("null",))
    jobs: int | None = jobs_option(after=("seed",))

    def checked(self) -> Self:
        """Check the names of probes, and that options go together.

        Raises:
            UsageError: There is no such probe or shard, --similarity without --features, or --features or probes of a shard.
        """
        self.probe_names()
        if shards.of(self.shard) is not None and (self.features is not None or self.probes not in ("all", "none")):
            unused = "--probes" if self.features is None else "--features"
            raise UsageError(f"{unused} compares all images, and --shard reads a share of them; drop one of the two")
        if self.similarity is not None and self.features is None:
            raise UsageError("--similarity compares features; add --features FILE.npy")
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
                raise UsageError(f'--probes: no probe "{word}"; give all, none, or some of {", ".join(ProbeName)}')
        return tuple(ProbeName(word) for word in words)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsConfig:
    """What labels are checked by, instead of images and files, and how suspects are drawn."""

    labels: Path | None = option(
        None,
        "Check only the labels, by cross-validation of a head on these features from cnn-extract; print suspected wrong labels.",
        metavar="FILE.npy",
        group=_LABELS,
    )
    predictions: Path | None = option(
        None,
        "Check only the labels, by out-of-fold predictions: cnn-predict --top all of models that were not trained on the image.",
        metavar="FILE",
        group=_LABELS,
    )
    sheet: Path | None = option(
        None,
        "Contact sheet of the first 100 images in the table, with their labels and the suggested ones.",
        metavar="FILE.png",
        group=_LABELS,
    )

    corrections: Path | None = option(
        None,
        "Replace labels of SOURCE before the check: the table of --labels, where column suspect says true or false and column "
        "suggested has the new label; empty for no class.",
        metavar="FILE.tsv",
        group=_LABELS,
    )

    @property
    def wanted(self) -> bool:
        """Whether labels are checked instead of images and files."""
        return self.labels is not None or self.predictions is not None

    def checked(
        self,
        others: CheckConfig,
        *,
        sources: Sequence[str],
        fix: Path | None,
        unused: Mapping[str, object],
        unused_without_source: Mapping[str, object],
    ) -> Self:
        """Check that options go together.

        Args:
            others: The settings of a check of images and files.
            sources: The images whose labels are checked.
            fix: The manifest to write.
            unused: Further options that a check of labels would ignore, with their values.
            unused_without_source: Those that it would ignore without sources.

        Raises:
            UsageError: They do not, or the sheet is not a .png.
            CnnkitError: The folder of the sheet does not exist.
        """
        if not self.wanted:
            if self.sheet is not None:
                raise UsageError("--sheet shows suspected wrong labels; add --labels FILE.npy, or --predictions FILE")
            return self
        if self.labels is not None and self.predictions is not None:
            raise UsageError("--labels and --predictions exclude each other; give one of them")
        mode = "--labels" if self.labels is not None else "--predictions"
        ignored = [word for word in given(others) if word not in _OF_LABELS]
        if self.labels is None and "--seed" in given(others):
            ignored.append("--seed")
        if self.sheet is None and "--jobs" in given(others):
            ignored.append("--jobs")
        refuse_unused(dict.fromkeys(ignored, True) | dict(unused), f"{mode} checks only the labels")
        if not sources:
            refuse_unused(unused_without_source, "without SOURCE, the labels are those of the features")
            refuse_unused({"--corrections": self.corrections}, "without SOURCE, the labels are those of the features")
        if self.corrections is not None and fix is not None:
            raise UsageError(
                f"{mode} --fix leaves out the labels that are suspect now; drop {mode} to write those of --corrections"
            )
        if self.predictions is not None and not sources:
            raise UsageError(
                "--predictions are compared with labels; name a manifest or a folder of class folders as SOURCE"
            )
        if str(self.predictions) == "-" in sources:
            raise UsageError(
                "predictions and labels cannot both come from standard input; name a SOURCE with the labels"
            )
        if self.labels is not None and self.labels.suffix.lower() != ".npy":
            raise UsageError(
                f"--labels {self.labels}: not a features file; make one with cnn-extract, or give --predictions FILE"
            )
        if self.labels is not None and fix is not None and fix.absolute() == self.labels.with_suffix(".tsv").absolute():
            raise UsageError(f"--fix {fix} would overwrite the names of the features; choose another name")
        if self.sheet is not None:
            if self.sheet.suffix.lower() != ".png":
                raise UsageError(f"--sheet {self.sheet}: the sheet is a PNG image; give it a name that ends in .png")
            atomic.check_folder(self.sheet)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class AdviseConfig:
    """The pretrained network that a dataset is measured with; `seed` samples the images and divides them into folds."""

    backbone: str = option("mobilenet_v2", "Torchvision network, or timm:NAME, to measure with.", metavar="NAME")
    weights: str = weights_option(random=False)
    device: str = device_option()
    jobs: int | None = jobs_option()
    seed: int = seed_option()

    def checked(self) -> Self:
        """Check that the backbone is a pretrained network.

        Raises:
            UsageError: A model file, random weights, or an unknown device.
        """
        if self.backbone.endswith((".pt", ".onnx")):
            raise UsageError(
                f"--backbone {self.backbone}: cnn-advise needs the name of a pretrained network, such as mobilenet_v2"
            )
        if self.weights == "none":
            raise UsageError("--weights none: random weights cannot measure similarity; give a FILE or default")
        devices.parse(self.device)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedConfig:
    """How features are mapped to two dimensions, and how the map is drawn."""

    output: list[Path] | None = option(
        None,
        "File to write: the map (.png, .svg or .pdf), or its coordinates (.tsv); may be repeated. "
        "[default: print the coordinates]",
        "--output",
        "-o",
        metavar="FILE",
    )
    method: EmbedMethod = option(
        EmbedMethod.TSNE,
        "Method: tsne keeps neighbours together; pca shows the two directions of largest variance, and is fast.",
    )
    perplexity: float | None = option(
        None,
        "Perplexity of t-SNE, about the number of neighbours of an image that count. "
        "[default: 30, or a third of the other images if they are fewer than 90]",
        minimum=1.0,
    )
    thumbnails: bool = option(False, "Draw images at their points, as many as fit without covering each other.")
    seed: int = seed_option(after=("split",))
    jobs: int | None = jobs_option(after=("seed",))

    def checked(self) -> Self:
        """Check that options go together, and the names of files.

        Raises:
            UsageError: They do not, or a file has another ending.
        """
        if self.perplexity is not None and self.method is EmbedMethod.PCA:
            raise UsageError("--perplexity is a setting of t-SNE; drop it, or --method pca")
        for path in self.drawings:
            if path.suffix.lower() not in figures.ENDINGS:
                *others, last = figures.ENDINGS
                endings = f"{', '.join(others)} or {last} for the map"
                raise UsageError(
                    f"-o {path}: unknown format; give it a name that ends in {endings}, .tsv for coordinates"
                )
        if self.thumbnails and not self.drawings:
            raise UsageError("--thumbnails are drawn on the map; give its file with -o FILE.png")
        if self.jobs is not None and not self.thumbnails:
            raise UsageError("--jobs sets the threads that decode --thumbnails; drop it, or add --thumbnails")
        return self

    @property
    def tables(self) -> list[Path]:
        """The files of coordinates."""
        return [path for path in self.output or () if path.suffix.lower() == ".tsv"]

    @property
    def drawings(self) -> list[Path]:
        """The files of maps."""
        return [path for path in self.output or () if path.suffix.lower() != ".tsv"]
