"""Lists of images: `--files0-from` next to `-0`, and lists of paths."""

import contextlib
import json
import os

import pytest
from PIL import Image

import cnnkit

NAMES = ["a b.png", "c\nd.png", "sub/é.png", "-"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Four images, whose names are those that lists of lines cannot have."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (20, 20), (60 * number, 0, 90)).save(tmp_path / name, format="PNG")
    return tmp_path


WHOLE = "\0".join(NAMES).encode() + b"\0"
#: Commands and what is not in their positional SOURCE.
COMMANDS = {
    "cnn-check": ["--json"],
    "cnn-split": ["--ratio", "0.5,0.5"],
    "cnn-augment": ["-o", "-", "--augment", "hflip"],
}


@contextlib.contextmanager
def handed_over(content):
    """Yield the path that a shell writes for `<(...)`: that of a pipe with this content."""
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    try:
        yield f"/dev/fd/{reading}"
    finally:
        os.close(reading)


@pytest.mark.parametrize("name", COMMANDS)
def test_files0_from_is_the_list_of_null(name, run, here):
    """The same bytes from a file, from `-`, from a pipe of the shell, and from `-0`; a NUL at the end is not needed."""
    (here / "list").write_bytes(WHOLE)
    wanted = run(name, "-", "-0", *COMMANDS[name], stdin=WHOLE)
    assert run(name, "--files0-from", "list", *COMMANDS[name]) == wanted
    assert run(name, *COMMANDS[name], "--files0-from=-", stdin=WHOLE[:-1]) == wanted
    with handed_over(WHOLE) as pipe:
        assert run(name, "--files0-from", pipe, *COMMANDS[name]) == wanted


@pytest.mark.parametrize(
    ("words", "content", "status", "message"),
    [
        (["sub"], WHOLE, 2, "SOURCE sub cannot be combined with --files0-from; give one of them"),
        (
            ["-0"],
            WHOLE,
            2,
            "-0 is for a list on standard input; the paths of --files0-from are always separated by NUL",
        ),
        ([], b"", 2, "list is empty; give a source, or pipe a list of images into the command"),
        ([], None, 1, "list: No such file or directory"),
        (["--split", "val"], WHOLE, 2, "--split needs a manifest or a folder; the list list has no splits"),
        (
            [],
            b"a.png\nb.png\n",
            2,
            "list: the paths are separated by line ends, not by NUL, after a.png; give - < list instead of --files0-from",
        ),
    ],
)
def test_wrong_uses_of_files0_from(run, here, words, content, status, message):
    if content is not None:
        (here / "list").write_bytes(content)
    done = run("cnn-check", "--files0-from", "list", *words, status=status)
    assert done.err == f"cnn-check: {message}\n"
    assert done.out == ""


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lists_of_lines(run, here, ends, mark):
    """Paths with blanks, relative to the list; there are no comments, so that every name can be listed."""
    Image.new("RGB", (20, 20)).save(here / "sub" / "#1 of 2.png")
    (here / "sub" / "list.txt").write_bytes((mark + ends.join(["é.png", "../a b.png", "", "#1 of 2.png"])).encode())
    rows = run("cnn-split", "sub/list.txt", "--ratio", "0.5,0.5").rows
    assert sorted(row["path"] for row in rows) == ["a b.png", "sub/#1 of 2.png", "sub/é.png"]


TABLE = b"path\tlabel\na b.png\tx\nsub/\xc3\xa9.png\tx\n"
ANNOTATION = {"result": [{"from_name": "choice", "value": {"choices": ["x"]}}]}
EXPORT = json.dumps([{"data": {"image": name}, "annotations": [ANNOTATION]} for name in ("a b.png", "sub/é.png")])


@pytest.mark.parametrize("content", [TABLE, EXPORT.encode(), "a b.png\nsub/é.png\n".encode()])
def test_a_source_handed_over_by_the_shell_is_standard_input(run, here, content):
    """`cnn-split <(grep ...)`: its paths are relative to the current folder, not to /dev/fd; so are those of the file itself."""
    wanted = run("cnn-split", "-", "--ratio", "0.5,0.5", stdin=content)
    assert sorted(row["path"] for row in wanted.rows) == ["a b.png", "sub/é.png"]
    with handed_over(content) as pipe:
        assert run("cnn-split", pipe, "--ratio", "0.5,0.5").out == wanted.out
    (here / "content").write_bytes(content)
    with (here / "content").open("rb") as file:
        assert run("cnn-split", f"/dev/fd/{file.fileno()}", "--ratio", "0.5,0.5").out == wanted.out


def test_other_tables_handed_over_by_the_shell(run, here):
    """Truth, corrections and Python's read_manifest have the paths that TABLE has in a file."""
    with handed_over(TABLE) as pipe:
        assert run("cnn-eval", "-", "--truth", pipe, "--json", stdin=TABLE).out.startswith('{"n": 2, "accuracy": 1.0')
    (here / "table.tsv").write_bytes(TABLE)
    with handed_over(b"path\tsuggested\nsub/\xc3\xa9.png\tz\n") as pipe:
        run("cnn-check", "table.tsv", "--probes", "none", "--corrections", pipe, "--fix", "fixed.tsv")
    assert "sub/é.png\tz" in (here / "fixed.tsv").read_text()
    with handed_over(TABLE) as pipe:
        assert [row.path for row in cnnkit.read_manifest(pipe)] == ["a b.png", "sub/é.png"]


def test_an_image_handed_over_by_the_shell_is_an_image(run, here):
    """As a file on standard input; in a pipe it is refused, since images are read more than once."""
    with (here / "a b.png").open("rb") as file:
        path = f"/dev/fd/{file.fileno()}"
        findings = run("cnn-check", path, "--json").out  # and one about its missing extension
    assert findings.endswith(run("cnn-check", "a b.png", "--json").out.replace("a b.png", path))
    with handed_over((here / "a b.png").read_bytes()) as pipe:
        message = f"{pipe} is a PNG image, not a list of paths; write it to a file and give the file's name"
        assert message in run("cnn-check", pipe, status=2).err


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_of_another_program_on_standard_input(run, here, encoding):
    """With a byte order mark and CR LF, as PowerShell writes it."""
    listed = "a b.png\r\nsub/é.png\r\n".encode(encoding)
    rows = run("cnn-split", "-", "--ratio", "0.5,0.5", stdin=listed).rows
    assert sorted(row["path"] for row in rows) == ["a b.png", "sub/é.png"]
