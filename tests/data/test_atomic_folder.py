"""A folder of listed files: replaced completely or not at all, for interruptions at any step and concurrent runs."""

import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path

import pytest

from cnnkit.data import atomic_folder
from cnnkit.errors import CnnkitError
from cnnkit.formats import tsv

COLUMNS = ("path", "source", "copy")


def listed(*paths, source="../photos/1.png", copy="1"):
    return tsv.render(COLUMNS, [(path, source, copy) for path in paths])


def put(folder, files):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def write(folder, files, *, force=False):
    """Write files and their list into a folder, as for copies."""
    replaceable = atomic_folder.earlier(folder, force=force)
    for path in files:
        atomic_folder.check_place(folder, path, replaceable)
    with atomic_folder.staging_folder(folder, replaceable) as made:
        put(made, {**files, atomic_folder.COPIES_MANIFEST: listed(*files)})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "deep" / "more"


OLD = {"cat/1.png": b"old 1", "cat/2.png": b"old 2", "dog/in/3.png": b"old 3"}
NEW = {"cat/1.png": b"new 1", "bird/4.png": b"new 4"}


# ---------------------------------------------------------------- replacing


def test_only_listed_files_are_replaced(folder, contents):
    """Other files, folders and links stay; folders that become empty are removed; the list is replaced."""
    write(folder, OLD)
    assert contents(folder) == {**OLD, "augment.tsv": listed(*OLD)}
    mine = {"cat/mine.txt": b"mine", "dog/mine/5.png": b"mine", "6.png": b"mine"}
    put(folder, mine)
    write(folder, NEW, force=True)
    assert contents(folder) == {**NEW, **mine, "augment.tsv": listed(*NEW)}
    assert sorted(os.listdir(folder)) == ["6.png", "augment.tsv", "bird", "cat", "dog"]
    assert not (folder / "dog" / "in").exists()


def test_originals_are_replaced_only_if_their_source_exists(folder):
    """A file with the number 0 can be the only copy of an image; an augmented copy can be made again."""
    put(folder, {"1.png": b"kept", "2.png": b"only one", "3~01.png": b"copy", "away/photo.png": b"kept"})
    rows = [("1.png", "away/photo.png", "0"), ("2.png", "away/gone.png", "0"), ("3~01.png", "away/gone.png", "1")]
    (folder / "augment.tsv").write_bytes(tsv.render(COLUMNS, rows))
    assert atomic_folder.earlier(folder, force=True) == {"1.png", "3~01.png"}
    assert atomic_folder.earlier(folder.parent / "none", force=False) == frozenset()


def test_listed_paths_outside_the_folder_are_ignored(folder, tmp_path):
    """Through .., an absolute path, a linked folder, the folder itself or the list; links to folders inside are accepted."""
    put(tmp_path, {"deep/1.png": b"mine", "elsewhere/2.png": b"mine"})
    put(folder, {"real/3.png": b"copy"})
    (folder / "out").symlink_to(tmp_path / "elsewhere")
    (folder / "inside").symlink_to("real")
    paths = [
        "../1.png",
        "real/../../1.png",
        "real/../real/3.png",
        str(tmp_path / "deep" / "1.png"),
        "out/2.png",
        ".",
        "augment.tsv",
    ]
    (folder / "augment.tsv").write_bytes(listed(*paths, "inside/3.png"))
    assert atomic_folder.earlier(folder, force=True) == {"inside/3.png"}


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_rejects_list_with_a_path_that_is_not_a_file(folder, kind):
    """Before anything is changed."""
    put(folder, {"1.png": b"copy", "augment.tsv": listed("1.png", "2.png")})
    place = folder / "2.png"
    {
        "folder": place.mkdir,
        "link": lambda: place.symlink_to("1.png"),
        "pipe": lambda: os.mkfifo(place),
    }[kind]()
    with pytest.raises(CnnkitError, match=r"more/augment\.tsv lists 2\.png, which is not a file; delete its row"):
        atomic_folder.check(folder, force=True)
    assert sorted(os.listdir(folder)) == ["1.png", "2.png", "augment.tsv"]


# ---------------------------------------------------------------- refusals


def test_folder_that_is_not_empty_needs_force(folder):
    """Except for the remains of a killed run; a file in place of the folder is refused even with force."""
    put(folder, {".augmenting/cat/1.png": b"half"})
    atomic_folder.check(folder, force=False)
    put(folder, {"mine.txt": b"mine"})
    with pytest.raises(CnnkitError, match="is not empty"):
        atomic_folder.check(folder, force=False)
    atomic_folder.check(folder, force=True)
    for place in (folder / "mine.txt", folder / "nowhere"):
        if not place.exists():
            place.symlink_to("gone")
        with pytest.raises(CnnkitError, match=f"{place.name} is not a folder; choose another name"):
            atomic_folder.check(place, force=True)


def test_rejects_occupied_places_and_links_out_of_the_folder(folder, tmp_path):
    """Another file or link, a file in place of a folder, and a link that leads out; the message names each."""
    put(folder, {"1.png": b"mine", "2.png": b"ours", "cat": b"mine", "real/3.png": b"mine"})
    (tmp_path / "elsewhere").mkdir()
    (folder / "out").symlink_to(tmp_path / "elsewhere")
    (folder / "inside").symlink_to("real")
    (folder / "broken.png").symlink_to("gone")
    ours = frozenset({"2.png"})
    for path in ("2.png", "4.png", "new/deep/4.png", "real/4.png", "inside/4.png"):
        atomic_folder.check_place(folder, path, ours)
    for path, said in {
        "1.png": "more/1.png already exists; move it away or choose another folder",
        "broken.png": "more/broken.png already exists; move it away",
        "inside/3.png": "more/inside/3.png already exists; move it away",
        "cat/deep/4.png": "more/cat exists and is not a folder; move it away",
        "out/4.png": "more/out is a link that leads out of ",
        "../4.png": "is a link that leads out of ",
    }.items():
        with pytest.raises(CnnkitError) as refused:
            atomic_folder.check_place(folder, path, ours)
        assert said in str(refused.value)


def test_rejects_folder_of_a_running_command(folder, contents):
    """In every function, and the other run completes; the remains of a killed run are no obstacle, and are not used."""
    put(folder, {".augmenting/cat/left.png": b"of a killed run"})
    with atomic_folder.staging_folder(folder, frozenset()) as made:
        assert contents(made) == {}
        put(made, {**NEW, atomic_folder.COPIES_MANIFEST: listed(*NEW)})
        for door in (
            lambda: atomic_folder.check(folder, force=True),
            lambda: atomic_folder.earlier(folder, force=True),
            lambda: atomic_folder.staging_folder(folder, frozenset()).__enter__(),
        ):
            with pytest.raises(CnnkitError, match="more: another run is writing into it; wait"):
                door()
    assert contents(folder) == {**NEW, "augment.tsv": listed(*NEW)}
    atomic_folder.check(folder, force=True)


# ---------------------------------------------------------------- interruptions


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failure_changes_nothing(folder, tmp_path, error, contents):
    """New folders are removed again; existing files are unchanged."""

    def fail():
        with atomic_folder.staging_folder(folder, atomic_folder.earlier(folder, force=True)) as made:
            put(made, NEW)
            raise error

    with pytest.raises(error):
        fail()
    assert os.listdir(tmp_path) == []
    write(folder, OLD)
    before = contents(folder)
    with pytest.raises(error):
        fail()
    assert contents(folder) == before
    assert sorted(os.listdir(folder)) == ["augment.tsv", "cat", "dog"]


class Cut(BaseException):
    """The process was killed."""


#: What changes a disk while files are moved up.
STEPS = ((Path, "replace"), (Path, "rename"), (Path, "unlink"), (Path, "rmdir"), (shutil, "rmtree"))


def cut_at(step, monkeypatch, work):
    """Run `work` until its n-th change of the disk; return whether it finished before that."""
    done = []

    def counted(real):
        def stopping(*words, **others):
            done.append(words)
            if len(done) == step:
                raise Cut
            return real(*words, **others)

        return stopping

    with monkeypatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            work()
        except Cut:
            return False
    return True


def test_next_run_resumes_after_an_interruption_at_any_step(folder, monkeypatch, caplog, contents):
    """At every step each file is complete and other files exist; the result is the same, also without --force."""
    mine = {"cat/mine.txt": b"mine"}
    whole = {**NEW, **mine, "augment.tsv": listed(*NEW)}
    steps = []

    def move(replaceable):
        with atomic_folder.staging_folder(folder, replaceable) as made:
            put(made, {**NEW, atomic_folder.COPIES_MANIFEST: listed(*NEW)})

    for step in range(2, 99):  # the first step removes the remains of a killed run
        caplog.clear()
        shutil.rmtree(folder, ignore_errors=True)
        write(folder, OLD)
        put(folder, mine)
        replaceable = atomic_folder.earlier(folder, force=True)
        if cut_at(step, monkeypatch, lambda replaceable=replaceable: move(replaceable)):
            assert contents(folder) == whole
            break
        left = contents(folder)
        assert left["cat/mine.txt"] == b"mine"
        assert left["cat/1.png"] in (b"old 1", b"new 1")
        if not (folder / ".augmented").is_dir():  # nothing was moved yet
            assert left == {**OLD, **mine, "augment.tsv": listed(*OLD)}
            continue
        assert caplog.messages == [f"{folder}: not all copies are in place; run the command again to resume"]
        again = 1
        while not cut_at(again, monkeypatch, lambda: atomic_folder.earlier(folder, force=False)):
            assert (folder / ".augmented").is_dir()
            again += 1
        assert atomic_folder.earlier(folder, force=True) == set(NEW)
        assert contents(folder) == whole
        assert sorted(os.listdir(folder)) == ["augment.tsv", "bird", "cat"]
        steps.append(again - 1)
    assert len(steps) >= 8  # two files moved, two deleted, two folders deleted, the list, the staging folder
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == 1


def test_resuming_returns_the_files_that_may_be_replaced(folder, monkeypatch, contents):
    """Those of the completed run, so that the same command ends as it does without an interruption."""
    write(folder, OLD)
    put(folder, {"cat/mine.txt": b"mine"})
    replaceable = atomic_folder.earlier(folder, force=True)

    def move():
        with atomic_folder.staging_folder(folder, replaceable) as made:
            put(made, {**NEW, atomic_folder.COPIES_MANIFEST: listed(*NEW)})

    assert not cut_at(4, monkeypatch, move)
    assert (folder / ".augmented").is_dir()
    last = {"cat/7.png": b"last"}
    write(folder, last)
    assert contents(folder) == {**last, "cat/mine.txt": b"mine", "augment.tsv": listed(*last)}


def test_resuming_checks_every_place_again(folder, tmp_path, caplog, contents):
    """Files and links created since the interruption are not overwritten or followed."""
    put(folder / ".augmented", {"4.png": b"new", "augment.tsv": listed("4.png")})
    put(folder, {"4.png": b"mine"})
    with pytest.raises(CnnkitError, match=r"4\.png already exists; move it away or choose another folder$"):
        atomic_folder.earlier(folder, force=False)
    assert (folder / "4.png").read_bytes() == b"mine"
    assert caplog.messages == [f"{folder}: not all copies are in place; run the command again to resume"]
    (folder / "4.png").unlink()
    assert atomic_folder.earlier(folder, force=False) == {"4.png"}
    assert contents(folder) == {"4.png": b"new", "augment.tsv": listed("4.png")}
    put(folder / ".augmented", {"cat/4.png": b"newer", "augment.tsv": listed("cat/4.png")})
    put(tmp_path / "outside", {"4.png": b"theirs"})
    (folder / "cat").symlink_to(tmp_path / "outside")
    with pytest.raises(CnnkitError, match="is a link that leads out of"):
        atomic_folder.earlier(folder, force=True)
    assert (tmp_path / "outside" / "4.png").read_bytes() == b"theirs"


def test_archives_are_replaced_as_a_whole(folder, monkeypatch, contents):
    """At every step each archive is complete, old or new; one that holds the only copy of an image is not replaced."""
    old, new = ("images-000000.tar", "images-000001.tar"), ("images-000000.tar", "train-000000.tar")
    rows = {names: listed(*(f"{name}/cat/{n}.png" for n in range(3) for name in names)) for names in (old, new)}

    def move(replaceable):
        with atomic_folder.staging_folder(folder, replaceable) as made:
            put(made, dict.fromkeys(new, b"new") | {"augment.tsv": rows[new]})

    moved = 0
    for step in range(2, 99):
        shutil.rmtree(folder, ignore_errors=True)
        put(folder, dict.fromkeys(old, b"old") | {"augment.tsv": rows[old], "mine-000000.tar": b"mine"})
        replaceable = atomic_folder.earlier(folder, force=True)
        assert replaceable == set(old)
        complete = cut_at(step, monkeypatch, lambda replaceable=replaceable: move(replaceable))
        if not complete and not (folder / ".augmented").is_dir():
            continue
        moved += 1
        assert (folder / old[0]).read_bytes() in (b"old", b"new")
        assert atomic_folder.earlier(folder, force=True) == set(new)
        assert contents(folder) == {
            **dict.fromkeys(new, b"new"),
            "augment.tsv": rows[new],
            "mine-000000.tar": b"mine",
        }
        if complete:
            break
    assert moved >= 5
    kept = tsv.render(COLUMNS, [(f"{old[0]}/1~00.png", "gone.png", "0"), (f"{old[0]}/1~01.png", "gone.png", "1")])
    (folder / "augment.tsv").write_bytes(kept)
    assert atomic_folder.earlier(folder, force=True) == frozenset()


def test_class_folders_called_like_archives(folder, contents):
    """Their images are replaced one by one."""
    write(folder, {"photos-000000.tar/1.png": b"old"})
    put(folder, {"photos-000000.tar/mine.txt": b"mine"})
    write(folder, {"photos-000000.tar/2.png": b"new"}, force=True)
    assert sorted(contents(folder)) == ["augment.tsv", "photos-000000.tar/2.png", "photos-000000.tar/mine.txt"]


@pytest.mark.parametrize("left", [False, True])
def test_works_without_folder_locks(folder, monkeypatch, left):
    """As on NFS: a running command is still detected, and the remains of a killed one are no obstacle."""

    def flock(descriptor, _):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    if left:
        put(folder, {".augmenting/x": b"half", "..augmenting.lock": b""})
    write(folder, OLD)
    assert sorted(os.listdir(folder)) == ["augment.tsv", "cat", "dog"]
    with (
        atomic_folder.staging_folder(folder, set()),
        pytest.raises(CnnkitError, match="another run is writing into it"),
    ):
        atomic_folder.check(folder, force=True)
