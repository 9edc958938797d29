"""The commands of README.md, one after another: `python benchmarks/steps.py FOLDER WEIGHTS [ROUNDS]`.

FOLDER contains FOLDER/CLASS/image.jpg, at least 200 images of each class; WEIGHTS is a state_dict of MobileNetV2. Prints CPU time, that of
starting included, and peak memory of each command, with one thread: on a machine that does nothing else, one waits about as long.
"""

import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from statistics import median

from process_usage import measured

README = Path(__file__).parents[1] / "README.md"


def commands() -> list[str]:
    """Return the commands of the block with photographs."""
    (block,) = re.findall(r"<!-- photos -->\n```console\n(.*?)```", README.read_text(), re.DOTALL)
    return re.findall(r"^\$ (.*)$", block, re.MULTILINE)


def main() -> None:
    """Measure them in turn."""
    folder, weights, *rounds = sys.argv[1:]
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(int(rounds[0]) if rounds else 3):
        with tempfile.TemporaryDirectory() as place:
            Path(place, "photos").symlink_to(Path(folder).resolve())
            Path(place, "mobilenet_v2.pth").symlink_to(Path(weights).resolve())
            for command in commands():
                usage = measured(["bash", "-c", f"cd {shlex.quote(place)} && {command}"])
                found.setdefault(command.split()[0], []).append(usage)
    print("command\tcpu_seconds\tpeak_mb")
    for name, usages in found.items():
        seconds, memory = (median(values) for values in zip(*usages, strict=True))
        print(f"{name}\t{seconds:.1f}\t{memory:.0f}")


if __name__ == "__main__":
    main()
