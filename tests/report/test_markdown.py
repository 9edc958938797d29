"""The summary in Markdown, as GitHub reads it: with the parser that rich uses."""

import pytest
from markdown_it import MarkdownIt

from cnnkit.report import markdown

NAMES = ["cat", "a|b", "`tick`", "``", "<b>", "@user", "#1", "*x*", "[a](b)", " space ", "a\nb", "x" * 300, "C:\\dir\\"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_read_as_code(name):
    """In a table: one cell, whose text is the name, without markup, mentions or line ends."""
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(markdown.table(["class", "images"], [[markdown.code(name), "1"]]))
    cells = [token for token in tokens if token.type == "inline"][2:]
    assert [len(cell.children) for cell in cells] == [1, 1]
    assert cells[0].children[0].type == "code_inline"
    shown = name.replace("\n", "\\n")
    assert cells[0].children[0].content == (shown if len(name) < 60 else f"{'x' * 59}…")
    assert cells[1].content == "1"
