"""Records as a table: as TSV, or drawn on a terminal."""

import bisect
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, TextIO

from cnnkit import files
from cnnkit.messages import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text


def as_mapping(record: Any) -> Mapping[str, Any]:  # noqa: ANN401 - any dataclass or mapping
    if isinstance(record, Mapping):
        return record
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def cell(value: Any) -> str:  # noqa: ANN401 - any JSON value
    from cnnkit.formats import tsv

    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ",".join(f"{tsv.escape(str(name))}={cell(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return json.dumps(value, ensure_ascii=False)
    return tsv.escape(str(value))


def drawn_cell(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return cell(value)


def csv_cell(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return value if isinstance(value, str) else cell(value)


def write_csv(rows: Iterator[Mapping[str, Any]], out: IO[str], columns: Sequence[str] | None) -> None:
    from cnnkit.formats.delimited import csv_row

    written = False
    for row in rows:
        if not written:
            columns, written = columns or list(row), True
            out.write(csv_row(columns))
        assert columns is not None
        out.write(csv_row(csv_cell(row[column]) for column in columns))
    if columns is not None and not written:
        out.write(csv_row(columns))


def write_tsv(rows: Iterator[Mapping[str, Any]], out: IO[str], columns: Sequence[str] | None) -> None:
    written = False
    for row in rows:
        if not written:
            columns, written = columns or list(row), True
            out.write("\t".join(columns) + "\n")
        assert columns is not None
        out.write("\t".join(cell(row[column]) for column in columns) + "\n")
    if columns is not None and not written:
        out.write("\t".join(columns) + "\n")


#: Seconds between the parts of a table that is drawn while records are still being computed.
_PIECE = 0.5
#: Text columns up to this width are never folded, unless the terminal is too narrow: then those up to half of it are not.
_LONGEST_WHOLE = 24
#: The least width of the name of a file in the path of a crop that is too wide.
_LEAST_NAME = 8
#: Words of a header up to this length are never divided.
_LONGEST_IN_HEADER = 8


def draw(
    rows: Iterator[Mapping[str, Any]], out: TextIO, columns: Sequence[str] | None, *, title: str | None = None
) -> None:
    """Draw a table in parts as rows are computed; the first part sets the minimum widths of the columns."""
    widths: dict[str, int] = {}
    piece: list[Mapping[str, Any]] = []
    drawn = time.monotonic()
    for row in rows:
        piece.append(row)
        if time.monotonic() - drawn > _PIECE:
            widths = _draw_piece(piece, out, columns or list(row), widths, title=title)
            piece, drawn = [], time.monotonic()
    if len(piece) == 1 and not widths and not title and _listed(piece[0], out, columns or list(piece[0])):
        return
    if piece or not widths:
        _draw_piece(piece, out, columns or (list(piece[0]) if piece else []), widths, title=title)


def _draw_piece(
    rows: list[Mapping[str, Any]], out: TextIO, columns: Sequence[str], widths: dict[str, int], *, title: str | None
) -> dict[str, int]:
    """Draw some rows of a table, with the header if `widths` is empty; return the widths of its columns."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(file=out, highlight=False)
    for tight, longest, broken in (
        (False, _LONGEST_WHOLE, False),
        (True, _LONGEST_WHOLE, False),
        (True, _LONGEST_WHOLE // 2, False),
        (True, _LONGEST_WHOLE // 2, True),
    ):
        table, here = _table(rows, columns, widths, tight=tight, longest=longest, broken=broken)
        least = Measurement.get(console, console.options.update(width=10_000), table).minimum
        if least <= console.width:
            break
    console.width = max(console.width, least)
    foldable = {place: column for place, column in enumerate(columns) if not table.columns[place].no_wrap}
    shares = _shared({place: here[column] - longest for place, column in foldable.items()}, console.width - least)
    for place, column in foldable.items():
        here[column] = table.columns[place].width = longest + shares[place]
    if title and not widths:
        console.print(printable(title), style="bold", markup=False)
    console.print(table)
    return here


def _listed(row: Mapping[str, Any], out: TextIO, columns: Sequence[str]) -> bool:
    """Draw a record as a list if it is wider than the terminal; lines are not folded, so that a command in it can be copied."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.text import Text

    console = Console(file=out, highlight=False)
    table, _ = _table([row], columns, {}, tight=True)
    if Measurement.get(console, console.options.update(width=10_000), table).maximum <= console.width:
        return False
    widest = max(map(len, columns))
    for column in columns:
        shown = printable(drawn_cell(row[column]))
        console.print(Text.assemble((printable(column.ljust(widest)), "bold"), "  ", shown), soft_wrap=True)
    return True


def _table(
    rows: list[Mapping[str, Any]],
    columns: Sequence[str],
    widths: dict[str, int],
    *,
    tight: bool,
    longest: int = _LONGEST_WHOLE,
    broken: bool = False,
) -> tuple["Table", dict[str, int]]:
    """Lay out rows; `tight` omits padding for narrow terminals, and texts of up to `longest` columns are not folded.

    `broken` divides long words of the header.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    written = cell if tight else drawn_cell
    cells = [[printable(written(row[column])) for column in columns] for row in rows]
    headers = {column: _header(column, broken=broken) for column in columns}
    here = {
        column: max([widths.get(column, 0), *map(len, headers[column].split("\n")), *map(cell_len, texts)])
        for column, *texts in zip(columns, *cells, strict=True)
    }
    table = Table(
        box=box.SIMPLE_HEAD,
        show_header=not widths,
        show_edge=False,
        pad_edge=False,
        padding=(0, 0) if tight else (0, 1),
        collapse_padding=True,
    )
    for column in columns:
        numeric = any(isinstance(row[column], int | float) for row in rows)
        # Numbers and short names must not be folded; a long path may be shortened
        whole = numeric or here[column] <= longest
        table.add_column(
            Text(headers[column]),
            justify="right" if numeric else "left",
            vertical="bottom",
            overflow="fold",
            no_wrap=whole,
            min_width=here[column] if whole else longest,
            width=here[column] if widths and whole else None,
        )
    for row, line in zip(rows, cells, strict=True):
        style = "bold" if row.get("kind") == "total" else ""
        table.add_row(*(_Cell(text, style, longest) for text in line))
    return table, here


def _header(column: str, *, broken: bool) -> str:
    """Return the words of a column's name as lines; `broken` divides those that are too long in the middle."""
    words = printable(column).split("_")
    if broken:
        words = [
            f"{word[: (len(word) + 1) // 2]}-\n{word[(len(word) + 1) // 2 :]}"
            if len(word) > _LONGEST_IN_HEADER
            else word
            for word in words
        ]
    return "\n".join(words)


def _shared(wanted: Mapping[int, int], spare: int) -> dict[int, int]:
    """Distribute spare width as equally as possible, at most what each column wants."""
    given: dict[int, int] = {}
    for place in sorted(wanted, key=lambda place: wanted[place]):
        given[place] = min(wanted[place], spare // (len(wanted) - len(given)))
        spare -= given[place]
    return given


class _Cell:
    """A text that folds between words; a word wider than its column, such as a path, loses its beginning."""

    def __init__(self, text: str, style: str, longest: int) -> None:
        self._text, self._style, self._longest = text, style, longest

    def __rich_console__(self, _console: "Console", options: "ConsoleOptions") -> Iterator["Text"]:
        from rich.text import Text

        words = [_shortened(word, options.max_width) for word in self._text.split(" ")]
        yield Text(" ".join(words), style=self._style, overflow="fold")

    def __rich_measure__(self, console: "Console", options: "ConsoleOptions") -> "Measurement":
        from rich.cells import cell_len
        from rich.measure import Measurement

        del console, options
        whole = cell_len(self._text)
        return Measurement(min(whole, self._longest), whole)


def _shortened(word: str, width: int) -> str:
    """Keep the end of a word that is too wide; for a path, whole folders if they fill at least half of the width.

    Of the path of a crop, keep the end of the file's name, and as much of the box as there is space for: 1.jpg#160,120,320,240.
    """
    from rich.cells import cell_len

    if cell_len(word) <= width:
        return word
    file, crop, box = word.partition(files.CROP)
    if crop and width > _LEAST_NAME + 4:
        most = width - _LEAST_NAME - 1
        box = box if cell_len(box) <= most else f"{box[: most - 1]}…"
        return f"{_shortened(file, width - 1 - cell_len(box))}#{box}"
    # Bisection: measuring a long name once per letter would take seconds
    start = bisect.bisect_left(range(len(word)), True, key=lambda place: cell_len(word[place:]) < width)
    kept = word[start:]
    _, slash, rest = kept.partition("/")
    return f"…{slash}{rest}" if slash and 2 * cell_len(rest) >= width else f"…{kept}"
