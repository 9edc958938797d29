"""Files in tar archives: their index and their contents, against tarfile; hostile archives."""

import gzip
import io
import os
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

import cnnkit
from cnnkit import files, tar_archives
from cnnkit.data import decode, reader, source
from cnnkit.data.workers import Workers, value_of
from cnnkit.errors import BadImageError, CnnkitError


def member(name, content=b"", **fields):
    """Return a member of an archive and its content."""
    made = tarfile.TarInfo(name)
    made.size = len(content)
    for field, value in fields.items():
        setattr(made, field, value)
    return made, content


def write(path, *members, kind=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", format=kind) as archive:
        for made, content in members:
            archive.addfile(made, io.BytesIO(content))
    return str(path)


def tiff():
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "TIFF", compression="tiff_lzw")
    return file.getvalue()


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_contents_are_those_of_tarfile(tmp_path, kind):
    """In the archive's order, with long names, names that are not ASCII, and sizes around those of blocks."""
    names = [
        "b/2.jpg",
        "a/1.jpg",
        "ä.jpg",
        "/".join(["x" * 90] * 2) + ".jpg",
        *(f"{size}" for size in (0, 511, 512, 513)),
    ]
    if kind != tarfile.USTAR_FORMAT:
        names.append("y" * 300)
    path = write(
        tmp_path / "a.TAR",
        *(member(name, os.urandom(int(name) if name.isdecimal() else 3000)) for name in names),
        kind=kind,
    )
    index = files.tar_index(path)
    assert list(index.members) == names
    with tarfile.open(path) as archive:
        for name in names:
            with files.open_regular(f"{path}/{name}") as file:
                content = archive.extractfile(name).read()
                assert file.read() == content
                assert files.size_of(file) == files.regular_size(f"{path}/{name}") == len(content)
                assert file.seek(-min(3, len(content)), os.SEEK_END) == max(len(content) - 3, 0)
                assert file.read() == content[-3:]
                assert file.name == f"{path}/{name}"
    assert list(files.read_members(index, names[:2], most=10)) == [None, None]


def test_images_are_decoded_from_the_member(tmp_path):
    """Also a compressed TIFF, whose library reads from a descriptor if it gets one: it would read the whole archive."""
    path = write(tmp_path / "a.tar", member("0.tif", tiff()), member("1.tif", tiff()))
    assert decode.load(f"{path}/1.tif").tobytes() == Image.open(io.BytesIO(tiff())).tobytes()


def test_threads_read_one_archive(tmp_path):
    """Each has a position of its own."""
    path = write(tmp_path / "a.tar", *(member(str(number), bytes([number]) * 10000) for number in range(40)))
    right = []

    def read(number):
        right.append(files.read_regular(f"{path}/{number}") == bytes([number]) * 10000)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 40


def test_names_are_normalized(tmp_path):
    """As of `tar -cf a.tar .`; hard links are their targets, and of a repeated name the last member is read, as tar unpacks it."""
    path = write(
        tmp_path / "a.tar",
        member("./", type=tarfile.DIRTYPE),
        member("./a//1", b"1"),
        member("link", type=tarfile.LNKTYPE, linkname="./a/1"),
        member("twice", b"2"),
        member("twice", b"3"),
    )
    assert list(files.tar_index(path).members) == ["a/1", "link", "twice"]
    assert files.tar_index(path).repeated == ["twice"]
    assert files.read_regular(f"{path}/./a/1") == files.read_regular(f"{path}/link") == b"1"
    assert files.read_regular(f"{path}/twice") == b"3"
    assert files.exists(f"{path}/twice")
    assert not files.exists(f"{path}/once")


@pytest.mark.parametrize(
    "made",
    [
        member("/etc/passwd", b"x"),
        member("../up", b"x"),
        member("a/../../up", b"x"),
        member("symbolic", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("hard", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        member("pipe", type=tarfile.FIFOTYPE),
        member("device", type=tarfile.CHRTYPE),
        member("sparse", type=tarfile.GNUTYPE_SPARSE),
    ],
    ids=lambda made: made[0].name,
)
def test_unsafe_members_are_not_read(tmp_path, made):
    """They are counted, and no path leads to them or out of the archive."""
    path = write(tmp_path / "a.tar", made, member("good", b"1"))
    (tmp_path / "up").write_bytes(b"secret")
    index = files.tar_index(path)
    assert list(index.members) == ["good"]
    assert len(index.unusable) == 1
    with pytest.raises(OSError, match=r"(?i)no such file|not a directory"):
        files.open_regular(f"{path}/{made[0].name}")


def test_long_names(tmp_path):
    """Up to 4,096 bytes they are read, although no file system has such a path; others are counted."""
    long = "/".join(["ä" * 100] * 20)  # 4,019 bytes
    path = write(
        tmp_path / ("a" * 90 + ".tar"), member(long, b"1"), member(long + "x" * 78, b"2"), member("good", b"3")
    )
    assert list(files.tar_index(path).members) == [long, "good"]
    assert len(files.tar_index(path).unusable) == 1
    assert files.read_regular(f"{path}/{long}") == b"1"
    assert files.regular_size(f"{path}/{long}") == 1
    assert files.exists(f"{path}/{long}")
    with pytest.raises(OSError, match="File name too long"):
        files.open_regular(f"{tmp_path}/{long}{'x' * 78}")


def test_long_paths_are_divided_in_a_short_time(monkeypatch):
    """No archive has a path of more than 4,096 bytes: after them no name is examined."""
    examined = []
    usable = tar_archives._usable_name
    monkeypatch.setattr(tar_archives, "_usable_name", lambda name: examined.append(name) or usable(name))
    assert not list(tar_archives.divided("a.tar/" * 300_000))
    assert list(tar_archives.divided("a.tar/" * 300)) == [
        (("a.tar/" * count)[:-1], ("a.tar/" * (300 - count))[:-1]) for count in range(1, 300)
    ]
    assert list(tar_archives.divided("ä" * 2050 + ".tar/1")) == []
    assert len(examined) < 2000


def test_missing_files_are_named(tmp_path):
    """In an archive, and where a file that is no archive is taken for a folder."""
    path = write(tmp_path / "a.tar", member("1", b"1"))
    with pytest.raises(FileNotFoundError, match=rf"no such file in the archive {path}: '{path}/2'"):
        files.open_regular(f"{path}/2")
    (tmp_path / "b.txt").touch()
    with pytest.raises(NotADirectoryError):
        files.open_regular(tmp_path / "b.txt" / "1")


def _damaged(content):
    whole = bytearray(content)
    whole[1024 + 200] ^= 1  # in the header of the second member
    return bytes(whole)


def _huge(content, size=b"777777777777", kind=b"x"):
    """Return an archive whose first header claims to be of extended headers of 64 GB."""
    made, _ = member("x")
    made.size = 0
    block = bytearray(made.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size.ljust(12, b"\0") if len(size) < 12 else size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:1000], "truncated"),
        (lambda content: content[:2000], "truncated"),
        (lambda content: b"", "an empty file, not a tar archive"),
        (lambda content: b"not a tar archive" * 100, "not a tar archive, damaged or truncated"),
        (_damaged, "damaged header"),
        (gzip.compress, "compressed, although it is called .tar; rename and decompress it with gunzip"),
        (_huge, "headers of more than 1 MB"),
        (lambda content: _huge(content, kind=b"L"), "headers of more than 1 MB"),
        (lambda content: _huge(content, size=b"\xff" * 10 + b"\xfc\0"), "not a tar archive, damaged or truncated"),
        (
            lambda content: _huge(content, size=b"\xff" * 10 + b"\xf8\0", kind=b"0"),
            "not a tar archive, damaged or truncated",
        ),
        (lambda content: _huge(content, size=b"777777777777", kind=b"0"), "truncated"),
    ],
)
def test_rejects_damaged_archives(tmp_path, change, message):
    """In one line, without a loop and without memory for what a header claims."""
    path = write(tmp_path / "a.tar", member("1", b"1" * 300), member("2", b"2" * 600))
    content = change((tmp_path / "a.tar").read_bytes())
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(tar_archives.DamagedArchiveError) as refusal:
        files.tar_index(path)
    assert message in refusal.value.strerror
    assert "\n" not in refusal.value.strerror


@pytest.mark.parametrize(
    "members",
    [
        [member(str(number)) for number in range(3)],
        [member("twice")] * 3,
        [member("pipe", type=tarfile.FIFOTYPE)] * 3,
        [member("1"), member("1"), member("../up")],
    ],
    ids=("files", "repeated", "unusable", "each"),
)
def test_too_many_files(tmp_path, monkeypatch, members):
    """Their number is limited, also of those that are not read."""
    monkeypatch.setattr(tar_archives, "MOST_MEMBERS", 2)
    path = write(tmp_path / "a.tar", *members)
    with pytest.raises(tar_archives.DamagedArchiveError, match="more than 2 files"):
        files.tar_index(path)


@pytest.mark.parametrize("replaced", [False, True])
def test_an_archive_that_changes_is_noticed(tmp_path, replaced):
    """No file of it is read any more, neither from a wrong place nor one of other content, until its files are listed again."""
    path = write(tmp_path / "a.tar", member("1", b"1"))
    files.tar_index(path)
    assert files.read_regular(f"{path}/1") == b"1"
    new = write(tmp_path / ("b.tar" if replaced else "a.tar"), member("0", b"0" * 5000), member("1", b"2"))
    os.replace(new, path)
    for _ in range(2):
        with pytest.raises(CnnkitError, match=r"a\.tar has changed while it was read; run the command again"):
            files.read_regular(f"{path}/1")
        files.forget_changed_archives()
    files.tar_index(path)
    assert files.read_regular(f"{path}/1") == b"2"


def test_an_archive_is_truncated_while_a_file_is_read(tmp_path):
    """An error, not an empty rest."""
    path = write(tmp_path / "a.tar", member("1", b"1"))
    with files.open_regular(f"{path}/1") as file:
        os.truncate(path, 512)
        with pytest.raises(OSError, match="truncated while it was read"):
            file.read()


def test_lists_of_files_follow_a_changed_archive(tmp_path):
    """Only from one listing to the next."""
    path = write(tmp_path / "a.tar", member("1", b"1"))
    assert files.read_regular(f"{path}/1") == b"1"
    write(path, member("0", b"0" * 5000), member("1", b"2"))
    for _ in range(2):
        with pytest.raises(CnnkitError, match="has changed"):
            files.read_regular(f"{path}/1")
    files.forget_changed_archives()
    assert files.read_regular(f"{path}/1") == b"2"


@pytest.mark.parametrize("source", ["list.tsv", "list.txt", "a.tar/cat/1.tif"])
def test_images_are_found_again_by_their_paths(tmp_path, monkeypatch, source):
    """In Python, an archive that was listed and has changed is read as it is now; not for images found elsewhere or before."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.tsv").write_text("path\tlabel\na.tar/cat/1.tif\tcat\n")
    (tmp_path / "list.txt").write_text("a.tar/cat/1.tif\n")
    write("a.tar", member("cat/1.tif", tiff()))
    write("b.tar", member("cat/1.tif", tiff()))
    (before,) = cnnkit.find_images("a.tar")
    for changes in range(2):
        write("a.tar", member("new.tif", b"0" * 5000 * (changes + 1)), member("cat/1.tif", tiff()))
        cnnkit.find_images("b.tar")
        if not changes:
            with pytest.raises(CnnkitError, match="has changed while it was read"):
                decode.load(before.path)
        (found,) = cnnkit.find_images(source)
        assert decode.load(found.path).size == (256, 256)


def test_commands_find_no_images_of_an_archive_that_changed_since(tmp_path, monkeypatch):
    """A command finds images several times, and reads those that it found first as well."""
    monkeypatch.chdir(tmp_path)
    write("a.tar", member("cat/1.tif", tiff()))
    source.find(["a.tar"])
    write("a.tar", member("new.tif", tiff()), member("cat/1.tif", tiff()))
    with pytest.raises(CnnkitError, match="has changed while it was read"):
        source.find(["a.tar/cat/1.tif"])


def test_archives_of_two_folders_are_not_confused(tmp_path, monkeypatch):
    """Their paths relative to the current folder are the same."""
    for number in (b"1", b"2"):
        (tmp_path / number.decode()).mkdir()
        monkeypatch.chdir(tmp_path / number.decode())
        write("a.tar", member("1", number))
        files.tar_index("a.tar")
        assert files.read_regular("a.tar/1") == number


def test_a_changed_archive_ends_a_run(tmp_path):
    """It is not the fault of one image, after which the others would have labels of the archive before; also in worker processes."""
    path = write(tmp_path / "a.tar", *(member(f"{name}/1.tif", tiff()) for name in "abc"))
    images = source.find([path])
    with Workers(decode.load, count=1, threads=1) as workers:
        write(path, member("first.tif", tiff()), *(member(f"{name}/1.tif", tiff()) for name in "cba"))
        with pytest.raises(CnnkitError, match=r"a\.tar has changed while it was read") as error:
            list(reader.read(images, decode.load, jobs=1))
        assert not isinstance(error.value, BadImageError)
        for image in images:
            with pytest.raises(CnnkitError, match=r"a\.tar has changed while it was read"):
                value_of(workers.submit(image.path).result(timeout=60))


def test_damaged_archives_are_refused_or_read_as_by_tarfile(tmp_path):
    """Most with right checksums: what tarfile finds is found at the same place, unless the archive is refused."""
    rng = np.random.default_rng(5)
    names = ["a/1.jpg", "x" * 120 + ".jpg", "b/2.jpg", "c.jpg"]
    refused = 0
    for number in range(120):
        kind = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)[number % 2]
        path = write(tmp_path / "a.tar", *(member(name, b"x" * int(rng.integers(1200))) for name in names), kind=kind)
        content = bytearray((tmp_path / "a.tar").read_bytes())
        block = 512 * int(rng.integers(len(content) // 512))
        at = block + int(rng.choice([rng.integers(100), rng.integers(124, 136), 156, rng.integers(512)]))
        content[at] = int(rng.choice([0, 0x30, 0x37, 0x80, 0xFF, rng.integers(256)]))
        if number % 3:
            header = content[block : block + 512]
            header[148:156] = b" " * 8
            content[block + 148 : block + 156] = b"%06o\0 " % sum(header)
        (tmp_path / "a.tar").write_bytes(content)
        try:
            found = files.tar_index(path).members
        except tar_archives.DamagedArchiveError:
            refused += 1
            continue
        with tarfile.open(path, "r:") as archive:
            for each in archive:
                if each.isreg() and each.name in found and each.name not in files.tar_index(path).repeated:
                    assert found[each.name] == (each.offset_data, each.size)
    assert 10 < refused < 90
