"""Start-up time, compared with a minimal typer program with one option: `python benchmarks/startup.py [CALLS [MODEL.onnx IMAGE]]`.

The calls of the programs alternate, so that a busy machine slows all of them alike. cnn-dims must take at most 1.5 times as long. With a
model, one image is predicted as well. CPU time (user + system) is printed, since wall time depends on other programs. Modules are compiled
at the first call, which does not count, also if PYTHONDONTWRITEBYTECODE is set.
"""

import sys
import tempfile
from pathlib import Path
from statistics import median

from process_usage import measured

BARE = """\
import typer

app = typer.Typer()


@app.command()
def main(size: int = 224) -> None:
    print(size)


if __name__ == "__main__":
    app()
"""
WORDS = ["--input", "128,128,3", "--filters", "32", "--k", "3", "--s", "2", "--pad", "same"]


def main() -> None:
    """Print the median and the minimum time of each program, and the ratio of its median to that of the minimal typer program."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder, "bare.py")
        bare.write_text(BARE, encoding="utf-8")
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "bare typer": [sys.executable, str(bare)],
            "cnn-dims": [sys.executable, "-m", "cnnkit_tools.cnn_dims", *WORDS],
            "cnn-dims --help": [sys.executable, "-m", "cnnkit_tools.cnn_dims", "--help"],
            "import torch": [sys.executable, "-c", "import torch"],
            "import cnnkit.train.head": [sys.executable, "-c", "import cnnkit.train.head"],
            "import torchvision": [sys.executable, "-c", "import torchvision"],
        }
        if len(sys.argv) > 3:
            commands["cnn-predict"] = [sys.executable, "-m", "cnnkit_tools.cnn_predict", "-m", sys.argv[2], sys.argv[3]]
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(calls + 1):
            for name, command in commands.items():
                times[name].append(measured(command)[0])
    print(f"{'program':<24}  median ms  min ms    ratio")
    reference = median(times["bare typer"][1:])
    for name, taken in times.items():
        warm = taken[1:]  # the first call compiles
        print(f"{name:<24}  {1000 * median(warm):9.1f}  {1000 * min(warm):8.1f}  {median(warm) / reference:5.2f}")


if __name__ == "__main__":
    main()
