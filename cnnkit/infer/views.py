"""Several views of each image: augmented copies for feature extraction, and test-time augmentation for prediction. Imports no torch.

Copies that numpy cannot make come from a CopyMaker that the caller passes: `torch_views`.
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

#: Default number of drawn views per image, including the unchanged one.
DEFAULT_VIEWS = 8


class CopyMaker(Protocol):
    """Makes augmented copies that numpy cannot make."""

    def __call__(
        self,
        square: NDArray[np.uint8],
        augmentation: Augmentation,
        fingerprint: str,
        copies: Sequence[int],
        *,
        seed: int,
    ) -> Sequence[NDArray[np.uint8]] | NDArray[np.uint8]:
        """Make copies of a prepared image, (height, width, 3) each; `copies` has their numbers, at least one."""

    def single_threaded(self) -> AbstractContextManager[None]:
        """Restrict computations to one core per thread that makes copies."""


@dataclass(frozen=True, slots=True)
class ExtractViews:
    """The unchanged view, number 0, and augmented copies 1 to `copies`.

    Images of val and test have only the unchanged view. The copies are those that training with the same augmentation and seed makes of
    the same image.
    """

    augmentation: Augmentation
    copies: int
    seed: int
    make_copies: CopyMaker

    def of(self, image: ImageFile) -> range:
        """Return the numbers of an image's views."""
        return range(1 if split_names.held_out_split(image) else self.copies + 1)

    def count(self, image: ImageFile) -> int:
        """Return the number of an image's views."""
        return len(self.of(image))

    def __call__(self, image: ImageFile, original: Original, preprocess: Preprocess) -> Sequence[NDArray[np.uint8]]:
        """Make the views of an image, (size, size, 3) each.

        Args:
            image: The image.
            original: The same image, decoded.
            preprocess: Preprocessing before augmentation.
        """
        _, *copies = self.of(image)
        square = preprocessing.prepare(original, preprocess)
        if not copies:
            return [square]
        return [square, *self.make_copies(square, self.augmentation, original.fingerprint, copies, seed=self.seed)]

    def described(self) -> dict[str, Any]:
        """Describe the views for a Header."""
        return {"augment": str(self.augmentation), "views": self.copies, "augment_seed": self.seed}


def rows_of(image: ImageFile, folder: Path, views: ExtractViews | None) -> list[ManifestRow]:
    """Return an image's rows in the `.tsv` of features in a folder: one, or one per view."""
    path = manifest.seen_from(folder, image.path)
    row = ManifestRow(path, image.label, image.split, image.group, labels=image.labels)
    return [row] if views is None else [replace(row, view=view) for view in views.of(image)]


@dataclass(frozen=True, slots=True)
class FlipViews:
    """The image and all mirror images that an augmentation allows: two or four views."""

    augmentation: Augmentation

    @property
    def _draws(self) -> list[AugmentParams]:
        across, down = (
            (False, True) if word else (False,) for word in (self.augmentation.hflip, self.augmentation.vflip)
        )
        return [AugmentParams(hflip=hflip, vflip=vflip) for vflip in down for hflip in across][1:]

    @property
    def copies(self) -> int:
        """The number of views without the image itself."""
        return len(self._draws)

    def count(self, _image: ImageFile) -> int:
        """Return the number of views, the same for all images."""
        return 1 + self.copies

    def __call__(self, image: ImageFile, original: Original, preprocess: Preprocess) -> Sequence[NDArray[np.uint8]]:
        """Make the views of an image, (height, width, 3) each."""
        square = preprocessing.prepare(original, preprocess)
        return [square, *(augment.flip_and_crop(square, draw) for draw in self._draws)]


@dataclass(frozen=True, slots=True)
class AugmentViews:
    """The image and augmented copies, numbered from 1, drawn as in cnn-augment: from seed, content of the file and number.

    Without `make_copies`, the augmentation may only have flips and crops, which numpy makes.
    """

    augmentation: Augmentation
    copies: int
    seed: int
    make_copies: CopyMaker | None = None

    def count(self, _image: ImageFile) -> int:
        """Return the number of views, the same for all images."""
        return 1 + self.copies

    def __call__(self, image: ImageFile, original: Original, preprocess: Preprocess) -> Sequence[NDArray[np.uint8]]:
        """Make the views of an image, (height, width, 3) each."""
        square = preprocessing.prepare(original, preprocess)
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
    """The centre crop of the resized image, which is the unchanged view, and its corners; with `mirrored`, their mirror images, too."""

    mirrored: bool

    @property
    def copies(self) -> int:
        """The number of views without the centre."""
        return 9 if self.mirrored else 4

    def count(self, _image: ImageFile) -> int:
        """Return the number of views, the same for all images."""
        return 1 + self.copies

    def __call__(self, image: ImageFile, original: Original, preprocess: Preprocess) -> Sequence[NDArray[np.uint8]]:
        """Make the views of an image, (height, width, 3) each."""
        return preprocessing.crops(original, preprocess, mirrored=self.mirrored)


TestViews = FlipViews | AugmentViews | CropViews


def parse_test_views(
    notation: str | None = None,
    *,
    views: int | None = None,
    crops: Crops | None = None,
    seed: int = 0,
    make_copies: CopyMaker | None = None,
) -> TestViews | None:
    """Make the views for the options of test-time augmentation.

    Args:
        notation: An augmentation. If it has only flips, all combinations are used; otherwise views are drawn.
        views: Number of drawn views, including the unchanged one; by default DEFAULT_VIEWS.
        crops: Five or ten crops instead of an augmentation.
        seed: Seed of drawn views.
        make_copies: Needed if the augmentation has more than flips and crops.

    Returns:
        None if there is only the unchanged view.

    Raises:
        UsageError: Options contradict each other, or the augmentation changes nothing.
        NotationError: The augmentation has an unknown word.
    """
    if notation is not None and crops is not None:
        raise UsageError("--tta and --crops both define the views; give one of the two")
    if notation is None:
        if views is not None:
            raise UsageError(f'--views {views} needs --tta, as in --tta "crop 0.9, hflip"')
        if seed:
            raise UsageError(f'--seed {seed} needs --tta, as in --tta "crop 0.9, hflip"')
        return None if crops is None else CropViews(mirrored=crops is Crops.TEN)
    augmentation = augment_notation.parse_required(notation, option="--tta")
    if augmentation.needs_no_resampling and augmentation.crop == 1:
        flipped = FlipViews(augmentation)
        if views is not None:
            raise UsageError(
                f'--tta "{notation}" always has {1 + flipped.copies} views; '
                "drop --views, or add a random transform such as crop 0.9"
            )
        if seed:
            raise UsageError(
                f'--tta "{notation}" is not random; drop --seed, or add a random transform such as crop 0.9'
            )
        return flipped
    if augmentation.needs_no_resampling:
        make_copies = None
    elif make_copies is None:
        raise ValueError(f'"{notation}" needs make_copies: cnnkit.infer.torch_views.TorchCopies()')
    return AugmentViews(augmentation, (views or DEFAULT_VIEWS) - 1, seed, make_copies)


def check_test_views(views: TestViews, preprocess: Preprocess, *, name: str, native: bool) -> None:
    """Check that a model's preprocessing allows crops; log a notice if all crops are the same.

    Args:
        views: The views.
        preprocess: The model's preprocessing.
        name: The model's file, for messages.
        native: Whether images keep their own sizes.

    Raises:
        UsageError: The views are crops, and the model takes whole images.
    """
    if not isinstance(views, CropViews):
        return
    if native:
        raise UsageError('--crops does not work with --size native, which keeps images whole; try --tta "crop 0.9"')
    if preprocess.fit is not Fit.CROP:
        raise UsageError(
            f"{name} takes whole images (fit {preprocess.fit}), and --crops needs a model with fit crop; "
            'try --tta "crop 0.9"'
        )
    if preprocess.resize == preprocess.size:
        log.info(
            "%s resizes to the %d pixels of its crop, so all crops of a square image are the same",
            name,
            preprocess.size,
        )


def single_threaded(views: TestViews | None) -> AbstractContextManager[None]:
    """Restrict torch to one core per thread that makes views, if they are made with torch."""
    if not isinstance(views, AugmentViews) or views.make_copies is None:
        return contextlib.nullcontext()
    return views.make_copies.single_threaded()
