"""Images to batches to rows: all of them, in order, overlapped, in bounded memory; and measured rates."""

import logging
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cnnkit.callbacks import raise_skip
from cnnkit.choices import Fit
from cnnkit.data import decode, in_memory, preprocessing
from cnnkit.data.source import ImageFile
from cnnkit.engine import batches, runner
from cnnkit.errors import BadImageError, CnnkitError
from cnnkit.formats.header import Preprocess
from cnnkit.infer.views import CropViews

SMALL = Preprocess(Fit.SQUASH, 6, 6)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Twenty small images of three sizes in turns, of which the fifth and the last cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(20):
        pixels = np.random.default_rng(index).integers(0, 256, (9 + index % 3, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    (folder / "04.png").write_bytes(b"")
    (folder / "19.png").write_bytes(b"no image")
    return [ImageFile(str(folder / f"{index:02d}.png"), str(index)) for index in range(20)]


def good(files):
    return [image for index, image in enumerate(files) if index not in (4, 19)]


def means(batches):
    """A network: the mean of every image, and its corner."""
    (images,) = batches
    return [images.reshape(len(images), -1).mean(1, dtype=np.float64)[:, None], images[:, 0, 0]]


def collected(files, network=means, **words):
    """Run; return the usable images and their outputs, concatenated."""
    results = runner.run(files, [SMALL], network, **{"batch": 4, **words})
    shown, outputs = zip(*runner.usable(results, lambda *_: None), strict=True)
    assert all(len(array) == 1 for arrays in outputs for array in arrays)
    return list(shown), [np.concatenate(parts) for parts in zip(*outputs, strict=True)]


@pytest.mark.parametrize("batch", [1, 2, 4, 7, 18, 64])
@pytest.mark.parametrize("jobs", [1, 4])
def test_every_image_once_and_in_order(files, batch, jobs):
    """For any batch and number of threads, each usable image has its own output, in the given order."""
    shown, (mean, corner) = collected(files, batch=batch, jobs=jobs)
    assert shown == good(files)
    expected = np.stack([preprocessing.load(image.path, SMALL) for image in shown])
    np.testing.assert_array_equal(mean, means([expected])[0])
    np.testing.assert_array_equal(corner, expected[:, 0, 0])


def test_every_batch_has_the_same_shape(files):
    """The last batch is padded with black, so that a device sees one shape."""
    seen = []

    def network(batches):
        (images,) = batches
        seen.append((images.shape, images.dtype, int(images[-1].max())))
        return means(batches)

    collected(files, network, batch=7)
    assert [shape for shape, _, _ in seen] == [(7, 6, 6, 3)] * 3
    assert seen[-1][1:] == (np.uint8, 0)
    assert seen[0][2] > 0


def test_several_preprocessings_of_one_decoding(files, monkeypatch):
    """A network that takes the same images in several sizes gets them, and each file is read once."""
    loaded = []
    real = decode.load_pixels
    monkeypatch.setattr(
        decode, "load_pixels", lambda image, path, **more: loaded.append(path) or real(image, path, **more)
    )
    ways = [SMALL, Preprocess(Fit.SQUASH, 9, 9)]

    def network(batches):
        assert [images.shape for images in batches] == [(4, 6, 6, 3), (4, 9, 9, 3)]
        return [output for images in batches for output in means([images])]

    found = list(runner.run(good(files), ways, network, batch=4))
    assert sorted(loaded) == sorted(image.path for image in good(files))
    for image, outputs in found:
        expected = [means([preprocessing.load(image.path, way)[None]]) for way in ways]
        for output, wanted in zip(outputs, [*expected[0], *expected[1]], strict=True):
            np.testing.assert_array_equal(output, wanted)
    assert len(found) == 18


class Tripled:
    """Views of an image: itself, inverted, and darker."""

    copies = 2

    def count(self, _image):
        return 3

    def __call__(self, image, original, preprocess):
        square = preprocessing.prepare(original.image, preprocess)
        return [square, 255 - square, square // 2]


@pytest.mark.parametrize("batch", [1, 3, 4, 64])
@pytest.mark.parametrize("views_done", [0, 2])
def test_views_of_an_image_stay_together(files, batch, views_done):
    """Each image has the outputs of all its views, for every preprocessing, also if they are split over batches."""
    ways = [SMALL, Preprocess(Fit.SQUASH, 9, 9)]
    results = runner.run(files, ways, lambda batches: batches, batch=batch, views=Tripled(), views_done=views_done)
    seen = []
    for image, outputs in results:
        seen.append(image)
        if isinstance(outputs, BadImageError):
            continue
        for way, pixels in zip(ways, outputs, strict=True):
            square = preprocessing.load(image.path, way)
            expected = [square, 255 - square, square // 2][views_done if image is files[0] else 0 :]
            np.testing.assert_array_equal(pixels, expected)
    assert seen == files


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_every_image_comes_with_its_outputs_or_its_error(files, batch):
    """In the given order; an image that cannot be read has its reason."""
    found = list(runner.run(files, [SMALL], means, batch=batch))
    assert [image for image, _ in found] == files
    errors = {index: str(outputs) for index, (_, outputs) in enumerate(found) if isinstance(outputs, BadImageError)}
    assert list(errors) == [4, 19]
    assert errors[4] == "empty file"


def test_bad_images_are_reported_in_order(files):
    """`usable` and `in_batches` report them to `skip`, and the threads end if it raises."""
    events = []
    results = runner.run(files, [SMALL], means, batch=4)
    for image, _ in runner.usable(results, lambda path, reason: events.append((path, reason))):
        events.append(image.path)
    assert [event if isinstance(event, str) else event[0] for event in events] == [image.path for image in files]
    assert events[4] == (files[4].path, "empty file")
    before = threading.active_count()
    with pytest.raises(BadImageError, match=r"04\.png: empty file"):
        list(runner.usable(runner.run(files, [SMALL], means, batch=4), raise_skip))
    assert threading.active_count() == before


@pytest.mark.parametrize("size", [1, 5, 18, 64])
def test_outputs_are_regrouped_into_batches_of_another_size(files, size):
    """`in_batches` yields full batches of usable images, except the last, with their rows."""
    skipped = []
    results = runner.run(files, [SMALL], means, batch=4)
    groups = list(runner.in_batches(results, size, skip=lambda path, _reason: skipped.append(path)))
    assert [image for shown, _ in groups for image in shown] == good(files)
    assert {len(shown) for shown, _ in groups[:-1]} <= {size}
    assert skipped == [files[4].path, files[19].path]
    _, expected = collected(files)
    for place, output in enumerate(expected):
        np.testing.assert_array_equal(np.concatenate([outputs[place] for _, outputs in groups]), output)


def test_no_images():
    """Without images there is no batch, and the network is not called."""
    assert list(runner.run([], [SMALL], None, batch=4)) == []


def test_progress_counts_every_image(files):
    """Progress reaches the number of all images, bad ones included; a total is known only for lists."""
    seen = []
    collected(files, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (20, 20)
    seen.clear()
    collected(iter(files), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (20, None)


def test_stream_is_not_read_far_ahead(files):
    """A stream is read only a bounded number of images ahead of the results."""
    taken = 0

    def stream():
        nonlocal taken
        for index in range(2000):
            taken += 1
            yield good(files)[index % 18]

    batches = runner.run(stream(), [SMALL], means, batch=8)
    next(batches)
    assert taken <= 8 * 3 + 64
    batches.close()


def test_decoding_overlaps_with_the_network(files, monkeypatch):
    """While the network has the first batch, the images of the next one are decoded."""
    decoded = threading.Event()
    count = 0

    def prepare(_image, _way):
        nonlocal count
        count += 1
        if count > 8:
            decoded.set()
        return np.zeros((6, 6, 3), np.uint8)

    def network(batches):
        assert decoded.wait(10), "nothing was decoded meanwhile"
        return means(batches)

    monkeypatch.setattr(preprocessing, "prepare", prepare)
    assert len(list(runner.run(good(files), [SMALL], network, batch=4))) == 18


def test_network_overlaps_with_the_use_of_outputs(files, wait_for):
    """While the caller uses the outputs of one batch, the network computes the next."""
    started = []

    def network(batches):
        started.append(time.monotonic())
        return means(batches)

    batches = runner.run(good(files), [SMALL], network, batch=4)
    next(batches)
    wait_for(lambda: len(started) >= 2)
    batches.close()


@pytest.mark.parametrize("native", [False, True])
def test_several_batches_in_flight_keep_their_order(files, wait_for, native):
    """Two threads are in the network at once, the first one slower: every image still has its own output, in the order given."""
    inside, most = [], []

    def network(batches):
        inside.append(threading.get_ident())
        most.append(len(inside))
        if len(most) == 1:
            wait_for(lambda: len(most) > 1)  # the second batch comes while the first one is computed
        try:
            return means(batches)
        finally:
            inside.pop()

    def outputs(network, **words):
        run = runner.run_native_size if native else runner.run
        results = run(files, Preprocess(resize=9, size=9) if native else [SMALL], network, batch=2, **words)
        return [(image, mean.tolist()) for image, (mean, _) in runner.usable(results, lambda *_: None)]

    found = outputs(network, in_flight=2)
    assert max(most) == 2
    assert [image for image, _ in found] == good(files)
    assert found == outputs(means)


def test_a_gpu_has_two_batches_in_flight():
    """One is copied while another one is computed."""
    assert [runner.batches_in_flight(kind) for kind in ("cpu", "cuda")] == [1, 2]


def test_network_error_is_raised(files):
    """An error of the network is raised to the caller, and no thread is left running."""

    def network(_batches):
        raise RuntimeError("out of memory")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        list(runner.run(good(files), [SMALL], network, batch=4))
    assert threading.active_count() == before


def test_stopping_early_leaves_no_thread(files):
    """A caller that stops early leaves no thread running."""
    before = threading.active_count()
    batches = runner.run(good(files), [SMALL], means, batch=2)
    next(batches)
    batches.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_outputs_of_threads(files, workers):
    """The same bytes in the same batches: several preprocessings, views, bad images, images in memory, and rows that are done already."""
    ways = [Preprocess(Fit.CROP, 8, 6), Preprocess(Fit.CROP, 9, 9)]
    in_file = ImageFile(files[0].path)
    held = in_memory.from_pillow(Image.open(in_file.path), name="held")
    mixed = [files[4], *files, files[4], held, *files]

    def found(workers):
        seen = []

        def network(batches):
            seen.append(b"".join(images.tobytes() for images in batches))
            return [images.reshape(len(images), -1).sum(1) for images in batches]

        results = runner.run(
            mixed, ways, network, batch=7, jobs=2, workers=workers, views=CropViews(False), views_done=2, first=3
        )
        return seen, [(image, outputs) for image, outputs in results]

    (batches, expected), (seen, results) = found(0), found(workers)
    assert seen == batches
    assert len(batches) == -(-(3 + 5 * 37 - 2) // 7)
    for (image, outputs), (given, wanted) in zip(results, expected, strict=True):
        assert image is given
        if isinstance(wanted, BadImageError):
            assert str(outputs) == str(wanted)
        else:
            np.testing.assert_array_equal(outputs, wanted)


def test_there_is_at_most_one_worker_per_thread(files, caplog):
    """More would only take turns; a notice has the number."""
    caplog.set_level(logging.INFO, "cnnkit")
    with batches.loader([SMALL], batch=4, jobs=1, processes=99) as loader:
        assert len(loader.workers.process_ids) == 1
    assert caplog.messages == ["decoding in 1 of 99 workers, one per thread or core"]


def test_images_after_a_bad_one_are_decoded_into_their_rows_again(files):
    """Those that are in progress are copied, as many as were bad are returned, and the next ones are written directly."""
    with batches.loader([SMALL], batch=4, jobs=1) as loader:
        rows = []
        for image, loaded in loader.each([files[0], files[4], *files[:4] * 10]):
            if not isinstance(loaded, BadImageError):
                pixels = loader.ring.arrays[0][loader.row % loader.ring.rows]
                np.testing.assert_array_equal(pixels, preprocessing.load(image.path, SMALL))
                loader.row += loaded
            rows.append(loader._end - loader.row - loader._in_progress)
        assert rows[0] == 0
        assert max(rows) == 1
        assert rows[loader.ahead + 3 :] == [0] * (len(rows) - loader.ahead - 3)


# ---------------------------------------------------------------- rates


def test_rates_are_those_of_the_clock(files, monkeypatch):
    """Decoding and a network that take 10 ms per image each, by a clock that advances only with their work, one after the other."""
    blank, lock = Image.new("RGB", (6, 6)), threading.Lock()
    now = 0.0

    def work(images):
        nonlocal now
        with lock:
            now += 0.01 * images

    monkeypatch.setattr(runner, "time", SimpleNamespace(perf_counter=lambda: now))
    decoded = decode.Decoded(blank, blank.size)
    monkeypatch.setattr(decode, "load_reduced", lambda _path, _enough: work(1) or [decoded])
    network = lambda batches: work(len(batches[0])) or means(batches)  # noqa: E731
    rates = runner.measure(good(files) * 3, [SMALL], network, batch=4, jobs=1, shared_cores=False)
    assert rates.images == 54
    assert (rates.decode, rates.network) == (pytest.approx(100), pytest.approx(100))
    assert rates.reached == pytest.approx(54 / (0.54 + 0.56))  # the last batch is padded
    assert rates.possible == min(rates.decode, rates.network)
    assert rates.share == pytest.approx(rates.reached / rates.possible)
    shared = runner.measure(good(files), [SMALL], network, batch=4, jobs=1)
    assert shared.possible == pytest.approx(1 / (1 / shared.decode + 1 / shared.network))


def test_rates_count_usable_images(files):
    """Bad images do not count; without a usable one there is nothing to measure."""
    assert runner.measure(files, [SMALL], means, batch=4).images == 18
    with pytest.raises(CnnkitError, match="none of the first 4 images can be used"):
        runner.measure([files[4], files[19]], [SMALL], means, batch=4)


def test_rates_of_batch_sizes(monkeypatch, caplog):
    """A network that takes 0.1 s per call and 1 ms per image: large batches are faster; one that takes more than 2 s is not measured."""
    now, shapes = 0.0, []

    def network(batches):
        nonlocal now
        now += 0.1 + len(batches[0]) / 1000
        shapes.append([images.shape[1:] for images in batches])

    monkeypatch.setattr(runner, "time", SimpleNamespace(perf_counter=lambda: now))
    ways = [SMALL, Preprocess(Fit.SQUASH, 9, 9)]
    rates = runner.batch_rates(ways, lambda _size: network, sizes=(8, 100, 700, 900, 2500))
    assert rates == {size: pytest.approx(size / (0.1 + size / 1000)) for size in (8, 100, 700, 900)}
    assert shapes[0] == [(6, 6, 3), (9, 9, 3)]
    assert runner.best_batch(rates) == 700
    with caplog.at_level("INFO"):
        runner.log_batch_rates(rates, batch=8)
        runner.log_batch_rates(rates, batch=900)
    listed = "the network's images per second by batch size: 8: 74.07, 100: 500, 700: 875, 900: 900"
    assert caplog.messages == [f"{listed}; --batch 700 is advised", f"{listed}; --batch 900 is as fast as any"]


def test_rates_are_of_networks_opened_for_the_batch_size(files, monkeypatch):
    """On four cores, batches of 16 images and more are computed in parts; the network is opened once more for the others."""
    monkeypatch.setattr("cnnkit.engine.rows.usable_cores", lambda: 4)
    used = {}

    def named(name):
        def network(batches):
            used.setdefault(len(batches[0]), set()).add(name)
            return means(batches)

        return network

    reopened = []

    def reopen(size):
        reopened.append(size)
        return named("reopened")

    words = {"batch": 18, "advised": 32, "reopen": reopen, "jobs": 1}
    runner.bench(good(files), [SMALL], named("first"), **words)
    assert used == {18: {"first"}, 8: {"reopened"}, **{size: {"first"} for size in (16, 32, 64, 128)}}
    assert reopened == [8]
    runner.bench(good(files), [SMALL], named("gpu"), shared_cores=False, **words)
    assert used[8] == {"reopened", "gpu"}
    assert reopened == [8]


def test_rates_with_views_are_those_of_images(files, monkeypatch, caplog):
    """Five crops of each image: the network's rate is a fifth of that of its rows."""
    now = 0.0

    def network(batches):
        nonlocal now
        now += len(batches[0]) / 100
        return means(batches)

    monkeypatch.setattr(runner, "time", SimpleNamespace(perf_counter=lambda: now))
    ways = [Preprocess(Fit.CROP, 8, 6)]
    count = batches.Loader.count

    def counted(loader, images):
        nonlocal now
        now += 1
        return count(loader, images)

    monkeypatch.setattr(batches.Loader, "count", counted)
    sizes = {8: 50.0, 16: 100.0}  # views per second
    monkeypatch.setattr(runner, "batch_rates", lambda _ways, _network: sizes)
    with caplog.at_level("INFO"):
        rates = runner.bench(
            good(files), ways, network, batch=10, advised=8, reopen=pytest.fail, jobs=1, views=CropViews(False)
        )
    assert caplog.messages[-2:] == [
        "measuring with 18 images",
        "the network's images per second by batch size: 8: 10, 16: 20; --batch 16 is advised",
    ]
    assert rates.network == pytest.approx(20)
    assert rates.images == 18
