"""Short names for files: as little of each path as distinguishes it from the others."""

from collections.abc import Sequence
from pathlib import Path


def names(paths: Sequence[str]) -> list[str]:
    """Return each file's stem, preceded by as many folders as distinguish it from others of the same stem."""
    parts = {path: Path(path).absolute().with_suffix("").parts for path in paths}

    def name(path: str) -> str:
        for depth in range(1, len(parts[path])):
            if sum(other[-depth:] == parts[path][-depth:] for other in parts.values()) == 1:
                return "/".join(parts[path][-depth:])
        return path  # only their endings differ

    return [name(path) for path in paths]
