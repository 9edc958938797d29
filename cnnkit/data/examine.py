"""One file, looked at whole before it is trusted: its content's hash, that it decodes to the end, and what it looks like."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cnnkit.data import images
from cnnkit.errors import BadPicture

#: Side of the perceptual hash. 16 x 16 bits tell small pictures apart, which the usual 8 x 8 do not (see `duplicates.NEAR`).
LOOK_SIDE = 16


@dataclass(frozen=True, slots=True)
class Examined:
    """What a file that is a picture holds."""

    digest: bytes  # sha256 of the file's bytes
    look: bytes | None = None  # LOOK_SIDE² bits, packed; None unless asked for


def examine(path: str, *, look: bool = False) -> Examined:
    """Read a file once; hash it, decode it to the end, and compare its content with its extension.

    Args:
        path: The file.
        look: Compute the perceptual hash too.

    Raises:
        BadPicture: As `images.load`, or its extension belongs to another format than its content.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadPicture(images.reason(path, error)) from error
    with images.opened(path, content) as image:
        images.check_name(path, str(image.format))
        image.load()
        return Examined(hashlib.sha256(content).digest(), look_of(images.upright_rgb(image)) if look else None)


def look_of(image: Image.Image) -> bytes:
    """Hash the low frequencies of a picture as it is seen: upright, RGB; they are taken in grey.

    Returns:
        LOOK_SIDE² bits, packed; rows and columns of frequencies.
    """
    import imagehash  # here, since it brings scipy: a third of a second that a plain split does not pay

    bits = imagehash.phash(image, hash_size=LOOK_SIDE).hash  # (16, 16)
    return np.packbits(bits).tobytes()
