"""What to call files among others: by as little of their paths as tells them apart."""

from collections.abc import Sequence
from pathlib import Path


def names(paths: Sequence[str]) -> list[str]:
    """Name files by their stems, those with the same stem with as many folders before it as tell them apart."""
    parts = {path: Path(path).absolute().with_suffix("").parts for path in paths}

    def name(path: str) -> str:
        for depth in range(1, len(parts[path])):
            if sum(other[-depth:] == parts[path][-depth:] for other in parts.values()) == 1:
                return "/".join(parts[path][-depth:])
        return path  # told apart by their endings alone

    return [name(path) for path in paths]
