"""Features on disk: the round trip, incomplete files are never read, and a run stopped anywhere can be resumed."""

import io
import json
import os

import numpy as np
import pytest
import torch

from cnnkit.choices import Pool
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import features, manifest
from cnnkit.formats.features import FeatureWriter
from cnnkit.formats.header import ArtefactKind, Backbone, Header, Preprocess
from cnnkit.formats.manifest import ManifestRow

HEADER = Header(
    ArtefactKind.FEATURES,
    None,
    Preprocess(),
    Backbone("mobilenet_v2", "features.18", Pool.AVG, "c0ffee"),
    made_by={"a": "1"},
)
NAMES = ["plain.jpg", "tab\there.jpg", "Ünïcode ☃.png", "back\\slash.png", "../up/one.jpg", "not-utf-\udcff8.jpg"]


def rows(count, start=0):
    return [
        ManifestRow(f"{index}-{NAMES[index % 6]}", ("cat", "dog")[index % 2], "train")
        for index in range(start, start + count)
    ]


def values(count, start=0, shape=(5,), dtype=np.float32):
    drawn = [np.random.default_rng(index).standard_normal(shape) for index in range(start, start + count)]
    return np.asarray(drawn, dtype=dtype).reshape(count, *shape)


def writer(path, **changes):
    words = {"shape": (5,), "dtype": "float32", "header": HEADER, "settings": {"batch": 4}, **changes}
    return FeatureWriter(path, **words)


def write(path, count=10, batch=4, **changes):
    """Write features of `count` images in batches."""
    with writer(path, **changes) as file:
        for start in range(0, count, batch):
            size = min(batch, count - start)
            shape = changes.get("shape", (5,))
            file.write(values(size, start, shape), rows(size, start))
    return path


def content(path):
    return {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".npy", ".tsv", ".json")}


class Killed(BaseException):
    """Simulates the end of a process that is killed."""


# ---------------------------------------------------------------- round trip


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(5,), (3, 2, 4)])
def test_round_trip(tmp_path, shape, dtype):
    """Values, rows with any names, and the Header are preserved; numpy.load reads the values."""
    path = write(tmp_path / "train.npy", shape=shape, dtype=dtype)
    loaded = features.load(path)
    assert loaded.values.dtype == dtype
    np.testing.assert_array_equal(loaded.values, values(10, shape=shape).astype(dtype))
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), loaded.values)
    assert loaded.rows == rows(10)
    assert loaded.header == HEADER.but(classes=("cat", "dog"))
    assert isinstance(loaded.values, np.memmap)
    assert sorted(os.listdir(tmp_path)) == ["train.json", "train.npy", "train.tsv"]


def test_npy_is_byte_identical_to_numpys(tmp_path):
    """Though the number of rows was unknown when its header was first written."""
    path = write(tmp_path / "train.npy")
    np.save(tmp_path / "numpy.npy", values(10))
    assert path.read_bytes() == (tmp_path / "numpy.npy").read_bytes()


def test_same_rows_give_same_bytes(tmp_path):
    """The folder's name, the time and the batch size do not affect the files."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert content(write(tmp_path / "a" / "x.npy", batch=4)) == content(write(tmp_path / "b" / "x.npy", batch=3))


def test_readers_see_complete_files_or_none(tmp_path):
    """During writing only the parts exist."""
    path = tmp_path / "train.npy"
    with writer(path) as file:
        file.write(values(4), rows(4))
        assert sorted(os.listdir(tmp_path)) == ["train.json.part", "train.npy.part", "train.tsv.part"]
    assert sorted(os.listdir(tmp_path)) == ["train.json", "train.npy", "train.tsv"]


def test_old_features_stay_until_new_ones_are_complete(tmp_path):
    """They can be read until they are replaced."""
    path = write(tmp_path / "train.npy")
    with writer(path) as file:
        file.write(values(2, 50), rows(2, 50))
        assert len(features.load(path).rows) == 10
    assert len(features.load(path).rows) == 2


def test_labels_in_another_encoding(tmp_path):
    """A class name that is not UTF-8, from a folder's name, is preserved in the Header."""
    with writer(tmp_path / "x.npy") as file:
        file.write(values(3), [ManifestRow("1.jpg", "кошка"), ManifestRow("2.jpg", "caf\udce9"), ManifestRow("3.jpg")])
    assert features.load(tmp_path / "x.npy").header.classes == ("caf\udce9", "кошка")


# ---------------------------------------------------------------- files that do not match


@pytest.mark.parametrize("suffix", [".json", ".tsv"])
def test_missing_json_or_tsv(tmp_path, suffix):
    """An array alone is not features; the message says which file is missing and what to do."""
    path = write(tmp_path / "train.npy")
    path.with_suffix(suffix).unlink()
    with pytest.raises(FormatError, match=rf"train\.npy: train\{suffix} is missing next to it; run cnn-extract again"):
        features.load(path)


def test_missing_npy(tmp_path):
    """The message names the command that makes one."""
    with pytest.raises(FormatError, match=r"none\.npy: no such file; make features with cnn-extract"):
        features.load(tmp_path / "none.npy")


def test_rejects_different_numbers_of_rows(tmp_path):
    """The message gives both numbers."""
    path = write(tmp_path / "train.npy")
    manifest.save(path.with_suffix(".tsv"), rows(9))
    with pytest.raises(FormatError, match=r"train\.npy has 10 rows, train\.tsv has 9; run cnn-extract again"):
        features.load(path)


def test_rejects_another_kind_of_header(tmp_path):
    """The message says what was found and what was expected."""
    path = write(tmp_path / "train.npy")
    path.with_suffix(".json").write_text(HEADER.but(kind=ArtefactKind.MODEL).to_json())
    with pytest.raises(FormatError, match=r"train\.json: found model, expected features; make one with cnn-extract"):
        features.load(path)
    path.with_suffix(".json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(FormatError, match=r"train\.json: no cnnkit header"):
        features.load(path)


def test_rejects_names_other_than_npy(tmp_path):
    """As a usage error, before anything is written."""
    for name in ("train.npz", "train", "train.json"):
        with pytest.raises(UsageError, match=r"features are written to a \.npy file"):
            writer(tmp_path / name)
        with pytest.raises(UsageError, match=r"not a features file; give the \.npy written by cnn-extract"):
            features.load(tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("neighbour", ["split.tsv", "split.json"])
def test_other_files_are_not_overwritten(tmp_path, neighbour):
    """`cnn-extract split.tsv -o split.npy` must not replace the manifest it reads."""
    (tmp_path / neighbour).write_text("path\tlabel\na.jpg\tcat\n")
    with pytest.raises(UsageError, match=rf"split\.npy: {neighbour} would be overwritten, .*choose another name"):
        writer(tmp_path / "split.npy")
    assert (tmp_path / neighbour).read_text().startswith("path")


# ---------------------------------------------------------------- other arrays


def test_plain_arrays_are_read(tmp_path):
    """Any float array with two or four axes is accepted, without .tsv and .json."""
    for array in (np.zeros((3, 4)), np.zeros((3, 4), np.float16), np.zeros((2, 3, 4, 4), np.float32, order="F")):
        np.save(tmp_path / "x.npy", array)
        np.testing.assert_array_equal(features.load_values(tmp_path / "x.npy"), array)


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros((2, 3, 4)), np.zeros((2, 3), np.int64), np.zeros((2, 3), complex), np.array(["a"])]
)
def test_rejects_other_shapes_and_types(tmp_path, array):
    """The message says what was found and what was expected."""
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(
        FormatError,
        match=rf"found {array.dtype} of shape .*expected float \(N, D\) or \(N, C, H, W\)".replace("<", "."),
    ):
        features.load_values(tmp_path / "x.npy")


@pytest.mark.parametrize("shape", [(3, 0), (3, 4, 0, 2)])
def test_rejects_rows_without_values(tmp_path, shape):
    """Here, before a training reports an input of 0 channels."""
    np.save(tmp_path / "x.npy", np.zeros(shape, np.float32))
    with pytest.raises(FormatError, match=r"x\.npy: rows without values \(shape .*\); run cnn-extract again"):
        features.load_values(tmp_path / "x.npy")


def bomb():
    raise AssertionError("a pickle was run")


class Bomb:
    """A pickle that runs code."""

    def __reduce__(self):
        return bomb, ()


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00{'descr': ((((", b"PK\x03\x04"]
)
def test_rejects_other_bytes(tmp_path, content):
    """Any other content is one line."""
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(FormatError, match=r"x\.npy: not a plain array of numbers"):
        features.load_values(tmp_path / "x.npy")


def test_pickles_are_not_run(tmp_path):
    """Arrays of objects, archives and headers with wrong lengths are refused."""
    np.save(tmp_path / "x.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match="not a plain array of numbers"):
        features.load_values(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(FormatError, match="not a plain array of numbers"):
        features.load_values(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.zeros((100, 5)))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    with pytest.raises(FormatError, match="truncated"):
        features.load_values(tmp_path / "x.npy")
    huge = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 5), }"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + huge.ljust(117) + b"\n")
    with pytest.raises(FormatError, match="not a plain array of numbers"):
        features.load_values(tmp_path / "x.npy")


# ---------------------------------------------------------------- stopped and resumed


def begin(path, count=8, batch=4, **changes):
    """Leave the parts as a killed process does, without what the `with` statement does at its end."""
    left = {}

    def stopped():
        with writer(path, **changes) as file:
            for start in range(0, count, batch):
                file.write(values(batch, start), rows(batch, start))
            left.update({part: part.read_bytes() for part in parts(path)})
            raise Killed

    with pytest.raises(Killed):
        stopped()
    for part, content in left.items():
        part.write_bytes(content)


def resume(path, count=10, batch=4, **changes):
    """Resume and write the missing rows; return the number of rows kept."""
    file = writer(path, **changes)
    done = file.resume(multiple_of=batch)
    assert done == rows(len(done))
    with file:
        for start in range(len(done), count, batch):
            size = min(batch, count - start)
            file.write(values(size, start), rows(size, start))
    return len(done)


def parts(path):
    return [path.with_name(f"{path.stem}{suffix}.part") for suffix in (".npy", ".tsv", ".json")]


@pytest.fixture
def whole(tmp_path):
    """The bytes of a run that was not stopped."""
    (tmp_path / "whole").mkdir()
    return content(write(tmp_path / "whole" / "x.npy"))


@pytest.mark.parametrize(
    ("values_cut", "rows_cut", "kept"),
    [
        (0, 0, 8),
        (1, 0, 4),  # in the middle of a value
        (20, 0, 4),  # a whole row of values less
        (5 * 20, 0, 0),
        (10**6, 0, 0),  # nothing of the .npy, not even its header
        (0, 1, 4),  # the last newline is missing
        (0, 9, 4),  # in the middle of a row
        (0, 10**6, 0),  # nothing of the .tsv, not even its header row
        (3, 3, 4),
        (10**6, 10**6, 0),
    ],
)
def test_resume_is_byte_identical(tmp_path, whole, values_cut, rows_cut, kept):
    """However much of the .npy and the .tsv reached the disk."""
    path = tmp_path / "x.npy"
    begin(path)
    for part, cut in zip(parts(path)[:2], (values_cut, rows_cut), strict=True):
        held = part.read_bytes()
        part.write_bytes(held[: max(len(held) - cut, 0)])
    assert resume(path) == kept
    assert content(path) == whole
    assert not any(part.exists() for part in parts(path))


def test_resume_after_every_truncation_of_the_tsv(tmp_path, whole):
    """The result is the same for every length of the .tsv, with more values than rows."""
    path = tmp_path / "x.npy"
    begin(path)
    saved = {part: part.read_bytes() for part in parts(path)}
    for length in range(len(saved[parts(path)[1]]) + 1):
        for part, held in saved.items():
            part.write_bytes(held)
        for file in (path, path.with_suffix(".tsv"), path.with_suffix(".json")):
            file.unlink(missing_ok=True)
        parts(path)[1].write_bytes(saved[parts(path)[1]][:length])
        resume(path)
        assert content(path) == whole


@pytest.mark.parametrize("missing", [0, 1, 2, None])
def test_resume_starts_over_without_all_parts(tmp_path, whole, missing):
    """If one of the parts is missing, or no row was written."""
    path = tmp_path / "x.npy"
    begin(path, count=8 if missing is not None else 0)
    if missing is not None:
        parts(path)[missing].unlink()
    assert resume(path) == 0
    assert content(path) == whole


@pytest.mark.parametrize("step", ["replace 1", "replace 2", "json", "unlink"])
def test_stopped_between_renames(tmp_path, whole, monkeypatch, step):
    """At the end of a run: incomplete features are not read, and all rows are kept."""
    path = tmp_path / "x.npy"
    count = 0

    def stopping(function, when):
        def stopped(*words, **options):
            nonlocal count
            count += 1
            if count == when:
                raise Killed
            return function(*words, **options)

        return stopped

    def write_and_stop(patch):
        with writer(path) as file:
            for start in (0, 4, 8):
                file.write(values(min(4, 10 - start), start), rows(min(4, 10 - start), start))
            if step.startswith("replace"):
                patch.setattr("pathlib.Path.replace", stopping(type(path).replace, int(step[-1])))
            elif step == "json":
                patch.setattr("cnnkit.formats.atomic.writing", stopping(None, 1))
            else:
                patch.setattr("pathlib.Path.unlink", stopping(type(path).unlink, 2))

    with monkeypatch.context() as patch, pytest.raises(Killed):
        write_and_stop(patch)
    if step == "unlink":
        assert features.load(path).rows == rows(10)  # only a part was left to remove
        assert writer(path).finished() == rows(10)
    else:
        with pytest.raises(FormatError):
            features.load(path)
        assert resume(path) == 8
    assert content(path) == whole


def test_old_features_are_not_resumed(tmp_path, whole):
    """If a run that replaces features is stopped, the old ones stay, and are not used as its parts."""
    path = write(tmp_path / "x.npy", count=3)
    begin(path)
    assert len(features.load(path).rows) == 3
    parts(path)[0].unlink()
    assert resume(path) == 0
    assert content(path) == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"batch": 8}}, "started with batch 4, now 8"),
        ({"dtype": "float16"}, "started with dtype float32, now float16"),
        ({"shape": (6,)}, r"started with shape \[5\], now \[6\]"),
        (
            {"header": HEADER.but(backbone=Backbone("vgg16", "features.18", Pool.AVG))},
            "backbone name mobilenet_v2, now vgg16",
        ),
        ({"header": HEADER.but(preprocess=Preprocess(size=192))}, "preprocess size 224, now 192"),
        ({"header": HEADER.but(made_by={"a": "2"})}, "made_by {'a': '1'}, now {'a': '2'}"),
    ],
)
def test_resume_rejects_other_settings(tmp_path, changes, message):
    """The message gives the setting with both values, and the parts are kept."""
    path = tmp_path / "x.npy"
    begin(path)
    before = [part.read_bytes() for part in parts(path)]
    with pytest.raises(FormatError, match=rf"x\.npy\.part: .*{message}; start over without --resume"):
        writer(path, **changes).resume(multiple_of=4)
    assert [part.read_bytes() for part in parts(path)] == before


def test_errors_keep_parts_that_have_rows(tmp_path):
    """For --resume; parts without a row are removed."""
    path = tmp_path / "x.npy"

    def fail(count):
        with writer(path) as file:
            file.write(values(count), rows(count))
            raise Killed

    with pytest.raises(Killed):
        fail(4)
    assert sorted(os.listdir(tmp_path)) == ["x.json.part", "x.npy.part", "x.tsv.part"]
    with pytest.raises(Killed):
        fail(0)
    assert os.listdir(tmp_path) == []


def test_starting_over_discards_the_old_settings(tmp_path):
    """Also if the new run is killed at its start."""
    path = tmp_path / "x.npy"
    begin(path)
    other = HEADER.but(made_by={"a": "2"})
    begin(path, count=0, header=other)
    assert writer(path, header=other).resume(multiple_of=4) == []
    assert json.loads(parts(path)[2].read_text())["made_by"] == {"a": "2"}


def test_finished_features_are_recognised(tmp_path):
    """By the same header, shape and dtype only."""
    path = write(tmp_path / "x.npy")
    assert writer(path).finished() == rows(10)
    for changes in ({"dtype": "float16"}, {"shape": (6,)}, {"header": HEADER.but(made_by={})}):
        assert writer(path, **changes).finished() is None
    path.with_suffix(".json").unlink()
    path.with_suffix(".tsv").unlink()
    assert writer(path).finished() is None


# ---------------------------------------------------------------- untrusted files


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(("row", "kept"), [(0, 0), (3, 0), (4, 4), (7, 4)])
def test_resume_recomputes_damaged_rows(tmp_path, caplog, which, row, kept):
    """It continues after the last batch with the right checksums."""
    path, whole = tmp_path / "x.npy", content(write(tmp_path / "whole.npy"))
    begin(path, count=8)
    part = parts(path)[which]
    held = bytearray(part.read_bytes())
    place = len(held) - (8 - row) * 20 if which == 0 else held.index(str(row).encode() + b"-")
    held[place] ^= 1
    part.write_bytes(held)
    again = writer(path)
    assert len(again.resume(multiple_of=4)) == kept
    with again:
        again.write(values(10 - kept, kept), rows(10 - kept, kept))
    assert content(path) == whole
    assert f"x.npy.part: damaged; only the first {kept} of 8 rows are kept" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, b"nothing here"])
def test_resume_starts_over_without_valid_settings(tmp_path, damage):
    """If the settings of the earlier run are damaged, its rows cannot be trusted."""
    path = tmp_path / "x.npy"
    begin(path)
    parts(path)[2].write_bytes(damage)
    assert writer(path).resume(multiple_of=4) == []
    assert content(write(path)) == content(write(tmp_path / "whole.npy"))


@pytest.mark.parametrize("make", [os.link, os.symlink])
def test_links_in_place_of_parts_are_not_followed(tmp_path, make):
    """The other file is unchanged, whether a run starts over or resumes."""
    path = tmp_path / "x.npy"
    for resumes in (False, True):
        begin(path)
        for number, part in enumerate(parts(path)[:2]):
            other = tmp_path / f"victim{number}"
            other.write_bytes(part.read_bytes())
            part.unlink()
            make(other, part)
        before = [(tmp_path / f"victim{number}").read_bytes() for number in range(2)]
        file = writer(path)
        if resumes:
            assert file.resume(multiple_of=4) == []
        with file:
            file.write(values(2), rows(2))
        assert [(tmp_path / f"victim{number}").read_bytes() for number in range(2)] == before
        assert [os.path.islink(final) for final in tmp_path.glob("x.*")] == [False] * 3


def test_rejects_a_link_in_place_of_the_locked_part(tmp_path):
    """A symbolic link is refused, and a hard link is replaced."""
    path = tmp_path / "x.npy"
    (tmp_path / "victim").write_bytes(b"precious")
    described = parts(path)[2]
    described.symlink_to("victim")
    with pytest.raises(CnnkitError, match=r"x\.json\.part is in the way, and is not a file; remove it"):
        write(path)
    described.unlink()
    os.link(tmp_path / "victim", described)
    write(path)
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["victim", "x.json", "x.npy", "x.tsv"]


def test_second_run_is_refused(tmp_path):
    """Resumed or not; the files are those of the first run, as if it had been alone."""
    path = tmp_path / "x.npy"
    with writer(path) as file:
        file.write(values(4), rows(4))
        for second in (writer(path), writer(path, header=HEADER.but(made_by={}))):
            with pytest.raises(CnnkitError, match=r"x\.npy: another run is writing it; wait"), second:
                pytest.fail("two runs at once")
            with pytest.raises(CnnkitError, match=r"x\.npy: another run is writing it; wait"):
                second.resume(multiple_of=4)
        file.write(values(6, 4), rows(6, 4))
    assert content(path) == content(write(tmp_path / "alone.npy"))
    assert content(write(path)) == content(path)


def raw(shape, *, descr="<f4", fortran=False, body=b""):
    """Return a .npy with any header."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return buffer.getvalue() + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        raw((10**18, 5)),
        raw((10**30, 5)),
        raw((2**62, 2**62)),
        raw((-1, 5)),
        raw((4, 5), body=b"\0" * 79),
        raw((4, 5), descr="|O", body=b"\0" * 160),
        raw((4, 5), descr="<i4", body=b"\0" * 80),
        raw((4, 5), descr="<c8", body=b"\0" * 160),
        raw((4, 5), descr="|S4", body=b"\0" * 80),
        raw((4, 5), descr="<f16", body=b"\0" * 320),
        raw((4,), body=b"\0" * 16),
        raw((), body=b"\0" * 4),
        raw((1,) * 33, body=b"\0" * 4),
        raw((4, 5), descr=[("a", "<f4")], body=b"\0" * 80),
        raw((4, 5))[:-3],
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
        b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 100,
        b"PK\x03\x04" + b"\0" * 100,
    ],
    ids=range(20),
)
def test_rejects_arrays_that_are_not_features(tmp_path, content):
    """Any other array, or a header without its values, in one line that names the file."""
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(FormatError, match=r"x\.npy: (found|not a plain array)") as caught:
        features.load_values(tmp_path / "x.npy")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [">f4", ">f2", ">f8", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_byte_and_axis_orders(tmp_path, dtype, order):
    """The numbers are the same, in an array that torch accepts."""
    np.save(tmp_path / "x.npy", np.asarray(values(4), dtype=dtype, order=order))
    loaded = features.load_values(tmp_path / "x.npy")
    np.testing.assert_array_equal(loaded, values(4).astype(dtype))
    assert torch.from_numpy(np.array(loaded)).shape == (4, 5)


def test_failed_start_removes_parts_and_lock(tmp_path, monkeypatch):
    """If the disk is full before the first row, the same process can try again."""
    path = tmp_path / "train.npy"

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "render", full)
        with pytest.raises(OSError, match="No space left"), writer(path):
            pytest.fail("written")
    assert os.listdir(tmp_path) == []
    (tmp_path / "train.tsv.part").mkdir()
    with pytest.raises(CnnkitError, match="in the way"), writer(path):
        pytest.fail("written")
    assert os.listdir(tmp_path) == ["train.tsv.part"]
    (tmp_path / "train.tsv.part").rmdir()
    assert features.load_values(write(path)).shape == (10, 5)
