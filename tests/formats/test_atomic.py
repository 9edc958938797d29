"""Write beside, rename: a reader never sees half a file."""

import os
import stat
import threading

import pytest

from cnnkit.formats import atomic


def write(path, content=b"new"):
    with atomic.writing(path) as file:
        file.write(content)


def write_half(path, error):
    with atomic.writing(path) as file:
        file.write(b"half of")
        raise error


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """Set the mask, and put it back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    """While the new one is written, a reader still sees the old one, whole; afterwards nothing else is in the folder."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic.writing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_everything_as_it_was(tmp_path, error):
    """Neither the old file nor the folder shows that somebody tried."""
    path = tmp_path / "file"
    for before in (None, b"old"):
        if before is not None:
            path.write_bytes(before)
        with pytest.raises(error):
            write_half(path, error)
        assert (path.read_bytes() if path.exists() else None) == before
        assert [each for each in tmp_path.iterdir() if each != path] == []


def test_a_signal_while_the_file_is_opened_leaves_nothing(tmp_path, monkeypatch):
    """Python sees it when the call returns: the file is there, and nobody has its descriptor yet."""

    def interrupted(*words, opened=os.open):
        os.close(opened(*words))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_what_is_beside_is_hidden(tmp_path):
    """A search of the folder meanwhile does not find half a file."""
    with atomic.writing(tmp_path / "picture.png"):
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_gets_what_the_umask_leaves(tmp_path, umask, mask, expected):
    """As with any other program."""
    umask(mask)
    write(tmp_path / "file")
    assert mode(tmp_path / "file") == expected


@pytest.mark.parametrize("before", [0o600, 0o640, 0o664, 0o755])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path, umask, before):
    """Whatever the umask: what the group could write it still can, and what nobody could read nobody can."""
    umask(0o022)
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(before)
    write(path)
    assert mode(path) == before


def test_a_symbolic_link_keeps_pointing(tmp_path):
    """What it points to is replaced, or made."""
    (tmp_path / "real").mkdir()
    for target in ("real/there", "real/not yet"):
        link = tmp_path / "link"
        link.symlink_to(target)
        write(link)
        assert link.is_symlink()
        assert (tmp_path / target).read_bytes() == b"new"
        link.unlink()


def test_a_pipe_is_written_to(tmp_path):
    """`-o >(gzip)` and /dev/stdout work: what is no file is not replaced by one."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    write(path)
    reader.join(20)
    assert read == [b"new"]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    """Not the temporary one."""
    with pytest.raises(OSError, match="nowhere") as caught:
        write(tmp_path / "nowhere/file")
    assert caught.value.filename == str(tmp_path / "nowhere/file")
    with pytest.raises(IsADirectoryError):
        write(tmp_path)


def test_a_full_disk_names_the_file(tmp_path):
    """An error while writing, which has no file name of its own, gets the one that the user knows."""
    with pytest.raises(OSError, match="No space left") as caught:
        write_half(tmp_path / "file", OSError(28, "No space left on device"))
    assert caught.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_many_writers_at_once(tmp_path):
    """The file is at every moment what one of them wrote, whole."""
    path = tmp_path / "file"
    contents = [bytes([letter]) * 200_000 for letter in b"abcdef"]
    writers = [threading.Thread(target=write, args=(path, content)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert path.read_bytes() in contents
    for writer in writers:
        writer.join()
    assert list(tmp_path.iterdir()) == [path]
