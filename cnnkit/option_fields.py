"""Options as fields of configuration dataclasses: declared once, for the command line, the library and the tests. No typer.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class TrainConfig:
        lr: float | None = option(None, "Learning rate.", minimum=0.0, group="Learning")
        class_weights: ClassWeights = option(ClassWeights.NONE, "Class weights in the loss.")

A command that declares a parameter of this type has the options `--lr` and `--class-weights` (`cnnkit.cli.command`).
"""

import dataclasses
import math
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnnkit.errors import UsageError

_KEY = "cnnkit.option"

#: The largest seed that every library takes.
MOST_SEED = 2**32 - 1

#: How many images go through a network at once.
DEFAULT_BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSpec:
    """Description of one field for the command line; `minimum` and `maximum` are inclusive."""

    name: str
    type: Any
    default: Any
    help: str
    flags: tuple[str, ...]
    metavar: str | None
    minimum: float | None
    maximum: float | None
    group: str | None
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemembersGiven:
    """Base of configurations some of whose options are ignored in some modes of a command.

    `on_command_line` holds the names of the fields given on the command line, even if with their default value. It is empty where a
    configuration is made in Python.
    """

    on_command_line: frozenset[str] = dataclasses.field(default=frozenset(), repr=False, compare=False)


def option(
    default: Any,  # noqa: ANN401 - of the field's type
    help: str,
    *flags: str,
    metavar: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    group: str | None = None,
    after: tuple[str, ...] = (),
) -> Any:  # noqa: ANN401 - dataclasses.field returns what the field's annotation promises
    """Make a dataclass field that is also an option.

    Args:
        default: The field's default, and the option's.
        help: A noun phrase or an imperative, with the unit.
        flags: Its names on the command line; `--field-name` by default.
        metavar: Placeholder of its value in the help.
        minimum: The smallest number allowed.
        maximum: The largest number allowed.
        group: Its heading in the help; by default that of all options.
        after: Its place in the help: after the last of these options that the command has. By default, the order of the fields.
    """
    described = {
        "help": help,
        "flags": flags,
        "metavar": metavar,
        "minimum": minimum,
        "maximum": maximum,
        "group": group,
        "after": after,
    }
    return dataclasses.field(default=default, metadata={_KEY: described})


def seed_option(*, after: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - as `option`
    """Make the field `seed: int`, which means the same in every command."""
    return option(0, "Random seed, for reproducible output.", minimum=0, maximum=MOST_SEED, after=after)


def jobs_option(*, after: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - as `option`
    """Make the field `jobs: int | None`: how many threads decode images; None takes all cores."""
    return option(None, "Threads that decode images. [default: all cores]", minimum=1, after=after)


def workers_option(*, after: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - as `option`
    """Make the field `workers: int`: how many processes decode images; with 0, this process does."""
    return option(
        0,
        "Processes that decode images, sharing the --jobs threads, for machines with more than 8 cores; the output is the same. "
        "0 decodes in this process.",
        minimum=0,
        after=after,
    )


def shard_option(*, after: tuple[str, ...] = (), result: str = "") -> Any:  # noqa: ANN401 - as `option`
    """Make the field `shard: str | None`: the share of the images that this process takes; `result` is a sentence about the output."""
    return option(
        None,
        "Use only the I-th of N consecutive blocks of the images, I from 1 to N; auto takes I and N from the variables of torchrun, "
        f"SLURM or Kubernetes.{f' {result}' if result else ''}",
        metavar="I/N|auto",
        after=after,
    )


def per_tar_option(*, after: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - as `option`
    """Make the field `per_tar: int | None`: the number of images in each archive; None writes folders."""
    return option(
        None,
        "Write tar archives of N images as WebDataset reads them, DIR/SPLIT-000000.tar and so on, instead of folders.",
        minimum=1,
        metavar="N",
        after=after,
    )


def device_option(*, after: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - as `option`
    """Make the field `device: str`: where networks run."""
    return option(
        "auto",
        "Device: auto (a GPU if one works, else the CPU), cpu, cuda or cuda:N (fails without that GPU).",
        metavar="DEVICE",
        after=after,
    )


def fit_option(default: str, *, when: str = "", group: str | None = None) -> Any:  # noqa: ANN401 - as `option`
    """Make the field `fit: Fit | None`: how images are made square.

    Args:
        default: What None stands for, in words.
        when: The condition under which the option counts, such as "With --size"; by default always.
        group: As `option`.
    """
    how = "ow images are made square: crop the centre, squash (change the aspect ratio), or pad."
    return option(None, f"{f'{when}: h' if when else 'H'}{how} [default: {default}]", group=group)


def decoding_option(default: str = "scaled", *, when: str = "", group: str | None = None) -> Any:  # noqa: ANN401 - as `option`
    """Make the field `decoding: Decoding | None`: how photographs are decoded that are much larger than needed; else as `fit_option`."""
    how = (
        "arge JPEG photographs are decoded at 1/2, 1/4 or 1/8 of their size, still twice the input size (scaled), or completely "
        "(full, several times as slow)."
    )
    return option(None, f"{f'{when}: l' if when else 'L'}{how} [default: {default}]", group=group)


def size_option(default: str, *, group: str | None = None) -> Any:  # noqa: ANN401 - as `option`
    """Make the field `size: int | None`: the side of a network's input. `default` is what None stands for, in words."""
    return option(
        None,
        f"Input size: side of the square, in pixels. [default: {default}]",
        minimum=1,
        metavar="PIXELS",
        group=group,
    )


def resize_option(default: str, *, group: str | None = None) -> Any:  # noqa: ANN401 - as `option`
    """Make the field `resize: int | None`: the size of images before the crop. `default` is what None stands for, in words."""
    return option(
        None,
        f"Shorter side of the image before the centre crop, in pixels. [default: {default}]",
        minimum=1,
        metavar="PIXELS",
        group=group,
    )


def weights_option(*, of: str = "", default: str = "pretrained", random: bool = True, group: str | None = None) -> Any:  # noqa: ANN401 - as `option`
    """Make the field `weights: str`: a file, default, or none.

    Args:
        of: What has the weights, such as "the --backbone"; by default the only network of the command.
        default: What `default` stands for, in words.
        random: Whether the command takes none.
        group: As `option`.
    """
    choices = f"default ({default}), or none (random)" if random else f"or default ({default})"
    return option(
        "default",
        f"Weights{f' of {of}' if of else ''}: a state_dict file, {choices}.",
        metavar="FILE|default|none" if random else "FILE|default",
        group=group,
    )


def batch_option(*, after: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - as `option`
    """Make the field `batch: int`: how many images go through the network at once."""
    return option(DEFAULT_BATCH, "Batch size, in images.", minimum=1, after=after)


def option_of(name: str, type: Any, field: dataclasses.Field[Any]) -> OptionSpec:  # noqa: ANN401 - any annotation
    """Return the option that a field describes, for a command that declares it itself."""
    described = field.metadata[_KEY]
    flags = described["flags"] or (f"--{name.replace('_', '-')}",)
    return OptionSpec(name=name, type=type, default=field.default, **{**described, "flags": flags})


def options(config: type) -> Iterator[OptionSpec]:
    """Yield the options among the fields of a dataclass, in the order of the fields.

    A subclass that redeclares a field changes its option and keeps its place.
    """
    types = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if _KEY in field.metadata:
            yield option_of(field.name, types[field.name], field)


def given(*configs: object, names: Collection[str] | None = None) -> list[str]:
    """List the options that were given on the command line or differ from their defaults, as they are written there.

    Args:
        configs: Configurations; only a `RemembersGiven` knows what was given on the command line.
        names: The fields to look at; all by default.
    """
    found = []
    for config in configs:
        on_command_line = config.on_command_line if isinstance(config, RemembersGiven) else frozenset()
        for each in options(type(config)):
            value = getattr(config, each.name)
            if (names is None or each.name in names) and (value != each.default or each.name in on_command_line):
                positive, _, negative = each.flags[0].partition("/")
                found.append(negative if negative and value is False else positive)
    return found


def refuse_unused(options: Mapping[str, object], reason: str) -> None:
    """Refuse options that a mode of a command would ignore.

    Args:
        options: Their values, by name.
        reason: What the mode does, for the message.

    Raises:
        UsageError: One of these options is given.
    """
    if unused := next((option for option, value in options.items() if value), None):
        raise UsageError(f"{reason}; drop {unused}")


def check_ranges(config: Any) -> None:  # noqa: ANN401 - any dataclass
    """Check the numbers of a configuration that was made in Python; typer checks those of a command line.

    Raises:
        UsageError: One is below the `minimum` or above the `maximum` of its option.
    """
    for field in dataclasses.fields(config):
        if _KEY in field.metadata:
            described = field.metadata[_KEY]
            check_range(
                field.name,
                getattr(config, field.name),
                minimum=described["minimum"],
                maximum=described["maximum"],
            )


def check_range(name: str, value: object, *, minimum: float | None = None, maximum: float | None = None) -> None:
    """Check one number; whatever is not a number passes.

    Raises:
        UsageError: It is below `minimum`, above `maximum`, or NaN.
    """
    if not isinstance(value, int | float) or (minimum is None and maximum is None):
        return
    if not (-math.inf if minimum is None else minimum) <= value <= (math.inf if maximum is None else maximum):
        bounds = [f"from {minimum:.10g}"] if minimum is not None else []
        bounds += [f"to {maximum:.10g}"] if maximum is not None else []
        raise UsageError(f"{name}={value}: give a number {' '.join(bounds)}")


def has_options(annotation: object) -> bool:
    """Check whether a parameter's type is a dataclass with options."""
    return (
        isinstance(annotation, type)
        and dataclasses.is_dataclass(annotation)
        and any(_KEY in field.metadata for field in dataclasses.fields(annotation))
    )
