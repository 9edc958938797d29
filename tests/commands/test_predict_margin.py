"""cnn-predict --by-margin: the images whose two most probable classes are closest come first."""

import json
import shutil

import numpy as np
import pytest
from predict_models import CLASSES, files

from cnnkit.errors import BadImageError
from cnnkit.infer import margins
from cnnkit.infer.predict import ImageOutput


@pytest.fixture
def photos(root, tmp_path):
    """Copy images, each under two names, so that margins are equal."""
    for number, path in enumerate(files(root)):
        for name in "ab":
            (tmp_path / "photos").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "photos" / f"{name}{number}.png")
    return tmp_path / "photos"


def test_order_is_numpys_argsort_of_the_difference(run, model, photos):
    """Stable, of all classes' probabilities as printed in JSON; the rows of an image stay together."""
    arguments = ("cnn-predict", "-m", model(), photos, "--top", "all", "--json")
    rows = [json.loads(line) for line in run(*arguments).out.splitlines()]
    images = [rows[place : place + len(CLASSES)] for place in range(0, len(rows), len(CLASSES))]
    best, second = (np.array([image[rank]["probability"] for image in images]) for rank in (0, 1))
    order = np.argsort(best - second, kind="stable")
    assert order.tolist() != list(range(len(images)))
    expected = [row for place in order for row in images[place]]
    assert [json.loads(line) for line in run(*arguments, "--by-margin").out.splitlines()] == expected


def test_columns_and_withheld_labels_are_those_without_it(run, model, photos):
    """With --min-probability, the first images have the label ?; a skipped image has no row and status 3."""
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    arguments = ("cnn-predict", "-m", model(), photos, "--min-probability", "0.5", "--logits")
    plain = run(*arguments, status=3)
    ordered = run(*arguments, "--by-margin", status=3)
    assert ordered.out.splitlines()[0] == plain.out.splitlines()[0]
    assert sorted(ordered.out.splitlines()) == sorted(plain.out.splitlines())


def test_refuses_labels_only_and_shards(run, model, photos):
    """Neither has an order of all images."""
    for word in (("--labels-only",), ("--shard", "1/2")):
        outcome = run("cnn-predict", "-m", model(), photos, "--by-margin", *word, status=2)
        assert outcome.err.startswith("cnn-predict: --by-margin sorts all images, and ")
        assert outcome.err.endswith(f"or drop {word[0]}\n")


def test_skipped_images_come_last_and_nothing_is_yielded_before_the_end():
    """All outputs are taken first, and an error among them is raised before any is given."""
    probabilities = [[0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.1, 0.1, 0.8]]
    outputs = [ImageOutput(f"{place}", np.array(each, np.float32)) for place, each in enumerate(probabilities)]
    found = list(margins.in_order([ImageOutput("skipped"), *outputs]))
    assert [each.path for each in found] == ["1", "0", "2", "skipped"]

    def broken():
        yield outputs[0]
        raise BadImageError("broken")

    with pytest.raises(BadImageError):
        next(margins.in_order(broken()))
