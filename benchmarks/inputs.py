"""What the programs of the benchmark work on. Everything is made when a row asks for it, and once."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path

import measure
from measure import Usage

HERE = Path(__file__).parent
SUFFIXES = {".jpg", ".jpeg", ".png"}


class Inputs:
    """Images, features, models and tables in a temporary folder, and the programs that read them.

    Args:
        work: Folder to write to.
        data: Folder of class folders, or with the folder dogs-vs-cats that has them; None: images are synthesised.
        weights: A state_dict of MobileNetV2; None: DATA/weights/mobilenet_v2.pth if there is one, else random weights.
        peers: Python of the environment that has the other programs.
        scale: Share of the usual number of images and rows of tables.
    """

    def __init__(self, work: Path, *, data: str | None, weights: str | None, peers: Path, scale: float = 1) -> None:
        self.work = work
        self.scale = scale
        self._peers = peers
        self._given = (
            None if not data else next(each for each in (Path(data, "dogs-vs-cats"), Path(data)) if each.is_dir())
        )
        usual = Path(data or "", "weights", "mobilenet_v2.pth")
        self.weights = weights or (str(usual.resolve()) if data and usual.is_file() else "none")
        self._environment = {"CNNKIT_CACHE": str(work / "cache"), "CNNKIT_OFFLINE": "1"}

    @property
    def description(self) -> str:
        """What the images and weights are."""
        images = "Images are synthesised" if self._given is None else "Images are photographs"
        words = f"{images}; weights of MobileNetV2 are {'random' if self.weights == 'none' else 'trained'}."
        return words + (f" Counts are multiplied by {self.scale:g}." if self.scale != 1 else "")

    def count(self, usual: int) -> int:
        """Return a number of images or rows, scaled."""
        return max(4, round(usual * self.scale))

    # ------------------------------------------------------------ programs

    def command(self, name: str, *words: object) -> list[object]:
        """Return the command line of one of our commands."""
        return [Path(sys.executable).with_name(name), *words]

    def ours(self, name: str, *words: object, cwd: Path | None = None, cache: Path | None = None) -> Usage:
        """Run one of our commands; with `cache`, another cache of exported networks."""
        environment = {**self._environment, **({"CNNKIT_CACHE": str(cache)} if cache else {})}
        return measure.run(self.command(name, *words), cwd=cwd, env=environment)

    def shell(self, line: str, *, cwd: Path) -> Usage:
        """Run a line of the shell that names our commands, which fails if one of them does."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return measure.run(["bash", "-o", "pipefail", "-c", line], cwd=cwd, env={**self._environment, "PATH": path})

    def together(self, commands: Sequence[Sequence[object]]) -> tuple[float, list[Usage]]:
        """Run commands at the same time, each on a core of its own; return the wall time of all, and what each took."""
        return measure.together(commands, env=self._environment)

    def script(self, name: str, *words: object) -> Usage:
        """Run a script of benchmarks/ in the environment of the commands."""
        return measure.run([sys.executable, HERE / name, *words], env=self._environment)

    def peer(self, name: str, *words: object) -> Usage:
        """Run a script of benchmarks/peers/ in the environment of the other programs."""
        return measure.run([self._peers, HERE / "peers" / name, *words], env={"KERAS_BACKEND": "torch"})

    def python(self, code: str, *, peer: bool = False, variables: Mapping[str, str] | None = None) -> Usage:
        """Run a line of Python, with environment variables."""
        words = [self._peers if peer else sys.executable, "-c", code]
        return measure.run(words, env={**self._environment, **(variables or {})})

    def new(self, suffix: str = "") -> Path:
        """Return a path that does not exist."""
        self._made = getattr(self, "_made", 0) + 1
        return self.work / f"output-{self._made}{suffix}"

    # ------------------------------------------------------------ images

    @cached_property
    def photos(self) -> Path:
        """The given photographs, or 4,000 synthesised ones of 375 x 280 pixels in two classes."""
        if self._given is not None:
            return self._given
        self.script("make_images.py", "fields", self.work / "fields", self.count(4000), 375, 280)
        return self.work / "fields"

    @cache  # noqa: B019 # there is one object
    def images(self, usual: int) -> Path:
        """Return a folder with a number of the photographs, the same number of each class."""
        classes = sorted(path for path in self.photos.iterdir() if path.is_dir())
        if not classes:
            raise SystemExit(f"--data {self.photos}: no class folders")
        folder = self.work / f"images-{usual}"
        share = -(-self.count(usual) // len(classes))
        for each in classes:
            found = sorted(path for path in each.iterdir() if path.suffix.lower() in SUFFIXES)
            (folder / each.name).mkdir(parents=True)
            for path in found[:: max(1, len(found) // share)][:share]:
                shutil.copyfile(path, folder / each.name / path.name)
        return folder

    @cached_property
    def image(self) -> Path:
        """One photograph."""
        return sorted(self.images(1000).glob("*/*"))[0]

    @cached_property
    def phone_photos(self) -> Path:
        """Photographs of 12 megapixels, as a phone writes them."""
        self.script("make_images.py", "phone", self.work / "phone", self.count(32), self.photos)
        return self.work / "phone"

    @cached_property
    def many_files(self) -> Path:
        """A folder of 50,000 small images, all different."""
        self.script("make_images.py", "small", self.work / "many", self.count(50_000), self.images(200), 96)
        return self.work / "many"

    @cached_property
    def tiny_images(self) -> Path:
        """A folder of 5,000 images of 32 x 32 pixels."""
        self.script("make_images.py", "small", self.work / "tiny", self.count(5000), self.images(200), 32)
        return self.work / "tiny"

    # ------------------------------------------------------------ features, models, tables

    @property
    def backbone(self) -> list[object]:
        """Options that choose MobileNetV2 and its weights."""
        return ["--backbone", "mobilenet_v2", "--weights", self.weights]

    @cached_property
    def split(self) -> Path:
        """Manifest of 1,500 photographs, 1,000 for training and 500 for validation."""
        manifest = self.work / "split.tsv"
        self.ours("cnn-split", self.images(1500), "--ratio", "0.667,0.333", "--manifest", manifest, "--no-verify", "-q")
        return manifest

    @cached_property
    def features(self) -> Path:
        """Features of these photographs."""
        output = self.work / "features.npy"
        self.ours("cnn-extract", self.split, "-o", output, *self.backbone, "--device", "cpu", "-q")
        return output

    @cached_property
    def head(self) -> Path:
        """A head trained on these features."""
        output = self.work / "head.pt"
        self.ours("cnn-train-head", self.features, "-o", output, "--solver", "lbfgs", "-q")
        return output

    @cached_property
    def model(self) -> Path:
        """MobileNetV2 with this head as ONNX."""
        output = self.work / "model.onnx"
        self.ours("cnn-export", self.head, "-o", output, "--device", "cpu", "-q")
        return output

    def fill_cache(self) -> None:
        """Export MobileNetV2 with its head if that was not done before: exports and extractions later find it in the cache."""
        _ = self.model

    @cached_property
    def tables(self) -> Path:
        """Folder with tables of a million predictions and the manifest of their images."""
        folder = self.work / "tables"
        self.script("make_tables.py", folder, self.count(1_000_000))
        return folder
