"""Recognize archives and spreadsheets by name, and say how to convert them."""

import shlex
from pathlib import Path

from cnnkit.errors import UsageError

#: Extensions of compressed tar archives: the program that decompresses them, and what it leaves of the extension.
_COMPRESSED = {
    ".tar.gz": ("gunzip", ".tar"),
    ".tgz": ("gunzip", ".tar"),
    ".tar.bz2": ("bunzip2", ".tar"),
    ".tbz2": ("bunzip2", ".tar"),
    ".tar.xz": ("unxz", ".tar"),
    ".txz": ("unxz", ".tar"),
    ".tar.zst": ("unzstd", ".tar"),
}
_SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers", ".parquet", ".feather")


def refuse(path: str | Path) -> None:
    """Raise an error for an archive or a spreadsheet.

    Raises:
        UsageError: It is one; the message gives the command that unpacks it.
    """
    name = Path(path).name.lower()
    ending = next((ending for ending in (*_COMPRESSED, ".zip", ".7z", ".rar", *_SHEETS) if name.endswith(ending)), None)
    if ending is None:
        return
    if ending in _SHEETS:
        raise UsageError(f"{path}: a spreadsheet; save it as CSV with the columns path and label")
    folder = str(path)[: -len(ending)]
    word, into = shlex.quote(str(path)), shlex.quote(folder)
    if ending in _COMPRESSED:
        program, left = _COMPRESSED[ending]
        raise UsageError(
            f"{path}: a compressed archive, whose images cannot be found without decompressing all of it; "
            f"decompress it ({program} -k {word}) and pass {folder}{left}"
        )
    unpack = {
        ".zip": f"unzip -q {word} -d {into}",
        ".7z": f"7z x -o{into} {word}",
        ".rar": f"unrar x {word} {into}/",
    }[ending]
    raise UsageError(f"{path}: an archive; unpack it ({unpack}) and pass the folder {folder}")
