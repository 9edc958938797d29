"""What a row of the benchmark is: a work, the programs that do it, and what is measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

from inputs import Inputs


@dataclass(frozen=True)
class Metric:
    """A value that every program of a row is measured by, and what our programs should reach.

    Attributes:
        unit: Unit of the values.
        higher: Whether higher values are better.
        times: How many times better than the best peer our programs should be.
        limit: The lowest value (where higher is better) or the highest one that our programs should have.
    """

    unit: str
    higher: bool = False
    times: float | None = None
    limit: float | None = None


class Role(Enum):
    """Ours should reach something, peers are what it is compared with, others are only shown."""

    OURS = "ours"
    PEER = "peer"
    OTHER = "other"


@dataclass(frozen=True)
class Program:
    """A program that does the work of a row.

    Attributes:
        name: Name in the table.
        run: Does the work once, and returns values by the names of the metrics.
        role: What it is for.
        rounds: Rounds at most, for a program that takes long.
    """

    name: str
    run: Callable[[], Mapping[str, float]]
    role: Role = Role.OURS
    rounds: int | None = None


@dataclass(frozen=True)
class Row:
    """A work and the programs that do it.

    Attributes:
        name: Name in the table and in ONLY.
        work: What is done, and what counts.
        metrics: What is measured, by the names that programs return.
        programs: Makes the inputs, so that programs are not timed with them, and returns the programs.
    """

    name: str
    work: str
    metrics: Mapping[str, Metric]
    programs: Callable[[Inputs], Sequence[Program]]


@dataclass(frozen=True)
class Line:
    """The values of a program for a metric; a line of the table.

    Attributes:
        ratio: How many times better the median is than that of the best peer.
        reach: What the program should reach, in words.
        met: Whether it does.
    """

    row: str
    program: str
    metric: str
    unit: str
    values: Sequence[float]
    ratio: float | None = None
    reach: str = ""
    met: bool | None = None


def lines(row: Row, programs: Sequence[Program], samples: Sequence[Sequence[Mapping[str, float]]]) -> list[Line]:
    """Return the lines of a row from what each program returned in each round.

    A program without samples failed. There are no ratios if a peer failed: it could be the best.
    """
    found = []
    complete = all(each for program, each in zip(programs, samples, strict=True) if program.role is Role.PEER)
    for name, metric in row.metrics.items():
        measured = [
            (program, [sample[name] for sample in each if name in sample])
            for program, each in zip(programs, samples, strict=True)
        ]
        medians = [median(values) for program, values in measured if program.role is Role.PEER and values]
        best = (max if metric.higher else min)(medians) if medians and complete else None
        for program, values in measured:
            if not values:
                continue
            ratio = None if best is None else _times(median(values), best, higher=metric.higher)
            reach, met = _reached(metric, median(values), ratio) if program.role is Role.OURS else ("", None)
            found.append(Line(row.name, program.name, name, metric.unit, values, ratio, reach, met))
    return found


def _times(value: float, reference: float, *, higher: bool) -> float | None:
    divided, divisor = (value, reference) if higher else (reference, value)
    return divided / divisor if divisor else None


def _reached(metric: Metric, value: float, ratio: float | None) -> tuple[str, bool | None]:
    words, results = [], []
    if metric.times is not None and ratio is not None:
        words.append(f"{metric.times:.3g} times")
        results.append(ratio >= metric.times)
    if metric.limit is not None:
        words.append(f"{'at least' if metric.higher else 'at most'} {metric.limit:g} {metric.unit}")
        results.append(value >= metric.limit if metric.higher else value <= metric.limit)
    return ", ".join(words), all(results) if results else None
