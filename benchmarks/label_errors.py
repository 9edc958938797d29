"""Measure how many planted wrong labels cnn-check finds: label_errors.py FEATURES.npy [--each 200] [--wrong 8] [--seeds 20].

Features are those of cnn-extract. For each seed, draws --each images of each class, gives --wrong of them another label, and runs
cnn-check --labels on that manifest. Prints a row for each seed: how many of the wrong labels are among the first rows (as many, and twice
as many, as were planted) and among the suspects, and for how many the suggestion is right. Where cleanlab is installed, it gets the same
out-of-fold probabilities: how many issues find_label_issues finds, how many of them were planted, the shares of its issues that are
suspects and of suspects that are its issues, and Spearman's correlation of the scores of all images.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from cnnkit.audit import label_errors
from cnnkit.data.source import ImageFile
from cnnkit.formats import manifest
from cnnkit.formats.manifest import ManifestRow

try:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
except ImportError:
    find_label_issues = None


def planted(rows: list[ManifestRow], *, each: int | None, wrong: int, seed: int) -> tuple[list[ManifestRow], set[str]]:
    """Draw images of each class, and give some of them another label."""
    generator = np.random.default_rng(seed)
    classes = sorted({row.label or "" for row in rows})
    chosen: list[ManifestRow] = []
    for label in classes:
        own = [row for row in rows if row.label == label]
        places = sorted(generator.choice(len(own), min(each or len(own), len(own)), replace=False).tolist())
        chosen += [own[place] for place in places]
    changed = set(generator.choice(len(chosen), wrong, replace=False).tolist())
    made = []
    for place, row in enumerate(chosen):
        label = row.label or ""
        if place in changed:
            label = str(generator.choice([other for other in classes if other != label]))
        made.append(ManifestRow(row.path, label))
    return made, {chosen[place].path for place in changed}


def main() -> None:
    """Measure, and print a row for each seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("features", type=Path)
    parser.add_argument("--each", type=int)
    parser.add_argument("--wrong", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=20)
    given = parser.parse_args()
    listed = manifest.load(given.features.with_suffix(".tsv"))
    true = {row.path: row.label for row in listed}
    columns = ["seed", "first", "twice", "rows", "suspects", "planted", "suggested"]
    if find_label_issues is not None:
        columns += ["issues", "issues_planted", "issues_shared", "suspects_shared", "correlation"]
    print(*columns, sep="\t")
    for seed in range(given.seeds):
        rows, wrong = planted(listed, each=given.each, wrong=given.wrong, seed=seed)
        file = given.features.with_name("planted.tsv")
        manifest.save(file, rows, columns=("path", "label"))
        command = [Path(sys.executable).with_name("cnn-check"), file, "--labels", given.features, "--quiet"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        table = [line.split("\t") for line in done.stdout.splitlines()[1:]]
        folder = given.features.parent
        names = [manifest.seen_from(folder, row[0]) for row in table]
        suspects = {name for name, row in zip(names, table, strict=True) if row[-1] == "true"}
        suggested = sum(row[2] == true[name] for name, row in zip(names, table, strict=True) if name in wrong)
        found = [len(wrong & set(names[: times * len(wrong)])) for times in (1, 2)]
        figures = [*found, len(names), len(suspects), len(wrong & suspects), suggested]
        print(seed, *figures, *_cleanlab(given.features, rows, wrong, suspects), sep="\t", flush=True)


def _cleanlab(path: Path, rows: list[ManifestRow], wrong: set[str], suspects: set[str]) -> list[object]:
    """Return the figures of cleanlab on the same probabilities, and how well both agree."""
    if find_label_issues is None:
        return []
    images = [ImageFile(manifest.seen_here(str(path.parent), row.path), row.label) for row in rows]
    found = label_errors.cross_validated(path, images=images)
    labels, probabilities = found.labels, found.probabilities
    mask = find_label_issues(labels, probabilities, n_jobs=1)
    issues = {row.path for row, issue in zip(rows, mask.tolist(), strict=True) if issue}
    theirs = get_label_quality_scores(labels, probabilities)
    ours = probabilities[np.arange(len(labels)), labels]
    shared = len(issues & suspects)
    overlap = shared / max(len(issues), 1), shared / max(len(suspects), 1)
    return [
        len(issues),
        len(issues & wrong),
        *(f"{each:.3f}" for each in (*overlap, spearmanr(ours, theirs).statistic)),
    ]


if __name__ == "__main__":
    main()
