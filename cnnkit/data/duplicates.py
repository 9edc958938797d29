"""Content hash and perceptual hash of completely decoded images, and the exact and near duplicates among them."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cnnkit import files, packages
from cnnkit.data import decode
from cnnkit.data.config import NEAR_BITS
from cnnkit.errors import BadImageError

#: Side of the perceptual hash. 16 x 16 bits distinguish small images, which the usual 8 x 8 do not (see `config.NEAR_BITS`).
LOOK_SIDE = 16

#: Hashes that are compared at once with all others, which takes BLOCK * N * 4 bytes.
_BLOCK = 1024

#: Side of the image whose frequencies are hashed; imagehash's four times the number of frequencies.
_HASHED = 4 * LOOK_SIDE

#: Least side of a reduced JPEG to hash. It changes a bit of few hashes (of none of 24 photographs of 12 megapixels); copies differ by more.
_ENOUGH = 16 * _HASHED

#: The lowest LOOK_SIDE basis vectors of the discrete cosine transform, type II, not normalized.
_COSINES = 2 * np.cos(np.pi / (2 * _HASHED) * np.outer(np.arange(LOOK_SIDE), 2 * np.arange(_HASHED) + 1))

#: Differences from the median that rounding cannot change: coefficients are below 255 * 4 * _HASHED² = 4e6, their errors below 1e-7.
_SURE = 1e-4

# Mirroring an image changes the sign of every second column of its cosine transform.
_MIRROR = np.tile(np.where(np.arange(LOOK_SIDE) % 2, -1, 1), LOOK_SIDE).astype(np.float32)


@dataclass(frozen=True, slots=True)
class ExaminedFile:
    """Hashes of an image file."""

    digest: bytes  # sha256 of the file's bytes; of a crop, with the box: see `decode.digest`
    look: bytes | None = None  # perceptual hash: LOOK_SIDE² bits, packed; None if not requested
    misnamed: str | None = None  # how its extension contradicts its content
    whole: bytes | None = None  # of a crop, sha256 of the file's bytes


def examine(path: str, *, look: bool = False) -> ExaminedFile:
    """Decode an image file completely, compare its content with its extension, and hash it.

    Args:
        path: The file.
        look: Also compute the perceptual hash.

    Raises:
        BadImageError: As `decode.load`.
    """
    try:
        with files.open_regular(path) as file:
            box = decode.box_of(path)
            with decode.opened(path, file) as image:
                hashed = None
                if box is not None:
                    decode.load_pixels(image, path)
                    crop = decode.cropped(decode.upright_rgb(image), path)
                    hashed = perceptual_hash(crop) if look else None
                elif look:
                    decode.load_reduced_pixels(image, path, least=_ENOUGH)
                    hashed = perceptual_hash(decode.upright_rgb(image))
                else:
                    decode.check_pixels(image, path)
                misnamed = decode.misnamed(path, str(image.format))
            whole = decode.digest(file)
            if box is None:
                return ExaminedFile(whole, hashed, misnamed)
            return ExaminedFile(decode.of_crop(whole, box), hashed, misnamed, whole)
    except OSError as error:
        raise BadImageError(decode.reason(path, error)) from error


def perceptual_hash(image: Image.Image) -> bytes:
    """Hash the low frequencies of an image's brightness, as `imagehash.phash` does, to the bit.

    A product of matrices computes only the frequencies that are needed. Where one of them is so close to the median that rounding
    decides on its bit, as between the zeros of a symmetric drawing, imagehash computes the bits. Where it is not installed, a frequency
    this close to the median is not above it.

    Args:
        image: Upright, RGB.

    Returns:
        LOOK_SIDE² bits, packed; rows and columns of frequencies.
    """
    pixels = np.asarray(image.convert("L").resize((_HASHED, _HASHED), Image.Resampling.LANCZOS))
    low = _COSINES @ pixels @ _COSINES.T  # (16, 16)
    above = low - np.median(low)
    if np.abs(above).min() > _SURE:
        return np.packbits(above > 0).tobytes()
    if not packages.is_installed("imagehash"):
        return np.packbits(above > _SURE).tobytes()
    import imagehash  # here, since it imports scipy: a third of a second, for drawings and images of one colour alone

    return np.packbits(imagehash.phash(image, hash_size=LOOK_SIDE).hash).tobytes()


class DisjointSets:
    """Disjoint-set forest: sets of items that must stay together, merged by unions."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, item: int) -> int:
        """Return the smallest item of the set that contains `item`."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def unite(self, one: int, other: int) -> None:
        """Merge the sets of two items."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parent[high] = low

    def unite_equal(self, values: Iterable[Hashable]) -> None:
        """Unite the items that have the same value; items with the value None stay apart."""
        first: dict[Hashable, int] = {}
        for item, value in enumerate(values):
            if value is not None:
                self.unite(first.setdefault(value, item), item)

    def sets(self) -> list[list[int]]:
        """Return all sets, also those of one item, ordered by their smallest item."""
        members: defaultdict[int, list[int]] = defaultdict(list)
        for item in range(len(self._parent)):
            members[self.root(item)].append(item)
        return list(members.values())


def exact_duplicates(digests: Sequence[bytes]) -> list[list[int]]:
    """Find the sets of two or more files with the same content.

    Args:
        digests: Hash of every file's content.

    Returns:
        Positions in `digests`, every set in ascending order.
    """
    together = DisjointSets(len(digests))
    together.unite_equal(digests)
    return [members for members in together.sets() if len(members) > 1]


def near_duplicates(looks: Sequence[bytes], *, distance: int = NEAR_BITS) -> list[list[int]]:
    """Find the sets of two or more images that are similar, or similar to each other's mirror image.

    Similarity is transitive: if A is similar to B and B to C, all three are one set. All pairs are compared, as a product of
    matrices: 10,000 images take a second or two, whatever they show.

    Args:
        looks: Perceptual hash of every image, from `examine`.
        distance: Maximum number of bits by which two differ.

    Returns:
        Positions in `looks`, every set in ascending order.
    """
    distinct = {look: number for number, look in enumerate(dict.fromkeys(looks))}
    labels = _connected(list(distinct), distance)
    together = DisjointSets(len(looks))
    together.unite_equal(labels[distinct[look]] for look in looks)
    return [members for members in together.sets() if len(members) > 1]


def distance(one: bytes, other: bytes) -> int:
    """Count the bits in which two perceptual hashes differ, with one of them mirrored if that is nearer."""
    bits = [np.unpackbits(np.frombuffer(look, dtype=np.uint8)) for look in (one, other)]
    apart = bits[0] != bits[1]  # (256,)
    return int(min(apart.sum(), (apart ^ (_MIRROR < 0)).sum()))


def _connected(looks: Sequence[bytes], distance: int) -> list[int]:
    """Label the connected components of hashes that differ by at most `distance` bits, one of them mirrored or not."""
    if not looks:
        return []
    bits = np.unpackbits(np.frombuffer(b"".join(looks), dtype=np.uint8).reshape(len(looks), -1), axis=1)
    signs = bits.astype(np.float32) * 2 - 1  # (N, 256) of -1 and 1: their product is equal bits minus different bits
    needed = signs.shape[1] - 2 * distance
    labels = np.arange(len(looks))
    for start in range(0, len(looks), _BLOCK):
        block, rest = signs[start : start + _BLOCK], signs[start:]
        near = np.maximum(block @ rest.T, (block * _MIRROR) @ rest.T) >= needed  # (B, 256) @ (256, M) -> (B, M)
        for row in np.flatnonzero(near.sum(axis=1) > 1):  # every hash is similar to itself
            found = labels[start:][near[row]]
            if found.min() != found.max():
                labels[np.isin(labels, found)] = found.min()
    return [int(label) for label in labels]
