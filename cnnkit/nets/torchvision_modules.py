"""Imports modules of torchvision, without the compiler of torch."""

import importlib
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

#: What torchvision.ops.roi_align imports at its top, for one question that only detection networks ask.
_COMPILER = "torch._dynamo.utils"
_lock = threading.RLock()


def imported(name: str = "torchvision") -> Any:  # noqa: ANN401 - torchvision ships no types
    """Import torchvision or one of its modules, at the first use of a network with a name.

    torchvision imports the compiler of torch, eight hundred modules that take as long as torch itself and that no classification network
    uses. A stand-in takes their place during the import, and imports the compiler if anything is taken from it later.
    """
    with _lock:  # a module that another thread is importing is in sys.modules before it is complete
        if name in sys.modules:
            return sys.modules[name]
        with _without_compiler():
            return importlib.import_module(name)


@contextmanager
def _without_compiler() -> Generator[None]:
    if _COMPILER in sys.modules:  # it is imported already
        yield
        return
    sys.modules[_COMPILER] = _StandIn(_COMPILER)
    try:
        yield
    finally:
        if isinstance(sys.modules.get(_COMPILER), _StandIn):
            del sys.modules[_COMPILER]


class _StandIn(ModuleType):
    """The module of torch, imported by the first call of its function, or when another name is taken from it."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        """Return what torch returns."""
        found: bool = _real().is_compile_supported(device_type)
        return found

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the module
        if name.startswith("__"):  # asked by the import system
            raise AttributeError(name)
        return getattr(_real(), name)


def _real() -> ModuleType:
    if isinstance(sys.modules.get(_COMPILER), _StandIn):
        del sys.modules[_COMPILER]
    return importlib.import_module(_COMPILER)
