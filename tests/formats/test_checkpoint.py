"""The checkpoint next to a model: complete or absent, and read without running code."""

import errno
from pathlib import Path

import pytest
import torch

from cnnkit.errors import FormatError
from cnnkit.formats import atomic, checkpoint, torch_model
from cnnkit.formats.header import ArtefactKind, Header
from cnnkit.formats.torch_model import TorchModel


def test_name_follows_from_the_model():
    """In the same folder; dots before the last one stay."""
    assert checkpoint.path_for(Path("out/model.pt")) == Path("out/model.checkpoint.pt")
    assert checkpoint.path_for(Path("v1.2.pt")) == Path("v1.2.checkpoint.pt")


def test_round_trip(tmp_path):
    """Including an optimizer's state, with every tensor's memory layout."""
    weight = torch.nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    optimizer = torch.optim.Adam([weight])
    weight.square().sum().backward()
    optimizer.step()
    path = tmp_path / "m.checkpoint.pt"
    checkpoint.save(path, {"optimizer": optimizer.state_dict(), "epochs": [{"epoch": 1, "val_loss": None}]})
    kept = checkpoint.load(path)
    assert kept["epochs"] == [{"epoch": 1, "val_loss": None}]
    moment, own = kept["optimizer"]["state"][0]["exp_avg"], optimizer.state[weight]["exp_avg"]
    assert torch.equal(moment, own)
    assert moment.stride() == own.stride()


def test_rejects_other_files(tmp_path):
    """A model, a broken file, and a checkpoint of another version: one line with the remedy."""
    path = tmp_path / "m.pt"
    torch_model.save(path, TorchModel(Header(ArtefactKind.MODEL), {}))
    with pytest.raises(
        FormatError, match=r"m\.pt: not a checkpoint of this version; remove it, or start over without --re"
    ):
        checkpoint.load(path)
    torch.save({"checkpoint": checkpoint.VERSION + 1}, path)
    with pytest.raises(FormatError, match="not a checkpoint of this version"):
        checkpoint.load(path)
    path.write_bytes(b"half of it")
    with pytest.raises(FormatError, match="not a file that torch can read"):
        checkpoint.load(path)


def test_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    """The error names the file; no temporary file is left."""
    path = tmp_path / "m.checkpoint.pt"
    checkpoint.save(path, {"epochs": [1]})

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        checkpoint.save(path, {"epochs": [1, 2]})
    assert caught.value.filename == str(path)
    assert checkpoint.load(path)["epochs"] == [1]
    assert list(tmp_path.iterdir()) == [path]


def test_rejects_a_damaged_checkpoint(tmp_path):
    """A flipped bit is detected, and the message says how to start over."""
    path = tmp_path / "m.checkpoint.pt"
    checkpoint.save(path, {"module": {"weight": torch.ones(1000)}})
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(1000).numpy().tobytes()) + 2002] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"damaged: data/0 has a wrong checksum; .* or start over without --resume"):
        checkpoint.load(path)
