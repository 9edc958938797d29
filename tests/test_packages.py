"""Packages that are not installed: the error, and what it says to install."""

import sys

import pytest

from cnnkit import packages
from cnnkit.api.calls import public
from cnnkit.errors import MissingPackageError


@pytest.fixture
def hide(monkeypatch):
    """Return a function that makes modules appear not installed."""

    def make(*modules):
        for module in modules:
            for name in [name for name in sys.modules if name.partition(".")[0] == module]:
                monkeypatch.delitem(sys.modules, name)
            monkeypatch.setitem(sys.modules, module, None)

    return make


def error_of(statement):
    """Return what an import raises."""
    with pytest.raises(ImportError) as found:
        exec(statement)
    return found.value


@pytest.mark.parametrize("module", ["matplotlib", "sklearn", "plotext"])
def test_missing_module_is_explained_by_its_package(hide, module):
    """Also if a module in the package is imported."""
    assert packages.is_installed(module)
    assert packages.demand(module, what="it") is None
    hide(module)
    assert not packages.is_installed(module)
    name = {"sklearn": "scikit-learn"}.get(module, module)
    for statement in (f"import {module}", f"from {module}.base import thing"):
        found = packages.explained(error_of(statement))
        assert str(found) == f"this needs {name}, which is not installed; run pip install {name}"
    with pytest.raises(
        MissingPackageError, match=rf"^--plot needs {name}, which is not installed; run pip install {name}$"
    ):
        packages.demand(module, what="--plot")


def test_what_is_needed_with_torch_is_named_at_once(hide):
    """Only what is missing of it."""
    hide("torch", "torchvision", "scipy")
    assert packages.remedy("torch") == "run pip install torch torchvision scipy"
    assert packages.remedy("onnx_ir") == packages.remedy("torch")
    assert packages.remedy("scipy") == "run pip install scipy"


def test_other_errors_are_not_explained(hide):
    """Modules of other packages, missing names in modules, and missing modules in packages that are installed."""
    for statement in ("import no_such_module", "from scipy import no_such_name", "import scipy.no_such_module"):
        assert packages.explained(error_of(statement)) is None
    assert packages.explained(RuntimeError("scipy")) is None
    hide("scipy")
    assert packages.explained(error_of("import scipy")) is not None


def test_python_interface_raises_the_same_error(hide):
    """With its line, which a program can catch as CnnkitError."""
    hide("plotext")

    @public
    def draw():
        import plotext  # noqa: F401

    with pytest.raises(
        MissingPackageError, match=r"^this needs plotext, which is not installed; run pip install plotext$"
    ):
        draw()
