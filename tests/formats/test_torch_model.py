"""Model files: the round trip, the same bytes, state_dicts as the world saves them, and nothing that runs code."""

import importlib.util
import io
import json
import os
import pickle
import random
import sys
import zipfile
from hashlib import sha256

import numpy as np
import pytest
import torch
from torch import nn

from cnnkit.choices import Pool
from cnnkit.errors import FormatError
from cnnkit.formats import cache, torch_model
from cnnkit.formats.header import ArtefactKind, Backbone, Header, Preprocess
from cnnkit.formats.torch_model import TorchModel

HEADER = Header(
    ArtefactKind.MODEL,
    ("cat", "dog"),
    Preprocess(),
    Backbone("mobilenet_v2", "features.18", Pool.AVG, "c0ffee"),
    "dense 2",
    training={"optimizer": "adam", "lr": 1e-3},
)
HISTORY = [{"epoch": 1, "train_loss": 0.5, "val_loss": None}, {"epoch": 2, "train_loss": 0.25, "val_loss": 0.75}]


def model(seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = {"base.conv1.weight": torch.randn(4, 3, 3, 3, generator=generator), "head.steps": torch.tensor(7)}
    return TorchModel(HEADER, state, HISTORY)


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


# ---------------------------------------------------------------- there and back


def test_round_trip(tmp_path):
    """Header, weights and history come back as they were, types and shapes included."""
    torch_model.save(tmp_path / "model.pt", model())
    loaded = torch_model.load(tmp_path / "model.pt")
    assert loaded.header == HEADER
    assert loaded.history == HISTORY
    assert list(loaded.state) == list(model().state)
    assert all(torch.equal(value, model().state[key]) for key, value in loaded.state.items())
    assert all(value.dtype == model().state[key].dtype for key, value in loaded.state.items())
    assert os.listdir(tmp_path) == ["model.pt"]


def test_torch_reads_it_plainly(tmp_path):
    """Anybody can read a model with torch alone, and without running code."""
    torch_model.save(tmp_path / "model.pt", model())
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert list(content) == ["header", "state", "history"]
    assert content["header"]["backbone"]["name"] == "mobilenet_v2"


def test_the_same_model_gives_the_same_bytes(tmp_path):
    """Neither the file's name nor how a tensor lies in memory shows in the bytes."""
    torch_model.save(tmp_path / "a.pt", model())
    view = model()
    large = torch.zeros(8, 3, 3, 3)
    large[2:6] = view.state["base.conv1.weight"]
    turned = large[2:6].to(memory_format=torch.channels_last)
    torch_model.save(
        tmp_path / "other-name.pt", TorchModel(HEADER, {**view.state, "base.conv1.weight": turned}, HISTORY)
    )
    trained = nn.Parameter(view.state["base.conv1.weight"])
    torch_model.save(tmp_path / "c.pt", TorchModel(HEADER, {**view.state, "base.conv1.weight": trained}, HISTORY))
    first = (tmp_path / "a.pt").read_bytes()
    assert (tmp_path / "other-name.pt").read_bytes() == first
    assert (tmp_path / "c.pt").read_bytes() == first
    torch_model.save(tmp_path / "d.pt", model(seed=1))
    assert (tmp_path / "d.pt").read_bytes() != first


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    """A model that cannot be written leaves what stood there."""
    torch_model.save(tmp_path / "model.pt", model())
    before = (tmp_path / "model.pt").read_bytes()
    monkeypatch.setattr("os.fsync", lambda _file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"No space left on device: .*model\.pt"):
        torch_model.save(tmp_path / "model.pt", model(seed=1))
    assert (tmp_path / "model.pt").read_bytes() == before
    assert os.listdir(tmp_path) == ["model.pt"]


# ---------------------------------------------------------------- state_dicts


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "args": {"lr": 0.1}},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_of_the_world(tmp_path, wrap, zipped):
    """Bare, below a key, with DataParallel's prefix, in torch's new and old file format: the tensors come by their names."""
    state = nn.Linear(3, 2).state_dict()
    torch.save(wrap(state), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    loaded = torch_model.load_state(tmp_path / "w.pth")
    assert list(loaded) == ["weight", "bias"]
    assert torch.equal(loaded["weight"], state["weight"])


@pytest.mark.parametrize("content", [{}, [1, 2], {"weight": 3}, {"state_dict": {}}, torch.zeros(3)])
def test_what_is_no_state_dict(tmp_path, content):
    """A file of torch's that holds no tensors by name is refused."""
    (tmp_path / "w.pth").write_bytes(saved(content))
    with pytest.raises(FormatError, match=r"w\.pth: no state_dict in it \(expected tensors by parameter name\)"):
        torch_model.load_state(tmp_path / "w.pth")


def test_a_model_and_weights_are_not_mistaken(tmp_path):
    """A bare state_dict given as a model is refused, with the option that takes it."""
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth")
    with pytest.raises(FormatError, match=r"w\.pth: no cnnkit header in it; a bare state_dict goes to --weights"):
        torch_model.load(tmp_path / "w.pth")


# ---------------------------------------------------------------- what is not let in


class Evil:
    """A pickle that runs a command."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("read", [torch_model.load, torch_model.load_state])
@pytest.mark.parametrize("legacy", [True, False])
def test_code_is_not_run(tmp_path, read, legacy):
    """A file that would run code when unpickled is refused in one line, and runs nothing."""
    mark = tmp_path / "ran"
    torch.save({"weight": Evil(mark)}, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        FormatError, match=r"evil\.pt: holds more than tensors and plain values, which is not loaded"
    ) as caught:
        read(tmp_path / "evil.pt")
    assert "\n" not in str(caught.value)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(FormatError):
        read(tmp_path / "evil.pt")
    assert not mark.exists()


def test_whole_modules_are_not_loaded(tmp_path):
    """A pickled module, as torch.save(model) writes it, is refused: its class could be anything."""
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(FormatError, match="holds more than tensors"):
        torch_model.load_state(tmp_path / "module.pt")


def zip_of(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def npy():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 4)))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        b"<html><body>404 Not Found</body></html>",
        b"\x80\x02",
        npy(),
        zip_of("hello.txt", "hello"),
        saved(nn.Linear(3, 2).state_dict())[:500],
        saved(nn.Linear(3, 2).state_dict())[:-30],
    ],
    ids=["empty", "text", "page", "pickle", "numpy", "zip", "half", "tail"],
)
def test_other_files_and_halves(tmp_path, content):
    """What is no file of torch's, or half of one, is said to be that, whatever torch stumbles over."""
    (tmp_path / "w.pth").write_bytes(content)
    for read in (torch_model.load, torch_model.load_state):
        with pytest.raises(FormatError, match=r"^\S+w\.pth: not a file that torch can read, or cut short$"):
            read(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore")  # torch warns about what it finds in broken files
@pytest.mark.parametrize("zipped", [True, False])
def test_flipped_bytes_are_one_line_at_worst(tmp_path, zipped):
    """A file with some bytes changed loads or is refused; nothing else comes out of it."""
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    content, drawn, refused = (tmp_path / "w.pth").read_bytes(), random.Random(0), 0
    for _ in range(300):
        broken = bytearray(content)
        for _ in range(drawn.randint(1, 6)):
            broken[drawn.randrange(min(len(broken), 900))] = drawn.randrange(256)
        (tmp_path / "w.pth").write_bytes(broken)
        try:
            torch_model.load_state(tmp_path / "w.pth")
        except FormatError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"header": {"cnnkit": 1, "kind": "model"}}, "a model without its weights"),
        ({"header": {"cnnkit": 1, "kind": "model"}, "state": [1]}, "a model without its weights"),
        ({"header": 3, "state": {}}, "no cnnkit header in it; make one with cnn-train-head"),
        ({"header": {"cnnkit": 1, "kind": "onnx"}, "state": {}}, "found onnx, expected model"),
        ({"header": {"cnnkit": 99, "kind": "model"}, "state": {}}, "header version 99, this cnnkit reads version 1"),
        ({"header": {"cnnkit": 1, "kind": torch.zeros(2)}, "state": {}}, "found"),
    ],
)
def test_models_of_another_kind(tmp_path, content, message):
    """A header of another kind or version, or none, is refused with what was found."""
    (tmp_path / "model.pt").write_bytes(saved(content))
    with pytest.raises(FormatError, match=rf"model\.pt: {message}"):
        torch_model.load(tmp_path / "model.pt")


def test_missing_files_keep_their_error(tmp_path):
    """A missing file is the operating system's error, which names it."""
    for read in (torch_model.load, torch_model.load_state):
        with pytest.raises(FileNotFoundError, match=r"none\.pt"):
            read(tmp_path / "none.pt")


# ---------------------------------------------------------------- the cache of weights


def test_weights_are_kept_under_their_hash(tmp_path, monkeypatch):
    """What is kept is found by the hash of its bytes, is a state_dict of torch's, and is the same for the same values."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path))
    state = nn.Linear(3, 2).state_dict()
    digest = torch_model.keep_state(state)
    assert torch_model.keep_state({key: value.clone() for key, value in state.items()}) == digest
    kept = cache.find_weights(digest)
    assert sha256(kept.read_bytes()).hexdigest() == digest == cache.sha256(kept)
    assert torch.equal(torch_model.load_state(kept)["weight"], state["weight"])
    assert cache.find_weights("0" * 64) is None


def test_a_file_is_kept_as_it_is(tmp_path, monkeypatch):
    """A user's file goes into the cache byte for byte."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth")
    digest = torch_model.keep_state_file(tmp_path / "w.pth")
    assert cache.find_weights(digest).read_bytes() == (tmp_path / "w.pth").read_bytes()


def test_torchs_downloads_are_found_by_their_content(tmp_path, monkeypatch):
    """Among torch's downloads the name gives the candidate, and the bytes decide."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    content = saved(nn.Linear(3, 2).state_dict())
    digest = sha256(content).hexdigest()
    file = folder / f"net-{digest[:8]}.pth"
    file.write_bytes(content[:-1])
    assert cache.find_weights(digest) is None
    file.write_bytes(content)
    assert cache.find_weights(digest) == file


# ---------------------------------------------------------------- damage, and tensors that are no weights


@pytest.mark.filterwarnings("ignore")  # torch warns about what it finds in broken files
def test_a_flipped_bit_is_noticed(tmp_path):
    """Whichever bit of a model is another one, it is refused, or everything that it holds is what was written."""
    torch_model.save(tmp_path / "model.pt", model())
    whole, drawn = torch_model.load(tmp_path / "model.pt"), random.Random(0)
    content = (tmp_path / "model.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        names = [name.encode() for name in archive.namelist()]
    directory = content.index(b"PK\x01\x02")
    folder_bits = [
        content.index(name, directory) - 8 for name in names
    ]  # "external attributes", by which torch empties a record
    bits = [drawn.randrange(len(content) * 8) for _ in range(120)]
    bits += [drawn.randrange(directory * 8, len(content) * 8) for _ in range(120)]
    bits += [place * 8 + bit for place in folder_bits for bit in range(8)]
    refused = 0
    for bit in bits:
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        (tmp_path / "broken.pt").write_bytes(broken)
        try:
            found = torch_model.load(tmp_path / "broken.pt")
        except FormatError:
            refused += 1
            continue
        assert (found.header, found.history, list(found.state)) == (whole.header, whole.history, list(whole.state)), bit
        assert all(torch.equal(found.state[name], tensor) for name, tensor in whole.state.items()), bit
    assert refused > 90


def test_damaged_weights_are_named(tmp_path):
    """The record that is not what was written, and what to do."""
    torch_model.save(tmp_path / "model.pt", model())
    content = bytearray((tmp_path / "model.pt").read_bytes())
    content[content.index(next(iter(model().state.values())).numpy().tobytes()) + 3] ^= 0x40
    (tmp_path / "model.pt").write_bytes(content)
    for read in (torch_model.load, torch_model.read):
        with pytest.raises(
            FormatError, match=r"model\.pt: damaged: data/0 is not what was written; copy or make it again"
        ):
            read(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("code/__torch__/module.py", "a TorchScript program, which is not read; save the network's state_dict()"),
        ("archive_format", "an exported program (torch.export), which is not read; save the network's state_dict()"),
    ],
)
def test_programs_in_archives_are_called_that(tmp_path, inside, message):
    """Their records are partly compressed: that torch did not write them was wrong."""
    with zipfile.ZipFile(tmp_path / "net.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", pickle.dumps({}))
        archive.writestr(f"net/{inside}", "x")
    for read in (torch_model.load, torch_model.load_state):
        with pytest.raises(FormatError) as caught:
            read(tmp_path / "net.pt")
        assert str(caught.value) == f"{tmp_path / 'net.pt'}: {message}"


def test_a_compressed_archive_is_refused(tmp_path):
    """A small file that would fill the memory is not unpacked."""
    torch.save({"weight": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert (tmp_path / "bomb.pt").stat().st_size < 20_000
    with pytest.raises(FormatError, match=r"bomb\.pt: a compressed archive, which torch does not write"):
        torch_model.load_state(tmp_path / "bomb.pt")


def quantised():
    return torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore")  # torch warns about sparse and quantised tensors, which are on their way out
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda: torch.zeros(2, 2, dtype=torch.complex64), "weight is complex"),
        (lambda: torch.eye(2).to_sparse(), r"weight is sparse \(sparse_coo\)"),
        (lambda: torch.eye(2).to_sparse_csr(), r"weight is sparse \(sparse_csr\)"),
        (lambda: torch.empty(2, 2, device="meta"), "weight is a meta tensor, without values"),
        (quantised, r"weight is quantised \(qint8\)"),
        (lambda: torch.ones(2, 2).to(torch.float8_e4m3fn), r"weight is quantised \(float8_e4m3fn\)"),
        (lambda: torch.tensor([[1.0, float("nan")]]), "weight has values that are not finite"),
        (lambda: torch.tensor([[1.0, float("inf")]]), "weight has values that are not finite"),
        (lambda: torch.zeros(1).expand(1 << 20), r"weight of shape \(1048576,\) is larger than the file"),
    ],
)
def test_tensors_that_are_no_weights(tmp_path, value, message):
    """Each is refused in one line that names the tensor, as a state_dict and as a model."""
    torch.save({"weight": value()}, tmp_path / "w.pt")
    with pytest.raises(FormatError, match=rf"w\.pt: {message}") as caught:
        torch_model.load_state(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    header = json.loads(HEADER.to_json())
    torch.save({"header": header, "state": {"weight": value()}, "history": []}, tmp_path / "w.pt")
    with pytest.raises(FormatError, match=rf"w\.pt: {message}"):
        torch_model.load(tmp_path / "w.pt")


def test_views_of_little_do_not_add_up_to_much(tmp_path):
    """No tensor is larger than the file, and together they are: layers that share a weight are as good as before."""
    weight = torch.zeros(1 << 18)  # 1 MiB
    torch.save({f"layer{number}.weight": weight for number in range(12)}, tmp_path / "tied.pt")
    assert len(torch_model.load_state(tmp_path / "tied.pt")) == 12
    torch.save({str(number): torch.zeros(1).expand(1 << 17) for number in range(100)}, tmp_path / "w.pt")
    with pytest.raises(FormatError, match=r"w\.pt: its tensors have more than 16 times as many values as the file"):
        torch_model.load_state(tmp_path / "w.pt")


@pytest.mark.parametrize("state", [{1: torch.zeros(2)}, {"weight": [1.0, 2.0]}, {"weight": torch.zeros(2), "x": None}])
def test_states_that_are_no_tensors_by_name(tmp_path, state):
    """Numbers as names, lists and nothing as values are refused, in a model too."""
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(FormatError, match=r"w\.pt: no state_dict in it \(expected tensors by parameter name\)"):
        torch_model.load_state(tmp_path / "w.pt")
    torch.save({"header": json.loads(HEADER.to_json()), "state": state}, tmp_path / "w.pt")
    with pytest.raises(FormatError, match=r"w\.pt: a model without its weights"):
        torch_model.load(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "history", [5, "x", [1], [{1: 2.0}], [{"epoch": "1"}], {"epoch": 1}, [{"loss": torch.zeros(1)}]]
)
def test_histories_that_are_none(tmp_path, history):
    """Whatever stands in the place of the numbers of the epochs, the file is named."""
    content = {"header": json.loads(HEADER.to_json()), "state": {"w": torch.zeros(1)}, "history": history}
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(FormatError, match=r"model\.pt: its history is not a number for each name and epoch"):
        torch_model.load(tmp_path / "model.pt")


def test_a_header_that_holds_itself(tmp_path):
    """What JSON could not write is refused, not walked through for ever."""
    header = json.loads(HEADER.to_json())
    header["training"]["self"] = header
    torch.save({"header": header, "state": {"w": torch.zeros(1)}}, tmp_path / "model.pt")
    with pytest.raises(FormatError, match=r"model\.pt: broken cnnkit header \(it is nested more than"):
        torch_model.load(tmp_path / "model.pt")


def safetensors(path, state):
    """Write a safetensors file, byte by byte."""
    head, content = {}, b""
    for key, value in state.items():
        data = value.numpy().tobytes()
        head[key] = {
            "dtype": "F32",
            "shape": list(value.shape),
            "data_offsets": [len(content), len(content) + len(data)],
        }
        content += data
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-4], r"a damaged safetensors file \(\d+ bytes, its header names \d+\); copy or make it again$"),
        (lambda content: content[:40], r"a damaged safetensors file \(cut short, at 40 bytes\)"),
        (lambda content: content.replace(b"data_offsets", b"data_offsetz"), r"a damaged safetensors file \(its header is broken\)"),
        (lambda content: content[:5], "not a safetensors file, or damaged; copy or make it again$"),
        (lambda content: b"", "not a safetensors file, or damaged"),
        (lambda content: b"<html>moved</html>", "not a safetensors file, or damaged"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_damaged_safetensors_are_called_that(tmp_path, monkeypatch, name, change, message):
    """Whether their package is installed or not."""
    path = safetensors(tmp_path / name, nn.Linear(3, 2).state_dict())
    path.write_bytes(change(path.read_bytes()))
    if name == "w.pth" and ("not a" in message or "cut short" in message):
        message = "not a file that torch can read, or cut short"
    for hidden in (False, True):
        if hidden:
            for module in ("safetensors", "safetensors.torch"):
                monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(FormatError, match=f"{name}: {message}"):
            torch_model.load_state(path)


def test_safetensors_say_what_is_missing(tmp_path, monkeypatch):
    """Their package, where it is not installed; their name, by which torch knows them."""
    state = nn.Linear(3, 2).state_dict()
    path = safetensors(tmp_path / "w.safetensors", state)
    if importlib.util.find_spec("safetensors"):
        assert torch.equal(torch_model.load_state(path)["weight"], state["weight"])
    with pytest.raises(FormatError, match=r"w\.pth: safetensors under another name; rename it to end in \.safetensors"):
        torch_model.load_state(safetensors(tmp_path / "w.pth", state))
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        FormatError, match=r"w\.safetensors: reading safetensors needs their package: pip install safetensors"
    ):
        torch_model.load_state(path)
