"""Modules of torchvision are imported without the compiler of torch, which is imported when something of it is used."""

import importlib
import sys

import pytest

from cnnkit.nets import torchvision_modules


@pytest.fixture
def vision(tmp_path, monkeypatch):
    """Modules that stand for the compiler and for torchvision: `vision_of_test` takes a function from `compiler_of_test.utils`."""
    names = ("compiler_of_test", "compiler_of_test.utils", "vision_of_test")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "compiler_of_test").mkdir()
    (tmp_path / "compiler_of_test" / "__init__.py").touch()
    (tmp_path / "compiler_of_test" / "utils.py").write_text(
        "counters = {}\ndef is_compile_supported(kind):\n    return kind == 'cpu'\n"
    )
    (tmp_path / "vision_of_test.py").write_text(
        "from compiler_of_test.utils import is_compile_supported\n"
        "def asked(kind):\n    return is_compile_supported(kind)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torchvision_modules, "_COMPILER", "compiler_of_test.utils")
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)


def test_compiler_is_imported_by_the_first_call(vision):
    """Not before; then its answer is returned, and others import the module itself."""
    module = torchvision_modules.imported("vision_of_test")
    assert not {"compiler_of_test", "compiler_of_test.utils"} & set(sys.modules)
    assert torchvision_modules.imported("vision_of_test") is module
    assert [module.asked(kind) for kind in ("cpu", "tpu")] == [True, False]
    utils = importlib.import_module("compiler_of_test.utils")
    assert utils.__file__ == str(vision / "compiler_of_test" / "utils.py")


def test_compiler_that_is_imported_already_is_used(vision):
    """Nothing takes its place."""
    utils = importlib.import_module("compiler_of_test.utils")
    module = torchvision_modules.imported("vision_of_test")
    assert module.is_compile_supported is utils.is_compile_supported


def test_another_name_imports_the_compiler(vision):
    """A version of torchvision that takes more from it works as before."""
    (vision / "vision_of_test.py").write_text("from compiler_of_test.utils import counters\n")
    module = torchvision_modules.imported("vision_of_test")
    assert module.counters is importlib.import_module("compiler_of_test.utils").counters


def test_failed_import_leaves_nothing(vision):
    """An error of the import is raised, and the compiler can be imported."""
    (vision / "vision_of_test.py").write_text("from compiler_of_test.utils import no_such_name\n")
    with pytest.raises(ImportError, match="no_such_name"):
        torchvision_modules.imported("vision_of_test")
    assert importlib.import_module("compiler_of_test.utils").counters == {}
