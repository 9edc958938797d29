"""A program that uses the public interface; `make checks` reads it with mypy --strict, and it is not run."""

from pathlib import Path

import cnnkit
from cnnkit import Classifier, heat_map, layer_dims

for each in Classifier(Path("model.onnx"), device="cpu").predict(["a.jpg", Path("b.jpg")]):
    label: str = each.label
    best: float = each.probabilities.max().item()
rows: tuple[cnnkit.DimsRow, ...] = layer_dims("conv 32 k3", input=(224, 224, 3))
heat_map("model.pt", "a.jpg").overlay().save("overlay.png")
labels: list[str | None] = cnnkit.extract_features("photos").labels
