"""Configuration of splitting and augmentation: one dataclass field for each option. No numpy, Pillow or torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit.choices import Decoding, Fit, Link
from cnnkit.data import allocation, augment_notation, shards
from cnnkit.data.allocation import SplitShares
from cnnkit.data.augment_notation import Augmentation
from cnnkit.errors import UsageError
from cnnkit.formats import atomic, manifest
from cnnkit.formats.header import Preprocess
from cnnkit.option_fields import (
    decoding_option,
    fit_option,
    jobs_option,
    option,
    per_tar_option,
    seed_option,
    shard_option,
)

#: Maximum number of bits, of 256, by which two near duplicates differ. Measured on 5,000 photographs of pets and flowers: re-encoded copies
#: and copies shrunk to a third or brightened by a fifth differ by at most 28; a crop of 2 %, a rotation by 2 degrees or a line of text by
#: about 30; a colour filter by 32. Two different photographs differ by at least 80, thumbnails of 32 pixels by at least 76.
NEAR_BITS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """Rule that assigns images to splits; exactly one of `ratio`, `count` and `folds` is given."""

    ratio: str | None = option(
        None,
        "Share of each split: fractions with sum 1 (0.5,0.25,0.25) or whole numbers (70,20,10).",
        metavar="A,B,...",
    )
    count: str | None = option(
        None, "Images of each class in each split (1000,500,500); the rest is left out.", metavar="A,B,..."
    )
    folds: int | None = option(None, "Number of equal splits fold0, fold1, ... for cross-validation.", metavar="K")
    names: str | None = option(
        None, "Names of the splits. [default: train,val,test, as many as there are numbers]", metavar="A,B,..."
    )
    group: str | None = option(
        None,
        "Regular expression; its match in the path (or its first parenthesized group) names the image's group. "
        "A group stays in one split. [default: column group of a manifest]",
        metavar="REGEX",
    )
    stable: bool = option(
        False, "Assign each image by its content only, so that images added later do not move old ones."
    )
    near: bool = option(False, "Keep near duplicates in one split: resized, recoloured or mirrored copies.")
    near_bits: int | None = option(
        None,
        "Maximum number of differing bits, of 256, in the perceptual hashes of near duplicates; implies --near. [default: 40]",
        minimum=0,
        maximum=80,
        metavar="N",
    )
    no_verify: bool = option(
        False,
        "Do not open the files: broken files are not found. Duplicates, and the random order, follow from a manifest's column sha256 "
        "or md5; without one, duplicates are not found, and names decide on the order.",
    )
    seed: int = seed_option(after=("null",))
    jobs: int | None = jobs_option(after=("seed",))

    def checked(self) -> Self:
        """Check that the options are valid and fit together.

        Raises:
            UsageError: They do not.
        """
        if self.shares().counts and self.stable:
            raise UsageError(
                "--stable and --count contradict each other: with --count, added images move others; use --ratio"
            )
        if self.stable and self.hash_distance is not None:
            raise UsageError(
                "--stable and --near contradict each other: an added image can resemble images of two splits"
            )
        if self.no_verify and self.hash_distance is not None:
            raise UsageError("--no-verify and --near contradict each other: near duplicates are found by their pixels")
        self.group_pattern()
        return self

    def shares(self) -> SplitShares:
        """Return the share of each split.

        Raises:
            UsageError: None or several of the three options are given, or the value is invalid.
        """
        asked = {"--ratio": self.ratio, "--count": self.count, "--folds": self.folds}
        given = [name for name, value in asked.items() if value is not None]
        if len(given) != 1:
            remedy = f", not {' and '.join(given)}" if given else ", such as --ratio 70,15,15"
            raise UsageError(f"give one of --ratio, --count and --folds{remedy}")
        if self.ratio is not None:
            return allocation.by_ratio(self.ratio, self.names)
        if self.count is not None:
            return allocation.by_count(self.count, self.names)
        if self.names is not None:
            raise UsageError("--names does not go with --folds; folds are named fold0, fold1, ...")
        return allocation.by_folds(self.folds or 0)

    @property
    def hash_distance(self) -> int | None:
        """Maximum difference of the perceptual hashes of near duplicates, in bits of 256; None without --near."""
        return NEAR_BITS if self.near and self.near_bits is None else self.near_bits

    def group_pattern(self) -> re.Pattern[str] | None:
        """Compile the regular expression of --group.

        Raises:
            UsageError: It is not a regular expression.
        """
        if self.group is None:
            return None
        try:
            return re.compile(self.group)
        except re.error as error:
            raise UsageError(f"--group {self.group}: not a regular expression ({error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOutput:
    """Output of a split: a manifest or a folder of folders."""

    manifest: Path | None = option(
        None, "Write the manifest to FILE, with paths relative to FILE's folder.", metavar="FILE"
    )
    output: Path | None = option(
        None, "Write the images to DIR/SPLIT/CLASS/ and the manifest to DIR/split.tsv.", "--output", "-o", metavar="DIR"
    )
    link: Link = option(Link.COPY, "Copy the images into DIR, link to them, or move them.")
    per_tar: int | None = per_tar_option()
    force: bool = option(False, "Write into a DIR that is not empty; an earlier split in it is replaced.")
    dry_run: bool = option(False, "Only print the number of images of each class in each split.")

    def checked(self) -> Self:
        """Check that the options go together.

        Raises:
            UsageError: They do not, or the manifest's extension is not .tsv.
            CnnkitError: There is no folder for the manifest.
        """
        if self.output is not None and self.manifest is not None:
            raise UsageError("--manifest and -o exclude each other; -o writes its manifest to DIR/split.tsv")
        if self.manifest is not None:
            manifest.check_name(self.manifest, option="--manifest")
            atomic.check_folder(self.manifest)
        if self.output is None and (self.force or self.link is not Link.COPY):
            raise UsageError("--link and --force need an output folder; add -o DIR")
        if self.output is None and self.per_tar is not None:
            raise UsageError("--per-tar needs an output folder; add -o DIR")
        if self.per_tar is not None and self.link is not Link.COPY:
            raise UsageError("--per-tar copies the images into archives; drop --link")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Copies to make of each image, or of each image of a shard; `augment` is required."""

    augment: str | None = option(
        None,
        "Augmentations, separated by commas (see the words below), or @FILE. [required]",
        metavar="NOTATION",
        after=("output",),
    )
    copies: int = option(5, "Copies of each image.", minimum=1, metavar="N", after=("augment",))
    keep: bool = option(False, "Also write the originals.", after=("copies",))
    size: int | None = option(
        None,
        "Side of the square to which images are resized first, in pixels. [default: size of the image]",
        minimum=1,
        metavar="PIXELS",
    )
    fit: Fit | None = fit_option("crop", when="With --size")
    decoding: Decoding | None = decoding_option(when="With --size")
    per_tar: int | None = per_tar_option()
    force: bool = option(
        False, "Write into a DIR that is not empty; earlier copies in it are replaced. Also accept val and test images."
    )
    shard: str | None = shard_option(after=("split",), result="Give each shard its own DIR.")
    seed: int = seed_option(after=("null",))
    jobs: int | None = jobs_option(after=("seed",))

    def checked(self) -> Self:
        """Check the notation, and that the options go together.

        Raises:
            NotationError: The notation is invalid.
            UsageError: There is none, or --fit or --decoding without --size, or there is no such shard.
        """
        self.augmentation()
        shards.of(self.shard)
        given = [name for name in ("fit", "decoding") if getattr(self, name) is not None]
        if given and self.size is None:
            raise UsageError(f"--{given[0]} has no effect without --size; give the side of the square with --size")
        return self

    def augmentation(self) -> Augmentation:
        """Parse the notation.

        Raises:
            NotationError: It is invalid.
            UsageError: There is none.
        """
        if self.augment is None:
            raise UsageError('--augment is required, for example --augment "rotate 40, hflip"')
        return augment_notation.parse_required(self.augment)

    def square(self) -> Preprocess | None:
        """Return the preprocessing that comes before the augmentation; None without --size."""
        if self.size is None:
            return None
        return Preprocess(
            fit=self.fit or Fit.CROP,
            resize=self.size,
            size=self.size,
            decoding=self.decoding or Decoding.SCALED,
        )
