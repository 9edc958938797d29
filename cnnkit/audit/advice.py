"""Next steps for a checked set: transfer learning or not, and the next command."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from cnnkit import messages
from cnnkit.audit import findings
from cnnkit.audit.check_report import CheckReport
from cnnkit.audit.record import FindingKind, Level
from cnnkit.data import split_names, train_val
from cnnkit.data.source import ImageFile
from cnnkit.data.train_val import DatasetSize
from cnnkit.formats.manifest import ManifestRow

#: The textbook advice if the images are similar to those that a backbone was pretrained on, and if they are different.
_CASES = {
    DatasetSize.SMALL: "train a head on the features of a pretrained backbone, or of an earlier layer if the images differ from ImageNet",
    DatasetSize.LARGE: "fine-tune all layers of a pretrained backbone, or train from scratch if the images differ from ImageNet",
}


def advise(report: CheckReport, words: Sequence[str], *, fixed: Sequence[ManifestRow] | None = None) -> Iterator[str]:
    """Report the size of the training set, the two possible cases of transfer learning, and the next command.

    Args:
        report: From the check.
        words: The set on the command line, or the manifest that was written.
        fixed: The rows of that manifest.

    Yields:
        Lines of text.
    """
    left: Sequence[ManifestRow | ImageFile] = report.sound if fixed is None else fixed
    named = "- < LIST" if "-" in words else shlex.join(words)  # a list on standard input can be read once
    train = [each for each in left if each.split is None or each.split.lower() not in split_names.HELD_OUT_NAMES]
    several = any(each.labels is not None for each in left)
    counts = Counter(label for each in train for label in findings.labels_of(each))
    if len(counts) > 1:
        low, high = min(counts.values()), max(counts.values())
        count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        size = train_val.dataset_size(len(train))
        each = f"{count} of each of {len(counts):,} {'labels' if several else 'classes'}"
        yield f"{messages.count_images(len(train))} for training, {each}: a {size} dataset"
        yield _CASES[size] if several else f"{_CASES[size]}; cnn-advise {named} measures which"
    elif left and not train:
        held = ", ".join(sorted({str(each.split) for each in left}))
        yield (
            f"no image for training: {messages.count_images(len(left))} of {held}; next, if they are to be divided again: "
            f"cnn-split {named} --ratio 70,15,15 > split.tsv"
        )
        return
    else:
        have = "of one class" if counts else "without a class"
        make = (
            "fill the column labels of the manifest, as in cat;indoor,"
            if several
            else "make a folder for each class, as in photos/cat/1.jpg, or a manifest with the columns path and label,"
        )
        yield f"{messages.count_images(len(train))} for training, {have}; next: {make} and check that"
        return
    splits = {each.split for each in left if each.split is not None}
    yield f"next: {_next(report, named, splits=splits, fixed=fixed is not None)}"


def _next(report: CheckReport, named: str, *, splits: set[str], fixed: bool) -> str:
    if report.count(Level.ERROR) and not fixed:
        return f"look at the errors, then cnn-check {named} --fix clean.tsv"
    if any(finding.finding is FindingKind.LEAK and finding.level is not Level.NOTE for finding in report.findings):
        return f"look at the leaks, then {_step(report, named, splits, fixed=fixed)}"
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
