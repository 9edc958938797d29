"""Images at their own sizes: batches of equal shape, outputs in order, memory bounded."""

import threading
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from cnnkit.data import decode, preprocessing
from cnnkit.data.source import ImageFile
from cnnkit.engine import runner
from cnnkit.errors import BadImageError
from cnnkit.formats.header import Preprocess

OWN = Preprocess(resize=12, size=10)
SIZES = [(10, 10), (14, 9), (9, 14), (10, 10), (5, 5), (14, 9), (40, 30), (10, 10), (14, 9)]  # (width, height)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Twenty-seven images of five sizes in turn, of which the fourth and the last cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    for index, (width, height) in enumerate(SIZES * 3):
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    (folder / "03.png").write_bytes(b"")
    (folder / "26.png").write_bytes((folder / "26.png").read_bytes()[:-40])  # its file header is intact
    return [ImageFile(str(path)) for path in sorted(folder.iterdir())]


class Means:
    """A network: the mean of every image; inputs are recorded, and images of five pixels are too small for it."""

    def __init__(self):
        self.shapes = []

    def __call__(self, batches):
        (pixels,) = batches
        self.shapes.append(pixels.shape)
        if pixels.shape[1] < 6:
            raise BadImageError("too small")
        return [pixels.reshape(len(pixels), -1).mean(1)[:, None]]


def run(files, network, **words):
    """Return the images, once per view, their means, and the images without outputs with their reasons."""
    skipped, shown, values = [], [], []
    results = runner.run_native_size(files, OWN, network, **{"batch": 4, **words})
    for image, (means,) in runner.usable(results, lambda path, reason: skipped.append((path, reason))):
        shown += [image] * len(means)
        values += means[:, 0].tolist()
    return shown, values, skipped


@pytest.mark.parametrize("batch", [1, 4, 32])
@pytest.mark.parametrize("jobs", [1, 3])
def test_every_image_once_and_in_order(files, batch, jobs, monkeypatch):
    """Each output is that of the image at its own size; images without an output are reported in order."""
    monkeypatch.setattr(runner, "WINDOW_BATCHES", 2)
    shown, values, skipped = run(files, Means(), batch=batch, jobs=jobs)
    bad = [3, *range(4, 27, 9), 26]
    assert shown == [image for index, image in enumerate(files) if index not in bad]
    assert [path for path, _ in skipped] == [files[index].path for index in bad]
    assert [reason for _, reason in skipped][:2] == ["empty file", "too small"]
    results = runner.run_native_size(files, OWN, Means(), batch=batch, jobs=jobs)
    assert [image for image, _ in results] == files
    expected = [np.asarray(decode.load(image.path)).mean() for image in shown]
    np.testing.assert_allclose(values, expected)


def test_batches_have_one_shape_and_limited_pixels(files):
    """Images of equal shape are batched, at most --batch of them; images larger than a whole batch are alone."""
    network = Means()
    run(files, network)
    by_size = {shape[1:3] for shape in network.shapes}
    assert by_size == {(10, 10), (9, 14), (14, 9), (5, 5), (30, 40)}
    assert all(len_ <= 4 and (len_ == 1 or len_ * height * width <= 400) for len_, height, width, _ in network.shapes)
    assert [shape[0] for shape in network.shapes if shape[1:3] == (10, 10)] == [4, 4]  # eight usable ones
    assert [shape[0] for shape in network.shapes if shape[1:3] == (30, 40)] == [1, 1, 1]


def test_views_of_an_image_stay_together(files):
    """Each image has one row per view, consecutively; views of large images are split over several batches."""

    class Inverted:
        copies = 2

        def __call__(self, image, original, preprocess):
            square = preprocessing.prepare(original.image, preprocess)
            return [square, 255 - square, square // 2]

    network = Means()
    shown, values, _ = run(files, network, views=Inverted())
    assert shown[::3] == shown[1::3] == shown[2::3]
    np.testing.assert_allclose(np.add(values[::3], values[1::3]), 255)
    assert {shape[0] for shape in network.shapes if shape[1:3] == (30, 40)} == {1}


def test_progress_counts_every_image(files):
    """Including those without an output."""
    seen = []
    run(files, Means(), progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (27, 27)
    seen.clear()
    run(iter(files[3:4]), Means(), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1, None)
    assert run([], Means()) == ([], [], [])


def test_stream_is_read_by_windows(files):
    """A stream is read ahead by one window at most; memory does not grow with its length."""
    taken = 0

    def stream(count):
        nonlocal taken
        taken = 0
        for _ in range(count):
            taken += 1
            yield files[6]

    before = threading.active_count()
    batches = runner.run_native_size(stream(10_000), OWN, Means(), batch=4, jobs=2)
    next(batches)
    assert taken <= 2 * 64
    batches.close()
    assert threading.active_count() == before

    def peak(count):
        tracemalloc.start()
        assert (
            sum(len(means) for _, (means,) in runner.run_native_size(stream(count), OWN, Means(), batch=4, jobs=2))
            == count
        )
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    peak(64)
    assert peak(1000) < 2 * peak(200)  # if they were kept, a thousand of these images would take fifteen times as much


def test_network_error_is_raised(files):
    """An error that is not the images' fault is raised, and no thread is left running."""

    def network(_batches):
        raise RuntimeError("out of memory")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        run(files, network)
    assert threading.active_count() == before


def test_one_shape_per_size_on_a_gpu(files):
    """The last batch of a size is padded with black to the earlier ones; single images stay alone; outputs are the same."""
    plain, filled = Means(), Means()
    expected = run(files, plain, batch=3)
    assert run(files, filled, batch=3, one_shape=True) == expected
    assert [shape[0] for shape in plain.shapes if shape[1:3] == (10, 10)] == [3, 3, 2]
    assert [shape[0] for shape in filled.shapes if shape[1:3] == (10, 10)] == [3, 3, 3]
    assert [shape[0] for shape in filled.shapes if shape[1:3] == (30, 40)] == [1, 1, 1]
    for size in {shape[1:3] for shape in filled.shapes}:
        assert len({shape for shape in filled.shapes if shape[1:3] == size}) == 1, size


def test_few_shape_changes_over_all_windows(files, monkeypatch):
    """Padding continues over windows, and a window starts with the size that the last one ended with."""
    monkeypatch.setattr(runner, "WINDOW_BATCHES", 3)
    few = [image for index, image in enumerate(files) if index % 9 in (0, 1, 2) and index != 26]  # three sizes in turn
    images = [few[number % len(few)] for number in np.random.default_rng(0).integers(0, 99, 240)]
    plain, filled = Means(), Means()
    expected = run(images, plain, batch=8)
    assert run(images, filled, batch=8, one_shape=True) == expected
    windows = 240 // (3 * 8)
    changes = sum(one != other for one, other in zip(filled.shapes, filled.shapes[1:], strict=False))
    assert changes <= 2 * windows + 2  # two to see three sizes, and those that the first windows had not seen
    assert len(set(filled.shapes)) <= 5
    assert len(filled.shapes) == len(plain.shapes)


def test_padding_is_limited_by_memory(files):
    """Also if the views of a single image are more than a batch."""

    class Copies:
        copies = 4

        def __call__(self, image, original, preprocess):
            return [preprocessing.prepare(original.image, preprocess)] * 5

    network = Means()
    run(files, network, batch=3, views=Copies(), one_shape=True)
    assert {shape[0] for shape in network.shapes if shape[1:3] == (10, 10)} == {3}
    assert {shape[0] for shape in network.shapes if shape[1:3] == (30, 40)} == {1}
