"""Tables of other programs: what CSV, JSON Lines, spreadsheets and Windows make of one."""

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
from cnnkit.formats.tables import LABEL_ALIASES, PATH_ALIASES

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
def test_every_spelling_of_a_table_is_read(delimiter, quoting, end, encode, whole):
    """Separators, quotes, encodings and line ends make no difference."""
    text = as_csv(ROWS, delimiter=delimiter, quoting=quoting).replace("\n", end)
    data = "\ufeff".join(["", text]).encode("utf-16-be") if encode == "utf-16-be-mark" else text.encode(encode)
    assert parse(data, whole=whole) == ROWS


@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=4), st.sampled_from(",;|"))
def test_what_pythons_csv_writes_is_read(rows, delimiter):
    """Quotes, separators and line ends within quoted fields come back; backslashes stay, as no file is called so."""
    rows = [{"path": path.replace("\\", "/"), "label": label} for path, label in rows]
    rows = [row for row in rows if [*row.values()] != ["path", "label"]] or ROWS
    assert parse(as_csv(rows, delimiter=delimiter, quoting=csv.QUOTE_ALL)) == rows


@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=4))
def test_what_tsv_writes_is_read(rows):
    """Our own tables come back, escapes, quotes and all, where other programs could have written them, too."""
    found = parse(tsv.render(["path", "label"], rows), folder="/nowhere")
    assert found == [{"path": path, "label": label} for path, label in rows if (path, label) != ("path", "label")]


def test_json_lines_are_read():
    """Numbers, booleans and null become what a table has; further keys do no harm."""
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
    """Case, blanks and the names of other programs are understood; where it is another word, a notice names it."""
    caplog.set_level(logging.INFO, "cnnkit")
    assert parse(f"{header}\na.jpg,cat\n") == [{"path": "a.jpg", "label": "cat"}]
    assert [message.split()[2] for message in caplog.messages] == foreign


def test_our_own_name_wins():
    """A column `class` beside `label` is somebody's own."""
    assert parse("path,label,class,filename\na.jpg,cat,3,x\n") == [
        {"path": "a.jpg", "label": "cat", "class": "3", "filename": "x"}
    ]


def test_rows_of_spreadsheets():
    """Excel's announcement of the separator, blank rows, and columns without a name do no harm, nor does a blank after commas."""
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


def test_tables_that_were_joined():
    """The header row of a second file is no image, a byte order mark before it included."""
    one = "\ufeffpath,label\na.jpg,cat\n"
    assert parse(one + one.replace("a.jpg", "b.jpg")) == [
        {"path": "a.jpg", "label": "cat"},
        {"path": "b.jpg", "label": "cat"},
    ]


def test_a_tab_within_quotes():
    """As pandas writes it with sep="\\t"."""
    assert parse('path\tlabel\n"a\tb.jpg"\tcat\n') == [{"path": "a\tb.jpg", "label": "cat"}]


# ---------------------------------------------------------------- backslashes


def paths(text, **given):
    return [row["path"] for row in parse(text, **given)]


def test_windows_paths_are_read_with_slashes(tmp_path, caplog):
    """Where one backslash is no escape of ours, none is; one notice shows what the file contains."""
    caplog.set_level(logging.INFO, "cnnkit")
    text = "path\tlabel\ntrain\\new\\x.png\tnew\nC:\\red\\1.png\tred\n"
    assert paths(text) == ["train/new/x.png", "C:/red/1.png"]
    assert caplog.messages == [
        r"t.csv: paths with backslashes, as Windows writes them: train\new\x.png is read as train/new/x.png"
    ]
    assert paths("path,label\ntrain\\new\\nina.png,new\n") == ["train/new/nina.png"]


def test_the_file_system_decides_what_could_be_both(tmp_path, caplog):
    """`new\\nina.png` is a file in a folder where there is one, and a name with a line end where there is that, or neither."""
    caplog.set_level(logging.INFO, "cnnkit")
    text = "path\tlabel\nnew\\nina.png\tnew\n"
    assert paths(text, folder=tmp_path) == ["new\nina.png"]
    assert caplog.messages == [
        r"t.csv: new\nina.png is read with tabs or line ends in it; if Windows wrote it, write new/nina.png"
    ]
    (tmp_path / "new").mkdir()
    (tmp_path / "new/nina.png").touch()
    assert paths(text, folder=tmp_path) == ["new/nina.png"]
    (tmp_path / "new\nina.png").touch()
    assert paths(text, folder=tmp_path) == ["new\nina.png"]


def test_without_a_file_line_ends_of_windows_decide():
    """A truth whose images lie elsewhere."""
    assert paths("path\tlabel\r\nnew\\nina.png\tnew\r\n") == ["new/nina.png"]


def test_a_file_with_a_backslash_in_its_name(tmp_path):
    """In a table of another program it is named as it is."""
    (tmp_path / "a\\q.png").touch()
    assert paths("path\na\\q.png\n", folder=tmp_path) == ["a\\q.png"]
    assert paths('{"path": "a\\\\q.png"}', folder=tmp_path) == ["a\\q.png"]
    assert paths('{"path": "b\\\\q.png"}', folder=tmp_path) == ["b\\q.png"]  # our own --json names such files, too


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv: empty; expected a header row with path"),
        ("sep=;\n", "t.csv: the header row lacks path; found "),
        ("id,breed\n1,cat\n", "t.csv: the header row lacks path; found id, breed"),
        ("# mine\npath,label\n", "t.csv: the header row lacks path; found # mine; there are no comments in a table"),
        ("path,path\na,b\n", "t.csv: the header row names path twice"),
        (
            "a.jpg 3\nb.jpg 4\n",
            't.csv: no header row: "a.jpg 3" is a path and something else; a table with labels is what sed ',
        ),
        ("file,image\na,b\n", "t.csv: is file or image the column path? Call the right one path"),
        ("path,label\na.jpg\n", 't.csv:2: 1 fields, but the header row has 2; the line is "a.jpg"'),
        ("path\tlabel\na\tb\tc\n", r't.csv:2: 3 fields, but the header row has 2; the line is "a\tb\tc"'),
        ('path,label\na.jpg,"cat\nb.jpg,dog\n', "t.csv:2: a quote that nothing closes"),
        ('path,label\n"a"b.jpg,cat\n', "t.csv:2: ',' expected after '\"'"),
        ("[1, 2]\n", "t.csv: the header row lacks path"),
        (
            '[{"path": "a"}]\n',
            "t.csv: a JSON array; write one object a line (JSON Lines), as jq -c '.[]' t.csv prints it",
        ),
        ('{"label": "a"}\n', "t.csv:1: expected an object with path; found label"),
        ('{"path": ["a"]}\n', "t.csv:1: path is a list; expected one word"),
        ('{"path": "a\\u0000"}\n', r't.csv:1: path "a\x00" holds what no text and no file name can'),
        ('{"path": "a\\ud800"}\n', r't.csv:1: path "a\ud800" holds what no text and no file name can'),
        ("{" * 100_000, "t.csv:1: no JSON object; expected one a line"),
        ('{"path": ' + "[" * 100_000, "t.csv:1: no JSON object; expected one a line"),
        ("path\0label\n", "t.csv: not text: it holds a NUL byte"),
        ("path,label".encode("utf-16-le"), "t.csv: not text: it holds a NUL byte (UTF-16 without its mark?)"),
        (b"\xff\xfep\0a\0t", "t.csv: not the UTF-16 that it begins as, or cut short"),
        (b"\xff\xd8\xff\xe0rest", "t.csv: a JPEG image, not a table"),
        (b"PK\x03\x04rest", "t.csv: a zip archive or a spreadsheet, not a table"),
    ],
)
def test_what_is_no_table(text, message):
    """The message says what, where, and shows what the file contains."""
    with pytest.raises(FormatError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_a_table_without_a_header_row_is_told_the_remedy(tmp_path, delimiter):
    """The first row is shown, and what the message proposes works."""
    file = tmp_path / "rows.txt"
    file.write_text(f"cat{delimiter}a.jpg{delimiter}3\ndog{delimiter}b.jpg{delimiter}4\n")
    with pytest.raises(FormatError, match=r'no header row: the first line is "cat.{1,2}a\.jpg') as caught:
        list(tables.load(file, required=["path"], aliases=ALIASES))
    command = str(caught.value).split(", as ")[1].removesuffix(" does")
    subprocess.run(command, shell=True, check=True)
    assert list(tables.load(file, required=["path"], aliases=ALIASES)) == [
        {"path": "a.jpg", "label": "cat", "column3": "3"},
        {"path": "b.jpg", "label": "dog", "column3": "4"},
    ]


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_list_of_paths_and_labels_is_told_the_remedy(tmp_path, name):
    """ImageNet's lists: what the message proposes writes a table, whether the images are there or elsewhere."""
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / name
    file.write_text("n01/my cat_1.JPEG 0\nn02/2.JPEG 17\n")
    for there in (False, True):
        with pytest.raises(
            FormatError, match=r'list\.\w+: .*"n01/my cat_1.JPEG 0" is a path and something else'
        ) as caught:
            manifest.load(file)
        if name == "list.txt":
            missing = f"paths are as seen from {file.parent}/, where the list is, and n01/my cat_1.JPEG is not there"
            assert (missing in str(caught.value)) is not there
        command = str(caught.value).split(" is what ")[1].split(" writes")[0]
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
        assert list(tables.load(file.parent / "labels.tsv", required=["path"])) == [
            {"path": "n01/my cat_1.JPEG", "label": "0"},
            {"path": "n02/2.JPEG", "label": "17"},
        ]
        (file.parent / "n01").mkdir(exist_ok=True)
        (file.parent / "n01" / "my cat_1.JPEG").touch()


def test_columns_of_one_name_matter_where_they_are_read(tmp_path):
    """A spreadsheet's two columns `note` are left out; which of two paths or labels counts is not guessed."""
    assert parse("path,note,note,size\na,1,2,3\n") == [{"path": "a", "size": "3"}]
    for text, aliases in (("path,label,label\na,b,c\n", ALIASES), ("path,note,note\na,1,2\n", {"note": ()})):
        file = tmp_path / "t.csv"
        file.write_text(text)
        with pytest.raises(FormatError, match=r"the header row names (label|note) twice"):
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
def test_header_rows_and_paths_are_told_apart(line, header):
    """On standard input, the first line decides."""
    assert tables.is_header(line) is header


def test_rows_are_read_as_they_are_asked_for():
    """The first row is there before a broken one further down is met, and before there is one."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as lines, os.fdopen(writing, "wb", buffering=0) as file:
        rows = tables.parse(lines, name="x", required=["path"])
        file.write(b"path,label\na.jpg,cat\n")
        assert next(rows) == {"path": "a.jpg", "label": "cat"}
        file.write(b"b.jpg\n")
        with pytest.raises(FormatError, match="x:3"):
            next(rows)
