"""Many images, by threads, in order."""

import threading
import time
from itertools import count

import pytest

from cnnkit.data import decode, reader
from cnnkit.data.source import ImageFile
from cnnkit.errors import BadImageError, FormatError


def listed(number):
    return [ImageFile(str(index)) for index in range(number)]


def decoding():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("jobs", [None, 1, 2, 7])
def test_order_is_that_of_the_images(jobs):
    """Whichever thread is done first, images come in the order given."""

    loaded = [threading.Event() for _ in range(61)]

    def load(path):
        if int(path) % 3 == 0:  # late, if another thread can take the next one
            loaded[int(path) + 1].wait(0.01)
        loaded[int(path)].set()
        return int(path) * 10

    found = list(reader.read(listed(60), load, jobs=jobs))
    assert found == [(ImageFile(str(index)), index * 10) for index in range(60)]


def test_bad_images_stand_in_their_place():
    """An image that cannot be loaded comes with its reason, and the others come all the same."""

    def load(path):
        if int(path) % 4 == 1:
            raise BadImageError(f"no good: {path}")
        return path

    found = [(image.path, str(outcome)) for image, outcome in reader.read(listed(10), load)]
    assert found == [(str(n), f"no good: {n}" if n % 4 == 1 else str(n)) for n in range(10)]


def test_a_bug_is_no_bad_image():
    """Another exception than BadImageError is raised, at the image that caused it, and no thread is left."""

    def load(path):
        return 1 / (int(path) - 5)

    found = []
    with pytest.raises(ZeroDivisionError):
        found.extend(image.path for image, _ in reader.read(listed(10), load))
    assert found == ["0", "1", "2", "3", "4"]
    assert decoding() == []


@pytest.mark.parametrize("ahead", [1, 4, 64])
def test_it_reads_no_further_ahead_than_it_may(ahead):
    """At every moment at most `ahead` images were taken from the list that have not been handed over."""
    taken = 0

    def endless():
        nonlocal taken
        for index in count():
            taken = index + 1
            yield ImageFile(str(index))

    found = reader.read(endless(), str, jobs=2, ahead=ahead)
    for handed_over in range(1, 30):
        next(found)
        assert taken - handed_over <= ahead
    found.close()


def test_threads_really_run_side_by_side():
    """Two images that wait for each other are both loaded."""
    meeting = threading.Barrier(2, timeout=20)
    found = reader.read(listed(2), lambda path: meeting.wait(), jobs=2)
    assert sorted(outcome for _, outcome in found) == [0, 1]


def test_an_early_stop_leaves_no_threads(wait_for):
    """Whoever stops asking gets the threads stopped, and what was not begun is not begun."""
    begun = []

    def load(path):
        begun.append(path)
        time.sleep(0.005)
        return path

    for _, outcome in reader.read(listed(500), load, jobs=2, ahead=64):
        if outcome == "3":
            break
    del _, outcome
    wait_for(lambda: not decoding(), timeout=20)
    assert len(begun) < 64


def test_an_error_of_the_list_leaves_no_threads():
    """A list that breaks off, as a broken manifest on standard input does, is an error, and the threads are stopped."""

    def breaking():
        yield from listed(100)
        raise FormatError("row 101")

    with pytest.raises(FormatError, match="row 101"):
        list(reader.read(breaking(), str, jobs=2))
    assert decoding() == []


def test_nothing_to_read():
    """No images, no threads, no outcome."""
    assert list(reader.read([], str)) == []


def test_real_files(images):
    """From files to images, a broken one and a missing one among them."""
    folder = images(red=3) / "red"
    (folder / "01.png").write_bytes(b"")
    paths = [*sorted(str(path) for path in folder.iterdir()), str(folder / "nowhere.png")]
    outcomes = [outcome for _, outcome in reader.read([ImageFile(path) for path in paths], decode.load, jobs=2)]
    assert [isinstance(outcome, BadImageError) for outcome in outcomes] == [False, True, False, True]
    assert outcomes[0].size == (40, 32)
    assert str(outcomes[1]) == "empty file"


def test_cores_are_those_that_may_be_used(monkeypatch):
    """A process that is held to one core counts one."""
    monkeypatch.setattr(reader.os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert reader.usable_cores() == 1
