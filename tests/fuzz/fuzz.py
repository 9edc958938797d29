"""Run real commands on damaged and hostile inputs, and count the failures.

    .venv/bin/python tests/fuzz/fuzz.py --count 10000 --report docs/reliability.md      (make fuzz)

A command survives an input if it ends in time with a documented exit status, prints no traceback, stays within a memory limit and writes
nothing except its outputs; each kind of input below may require more. The same seed and count give the same inputs, with any number of
jobs. tests/fuzz/test_fuzz.py runs 100 of them.
"""

import argparse
import contextlib
import gzip
import io
import json
import multiprocessing
import os
import pickle
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from forks import MEGABYTES, SECONDS, Runner
from mutations import damage_bytes, damage_json, damage_text, flip_bit, hostile_name
from PIL import Image

#: Inputs per random generator, so that they do not depend on the number of jobs; a kind may process 10 or 5 of them at once.
CHUNK = 10

NETWORK = "conv 4 k3 s2 relu"
_PREFIX = "cnnkit-fuzz-"


class Workshop:
    """The valid inputs to be damaged, made once by the commands themselves, and the results of the commands on them."""

    def __init__(self, folder, run):
        self.folder = folder
        self.run = run
        generator = np.random.default_rng(7)
        for number, label in enumerate(("red", "blue")):
            (folder / "photos" / label).mkdir(parents=True)
            for index in range(8):
                pixels = generator.integers(0, 90, (24, 28, 3)) + np.asarray([[160, 0, 0], [0, 0, 160]])[number]
                Image.fromarray(pixels.astype(np.uint8)).save(folder / "photos" / label / f"{index}.png")
        self.images = dict(self._valid_images(pixels.astype(np.uint8)))
        small = f"--layers '{NETWORK}' --weights none --size 16 --device cpu"
        self.do("cnn-split photos --ratio 0.5,0.5", keep="split.tsv")
        self.do(f"cnn-extract split.tsv --split train -o train.npy {small}")
        self.do(f"cnn-extract split.tsv --split val -o val.npy {small}")
        self.do("cnn-train-head train.npy --val val.npy -o head.pt --epochs 3 --device cpu")
        self.do("cnn-export head.pt -o head.onnx --cam --device cpu")
        self.do("cnn-predict -m head.onnx split.tsv --device cpu", keep="predictions.tsv")
        self.do("cnn-split photos --ratio 1 -o tars --per-tar 100")
        (folder / "tars" / "train-000000.tar").rename(folder / "labelled.tar")
        shutil.rmtree(folder / "tars")
        with tarfile.open(folder / "folders.tar", "w", format=tarfile.GNU_FORMAT) as archive:
            for path in sorted((folder / "photos").rglob("*.png")):
                archive.add(path, f"{path.parent.name}/{'long' * 30 if path.stem == '0' else ''}{path.name}")
        for name, held in (
            ("train-images-idx3-ubyte.gz", pixels.astype(np.uint8).transpose(2, 0, 1).repeat(4, 0)),
            ("train-labels-idx1-ubyte.gz", np.arange(12, dtype=np.uint8) % 2),
        ):
            (folder / "idx").mkdir(exist_ok=True)
            sizes = b"".join(size.to_bytes(4, "big") for size in held.shape)
            (folder / "idx" / name).write_bytes(gzip.compress(bytes([0, 0, 8, held.ndim]) + sizes + held.tobytes()))
        whole = [f"photos/red/{index}.png\t{index},{index},{9 + index}.5,12" for index in range(8)]
        (folder / "boxes.tsv").write_text("\n".join(["path\tbox", *whole, ""]), "utf-8")
        self.right = {}

    def do(self, line, *, keep=None):
        """Run a command that must succeed, and optionally save its output."""
        outcome = self.run(self.folder, line)
        if outcome.status:
            raise SystemExit(f"{line}: {outcome.err}")
        if keep:
            (self.folder / keep).write_text(outcome.out, "utf-8")

    def undamaged(self, line):
        """Run a command once on the valid inputs, where it must succeed: otherwise the test would prove nothing.

        Returns:
            The outcome, and the contents of its folder afterwards.
        """
        if line not in self.right:
            with self.copy() as place:
                shutil.copytree(place / "photos", place / "some")
                outcome = self.run(place, line)
                if outcome.status:  # no SystemExit, with which a process of a pool would end silently
                    raise RuntimeError(f"{line}: {outcome.err}")
                shutil.rmtree(place / "some")
                self.right[line] = outcome, _contents(place)
        return self.right[line]

    def read(self, name):
        """Return the bytes of one of the files."""
        return (self.folder / name).read_bytes()

    @contextlib.contextmanager
    def copy(self):
        """Yield a folder of hard links to all files, which can be replaced, but not changed."""
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
            place = Path(name) / "work"
            shutil.copytree(self.folder, place, copy_function=os.link)
            yield place

    @staticmethod
    def _valid_images(pixels):
        image = Image.fromarray(pixels)
        exif = Image.Exif()
        exif[0x0112] = 6
        for name, mode, options in [
            ("a.jpg", "RGB", {"exif": exif}),
            ("progressive.jpg", "RGB", {"progressive": True}),
            ("grey.jpg", "L", {}),
            ("cmyk.jpg", "CMYK", {}),
            ("a.png", "RGB", {}),
            ("alpha.png", "RGBA", {}),
            ("palette.png", "P", {}),
            ("deep.png", "I;16", {}),
            ("bits.png", "1", {}),
            ("a.gif", "P", {}),
            ("a.bmp", "RGB", {}),
            ("a.webp", "RGB", {}),
            ("lossless.webp", "RGBA", {"lossless": True}),
            ("a.tif", "RGB", {}),
            ("lzw.tif", "RGB", {"compression": "tiff_lzw"}),
            ("fax.tif", "1", {"compression": "group4"}),
            ("float.tif", "F", {}),
            ("a.ppm", "RGB", {}),
        ]:
            whole = (
                Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
                if mode == "I;16"
                else image.convert(mode)
            )
            held = io.BytesIO()
            whole.save(
                held,
                {"jpg": "JPEG", "tif": "TIFF"}.get(name.rpartition(".")[2], name.rpartition(".")[2].upper()),
                **options,
            )
            yield name, held.getvalue()


def write(path, data):
    """Replace a file; the existing one is a hard link to the original."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


#: The kinds of inputs, in the order of the table: functions (workshop, rng, numbers) that yield (command, input, faults).
KINDS: dict[str, "Kind"] = {}


@dataclass(frozen=True)
class Kind:
    """One row of the table."""

    name: str
    promise: str
    share: float
    attempt: Callable


def kind(name, promise, share):
    """Register a kind of input, with its promise and its share of the count."""

    def register(attempt):
        KINDS[name] = Kind(name, promise, share, attempt)
        return attempt

    return register


EXTRACT = f"cnn-extract {{}} -o x.npy --layers '{NETWORK}' --weights none --size 16 --batch 2 --device cpu"
ON_IMAGES = (
    "cnn-check some",
    "cnn-predict -m head.onnx some --device cpu",
    EXTRACT.format("some"),
    "cnn-augment some -o copies --copies 1 --augment 'rotate 20, hflip'",
    "cnn-cam -m head.onnx some -o maps --device cpu",
    "cnn-split some --ratio 0.5,0.5",
    f"cnn-train some -o x.pt --layers '{NETWORK}, gap' --size 16 --epochs 1 --device cpu",
)


@kind("mutated images", "skipped with a message, or decoded as by Pillow", 0.4)
def mutated_images(shop, rng, numbers):
    """Damage images of 18 formats and modes, ten at a time."""
    for start in numbers[::10]:
        with shop.copy() as place:
            for label in ("red", "blue"):
                (place / "some" / label).mkdir(parents=True)
                write(place / "some" / label / "valid.png", shop.images["a.png"] + label.encode())  # not duplicates
            damaged = []
            for number in range(min(10, numbers.stop - start)):
                name = sorted(shop.images)[int(rng.integers(len(shop.images)))]
                damaged.append(place / "some" / ("red", "blue")[number % 2] / f"{number}-{name}")
                write(damaged[-1], damage_bytes(shop.images[name], rng))
            words = ON_IMAGES[start // 10 % len(ON_IMAGES)]
            shop.undamaged(words)
            faults = shop.run(place, words).faults()
            for path in damaged:
                alone = []
                if faults:  # which one is it?
                    with tempfile.TemporaryDirectory(prefix=_PREFIX) as aside:
                        others = [each for each in damaged if each != path]
                        for number, other in enumerate(others):
                            other.rename(Path(aside) / str(number))
                        for left in ("x.npy", "x.pt"):
                            (place / left).unlink(missing_ok=True)
                        for left in ("copies", "maps"):
                            shutil.rmtree(place / left, ignore_errors=True)
                        alone = shop.run(place, words).faults()
                        for number, other in enumerate(others):
                            (Path(aside) / str(number)).rename(other)
                yield words, path, alone
            if faults and not alone and len(damaged) > 1:
                yield words, place / "some", faults  # a failure of several together


@kind("mutated headers", "refused with the file and the field, or read", 0.15)
def mutated_headers(shop, rng, numbers):
    """Damage one field of the header of features, of models and of ONNX metadata."""
    import onnx

    headers = json.loads(shop.read("train.json"))
    graph = onnx.load_model_from_string(shop.read("head.onnx"))
    (entry,) = [each for each in graph.metadata_props if each.value.startswith("{")]
    inside = json.loads(entry.value)
    whole = entry.value
    for number in numbers:
        with shop.copy() as place:
            if number % 2 == 0:
                words, path = "cnn-train-head train.npy -o x.pt --solver lbfgs --device cpu", place / "train.json"
                write(path, damage_json(headers, rng))
            else:
                words, path = "cnn-predict -m head.onnx photos --device cpu", place / "head.onnx"
                entry.value = damage_json(inside, rng).decode()
                write(path, graph.SerializeToString())
                entry.value = whole
            yield words, path, shop.run(place, words).faults()


@kind("mutated models and features", "refused, or the changed bytes do not matter", 0.1)
def mutated_models(shop, rng, numbers):
    """Damage the bytes of .pt, .onnx and .npy; one flipped bit in a .pt never changes what it exports."""
    uses = [
        ("head.pt", "cnn-cam -m head.pt photos/red/0.png photos/blue/0.png -o maps --device cpu"),
        ("head.pt", "cnn-dims head.pt"),
        ("head.onnx", "cnn-predict -m head.onnx photos --device cpu"),
        ("head.onnx", "cnn-dims head.onnx"),
        ("train.npy", "cnn-train-head train.npy -o x.pt --solver lbfgs --device cpu"),
    ]
    for number in numbers:
        name, words = uses[number % len(uses)]
        undamaged, whole = shop.undamaged(words)
        with shop.copy() as place:
            write(place / name, (flip_bit if number % len(uses) == 0 else damage_bytes)(shop.read(name), rng))
            outcome = shop.run(place, words)
            faults = outcome.faults()
            if name == "head.pt" and not outcome.status:
                (place / name).unlink()
                if outcome.out != undamaged.out or _contents(place) != {
                    path: data for path, data in whole.items() if path != Path(name)
                }:
                    faults.append("another output with status 0")
            yield words, place / name, faults


@kind("mutated tables", "refused with the line number, or read", 0.1)
def mutated_tables(shop, rng, numbers):
    """Damage manifests, predictions, truths, histories and lists."""
    uses = [
        ("split.tsv", "cnn-split split.tsv --ratio 0.5,0.5"),
        ("split.tsv", "cnn-predict -m head.onnx split.tsv --device cpu"),
        ("predictions.tsv", "cnn-eval predictions.tsv --truth split.tsv"),
        ("split.tsv", "cnn-eval predictions.tsv --truth split.tsv"),
        ("head.csv", "cnn-curves head.csv"),
        ("train.tsv", "cnn-train-head train.npy -o x.pt --solver lbfgs --device cpu"),
        ("boxes.tsv", "cnn-predict -m head.onnx boxes.tsv --margin 0.1 --device cpu"),
    ]
    for number in numbers:
        name, words = uses[number % len(uses)]
        shop.undamaged(words)
        with shop.copy() as place:
            write(place / name, damage_text(shop.read(name), rng))
            yield words, place / name, shop.run(place, words).faults()


@kind("hostile file names", "read or skipped; nothing is written outside of -o", 0.07)
def hostile_names(shop, rng, numbers):
    """Give images names with control characters, shell commands, paths and 250 bytes; five at a time."""
    for start in numbers[::5]:
        with shop.copy() as place:
            (place / "some").mkdir()
            names = [hostile_name(rng) for _ in range(min(5, numbers.stop - start))]
            for number, name in enumerate(names):
                folder = os.fsencode(place) + b"/some/" + (b"plain" if number % 2 else name[:40].rstrip(b".") or b"_")
                os.makedirs(folder, exist_ok=True)
                with contextlib.suppress(FileExistsError), open(folder + b"/" + name[:250] + b".png", "xb") as file:
                    file.write(shop.images["a.png"])
            before = _listed(place)
            words = ON_IMAGES[start // 5 % len(ON_IMAGES)]
            shop.undamaged(words)
            faults = shop.run(place, words).faults()
            asked = {"x.npy", "x.tsv", "x.json", "x.pt", "x.csv", "copies", "maps"}
            stray = {each.partition(b"/")[0].decode("utf-8", "replace") for each in _listed(place) - before} - asked
            faults += [f"wrote {each}" for each in sorted(stray)]
            for name in names:
                yield words, name, faults


def _listed(place):
    """Return all paths below a folder as bytes."""
    root = os.fsencode(place)
    return {
        os.path.relpath(os.path.join(base, each), root)
        for base, folders, files in os.walk(root)
        for each in files + folders
    }


class _Touches:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@kind("pickles", "refused and not executed", 0.03)
def pickles(shop, rng, numbers):
    """Replace models and features by pickles that write a file when they are executed."""
    uses = [
        ("head.pt", "cnn-export head.pt -o x.onnx --device cpu"),
        ("head.pt", "cnn-dims head.pt"),
        ("head.pt", "cnn-finetune head.pt photos -o x.pt --device cpu"),
        ("train.npy", "cnn-train-head train.npy -o x.pt --device cpu"),
        ("head.onnx", "cnn-predict -m head.onnx photos --device cpu"),
    ]
    for number in numbers:
        name, words = uses[number % len(uses)]
        with shop.copy() as place:
            marker = place / "executed"
            payload = {"header": {}, "state": _Touches(str(marker)), "history": []}
            protocol = int(rng.integers(2, 5))
            held = io.BytesIO()
            if name.endswith(".npy"):
                array = np.empty(2, object)
                array[:] = [_Touches(str(marker))] * 2
                np.save(held, array, allow_pickle=True)
            elif rng.integers(2):
                with zipfile.ZipFile(held, "w") as archive:
                    archive.writestr("archive/data.pkl", pickle.dumps(payload, protocol))
                    archive.writestr("archive/version", "3\n")
            else:
                held.write(pickle.dumps(payload, protocol))
            write(place / name, held.getvalue())
            outcome = shop.run(place, words)
            faults = outcome.faults((1, 2))
            if marker.exists():
                faults.append("executed")
            yield words, place / name, faults


@kind(
    "SIGKILL at a random moment",
    "no incomplete output; the next run gives the bytes of an undisturbed one and leaves no other file",
    0.05,
)
def killed(shop, rng, numbers):
    """Kill commands that write, check their files, run them again, and compare with a run that was not killed."""
    uses = [
        EXTRACT.format("split.tsv"),
        "cnn-augment split.tsv --split train -o copies --copies 20 --augment 'rotate 20' --force",
        "cnn-split photos --ratio 0.5,0.5 -o parted --link copy --force",
        "cnn-train-head train.npy -o x.pt --epochs 30 --device cpu",
        "cnn-cam -m head.onnx photos -o maps --device cpu --force",
    ]
    for number in numbers:
        words = uses[number % len(uses)]
        undamaged, whole = shop.undamaged(words)
        seconds = undamaged.seconds
        with shop.copy() as place:
            shop.run(place, words, kill_after=float(rng.uniform(0.02, 1)) * seconds)
            faults = [
                f"incomplete {name}"
                for name, data in _contents(place).items()
                if name in whole and name.suffix != ".csv" and data != whole[name]  # a history grows by rows
            ]
            faults += shop.run(place, words).faults((0,))
            after = _contents(place)
            faults += [f"{name} differs after the next run" for name in whole if after.get(name) != whole[name]]
            faults += [f"{name} is left" for name in sorted(set(after) - set(whole))]
            yield words, f"attempt {number}", faults


@kind("mutated archives", "refused with the name of the archive, or read", 0.05)
def mutated_archives(shop, rng, numbers):
    """Damage tar archives, with labels in .cls and .json or in folders, whose headers are a third of the bytes."""
    for number in numbers:
        name = ("labelled.tar", "folders.tar")[number % 2]
        words = ON_IMAGES[number // 2 % len(ON_IMAGES)].replace("some", name)
        if number % 3 == 0 and words.startswith("cnn-augment"):
            words += " --per-tar 3"
        shop.undamaged(words)
        with shop.copy() as place:
            write(place / name, damage_bytes(shop.read(name), rng))
            before = _listed(place)
            outcome = shop.run(place, words)
            faults = outcome.faults()
            if outcome.status in (1, 2):
                faults += [] if name in outcome.err else [f"an error without the archive: {outcome.err.strip()[-200:]}"]
                faults += [f"wrote {each.decode()}" for each in sorted(_listed(place) - before)]
            yield words, place / name, faults


@kind("mutated idx files", "refused with the name of the file, or of a class that is too small, or read", 0.03)
def mutated_idx_files(shop, rng, numbers):
    """Damage images or labels of an idx data set, compressed or not."""
    for number in numbers:
        name = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")[number % 2]
        words = ON_IMAGES[number // 2 % len(ON_IMAGES)].replace("some", "idx")
        shop.undamaged(words)
        with shop.copy() as place:
            whole = shop.read(f"idx/{name}")
            path = place / "idx" / name
            if rng.integers(2):
                write(path, damage_bytes(whole, rng))
            else:
                path.unlink()
                path = path.with_suffix("")
                write(path, damage_bytes(gzip.decompress(whole), rng))
            before = _listed(place)
            outcome = shop.run(place, words)
            faults = outcome.faults()
            if outcome.status in (1, 2):
                small = re.search(r"\bclass \d+ has \d+ image", outcome.err)  # labels that were read
                if path.name not in outcome.err and not small:
                    faults.append(f"an error without the file: {outcome.err.strip()[-200:]}")
                faults += [f"wrote {each.decode()}" for each in sorted(_listed(place) - before)]
            yield words, path, faults


@kind("mutated weights", "refused with the name of the file, or read", 0.02)
def mutated_weights(shop, rng, numbers):
    """Damage a state_dict as .safetensors: its header of JSON, or any bytes."""
    import torch
    from safetensors.torch import save
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    valid = save(squeezenet1_1(weights=None).state_dict())
    length = 8 + int.from_bytes(valid[:8], "little")
    words = "cnn-filters squeezenet1_1 --weights w.safetensors --kernels -o kernels.png"
    for number in numbers:
        with shop.copy() as place:
            path = place / "w.safetensors"
            write(path, damage_bytes(valid[:length], rng) + valid[length:] if number % 2 else damage_bytes(valid, rng))
            outcome = shop.run(place, words)
            faults = outcome.faults()
            if outcome.status and path.name not in outcome.err:
                faults.append(f"an error without the file: {outcome.err.strip()[-200:]}")
            yield words, path, faults


def _contents(place):
    return {path.relative_to(place): _comparable(path) for path in place.rglob("*") if path.is_file()}


def _comparable(path):
    """Return what must be equal in two runs: a history without the column seconds."""
    if path.suffix == ".csv":
        header, *rows = path.read_text("utf-8").splitlines() or [""]
        timed = [number for number, each in enumerate(header.split(",")) if each == "seconds"]
        return [[cell for number, cell in enumerate(row.split(",")) if number not in timed] for row in rows]
    if path.suffix == ".pt":  # holds the history
        import torch

        content = torch.load(path, weights_only=True)
        return str(content["header"]) + str({name: value.tolist() for name, value in content["state"].items()})
    return path.read_bytes()


@dataclass
class Count:
    """A row of the table."""

    tried: int = 0
    survived: int = 0
    failures: list[str] = field(default_factory=list)


def fuzz(count, seed=0, *, only=None, keep=None, say=lambda text: None, jobs=1):
    """Run `count` inputs.

    Args:
        count: The number of inputs of all kinds together.
        seed: Seed of the random numbers.
        only: Run only this kind.
        keep: A folder for copies of inputs that failed.
        say: Called with a line for each failure.
        jobs: The number of processes.

    Returns:
        A Count for each kind.
    """
    counts = {name: Count() for name in KINDS if only in (None, name)}
    chunks = []
    for number, name in enumerate(KINDS):
        whole = range(count if only else max(1, round(count * KINDS[name].share)))
        chunks += [
            (name, [seed, number, start], whole[start : start + CHUNK], keep)
            for start in whole[::CHUNK]
            if name in counts
        ]
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        os.environ.setdefault("CNNKIT_CACHE", os.path.join(name, "cache"))
        os.environ["CNNKIT_OFFLINE"] = "1"
        folder = Path(name) / "valid"
        folder.mkdir()
        _Worker.shop = Workshop(folder, Runner())
        with multiprocessing.get_context("fork").Pool(jobs) as workers:  # with the modules imported here
            for name, tried, failures in workers.imap(_Worker.attempt, chunks):
                counts[name].tried += tried
                counts[name].survived += tried - len(failures)
                counts[name].failures += failures
                for each in failures:
                    say(f"{name}: {each}")
    return counts


class _Worker:
    """A worker process."""

    shop: Workshop

    @classmethod
    def attempt(cls, chunk):
        """Run a chunk; return its kind, its number of inputs, and a line for each failure."""
        name, seed, numbers, keep = chunk
        tried, failures = 0, []
        for words, path, faults in KINDS[name].attempt(cls.shop, np.random.default_rng(seed), numbers):
            tried += 1
            if faults:
                failures.append(f"{words} < {path!s}: {', '.join(faults)}")
                if keep and isinstance(path, Path) and path.is_file():
                    Path(keep).mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, Path(keep) / f"{name.replace(' ', '-')}-{numbers.start + tried}-{path.name}")
        return name, tried, failures


#: What each kind of input is, for the report.
_MEANINGS = {
    "mutated images": "Bytes of valid images of 18 formats and modes are flipped, removed, repeated or replaced. Commands that read images "
    "run on them, ten damaged images and two valid ones at a time.",
    "mutated headers": "One field of the header of features, or of an exported model, is removed or gets another value: a wrong type, "
    "a huge number, control characters.",
    "mutated models and features": "Bytes of `.pt`, `.onnx` and `.npy` files are damaged as those of images. If a command still reads a "
    "damaged `.pt`, its output has to be that of the valid one.",
    "mutated tables": "Separators, quotes, line ends, bytes that are not UTF-8 and others are put into manifests, predictions, true labels "
    "and training histories, or parts of them are removed.",
    "hostile file names": "Images have names with control characters, shell commands, paths out of the folder, and the maximum length.",
    "pickles": "Models and features are replaced by pickles that would write a file if they were executed.",
    "SIGKILL at a random moment": "Commands that write files are killed at random moments, and run again.",
    "mutated archives": "Bytes of tar archives, headers and contents, are damaged as those of images. Commands that read images run "
    "on them; one that refuses an archive writes nothing.",
    "mutated idx files": "Bytes of images or labels of an idx data set are damaged, before or after compression. Commands that read images "
    "run on the folder; one that refuses a file writes nothing.",
    "mutated weights": "Bytes of a `.safetensors` file, half of the time of its header, are damaged as those of images.",
}


def report(counts, count, seed):
    """Return the counts as a page in Markdown."""
    failures = Counter((name, each.partition(" < ")[0]) for name, row in counts.items() for each in row.failures)
    return "\n".join(
        [
            "# Reliability",
            "",
            "What happens if an image is truncated, a table is damaged, or a command is killed while it writes? "
            f"`make fuzz` (`tests/fuzz/fuzz.py --count {count} --seed {seed}`)",
            "tries it with real commands on random inputs, and writes this page. "
            f"These figures are from torch {version('torch')}, Pillow {version('pillow')} and numpy {version('numpy')}.",
            "",
            "| input | required result | tried | survived |",
            "|---|---|---:|---:|",
            *(f"| {name} | {KINDS[name].promise} | {row.tried:,} | {row.survived:,} |" for name, row in counts.items()),
            "",
            "An input is survived if the command gives the required result, and",
            "",
            f"- ends within {SECONDS} s with a documented [exit status](exit-status.md);",
            "- prints no traceback, no warning of a library, and no control characters in its messages;",
            f"- takes at most {MEGABYTES:,} MB of memory, of which 700 MB are imported packages.",
            "",
            "## The inputs",
            "",
            *(f"- **{name}**: {_MEANINGS[name]}" for name in counts),
            "",
            "## Failures",
            "",
            "An input that is not survived is a bug in cnnkit. `make fuzz` prints the command, the input and what was wrong; with "
            "`--keep FOLDER`, the script keeps the input.",
            "The same seed gives the same inputs. `make test-all` tries 100 of them.",
            "",
            *(f"- {name}: `{words}` failed on {number:,}" for (name, words), number in sorted(failures.items())),
            *([] if failures else ["In this run all inputs were survived."]),
            "",
        ]
    )


def main():
    """Parse the command line, run the inputs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="number of inputs (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(KINDS), help="run one kind")
    parser.add_argument("--keep", help="folder for copies of the inputs that failed")
    parser.add_argument("--report", type=Path, help="write the table to this file")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: the cores)")
    chosen = parser.parse_args()
    counts = fuzz(
        chosen.count,
        chosen.seed,
        only=chosen.only,
        keep=chosen.keep,
        say=lambda text: print(text, flush=True),
        jobs=chosen.jobs,
    )
    text = report(counts, chosen.count, chosen.seed)
    print(text)
    if chosen.report:
        chosen.report.parent.mkdir(exist_ok=True)
        chosen.report.write_text(text, "utf-8")
    sys.exit(any(each.failures for each in counts.values()))


if __name__ == "__main__":
    main()
