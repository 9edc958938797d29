"""What is opened for reading is a file, or a pipe that the shell hands over."""

import os
import socket
import subprocess
import sys

import pytest

from cnnkit import files

FUNCTIONS = [files.open_regular, files.open_text, files.read_regular, files.check_regular]


@pytest.fixture
def special(tmp_path):
    """Make what has a name in a folder, and is not a regular file."""
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
        ("folder", "Is a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("missing", "No such file or directory"),
        ("a\0b", "not a name that a file can have: it holds a null byte"),
        ("\ud800", "not a name that a file can have: half of a surrogate pair"),
        (255 * "ä", "File name too long"),
    ],
)
def test_what_is_not_a_file_is_refused_at_once(special, function, name, reason):
    """An OSError that says what it is and names it, and no waiting."""
    path = f"{special}/{name}"
    with pytest.raises(OSError, match=reason) as refusal:
        function(path)
    assert refusal.value.strerror == reason
    assert refusal.value.filename == path


def test_a_regular_file_is_read(tmp_path):
    """By its name, by a link, by bytes that are not UTF-8."""
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with open(odd, "wb") as file:
        file.write(b"odd")
    assert files.read_regular(tmp_path / "a") == files.read_regular(tmp_path / "link") == b"content"
    assert files.read_regular(odd) == b"odd"
    with files.open_text(tmp_path / "a") as file:
        assert file.read() == b"content"


def test_what_is_too_large_to_be_read_whole_is_refused(tmp_path):
    """A file of a terabyte of holes takes no disk, and would take all memory."""
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="file too large, at most 2,147,483,648 bytes"):
        files.read_regular(tmp_path / "holes")
    (tmp_path / "ten").write_bytes(bytes(10))
    assert files.read_regular(tmp_path / "ten", most=10) == bytes(10)
    with pytest.raises(OSError, match="file too large, at most 9 bytes"):
        files.read_regular(tmp_path / "ten", most=9)


def test_what_the_shell_hands_over_is_read(tmp_path):
    """`<(...)`, /dev/stdin and /dev/null, to the end; a pipe where a regular file is needed is refused."""
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
