"""Lists of images: `--files0-from` next to `-0`, and lists of paths."""

import os

import pytest
from PIL import Image

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


@pytest.mark.parametrize("name", COMMANDS)
def test_files0_from_is_the_list_of_null(name, run, here):
    """The same bytes from a file, from `-`, from a pipe of the shell, and from `-0`; a NUL at the end is not needed."""
    (here / "list").write_bytes(WHOLE)
    wanted = run(name, "-", "-0", *COMMANDS[name], stdin=WHOLE)
    assert run(name, "--files0-from", "list", *COMMANDS[name]) == wanted
    assert run(name, *COMMANDS[name], "--files0-from=-", stdin=WHOLE[:-1]) == wanted
    reading, writing = os.pipe()
    os.write(writing, WHOLE)
    os.close(writing)
    try:
        assert run(name, "--files0-from", f"/dev/fd/{reading}", *COMMANDS[name]) == wanted
    finally:
        os.close(reading)


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
            "list: the paths are separated by line ends, not by NUL, after a.png; give - < list without -0 and --files0-from",
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
