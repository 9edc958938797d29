"""Pictures to batches to rows: all of them, in order, overlapped, in bounded memory, and measured without flattery."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

from cnnkit.choices import Fit
from cnnkit.data import preprocess as preparing
from cnnkit.data.source import Picture
from cnnkit.engine import runner
from cnnkit.errors import BadPicture, CnnkitError
from cnnkit.formats.header import Preprocess

SMALL = Preprocess(Fit.SQUASH, 6, 6)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Twenty small pictures, of which the fifth and the last cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(20):
        pixels = np.random.default_rng(index).integers(0, 256, (9, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    (folder / "04.png").write_bytes(b"")
    (folder / "19.png").write_bytes(b"no picture")
    return [Picture(str(folder / f"{index:02d}.png"), str(index)) for index in range(20)]


def good(files):
    return [picture for index, picture in enumerate(files) if index not in (4, 19)]


def means(images):
    """A network: the mean of every picture, and its corner."""
    return [images.reshape(len(images), -1).mean(1, dtype=np.float64)[:, None], images[:, 0, 0]]


def collected(files, network=means, **words):
    shown, answers = [], []
    for pictures, arrays in runner.run(files, SMALL, network, **{"batch": 4, "skip": lambda *_: None, **words}):
        shown += pictures
        answers.append(arrays)
        assert all(len(array) == len(pictures) for array in arrays)
    return shown, [np.concatenate(parts) for parts in zip(*answers, strict=True)]


@pytest.mark.parametrize("batch", [1, 2, 4, 7, 18, 64])
@pytest.mark.parametrize("jobs", [1, 4])
def test_every_picture_once_and_in_order(files, batch, jobs):
    """Whatever the batch and the threads, each good picture gives its own answer, in the order given."""
    shown, (mean, corner) = collected(files, batch=batch, jobs=jobs)
    assert shown == good(files)
    expected = np.stack([preparing.load(picture.path, SMALL) for picture in shown])
    np.testing.assert_array_equal(mean, means(expected)[0])
    np.testing.assert_array_equal(corner, expected[:, 0, 0])


def test_every_batch_has_the_same_shape(files):
    """The last batch is filled up with black, so that a device sees one shape."""
    seen = []

    def network(images):
        seen.append((images.shape, images.dtype, int(images[-1].max())))
        return means(images)

    collected(files, network, batch=7)
    assert [shape for shape, _, _ in seen] == [(7, 6, 6, 3)] * 3
    assert seen[-1][1:] == (np.uint8, 0)
    assert seen[0][2] > 0


def test_several_preparations_of_one_decoding(files, monkeypatch):
    """A network that wants the same pictures in several sizes gets them, each file being read once."""
    loaded = []
    real = runner.images.load
    monkeypatch.setattr(runner.images, "load", lambda path: loaded.append(path) or real(path))
    ways = [SMALL, Preprocess(Fit.SQUASH, 9, 9)]

    def network(small, large):
        assert (small.shape, large.shape) == ((4, 6, 6, 3), (4, 9, 9, 3))
        return [*means(small), *means(large)]

    rows = [arrays for _, arrays in runner.run(good(files), ways, network, batch=4)]
    assert [len(array) for array in rows[-1]] == [2] * 4
    assert sorted(loaded) == sorted(picture.path for picture in good(files))


def test_views_of_several_preparations_stand_side_by_side(files):
    """Each view is prepared in every way before the next view comes, and a batch of a multiple of them holds whole pictures."""

    class Doubled:
        copies = 1

        def __call__(self, picture, original, preprocess):
            square = preparing.prepare(original.image, preprocess)
            return [square, 255 - square]

    ways = [SMALL, Preprocess(Fit.SQUASH, 9, 9)]
    seen = []
    for shown, answers in runner.run(good(files), ways, lambda *ways: ways, batch=4, views=Doubled()):
        seen += shown
        for way, pixels in zip(ways, answers, strict=True):
            assert len(pixels) == len(shown)
            for index in range(0, len(shown), 2):
                assert shown[index] is shown[index + 1]
                expected = preparing.load(shown[index].path, way)
                np.testing.assert_array_equal(pixels[index], expected)
                np.testing.assert_array_equal(pixels[index + 1], 255 - expected)
    assert seen == [picture for picture in good(files) for _ in range(2)]


def test_bad_pictures_are_named_in_their_turn(files):
    """What cannot be read is reported with its reason; without a way to report, it is an error that names the file."""
    skipped = []
    shown, _ = collected(files, skip=lambda path, reason: skipped.append((path, reason)))
    assert len(shown) == 18
    assert [path for path, _ in skipped] == [files[4].path, files[19].path]
    assert skipped[0][1] == "empty file"
    with pytest.raises(BadPicture, match=r"04\.png: empty file"):
        list(runner.run(files, SMALL, means, batch=4))


def test_nothing_in_nothing_out():
    """No picture gives no batch, and the network is not called."""
    assert list(runner.run([], SMALL, None, batch=4)) == []


def test_progress_counts_every_picture(files):
    """Progress goes up to all pictures, bad ones included, out of a total that is known for lists alone."""
    seen = []
    collected(files, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (20, 20)
    seen.clear()
    collected(iter(files), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (20, None)


def test_a_stream_is_not_read_far_ahead(files):
    """From a stream no more is taken than a bounded number ahead of what was handed over."""
    taken = 0

    def stream():
        nonlocal taken
        for index in range(2000):
            taken += 1
            yield good(files)[index % 18]

    batches = runner.run(stream(), SMALL, means, batch=8)
    next(batches)
    assert taken <= 8 * 3 + 64
    batches.close()


def test_decoding_goes_on_while_the_network_computes(files):
    """While the network has the first batch, the pictures of the next one are decoded."""
    decoded = threading.Event()
    count = 0

    def load(_path, **_words):
        nonlocal count
        count += 1
        if count > 8:
            decoded.set()
        return [np.zeros((6, 6, 3), np.uint8)]

    def network(images):
        assert decoded.wait(10), "nothing was decoded meanwhile"
        return means(images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_load", load)
        assert len(list(runner.run(good(files), SMALL, network, batch=4))) == 5


def test_the_network_computes_while_answers_are_used(files):
    """While somebody uses the answers of one batch, the network has begun with the next."""
    started = []

    def network(images):
        started.append(time.monotonic())
        return means(images)

    batches = runner.run(good(files), SMALL, network, batch=4)
    next(batches)
    deadline = time.monotonic() + 10
    while len(started) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(started) >= 2
    batches.close()


def test_errors_of_the_network_come_out(files):
    """What the network raises is raised to the caller, and no thread is left behind."""

    def network(_images):
        raise RuntimeError("out of memory")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        list(runner.run(good(files), SMALL, network, batch=4))
    assert threading.active_count() == before


def test_stopping_early_leaves_no_thread(files):
    """Whoever stops asking leaves no thread behind."""
    before = threading.active_count()
    batches = runner.run(good(files), SMALL, means, batch=2)
    next(batches)
    batches.close()
    assert threading.active_count() == before


# ---------------------------------------------------------------- rates


def slow(seconds):
    def network(images):
        time.sleep(seconds * len(images))
        return means(images)

    return network


def test_rates_are_those_of_the_clock(files, monkeypatch):
    """Decoding and a network of 10 ms a picture each are found to be that; side by side they take hardly longer than one alone."""
    monkeypatch.setattr(
        runner, "_load", lambda *_words, **_options: time.sleep(0.01) or [np.zeros((6, 6, 3), np.uint8)]
    )
    rates = runner.measure(good(files) * 3, SMALL, slow(0.01), batch=4, jobs=1, shared_cores=False)
    assert rates.pictures == 54
    assert 50 < rates.decode <= 101  # a sleep takes longer on a busy machine, never less
    assert 50 < rates.network <= 101
    assert rates.possible == min(rates.decode, rates.network)
    assert rates.share == pytest.approx(rates.reached / rates.possible)
    assert rates.share > 0.7  # one after the other would be 0.5
    shared = runner.measure(good(files), SMALL, slow(0.01), batch=4, jobs=1)
    assert shared.possible == pytest.approx(1 / (1 / shared.decode + 1 / shared.network))


def test_rates_count_what_can_be_used(files):
    """Bad pictures are in no rate; without a good one there is nothing to measure."""
    assert runner.measure(files, SMALL, means, batch=4).pictures == 18
    with pytest.raises(CnnkitError, match="none of the first 4 pictures can be used"):
        runner.measure([files[4], files[19]], SMALL, means, batch=4)
