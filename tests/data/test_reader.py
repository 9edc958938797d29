"""Images read in threads."""

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
def test_images_come_in_the_order_given(jobs):
    """Whichever thread finishes first."""

    loaded = [threading.Event() for _ in range(61)]

    def load(path):
        if int(path) % 3 == 0:  # slow, if another thread can take the next one
            loaded[int(path) + 1].wait(0.01)
        loaded[int(path)].set()
        return int(path) * 10

    found = list(reader.read(listed(60), load, jobs=jobs))
    assert found == [(ImageFile(str(index)), index * 10) for index in range(60)]


def test_bad_images_come_with_their_reason():
    """At their place in the order; the other images are loaded."""

    def load(path):
        if int(path) % 4 == 1:
            raise BadImageError(f"no good: {path}")
        return path

    found = [(image.path, str(outcome)) for image, outcome in reader.read(listed(10), load)]
    assert found == [(str(n), f"no good: {n}" if n % 4 == 1 else str(n)) for n in range(10)]


def test_other_exceptions_are_raised():
    """At the image that caused it; no thread is left."""

    def load(path):
        return 1 / (int(path) - 5)

    found = []
    with pytest.raises(ZeroDivisionError):
        found.extend(image.path for image, _ in reader.read(listed(10), load))
    assert found == ["0", "1", "2", "3", "4"]
    assert decoding() == []


@pytest.mark.parametrize("ahead", [1, 4, 64])
def test_reads_at_most_ahead_images_in_advance(ahead):
    """At every moment, at most `ahead` images were taken from the list and not yet returned."""
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


def test_threads_run_concurrently():
    """Two images that wait for each other are both loaded."""
    meeting = threading.Barrier(2, timeout=20)
    found = reader.read(listed(2), lambda path: meeting.wait(), jobs=2)
    assert sorted(outcome for _, outcome in found) == [0, 1]


def test_early_stop_leaves_no_threads(wait_for):
    """Closing the iterator stops the threads, and no further image is started."""
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


def test_error_in_the_list_leaves_no_threads():
    """Such as a broken manifest on standard input: the error is raised, and the threads are stopped."""

    def breaking():
        yield from listed(100)
        raise FormatError("row 101")

    with pytest.raises(FormatError, match="row 101"):
        list(reader.read(breaking(), str, jobs=2))
    assert decoding() == []


def test_empty_list():
    """No images, no threads, no results."""
    assert list(reader.read([], str)) == []


def test_real_files(images):
    """Including a broken and a missing file."""
    folder = images(red=3) / "red"
    (folder / "01.png").write_bytes(b"")
    paths = [*sorted(str(path) for path in folder.iterdir()), str(folder / "nowhere.png")]
    outcomes = [outcome for _, outcome in reader.read([ImageFile(path) for path in paths], decode.load, jobs=2)]
    assert [isinstance(outcome, BadImageError) for outcome in outcomes] == [False, True, False, True]
    assert outcomes[0].size == (40, 32)
    assert str(outcomes[1]) == "empty file"


def test_usable_cores_respects_affinity(monkeypatch):
    """A process restricted to one core counts one."""
    monkeypatch.setattr(reader.os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert reader.usable_cores() == 1
