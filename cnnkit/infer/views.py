"""Several views of each image: augmented copies for feature extraction, and test-time augmentation for prediction. No torch.

Copies that numpy cannot make come from a CopyMaker, which the caller brings along: `torch_views`.
"""

import contextlib
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnkit.choices import Crops, Fit
from cnnkit.data import augment, augment_notation, preprocessing, split_names
from cnnkit.data.augment import AugmentParams
from cnnkit.data.augment_notation import Augmentation
from cnnkit.data.decode import Original
from cnnkit.data.source import ImageFile
from cnnkit.errors import UsageError
from cnnkit.formats import manifest
from cnnkit.formats.header import Preprocess
from cnnkit.formats.manifest import ManifestRow

log = logging.getLogger("cnnkit")

#: How many views an image has where they are drawn, the plain one among them.
DEFAULT_VIEWS = 8


class CopyMaker(Protocol):
    """Makes augmented copies where numpy does not suffice."""

    def __call__(
        self,
        square: NDArray[np.uint8],
        augmentation: Augmentation,
        fingerprint: str,
        copies: Sequence[int],
        *,
        seed: int,
    ) -> Sequence[NDArray[np.uint8]] | NDArray[np.uint8]:
        """Make copies of a prepared image, (height, width, 3) each, by their numbers, one at least."""

    def single_threaded(self) -> AbstractContextManager[None]:
        """Let each of the threads that make copies compute by itself."""


@dataclass(frozen=True, slots=True)
class ExtractViews:
    """Augmented copies of the prepared squares, 1 to `copies`, after the plain one, which is 0.

    What measures (val, test) has the plain view alone. The copies are those that training with the same augmentation and seed makes of
    the same image.
    """

    augmentation: Augmentation
    copies: int
    seed: int
    make_copies: CopyMaker

    def of(self, image: ImageFile) -> range:
        """Count the views of an image."""
        return range(1 if split_names.held_out_split(image) else self.copies + 1)

    def __call__(self, image: ImageFile, original: Original, preprocess: Preprocess) -> Sequence[NDArray[np.uint8]]:
        """Make the views of an image, (size, size, 3) each.

        Args:
            image: Which one.
            original: The same, decoded.
            preprocess: How it is prepared before it is augmented.
        """
        _, *copies = self.of(image)
        square = preprocessing.prepare(original.image, preprocess)
        if not copies:
            return [square]
        return [square, *self.make_copies(square, self.augmentation, original.fingerprint, copies, seed=self.seed)]

    def described(self) -> dict[str, Any]:
        """Say for a Header how the views were made."""
        return {"augment": str(self.augmentation), "views": self.copies, "augment_seed": self.seed}


def rows_of(image: ImageFile, folder: Path, views: ExtractViews | None) -> list[ManifestRow]:
    """Give an image's rows in features that lie in a folder: one, or one for each of its views."""
    row = ManifestRow(manifest.seen_from(folder, image.path), image.label, image.split, image.group)
    return [row] if views is None else [replace(row, view=view) for view in views.of(image)]


@dataclass(frozen=True, slots=True)
class FlipViews:
    """The image and all its mirrorings that an augmentation can come to: two or four in all."""

    augmentation: Augmentation

    @property
    def _draws(self) -> list[AugmentParams]:
        across, down = (
            (False, True) if word else (False,) for word in (self.augmentation.hflip, self.augmentation.vflip)
        )
        return [AugmentParams(hflip=hflip, vflip=vflip) for vflip in down for hflip in across][1:]

    @property
    def copies(self) -> int:
        """Count them, the image itself left out."""
        return len(self._draws)

    def __call__(self, image: ImageFile, original: Original, preprocess: Preprocess) -> Sequence[NDArray[np.uint8]]:
        """Make the views of an image, (height, width, 3) each."""
        square = preprocessing.prepare(original.image, preprocess)
        return [square, *(augment.flip_and_crop(square, draw) for draw in self._draws)]


@dataclass(frozen=True, slots=True)
class AugmentViews:
    """The image and augmented copies of it, numbered from 1, as cnn-augment draws them: by seed, content of the file and number.

    Without `make_copies` the augmentation has flips and crops alone, which numpy makes.
    """

    augmentation: Augmentation
    copies: int
    seed: int
    make_copies: CopyMaker | None = None

    def __call__(self, image: ImageFile, original: Original, preprocess: Preprocess) -> Sequence[NDArray[np.uint8]]:
        """Make the views of an image, (height, width, 3) each."""
        square = preprocessing.prepare(original.image, preprocess)
        numbers = range(1, self.copies + 1)
        if self.make_copies is not None:
            return [square, *self.make_copies(square, self.augmentation, original.fingerprint, numbers, seed=self.seed)]
        draws = [
            augment.draw_params(self.augmentation, seed=self.seed, image=original.fingerprint, copy=number)
            for number in numbers
        ]
        return [square, *(augment.flip_and_crop(square, draw) for draw in draws)]


@dataclass(frozen=True, slots=True)
class CropViews:
    """The centre of the resized image, which is the plain view, and its corners; with `mirrored` also those of its mirroring."""

    mirrored: bool

    @property
    def copies(self) -> int:
        """Count them, the centre left out."""
        return 9 if self.mirrored else 4

    def __call__(self, image: ImageFile, original: Original, preprocess: Preprocess) -> Sequence[NDArray[np.uint8]]:
        """Make the views of an image, (height, width, 3) each."""
        return preprocessing.crops(original.image, preprocess, mirrored=self.mirrored)


TestViews = FlipViews | AugmentViews | CropViews


def parse_test_views(
    notation: str | None = None,
    *,
    views: int | None = None,
    crops: Crops | None = None,
    seed: int = 0,
    make_copies: CopyMaker | None = None,
) -> TestViews | None:
    """Find out which views are asked for.

    Args:
        notation: An augmentation. Where it has flips alone its views are listed, otherwise drawn.
        views: How many are drawn, the plain one among them; by default DEFAULT_VIEWS.
        crops: Five or ten crops in place of an augmentation.
        seed: Of what is drawn.
        make_copies: Where the augmentation has more than flips and crops.

    Returns:
        None where there is the plain view alone.

    Raises:
        UsageError: The words do not go together, or the augmentation changes nothing.
        NotationError: A word means nothing.
    """
    if notation is not None and crops is not None:
        raise UsageError("--tta draws views and --crops lists them; give one of the two")
    if notation is None:
        if views is not None:
            raise UsageError(f'--views {views} says how many views --tta draws; add it, as in --tta "crop 0.9, hflip"')
        if seed:
            raise UsageError(f'--seed {seed} says which views --tta draws; add it, as in --tta "crop 0.9, hflip"')
        return None if crops is None else CropViews(mirrored=crops is Crops.TEN)
    augmentation = augment_notation.parse_required(notation, option="--tta")
    if augmentation.needs_no_resampling and augmentation.crop == 1:
        flipped = FlipViews(augmentation)
        if views is not None:
            raise UsageError(
                f'--tta "{notation}" has {1 + flipped.copies} views and draws none; '
                "drop --views, or add a word that draws, such as crop 0.9"
            )
        if seed:
            raise UsageError(
                f'--tta "{notation}" draws nothing; drop --seed, or add a word that draws, such as crop 0.9'
            )
        return flipped
    if augmentation.needs_no_resampling:
        make_copies = None
    elif make_copies is None:
        raise ValueError(f'"{notation}" needs make_copies: cnnkit.infer.torch_views.TorchCopies()')
    return AugmentViews(augmentation, (views or DEFAULT_VIEWS) - 1, seed, make_copies)


def check_test_views(views: TestViews, preprocess: Preprocess, *, name: str, native: bool) -> None:
    """Demand that a model's images have such views; say so where crops are all the same.

    Args:
        views: Which ones.
        preprocess: Of the model.
        name: The model's file, for messages.
        native: It is shown images at their own sizes.

    Raises:
        UsageError: Crops are asked for, and the model sees whole images.
    """
    if not isinstance(views, CropViews):
        return
    if native:
        raise UsageError('--crops cuts corners off, and --size native leaves pictures whole; try --tta "crop 0.9"')
    if preprocess.fit is not Fit.CROP:
        raise UsageError(
            f"{name} sees whole pictures (fit {preprocess.fit}), and --crops cuts corners off what a model of fit crop sees; "
            'try --tta "crop 0.9"'
        )
    if preprocess.resize == preprocess.size:
        log.info(
            "%s resizes to the %d pixels of its crop: the crops of a square picture are all the same",
            name,
            preprocess.size,
        )


def single_threaded(views: TestViews | None) -> AbstractContextManager[None]:
    """Let each of the threads that make views compute by itself, where they are made by more than numpy."""
    if not isinstance(views, AugmentViews) or views.make_copies is None:
        return contextlib.nullcontext()
    return views.make_copies.single_threaded()
