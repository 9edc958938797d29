"""Print one row per rung (way to train) from the Makefile's files: RUNG-SEED.csv by training, RUNG-SEED.json by cnn-eval.

val_accuracy     of the best epoch, the mean over the seeds
test_accuracy    the mean over the seeds; column `each` has one value per seed
low high         the 95 % interval of the seed with the median accuracy, for other test sets of the same size

    python ladder.py FOLDER RUNG...
"""

import csv
import json
import math
import re
import sys
from pathlib import Path
from statistics import fmean

BOOK = {"scratch": "0.71", "augmented": "0.82", "head": "0.90 to 0.93", "endtoend": "0.96", "tuned": "0.97"}

folder, *rungs = sys.argv[1:]
print("rung", "book", "seeds", "val_accuracy", "test_accuracy", "low", "high", "each", sep="\t")
for rung in rungs:
    found = sorted(path for path in Path(folder).glob(f"{rung}-*.json") if re.fullmatch(rf"{rung}-\d+", path.stem))
    if not found:
        sys.exit(f"{folder}: no file {rung}-SEED.json; make {rung} first")
    tests = sorted((json.loads(path.read_text()) for path in found), key=lambda record: record["accuracy"])
    best = []
    for path in found:
        with path.with_suffix(".csv").open() as file:
            rows = [row for row in csv.DictReader(file) if not math.isnan(float(row["val_loss"]))]
            best.append(min(rows, key=lambda row: float(row["val_loss"])))
    middle = tests[(len(tests) - 1) // 2]
    print(
        rung,
        BOOK.get(rung, ""),
        len(tests),
        f"{fmean(float(row['val_accuracy']) for row in best):.4f}",
        f"{fmean(record['accuracy'] for record in tests):.4f}",
        f"{middle['accuracy_low']:.4f}",
        f"{middle['accuracy_high']:.4f}",
        " ".join(f"{record['accuracy']:.3f}" for record in tests),
        sep="\t",
    )
