"""Images and arrays on disk: complete or absent."""

import numpy as np
import pytest
from PIL import Image

from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import image_files


def image(seed, size=(6, 4)):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def same(path, expected):
    with Image.open(path) as found:
        return found.format == "PNG" and np.array_equal(np.asarray(found), np.asarray(expected))


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_save_image(tmp_path):
    """Writes a PNG with the given pixels, replaces an older one, and leaves no other file."""
    for seed in (0, 1):
        image_files.save(tmp_path / "one.png", image(seed))
        assert same(tmp_path / "one.png", image(seed))
    assert everything(tmp_path) == ["one.png"]


def test_save_image_in_another_format(tmp_path):
    """Options of Pillow's format are passed on."""
    image_files.save(tmp_path / "one.jpg", image(0), format="JPEG", quality=95)
    with Image.open(tmp_path / "one.jpg") as found:
        assert (found.format, found.size) == ("JPEG", (6, 4))


class Broken(Image.Image):
    """An image that cannot be written."""

    def save(self, *_words, **_settings):
        """Fail."""
        raise OSError("no encoder")


def test_failed_save_keeps_the_old_file(tmp_path):
    """And leaves no other file."""
    image_files.save(tmp_path / "one.png", image(0))
    with pytest.raises(OSError, match="no encoder"):
        image_files.save(tmp_path / "one.png", Broken())
    assert same(tmp_path / "one.png", image(0))
    assert everything(tmp_path) == ["one.png"]


def test_save_folder(tmp_path):
    """Writes each image under its name; an older folder is removed with all of its contents."""
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "old.png").write_text("old")
    (tmp_path / "maps" / "deep").mkdir()
    image_files.save_folder(tmp_path / "maps", ((f"{index:03d}.png", image(index)) for index in range(3)))
    assert everything(tmp_path) == ["maps", "maps/000.png", "maps/001.png", "maps/002.png"]
    assert all(same(tmp_path / "maps" / f"{index:03d}.png", image(index)) for index in range(3))


def test_save_folder_by_a_bare_name(tmp_path, monkeypatch):
    """Writes into the current folder, with the permissions of a new folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").mkdir()
    image_files.save_folder("maps", [("a.png", image(0))])
    assert everything(tmp_path) == ["maps", "maps/a.png", "plain"]
    assert (tmp_path / "maps").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("older", [True, False])
def test_exception_keeps_the_old_folder(tmp_path, older, error):
    """If there is one, and leaves nothing else."""
    if older:
        image_files.save_folder(tmp_path / "maps", [("old.png", image(0))])

    def breaking():
        yield "new.png", image(1)
        assert everything(tmp_path / "maps") == ["old.png"] if older else not (tmp_path / "maps").exists()
        raise error

    with pytest.raises(error):
        image_files.save_folder(tmp_path / "maps", breaking())
    assert everything(tmp_path) == (["maps", "maps/old.png"] if older else [])


def test_missing_parent_folder(tmp_path):
    """The error names a path that the user knows."""
    with pytest.raises(FileNotFoundError) as error:
        image_files.save_folder(tmp_path / "missing" / "maps", [("a.png", image(0))])
    assert str(tmp_path / "missing") in str(error.value.filename)


def test_save_array(tmp_path):
    """numpy reads it without pickling, to the bit; an array of objects is refused, and nothing is left."""
    values = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    image_files.save_array(tmp_path / "map.npy", values)
    found = np.load(tmp_path / "map.npy", allow_pickle=False)
    assert found.dtype == np.float32
    assert np.array_equal(found, values)
    with pytest.raises(ValueError, match="Object arrays"):
        image_files.save_array(tmp_path / "map.npy", np.array([None]))
    assert np.array_equal(np.load(tmp_path / "map.npy"), values)
    assert everything(tmp_path) == ["map.npy"]


def test_check_png_rejects_other_endings_and_missing_folders(tmp_path):
    """With the option and the name; upper case is accepted."""
    image_files.check_png(tmp_path / "b.PNG", option="-o")
    with pytest.raises(CnnkitError, match=r"nowhere: no such folder to write b\.png into$"):
        image_files.check_png(tmp_path / "nowhere" / "b.png", option="-o")
    for name in ("map.jpg", "map", "png", ".png"):
        with pytest.raises(
            UsageError, match=rf"^-o {name}: the image is written as PNG; give it a name that ends in \.png$"
        ):
            image_files.check_png(name, option="-o")


def test_temporary_folders_of_killed_runs_are_removed(tmp_path):
    """But nothing else with a similar name."""
    (tmp_path / ".maps.abcd_123" / "made").mkdir(parents=True)
    (tmp_path / ".maps.20240101").mkdir()
    (tmp_path / ".maps.20240101" / "mine.txt").write_bytes(b"")
    (tmp_path / ".other.abcd_123").mkdir()
    image_files.save_folder(tmp_path / "maps", [("a.png", image(0))])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".maps.20240101", ".other.abcd_123", "maps"]


def test_longest_folder_name(tmp_path):
    """The name of the temporary folder also fits."""
    for _ in range(2):
        image_files.save_folder(tmp_path / ("n" * 255), [("a.png", image(0))])
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]
