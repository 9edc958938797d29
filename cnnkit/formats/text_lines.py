"""Lines of a text file in UTF-8, UTF-16 or UTF-32, with any line ends; files that are not text are recognized by their first bytes."""

import codecs
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from cnnkit import tar_archives
from cnnkit.errors import FormatError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark starts with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

#: First bytes of files that are not text.
_KINDS = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a WebP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"PK\3\4", "a zip archive or a spreadsheet"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"%PDF", "a PDF"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"version https://git-lfs", "a Git LFS pointer (fetch the file with git lfs pull)"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
)

#: The kind of a tar archive, whose mark is not at the beginning.
TAR = "a tar archive"

_LINE_END = re.compile(r"\r\n|\r|\n")


def kind_of(beginning: bytes) -> str | None:
    """Return the kind of a file that is not text, by its first bytes, such as "a JPEG image"; otherwise None."""
    if tar_archives.has_mark(beginning):
        return TAR
    return next((kind for mark, kind in _KINDS if beginning.startswith(mark)), None)


def decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Decode lines and remove their ends; CR alone also ends a line."""
    coming = iter(lines)
    first = next(coming, b"")
    kind = kind_of(first)
    if kind is not None:
        raise FormatError(f"{name}: {kind}, not a table")
    encoding = next((encoding for mark, encoding in _BOMS if first.startswith(mark)), None)
    wide = encoding is not None and encoding != "utf-8"
    pieces = chain([first], coming)
    for text in _wide_lines(pieces, name, str(encoding)) if wide else _narrow_lines(pieces):
        _check_text(text, name)
        yield text


def more(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Decode further lines of a file in UTF-8 whose first lines were `decoded`."""
    for text in _narrow_lines(lines, "utf-8"):
        _check_text(text, name)
        yield text


def _check_text(text: str, name: str) -> None:
    if "\0" in text:
        raise FormatError(
            f"{name}: not text: it contains a NUL byte (UTF-16 without a byte order mark?); save it as UTF-8"
        )


def has_mark(line: bytes) -> bool:
    """Return whether the first line of a file starts with a byte order mark."""
    return any(line.startswith(mark) for mark, _ in _BOMS)


def is_wide(line: bytes) -> bool:
    """Return whether the first line of a file starts with the mark of UTF-16 or UTF-32."""
    return any(line.startswith(mark) for mark, encoding in _BOMS if encoding != "utf-8")


def _narrow_lines(lines: Iterable[bytes], encoding: str = "utf-8-sig") -> Iterator[str]:
    for line in lines:
        text = line.decode(encoding, "surrogateescape").rstrip("\r\n")
        encoding = "utf-8"
        if "\r" in text or "\n" in text:
            yield from _LINE_END.split(text)
        else:
            yield text


def _wide_lines(pieces: Iterable[bytes], name: str, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    rest = ""
    try:
        for piece in pieces:
            *whole, rest = re.split(r"\r\n|\r(?!$)|\n", rest + decoder.decode(piece))
            yield from (line.removeprefix("\ufeff") for line in whole)
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise FormatError(f"{name}: starts as {encoding[:6].upper()} but is not, or is truncated") from error
    yield from _LINE_END.split(rest.removeprefix("\ufeff"))


def first_line(line: bytes) -> str:
    """Decode the first line of a file, without its end; bytes that cannot be decoded are ignored."""
    for mark, encoding in _BOMS:
        if line.startswith(mark):
            return _LINE_END.split(line.removeprefix(mark).decode(encoding, "ignore"))[0]
    return _LINE_END.split(line.decode("utf-8", "surrogateescape"))[0]
