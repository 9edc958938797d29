"""Fixtures of the tests of commands: artefacts made once by real commands, and copied by tests that change them."""

import csv
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TINTS = {"red": (150, 0, 0), "blue": (0, 0, 150), "green": (0, 150, 0)}


def write_images(folder, classes):
    """Write small PNG images, coloured by class: `{"red": 6, "blue": 6}` makes red/00.png and so on."""
    generator = np.random.default_rng(0)
    gradient = np.linspace(0, 90, 40)[None, :, None].repeat(32, axis=0)
    for label, count in classes.items():
        (folder / label).mkdir(parents=True)
        for index in range(count):
            pixels = gradient + np.asarray(TINTS[label]) + generator.uniform(0, 60, (32, 40, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / label / f"{index:02d}.png")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Run commands to make artefacts for fixtures that many tests share; return their folder.

    `made(("cnn-extract", "photos", "-o", "x.npy"), photos={"train": {"red": 6}})` works in a new folder with images in
    photos/train/red; with `folder=`, in that folder.
    """

    def make(*lines, folder=None, photos=None):
        folder = folder or tmp_path_factory.mktemp("made")
        for split, classes in (photos or {}).items():
            write_images(folder / "photos" / split, classes)
        for name, *words in lines:
            (entry,) = entry_points(group="console_scripts", name=name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "warnoptions", ["error"])  # keeps pytest's warning filters during the command
                patch.chdir(folder)
                with pytest.raises(SystemExit) as stop:
                    entry.load()([str(word) for word in words])
            assert not stop.value.code, (name, words)
        return folder

    return make


@pytest.fixture(scope="session")
def history():
    """Return a function that reads the rows of a history: `history("model.csv")`."""

    def read(path):
        with Path(path).open() as file:
            return list(csv.DictReader(file))

    return read


@pytest.fixture
def here(tmp_path, monkeypatch, images):
    """A working folder with photos/red and photos/blue, six images each."""
    images(red=6, blue=6)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def content():
    """Return a function that reads the three files of features: `content("x.npy")[".tsv"]`."""

    def read(path):
        return {suffix: Path(path).with_suffix(suffix).read_bytes() for suffix in (".npy", ".tsv", ".json")}

    return read


@pytest.fixture
def model(tmp_path):
    """Write an exported classifier of predict_models.py, for the tests of cnn-predict."""
    from predict_models import content

    def make(name="model.onnx", **options):
        (tmp_path / name).write_bytes(content(**options))
        return tmp_path / name

    return make


@pytest.fixture
def root(images):
    """Twelve images of the classes of `model`, for the tests of cnn-predict."""
    return images(blue=5, green=3, red=4)
