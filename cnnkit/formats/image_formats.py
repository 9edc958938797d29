"""Supported image formats, with their extensions and first bytes, for folder searches and for decoding. No Pillow.

extension of a supported format           the search takes the file as an image
another extension, or none                the first bytes decide (`of_content`)
camera raw, sidecar                       never an image: the small preview in a raw file would be read as the photograph
"""

import functools
import importlib.util
import os
import re

from cnnkit import files


def extensions(words: str) -> frozenset[str]:
    """Return the extensions of words: "jpg png"."""
    return frozenset(f".{word}" for word in words.split())


#: Allowed decoders, with the extensions of their files. Pillow's other decoders would be attack surface without use.
FORMATS: dict[str, frozenset[str]] = {
    "JPEG": frozenset({".jpg", ".jpeg", ".jpe", ".jfif"}),
    "MPO": frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}),
    "PNG": frozenset({".png", ".apng"}),
    "BMP": frozenset({".bmp", ".dib"}),
    "DIB": frozenset({".bmp", ".dib"}),
    "GIF": frozenset({".gif"}),
    "TIFF": frozenset({".tif", ".tiff"}),
    "WEBP": frozenset({".webp"}),
    "AVIF": frozenset({".avif", ".avifs"}),
    "HEIF": frozenset({".heic", ".heif", ".hif"}),
    "PPM": frozenset({".ppm", ".pgm", ".pbm", ".pnm"}),
}

#: The extension of each format for a file that has none: the one that other programs know best. WebDataset decodes jpg, png and ppm alone.
USUAL = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "BMP": ".bmp",
    "DIB": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "WEBP": ".webp",
    "AVIF": ".avif",
    "HEIF": ".heic",
    "PPM": ".ppm",
}

#: All extensions of the supported formats, in lower case.
EXTENSIONS = frozenset[str]().union(*FORMATS.values())

#: Remedy for HEIC files that are not read.
HEIF_REMEDY = "to read them, pip install pillow-heif"

#: Camera raw and slide-scanner files. Most are TIFF files, with a small preview as their first image.
_RAW = extensions(
    "3fr arw bif cr2 cr3 crw dcr dng erf fff iiq kdc mef mos mrw ndpi nef nrw orf pef raf raw rw2 scn sr2 srf srw svs x3f"
)

#: Previews that cameras put next to films: never images of the dataset.
_PREVIEWS = extensions("thm lrv")

#: Further image formats that are not read.
_OTHER_IMAGES = extensions(
    "ai cur dcm dds dicom djvu eps exr fits hdr heics heifs icns ico j2k jp2 jpf jpx jxl jxr nii pcx pic psb psd qoi sgi "
    "svg tga wbmp wdp wmf xbm xcf xpm"
)

#: Number of bytes that identify a format.
HEAD = 32

_SIGNATURES: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("AVIF", re.compile(rb"....ftyp(avi[fs]|mi[af]1.{4,16}avi[fs])", re.DOTALL)),
    ("HEIF", re.compile(rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)),
    ("BMP", re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL)),
    ("PPM", re.compile(rb"P[1-6](\s+|\s*#[^\n]*\n)+[0-9#]")),
)


def of_content(head: bytes) -> str | None:
    """Return the format, a key of `FORMATS`, of the first bytes of a file; None if they match none."""
    return next((name for name, signature in _SIGNATURES if signature.match(head)), None)


def has_image_extension(name: str) -> bool:
    """Return whether a file's name has the extension of a supported format; HEIC is one if pillow-heif is installed."""
    return not name.startswith(".") and _is_read(extension_of(name))


def extension_of(name: str) -> str:
    """Return a file name's extension in lower case; of a crop, that of its file."""
    return os.path.splitext(name[: files.start_of_box(name)] if files.CROP in name else name)[1].lower()


def may_be_read_by_content(name: str) -> bool:
    """Return whether a file with this name may be recognized by its first bytes."""
    return extension_of(name) not in _RAW | _PREVIEWS


def why_not_read(name: str) -> str | None:
    """Return the remedy for a file with the extension of an image that is not read; None for other names."""
    extension = extension_of(name)
    if extension in EXTENSIONS and not _is_read(extension):
        return (
            HEIF_REMEDY
            if extension in FORMATS["HEIF"]
            else "this Pillow cannot read AVIF: pip install --upgrade pillow"
        )
    if extension in _RAW:
        return "camera raw and scanner files are not supported: convert them to PNG or JPEG"
    if extension in _OTHER_IMAGES:
        return "unsupported image format: convert them to PNG or JPEG"
    return None


@functools.cache
def reads_heif() -> bool:
    """Return whether pillow-heif is installed, without importing it. Cached, since it searches all of sys.path."""
    return importlib.util.find_spec("pillow_heif") is not None


@functools.cache
def _reads_avif() -> bool:
    from PIL import features  # a folder that holds such files alone pays for it

    return bool(features.check("avif"))


def _is_read(extension: str) -> bool:
    if extension not in EXTENSIONS:
        return False
    if extension in FORMATS["HEIF"]:
        return reads_heif()
    return extension not in FORMATS["AVIF"] or _reads_avif()
