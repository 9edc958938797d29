"""Tables of other programs: CSV, JSON Lines, spreadsheets and Windows."""

import csv
import io
import json
import logging
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnkit.errors import FormatError
from cnnkit.formats import manifest, tables, tsv
from cnnkit.formats.table_columns import LABEL_ALIASES, PATH_ALIASES

ALIASES = {"path": PATH_ALIASES, "label": LABEL_ALIASES}
ROWS = [{"path": "red/tom, 0.png", "label": "red"}, {"path": "new/nina; 1.png", "label": "new"}]
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff\r"), max_size=8)


def parse(text, *, required=("path",), folder="/nowhere", whole=True):
    data = text if isinstance(text, bytes) else text.encode()
    lines = data.splitlines(keepends=True) if whole else io.BytesIO(data)
    return list(tables.parse(lines, name="t.csv", required=required, aliases=ALIASES, folder=folder))


def as_csv(rows, **dialect):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", **dialect)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return text.getvalue()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("encode", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-mark", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_separators_quotes_encodings_and_line_ends(delimiter, quoting, end, encode, whole):
    """All combinations give the same rows."""
    text = as_csv(ROWS, delimiter=delimiter, quoting=quoting).replace("\n", end)
    data = "\ufeff".join(["", text]).encode("utf-16-be") if encode == "utf-16-be-mark" else text.encode(encode)
    assert parse(data, whole=whole) == ROWS


@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=4), st.sampled_from(",;|"))
def test_reads_output_of_the_csv_module(rows, delimiter):
    """Including quotes, separators and line ends in quoted fields."""
    rows = [{"path": path.replace("\\", "/"), "label": label} for path, label in rows]
    rows = [row for row in rows if [*row.values()] != ["path", "label"]] or ROWS
    assert parse(as_csv(rows, delimiter=delimiter, quoting=csv.QUOTE_ALL)) == rows


@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=4))
def test_reads_output_of_tsv(rows):
    """cnnkit's own tables are preserved, including escapes and quotes."""
    found = parse(tsv.render(["path", "label"], rows), folder="/nowhere")
    assert found == [{"path": path, "label": label} for path, label in rows if (path, label) != ("path", "label")]


def test_json_lines_are_read():
    """Numbers, booleans and null become text; further keys are ignored."""
    lines = [
        {"file_name": "a.jpg", "label": 3, "box": [1, 2]},
        {"label": True, "file_name": "b.jpg"},
        {"path": "c.jpg"},
    ]
    text = "\n\n".join(json.dumps(line) for line in lines)
    found = [{column: row[column] for column in ("path", "label") if column in row} for row in parse(text)]
    assert found == [{"path": "a.jpg", "label": "3"}, {"path": "b.jpg", "label": "true"}, {"path": "c.jpg"}]


@pytest.mark.parametrize(
    ("header", "foreign"),
    [
        ("Path,Label", []),
        (" path , label ", []),
        ("PATH,class", ["class"]),
        ("Filename,Category", ["Filename", "Category"]),
        ('"file_name","class_name"', ["file_name", "class_name"]),
    ],
)
def test_columns_by_other_names(header, foreign, caplog):
    """Regardless of case and spaces, and by the names of other programs, with a notice."""
    caplog.set_level(logging.INFO, "cnnkit")
    assert parse(f"{header}\na.jpg,cat\n") == [{"path": "a.jpg", "label": "cat"}]
    assert [message.split()[2] for message in caplog.messages] == foreign


def test_own_column_names_take_precedence():
    """A column `class` next to `label` is kept as it is."""
    assert parse("path,label,class,filename\na.jpg,cat,3,x\n") == [
        {"path": "a.jpg", "label": "cat", "class": "3", "filename": "x"}
    ]


def test_tables_of_spreadsheets():
    """Excel's line with the separator, blank rows, columns without a name, and spaces after commas are ignored."""
    assert parse('sep=;\r\npath;label;;\r\na.jpg;cat;;\r\n;;;\r\n"b; 1.jpg";dog;;\r\n') == [
        {"path": "a.jpg", "label": "cat"},
        {"path": "b; 1.jpg", "label": "dog"},
    ]
    assert parse('path, label\n"a, 1.jpg", "cat"\nb.jpg, dog\n') == [
        {"path": "a, 1.jpg", "label": "cat"},
        {"path": "b.jpg", "label": "dog"},
    ]
    assert parse(",path,label\n0,a.jpg,cat\n") == [{"path": "a.jpg", "label": "cat"}]  # the index that pandas writes
    assert parse("path\tlabel\t\na.jpg\tcat\t\t\n") == [{"path": "a.jpg", "label": "cat"}]


def test_joined_tables():
    """The header row of a second file is ignored, also with a byte order mark."""
    one = "\ufeffpath,label\na.jpg,cat\n"
    assert parse(one + one.replace("a.jpg", "b.jpg")) == [
        {"path": "a.jpg", "label": "cat"},
        {"path": "b.jpg", "label": "cat"},
    ]


def test_tab_within_quotes():
    """As written by pandas with sep="\\t"."""
    assert parse('path\tlabel\n"a\tb.jpg"\tcat\n') == [{"path": "a\tb.jpg", "label": "cat"}]


# ---------------------------------------------------------------- backslashes


def paths(text, **given):
    return [row["path"] for row in parse(text, **given)]


def test_windows_paths_are_read_with_slashes(tmp_path, caplog):
    """If one backslash is not an escape of cnnkit's TSV, none is; a single notice gives an example."""
    caplog.set_level(logging.INFO, "cnnkit")
    text = "path\tlabel\ntrain\\new\\x.png\tnew\nC:\\red\\1.png\tred\n"
    assert paths(text) == ["train/new/x.png", "C:/red/1.png"]
    assert caplog.messages == [r"t.csv: Windows paths: train\new\x.png is read as train/new/x.png"]
    assert paths("path,label\ntrain\\new\\nina.png,new\n") == ["train/new/nina.png"]


def test_existing_files_decide_ambiguous_paths(tmp_path, caplog):
    """`new\\nina.png` is a file in a folder if that exists, otherwise a name with a line end."""
    caplog.set_level(logging.INFO, "cnnkit")
    text = "path\tlabel\nnew\\nina.png\tnew\n"
    assert paths(text, folder=tmp_path) == ["new\nina.png"]
    assert caplog.messages == [
        r"t.csv: new\nina.png is read with tabs or line ends; if it is a Windows path, write new/nina.png"
    ]
    (tmp_path / "new").mkdir()
    (tmp_path / "new/nina.png").touch()
    assert paths(text, folder=tmp_path) == ["new/nina.png"]
    (tmp_path / "new\nina.png").touch()
    assert paths(text, folder=tmp_path) == ["new\nina.png"]


def test_windows_line_ends_decide_without_files():
    """As in a table of the truth whose images are elsewhere."""
    assert paths("path\tlabel\r\nnew\\nina.png\tnew\r\n") == ["new/nina.png"]


def test_file_with_a_backslash_in_its_name(tmp_path):
    """In a table of another program it is not escaped."""
    (tmp_path / "a\\q.png").touch()
    assert paths("path\na\\q.png\n", folder=tmp_path) == ["a\\q.png"]
    assert paths('{"path": "a\\\\q.png"}', folder=tmp_path) == ["a\\q.png"]
    assert paths('{"path": "b\\\\q.png"}', folder=tmp_path) == ["b\\q.png"]  # cnnkit's --json also writes such names


# ---------------------------------------------------------------- refused tables


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv: empty; expected a header row with path"),
        ("sep=;\n", "t.csv: the header row lacks path; found "),
        ("id,breed\n1,cat\n", "t.csv: the header row lacks path; found id, breed"),
        ("# mine\npath,label\n", "t.csv: the header row lacks path; found # mine; tables have no comments"),
        ("path,path\na,b\n", "t.csv: the header row has path twice"),
        (
            "a.jpg 3\nb.jpg 4\n",
            't.csv: no header row: "a.jpg 3" has more than a path; to make a table with labels: sed ',
        ),
        ("file,image\na,b\n", "t.csv: is file or image the column path? Rename the right one to path"),
        ("path,label\na.jpg\n", 't.csv:2: 1 fields, but the header row has 2; the line is "a.jpg"'),
        ("path\tlabel\na\tb\tc\n", r't.csv:2: 3 fields, but the header row has 2; the line is "a\tb\tc"'),
        ('path,label\na.jpg,"cat\nb.jpg,dog\n', "t.csv:2: an unclosed quote"),
        ('path,label\n"a"b.jpg,cat\n', "t.csv:2: ',' expected after '\"'"),
        ("[1, 2]\n", "t.csv: the header row lacks path"),
        (
            '[{"path": "a"}]\n',
            "t.csv: a JSON array; convert it to one object per line (JSON Lines): jq -c '.[]' t.csv",
        ),
        ('{"label": "a"}\n', "t.csv:1: expected an object with path; found label"),
        ('{"path": ["a"]}\n', "t.csv:1: path is a list; expected one word"),
        (
            '{"path": "a\\u0000"}\n',
            r't.csv:1: path "a\x00" contains characters that cannot be in a text or a file name',
        ),
        (
            '{"path": "a\\ud800"}\n',
            r't.csv:1: path "a\ud800" contains characters that cannot be in a text or a file name',
        ),
        ("{" * 100_000, "t.csv:1: not a JSON object; expected one per line"),
        ('{"path": ' + "[" * 100_000, "t.csv:1: not a JSON object; expected one per line"),
        ("path\0label\n", "t.csv: not text: it contains a NUL byte"),
        (
            "path,label".encode("utf-16-le"),
            "t.csv: not text: it contains a NUL byte (UTF-16 without a byte order mark?)",
        ),
        (b"\xff\xfep\0a\0t", "t.csv: starts as UTF-16 but is not, or is truncated"),
        (b"\xff\xd8\xff\xe0rest", "t.csv: a JPEG image, not a table"),
        (b"PK\x03\x04rest", "t.csv: a zip archive or a spreadsheet, not a table"),
    ],
)
def test_rejects_other_files(text, message):
    """The message says what is wrong and where, and shows the content."""
    with pytest.raises(FormatError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_missing_header_row(tmp_path, delimiter):
    """The message shows the first row, and its remedy works."""
    file = tmp_path / "rows.txt"
    file.write_text(f"cat{delimiter}a.jpg{delimiter}3\ndog{delimiter}b.jpg{delimiter}4\n")
    with pytest.raises(FormatError, match=r'no header row: the first line is "cat.{1,2}a\.jpg') as caught:
        list(tables.load(file, required=["path"], aliases=ALIASES))
    command = str(caught.value).split("; add one: ")[1]
    subprocess.run(command, shell=True, check=True)
    assert list(tables.load(file, required=["path"], aliases=ALIASES)) == [
        {"path": "a.jpg", "label": "cat", "column3": "3"},
        {"path": "b.jpg", "label": "dog", "column3": "4"},
    ]


@pytest.mark.parametrize("split", ["train", "dev", "holdout"])
def test_missing_header_row_with_a_split(tmp_path, split):
    (tmp_path / "rows.tsv").write_text(f"a.png\t{split}\tcat\n")
    with pytest.raises(FormatError, match=r"'1i path\\tsplit\\tlabel'"):
        list(tables.load(tmp_path / "rows.tsv", required=["path"], aliases=ALIASES))


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_list_of_paths_and_labels(tmp_path, name):
    """As in ImageNet's lists: the remedy in the message writes a table, whether the images exist or not."""
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / name
    file.write_text("n01/my cat_1.JPEG 0\nn02/2.JPEG 17\n")
    for there in (False, True):
        with pytest.raises(FormatError, match=r'list\.\w+: .*"n01/my cat_1.JPEG 0" has more than a path') as caught:
            manifest.load(file)
        if name == "list.txt":
            missing = f"paths are relative to {file.parent}/, where the list is, and n01/my cat_1.JPEG is not there"
            assert (missing in str(caught.value)) is not there
        command = str(caught.value).split("a table with labels: ")[1].split("; paths are")[0]
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
        assert list(tables.load(file.parent / "labels.tsv", required=["path"])) == [
            {"path": "n01/my cat_1.JPEG", "label": "0"},
            {"path": "n02/2.JPEG", "label": "17"},
        ]
        (file.parent / "n01").mkdir(exist_ok=True)
        (file.parent / "n01" / "my cat_1.JPEG").touch()


def test_duplicate_columns(tmp_path):
    """A spreadsheet's two columns `note` are ignored; two columns for paths or labels are an error."""
    assert parse("path,note,note,size\na,1,2,3\n") == [{"path": "a", "size": "3"}]
    for text, aliases in (("path,label,label\na,b,c\n", ALIASES), ("path,note,note\na,1,2\n", {"note": ()})):
        file = tmp_path / "t.csv"
        file.write_text(text)
        with pytest.raises(FormatError, match=r"the header row has (label|note) twice"):
            list(tables.load(file, required=["path"], aliases=aliases))


@pytest.mark.parametrize(
    ("line", "header"),
    [
        (b"path\tlabel\n", True),
        (b"\xef\xbb\xbfPath\r\n", True),
        (b"image,label\n", True),
        ("path\tlabel\n".encode("utf-16"), True),
        (b'{"path": "a.jpg"}\n', True),
        (b"sep=;\n", True),
        (b"./path\n", False),
        (b"file,image.jpg\n", False),
        (b"image\n", False),
        (b"{a}.jpg\n", False),
        (b"\xff.jpg\n", False),
        (b"a\tb.jpg\n", False),
    ],
)
def test_is_header(line, header):
    """On standard input, the first line decides between a table and a list."""
    assert tables.is_header(line) is header


def test_rows_are_read_lazily():
    """The first row is returned before the next one is written."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as lines, os.fdopen(writing, "wb", buffering=0) as file:
        rows = tables.parse(lines, name="x", required=["path"])
        file.write(b"path,label\na.jpg,cat\n")
        assert next(rows) == {"path": "a.jpg", "label": "cat"}
        file.write(b"b.jpg\n")
        with pytest.raises(FormatError, match="x:3"):
            next(rows)
