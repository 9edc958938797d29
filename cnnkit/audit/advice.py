"""What to do next with a checked set."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from cnnkit.audit.record import Kind, Level
from cnnkit.audit.report import Report
from cnnkit.data import held_out, set_size
from cnnkit.data.set_size import Size
from cnnkit.data.source import Picture
from cnnkit.formats.manifest import Row

#: What to do with a set that a pretrained base is similar to, and with one that it is not, by the textbook.
_CASES = {
    Size.SMALL: (
        "a head on the features of a pretrained base",
        "a head on the features of one of its earlier layers",
    ),
    Size.LARGE: ("fine-tuning of all layers of a pretrained base", "training from scratch"),
}


def advise(report: Report, words: Sequence[str], *, fixed: Sequence[Row] | None = None) -> Iterator[str]:
    """Say how many pictures there are to learn from, which cases of transfer learning come into question, and which command is next.

    Args:
        report: Of the check.
        words: How the command line names the set, or the manifest that was written in its place.
        fixed: What stands in that.

    Yields:
        Lines of text.
    """
    left: Sequence[Row | Picture] = report.sound if fixed is None else fixed
    named = shlex.join(words)
    learnt = [each for each in left if each.split is None or each.split.lower() not in held_out.NAMES]
    counts = Counter(each.label for each in learnt if each.label is not None)
    if counts:
        low, high = min(counts.values()), max(counts.values())
        count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        size = set_size.size_of(len(learnt))
        alike, different = _CASES[size]
        yield f"{len(learnt):,} pictures to learn from, {count} of each of {len(counts):,} classes"
        yield (
            f"a {size} set: {alike} if it is similar to what the base was trained on, else {different}; "
            f"cnn-train --advise {named} measures which"
        )
    divided = any(each.split is not None for each in left)
    yield f"next: {_next(report, named, divided=divided, fixed=fixed is not None)}"


def _next(report: Report, words: str, *, divided: bool, fixed: bool) -> str:
    if not fixed and report.count(Level.ERROR):
        return f"look at the errors, then cnn-check {words} --fix clean.tsv"
    if any(finding.finding is Kind.LEAK for finding in report.findings):
        return "look at what leaks; a network will learn that first"
    if divided:
        return f"cnn-extract {words} --split train -o train.npy"
    near = " --near" if any(pair.kind is Kind.ALIKE for pair in report.pairs) and not fixed else ""
    return f"cnn-split {words} --ratio 70,15,15{near} > split.tsv"
