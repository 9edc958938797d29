"""Tables read column by column: the rows, notices and errors are those of reading row by row."""

import logging

import pytest

from cnnkit.errors import FormatError
from cnnkit.formats import delimited, tables

#: Lines of odd tables, in blocks of two lines after the header row.
TABLES = {
    "plain": b"path\tlabel\na\tx\nb\ty\nc\tz\n",
    "without a last line end": b"path\tlabel\na\tx\nb\ty\nc\tz",
    "CR LF": b"path\tlabel\r\na\tx\r\nb\ty\r\nc\tz\r\n",
    "mixed line ends": b"path\tlabel\na\tx\r\nb\ty\nc\tz\rd\tw\ne\tv\n",
    "blank lines": b"\n\npath\tlabel\n\na\tx\n\t\n\nb\ty\nc\tz\nd\tw\n",
    "header again": b"path\tlabel\na\tx\nb\ty\npath\tlabel\n\xef\xbb\xbfpath\tlabel\nc\tz\nd\tw\n",
    "quotes in one block": b'path\tlabel\na\tx\nb\ty\n"c d"\tz\ne\t"f""g"\nh\tx\ni\ty\n',
    "an unclosed quote and a short row": b'path\tlabel\na\tx\nb\ty\nc\t"z\nd\tw\ne\tv\nf\n',
    "escapes": b"path\tlabel\na\tx\nb\ty\nc\\td\tz\ne\\\\f\tw\ng\tv\n",
    "a backslash that is no escape": b"path\tlabel\na\tx\nb\ty\nc\\x\tz\nd\\new\tw\ne\tv\nf\\train\tu\n",
    "Windows paths": b"path\tlabel\r\na\tx\r\nb\ty\r\nc\\train\\1.jpg\tz\r\nd\tw\r\n",
    "too many fields": b"path\tlabel\na\tx\nb\ty\nc\tz\nd\tw\nsay\tv\tu\n",
    "too many fields in the first row": b"path\tlabel\n1\ta\tx\nb\ty\nc\tz\n",
    "empty fields at the end": b"path\tlabel\na\tx\t\nb\ty\t\t\nc\tz\n",
    "spaces around paths": b"path\tlabel\na\tx\n b\ty\nc \tz\nd\tw\n",
    "NUL": b"path\tlabel\na\tx\nb\ty\nc\tz\nd\tw\0\ne\tv\n",
    "not UTF-8": b"path\tlabel\n\xe4\tx\nb\t\xfc\nc\tz\n",
    "separators of Unicode": "path\tlabel\na\u2028b\tx\nc\u0085d\ty\n\u00a0e\tz\nf\tw\n".encode(),
    "UTF-16": "path\tlabel\na\tx\nb\ty\nc\tz\n".encode("utf-16"),
    "a mark of UTF-8": b"\xef\xbb\xbfpath\tlabel\na\tx\nb\ty\n",
    "a header of quotes": b'"path"\t"label"\na\tx\n"b"\ty\nc\tz\n',
    "columns of the same name": b"path\tnote\tnote\na\tx\ty\nb\tz\tw\n",
    "other names": b"file\tClass\tmore\na\tx\t1\nb\ty\t2\n",
    "one column": b"path\na\nb\n\nc\nd\n",
    "a list": b"a/1.jpg\nb/2.jpg\n",
    "no column path": b"name\tlabel\na\tx\n",
    "commas": b"path,label\na,x\nb,y\nc,z\n",
    "commas and CR LF": b"path,label\r\na,x\r\nb,y\r\nc,z\r\n",
    "a line end in quotes": b'path,label\na,x\nb,y\n"c\nd\ne\nf",z\ng,w\nh,v\n',
    "quotes never closed": b'path,label\na,x\nb,y\nc,"z\nd,w\ne,v\n',
    "spaces after commas": b"path, label\na, x\nb, y\nc, z\n",
    "backslashes between commas": b"path,label\na,x\nb,y\nc\\d,z\ne,w\n",
    "fewer commas": b"path,label\na,x\nb,y\nc\nd,w\n",
    "Excel's separator": b"sep=;\npath;label\na;x\nb;y\n",
    "JSON Lines": b'{"path": "a", "label": "x"}\n{"label": "y", "path": "b"}\n{"path": "c", "label": "z", "rank": 1}\n',
    "JSON Lines, broken": b'{"path": "a", "label": "x"}\n{"path": "b", "label": "y"}\n{"path": "c"\n',
    "empty": b"",
    "blank": b"\n \n",
}


def outcome(rows, caplog):
    """Return the rows before an error, the error, and the notices."""
    caplog.clear()
    found, error = [], None
    try:
        found.extend(rows())
    except FormatError as raised:
        error = str(raised)
    return found, error, [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_rows_are_those_of_parse(content, listed, caplog, monkeypatch, tmp_path):
    """Whatever the lines are, as a list, which is searched for backslashes first, or not."""
    monkeypatch.setattr(tables, "_BLOCK", 2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c").touch()
    caplog.set_level(logging.INFO, logger="cnnkit")
    words = {"name": "t.tsv", "required": ["path"], "aliases": {"path": ("file",), "label": ("class",)}}
    lines = content.split(b"\n")
    lines = [line + b"\n" for line in lines[:-1]] + [line for line in lines[-1:] if line]

    def one_by_one():
        yield from tables.parse(lines if listed else iter(lines), **words)

    def by_column():
        for block in tables.columns(lines if listed else iter(lines), **words):
            assert len({len(column) for column in block.values()}) == 1
            for fields in zip(*block.values(), strict=True):
                yield dict(zip(block, fields, strict=True))

    assert outcome(by_column, caplog) == outcome(one_by_one, caplog)


def test_plain_lines_are_split_at_once():
    """Without the fallback to single rows, which gives the same but takes longer."""
    assert delimited.columns([b"a\tx\r\n", b"b\t\r\n"], "\t", 2) == [["a", "b"], ["x", ""]]
    assert delimited.columns([b'a\t"x"\n'], "\t", 2) is None
