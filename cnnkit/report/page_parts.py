"""Parts of the page that several sections have: sections, tables and numbers."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from cnnkit.report.markup import Content, element


def section(anchor: str, title: str, *inner: Content) -> Element:
    """Make a section with its title; the contents of the page link to its `anchor`."""
    return element("section", {"id": anchor}, element("h2", {}, title), inner)


def table(
    heads: Sequence[Content | tuple[Content, str]], rows: Sequence[Element], *, caption: Content = None, kind: str = ""
) -> Element:
    """Make a table that scrolls within the page where it is too wide; a head with a class is a pair."""
    row = [
        element("th", {"scope": "col", "class": head[1]}, head[0])
        if isinstance(head, tuple)
        else element("th", {"scope": "col"}, head)
        for head in heads
    ]
    return element(
        "div",
        {"class": "scroll"},
        element(
            "table",
            {"class": kind or None},
            element("caption", {}, caption) if caption else None,
            element("thead", {}, element("tr", {}, row)) if heads else None,
            element("tbody", {}, rows),
        ),
    )


def tile(title: str, value: str, note: Content = None, *, drawn: Content = None, kind: str = "") -> Element:
    """Make a tile at the head of the page: a measure, its value, and a note."""
    small = element("small", {}, note) if note else None
    return element(
        "div",
        {"class": f"tile {kind}".strip()},
        element("dt", {}, title),
        element("dd", {}, value, drawn, small),
    )


def bar(value: float | None) -> Element:
    """Draw a share as a bar in a cell of a table; narrow screens leave it out."""
    length = "width: 0" if value is None else f"width: {100 * value:.1f}%"
    return element(
        "td",
        {"class": "optional", "aria-hidden": "true"},
        element("span", {"class": "share"}, element("i", {"style": length})),
    )


def share(value: float | None) -> str:
    """Write a share with three digits; a dash if it is unknown."""
    return "–" if value is None else f"{value:.3f}"


def measure(value: float | None) -> str:
    """Write a measure with four digits; a dash if it is unknown."""
    return "–" if value is None else f"{value:.4f}"


def percent(value: float) -> str:
    """Write a share in percent."""
    return f"{100 * value:.1f} %"
