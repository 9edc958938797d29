"""The summary in Markdown, as GitHub reads it: with the parser that rich uses."""

import pytest
from markdown_it import MarkdownIt

from cnnkit.report import markdown

NAMES = [
    "cat",
    "x",
    "a|b",
    "`tick`",
    "tick`",
    "``",
    "<b>",
    "@user",
    "#1",
    "*x*",
    "[a](b)",
    " space ",
    "a\nb",
    "x" * 300,
    "C:\\dir\\",
]


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


def test_names_without_letters_are_code_too():
    assert markdown.code("") == markdown.code(" ") == "` `"


def test_withheld_predictions_are_counted(run, tmp_path, monkeypatch):
    """Predictions `?` count as not correct; the first line says how many there are."""
    monkeypatch.chdir(tmp_path)
    rows = "cat/1.jpg\tcat\t0.9\ncat/2.jpg\t?\t0.5\ndog/1.jpg\tcat\t0.9\ndog/2.jpg\tdog\t0.9\n"
    (tmp_path / "test.tsv").write_text(f"path\tlabel\tprobability\n{rows}")
    assert "4 images, 1 wrong, 1 withheld." in run("cnn-report", "test.tsv", "--markdown", "-").out
