"""Names of columns of metadata in options: `width,height`, and with their kinds, `width,camera:category`. Imports no numpy."""

from cnnkit.choices import ColumnKind
from cnnkit.errors import UsageError


def parse_names(text: str, *, option: str = "--with") -> tuple[str, ...]:
    """Parse `width,height`.

    Raises:
        UsageError: A name is empty or repeated, or it is the label itself.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UsageError(f'{option} "{text}": give names separated by commas, such as width,height')
    if len(set(names)) < len(names):
        raise UsageError(f'{option} "{text}": a name is repeated; give each once')
    if "label" in names:
        raise UsageError(f"{option} label: the label is the target; drop it")
    return names


def parse_kinds(text: str, *, option: str = "--use") -> dict[str, ColumnKind | None]:
    """Parse `width,camera:category`; a column without a kind has None: its values decide.

    Raises:
        UsageError: As `parse_names`.
    """
    kinds: dict[str, ColumnKind | None] = {}
    for word in text.split(","):
        name, colon, kind = word.strip().rpartition(":")
        known = colon and kind in [*ColumnKind]
        kinds[name if known else word.strip()] = ColumnKind(kind) if known else None
    names = parse_names(",".join(kinds), option=option)
    if len(names) < text.count(",") + 1:
        raise UsageError(f'{option} "{text}": a name is repeated; give each once')
    return kinds
