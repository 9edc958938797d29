"""Packages that only some commands need, where they are not installed: the line that says what to install. Imports none of them."""

import importlib.util

from cnnkit.errors import MissingPackageError

#: The packages of the full installation that requirements/predict.txt leaves out, by module, as pip names them.
LEFT_OUT = {
    "torch": "torch",
    "torchvision": "torchvision",
    "onnx_ir": "onnxscript",
    "onnxscript": "onnxscript",
    "matplotlib": "matplotlib",
    "sklearn": "scikit-learn",
    "threadpoolctl": "threadpoolctl",
    "scipy": "scipy",
    "imagehash": "imagehash",
    "plotext": "plotext",
    "safetensors": "safetensors",
}
#: What torch is used with: who installs torch alone gets the next error.
_TRAINING = ("torch", "torchvision", "onnxscript", "sklearn", "scipy", "safetensors")
_TOGETHER = dict.fromkeys(("torch", "torchvision", "onnx_ir", "onnxscript"), _TRAINING)


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # it is imported, by another loader than Python's
        return True


def demand(module: str, *, what: str) -> None:
    """Check that a package is installed, before work that would end with an error without it.

    Args:
        module: Its module.
        what: What needs it, for the message: an option, a command.

    Raises:
        MissingPackageError: It is not installed.
    """
    if not is_installed(module):
        raise MissingPackageError(f"{what} needs {LEFT_OUT[module]}, which is not installed; {remedy(module)}")


def explained(error: BaseException) -> MissingPackageError | None:
    """Turn the error of an import into one that says what to install; None for another error, or another module."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    module = (error.name or "").partition(".")[0]
    if module not in LEFT_OUT or is_installed(module):
        return None
    return MissingPackageError(f"this needs {LEFT_OUT[module]}, which is not installed; {remedy(module)}")


def remedy(module: str) -> str:
    """Return the command that installs a module, and those that are needed with it."""
    missing = [LEFT_OUT[each] for each in _TOGETHER.get(module, (module,)) if not is_installed(each)]
    return f"run pip install {' '.join(missing or [LEFT_OUT[module]])}"
