"""Time of the commands that read many files, and of other programs for the same work: `python benchmarks/files.py FOLDER [ROUNDS [PEERS]]`.

FOLDER contains FOLDER/CLASS/image.jpg. PEERS is the Python of an environment with imagededup, split-folders and torchvision, by default
the one that runs this script; a program that is not installed there is left out. All programs alternate, each in its own process,
starting and importing included:

- near duplicates: `cnn-check --probes none`, against imagededup's PHash with its search for duplicates;
- split, symlinks: `cnn-split --link symlink`, with and without --no-verify, against split-folders, which opens no file either;
- 5 copies of 200 images: `cnn-augment`, against torchvision's RandomAffine and RandomHorizontalFlip in one process per core.

The table has the seconds of the CPU, of all processes (they count on a busy machine, too), the seconds of the clock and the peak memory
of the largest process.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

IMAGEDEDUP = """
import sys
from imagededup.methods import PHash
method = PHash(verbose=False)
method.find_duplicates(encoding_map={
    name: code for folder in sys.argv[1:] for name, code in method.encode_images(image_dir=folder).items()
}, max_distance_threshold=10)
"""

SPLIT_FOLDERS = """
import sys
import splitfolders
splitfolders.ratio(sys.argv[1], output=sys.argv[2], seed=1, ratio=(.7, .15, .15), move="symlink")
"""

TORCHVISION = """
import os, sys
from concurrent.futures import ProcessPoolExecutor
from PIL import Image
from torchvision import transforms

change = transforms.Compose([
    transforms.RandomAffine(40, (0.2, 0.2), (0.8, 1.2), shear=11, interpolation=transforms.InterpolationMode.BILINEAR),
    transforms.RandomHorizontalFlip(),
])

def augment(path):
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    for number in range(5):
        change(image).save(f"{sys.argv[1]}/{os.path.basename(path)}~{number}.jpg", quality=95)

if __name__ == "__main__":
    os.makedirs(sys.argv[1])
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(augment, sys.argv[2:], chunksize=8))
"""

#: Prints what it measured of the command in its arguments.
MEASURED = """
import resource, subprocess, sys, time
started = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
taken, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
print(status, used.ru_utime + used.ru_stime, taken, used.ru_maxrss / 1024)
"""


def measured(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return its seconds of the CPU and of the clock, and its peak memory in MB."""
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], stdout=subprocess.PIPE, check=True, text=True)
    status, *numbers = (float(word) for word in done.stdout.split())
    if status:
        sys.exit(f"status {status:.0f}: {' '.join(command[:6])} ...")
    return numbers[0], numbers[1], numbers[2]


def installed(python: str, module: str) -> bool:
    """Return whether a Python has a module."""
    return not subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode


def tool(name: str, *words: str) -> list[str]:
    """Return the command line of a tool of this package."""
    return [sys.executable, "-m", f"cnnkit_tools.{name}", "--quiet", *words]


def rows(folder: str, made: Path, peers: str) -> dict[str, dict[str, list[str]]]:
    """Return the programs of each row; `OUT` in their words becomes a new folder for each run."""
    classes = sorted(str(path) for path in Path(folder).iterdir() if path.is_dir())
    images = sorted(str(path) for path in Path(folder).glob("*/*"))
    few = images[:: max(1, len(images) // 200)][:200]
    listed = made / "images.tsv"
    listed.write_text("path\n" + "".join(f"{os.path.abspath(path)}\n" for path in few), encoding="utf-8")
    words = "rotate 40, shift 0.2, shear 0.2, zoom 0.2, hflip"
    shares = ("--ratio", "70,15,15", "-o", "OUT", "--link", "symlink")
    wanted = {
        "near duplicates": {
            "cnn-check": tool("cnn_check", folder, "--probes", "none"),
            "imagededup": [peers, "-c", IMAGEDEDUP, *classes],
        },
        "split, symlinks": {
            "cnn-split --no-verify": tool("cnn_split", folder, *shares, "--no-verify"),
            "cnn-split": tool("cnn_split", folder, *shares),
            "splitfolders": [peers, "-c", SPLIT_FOLDERS, folder, "OUT"],
        },
        f"5 copies of {len(few)}": {
            "cnn-augment": tool("cnn_augment", str(listed), "-o", "OUT", "--augment", words),
            "torchvision": [peers, "-c", TORCHVISION, "OUT", *few],
        },
    }
    absent = {name for name in ("imagededup", "splitfolders", "torchvision") if not installed(peers, name)}
    return {row: {name: each for name, each in found.items() if name not in absent} for row, found in wanted.items()}


def main() -> None:
    """Print the medians of every program."""
    folder, rounds, peers = (*sys.argv[1:], *["", "3", sys.executable][len(sys.argv) - 1 :])
    if not Path(folder).is_dir() or not folder:
        sys.exit(__doc__)
    print(f"{'work':<18}{'program':<24}{'CPU s':>8}{'clock s':>9}{'MB':>7}")
    with tempfile.TemporaryDirectory() as made:
        for row, programs in rows(folder, Path(made), peers).items():
            seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in programs}
            for number in range(int(rounds)):
                for place, (name, command) in enumerate(programs.items()):
                    output = str(Path(made, f"{row.split()[0]}-{number}-{place}"))
                    seen[name].append(measured([output if word == "OUT" else word for word in command]))
            for name, taken in seen.items():
                cpu, clock, memory = (median(each) for each in zip(*taken, strict=True))
                print(f"{row:<18}{name:<24}{cpu:8.2f}{clock:9.2f}{memory:7.0f}")


if __name__ == "__main__":
    main()
