"""Whole trainings by the library: resuming, torch's global state, full memory and checkpoints."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from cnnkit.callbacks import Callbacks
from cnnkit.choices import Initializer, Loss, Optimizer, Pool, Schedule
from cnnkit.engine import device as devices
from cnnkit.errors import CnnkitError
from cnnkit.formats import checkpoint, torch_model
from cnnkit.formats.header import ArtefactKind, Backbone, Fit, Header, Preprocess
from cnnkit.nets import build, notation
from cnnkit.nets.classifier import Classifier
from cnnkit.train import distributed, trainer
from cnnkit.train.config import ImageTrainConfig
from cnnkit.train.distributed import ALONE
from cnnkit.train.frozen import CachedFeatures
from cnnkit.train.trainer import RunContext, Task, Trainer

SQUARE = Preprocess(fit=Fit.SQUASH, resize=8, size=8)


def task(seed=0, layers="conv 4 k3 bn relu, dropout 0.3", **changes):
    generator = torch.Generator().manual_seed(seed)
    extractor = build.build(notation.parse(layers), channels=3, height=8, width=8)
    head = build.build(notation.parse("gap, dense 2"), channels=4, height=6, width=6)
    for part in (extractor, head):
        build.initialise(part, Initializer.HE, generator=generator)
    whole = Classifier(extractor, head, preprocess=SQUARE, pool=Pool.NONE)
    targets = torch.arange(22) % 2
    generator.manual_seed(0)
    images = torch.randint(0, 200, (22, 8, 8, 3), generator=generator, dtype=torch.uint8)
    images += targets[:, None, None, None].byte() * 20
    train, val = (
        CachedFeatures([images[part]], targets[part], device=torch.device("cpu"))
        for part in (slice(0, 13), slice(13, 22))
    )
    backbone = Backbone("layers", "bn1", Pool.NONE, notation=layers)
    header = Header(
        ArtefactKind.MODEL, classes=("a", "b"), preprocess=SQUARE, backbone=backbone, head="gap, dense 2 softmax"
    )
    return dataclasses.replace(Task(whole, whole, train, val, header, identity="these"), **changes)


def place(output, *, resume=False, **callbacks):
    return RunContext(Path(output), torch.device("cpu"), ALONE, resume, Callbacks(**callbacks))


def run(*given):
    return Trainer(*given).run()


class Stop(Exception):
    pass


@pytest.mark.parametrize("optimizer", Optimizer)
def test_resume_is_byte_identical(tmp_path, monkeypatch, optimizer):
    """With every optimizer, model and history are those of a training that was not interrupted."""
    monkeypatch.chdir(tmp_path)
    config = ImageTrainConfig(optimizer=optimizer, epochs=4, batch=4, lr=0.05, schedule=Schedule.COSINE, ema=0.8)

    def stop(epoch):
        if epoch.epoch == 2:
            raise Stop

    whole = run(task(), config, place("whole.pt"))
    with pytest.raises(Stop):
        run(task(), config, place("m.pt", report=stop))
    assert not Path("m.pt").exists()
    seen = []
    result = run(task(seed=7), config, place("m.pt", resume=True, report=lambda epoch: seen.append(epoch.epoch)))
    assert seen == [3, 4]
    assert Path("m.pt").read_bytes() == Path("whole.pt").read_bytes()
    assert dataclasses.replace(result, model="", seconds=0) == dataclasses.replace(whole, model="", seconds=0)
    assert Path("m.csv").read_text().count("\n") == 5


def test_global_rng_is_untouched(tmp_path):
    """Dropout draws from torch's global generator with its own seeds: draws before and after are not affected, and have no effect."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    results = []
    for draws in (0, 3):
        torch.rand(draws)
        state = torch.random.get_rng_state()
        run(task(), ImageTrainConfig(epochs=2, batch=4), place(tmp_path / "m.pt"))
        assert torch.equal(torch.random.get_rng_state(), state)
        results.append((tmp_path / "m.pt").read_bytes())
    assert results[0] == results[1]
    assert not torch.equal(before, torch.random.get_rng_state())


def test_validation_batches_are_divided_as_training_batches(tmp_path, monkeypatch):
    """The history is that of a training with enough memory."""
    monkeypatch.chdir(tmp_path)
    sizes = []

    class Small(Classifier):
        def forward(self, images):
            if len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            sizes.append((len(images), self.training))
            return super().forward(images)

    layers = "conv 4 k3 relu"
    config = ImageTrainConfig(epochs=2, batch=8, smoothing=0.1, loss=Loss.CATEGORICAL)
    large = task(layers=layers)
    run(large, config, place("large.pt"))
    small = task(layers=layers)
    small.whole.__class__ = Small
    run(small, config, place("small.pt"))
    assert {size for size, _ in sizes} <= {1, 2}
    assert not all(training for _, training in sizes)
    ours, theirs = torch_model.load("small.pt"), torch_model.load("large.pt")
    for one, other in zip(ours.history, theirs.history, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_full_memory_outside_of_a_step_is_one_line(tmp_path, monkeypatch):
    """For example in validation, or when the optimizer makes its state; finished epochs can be resumed."""
    made = task()
    calls = []

    def forward(images):
        if (
            not made.whole.training and calls.append(0) is None and len(calls) > 2
        ):  # the first call counts operations, the second is the first epoch's
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Classifier.forward(made.whole, images)

    monkeypatch.setattr(made.whole, "forward", forward)
    memory = pytest.raises(
        CnnkitError, match=r"^the memory is full \(CUDA out of memory\); give a smaller --batch or --size"
    )
    with memory, distributed.joined(devices.parse("cpu")):
        run(made, ImageTrainConfig(epochs=3, batch=16), place(tmp_path / "m.pt"))
    assert (tmp_path / "m.checkpoint.pt").exists()


def test_rejects_more_processes_than_rows_in_a_batch(tmp_path):
    """A process without a row in a batch would have no gradient."""
    from cnnkit.train.distributed import World

    many = dataclasses.replace(place(tmp_path / "m.pt"), world=World(0, 3))
    with pytest.raises(
        CnnkitError, match=r"^--batch 2 leaves some of 3 processes without an image; give a larger --batch"
    ):
        run(task(), ImageTrainConfig(batch=2), many)


def test_a_batch_of_one_image_and_batch_norm(tmp_path):
    """Maps have several values per channel, and can be trained; vectors have one, which is an error in one line."""
    config = ImageTrainConfig(epochs=1, batch=1)
    assert run(task(), config, place(tmp_path / "m.pt")).epochs == 1
    vectors = task()
    vectors.whole.head.append(nn.BatchNorm1d(2))
    with pytest.raises(CnnkitError, match=r"^batch norm cannot train on a single image at a time; "):
        run(vectors, config, place(tmp_path / "m.pt"))


@pytest.mark.parametrize(("every", "written"), [(0.0, [1, 2, 3, 4]), (1e9, [1, 4])])
def test_checkpoint_every_is_the_minimum_time_between_checkpoints(tmp_path, monkeypatch, every, written):
    """Those of the first and the last epoch are always written."""
    seen = []
    monkeypatch.setattr(checkpoint, "save", lambda path, content: seen.append(content["epochs"][-1]["epoch"]))
    context = dataclasses.replace(place(tmp_path / "m.pt"), checkpoint_every=every)
    run(task(), ImageTrainConfig(epochs=4, batch=4), context)
    assert seen == written


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("a bug")])
def test_an_interruption_writes_a_checkpoint(tmp_path, monkeypatch, error, caplog):
    """In the middle of an epoch, before a checkpoint is due: it has the state at the end of the last finished epoch."""
    monkeypatch.chdir(tmp_path)
    config = ImageTrainConfig(epochs=5, batch=4, lr=0.05, ema=0.8)
    whole = run(task(), config, place("whole.pt"))

    def stop(done, _total):
        if done > 3 * 13 + 5:
            raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        run(task(), config, dataclasses.replace(place("m.pt", progress=stop), checkpoint_every=1e9))
    assert len(checkpoint.load(Path("m.checkpoint.pt"))["epochs"]) == 3
    assert "m.checkpoint.pt has the finished epochs" in caplog.text
    resumed = run(task(), config, place("m.pt", resume=True))
    assert dataclasses.replace(resumed, seconds=0, model="") == dataclasses.replace(whole, seconds=0, model="")
    assert Path("m.pt").read_bytes() == Path("whole.pt").read_bytes()


@pytest.mark.parametrize(("share", "kept"), [(0, 4), (1e9, 2)])
def test_a_large_network_is_not_copied_after_each_epoch(tmp_path, monkeypatch, share, kept):
    """If copying takes long, an interruption loses the epochs since the last copy."""
    monkeypatch.setattr(trainer, "_QUICK", 0)
    monkeypatch.setattr(trainer, "_COPYING_SHARE", share)

    def stop(epoch):
        if epoch.epoch == 4:
            raise Stop

    with pytest.raises(Stop):
        run(
            task(),
            ImageTrainConfig(epochs=5, batch=4),
            dataclasses.replace(place(tmp_path / "m.pt", report=stop), checkpoint_every=1e9),
        )
    assert len(checkpoint.load(tmp_path / "m.checkpoint.pt")["epochs"]) == kept


def test_a_failed_checkpoint_does_not_hide_the_error(tmp_path, monkeypatch, caplog):
    """If the disk is full when a training is interrupted, the interruption is raised, and the disk is a warning."""

    def stop(epoch):
        if epoch.epoch == 2:
            monkeypatch.setattr(checkpoint, "save", full)
            raise KeyboardInterrupt

    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        run(
            task(),
            ImageTrainConfig(epochs=3, batch=4),
            dataclasses.replace(place(tmp_path / "m.pt", report=stop), checkpoint_every=1e9),
        )
    assert "could not write the checkpoint of the last epochs: No space left on device" in caplog.text
    assert len(checkpoint.load(tmp_path / "m.checkpoint.pt")["epochs"]) == 1  # the earlier checkpoint is kept


def test_resumes_a_checkpoint_without_a_scaler(tmp_path, monkeypatch):
    """A CPU has none; a GPU that computes in float16 starts with a new one."""
    monkeypatch.chdir(tmp_path)

    def stop(_epoch):
        raise Stop

    config = ImageTrainConfig(epochs=2, batch=4)
    with pytest.raises(Stop):
        run(task(), config, place("m.pt", report=stop))
    trainer = Trainer(task(), config, place("m.pt", resume=True))
    trainer.step.scaler = torch.amp.GradScaler("cpu", enabled=True)
    assert trainer.resumed() is not None


def test_deterministic_training_is_recorded_and_restores_torchs_settings(tmp_path):
    """On a CPU it gives the same weights as without; the Header differs."""
    seen = []

    def look(*_):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))

    for deterministic in (False, True):
        config = ImageTrainConfig(epochs=2, batch=4, deterministic=deterministic)
        run(task(), config, place(tmp_path / f"{deterministic}.pt", progress=look))
    assert set(seen[: len(seen) // 2]) == {(False, True)}
    assert set(seen[len(seen) // 2 :]) == {(True, False)}
    assert not torch.are_deterministic_algorithms_enabled()
    plain, other = (torch_model.load(tmp_path / f"{each}.pt") for each in (False, True))
    for name, tensor in plain.state.items():
        assert torch.equal(other.state[name], tensor)
