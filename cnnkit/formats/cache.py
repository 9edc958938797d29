"""The user's cache: exported backbones and their weights, keyed by content. Deleting it costs time, never results."""

import hashlib
import os
from pathlib import Path

from cnnkit.errors import CnnkitError
from cnnkit.formats import atomic

_CACHE = ("XDG_CACHE_HOME", ".cache")


def root() -> Path:
    """Return the cache's folder: CNNKIT_CACHE, else XDG_CACHE_HOME/cnnkit, else ~/.cache/cnnkit.

    Raises:
        CnnkitError: None of these is set, and there is no home directory.
    """
    if named := os.environ.get("CNNKIT_CACHE"):
        return Path(named)
    below = _below_home(*_CACHE)
    if below is None:
        raise CnnkitError("no home directory for the cache; set CNNKIT_CACHE to a folder")
    return below / "cnnkit"


def _below_home(variable: str, name: str) -> Path | None:
    """Return the folder in an environment variable, else `name` below the home directory; None without a home directory."""
    if named := os.environ.get(variable):
        return Path(named)
    home = os.path.expanduser("~")
    return Path(home, name) if home != "~" else None


def folder(kind: str) -> Path:
    """Return a folder of the cache, created if missing.

    Raises:
        CnnkitError: It cannot be created or written to.
    """
    path = root() / kind
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(path, error.strerror) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise _not_writable(path, None)
    return path


def _not_writable(path: Path, reason: str | None) -> CnnkitError:
    why = f" ({reason})" if reason else ""
    return CnnkitError(f"{path}: the cache is not writable{why}; set CNNKIT_CACHE to a writable folder")


def keep_inside() -> None:
    """Make libraries that write below the home directory write into our cache instead, unless the user has chosen a place.

    Only commands call this: a program that imports cnnkit has its own settings for those libraries.
    """
    try:
        kept = root()
    except CnnkitError:  # raised again when the cache is needed
        return
    config, home, own = _below_home("XDG_CONFIG_HOME", ".config"), _below_home("", ""), _below_home(*_CACHE)
    settings = [
        folder / name for folder, name in ((config, "matplotlib"), (home, ".matplotlib"), (own, "matplotlib")) if folder
    ]
    if not any(path.exists() for path in settings):
        os.environ.setdefault("MPLCONFIGDIR", str(kept / "matplotlib"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept / "torchinductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(kept / "triton"))
    os.environ.setdefault("CUDA_CACHE_PATH", str(kept / "cuda"))  # code that the driver compiles for a GPU


def keep(path: Path, content: bytes) -> None:
    """Write an entry, such as an exported network, followed by its checksum."""
    with atomic.writing(path) as file:
        file.write(content)
        file.write(_trailer(content))


def is_intact(path: Path) -> bool:
    """Return whether an entry exists and is what `keep` wrote; a damaged or foreign one is made again."""
    return find(path) is not None


def find(path: Path) -> bytes | None:
    """Return the content that `keep` wrote; None if the entry does not exist, is damaged or foreign."""
    try:
        kept = path.read_bytes()
    except FileNotFoundError:
        return None
    length = len(_trailer(b""))
    content = kept[:-length]
    return content if kept[-length:] == _trailer(content) else None


def _trailer(content: bytes) -> bytes:
    """Return the checksum as protobuf field 1000, 64 bytes long, which every reader of ONNX ignores as unknown."""
    return b"\xc2\x3e\x40" + hashlib.sha256(content).hexdigest().encode()


def find_weights(digest: str) -> Path | None:
    """Find a state_dict file by the hash of its bytes, in our cache or among torch's downloads; None if it is in neither."""
    kept = folder("weights") / f"{digest}.pth"
    if kept.is_file() and sha256(kept) == digest:  # otherwise damaged, or not ours
        return kept
    # torch.hub's rule, without importing torch; the first digits of the hash in the name are not proof enough
    caches = _below_home(*_CACHE)
    home = os.environ.get("TORCH_HOME") or (caches / "torch" if caches else None)
    for candidate in sorted(Path(home, "hub", "checkpoints").glob(f"*-{digest[:8]}.pth")) if home else ():
        if sha256(candidate) == digest:
            return candidate
    return None


def sha256(path: Path) -> str:
    """Hash a file's bytes, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
