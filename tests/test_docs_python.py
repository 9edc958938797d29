"""The examples of docs/python.md run, and print what stands below them.

`python tests/test_docs_python.py FOLDER` runs them in the folder that has `quickstart/`, and writes their output into the page.
"""

import contextlib
import dataclasses
import io
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

import cnnkit

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCK = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
FIGURE = re.compile(r"\d+\.\d+")


def examples():
    """List the examples of the page: program and output."""
    return BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def printed_by(program):
    """Run a program by itself in the current folder."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(program, str(PAGE), "exec"), {"__name__": "example"})
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(quickstart, tmp_path_factory):
    place = tmp_path_factory.mktemp("python")
    shutil.copytree(quickstart, place / "quickstart")
    return place


@pytest.mark.slow
@pytest.mark.parametrize(("program", "output"), examples(), ids=lambda text: " ".join(text.split()[:4]))
def test_an_example_prints_what_the_page_shows(program, output, folder, monkeypatch):
    """Words exactly, probabilities closely: other processors round otherwise, and a training amplifies it."""
    monkeypatch.chdir(folder)
    found = printed_by(program)
    assert FIGURE.sub("#", found) == FIGURE.sub("#", output)
    figures = ([float(figure) for figure in FIGURE.findall(text)] for text in (found, output))
    assert next(figures) == pytest.approx(next(figures), abs=0.03)


def test_every_program_of_the_page_has_its_output():
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("```python\n") == len(examples()) >= 7
    assert text.count("\n") <= 210


def test_every_public_name_stands_in_the_page():
    """Functions and classes that are called stand in it by name; classes of results need not."""
    text = PAGE.read_text(encoding="utf-8")
    results = {name for name in cnnkit.__all__ if dataclasses.is_dataclass(getattr(cnnkit, name))}
    for name in {*cnnkit.__all__} - results - {"__version__", "GateError"}:
        assert f"`{name}`" in text, name


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        BLOCK.sub(lambda block: f"```python\n{block[1]}```\n\n```text\n{printed_by(block[1])}```", page),
        encoding="utf-8",
    )
