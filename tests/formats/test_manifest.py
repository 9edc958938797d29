"""The manifest of images."""

import hashlib
import logging
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnkit.errors import FormatError
from cnnkit.formats import manifest
from cnnkit.formats.manifest import ManifestRow

CASES = Path(os.environ.get("CNNKIT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")).parent / "cases"
NAMES = st.binary(min_size=1, max_size=12).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"0")))
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
ROWS = st.builds(ManifestRow, NAMES, *[st.none() | WORDS] * 3)


@given(st.lists(ROWS, max_size=8))
def test_round_trip(tmp_path_factory, rows):
    """For names of any bytes."""
    path = tmp_path_factory.getbasetemp() / "rows.tsv"
    manifest.save(path, rows)
    assert manifest.load(path) == rows


def test_only_the_path_is_required(tmp_path):
    """Other columns may be missing, empty, in any order, or unknown."""
    path = tmp_path / "rows.tsv"
    path.write_text("weight\tlabel\tpath\n3\tcat\ta.jpg\n1\t\tb.jpg\n")
    assert manifest.load(path) == [ManifestRow("a.jpg", "cat"), ManifestRow("b.jpg")]
    path.write_text("path\nb.jpg\n")
    assert manifest.load(path) == [ManifestRow("b.jpg")]


def test_render():
    """The text follows the description of the format, with the requested columns."""
    rows = [ManifestRow("cats/1.jpg", "cat", "train", "litter-7"), ManifestRow("x\ty.jpg")]
    assert manifest.render(rows) == b"path\tlabel\tsplit\tgroup\ncats/1.jpg\tcat\ttrain\tlitter-7\nx\\ty.jpg\t\t\t\n"
    assert manifest.render(rows, columns=("path", "label")) == b"path\tlabel\ncats/1.jpg\tcat\nx\\ty.jpg\t\n"


@pytest.mark.parametrize("views", [None, True])
def test_hash_of_the_content(tmp_path, views):
    """In a column named after its function, in any case; a field that is not such a hash is as good as empty."""
    digest = hashlib.sha256(b"1").digest()
    path = tmp_path / "rows.tsv"
    for column, fields in {
        "sha256": [digest.hex(), digest.hex().upper(), "", "1f", "no hash", digest.hex()[:-1] + "g"],
        "md5": [digest.hex()[:32], digest.hex()],
    }.items():
        path.write_text(
            f"path\t{column}\n" + "".join(f"{number}.jpg\t{field}\n" for number, field in enumerate(fields))
        )
        known = [row.digest for row in manifest.load(path, views=views)]
        if column == "md5":
            assert known == [digest[:16], None]
        else:
            assert known == [digest, digest, None, None, None, None]
    both = [ManifestRow("a.jpg", digest=digest), ManifestRow("b.jpg", digest=digest[:16])]
    assert manifest.columns(both) == ("path", "label", "split", "sha256", "md5")
    assert manifest.render(both, columns=("path", "sha256", "md5")) == (
        f"path\tsha256\tmd5\na.jpg\t{digest.hex()}\t\nb.jpg\t\t{digest.hex()[:32]}\n".encode()
    )
    path.write_text(f"path\tmd5\tSHA256\na.jpg\t{'0' * 32}\t{digest.hex()}\n")
    assert manifest.load(path, views=views)[0].digest == digest  # of several columns, the strongest


def test_group_column_only_if_there_are_groups():
    """So that it is never empty."""
    assert manifest.columns([ManifestRow("a", "cat", "train")]) == ("path", "label", "split")
    assert manifest.columns([ManifestRow("a", "cat", "train"), ManifestRow("b", group="g")]) == (
        "path",
        "label",
        "split",
        "group",
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [("label\tsplit\n", "lacks path"), ("path\tlabel\n\tcat\n", "empty path"), ("", "empty")],
)
def test_rejects_other_files(tmp_path, text, match):
    """The error names the file."""
    path = tmp_path / "rows.tsv"
    path.write_text(text)
    with pytest.raises(FormatError, match=f"rows.tsv: .*{match}"):
        manifest.load(path)


@pytest.mark.parametrize(
    ("folder", "path", "seen"),
    [
        (".", "photos/1.jpg", "photos/1.jpg"),
        (".", "./photos//1.jpg", "photos/1.jpg"),
        ("lists", "photos/1.jpg", "../photos/1.jpg"),
        ("lists/deep", "photos/1.jpg", "../../photos/1.jpg"),
        ("photos", "photos/1.jpg", "1.jpg"),
        ("lists", "/abs/1.jpg", "/abs/1.jpg"),
        ("link", "photos/1.jpg", "../../photos/1.jpg"),
        ("lists", "link/../photos.jpg", "photos.jpg"),
        (".", "lists/../link/../photos.jpg", "lists/photos.jpg"),
        (".", "photos/../link/deep.jpg", "link/deep.jpg"),
    ],
)
def test_paths_relative_to_a_folder(tmp_path, monkeypatch, folder, path, seen):
    """The path opens the same file from the folder, also through symbolic links; absolute paths stay."""
    (tmp_path / "lists/deep").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    for file in ("photos/1.jpg", "lists/photos.jpg", "lists/deep/deep.jpg"):
        (tmp_path / file).touch()
    (tmp_path / "link").symlink_to(tmp_path / "lists/deep")
    monkeypatch.chdir(tmp_path)
    assert manifest.seen_from(folder, path) == seen
    if not os.path.isabs(path):
        assert os.path.samefile(os.path.join(folder, seen), path)
        assert [*manifest.moved([ManifestRow(path, "cat", "val", "g")], folder)] == [
            ManifestRow(seen, "cat", "val", "g")
        ]


@pytest.mark.parametrize(
    ("folder", "path", "seen"),
    [
        ("", "photos/1.jpg", "photos/1.jpg"),
        ("lists", "../photos/1.jpg", "photos/1.jpg"),
        ("lists", "../../photos/1.jpg", "../photos/1.jpg"),
        ("lists/deep", "../../photos/1.jpg", "photos/1.jpg"),
        ("lists/deep", "..//1.jpg", "lists/1.jpg"),
        ("..", "../photos/1.jpg", "../../photos/1.jpg"),
        (".", "../photos/1.jpg", "./../photos/1.jpg"),
        ("link", "../photos/1.jpg", "link/../photos/1.jpg"),
        ("link/deeper", "../../photos/1.jpg", "link/../photos/1.jpg"),
        ("/lists", "../../photos/1.jpg", "/../photos/1.jpg"),
        ("lists", "/abs/1.jpg", "/abs/1.jpg"),
    ],
)
def test_paths_of_another_folder(tmp_path, monkeypatch, folder, path, seen):
    """`lists/..` is left out of the path, but not `link/..`: this is another folder."""
    (tmp_path / "lists/deep/deeper").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "lists/deep")
    monkeypatch.chdir(tmp_path)
    assert manifest.seen_here(folder, path) == seen
    assert os.path.realpath(seen) == os.path.realpath(os.path.join(folder, path))


def test_symbolic_links_are_not_resolved(tmp_path, monkeypatch):
    """The manifest has the name that the user gave, not the target of a link."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store/0f3a.jpg").touch()
    (tmp_path / "cat.jpg").symlink_to("store/0f3a.jpg")
    monkeypatch.chdir(tmp_path)
    assert manifest.seen_from("store", "cat.jpg") == "../cat.jpg"


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rejects_labels_in_latin_1(tmp_path):
    """A class name that is not UTF-8 could not be exported later; the message names it, and its remedy works."""
    path = written(tmp_path / "l.tsv", "path\tlabel\na.jpg\tkätzchen\n".encode("latin-1"))
    with pytest.raises(
        FormatError, match=r'l\.tsv: "k\\xe4tzchen" is not UTF-8 .*save the file as UTF-8, .* iconv -f latin1'
    ) as caught:
        manifest.load(path)
    command = str(caught.value).split(", for example with ")[1]
    path.write_bytes(subprocess.run(command.split(), capture_output=True, check=True).stdout)
    assert manifest.load(path) == [ManifestRow("a.jpg", "kätzchen")]


def test_rejects_paths_in_latin_1_if_the_file_has_another_name(tmp_path):
    """Names of existing files are accepted; a name that is wrong only because of the table's encoding is not."""
    text = "path\nkätzchen.jpg\n".encode("latin-1")
    path = written(tmp_path / "l.tsv", text)
    assert manifest.load(path) == [ManifestRow("k\udce4tzchen.jpg")]
    (tmp_path / "kätzchen.jpg").touch()
    with pytest.raises(FormatError, match="not UTF-8"):
        manifest.load(path)
    (tmp_path / os.fsdecode("kätzchen.jpg".encode("latin-1"))).touch()
    assert manifest.load(path) == [ManifestRow("k\udce4tzchen.jpg")]


@pytest.mark.parametrize(
    "text",
    [
        "path\trank\tlabel\tprobability\na.jpg\t1\tcat\t0.9\n",
        "path,label,probability\na.jpg,cat,0.9\n",
        '{"path": "a.jpg", "rank": 1, "label": "cat", "probability": 0.9}\n',
    ],
)
def test_rejects_predictions(tmp_path, text):
    """Their labels are predicted: evaluated against themselves, they would always be right."""
    with pytest.raises(FormatError, match=r"p\.tsv: predictions \(columns path, .*\), not a manifest"):
        manifest.load(written(tmp_path / "p.tsv", text))


def test_column_truth_is_the_label(tmp_path):
    """The output of cnn-eval --worst has the wrong prediction in `label`, and the class in `truth`."""
    path = written(tmp_path / "worst.tsv", "path\ttruth\tlabel\tprobability\na.jpg\tcat\tdog\t0.99\n")
    assert manifest.load(path) == [ManifestRow("a.jpg", "cat")]


@pytest.mark.parametrize(
    ("header", "notice"),
    [
        ("path,lable", "column lable is not read; if it is the label, rename it to label"),
        (
            "path,labels",
            "column labels: no image has several, as cat;indoor; if each image has one class, rename the column to label",
        ),
        ("path,Splits", "column Splits is not read; if it is the split, rename it to split"),
        ("path,subset", "column subset is read as split"),
        (
            "path,breed",
            "no column label, so images have no class; columns not read: breed; if one of them is the class, rename it to label",
        ),
        ("path,split", ""),
        ("path,label", ""),
    ],
)
def test_misspelt_columns_give_a_notice(tmp_path, caplog, header, notice):
    """Otherwise missing labels would be noticed much later."""
    caplog.set_level(logging.INFO, "cnnkit")
    manifest.load(written(tmp_path / "m.csv", f"{header}\na.jpg,x\n"))
    assert [message.split(": ", 1)[1] for message in caplog.messages] == [notice] * bool(notice)


def test_list_of_paths_has_no_header_row(tmp_path):
    """Every line is a path, including commas and quotes; a header row makes it a manifest."""
    path = written(tmp_path / "l.txt", b'\xef\xbb\xbfcats/a, 1.jpg\r\n\r\n"b".jpg\r\nc.jpg')
    assert manifest.load(path) == [ManifestRow("cats/a, 1.jpg"), ManifestRow('"b".jpg'), ManifestRow("c.jpg")]
    assert manifest.load(written(path, "path,label\na.jpg,cat\n")) == [ManifestRow("a.jpg", "cat")]


def test_rows_of_features_are_read_as_written(tmp_path):
    """Whichever files exist, and whatever classes are called: these rows are cnnkit's own."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.jpg").touch()
    rows = [ManifestRow("a\\b.jpg", "caf\udce9"), ManifestRow('"q"', "path")]
    manifest.save(tmp_path / "x.tsv", rows)
    assert manifest.load(tmp_path / "x.tsv", views=False) == rows


def test_empty_truth_is_no_label():
    """Whatever was predicted."""
    lines = [b"path\ttruth\tlabel\tprobability\n", b"a.png\tcat\tdog\t0.9\n", b"b.png\t\tdog\t0.8\n"]
    assert [row.label for row in manifest.parse(lines, name="worst.tsv")] == ["cat", None]


@pytest.mark.parametrize("name", ["labels.csv", "semicolon.csv", "backslash.tsv", "utf16.tsv", "quoted.tsv", "mac.tsv"])
def test_manifests_of_bug_reports(name):
    """Small files of other programs that once failed."""
    path = CASES / "tables" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    rows = manifest.load(path)
    names = {"red": "tom", "new": "nina"}
    assert [row.path for row in rows] == [
        f"train/{row.label}/{names[row.label]}, {n % 4}.png" for n, row in enumerate(rows)
    ]
    assert [row.split for row in rows] == ["train", "train", "val", "val"] * 2


@pytest.mark.parametrize("piped", [False, True])
def test_fields_that_are_not_hashes_give_a_notice(tmp_path, caplog, piped):
    """A mistyped hash is not a missing one: where hashes are used, the notice names its image."""
    hashes = ["ab" * 16, "zz", "", "abc"]
    text = "path\tMD5\n" + "".join(f"{number}.jpg\t{field}\n" for number, field in enumerate(hashes))
    caplog.set_level(logging.INFO, "cnnkit")
    table = tmp_path / "a.tsv"
    table.write_text(text)
    for hashes_are_used in (False, True):
        assert not caplog.messages
        rows = (
            manifest.parse(text.encode().splitlines(True), name=str(table), hashes=hashes_are_used)
            if piped
            else manifest.rows(table, hashes=hashes_are_used)
        )
        assert [row.digest for row in rows] == [b"\xab" * 16, None, None, None]
    assert caplog.messages[-1] == (
        f'{table}: 2 values of column MD5 ignored, such as "zz" of 1.jpg: not a hash of 32 hexadecimal digits'
    )
