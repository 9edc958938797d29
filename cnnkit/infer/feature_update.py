"""Features of a folder that has grown: images whose content is known are not passed through the backbone again.

x.npy, x.tsv, x.json       as without --update, byte by byte
x.sha256                   a comment with the settings and the digest of x.npy, then the digest and the path of each image, as sha256sum
                           writes and checks them
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from cnnkit import files
from cnnkit.data import decode, reader
from cnnkit.data.source import ImageFile
from cnnkit.engine.runner import Results
from cnnkit.errors import BadImageError, FormatError
from cnnkit.formats import digest_list, features
from cnnkit.formats.features import FeatureWriter

log = logging.getLogger("cnnkit")

_SUFFIX = ".sha256"


@dataclass(slots=True)
class Update:
    """The digests of the images to extract, and the rows of an earlier run by the digest of their image.

    `kept` is the number of rows that are kept.
    """

    path: Path
    fingerprint: str
    digests: dict[str, str]  # by path; images that cannot be read have none
    earlier: dict[str, NDArray[Any]]
    kept: int = 0
    _written: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def begin(cls, writer: FeatureWriter, images: Sequence[ImageFile], *, jobs: int | None, usable: bool) -> Self:
        """Read what an earlier run with --update left, and the digests of all images.

        Args:
            writer: Of the features; it has not begun.
            images: All images.
            jobs: Threads that read them.
            usable: Rows of an earlier run can be used.

        Raises:
            UsageError: There is a file in place of the digests that is not from cnn-extract.
        """
        path = features.sibling(writer.path, _SUFFIX)
        fingerprint = writer.fingerprint
        earlier = _earlier(path, writer, fingerprint)
        if earlier and not usable:
            log.warning(
                "all images are extracted again, because this backbone gives an image slightly other values in another row of a batch; "
                "--batch 1 avoids that"
            )
            earlier = {}
        found = reader.read(images, _digest, jobs=jobs)
        digests = {image.path: digest for image, digest in found if not isinstance(digest, BadImageError)}
        return cls(path, fingerprint, digests, earlier)

    def new(self, images: Iterable[ImageFile], rows: Callable[[ImageFile], int]) -> list[ImageFile]:
        """Return the images to pass through the backbone; `rows` is the number of rows of an image."""
        return [image for image in images if self._known(image, rows(image)) is None]

    def merged(self, images: Iterable[ImageFile], rows: Callable[[ImageFile], int], results: Results) -> Results:
        """Yield all images in their order: those of `new` with their results, the others with their earlier rows."""
        with contextlib.closing(results):
            for image in images:
                values = self._known(image, rows(image))
                if values is not None:
                    self.kept += len(values)
                    yield image, [values]
                else:
                    yield next(results)
            next(results, None)  # its last progress

    def _known(self, image: ImageFile, rows: int) -> NDArray[Any] | None:
        values = self.earlier.get(self.digests.get(image.path, ""))
        return values if values is not None and len(values) == rows else None

    def wrote(self, image: ImageFile, path: str) -> None:
        """Note an image whose rows are written, and its path in the `.tsv`."""
        self._written.append((self.digests.get(image.path, ""), path))

    def save(self) -> None:
        """Write the digests, after the features are complete."""
        described = {"values": _file_digest(self.path.with_suffix(".npy")), "settings": self.fingerprint}
        digest_list.save(self.path, described, self._written)


def _earlier(path: Path, writer: FeatureWriter, fingerprint: str) -> dict[str, NDArray[Any]]:
    """Return the rows of each image of an earlier run; empty if it had other settings, or its files are not those that it wrote."""
    if not path.exists():
        return {}
    try:
        described, digests = digest_list.load(path)
        if described["settings"] != fingerprint or described["values"] != _file_digest(writer.path):
            log.info("%s is of other settings or features; all images are extracted", path)
            return {}
        listed = writer.finished()
        values = features.load_values(writer.path)
    except (ValueError, KeyError, TypeError, OSError, FormatError):
        return {}
    starts = [place for place, row in enumerate(listed or ()) if not row.view]
    if listed is None or len(digests) != len(starts):
        return {}
    stops = [*starts[1:], len(listed)]
    return {
        digest: values[start:stop]
        for digest, start, stop in zip(digests, starts, stops, strict=True)
        if digest.strip("0")
    }


def _digest(path: str) -> str:
    try:
        with files.open_regular(path) as file:
            return decode.digest(file, path).hex()
    except OSError as error:
        raise BadImageError(str(error)) from error


def _file_digest(path: Path) -> str:
    with files.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
