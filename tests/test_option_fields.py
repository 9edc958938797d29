"""Fields of configuration dataclasses as options: their order, limits and values."""

from dataclasses import dataclass
from typing import Annotated

import pytest

from cnnkit import cli
from cnnkit.choices import Schedule
from cnnkit.errors import UsageError
from cnnkit.option_fields import RemembersGiven, check_ranges, given, has_options, option, options


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """Settings that two commands share."""

    lr: float | None = option(None, "Learning rate.", minimum=0.0, group="Learning")
    schedule: Schedule = option(Schedule.CONSTANT, "Learning-rate schedule.", group="Learning")
    train_bn: bool = option(False, "Train batch norm.", "--train-bn/--freeze-bn")
    seed: int = option(0, "Seed.", "--seed", "-s", minimum=0, maximum=99, metavar="N")
    workers: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed(Base):
    """A subclass that changes the default of one option and adds another one."""

    lr: float = option(1e-5, "Learning rate of the backbone.", minimum=0.0)
    views: int | None = option(None, "Views.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A switch that is on."""

    freeze_bn: bool = option(True, "Keep batch norm.", "--freeze-bn/--train-bn")


@pytest.fixture
def call(capfd):
    """Run a throw-away command with these settings; return what it received, or its status and output."""

    def run(config, *words):
        received = []

        @cli.command
        def main(
            first: Annotated[bool, cli.Option("--first", help="Before.")] = False,
            config: config = None,
            last: Annotated[bool, cli.Option("--last", help="After.")] = False,
        ) -> None:
            """Do nothing."""
            received.append((first, config, last))

        with pytest.raises(SystemExit) as stop:
            main(list(words))
        captured = capfd.readouterr()
        return received[0] if received else (stop.value.code, captured.out, captured.err)

    return run


def test_values_are_in_the_dataclass(call):
    words = ["--lr", "0.5", "--schedule", "cosine", "--train-bn", "-s", "7", "--last"]
    assert call(Base, *words) == (False, Base(lr=0.5, schedule=Schedule.COSINE, train_bn=True, seed=7), True)


def test_defaults_are_those_of_the_fields(call):
    assert call(Base) == (False, Base(), False)
    assert call(Changed)[1] == Changed()


def test_options_are_in_the_place_of_the_parameter(call):
    _, out, _ = call(Changed, "--help")
    names = ["Options:", "--first", "--lr", "--train-bn", "--seed", "--views", "--last", "Learning:", "--schedule"]
    assert sorted(names, key=out.index) == names
    assert "--workers" not in out
    assert "Learning rate of the backbone. [default: 1e-05; x>=0]" in " ".join(out.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed(Base):
    """Options with a place after others, wherever those are declared; one of them after one that is moved itself."""

    warmup: float = option(0.0, "Warm-up.", after=("schedule",), minimum=0.0)
    schedule: Schedule = option(Schedule.CONSTANT, "Learning-rate schedule.")
    decay: float | None = option(None, "Decay. [default: off]", after=("warmup", "gone"), maximum=1.0)
    lr: float | None = option(None, "Learning rate.", after=("last", "seed"))
    alone: int = option(0, "Alone.", after=("gone",))


def test_option_is_after_the_last_of_those_it_names(call):
    _, out, _ = call(Placed, "--help")
    names = ["--first", "--schedule", "--warmup", "--decay", "--train-bn", "--seed", "--alone", "--last", "--lr"]
    assert sorted(names, key=out.index) == names
    assert call(Placed, "--lr", "2", "--decay", "1")[1] == Placed(lr=2.0, decay=1.0)


def test_default_and_limits_share_a_bracket(call):
    """Whole numbers have no decimals in the help; the value is a float."""
    _, out, _ = call(Placed, "--help")
    assert "Warm-up. [default: 0; x>=0]" in out
    assert "Decay. [default: off; x<=1]" in out
    assert isinstance(call(Placed)[1].warmup, float)


@pytest.mark.parametrize(
    "words", [["--seed", "100"], ["--lr", "-1"], ["--schedule", "no"], ["--workers", "1"]], ids=" ".join
)
def test_limits_and_unknown_options_are_usage_errors(call, words):
    status, _, error = call(Base, *words)
    assert status == 2
    assert words[0] in error


def test_rejects_option_declared_twice():
    with pytest.raises(AssertionError, match="declared twice"):

        @cli.command
        def main(one: Base = None, other: Changed = None) -> None:
            """Do nothing."""


def test_only_dataclasses_with_options_are_expanded():
    @dataclass
    class Plain:
        number: int = 0

    assert not has_options(Plain)
    assert not has_options(Schedule)
    assert has_options(Base)
    assert [each.name for each in options(Base)] == ["lr", "schedule", "train_bn", "seed"]


def test_given_options_are_named_as_written():
    """Defaults are left out, as are fields that are not options; a switch is named by the flag that was given."""
    assert given(Base(), Changed()) == []
    assert given(Base(lr=0.1, train_bn=True, workers=4), Changed(seed=2, views=0)) == [
        "--lr", "--train-bn", "--seed", "--views",
    ]  # fmt: skip
    assert given(Frozen(freeze_bn=False)) == ["--train-bn"]
    assert given(Base(lr=0.1, seed=2), names=("seed", "schedule")) == ["--seed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored(RemembersGiven):
    """Options that a mode ignores."""

    steps: int = option(64, "Steps.")
    freeze_bn: bool = option(True, "Keep batch norm.", "--freeze-bn/--train-bn")


def test_default_given_on_the_command_line_counts_as_given(call):
    assert given(Ignored()) == given(call(Ignored)[1]) == []
    written = call(Ignored, "--steps", "64", "--freeze-bn")[1]
    assert written == Ignored()
    assert given(written) == ["--steps", "--freeze-bn"]
    assert given(written, names=("freeze_bn",)) == ["--freeze-bn"]
    assert given(call(Ignored, "--train-bn")[1]) == ["--train-bn"]


@pytest.mark.parametrize(("name", "value"), [("lr", -0.1), ("lr", float("nan")), ("seed", -1), ("seed", 100)])
def test_rejects_numbers_out_of_range(name, value):
    with pytest.raises(UsageError, match=f"^{name}={value}: give a number from 0"):
        check_ranges(Changed(**{name: value}))


@pytest.mark.parametrize("values", [{}, {"seed": 0}, {"seed": 99, "workers": -1}])
def test_accepts_numbers_at_the_limits(values):
    """Fields that are no options have no limits, and None passes."""
    check_ranges(Changed(**values))
    check_ranges(Base())
