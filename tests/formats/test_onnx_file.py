"""The remembered check of an ONNX file: by content, only for files that passed, and never in the way."""

import ast
import importlib
import importlib.util
import inspect

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnkit.choices import Pool
from cnnkit.errors import FormatError
from cnnkit.formats import onnx_file, onnx_model
from cnnkit.formats.header import ArtefactKind, Backbone, Header, Preprocess

HEADER = Header(
    ArtefactKind.ONNX, ("cat", "dog"), Preprocess(), Backbone("mobilenet_v2", "features.18", Pool.AVG, "c0ffee")
)


def floats(name, shape=(1,)):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def network(weight=1.0, *, op="Add"):
    weights = numpy_helper.from_array(np.full(1, weight, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"])], "graph", [floats("x")], [floats("y")], [weights]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def sized_by_input():
    """Return a network whose output is as large as its input says."""
    inputs = helper.make_tensor_value_info("x", TensorProto.INT64, (2,))
    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["x"], ["y"])], "graph", [inputs], [floats("y", None)]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def checks(tmp_path, monkeypatch):
    """List the names of files that are checked, with an empty cache."""
    monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "cache"))
    real, seen = onnx_model.checked, []

    def counted(content, *, name):
        seen.append(name)
        return real(content, name=name)

    monkeypatch.setattr(onnx_model, "checked", counted)
    return seen


@pytest.mark.parametrize(
    "content",
    [onnx_model.finished(network(), HEADER), network().SerializeToString(), sized_by_input().SerializeToString()],
    ids=["ours", "no header", "sized by input"],
)
def test_content_is_checked_once(tmp_path, checks, content):
    """Under any name; the content, the Header and the limits are those of the check."""
    (tmp_path / "one.onnx").write_bytes(content)
    (tmp_path / "two.onnx").write_bytes(content)
    first = onnx_file.load(tmp_path / "one.onnx")
    assert first == onnx_file.load(tmp_path / "one.onnx") == onnx_file.load(tmp_path / "two.onnx")
    assert checks == [str(tmp_path / "one.onnx")]
    assert first == onnx_model.load(tmp_path / "two.onnx")


def test_limits_are_remembered(tmp_path, checks):
    """A network that needs limited memory has it in later runs, too."""
    path = tmp_path / "net.onnx"
    path.write_bytes(sized_by_input().SerializeToString())
    assert [onnx_file.load(path).needs.memory for _ in range(2)] == [True, True]
    assert len(checks) == 1


def test_changed_content_is_checked(tmp_path, checks):
    """Also if only a weight has changed, or a byte of a file that passed."""
    path = tmp_path / "net.onnx"
    for weight in (1.0, 2.0, 1.0):
        path.write_bytes(network(weight).SerializeToString())
        onnx_file.load(path)
    assert len(checks) == 2
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FormatError, match=r"net\.onnx: "):
        onnx_file.load(path)


def test_refused_file_is_refused_again(tmp_path, checks):
    """Only files that passed are remembered."""
    path = tmp_path / "net.onnx"
    model = network()
    model.graph.initializer[0].dims[:] = [7]
    path.write_bytes(model.SerializeToString())
    for _ in range(2):
        with pytest.raises(FormatError, match="is it truncated"):
            onnx_file.load(path)
    assert len(checks) == 2
    assert not (tmp_path / "cache").exists()


def test_damaged_entry_is_checked_again(tmp_path, checks):
    """And written again."""
    path = tmp_path / "net.onnx"
    path.write_bytes(network().SerializeToString())
    loaded = onnx_file.load(path)
    (entry,) = (tmp_path / "cache" / "checks").iterdir()
    whole = entry.read_bytes()
    for damaged in (b"", whole[:-1], whole.replace(b"false", b"null ")):
        entry.write_bytes(damaged)
        assert onnx_file.load(path) == loaded
        assert entry.read_bytes() == whole
    assert len(checks) == 4


@pytest.mark.parametrize("changed", ["onnx", "checks"])
def test_another_version_checks_again(tmp_path, checks, monkeypatch, changed):
    """Another version of onnx infers other shapes, and another source of the checks may refuse the file."""
    path = tmp_path / "net.onnx"
    path.write_bytes(network().SerializeToString())
    onnx_file.load(path)
    if changed == "onnx":
        (tmp_path / "onnx-99.0.dist-info").mkdir()
        other = importlib.util.spec_from_file_location("onnx", tmp_path / "onnx" / "__init__.py")
        monkeypatch.setattr(onnx_file, "find_spec", lambda _: other)
    else:
        monkeypatch.setattr(onnx_file, "_CHECKS", (*onnx_file._CHECKS, "header.py"))
    onnx_file.load(path)
    onnx_file.load(path)
    assert len(checks) == 2


@pytest.mark.parametrize("obstacle", ["cache", "home", "version"])
def test_works_without_a_cache(tmp_path, checks, monkeypatch, obstacle):
    """The file is checked every time."""
    path = tmp_path / "net.onnx"
    path.write_bytes(network().SerializeToString())
    if obstacle == "cache":  # a file in the place of a folder, as root may write anywhere
        (tmp_path / "file").touch()
        monkeypatch.setenv("CNNKIT_CACHE", str(tmp_path / "file" / "below"))
    elif obstacle == "home":
        for name in ("CNNKIT_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("os.path.expanduser", lambda name: name)
    else:
        monkeypatch.setattr(onnx_file, "find_spec", lambda _: None)
    assert [onnx_file.load(path).content for _ in range(2)] == [path.read_bytes()] * 2
    assert len(checks) == 2


#: What the checks import and what refuses no network; headers are parsed again from each entry.
NO_CHECKS = {
    "cnnkit.errors",
    "cnnkit.files",
    "cnnkit.formats.atomic",
    "cnnkit.formats.cache",
    "cnnkit.formats.header",
    "cnnkit.formats.onnx_record",
    "cnnkit.messages",
}


def test_the_key_has_the_source_of_all_checks():
    """A module that the checks begin to import is one of `_CHECKS`, or has none."""
    checks = {f"cnnkit.formats.{name.removesuffix('.py')}" for name in onnx_file._CHECKS}
    imported = set()
    for name in checks:
        for node in ast.walk(ast.parse(inspect.getsource(importlib.import_module(name)))):
            if isinstance(node, ast.Import):
                imported |= {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                inner = {f"{node.module}.{each.name}" for each in node.names}
                modules = {each for each in inner if importlib.util.find_spec(node.module).submodule_search_locations}
                imported |= modules or {node.module}
    assert {name for name in imported if name.startswith("cnnkit")} <= checks | NO_CHECKS
    assert "cnnkit.formats.onnx_check" in imported
