"""Lines of braille dots, two by four to a letter: a drawing for terminals, with a style for every letter."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

#: Text and its style, as rich understands it: "cyan", "bold", or nothing.
Span = tuple[str, str]
#: x from the left, y from the top.
Dot = tuple[int, int]

#: Unicode's order of the dots in a letter, by row and column.
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800
#: A dashed line keeps this many dots of so many.
_DASH, _PERIOD = 1, 3


class Canvas:
    """A field of letters to draw on; what is drawn later gives a letter its style."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.width, self.height = 2 * columns, 4 * rows  # in dots
        self._bits = [[0] * columns for _ in range(rows)]
        self._faint = [[0] * columns for _ in range(rows)]
        self._letters: dict[tuple[int, int], str] = {}
        self._styles: dict[tuple[int, int], str] = {}

    def dot(self, x: int, y: int, style: str) -> None:
        """Set a dot; x from the left, y from the top."""
        row, column = y // 4, x // 2
        self._bits[row][column] |= _BITS[y % 4][x % 2]
        self._styles[row, column] = style

    def faint_dot(self, x: int, y: int) -> None:
        """Set a dot that is seen only in letters where nothing else is drawn."""
        self._faint[y // 4][x // 2] |= _BITS[y % 4][x % 2]

    def line(self, points: Sequence[Dot], style: str, *, dashed: bool = False) -> None:
        """Join points with straight lines; the dashes run on from one to the next."""
        for place, (x, y) in enumerate(_path(points)):
            if not dashed or place % _PERIOD < _DASH:
                self.dot(x, y, style)

    def letter(self, column: int, row: int, letter: str, style: str) -> None:
        """Put a letter in place of dots."""
        self._letters[row, column], self._styles[row, column] = letter, style

    def is_free(self, column: int, row: int) -> bool:
        """Say whether nothing is drawn there."""
        return not self._bits[row][column] and (row, column) not in self._letters

    def lines(self) -> list[list[Span]]:
        """Give the rows from the top, each as wide as the canvas."""
        return [_joined(self._cell(column, row) for column in range(self.columns)) for row in range(self.rows)]

    def _cell(self, column: int, row: int) -> Span:
        bits, faint = self._bits[row][column], self._faint[row][column]
        drawn = self._letters.get((row, column)) or (chr(_BLANK + bits) if bits else "")
        if drawn:
            return drawn, self._styles[row, column]
        return (chr(_BLANK + faint), "dim") if faint else (" ", "")


def _path(points: Sequence[Dot]) -> Iterable[Dot]:
    """Give every dot on the way along points, once."""
    yield from points[:1]
    for (x, y), (to_x, to_y) in pairwise(points):
        steps = max(abs(to_x - x), abs(to_y - y))
        for step in range(1, steps + 1):
            yield x + round((to_x - x) * step / steps), y + round((to_y - y) * step / steps)


def _joined(letters: Iterable[Span]) -> list[Span]:
    """Join neighbours of one style."""
    spans: list[Span] = []
    for letter, style in letters:
        if spans and spans[-1][1] == style:
            spans[-1] = (spans[-1][0] + letter, style)
        else:
            spans.append((letter, style))
    return spans
