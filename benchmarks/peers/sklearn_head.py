"""Fit a logistic regression to features from cnn-extract: sklearn_head.py FEATURES.npy TOLERANCE HEAD.pt|HEAD.joblib.

Fits the same strengths of the penalty as cnn-train-head --solver lbfgs, each from the solution before, until the loss on the validation
set rises, and keeps the best. HEAD.pt is written with torch, HEAD.joblib without.
"""

import csv
import sys

import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

features, tolerance, output = sys.argv[1], float(sys.argv[2]), sys.argv[3]
with open(features.removesuffix(".npy") + ".tsv", encoding="utf-8") as file:
    rows = list(csv.DictReader(file, delimiter="\t"))
values, labels = np.load(features), np.array([row["label"] for row in rows])
train, val = (np.array([row["split"] == split for row in rows]) for split in ("train", "val"))
model = LogisticRegression(max_iter=5000, warm_start=True, tol=tolerance)
losses: list[float] = []
for exponent in range(2, -13, -1):
    model.set_params(C=1 / (2 * 10 ** (exponent / 2) * train.sum()))
    model.fit(values[train], labels[train])
    losses.append(log_loss(labels[val], model.predict_proba(values[val])))
    if losses[-1] == min(losses):
        kept = model.coef_.copy(), model.intercept_.copy()
    if len(losses) > 3 and min(losses[-3:]) > min(losses[:-3]):
        break
print(min(losses))
if output.endswith(".pt"):
    import torch

    torch.save({"weight": torch.tensor(kept[0]), "bias": torch.tensor(kept[1])}, output)
else:
    joblib.dump(kept, output)
