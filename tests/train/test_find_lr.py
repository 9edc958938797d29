"""The learning-rate range test: its rates, losses and suggestions against torch and fastai's definitions."""

import csv
import io
import math

import pytest
import torch

from cnnkit.cli import training
from cnnkit.errors import CnnkitError
from cnnkit.train import find_lr, find_lr_plot
from cnnkit.train.find_lr import LrStep

LAYERS = [
    "--layers",
    "conv 4 k3 relu, pool 2, flatten",
    "--size",
    "16",
    "--seed",
    "3",
    "--amp",
    "off",
    "--device",
    "cpu",
]


def reference_valley(lrs, losses):
    """Return the learning rate of fastai's valley, by its definition: from the longest decreasing subsequence."""
    best = [(1, place) for place in range(len(losses))]
    end = 0
    for i in range(1, len(losses)):
        length = 1
        for j in range(i):
            if losses[i] < losses[j] and length < best[j][0] + 1:
                length = best[j][0] + 1
                if length > best[end][0] and i != end:
                    end, start = i, i - length
        best[i] = (length, i)
    third = (end - start) / 3
    return lrs[start + int(third) + int(third / 2)]


def curve(seed):
    """Return a loss that falls and rises again, with noise, as of a range test."""
    noise = torch.randn(60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.01
    place = torch.arange(60)
    return (2 - torch.sigmoid((place - 25.0) / 4) + torch.exp((place - 55.0) / 3) + noise).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_suggestions_are_those_of_the_definitions(seed):
    losses = curve(seed)
    lrs = [1e-7 * 1e8 ** (place / 100) for place in range(10, 70)]
    assert lrs[find_lr.valley(losses)] == reference_valley(lrs, losses)
    slopes = torch.tensor(losses).diff() / torch.tensor(lrs).log().diff()
    assert find_lr.steepest([math.log(each) for each in lrs], losses) == int(slopes.argmin())


def test_valley_by_hand():
    """The decline takes places 2 to 10, so one and a half sixths of it are place 2 - 1 + 3 + 1."""
    losses = [5, 6, 9, 8, 7, 4, 3, 2.5, 2, 1, 0.5, 3, 9]
    assert find_lr.valley(losses) == (10 - 9) + int(9 / 3) + int(9 / 3 / 2)
    assert find_lr.valley([1.0, 2.0, 3.0]) == 0


def test_no_suggestion_if_the_loss_diverges_at_once():
    with pytest.raises(CnnkitError, match=r"diverged after 12 steps, at a learning rate of 1.1e-06, .* give --clip 1"):
        find_lr.with_suggestions([LrStep(1e-7 * (1 + place), 1.0, 1.0) for place in range(11)] + [LrStep(1.1e-6, 1, 9)])


def test_a_loss_that_does_not_fall_is_reported(caplog):
    """A suggestion is always made, as fastai does; here it is noise."""
    rates = [1e-7 * 1e8 ** (place / 100) for place in range(60)]
    find_lr.with_suggestions([LrStep(lr, each, each) for lr, each in zip(rates, curve(0), strict=True)])
    assert not caplog.records
    flat = [2 + 0.01 * math.sin(place) + max(0, place - 40) / 10 for place in range(60)]
    find_lr.with_suggestions([LrStep(lr, each, each) for lr, each in zip(rates, flat, strict=True)])
    assert "the loss fell by only 0.2 %: the suggestions may be noise" in caplog.text


@pytest.fixture
def tested(run, images, tmp_path, monkeypatch):
    """Return the rows of cnn-train --find-lr lr.png, and the outcome; a broken image of the validation set is not read."""
    images("photos/train", red=9, blue=8)
    images("photos/val", red=2, blue=2)
    (tmp_path / "photos/val/red/broken.png").write_bytes(b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    outcome = run("cnn-train", "photos", *LAYERS, "--optimizer", "sgd", "--batch", 8, "--find-lr", "lr.png")
    return list(csv.DictReader(io.StringIO(outcome.out), delimiter="\t")), outcome


def test_rates_grow_and_losses_are_smoothed(tested, tmp_path):
    """Rates are 10^8 to the step's share of 100 times 1e-7; the mean is Adam's, of weight 0.98; no model is written."""
    rows, outcome = tested
    assert 15 < len(rows) <= 100
    mean = 0.0
    for place, row in enumerate(rows):
        assert float(row["lr"]) == pytest.approx(1e-7 * 1e8 ** (place / 100), rel=1e-5)
        mean = 0.98 * mean + 0.02 * float(row["loss"])
        assert float(row["smoothed"]) == pytest.approx(mean / (1 - 0.98 ** (place + 1)), rel=1e-4)
    smoothed = [float(row["smoothed"]) for row in rows]
    assert len(rows) == 100 or smoothed[-1] > 4 * min(smoothed)
    suggested = {name: row["lr"] for row in rows for name in row["suggested"].split(",") if name}
    assert set(suggested) == {"valley", "steepest"}
    assert f"suggested: --lr {float(suggested['valley']):.2g}, in the longest decline" in outcome.err
    assert "no validation set" not in outcome.err
    assert "training takes about 1 MiB of memory for batches of 8" in outcome.err
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["lr.png", "photos"]


def test_the_same_seed_gives_the_same_bytes(run, tested, tmp_path):
    _, outcome = tested
    words = ["cnn-train", "photos", *LAYERS, "--optimizer", "sgd", "--batch", 8, "--find-lr"]
    again = run(*words, "again.png")
    assert again.out == outcome.out
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "lr.png").read_bytes()
    other = run(*words, "other.svg", "--seed", 4)
    assert other.out != outcome.out
    assert (tmp_path / "other.svg").read_text().startswith("<?xml")


def test_only_the_first_process_prints_and_draws(run, images, tmp_path, monkeypatch):
    """Another one of torchrun prints no header either."""
    images("photos/train", red=2, blue=2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "rank", lambda: 1)
    assert run("cnn-train", "photos", *LAYERS, "--find-lr", "lr.png").out == ""
    assert not (tmp_path / "lr.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "model.pt"], "writes no model; drop -o"),
        (["--lr", "0.1"], "has its own learning rates, validates nothing, and writes no model; drop --lr"),
        (["--epochs", "3"], "drop --epochs"),
        (["--resume"], "drop --resume"),
        (["--monitor", "val_loss"], "drop --monitor"),
        (["--find-lr", "lr.tsv"], "lr.tsv: unknown format"),
    ],
)
def test_options_that_would_be_ignored(run, images, tmp_path, monkeypatch, words, said):
    images("photos/train", red=2, blue=2)
    monkeypatch.chdir(tmp_path)
    assert said in run("cnn-train", "photos", *LAYERS, "--find-lr", "lr.png", *words, status=2).err


def test_fine_tuning_has_a_range_test_too(run, tested, tmp_path):
    """Of the trained layers, at the rates of their groups."""
    (tmp_path / "photos/val/red/broken.png").unlink()
    run("cnn-train", "photos", *LAYERS, "--epochs", 1, "-o", "net.pt")
    words = ["cnn-finetune", "net.pt", "photos", "--unfreeze", "all", "--layer-decay", "0.5", "--device", "cpu"]
    outcome = run(*words, "--find-lr", "tune.pdf")
    assert len(outcome.rows) > 15
    assert list(outcome.rows[0]) == list(find_lr.COLUMNS)
    assert (tmp_path / "tune.pdf").read_bytes().startswith(b"%PDF")
    assert not (tmp_path / "tune.csv").exists()


def test_the_figure_shows_losses_and_suggestions():
    losses = curve(0)
    steps = find_lr.with_suggestions(
        [LrStep(10.0 ** (place / 10 - 7), each, each) for place, each in enumerate(losses)]
    )
    (axes,) = find_lr_plot.render(steps).axes
    assert axes.get_xscale() == "log"
    assert list(axes.lines[1].get_ydata()) == losses
    marks = {line.get_marker(): line.get_xdata()[0] for line in axes.lines if line.get_marker() in "os"}
    assert marks["o"] == next(each.lr for each in steps if "valley" in each.suggested)
    assert marks["s"] == next(each.lr for each in steps if "steepest" in each.suggested)


def test_the_figure_has_room_for_all_that_counts():
    """A first loss that is low by chance cuts nothing off; two suggestions of the same step are both visible."""
    losses = [1.0, 1.5, *curve(0)]
    marked = [
        LrStep(10.0 ** (place / 10 - 7), each, each, "valley,steepest" if place == 27 else "")
        for place, each in enumerate(losses)
    ]
    (axes,) = find_lr_plot.render(marked).axes
    low, high = axes.get_ylim()
    assert low < min(losses)
    assert high > max(losses[:40])
    valley, steepest = (next(line for line in axes.lines if line.get_marker() == marker) for marker in "os")
    assert valley.get_markersize() < steepest.get_markersize()
    assert axes.lines.index(valley) > axes.lines.index(steepest)
