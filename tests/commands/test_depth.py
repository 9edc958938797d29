"""The call depth of a training: from `main` to `backward()` in few frames and files."""

import inspect
from pathlib import Path

import cnnkit_tools
import pytest
import torch

import cnnkit

PACKAGES = [Path(package.__file__).parent for package in (cnnkit, cnnkit_tools)]


@pytest.fixture
def depth(run, monkeypatch):
    """Run a command, and return the files of cnnkit's frames from `main` to the first call of `backward()`."""

    def call(*words):
        stacks = []
        real = torch.Tensor.backward

        def backward(self, *given, **named):
            stacks.append([Path(frame.filename) for frame in reversed(inspect.stack()[1:])])
            return real(self, *given, **named)

        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "backward", backward)
            run(*words)
        ours = [path for path in stacks[0] if any(path.is_relative_to(each) for each in PACKAGES)]
        return ours[next(index for index, path in enumerate(ours) if path.is_relative_to(PACKAGES[1])) :]

    return call


def test_backward_is_at_most_six_frames_from_main(run, depth, tmp_path, monkeypatch, images):
    """In at most five files, for every command that trains."""
    for split in ("train", "val"):
        images(f"photos/{split}", red=2, blue=2)
    monkeypatch.chdir(tmp_path)
    fast = ("--epochs", "1", "--device", "cpu")
    small = ("--layers", "conv 2 k3 relu, gap", "--size", "8")
    run("cnn-extract", "photos/train", "-o", "train.npy", "--layers", "conv 2 k3 relu, gap", "--weights", "none")
    for words, file in (
        (("cnn-train", "photos", "-o", "net.pt", *small), "cnn_train.py"),
        (("cnn-finetune", "net.pt", "photos", "-o", "tuned.pt", "--unfreeze", "all"), "cnn_finetune.py"),
        (("cnn-train-head", "train.npy", "-o", "head.pt"), "cnn_train_head.py"),
    ):
        frames = depth(*words, *fast)
        assert frames[0].name == file
        assert len(frames) <= 6, frames
        assert len(set(frames)) <= 5, frames
