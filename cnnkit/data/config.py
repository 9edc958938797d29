"""Configuration of splitting and augmentation: one dataclass field for each option. No numpy, Pillow or torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit.choices import Fit, Link
from cnnkit.data import allocation, augment_notation
from cnnkit.data.allocation import SplitShares
from cnnkit.data.augment_notation import Augmentation
from cnnkit.errors import UsageError
from cnnkit.formats import manifest
from cnnkit.formats.header import Preprocess
from cnnkit.option_fields import jobs_option, option, seed_option

#: Bits of 256 by which two near duplicates may differ. Measured on 5,000 photographs of pets and flowers: what was encoded again, shrunk
#: to a third or brightened by a fifth differs by at most 28, a crop of 2 %, a turn by 2 degrees or a stripe of text by about 30, the same
#: photograph under a colour filter by 32; two different photographs never by less than 80, nor thumbnails of 32 pixels by less than 76.
NEAR_BITS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """Which split each image goes to; one of `ratio`, `count` and `folds` is given."""

    ratio: str | None = option(
        None, "Shares that sum up to 1 (0.5,0.25,0.25), or whole numbers (70,20,10).", metavar="A,B,..."
    )
    count: str | None = option(
        None, "So many pictures of every class (1000,500,500); the rest is left out.", metavar="A,B,..."
    )
    folds: int | None = option(None, "Equal parts fold0, fold1, ..., for cross-validation.", metavar="K")
    names: str | None = option(None, "The parts' names; the first of train,val,test unless said.", metavar="A,B,...")
    group: str | None = option(
        None,
        "What this finds in a path, or its first parentheses do, is a group, and groups are never parted. "
        "Unless said, the group column of a manifest is.",
        metavar="REGEX",
    )
    stable: bool = option(False, "A picture's content alone says its part: pictures added later move no old ones.")
    near: bool = option(False, "Keep together what looks alike, too: resized, recoloured, mirrored copies.")
    near_bits: int | None = option(
        None,
        "--near, with this many bits of 256 by which the perceptual hashes of two pictures may differ; else 40.",
        minimum=0,
        maximum=80,
        metavar="N",
    )
    seed: int = seed_option(after=("null",))
    jobs: int | None = jobs_option(after=("seed",))

    def checked(self) -> Self:
        """Refuse demands that make no sense or contradict each other.

        Raises:
            UsageError: They do.
        """
        if self.shares().counts and self.stable:
            raise UsageError(
                "--stable and --count contradict each other: a count moves pictures when some are added; use --ratio"
            )
        if self.stable and self.hash_distance is not None:
            raise UsageError(
                "--stable and --near contradict each other: a new picture may look like old ones of two parts"
            )
        self.group_pattern()
        return self

    def shares(self) -> SplitShares:
        """Give what is due to each split.

        Raises:
            UsageError: Nothing is demanded, or more than one thing, or it makes no sense.
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
            raise UsageError("--names and --folds exclude each other; folds are called fold0, fold1 and so on")
        return allocation.by_folds(self.folds or 0)

    @property
    def hash_distance(self) -> int | None:
        """By how many bits of 256 the perceptual hashes of images may differ that stay together; None where looks do not count."""
        return NEAR_BITS if self.near and self.near_bits is None else self.near_bits

    def group_pattern(self) -> re.Pattern[str] | None:
        """Compile the expression that finds groups.

        Raises:
            UsageError: It is no regular expression.
        """
        if self.group is None:
            return None
        try:
            return re.compile(self.group)
        except re.error as error:
            raise UsageError(f"--group {self.group}: no regular expression ({error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOutput:
    """Where a split goes: to a manifest, or to a folder of folders."""

    manifest: Path | None = option(
        None, "Write the manifest here, with paths as seen from FILE's folder.", metavar="FILE"
    )
    output: Path | None = option(
        None, "Write folders DIR/train/cat/... and DIR/split.tsv.", "--output", "-o", metavar="DIR"
    )
    link: Link = option(Link.COPY, "How pictures come into DIR.")
    force: bool = option(False, "DIR may hold something; an earlier split in it is replaced.")
    dry_run: bool = option(False, "Only print how many pictures of each class each part would get.")

    def checked(self) -> Self:
        """Refuse options that do not go together.

        Raises:
            UsageError: They do not, or the manifest has another ending than .tsv.
        """
        if self.output is not None and self.manifest is not None:
            raise UsageError("--manifest and -o exclude each other; -o writes its manifest to DIR/split.tsv")
        if self.manifest is not None:
            manifest.check_name(self.manifest, option="--manifest")
        if self.output is None and (self.force or self.link is not Link.COPY):
            raise UsageError("--link and --force speak of a folder tree; give one with -o DIR")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Which copies of each image are made. `augment` is required."""

    augment: str | None = option(
        None,
        "What may become of a picture, by the words below with commas between them; or @FILE.",
        metavar="NOTATION",
        after=("output",),
    )
    copies: int = option(5, "Copies of each picture.", minimum=1, metavar="N", after=("augment",))
    keep: bool = option(False, "The originals are among them.", after=("copies",))
    size: int | None = option(
        None, "First make each picture a square of this side. [default: as large as it is]", minimum=1
    )
    fit: Fit | None = option(None, "How a picture becomes that square. [default: crop]")
    force: bool = option(
        False, "DIR may hold something, where earlier copies are replaced; val and test are augmented, too."
    )
    seed: int = seed_option(after=("null",))
    jobs: int | None = jobs_option(after=("seed",))

    def checked(self) -> Self:
        """Refuse a notation that is wrong, and options that do not go together.

        Raises:
            NotationError: The notation is wrong.
            UsageError: There is none, or --fit without --size.
        """
        self.augmentation()
        if self.fit is not None and self.size is None:
            raise UsageError("--fit says how a picture becomes a square; give its side with --size")
        return self

    def augmentation(self) -> Augmentation:
        """Read the notation.

        Raises:
            NotationError: It is wrong.
            UsageError: There is none.
        """
        if self.augment is None:
            raise UsageError('say what may become of a picture with --augment, as in --augment "rotate 40, hflip"')
        return augment_notation.parse_required(self.augment)

    def square(self) -> Preprocess | None:
        """Give how each image is prepared before anything else; None where it stays as it is."""
        if self.size is None:
            return None
        return Preprocess(fit=self.fit or Fit.CROP, resize=self.size, size=self.size)
