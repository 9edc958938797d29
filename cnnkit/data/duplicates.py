"""Files examined whole (hash of the content, decoding to the end, perceptual hash), and the duplicates and near-duplicates among them."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cnnkit import files
from cnnkit.data import decode
from cnnkit.data.config import NEAR_BITS
from cnnkit.errors import BadImageError

#: Side of the perceptual hash. 16 x 16 bits tell small images apart, which the usual 8 x 8 do not (see `config.NEAR_BITS`).
LOOK_SIDE = 16

#: Comparing one block of hashes with all others takes BLOCK * N * 4 bytes.
_BLOCK = 1024

# Mirroring an image changes the sign of every second column of its cosine transform.
_MIRROR = np.tile(np.where(np.arange(LOOK_SIDE) % 2, -1, 1), LOOK_SIDE).astype(np.float32)


@dataclass(frozen=True, slots=True)
class ExaminedFile:
    """What a file that is an image holds."""

    digest: bytes  # sha256 of the file's bytes
    look: bytes | None = None  # LOOK_SIDE² bits, packed; None unless asked for
    misnamed: str | None = None  # how its extension contradicts its content


def examine(path: str, *, look: bool = False) -> ExaminedFile:
    """Decode a file to the end by its content, compare that with its extension, and hash it, if it proves to be an image.

    Args:
        path: The file.
        look: Compute the perceptual hash too.

    Raises:
        BadImageError: As `decode.load`.
    """
    try:
        with files.open_regular(path) as file:
            with decode.opened(path, file) as image:
                decode.load_pixels(image, path)
                hashed = perceptual_hash(decode.upright_rgb(image)) if look else None
                misnamed = decode.misnamed(path, str(image.format))
            return ExaminedFile(decode.digest(file), hashed, misnamed)
    except OSError as error:
        raise BadImageError(decode.reason(path, error)) from error


def perceptual_hash(image: Image.Image) -> bytes:
    """Hash the low frequencies of an image as it is seen: upright, RGB; they are taken in grey.

    Returns:
        LOOK_SIDE² bits, packed; rows and columns of frequencies.
    """
    import imagehash  # here, since it brings scipy: a third of a second that a plain split does not pay

    bits = imagehash.phash(image, hash_size=LOOK_SIDE).hash  # (16, 16)
    return np.packbits(bits).tobytes()


class DisjointSets:
    """Sets of items that must stay together, growing by unions (a disjoint-set forest)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, item: int) -> int:
        """Give the smallest item of the set that `item` is in."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def unite(self, one: int, other: int) -> None:
        """Make one set of two."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parent[high] = low

    def unite_equal(self, values: Iterable[Hashable]) -> None:
        """Unite the items that have the same value; None is like nothing else."""
        first: dict[Hashable, int] = {}
        for item, value in enumerate(values):
            if value is not None:
                self.unite(first.setdefault(value, item), item)

    def sets(self) -> list[list[int]]:
        """List all sets, single items too, by their smallest item."""
        members: defaultdict[int, list[int]] = defaultdict(list)
        for item in range(len(self._parent)):
            members[self.root(item)].append(item)
        return list(members.values())


def exact_duplicates(digests: Sequence[bytes]) -> list[list[int]]:
    """Find the sets of two and more files whose content is the same.

    Args:
        digests: Hash of every file's content.

    Returns:
        Positions in `digests`, every set in ascending order.
    """
    together = DisjointSets(len(digests))
    together.unite_equal(digests)
    return [members for members in together.sets() if len(members) > 1]


def near_duplicates(looks: Sequence[bytes], *, distance: int = NEAR_BITS) -> list[list[int]]:
    """Find the sets of two and more images that look alike, or like each other's mirror image.

    Likeness is passed on: where A is like B and B like C, all three are one set. All pairs are compared, as a product of
    matrices: 10,000 images take a second or two, and no set of images makes it slower.

    Args:
        looks: Perceptual hash of every image, as `examine` gives it.
        distance: Bits by which two may differ.

    Returns:
        Positions in `looks`, every set in ascending order.
    """
    distinct = {look: number for number, look in enumerate(dict.fromkeys(looks))}
    labels = _connected(list(distinct), distance)
    together = DisjointSets(len(looks))
    together.unite_equal(labels[distinct[look]] for look in looks)
    return [members for members in together.sets() if len(members) > 1]


def distance(one: bytes, other: bytes) -> int:
    """Count the bits in which two perceptual hashes differ, one of them mirrored if that is nearer."""
    bits = [np.unpackbits(np.frombuffer(look, dtype=np.uint8)) for look in (one, other)]
    apart = bits[0] != bits[1]  # (256,)
    return int(min(apart.sum(), (apart ^ (_MIRROR < 0)).sum()))


def _connected(looks: Sequence[bytes], distance: int) -> list[int]:
    """Label every hash so that two that differ by at most `distance` bits, one of them mirrored or not, have the same label."""
    if not looks:
        return []
    bits = np.unpackbits(np.frombuffer(b"".join(looks), dtype=np.uint8).reshape(len(looks), -1), axis=1)
    signs = bits.astype(np.float32) * 2 - 1  # (N, 256) of -1 and 1: their product counts agreements less disagreements
    needed = signs.shape[1] - 2 * distance
    labels = np.arange(len(looks))
    for start in range(0, len(looks), _BLOCK):
        block, rest = signs[start : start + _BLOCK], signs[start:]
        near = np.maximum(block @ rest.T, (block * _MIRROR) @ rest.T) >= needed  # (B, 256) @ (256, M) -> (B, M)
        for row in np.flatnonzero(near.sum(axis=1) > 1):  # every hash is like itself
            found = labels[start:][near[row]]
            if found.min() != found.max():
                labels[np.isin(labels, found)] = found.min()
    return [int(label) for label in labels]
