"""Memory budget shared by threads."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image, features

from cnnkit.data import decode, memory, reader
from cnnkit.data.memory import MemoryBudget
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError


def test_decoding_stays_within_the_budget(tmp_path, monkeypatch):
    """Images that need all of it are decoded one at a time; small ones in all threads."""
    monkeypatch.setattr(memory, "DECODING", MemoryBudget(100_000))
    for name, side in (("large", 100), ("small", 20)):  # 12 bytes a pixel: 120,000 and 4,800
        Image.new("RGB", (side, side)).save(tmp_path / f"{name}.png")
    at_work, most = 0, {}

    def load(path):
        nonlocal at_work
        image = decode.load(path)
        at_work += 1
        most[path] = max(most.get(path, 0), at_work)
        time.sleep(0.02)
        at_work -= 1
        return image.size

    for name, threads in (("large", 1), ("small", 4)):
        path = str(tmp_path / f"{name}.png")
        outcomes = [size for _, size in reader.read([ImageFile(path)] * 12, load, jobs=4)]
        assert len(set(outcomes)) == 1
        assert most[path] == threads
    memory.DECODING.take(100_000)  # all memory has been given back


def test_bad_images_give_their_memory_back(tmp_path, monkeypatch):
    """Also if the decoder fails, and if several are decoded in one thread."""
    monkeypatch.setattr(memory, "DECODING", MemoryBudget(100_000))
    Image.new("RGB", (100, 100)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])

    def load(path):
        decode.load(tmp_path / "whole.png")
        return decode.load(path)

    images = [ImageFile(str(tmp_path / "cut.png"))] * 6
    assert all(isinstance(outcome, BadImageError) for _, outcome in reader.read(images, load, jobs=3))
    memory.DECODING.take(100_000)


@pytest.mark.parametrize("head", [b"RIFF\0\0\0\0WEBPVP8 ", b"\0\0\0\x1cftypavif", b"\0\0\0\x18ftypheic"])
def test_files_that_are_read_whole_wait_for_memory(tmp_path, monkeypatch, head):
    """Before they are opened, whether they are images or not."""
    asked = []
    monkeypatch.setattr(memory, "hold", asked.append)
    (tmp_path / "large").write_bytes(head + bytes(1_000_000))
    with pytest.raises(BadImageError):
        decode.load(tmp_path / "large")
    assert asked == [2 * (len(head) + 1_000_000)]
    with (tmp_path / "large").open("r+b") as file:
        file.truncate(3 << 30)
    with pytest.raises(BadImageError, match="file too large, at most 2,147,483,648 bytes"):
        decode.load(tmp_path / "large")
    if features.check("webp"):
        asked.clear()
        Image.new("RGB", (100, 100)).save(tmp_path / "whole.webp")
        decode.load(tmp_path / "whole.webp")
        size = (tmp_path / "whole.webp").stat().st_size
        assert asked[0] == 2 * size
        assert asked[1] > size + 100 * 100 * 8


def test_item_larger_than_the_budget_runs_alone():
    """The next item starts when it ends."""
    room, order = MemoryBudget(10), []

    def work(size):
        with room.taken(size):
            order.append(size)
            time.sleep(0.02)
            order.append(-size)

    with ThreadPoolExecutor(3) as executor:
        list(executor.map(work, [50, 60, 70]))
    assert [abs(each) for each in order[::2]] == [abs(each) for each in order[1::2]]  # one after the other
    with room.taken(5), room.taken(5):
        pass
