"""What to do next with a checked set."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from cnnkit import messages
from cnnkit.audit.check_report import CheckReport
from cnnkit.audit.record import FindingKind, Level
from cnnkit.data import split_names, train_val
from cnnkit.data.source import ImageFile
from cnnkit.data.train_val import DatasetSize
from cnnkit.formats.manifest import ManifestRow

#: What to do with a set that a pretrained backbone is similar to, and with one that it is not, by the textbook.
_CASES = {
    DatasetSize.SMALL: ("a head on a pretrained base's features", "on those of an earlier layer"),
    DatasetSize.LARGE: ("fine-tuning of all layers of a pretrained base", "training from scratch"),
}


def advise(report: CheckReport, words: Sequence[str], *, fixed: Sequence[ManifestRow] | None = None) -> Iterator[str]:
    """Say how many images there are to learn from, which cases of transfer learning come into question, and which command is next.

    Args:
        report: Of the check.
        words: How the command line names the set, or the manifest that was written in its place.
        fixed: What stands in that.

    Yields:
        Lines of text.
    """
    left: Sequence[ManifestRow | ImageFile] = report.sound if fixed is None else fixed
    named = "SOURCE" if "-" in words else shlex.join(words)  # a list can be read once
    train = [each for each in left if each.split is None or each.split.lower() not in split_names.HELD_OUT_NAMES]
    counts = Counter(each.label for each in train if each.label is not None)
    if counts:
        low, high = min(counts.values()), max(counts.values())
        count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        size = train_val.dataset_size(len(train))
        alike, different = _CASES[size]
        each = f"{count} of 1 class" if len(counts) == 1 else f"{count} of each of {len(counts):,} classes"
        yield f"{messages.count_images(len(train))} to learn from, {each}: a {size} set"
        yield f"so {alike}, or else {different}: cnn-advise {named} measures which"
    splits = {each.split for each in left if each.split is not None}
    yield f"next: {_next(report, named, splits=splits, fixed=fixed is not None)}"


def _next(report: CheckReport, named: str, *, splits: set[str], fixed: bool) -> str:
    if report.count(Level.ERROR) and not fixed:
        return f"look at the errors, then cnn-check {named} --fix clean.tsv"
    if any(finding.finding is FindingKind.LEAK and finding.level is not Level.NOTE for finding in report.findings):
        return f"look at what leaks, which a network may learn in place of the content; then {_step(report, named, splits, fixed=fixed)}"
    return _step(report, named, splits, fixed=fixed)


def _step(report: CheckReport, named: str, splits: set[str], *, fixed: bool) -> str:
    if (
        train := next((split for split in sorted(splits) if split.lower() in split_names.TRAIN_NAMES), None)
    ) is not None:
        return f"cnn-extract {named} --split {shlex.quote(train)} -o train.npy"
    if splits:
        fold = shlex.quote(min(splits))
        return f"cnn-extract {named} -o features.npy && cnn-train-head features.npy --hold-out {fold} -o {fold}.pt"
    near = " --near" if any(pair.kind is FindingKind.ALIKE for pair in report.pairs) and not fixed else ""
    return f"cnn-split {named} --ratio 70,15,15{near} > split.tsv"
