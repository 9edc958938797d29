"""Tar archives as WebDataset reads them: each image with the number of its class in a `.cls`, and all that is known of it in a `.json`.

    cat/1.jpg     the image
    cat/1.cls     the number of its label among all labels, sorted, from 0; none without a label
    cat/1.json    {"path": "cat/1.jpg", "label": "cat", "split": "train", "group": null}

Images with several labels have no `.cls`, and in the `.json` a list `labels` in place of `label`.

The same images give the same bytes: files have no time and no owner.

Programs that read archives in sequence shuffle the images within a small buffer at most. The images of a split are therefore in an order
that has nothing to do with their classes, that of a hash of their names.
"""

import hashlib
import io
import json
import os
import re
import secrets
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cnnkit import files, tar_archives
from cnnkit.callbacks import Progress, ignore_progress
from cnnkit.formats import image_formats

_ARCHIVE = re.compile(r"([^/]+-[0-9]{6,}\.tar)/.")


@dataclass(frozen=True, slots=True)
class Sample:
    """An image for an archive."""

    image: Callable[[], BinaryIO]  # opens its content
    fields: Mapping[str, object]  # of its `.json`; the number of `label` is in its `.cls`


def archive_name(split: str | None, number: int, *, part: str = "") -> str:
    """Return the name of an archive, with a number of six digits as WebDataset has it: train-000000.tar.

    Args:
        split: Of its images; without one, they are just images.
        number: From 0.
        part: The part of the images of which this is an archive, such as 2of8; archives of all parts have different names.
    """
    return f"{'images' if split is None else split}{part and f'-{part}'}-{number:06d}{tar_archives.EXTENSION}"


def archive_of(place: str) -> str | None:
    """Return the archive of a place that `places` gave; None for any other path."""
    found = _ARCHIVE.match(place)
    return None if found is None else found[1]


def member_name(path: str, head: bytes) -> str:
    """Return the name of an image in an archive: its only dot is that of its extension, since WebDataset takes the rest for it.

    Args:
        path: As it would be in a folder: IMG.7.jpg.
        head: The first bytes, for the extension if the name has none of an image.
    """
    folder, separator, name = path.rpartition("/")
    stem, extension = os.path.splitext(name)
    if extension.lower() not in image_formats.EXTENSIONS:
        stem, extension = name, image_formats.USUAL[image_formats.of_content(head) or "JPEG"]
    return f"{folder}{separator}{stem.replace('.', '_')}{extension}"


class MemberNames:
    """Names of images in archives, by `member_name`; each is that of one sample."""

    def __init__(self) -> None:
        self._samples: set[str] = set()

    def add(self, path: str, head: bytes) -> str:
        """Return the name of an image; arguments as `member_name`.

        If it would be in the sample of an earlier image, as 1.png after 1.jpg, it is numbered: 1~2.png.
        """
        name = member_name(path, head)
        stem, extension = os.path.splitext(name)
        sample, number = stem, 1
        while sample in self._samples:
            number += 1
            sample = f"{stem}~{number}"
        self._samples.add(sample)
        return f"{sample}{extension}"


def places(names: Sequence[str], splits: Sequence[str | None], *, per: int, part: str = "") -> list[str]:
    """Return the place of each image, such as train-000000.tar/cat/1.jpg.

    Args:
        names: In the archives.
        splits: Of the images.
        per: Number of images in each archive.
        part: As `archive_name`.
    """
    by_split: defaultdict[str | None, list[int]] = defaultdict(list)
    for image, split in enumerate(splits):
        by_split[split].append(image)
    found = list(names)
    for split, images in by_split.items():
        for order, image in enumerate(sorted(images, key=lambda image: _drawn(names[image]))):
            found[image] = f"{archive_name(split, order // per, part=part)}/{names[image]}"
    return found


def _drawn(name: str) -> bytes:
    """Return the sort key of an image in an archive."""
    return hashlib.sha256(os.fsencode(name)).digest()


def write(
    folder: Path,
    places: Sequence[str],
    sample: Callable[[int], Sample],
    *,
    labels: Iterable[str | None],
    made: list[str | Path] | None = None,
    progress: Progress = ignore_progress,
) -> None:
    """Write archives, in their order; each gets its name when it is complete.

    Args:
        folder: Of the archives.
        places: Of `places`.
        sample: Returns the image of a place, by its position.
        labels: All labels, also of other archives of the same images, whose classes have the same numbers.
        made: Takes the archives that are written.
        progress: Called with the number of images written, and the total.

    Raises:
        OSError: An image cannot be read, or an archive cannot be written.
    """
    archives: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for image, place in enumerate(places):
        archive, separator, name = place.partition(f"{tar_archives.EXTENSION}/")
        archives[archive + separator.rstrip("/")].append((name, image))
    classes = {label: number for number, label in enumerate(sorted({label for label in labels if label is not None}))}
    done = 0

    def counted(members: Iterable[tuple[str, int]]) -> Iterator[tuple[str, Sample]]:
        nonlocal done
        for name, image in members:
            yield name, sample(image)
            done += 1
            progress(done, len(places))

    for archive, members in sorted(archives.items()):
        _write(folder / archive, counted(sorted(members, key=lambda member: _drawn(member[0]))), classes)
        if made is not None:
            made.append(folder / archive)


def _write(path: Path, samples: Iterable[tuple[str, Sample]], classes: Mapping[str, int]) -> None:
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with (
            temporary.open("xb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive,
        ):
            for name, sample in samples:
                with sample.image() as image:
                    _add(archive, name, image, files.size_of(image))
                for extension, content in _described(sample.fields, classes):
                    _add(archive, f"{os.path.splitext(name)[0]}.{extension}", io.BytesIO(content), len(content))
                archive.members.clear()  # type: ignore[attr-defined]  # not in typeshed; the archive would keep all of them
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _described(fields: Mapping[str, object], classes: Mapping[str, int]) -> Sequence[tuple[str, bytes]]:
    label = fields.get("label")
    text = json.dumps(fields, ensure_ascii=True).encode()
    return [*([("cls", str(classes[label]).encode())] if isinstance(label, str) else []), ("json", text)]


def _add(archive: tarfile.TarFile, name: str, content: BinaryIO, size: int) -> None:
    member = tarfile.TarInfo(name)  # time and owner are 0
    member.size = size
    archive.addfile(member, content)
