"""Tab-separated text that can hold any file name."""

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnkit.errors import FormatError
from cnnkit.formats import tsv

# Every possible file name: any bytes except NUL, which Python decodes with surrogates if they are not UTF-8
NAMES = st.binary(max_size=20).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"0"))) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)
COLUMNS = st.lists(st.text("abcdefgh", min_size=1), min_size=2, max_size=4, unique=True)


def parse(text, required=()):
    return list(tsv.parse(text.splitlines(keepends=True), name="some.tsv", required=required))


@given(NAMES)
def test_escape_round_trip(field):
    """Any field is restored, and an escaped field is never two fields or two lines."""
    escaped = tsv.escape(field)
    assert tsv.unescape(escaped) == field
    assert not set("\t\n\r") & set(escaped)


@given(COLUMNS, st.data())
def test_render_round_trip(columns, data):
    """Rows are read as mappings, with any fields; None is read as an empty field."""
    rows = data.draw(st.lists(st.lists(NAMES | st.none(), min_size=len(columns), max_size=len(columns)), max_size=6))
    rendered = tsv.render(columns, rows)
    lines = rendered.split(b"\n")
    found = list(tsv.parse((line + b"\n" for line in lines), name="x", required=columns))
    assert found == [dict(zip(columns, (field or "" for field in row), strict=True)) for row in rows]


@pytest.mark.parametrize(
    ("field", "written"),
    [
        ("plain", "plain"),
        ("a\tb", r"a\tb"),
        ("a\nb\r", r"a\nb\r"),
        ("C:\\new", r"C:\\new"),
        ("\\t", r"\\t"),
        ('"q" #', '"q" #'),
        ('"q"', '\\"q"'),
    ],
)
def test_escaped_characters(field, written):
    """Four characters, and quotes around a whole field."""
    assert tsv.escape(field) == written


@pytest.mark.parametrize(
    ("written", "field"), [(r"a\qb", r"a\qb"), ("end\\", "end\\"), (r"\\n", r"\n"), (r"\\\n", "\\\n")]
)
def test_other_backslashes_are_kept(written, field):
    """As in text written by hand."""
    assert tsv.unescape(written) == field


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_reads_files_of_spreadsheets_and_editors(mark, end, last):
    """With a byte order mark, Windows line ends, empty lines and a last line without its end."""
    text = mark + end.join([b"path\tlabel", b"", b"a.jpg\tcat", b"b.jpg\t"]) + (end if last else b"")
    assert parse(text) == [{"path": "a.jpg", "label": "cat"}, {"path": "b.jpg", "label": ""}]


def test_unix_tools_find_the_same_fields():
    """`cut` and `wc` count the fields and lines that were written."""
    rendered = tsv.render(["path", "label"], [("a\tb\nc", "cat"), (os.fsdecode(b"\xff"), "dog")])
    cut = subprocess.run(["cut", "-f", "2"], input=rendered, capture_output=True, check=True)
    assert cut.stdout == b"label\ncat\ndog\n"
    assert rendered.count(b"\n") == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "some.tsv: empty; expected a header row with path"),
        (b"\n\n", "some.tsv: empty; expected a header row with path"),
        (b"file\tlabel\na\tb\n", "some.tsv: the header row lacks path; found file, label"),
        (b"path\tlabel\na\tb\nc\n", "some.tsv:3: 1 fields, but the header row has 2"),
        (b"path\tlabel\na\tb\tc\n", "some.tsv:2: 3 fields, but the header row has 2"),
        (b"path\tlabel\tpath\na\tb\tc\n", "some.tsv: the header row has path twice"),
    ],
)
def test_rejects_other_text(text, message):
    """The error names the file, the line, what was found and what was expected."""
    with pytest.raises(FormatError) as caught:
        parse(text, ["path"])
    assert str(caught.value) == message


def test_rows_are_read_lazily():
    """The first row is returned before a broken one is read."""
    rows = tsv.parse(iter([b"path\n", b"a\n", b"b\tc\n"]), name="x", required=["path"])
    assert next(rows) == {"path": "a"}
    with pytest.raises(FormatError, match="x:3"):
        next(rows)


def test_writer_gives_the_same_bytes(tmp_path):
    """As `save` and `render`; `load` reads them."""
    rows = [["a\tb.jpg", None, "ü"], ["\udcff.jpg", "cat", ""]]
    columns = ["path", "label", "split"]
    tsv.save(tmp_path / "whole.tsv", columns, rows)
    with tsv.Writer(tmp_path / "rows.tsv", columns) as file:
        for row in rows:
            file.write(row)
    assert (tmp_path / "whole.tsv").read_bytes() == (tmp_path / "rows.tsv").read_bytes() == tsv.render(columns, rows)
    found = list(tsv.load(tmp_path / "rows.tsv", required=["path"]))
    assert found == [dict(zip(columns, [field or "" for field in row], strict=True)) for row in rows]
    with pytest.raises(FormatError, match=r"rows\.tsv: the header row lacks source"):
        list(tsv.load(tmp_path / "rows.tsv", required=["source"]))
