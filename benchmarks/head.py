"""Training of a head by logistic regression, compared with a script that does the same with scikit-learn.

    python benchmarks/head.py FEATURES.npy [RUNS]

FEATURES.npy is from cnn-extract, with splits train and val. Both programs fit the same strengths of the penalty, each from the solution
before, until the loss on the validation set rises, and print the best one. The script needs the whole start of Python, NumPy and
scikit-learn; with `--torch`, it also writes the head as a file of torch, as cnn-train-head does. The programs run in turn, one thread each.
CPU time (user + system) and peak memory are printed, since wall time depends on other programs.
"""

import sys
import tempfile
from pathlib import Path
from statistics import median

from process_usage import measured

SCRIPT = """\
import csv
import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

features = sys.argv[1]
with open(features.removesuffix(".npy") + ".tsv", encoding="utf-8") as file:
    rows = list(csv.DictReader(file, delimiter="\\t"))
values, labels = np.load(features), np.array([row["label"] for row in rows])
train, val = (np.array([row["split"] == split for row in rows]) for split in ("train", "val"))
model = LogisticRegression(max_iter=5000, warm_start=True, tol=float(sys.argv[2]))
losses, kept = [], None
for exponent in range(2, -13, -1):
    model.set_params(C=1 / (2 * 10 ** (exponent / 2) * train.sum()))
    model.fit(values[train], labels[train])
    losses.append(log_loss(labels[val], model.predict_proba(values[val])))
    if losses[-1] == min(losses):
        kept = model.coef_.copy(), model.intercept_.copy()
    if len(losses) > 3 and min(losses[-3:]) > min(losses[:-3]):
        break
print(min(losses))
if "--torch" in sys.argv:
    import torch

    torch.save({"weight": torch.tensor(kept[0]), "bias": torch.tensor(kept[1])}, sys.argv[3])
"""


def main() -> None:
    """Print the median and the minimum of the CPU time of each program, and its peak memory."""
    features, runs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script.py")
        script.write_text(SCRIPT, encoding="utf-8")
        made = str(Path(folder, "head.pt"))
        commands = {
            "cnn-train-head --solver lbfgs": [
                sys.executable, "-m", "cnnkit_tools.cnn_train_head", features, "-o", made, "--solver", "lbfgs", "-q",
            ],
            "import torch": [sys.executable, "-c", "import torch"],
            "scikit-learn, tol 1e-4": [sys.executable, str(script), features, "1e-4", made],
            "scikit-learn, tol 1e-4, --torch": [sys.executable, str(script), features, "1e-4", made, "--torch"],
            "scikit-learn, tol 1e-6, --torch": [sys.executable, str(script), features, "1e-6", made, "--torch"],
        }  # fmt: skip
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(runs):
            for name, command in commands.items():
                found[name].append(measured(command))
    print(f"{'program':<32}  median s  min s     MB")
    for name, each in found.items():
        times = [seconds for seconds, _ in each]
        print(f"{name:<32}  {median(times):8.2f}  {min(times):5.2f}  {max(memory for _, memory in each):5.0f}")


if __name__ == "__main__":
    main()
