"""Write to a temporary file and rename: readers never see half a file."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from cnnkit.errors import CnnkitError
from cnnkit.formats import atomic


def write(path, content=b"new"):
    with atomic.writing(path) as file:
        file.write(content)


def write_half(path, error):
    with atomic.writing(path) as file:
        file.write(b"half of")
        raise error


def killed_inside(manager, path):
    """Run a process that exits inside one of atomic's context managers, as if killed."""
    program = f"import os, sys; from cnnkit.formats import atomic\nwith atomic.{manager}(sys.argv[1]): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", program, path], check=False).returncode == 9


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """Return a function that sets the umask; restore it afterwards."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def test_old_file_stays_until_the_new_one_is_complete(tmp_path):
    """During writing, readers see the complete old file; afterwards nothing else is in the folder."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic.writing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failure_changes_nothing(tmp_path, error):
    """The old file is unchanged, and no temporary file is left."""
    path = tmp_path / "file"
    for before in (None, b"old"):
        if before is not None:
            path.write_bytes(before)
        with pytest.raises(error):
            write_half(path, error)
        assert (path.read_bytes() if path.exists() else None) == before
        assert [each for each in tmp_path.iterdir() if each != path] == []


def test_signal_during_open_leaves_no_file(tmp_path, monkeypatch):
    """Python raises it when the call returns: the file exists, but its descriptor is not stored yet."""

    def interrupted(*words, opened=os.open):
        os.close(opened(*words))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_temporary_file_is_hidden(tmp_path):
    """A search of the folder during writing does not find half a file."""
    with atomic.writing(tmp_path / "image.png"):
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_new_file_gets_the_mode_of_the_umask(tmp_path, umask, mask, expected):
    """As with any other program."""
    umask(mask)
    write(tmp_path / "file")
    assert mode(tmp_path / "file") == expected


@pytest.mark.parametrize("before", [0o600, 0o640, 0o664, 0o755])
def test_replaced_file_keeps_its_mode(tmp_path, umask, before):
    """Whatever the umask: permissions are neither added nor removed."""
    umask(0o022)
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(before)
    write(path)
    assert mode(path) == before


def test_symbolic_link_is_kept(tmp_path):
    """The file that it points to is replaced, or created."""
    (tmp_path / "real").mkdir()
    for target in ("real/there", "real/not yet"):
        link = tmp_path / "link"
        link.symlink_to(target)
        write(link)
        assert link.is_symlink()
        assert (tmp_path / target).read_bytes() == b"new"
        link.unlink()


def test_pipe_is_written_to(tmp_path):
    """`-o >(gzip)` and /dev/stdout work: what is not a regular file is not replaced."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    write(path)
    reader.join(20)
    assert read == [b"new"]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_descriptors_are_written_to(tmp_path):
    """/dev/fd/N and links to it: the file that the shell opened is continued, not cut off or replaced."""
    (tmp_path / "log").write_bytes(b"before ")
    (tmp_path / "link").symlink_to("also")
    inode = (tmp_path / "log").stat().st_ino
    with (tmp_path / "log").open("ab") as log:
        (tmp_path / "also").symlink_to(f"/dev/fd/{log.fileno()}")
        for path in (f"/dev/fd/{log.fileno()}", f"/proc/self/fd/{log.fileno()}", tmp_path / "link"):
            with atomic.claimed(path):
                write(path)
    assert (tmp_path / "log").read_bytes() == b"before newnewnew"
    assert (tmp_path / "log").stat().st_ino == inode
    assert sorted(os.listdir(tmp_path)) == ["also", "link", "log"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_device_is_named():
    with pytest.raises(OSError, match="No space left") as caught:
        write("/dev/full")
    assert caught.value.filename == "/dev/full"


def test_errors_name_the_output(tmp_path):
    """Not the temporary one."""
    with pytest.raises(OSError, match="nowhere") as caught:
        write(tmp_path / "nowhere/file")
    assert caught.value.filename == str(tmp_path / "nowhere/file")
    with pytest.raises(IsADirectoryError):
        write(tmp_path)


def test_full_disk_names_the_file(tmp_path):
    """An error while writing has no file name; it gets that of the output."""
    with pytest.raises(OSError, match="No space left") as caught:
        write_half(tmp_path / "file", OSError(28, "No space left on device"))
    assert caught.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_concurrent_writers(tmp_path):
    """At any moment, the file is what one of them wrote, complete."""
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


# ---------------------------------------------------------------- killed runs, and concurrent runs


def test_temporary_file_of_a_killed_run_is_removed(tmp_path):
    """The next writer of the same file removes it; those of other files, and files with similar names, stay."""
    path = tmp_path / "file"
    killed_inside("writing", path)
    (left,) = os.listdir(tmp_path)
    others = [".file.tmp", ".file.0123456789.tmp", ".other.01234567.tmp", ".file.01234567.tmp~"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".file.00000000.tmp").symlink_to(".file.tmp")
    write(path)
    assert left.startswith(".file.")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, ".file.00000000.tmp", "file"])


def test_temporary_file_of_a_live_run_is_kept(tmp_path):
    """A second writer of the same file leaves the first one's temporary file alone."""
    path = tmp_path / "file"
    with atomic.writing(path) as file:
        file.write(b"first")
        write(path, b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_unchanged_file_keeps_its_time(tmp_path):
    """A file with the same bytes is not touched, so that make rebuilds nothing; any other byte replaces it."""
    path = tmp_path / "file"
    path.write_bytes(b"same")
    os.utime(path, (1, 1))
    write(path, b"same")
    assert path.stat().st_mtime == 1
    for content in (b"sane", b"same!", b""):
        os.utime(path, (1, 1))
        write(path, content)
        assert (path.read_bytes(), path.stat().st_mtime > 1) == (content, True)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127 + "x", "x" * 242, "x" * 241])
def test_longest_file_names(tmp_path, name):
    """The names of the temporary file and of the lock also fit."""
    write(tmp_path / name)
    with atomic.claimed(tmp_path / name):
        pass
    assert os.listdir(tmp_path) == [name]
    assert len({atomic.hidden_name(f"{name}{letter}"[-255:], ".lock") for letter in "ab"}) == 2


def test_output_is_claimed_by_one_run(tmp_path):
    """A second claim is refused, also under another name of the same file; afterwards no lock file is left."""
    path = tmp_path / "file"
    (tmp_path / "link").symlink_to("file")
    with atomic.claimed(path):
        for same in (path, tmp_path / "link", tmp_path / "." / "file"):
            with pytest.raises(CnnkitError, match="another run is writing it; wait"), atomic.claimed(same):
                pytest.fail("two runs at once")
        with atomic.claimed(tmp_path / "other"):
            write(path)
    with atomic.claimed(path):
        pass
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_claim_ends_when_a_run_is_killed(tmp_path):
    """The lock is released at once, and the next run removes the lock file."""
    path = tmp_path / "file"
    killed_inside("claimed", path)
    assert os.listdir(tmp_path) == [".file.lock"]
    with atomic.claimed(path):
        pass
    assert os.listdir(tmp_path) == []


def test_concurrent_claims(tmp_path):
    """At any moment, at most one run has the output."""
    path = tmp_path / "file"
    inside, most, had = [], [], []

    def run():
        for _ in range(200):
            try:
                with atomic.claimed(path):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
                    had.append(1)
            except CnnkitError:
                pass

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert had
    assert os.listdir(tmp_path) == []


def test_rejects_a_link_as_lock_file(tmp_path):
    """A planted link under the name of the lock neither creates nor opens its target."""
    (tmp_path / ".file.lock").symlink_to("elsewhere")
    with pytest.raises(CnnkitError, match=r"\.file\.lock is in the way"), atomic.claimed(tmp_path / "file"):
        pytest.fail("claimed")
    assert os.listdir(tmp_path) == [".file.lock"]


def test_rejects_unwritable_and_missing_folders(tmp_path, monkeypatch):
    """Each with its own message, before any work; /dev/stdout is accepted."""
    monkeypatch.setattr(os, "access", lambda path, _mode: "closed" not in str(path))
    (tmp_path / "closed").mkdir()
    with pytest.raises(CnnkitError, match=r"closed: this folder is not writable; write x\.npy into another one"):
        atomic.check_folder(tmp_path / "closed" / "x.npy")
    with pytest.raises(CnnkitError, match=r"none: no such folder to write x\.npy into"):
        atomic.check_folder(tmp_path / "none" / "x.npy")
    atomic.check_folder(tmp_path / "x.npy")
    atomic.check_folder("/dev/stdout")
    (tmp_path / "link").symlink_to("none/x.npy")
    with pytest.raises(CnnkitError, match=r"link: a link to .*none/x\.npy, whose folder does not exist"):
        atomic.check_folder(tmp_path / "link")


def test_long_names_are_shortened():
    """At whole characters, keeping the ending, with room for what is appended; different names stay different."""
    assert atomic.fitting_name("photo", ".png") == "photo.png"
    assert atomic.fitting_name("x" * 251, ".png") == "x" * 251 + ".png"
    names = [
        atomic.fitting_name(stem, ".png", room=11) for stem in ("x" * 251, "x" * 250 + "y", "ü" * 130, "\udcff" * 300)
    ]
    assert len(set(names)) == 4
    for name in names:
        assert 230 < len(os.fsencode(name)) <= 244
        assert name.endswith(".png")
        os.fsencode(name)


def locks_as(monkeypatch, *, folders, files=None):
    """Make flock fail with these errors for folders and for files."""
    real = fcntl.flock

    def flock(descriptor, how):
        error = folders if stat.S_ISDIR(os.fstat(descriptor).st_mode) else files
        if error is not None:
            raise OSError(error, os.strerror(error))
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("error", [errno.EBADF, errno.EACCES, errno.EOPNOTSUPP])
def test_folder_on_nfs_is_claimed_by_one_run(tmp_path, monkeypatch, error):
    """NFS cannot lock what is open only for reading, so not a folder: a file next to it is locked, and removed afterwards."""
    locks_as(monkeypatch, folders=error)
    (tmp_path / "out").mkdir()
    with atomic.claimed(tmp_path / "out"):
        with pytest.raises(CnnkitError, match="out: another run is writing it"), atomic.claimed(tmp_path / "out"):
            pytest.fail("two runs at once")
        assert os.listdir(tmp_path / "out") == []
    assert os.listdir(tmp_path) == ["out"]
    with atomic.claimed("/"):  # no file can be next to it
        pass


def test_without_locks_only_old_temporary_files_are_removed(tmp_path, monkeypatch):
    """Without locks, age decides whether a temporary file is abandoned, so that two runs can write the same file."""
    locks_as(monkeypatch, folders=errno.ENOSYS, files=errno.ENOSYS)
    path = tmp_path / "file"
    left = tmp_path / ".file.01234567.tmp"
    left.touch()
    os.utime(left, (time.time() - 90_000,) * 2)
    with atomic.writing(path) as file:
        write(path, b"second")
        file.write(b"first")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("manager", [atomic.writing, atomic.claimed])
def test_failed_lock_leaves_no_descriptor_open(tmp_path, monkeypatch, manager):
    """An error of the lock ends the claim and closes the file."""
    locks_as(monkeypatch, folders=None, files=errno.EIO)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Input/output error"), manager(tmp_path / "file"):
        pytest.fail("locked")
    assert os.listdir("/proc/self/fd") == before
