"""Candidates for the values of options and arguments, by kind. No torch, onnx or numpy.

Only names of layers need a network. A separate process lists them and keeps them in the cache; completion waits for it a few seconds.

    --backbone, --arch          networks of torchvision's and timm's
    --layer, --unfreeze         layers of the network on the command line
    --class                     classes of the model on the command line
    --fail-under                measures, and the classes of the truth
    --split, --hold-out         splits of the manifest or folder on the command line
    --augment, --layers, ...    words of the notation, also after a comma
    FILE.npy, DIR, SOURCE       files of that type, and folders

Nothing here reports an error: a file that cannot be read has no candidates.
"""

import ast
import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from typer._click.shell_completion import CompletionItem

from cnnkit import tar_archives
from cnnkit.choices import ProbeName
from cnnkit.data import augment_notation, split_names
from cnnkit.errors import CnnkitError
from cnnkit.evaluation import bounds
from cnnkit.formats import image_formats, manifest, peek, table_columns
from cnnkit.nets import notation

#: Seconds to wait for a list of layers; the next completion finds it in the cache.
PATIENCE = 4.0

_TABLES = manifest.MANIFEST_EXTENSIONS
_IMAGES = tuple(sorted(image_formats.EXTENSIONS))
_SOURCES = (*_TABLES, *manifest.LIST_EXTENSIONS, tar_archives.EXTENSION, *_IMAGES)
_MODELS = (".pt", ".onnx")
_WEIGHTS = (".pth", ".pt", ".bin", ".safetensors")
_ANY = ("*",)

_COLOURS = (
    "inferno viridis magma plasma cividis turbo jet hot gray bone coolwarm bwr seismic Blues Greens Reds hsv twilight"
)

# A call of `register_model`, and the function below it, whose name is the network's.
_REGISTERED = re.compile(r"^@register_model(?:\((?:name=)?[\"']?(\w*)[\"']?\))?\n(?:@.*\n)*def (\w+)", re.MULTILINE)

#: Keras' names for networks of timm's.
_KERAS_NETWORKS = ("mobilenet", "xception")

# Exit status of a process when another one already lists the same layers.
_BUSY = 75

Complete = Callable[[Any, str], list[CompletionItem]]  # a context, and the beginning of a word


def of_parameter(parameter: Any) -> Complete | None:  # noqa: ANN401 - typer's own click is private
    """Return what completes a parameter; None for enums, whose members typer lists."""
    option = parameter.param_type_name == "option"
    known = _OPTIONS.get(max(parameter.opts, key=len)) if option else _ARGUMENTS.get(parameter.name)
    kind = getattr(parameter, "type_descriptor", None)
    has_choices = kind.is_choice if kind is not None else hasattr(parameter.type, "choices")  # typer before 0.29
    if known is not None or has_choices:
        return known
    return _by_metavar(parameter.metavar or "")


def _by_metavar(metavar: str) -> Complete:
    """Derive candidates from a metavar: FILE.npy, DIR, SOURCE, and words in lower case."""
    words = [word for word in metavar.split("|") if re.fullmatch("[a-z][a-z-]*", word)]
    extensions: list[str] = []
    folders, networks = False, False
    for alternative in metavar.split("|"):
        if match := re.fullmatch(r"[A-Z]+(\.[a-z]+)", alternative):
            extensions += [match[1]]
        elif alternative == "SOURCE":
            extensions += _SOURCES
        elif alternative == "FILE":
            extensions += _ANY
        elif alternative in ("MODEL", "NETWORK"):
            networks = True
        folders |= alternative == "DIR"
    if networks and not extensions:
        extensions += _MODELS

    def complete(context: Any, incomplete: str) -> list[CompletionItem]:  # noqa: ANN401 - typer's own click is private
        found = [*_matching(words, incomplete), *(_networks(context, incomplete) if networks else ())]
        if extensions or folders:
            found.append(_files(incomplete, extensions))
        return found

    return complete


# ---------------------------------------------------------------- words and files


def _matching(words: Iterable[str], incomplete: str, *, open: bool = False) -> list[CompletionItem]:
    """Return the words with this beginning; after an `open` one the shell adds no space."""
    return [CompletionItem(word, type="open" if open else "plain") for word in words if word.startswith(incomplete)]


def _files(incomplete: str, extensions: Iterable[str]) -> CompletionItem:
    """Let the shell list files with these extensions, and folders; without extensions only folders."""
    wanted = " ".join(extensions)
    return CompletionItem(incomplete, type="file" if wanted else "dir", extensions=wanted)


def _file_argument(*extensions: str) -> Complete:
    return lambda _context, incomplete: [_files(incomplete, extensions)]


def _words(*words: str) -> Complete:
    return lambda _context, incomplete: _matching(words, incomplete)


def _comma_separated(*words: str, alone: Sequence[str] = ()) -> Complete:
    def complete(_context: Any, incomplete: str) -> list[CompletionItem]:  # noqa: ANN401 - typer's own click is private
        before, comma, _ = incomplete.rpartition(",")
        written = before.split(",")
        found = [f"{before}{comma}{word}" for word in words if word not in written]
        return _matching([*found, *(() if comma else alone)], incomplete, open=True)

    return complete


def _or_files(complete: Complete, *extensions: str) -> Complete:
    return lambda context, incomplete: [*complete(context, incomplete), _files(incomplete, extensions)]


# ---------------------------------------------------------------- notation


def _notation(words: Sequence[str], inside: Callable[[str], Sequence[str]]) -> Complete:
    """Return a completion of the last word of a notation, or of a file name after @.

    Args:
        words: The words that start a layer or an augmentation.
        inside: The words that may follow such a word.
    """

    def complete(_context: Any, incomplete: str) -> list[CompletionItem]:  # noqa: ANN401 - typer's own click is private
        if incomplete.startswith("@"):
            return list(_named_files(incomplete))
        match = re.fullmatch(r"((?:.*[,\n(|])?\s*)(.*)", incomplete, re.DOTALL)
        assert match is not None
        before, piece = match.groups()
        if not piece and before.endswith((",", ")")):
            before += " "
        head, space, _ = piece.rpartition(" ")
        following = inside(head.split()[0]) if space and head.split() else words
        return _matching([f"{before}{head}{space}{word}" for word in following], incomplete, open=True)

    return complete


def _named_files(incomplete: str) -> Iterable[CompletionItem]:
    folder = os.path.dirname(incomplete[1:])
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as entries:
            there = sorted((each.name, each.is_dir()) for each in entries if not each.name.startswith("."))
    except OSError:
        return
    for name, is_folder in there:
        value = f"@{os.path.join(folder, name)}"
        if value.startswith(incomplete):
            yield CompletionItem(f"{value}/" if is_folder else value, type="open" if is_folder else "plain")


_ACTIVATIONS = tuple(each.value for each in notation.Activation)
_BLOCKS = (notation.LayerKind.residual, notation.LayerKind.concat)
_LAYERS = tuple(
    f"{each}(" if each in _BLOCKS else each.value
    for each in notation.LayerKind
    if each is not notation.LayerKind.activation
)
_OF_LAYERS = {
    "conv": (*notation.Padding, "nobias", "bias position", "bn", *_ACTIVATIONS),
    "deconv": (*notation.Padding, "nobias", "bn", *_ACTIVATIONS),
    "local": (*notation.Padding, "nobias", "bn", *_ACTIVATIONS),
    "dense": ("nobias", "bn", *_ACTIVATIONS),
    "pool": tuple(notation.Padding),
    "avgpool": tuple(notation.Padding),
}


def _after_layer(word: str) -> Sequence[str]:
    return _OF_LAYERS.get(word, ())


def _after_change(word: str) -> Sequence[str]:
    return tuple(augment_notation.Fill) if word == "fill" else ()


_augmentation = _notation([field.name for field in dataclasses.fields(augment_notation.Augmentation)], _after_change)
_layer_notation = _notation((*_LAYERS, *_ACTIVATIONS), _after_layer)


# ---------------------------------------------------------------- networks and their layers


def _networks(_context: Any, incomplete: str) -> list[CompletionItem]:  # noqa: ANN401 - typer's own click is private
    if incomplete.startswith("timm:"):
        return _matching((f"timm:{name}" for name in network_names("timm")), incomplete)
    timm = _matching(["timm:"], incomplete, open=True) if find_spec("timm") is not None else []
    return [*_matching(network_names("torchvision"), incomplete), *timm]


def network_names(library: str) -> list[str]:
    """List the networks that torchvision or timm registers, from their source files: importing them takes seconds."""
    folder = _models(library)
    if folder is None:
        return []
    key = ("networks", folder, folder.stat().st_mtime_ns)
    found = peek.recall(key)
    if found is None:
        found = sorted(
            written or defined
            for path in folder.glob("*.py")
            for written, defined in _REGISTERED.findall(path.read_text(encoding="utf-8"))
        )
        peek.remember(key, found)
    return found


def _models(library: str) -> Path | None:
    spec = find_spec(library)
    folder = Path(spec.origin).with_name("models") if spec is not None and spec.origin else None
    return folder if folder is not None and folder.is_dir() else None


def _named_network(context: Any) -> str | None:  # noqa: ANN401 - typer's own click is private
    """Return the network or model on the command line."""
    given = context.params
    for name in ("network_model", "model", "models", "backbone", "arch", "network", "words"):
        value = given.get(name)
        first = value[0] if isinstance(value, list | tuple) and value else value
        if isinstance(first, str | Path) and (name != "words" or str(first).endswith(".pt")):
            return str(first)
    return None


@dataclass(frozen=True, slots=True)
class _Layer:
    """The name of a layer, whether its output is a map, and whether it has weights."""

    name: str
    maps: bool
    weights: bool


def _layers_of(context: Any) -> list[_Layer]:  # noqa: ANN401 - typer's own click is private
    """List the layers of the network on the command line."""
    if text := context.params.get("layers"):
        try:
            return [_Layer(layer.name, True, True) for layer in notation.every(notation.parse(str(text)))]
        except CnnkitError:
            return []
    network = _named_network(context)
    key = _key(network) if network is not None else None
    if key is None:
        return []
    found = peek.recall(key)
    if found is None:
        _start_listing(str(network), key)
        found = peek.recall(key)
    words = [line.split("\t") for line in found or ()]
    return [_Layer(name, "maps" in marks, "weights" in marks) for name, *marks in words]


def _start_listing(network: str, key: Sequence[object]) -> None:
    """Start a process that lists the layers of a network, and wait at most PATIENCE seconds; the process then continues alone."""
    child = subprocess.Popen(
        [sys.executable, "-c", f"from cnnkit.cli import candidates; candidates.keep_layers({network!r})"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + PATIENCE
    while child.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    while child.returncode == _BUSY and peek.recall(key) is None and time.monotonic() < end:
        time.sleep(0.1)
    child.returncode = child.returncode or 0  # it is not waited for: without a status Popen would warn


def _key(network: str) -> tuple[object, ...] | None:
    """Return the key of a network's layers in the cache; None if there is no such network."""
    if network.endswith(_MODELS):
        try:
            status = os.stat(network)
        except OSError:
            return None
        return ("layers", os.path.abspath(network), status.st_size, status.st_mtime_ns)
    library, _, bare = network.rpartition(":")
    folder = _models(library or "torchvision")
    plain = bare.lower().replace("_", "")
    known = {name.replace("_", "") for name in network_names(library or "torchvision")}
    if folder is None or (plain not in known and plain not in _KERAS_NETWORKS):
        return None
    return ("layers", network, folder, folder.stat().st_mtime_ns)


def keep_layers(network: str) -> None:
    """Write the layers of a network or a model, as cnn-dims lists them, into the cache.

    Raises:
        SystemExit: Another process is already listing them.
    """
    key = _key(network)
    assert key is not None
    with peek.claimed(key) as mine:
        if not mine:
            sys.exit(_BUSY)
        from cnnkit.nets import network_dims

        rows, keras = network_dims.measure(network, check=False), network_dims.keras_names(network)
        first = next((place for place, row in enumerate(rows) if row.params), 0)  # earlier ones scale the image
        lines = []
        trained = False  # whether a layer since the last one with a Keras name has weights
        for row in rows[first:]:
            trained |= row.params > 0
            maps = ["maps"] * ((row.height or 1) > 1)
            if row.layer in keras:
                lines.append("\t".join([keras[row.layer], *maps, *(["weights"] * trained)]))
                trained = False
            lines.append("\t".join([row.layer, *maps, *(["weights"] * (row.params > 0))]))
        peek.remember(key, lines)


def _spatial_layers(context: Any, incomplete: str) -> list[CompletionItem]:  # noqa: ANN401 - typer's own click is private
    return _matching((layer.name for layer in _layers_of(context) if layer.maps), incomplete)


def _trained_layers(context: Any, incomplete: str) -> list[CompletionItem]:  # noqa: ANN401 - typer's own click is private
    """List layers with weights up to the last map: later layers are the head."""
    layers = _layers_of(context)
    last = max((place for place, layer in enumerate(layers) if layer.maps), default=-1)
    names = [layer.name for layer in layers[: last + 1] if layer.weights]
    stages = [part for name in names for part in _stages(name)]
    return _matching(dict.fromkeys(["all", "none", *stages, *names]), incomplete)


def _stages(name: str) -> Iterable[str]:
    """List the blocks around a layer: layer4 and layer4.1 for layer4.1.conv2, block5 for block5_conv1."""
    if match := re.match(r"block[0-9]+(?=_)", name):
        yield match[0]
    for match in re.finditer(r"\.", name):
        if name[match.start() - 1].isdigit():
            yield name[: match.start()]


# ---------------------------------------------------------------- classes and splits


def _names_of_classes(context: Any) -> Sequence[Any]:  # noqa: ANN401 - typer's own click is private
    """List the classes of the network or model on the command line."""
    network = _named_network(context)
    if network is None:
        return ()
    return peek.header(network).get("classes") or () if network.endswith(_MODELS) else _imagenet()


def _target_classes(context: Any, incomplete: str) -> list[CompletionItem]:  # noqa: ANN401 - typer's own click is private
    return _matching(map(str, _names_of_classes(context)), incomplete)


def _classes(context: Any, incomplete: str) -> list[CompletionItem]:  # noqa: ANN401 - typer's own click is private
    names = _names_of_classes(context)
    if incomplete.startswith("name:"):
        return _matching((f"name:{name}" for name in names), incomplete)
    words = ["top", "true", "all"]
    return _matching([*words, *(f"name:{name}" if name in words else str(name) for name in names)], incomplete)


def _imagenet() -> list[str]:
    """List ImageNet's classes from torchvision's source; the second of two equal names has its number."""
    folder = _models("torchvision")
    try:
        text = folder.joinpath("_meta.py").read_text(encoding="utf-8") if folder is not None else ""
        match = re.search(r"^_IMAGENET_CATEGORIES = (\[.*?^\])", text, re.DOTALL | re.MULTILINE)
        names: list[str] = ast.literal_eval(match[1]) if match is not None else []
    except (OSError, ValueError, SyntaxError):
        return []
    return [f"{name} {number}" if name in names[:number] else name for number, name in enumerate(names)]


def _splits(context: Any, incomplete: str) -> list[CompletionItem]:  # noqa: ANN401 - typer's own click is private
    given = context.params
    named: list[str] = []
    for name in ("truth", "verify", "sources", "words", "features"):
        value = given.get(name)
        named += map(str, value if isinstance(value, list | tuple) else [value] if value else [])
    found = [split for source in named for split in _splits_of(source)]
    return _matching(dict.fromkeys(found or ["train", "val", "test"]), incomplete)


def _splits_of(source: str) -> list[str]:
    if os.path.isdir(source):
        folders = _folders_in([source])
        return [name for name in folders if split_names.is_split(name)] or folders
    if source.endswith(".npy"):
        source = f"{source.removesuffix('.npy')}.tsv"
    return peek.column(source, manifest.SPLIT_COLUMNS) if source.lower().endswith(_TABLES) else []


def _devices(_context: Any, incomplete: str) -> list[CompletionItem]:  # noqa: ANN401 - typer's own click is private
    try:
        count = len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        count = 0
    return _matching(["auto", "cpu", "cuda", *(f"cuda:{number}" for number in range(count))], incomplete)


def _measures(names: Iterable[str]) -> Complete:
    words = [name.removesuffix("CLASS") if name.endswith(":CLASS") else f"{name}=" for name in names]

    def complete(context: Any, incomplete: str) -> list[CompletionItem]:  # noqa: ANN401 - typer's own click is private
        measure, colon, _ = incomplete.partition(":")
        per_class = colon and f"{measure}:" in words
        found = [f"{measure}:{name}=" for name in _labels(context)] if per_class else words
        return _matching(found, incomplete, open=True)

    return complete


def _labels(context: Any) -> Iterable[str]:  # noqa: ANN401 - typer's own click is private
    """List the classes of the truth on the command line, or else of the predictions."""
    truth = context.params.get("truth")
    predictions = context.params.get("predictions") or ()  # of cnn-report a single file
    sources = [truth] if truth else [predictions] if isinstance(predictions, str | Path) else predictions
    return dict.fromkeys(label for source in sources for label in _labels_of(str(source)))


def _labels_of(source: str) -> list[str]:
    if not os.path.isdir(source):
        return peek.column(source, ("label", *table_columns.LABEL_ALIASES)) if source.lower().endswith(_TABLES) else []
    splits = [os.path.join(source, name) for name in _splits_of(source) if split_names.is_split(name)]
    return _folders_in(splits or [source])


def _folders_in(parents: Iterable[str]) -> list[str]:
    names: set[str] = set()
    for parent in parents:
        with os.scandir(parent) as entries:
            names |= {each.name for each in entries if each.is_dir() and not each.name.startswith(".")}
    return sorted(names)


# ---------------------------------------------------------------- by name


_OPTIONS: dict[str, Complete] = {
    "--arch": _networks,
    "--augment": _augmentation,
    "--backbone": _networks,
    "--class": _classes,
    "--colormap": _words(*_COLOURS.split()),
    "--content-layer": _spatial_layers,
    "--device": _devices,
    "--fail-over": _measures(bounds.LOWER_IS_BETTER),
    "--fail-under": _measures(bounds.HIGHER_IS_BETTER),
    "--head": _layer_notation,
    "--hold-out": _splits,
    "--layer": _spatial_layers,
    "--layers": _layer_notation,
    "--probes": _comma_separated(*ProbeName, alone=("all", "none")),
    "--split": _splits,
    "--style": _file_argument(*_IMAGES),
    "--style-layer": _spatial_layers,
    "--target": _target_classes,
    "--truth": _file_argument(*_TABLES),
    "--tta": _augmentation,
    "--unfreeze": _trained_layers,
    "--val": _file_argument(*_TABLES, ".npy"),
    "--weights": _or_files(_words("default", "none"), *_WEIGHTS),
    "--with": _comma_separated("width", "height", "aspect", "bytes"),
}

_ARGUMENTS: dict[str, Complete] = {
    "content": _file_argument(*_IMAGES),
    "first": _file_argument(*_TABLES),
    "image": _file_argument(*_IMAGES),
    "predictions": _file_argument(*_TABLES),
    "sources": _file_argument(*_SOURCES, ".npy"),
    "second": _file_argument(*_TABLES),
    "words": _file_argument(".pt", *_SOURCES),
}
