"""Images and arrays on disk: whole or not at all."""

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


def test_an_image(tmp_path):
    """Is a PNG with the pixels given, replaces an older one, and is the only file there is."""
    for seed in (0, 1):
        image_files.save(tmp_path / "one.png", image(seed))
        assert same(tmp_path / "one.png", image(seed))
    assert everything(tmp_path) == ["one.png"]


def test_an_image_in_another_format(tmp_path):
    """What Pillow's format takes is passed on."""
    image_files.save(tmp_path / "one.jpg", image(0), format="JPEG", quality=95)
    with Image.open(tmp_path / "one.jpg") as found:
        assert (found.format, found.size) == ("JPEG", (6, 4))


class Broken(Image.Image):
    """An image that cannot be written."""

    def save(self, *_words, **_settings):
        """Fail."""
        raise OSError("no encoder")


def test_an_image_that_cannot_be_written(tmp_path):
    """The older file stays as it was."""
    image_files.save(tmp_path / "one.png", image(0))
    with pytest.raises(OSError, match="no encoder"):
        image_files.save(tmp_path / "one.png", Broken())
    assert same(tmp_path / "one.png", image(0))
    assert everything(tmp_path) == ["one.png"]


def test_a_folder(tmp_path):
    """Holds each image under its name; an older folder goes altogether, whatever was in it."""
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "old.png").write_text("old")
    (tmp_path / "maps" / "deep").mkdir()
    image_files.save_folder(tmp_path / "maps", ((f"{index:03d}.png", image(index)) for index in range(3)))
    assert everything(tmp_path) == ["maps", "maps/000.png", "maps/001.png", "maps/002.png"]
    assert all(same(tmp_path / "maps" / f"{index:03d}.png", image(index)) for index in range(3))


def test_a_folder_by_a_bare_name(tmp_path, monkeypatch):
    """Stands in the working folder, with the rights that a new folder has."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").mkdir()
    image_files.save_folder("maps", [("a.png", image(0))])
    assert everything(tmp_path) == ["maps", "maps/a.png", "plain"]
    assert (tmp_path / "maps").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("older", [True, False])
def test_an_exception_in_the_middle(tmp_path, older, error):
    """Leaves the older folder as it was, or none, and nothing beside it."""
    if older:
        image_files.save_folder(tmp_path / "maps", [("old.png", image(0))])

    def breaking():
        yield "new.png", image(1)
        assert everything(tmp_path / "maps") == ["old.png"] if older else not (tmp_path / "maps").exists()
        raise error

    with pytest.raises(error):
        image_files.save_folder(tmp_path / "maps", breaking())
    assert everything(tmp_path) == (["maps", "maps/old.png"] if older else [])


def test_a_folder_where_there_is_none_to_hold_it(tmp_path):
    """The error tells a path that the user knows."""
    with pytest.raises(FileNotFoundError) as error:
        image_files.save_folder(tmp_path / "missing" / "maps", [("a.png", image(0))])
    assert str(tmp_path / "missing") in str(error.value.filename)


def test_an_array(tmp_path):
    """Is read by numpy without pickling, to the bit; one of objects is refused and nothing left."""
    values = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    image_files.save_array(tmp_path / "map.npy", values)
    found = np.load(tmp_path / "map.npy", allow_pickle=False)
    assert found.dtype == np.float32
    assert np.array_equal(found, values)
    with pytest.raises(ValueError, match="Object arrays"):
        image_files.save_array(tmp_path / "map.npy", np.array([None]))
    assert np.array_equal(np.load(tmp_path / "map.npy"), values)
    assert everything(tmp_path) == ["map.npy"]


def test_names_that_are_no_pngs(tmp_path):
    """Are refused with the option and the name, letters may be large; and so are those in a folder that is not there."""
    image_files.check_png(tmp_path / "b.PNG", option="-o")
    with pytest.raises(CnnkitError, match=r"nowhere: no such folder to write b\.png into$"):
        image_files.check_png(tmp_path / "nowhere" / "b.png", option="-o")
    for name in ("map.jpg", "map", "png", ".png"):
        with pytest.raises(UsageError, match=rf"^-o {name}: it is written as PNG; give it a name that ends in \.png$"):
            image_files.check_png(name, option="-o")


def test_what_a_killed_run_left_beside_a_folder_is_removed(tmp_path):
    """The folders that it worked in, and nothing that only has such a name."""
    (tmp_path / ".maps.abcd_123" / "made").mkdir(parents=True)
    (tmp_path / ".maps.20240101").mkdir()
    (tmp_path / ".maps.20240101" / "mine.txt").write_bytes(b"")
    (tmp_path / ".other.abcd_123").mkdir()
    image_files.save_folder(tmp_path / "maps", [("a.png", image(0))])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".maps.20240101", ".other.abcd_123", "maps"]


def test_a_folder_whose_name_is_as_long_as_can_be(tmp_path):
    """The folder to work in fits, too."""
    for _ in range(2):
        image_files.save_folder(tmp_path / ("n" * 255), [("a.png", image(0))])
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]
