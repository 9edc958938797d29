"""Recognize archives and spreadsheets by name, and say how to convert them."""

import shlex
from pathlib import Path

from cnnkit.errors import UsageError

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers", ".parquet", ".feather")


def refuse(path: str | Path) -> None:
    """Raise an error for an archive or a spreadsheet.

    Raises:
        UsageError: It is one; the message gives the command that unpacks it.
    """
    name = Path(path).name.lower()
    ending = next((ending for ending in (*_TARS, ".zip", ".7z", ".rar", *_SHEETS) if name.endswith(ending)), None)
    if ending is None:
        return
    if ending in _SHEETS:
        raise UsageError(f"{path}: a spreadsheet; save it as CSV with the columns path and label")
    folder = str(path)[: -len(ending)]
    word, into = shlex.quote(str(path)), shlex.quote(folder)
    unpack = {
        ".zip": f"unzip -q {word} -d {into}",
        ".7z": f"7z x -o{into} {word}",
        ".rar": f"unrar x {word} {into}/",
    }.get(ending, f"mkdir {into} && tar -xf {word} -C {into}")
    raise UsageError(f"{path}: an archive; unpack it ({unpack}) and pass the folder {folder}")
