"""Opening files for reading: regular files, and pipes made by a shell."""

import os
import socket
import subprocess
import sys

import pytest

from cnnkit import files

FUNCTIONS = [files.open_regular, files.open_text, files.read_regular, files.check_regular]


@pytest.fixture
def special(tmp_path):
    """Make one of each kind of file that is not regular."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket"))
        yield tmp_path


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fifo", "not a regular file but a named pipe"),
        ("zero", "not a regular file but a device"),
        ("socket", "not a regular file but a socket"),
        ("folder", "is a folder, not a file"),
        ("loop", "Too many levels of symbolic links"),
        ("missing", "No such file or directory"),
        ("a\0b", "invalid file name: contains a null byte"),
        ("\ud800", "invalid file name: half of a surrogate pair"),
        (255 * "ä", "File name too long"),
    ],
)
def test_rejects_special_files(special, function, name, reason):
    """With an OSError that names the file and its kind, without waiting."""
    path = f"{special}/{name}"
    with pytest.raises(OSError, match=reason) as refusal:
        function(path)
    assert refusal.value.strerror == reason
    assert refusal.value.filename == path


def test_reads_regular_files(tmp_path):
    """By name, through a link, and with a name that is not UTF-8."""
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with open(odd, "wb") as file:
        file.write(b"odd")
    assert files.read_regular(tmp_path / "a") == files.read_regular(tmp_path / "link") == b"content"
    assert files.read_regular(odd) == b"odd"
    with files.open_text(tmp_path / "a") as file:
        assert file.read() == b"content"


def test_rejects_files_that_are_too_large(tmp_path):
    """A sparse file of a terabyte takes no disk space, but would fill the memory."""
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="file too large, at most 2,147,483,648 bytes"):
        files.read_regular(tmp_path / "holes")
    (tmp_path / "ten").write_bytes(bytes(10))
    assert files.read_regular(tmp_path / "ten", most=10) == bytes(10)
    with pytest.raises(OSError, match="file too large, at most 9 bytes"):
        files.read_regular(tmp_path / "ten", most=9)


def test_reads_pipes_of_a_shell(tmp_path):
    """`<(...)`, /dev/stdin and /dev/null are read; a pipe in place of a regular file is refused."""
    program = "import sys; from cnnkit import files; print([files.open_text(name).read() for name in sys.argv[1:]])"
    line = f"echo from stdin | {sys.executable} -c '{program}' <(echo one) /dev/stdin <(echo two) /dev/null"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "[b'one\\n', b'from stdin\\n', b'two\\n', b'']\n"
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match="not a regular file but a named pipe"):
            files.open_regular(f"/dev/fd/{reading}")
    finally:
        os.close(reading)
        os.close(writing)
