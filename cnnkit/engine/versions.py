"""Versions of packages, CUDA, driver and GPUs for a bug report. Imports no torch, and ONNX Runtime only if there is a GPU."""

import importlib.util
import platform
import re
from importlib import metadata
from pathlib import Path

from cnnkit.engine import device as devices
from cnnkit.engine import device_errors
from cnnkit.packages import is_installed

_PACKAGES = ("cnnkit", "torch", "torchvision", "onnxruntime-gpu", "onnxruntime")


def line() -> str:
    """Return all versions in one line."""
    packages = [f"{name} {version}" for name in _PACKAGES if (version := _version(name))]
    packages += [f"{module}: not installed" for module in ("torch", "onnxruntime") if not is_installed(module)]
    system = [f"Python {platform.python_version()}", f"{platform.system()} {platform.machine()}"]
    return ", ".join([*packages, *_cuda(), *_gpus(), *system])


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cuda() -> list[str]:
    """Return the CUDA version that each library was built for, and the installed cuDNN."""
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
    """Return the driver, the GPUs, and whether ONNX Runtime works on the first one."""
    driver = devices.driver_version()
    if driver is None:
        return ["no NVIDIA driver"]
    count = devices.gpus()
    named = [devices.describe(index) for index in range(count)] or ["no visible GPU"]
    return [f"driver for CUDA {driver[0]}.{driver[1]}", *named, *([_provider()] if count else [])]


def _provider() -> str:
    """Try to use the CUDA provider, since it may be listed and still fail to load."""
    try:
        from cnnkit.engine import session  # only if there is a GPU: --version stays fast without

        session.try_gpu()
    except Exception as error:  # reporting a broken installation is the purpose of this line
        return f"ONNX Runtime's CUDA provider does not load ({device_errors.reason(error)})"
    return "ONNX Runtime's CUDA provider loads"
