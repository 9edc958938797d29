"""Model files: the round trip, the same bytes, state_dicts of other programs, and no code execution."""

import io
import json
import os
import pickle
import random
import zipfile
from hashlib import sha256

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
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


# ---------------------------------------------------------------- round trip


def test_round_trip(tmp_path):
    """Header, weights and history are preserved, including types and shapes."""
    torch_model.save(tmp_path / "model.pt", model())
    loaded = torch_model.load(tmp_path / "model.pt")
    assert loaded.header == HEADER
    assert loaded.history == HISTORY
    assert list(loaded.state) == list(model().state)
    assert all(torch.equal(value, model().state[key]) for key, value in loaded.state.items())
    assert all(value.dtype == model().state[key].dtype for key, value in loaded.state.items())
    assert os.listdir(tmp_path) == ["model.pt"]


def test_torch_can_read_models(tmp_path):
    """Without cnnkit, and with weights_only."""
    torch_model.save(tmp_path / "model.pt", model())
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert list(content) == ["header", "state", "history"]
    assert content["header"]["backbone"]["name"] == "mobilenet_v2"


def test_same_model_gives_same_bytes(tmp_path):
    """The file's name and the memory layout of tensors do not matter."""
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


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    """And leaves no temporary file."""
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
def test_state_dicts_of_other_programs(tmp_path, wrap, zipped):
    """Bare, under a key, with DataParallel's prefix, in torch's new and old file format."""
    state = nn.Linear(3, 2).state_dict()
    torch.save(wrap(state), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    loaded = torch_model.load_state(tmp_path / "w.pth")
    assert list(loaded) == ["weight", "bias"]
    assert torch.equal(loaded["weight"], state["weight"])


@pytest.mark.parametrize("content", [{}, [1, 2], {"weight": 3}, {"state_dict": {}}, torch.zeros(3)])
def test_rejects_files_without_a_state_dict(tmp_path, content):
    """That is, without tensors by name."""
    (tmp_path / "w.pth").write_bytes(saved(content))
    with pytest.raises(FormatError, match=r"w\.pth: no state_dict in it \(expected tensors by parameter name\)"):
        torch_model.load_state(tmp_path / "w.pth")


def test_rejects_a_state_dict_as_model(tmp_path):
    """The message names the option that takes it."""
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth")
    with pytest.raises(FormatError, match=r"w\.pth: no cnnkit header in it; pass a bare state_dict with --weights"):
        torch_model.load(tmp_path / "w.pth")


# ---------------------------------------------------------------- refused files


class Evil:
    """A pickle that runs a command."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("read", [torch_model.load, torch_model.load_state])
@pytest.mark.parametrize("legacy", [True, False])
def test_pickled_code_is_not_run(tmp_path, read, legacy):
    """The file is refused in one line."""
    mark = tmp_path / "ran"
    torch.save({"weight": Evil(mark)}, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(FormatError, match=r"evil\.pt: not loaded: it has more than tensors and plain values") as caught:
        read(tmp_path / "evil.pt")
    assert "\n" not in str(caught.value)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(FormatError):
        read(tmp_path / "evil.pt")
    assert not mark.exists()


def test_rejects_pickled_modules(tmp_path):
    """As torch.save(model) writes them: the class could be anything."""
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(FormatError, match="it has more than tensors"):
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
    ids=["empty", "text", "html", "pickle", "numpy", "zip", "half", "without end"],
)
def test_rejects_other_and_truncated_files(tmp_path, content):
    """With the same message, whichever error torch raises."""
    (tmp_path / "w.pth").write_bytes(content)
    for read in (torch_model.load, torch_model.load_state):
        with pytest.raises(FormatError, match=r"^\S+w\.pth: not a file that torch can read, or truncated$"):
            read(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore")  # torch warns about broken files
@pytest.mark.parametrize("zipped", [True, False])
def test_changed_bytes(tmp_path, zipped):
    """A file with changed bytes is loaded or refused; no other error is raised."""
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
        ({"header": {"cnnkit": 1, "kind": "model"}}, "a model without weights"),
        ({"header": {"cnnkit": 1, "kind": "model"}, "state": [1]}, "a model without weights"),
        ({"header": 3, "state": {}}, "no cnnkit header in it; make one with cnn-train-head"),
        ({"header": {"cnnkit": 1, "kind": "onnx"}, "state": {}}, "found onnx, expected model"),
        ({"header": {"cnnkit": 99, "kind": "model"}, "state": {}}, "header version 99, this cnnkit reads version 1"),
        ({"header": {"cnnkit": 1, "kind": torch.zeros(2)}, "state": {}}, "found"),
    ],
)
def test_rejects_other_kinds_and_versions(tmp_path, content, message):
    """The message says what was found."""
    (tmp_path / "model.pt").write_bytes(saved(content))
    with pytest.raises(FormatError, match=rf"model\.pt: {message}"):
        torch_model.load(tmp_path / "model.pt")


def test_missing_file(tmp_path):
    """A missing file is the operating system's error, which names it."""
    for read in (torch_model.load, torch_model.load_state):
        with pytest.raises(FileNotFoundError, match=r"none\.pt"):
            read(tmp_path / "none.pt")


# ---------------------------------------------------------------- the cache of weights


def test_weights_are_cached_under_their_hash(tmp_path, monkeypatch):
    """The entry is a state_dict, and the same values have the same hash."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path))
    state = nn.Linear(3, 2).state_dict()
    digest = torch_model.keep_state(state)
    assert torch_model.keep_state({key: value.clone() for key, value in state.items()}) == digest
    kept = cache.find_weights(digest)
    assert sha256(kept.read_bytes()).hexdigest() == digest == cache.sha256(kept)
    assert torch.equal(torch_model.load_state(kept)["weight"], state["weight"])
    assert cache.find_weights("0" * 64) is None


def test_weight_files_are_cached_unchanged(tmp_path, monkeypatch):
    """Byte for byte."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth")
    digest = torch_model.keep_state_file(tmp_path / "w.pth")
    assert cache.find_weights(digest).read_bytes() == (tmp_path / "w.pth").read_bytes()


def test_torchs_downloads_are_found_by_hash(tmp_path, monkeypatch):
    """The name gives the candidate, and the hash of its bytes decides."""
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


# ---------------------------------------------------------------- damaged files, unusable tensors


@pytest.mark.filterwarnings("ignore")  # torch warns about broken files
def test_flipped_bits(tmp_path):
    """A model with any flipped bit is refused, or its content is unchanged."""
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


def test_damaged_weights(tmp_path):
    """The message names the damaged record, and says what to do."""
    torch_model.save(tmp_path / "model.pt", model())
    content = bytearray((tmp_path / "model.pt").read_bytes())
    content[content.index(next(iter(model().state.values())).numpy().tobytes()) + 3] ^= 0x40
    (tmp_path / "model.pt").write_bytes(content)
    for read in (torch_model.load, torch_model.read):
        with pytest.raises(
            FormatError, match=r"model\.pt: damaged: data/0 has a wrong checksum; copy the file or make it again"
        ):
            read(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("code/__torch__/module.py", "a TorchScript program, which is not supported; save the network's state_dict()"),
        (
            "archive_format",
            "an exported program (torch.export), which is not supported; save the network's state_dict()",
        ),
    ],
)
def test_rejects_programs(tmp_path, inside, message):
    """By their kind, before the check for compressed records, which torch does write into them."""
    with zipfile.ZipFile(tmp_path / "net.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", pickle.dumps({}))
        archive.writestr(f"net/{inside}", "x")
    for read in (torch_model.load, torch_model.load_state):
        with pytest.raises(FormatError) as caught:
            read(tmp_path / "net.pt")
        assert str(caught.value) == f"{tmp_path / 'net.pt'}: {message}"


def test_rejects_compressed_archives(tmp_path):
    """A small file could fill the memory."""
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


@pytest.mark.filterwarnings("ignore")  # torch warns that sparse and quantized tensors are deprecated
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda: torch.zeros(2, 2, dtype=torch.complex64), "weight is complex"),
        (lambda: torch.eye(2).to_sparse(), r"weight is sparse \(sparse_coo\)"),
        (lambda: torch.eye(2).to_sparse_csr(), r"weight is sparse \(sparse_csr\)"),
        (lambda: torch.empty(2, 2, device="meta"), "weight is a meta tensor, without values"),
        (quantised, r"weight is quantized \(qint8\)"),
        (lambda: torch.ones(2, 2).to(torch.float8_e4m3fn), r"weight is quantized \(float8_e4m3fn\)"),
        (lambda: torch.tensor([[1.0, float("nan")]]), "weight has values that are not finite"),
        (lambda: torch.tensor([[1.0, float("inf")]]), "weight has values that are not finite"),
        (lambda: torch.zeros(1).expand(1 << 20), r"weight of shape \(1048576,\) is larger than the file"),
    ],
)
def test_rejects_unusable_tensors(tmp_path, value, message):
    """In one line that names the tensor, in a state_dict and in a model."""
    torch.save({"weight": value()}, tmp_path / "w.pt")
    with pytest.raises(FormatError, match=rf"w\.pt: {message}") as caught:
        torch_model.load_state(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    header = json.loads(HEADER.to_json())
    torch.save({"header": header, "state": {"weight": value()}, "history": []}, tmp_path / "w.pt")
    with pytest.raises(FormatError, match=rf"w\.pt: {message}"):
        torch_model.load(tmp_path / "w.pt")


def test_rejects_many_views_of_a_small_file(tmp_path):
    """Each is smaller than the file, but all together are not; layers that share weights are still accepted."""
    weight = torch.zeros(1 << 18)  # 1 MiB
    torch.save({f"layer{number}.weight": weight for number in range(12)}, tmp_path / "tied.pt")
    assert len(torch_model.load_state(tmp_path / "tied.pt")) == 12
    torch.save({str(number): torch.zeros(1).expand(1 << 17) for number in range(100)}, tmp_path / "w.pt")
    with pytest.raises(FormatError, match=r"w\.pt: its tensors have more than 16 times as many values as the file"):
        torch_model.load_state(tmp_path / "w.pt")


@pytest.mark.parametrize("state", [{1: torch.zeros(2)}, {"weight": [1.0, 2.0]}, {"weight": torch.zeros(2), "x": None}])
def test_rejects_state_dicts_of_other_types(tmp_path, state):
    """With numbers as names, or lists and None as values, also in a model."""
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(FormatError, match=r"w\.pt: no state_dict in it \(expected tensors by parameter name\)"):
        torch_model.load_state(tmp_path / "w.pt")
    torch.save({"header": json.loads(HEADER.to_json()), "state": state}, tmp_path / "w.pt")
    with pytest.raises(FormatError, match=r"w\.pt: a model without weights"):
        torch_model.load(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "history", [5, "x", [1], [{1: 2.0}], [{"epoch": "1"}], {"epoch": 1}, [{"loss": torch.zeros(1)}]]
)
def test_rejects_broken_histories(tmp_path, history):
    """Of any type; the message names the file."""
    content = {"header": json.loads(HEADER.to_json()), "state": {"w": torch.zeros(1)}, "history": history}
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(FormatError, match=r"model\.pt: its history is not a list of numbers by name for each epoch"):
        torch_model.load(tmp_path / "model.pt")


def test_rejects_a_header_that_contains_itself(tmp_path):
    """Without recursing for ever."""
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
        (lambda content: content[:-4], r"a damaged safetensors file \(\d+ bytes, its header names \d+\); copy the file or make it again$"),
        (lambda content: content[:40], r"a damaged safetensors file \(truncated at 40 bytes\)"),
        (lambda content: content.replace(b"data_offsets", b"data_offsetz"), r"a damaged safetensors file \(its header is broken\)"),
        (lambda content: content[:5], "not a safetensors file, or damaged; copy the file or make it again$"),
        (lambda content: b"", "not a safetensors file, or damaged"),
        (lambda content: b"<html>moved</html>", "not a safetensors file, or damaged"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_damaged_safetensors(tmp_path, name, change, message):
    """The message says what is wrong, under any name that the header can be recognized by."""
    path = safetensors(tmp_path / name, nn.Linear(3, 2).state_dict())
    path.write_bytes(change(path.read_bytes()))
    if name == "w.pth" and ("not a" in message or "truncated" in message):
        message = "not a file that torch can read, or truncated"
    with pytest.raises(FormatError, match=f"{name}: {message}"):
        torch_model.load_state(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_safetensors_under_any_name(tmp_path, name):
    """Those of the library, also in the cache, where all weights end in .pth."""
    state = nn.Linear(3, 2).state_dict()
    save_file(state, tmp_path / name)
    found = torch_model.load_state(tmp_path / name)
    assert found.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in found.items())
    kept = cache.find_weights(torch_model.keep_state_file(tmp_path / name))
    assert torch.equal(torch_model.load_state(kept)["weight"], state["weight"])
    by_hand = torch_model.load_state(safetensors(tmp_path / name, state))
    assert torch.equal(by_hand["bias"], state["bias"])
