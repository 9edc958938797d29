"""Plan of the augmented copies: their names, parameters and manifest rows. No pixels are changed here.

    photos/cat/1.jpg            ->  DIR/cat/1~01.jpg, DIR/cat/1~02.jpg, ...
    photos/cat/indoors/2.gif        DIR/cat/indoors/2.gif~01.png, ...         a format that is not written becomes PNG
    photos/dog/1.png                DIR/dog/1~01.png, ...

A place depends on the image's own path and label, not on the other images.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Self

from cnnkit import class_names, messages
from cnnkit.callbacks import Callbacks
from cnnkit.data import augment, decode, reader, shards, split_names, tar_source
from cnnkit.data.augment import AugmentParams
from cnnkit.data.augment_notation import Augmentation
from cnnkit.data.config import AugmentConfig
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError, CnnkitError, UsageError
from cnnkit.formats import atomic, label_sets
from cnnkit.formats.box import divided, file_name
from cnnkit.formats.header import Preprocess
from cnnkit.formats.image_formats import FORMATS

log = logging.getLogger("cnnkit")

#: Formats of copies, with their extensions and Pillow's options; images of other formats become PNG.
_WRITTEN: dict[str, tuple[frozenset[str], dict[str, Any]]] = {
    "JPEG": (FORMATS["JPEG"], {"quality": 95}),
    "PNG": (frozenset({".png"}), {}),
    "BMP": (frozenset({".bmp"}), {}),
    "TIFF": (FORMATS["TIFF"], {"compression": "tiff_deflate"}),
    "WEBP": (FORMATS["WEBP"], {"lossless": True}),
    "PPM": (frozenset({".ppm", ".pnm"}), {}),
}

#: The parameters that a word of the notation draws, where that is not one of the same name.
_NUMBERS = {
    "shift": ("shift_x", "shift_y"),
    "zoom": ("zoom_x", "zoom_y"),
    "crop": ("crop_x", "crop_y", "crop_width", "crop_height"),
    "noise": ("noise", "noise_seed"),
    "erase": ("erase", "erase_seed"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentPlan:
    """Copies to make of each image."""

    augmentation: Augmentation
    copies: int
    seed: int = 0
    keep: bool = False  # also the original
    square: Preprocess | None = None  # preprocessing before the augmentation

    @classmethod
    def of(cls, config: AugmentConfig) -> Self:
        """Create it from a configuration.

        Raises:
            NotationError: The notation is invalid.
            UsageError: There is none.
        """
        return cls(
            augmentation=config.augmentation(),
            copies=config.copies,
            seed=config.seed,
            keep=config.keep,
            square=config.square(),
        )

    def draws(self, fingerprint: str) -> list[AugmentParams]:
        """Draw the parameters of an image's copies, numbered from 1."""
        numbers = range(1, self.copies + 1)
        return [
            augment.draw_params(self.augmentation, seed=self.seed, image=fingerprint, copy=number) for number in numbers
        ]


@dataclass(frozen=True, slots=True)
class PlannedCopy:
    """One copy of an image: its parameters, and its path relative to the folder of all copies."""

    path: str
    source: ImageFile
    number: int  # 0 is the original
    draw: AugmentParams


def checked(images: Iterable[ImageFile], *, force: bool = False) -> Iterable[ImageFile]:
    """Check that no image belongs to a validation or test split: at once for a list, else during the iteration.

    Args:
        images: The originals.
        force: Accept such images, and report their number at the end.

    Raises:
        UsageError: One belongs to a validation or test split, and `force` is not given.
    """
    if not isinstance(images, Sequence):
        return _watched(images, force=force)
    for _ in _watched(images, force=force):
        pass
    return images


def _watched(images: Iterable[ImageFile], *, force: bool) -> Iterator[ImageFile]:
    splits: list[str] = []
    for image in images:
        split = split_names.held_out_split(image)
        if split is not None and not force:
            raise UsageError(
                f"{image.path} belongs to {split}, and validation and test images should stay unchanged; "
                "select the training split with --split train, or add --force"
            )
        if split is not None:
            splits.append(split)
        yield image
    if splits:
        names = ", ".join(sorted(set(splits)))
        log.warning("%s of %s augmented because of --force", messages.count_images(len(splits)), names)


def listed(
    images: Iterable[ImageFile], config: AugmentConfig, *, callbacks: Callbacks | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the manifest rows of the copies, without making any copy.

    Args and Raises as `cnnkit.engine.augment_files.write`.

    Returns:
        One record per copy, as in the manifest, except that `source` is relative to the current folder.
    """
    plan = AugmentPlan.of(config)
    return _records(checked(images, force=config.force), plan, config, callbacks or Callbacks())


def _records(
    images: Iterable[ImageFile], plan: AugmentPlan, config: AugmentConfig, callbacks: Callbacks
) -> Iterator[dict[str, Any]]:
    place, jobs, shard = placing(images), config.jobs, shards.of(config.shard)
    if shard is not None:
        images = shards.share(list(images), shard)
    taken: set[str] = set()
    total, used = len(images) if isinstance(images, Sized) else None, 0
    identities = reader.read(images, _identity, jobs=jobs, ahead=2 * (jobs or reader.usable_cores()))
    for done, (image, identity) in enumerate(identities, start=1):
        if isinstance(identity, BadImageError):
            callbacks.skip(image.path, str(identity))
        else:
            used += 1
            file_format, fingerprint = identity
            for copy in named(image, file_format, plan.draws(fingerprint), place=place, plan=plan):
                if copy.path in taken:
                    raise claimed_twice(copy)
                taken.add(copy.path)
                yield record(copy, plan.augmentation, source=image.path)
        callbacks.progress(done, total)
    if not used and shard is None:
        raise CnnkitError("no image could be used")


def _identity(path: str) -> tuple[str, str]:
    """Decode an image completely, and return its format and fingerprint."""
    original = decode.read(path)
    return original.format, original.fingerprint


# ---------------------------------------------------------------- names


def placing(images: Iterable[ImageFile]) -> Callable[[ImageFile], str]:
    """Return a function that maps an image to the folder of its copies, relative to the folder of all copies.

    With a label it is the label, then the folders below the folder of that name; before it the folder of the split, if the images
    lie in folders of several splits. Without a label it is the image's folder relative to the common folder of all images without
    label; for a list that is still being read, the folder as given.
    """
    known = images if isinstance(images, Sequence) else []
    unpacked = dict(
        zip((image.path for image in known), tar_source.unpacked_paths([image.path for image in known]), strict=True)
    )
    bare = {os.path.dirname(os.path.abspath(unpacked[image.path])) for image in known if image.label is None}
    common = os.path.commonpath(bare) if bare else None
    several = len({image.split for image in known}) > 1

    def place(image: ImageFile) -> str:
        folder = os.path.dirname(unpacked.get(image.path) or tar_source.unpacked_path(image.path))
        if image.label is None and common is not None:
            folder = os.path.relpath(os.path.abspath(folder), common)
        splits = [split for split in folder.split(os.sep) if split not in ("", os.curdir, os.pardir)]
        if image.label is None:
            return "/".join(splits)
        if not image.label or image.label.startswith(".") or {os.sep, "/", "\0"} & set(image.label):
            raise CnnkitError(f"class {image.label!r} cannot be the name of a folder; rename it in the manifest")
        names = [class_names.normal(each) for each in splits]
        at = names.index(image.label) if image.label in names else None
        below = splits if at is None else splits[at + 1 :]
        own = [image.split] if several and at and image.split and splits[at - 1] == image.split else []
        return "/".join([*own, image.label, *below])

    return place


def named(
    image: ImageFile,
    file_format: str,
    draws: Sequence[AugmentParams],
    *,
    place: Callable[[ImageFile], str],
    plan: AugmentPlan,
) -> list[PlannedCopy]:
    """Return the copies of an image with their paths, the original first if it is kept.

    Args:
        image: The original. Unchanged, it keeps its name; preprocessed, it is copy number 0.
        file_format: Format of its content.
        draws: Parameters of its copies.
        place: From `placing`.
        plan: Copies to make.
    """
    folder, name = place(image), file_name(image.path)
    stem, extension = stem_and_extension(name, file_format)
    digits = max(2, len(str(plan.copies)))
    copies = [
        PlannedCopy("/".join(filter(None, (folder, file_name))), image, number, draw)
        for number, draw in enumerate([AugmentParams(), *draws])
        for file_name in [atomic.fitting_name(stem, f"~{number:0{digits}d}{extension}")]
    ]
    if not plan.keep:
        return copies[1:]
    if plan.square is None:
        copies[0] = replace(copies[0], path="/".join(filter(None, (folder, name))))
    return copies


def copies_named_alike(
    earlier: Iterable[ImageFile],
    images: Collection[ImageFile],
    *,
    place: Callable[[ImageFile], str],
    plan: AugmentPlan,
) -> Iterator[str]:
    """Yield the paths of the copies of earlier images that may have the names of images but for the extension: 1.jpeg before 1.jpg.

    Args:
        earlier: Images that are not augmented here; of those with such a name the content is read, since others have no copies.
        images: Images that are augmented here.
        place: From `placing`.
        plan: Copies to make.
    """
    alike = {stem for image in images for stem in _stems(image)}
    known = {(place(image), stem) for image in images for stem in _stems(image)}
    for image in earlier:
        if alike.isdisjoint(_stems(image)):
            continue
        folder = place(image)
        if known.isdisjoint((folder, stem) for stem in _stems(image)):
            continue
        try:
            file_format = decode.read(image.path).format
        except BadImageError:
            continue
        yield from (
            copy.path for copy in named(image, file_format, [AugmentParams()] * plan.copies, place=place, plan=plan)
        )


def _stems(image: ImageFile) -> set[str]:
    """Return what the names of an image's copies begin with in archives, where they have no dots: without an extension, or with it."""
    name = file_name(image.path)
    return {each.replace(".", "_") for each in (name, os.path.splitext(name)[0])}


def claimed_twice(copy: PlannedCopy) -> CnnkitError:
    """Return the error for two copies with one path."""
    return CnnkitError(
        f"{copy.source.path} and another image would both become {copy.path}; rename one of them, or leave it out"
    )


def stem_and_extension(name: str, file_format: str) -> tuple[str, str]:
    """Return the text before and after the number in a copy's name.

    A format that is not written becomes PNG, and its extension stays before the number, so that x.gif and x.png do not collide.
    """
    stem, extension = os.path.splitext(name)
    written = file_format in _WRITTEN and extension.lower() in _WRITTEN[file_format][0]
    return (stem, extension) if written else (name, ".png")


def saving(name: str, file_format: str, *, profile: bytes | None = None) -> dict[str, Any]:
    """Return the arguments of Pillow's `save` for the copies of an image of this name, format and colour profile."""
    chosen = file_format if stem_and_extension(name, file_format)[0] != name else "PNG"
    return {"format": chosen, **_WRITTEN[chosen][1], **({"icc_profile": profile} if profile else {})}


# ---------------------------------------------------------------- rows


def numbers(augmentation: Augmentation) -> list[str]:
    """Return the names of the parameters that an augmentation draws."""
    neutral, words = Augmentation(), Augmentation.__dataclass_fields__
    given = [word for word in words if getattr(augmentation, word) != getattr(neutral, word)]
    return [name for word in given if word != "fill" for name in _NUMBERS.get(word, (word,))]


def columns(augmentation: Augmentation, *, several_labels: bool = False) -> list[str]:
    """Return the columns of the manifest of copies, also of images with several labels."""
    named = "labels" if several_labels else "label"
    return ["path", named, "split", "group", "source", "copy", *numbers(augmentation)]


def record(copy: PlannedCopy, augmentation: Augmentation, *, source: str) -> dict[str, Any]:
    """Return the manifest row of a copy.

    The copies of an image without a group form one, named after the image, so that a split keeps them together; those of the crops of
    a file form one, too, since crops of several classes overlap.
    """
    image = copy.source
    folder = os.path.dirname(copy.path)
    whole, box = divided(image.path)
    own = "/".join(filter(None, (folder, os.path.basename(image.path)))) if box is None else whole
    return {
        "path": copy.path,
        **({"label": image.label} if image.labels is None else {"labels": label_sets.joined(image.labels)}),
        "split": image.split,
        "group": image.group or own,
        "source": source,
        "copy": copy.number,
        **{name: _value(getattr(copy.draw, name)) for name in numbers(augmentation)},
    }


def _value(drawn: object) -> object:
    """Return a parameter as in a manifest: the operations of a policy as one text."""
    return ", ".join(map(str, drawn)) if isinstance(drawn, tuple) else drawn
