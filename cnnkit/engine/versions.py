"""What results depend on, for a bug report: packages, CUDA, driver, GPUs. Imports no torch, and ONNX Runtime where there is a GPU alone."""

import importlib.util
import platform
import re
from importlib import metadata
from pathlib import Path

from cnnkit.engine import device as devices
from cnnkit.engine import device_errors

_PACKAGES = ("cnnkit", "torch", "torchvision", "onnxruntime-gpu", "onnxruntime")


def line() -> str:
    """Give all of it in one line."""
    packages = [f"{name} {version}" for name in _PACKAGES if (version := _version(name))]
    system = [f"Python {platform.python_version()}", f"{platform.system()} {platform.machine()}"]
    return ", ".join([*packages, *_cuda(), *_gpus(), *system])


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cuda() -> list[str]:
    """Say for which CUDA each library was built, and which cuDNN is installed."""
    built = {
        "torch": _assigned("torch", "version.py", "cuda"),
        "onnxruntime": _assigned("onnxruntime", "capi/build_and_package_info.py", "cuda_version"),
    }
    found = [f"CUDA {version} ({name})" for name, version in built.items() if version]
    majors = {version.partition(".")[0] for version in built.values() if version}
    cudnn = [version for major in sorted(majors) if (version := _version(f"nvidia-cudnn-cu{major}"))]
    return found + [f"cuDNN {version}" for version in cudnn]


def _assigned(package: str, file: str, name: str) -> str | None:
    """Read what a module of a package assigns to a name, without importing it: torch alone takes seconds."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / file).read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(rf"^{name}\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def _gpus() -> list[str]:
    """Say which driver and which GPUs there are, and whether ONNX Runtime computes on the first one."""
    driver = devices.driver_version()
    if driver is None:
        return ["no NVIDIA driver"]
    count = devices.gpus()
    named = [devices.describe(index) for index in range(count)] or ["no GPU to be seen"]
    return [f"driver for CUDA {driver[0]}.{driver[1]}", *named, *([_provider()] if count else [])]


def _provider() -> str:
    """Try it: a provider that is listed need not load."""
    try:
        from cnnkit.engine import session  # imported where there is a GPU alone: --version stays quick elsewhere

        session.try_gpu()
    except Exception as error:  # a broken installation raises anything, and is what the line is asked for
        return f"ONNX Runtime's CUDA provider does not load ({device_errors.reason(error)})"
    return "ONNX Runtime's CUDA provider loads"
