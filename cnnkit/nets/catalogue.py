"""The networks of torchvision and timm: their names, modules, published weights and preprocessing."""

import contextlib
import functools
import inspect
import io
import logging
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from cnnkit import messages
from cnnkit.choices import Interpolation
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import cache, torch_model
from cnnkit.formats.header import Preprocess
from cnnkit.nets import torchvision_modules

log = logging.getLogger("cnnkit")

#: The textbook's names (Keras) for networks that torchvision lacks.
KERAS_NETWORKS = {"mobilenet": "timm:mobilenetv1_100", "xception": "timm:legacy_xception"}

# Ported from TensorFlow: their published weights expect another input range, to which these two networks convert their input.
_SHIFTING: dict[str, dict[str, Any]] = {
    "inception_v3": {"transform_input": True},
    "googlenet": {"transform_input": True},
}
_AUXILIARY: dict[str, dict[str, Any]] = {
    "inception_v3": {"aux_logits": True, "init_weights": False},
    "googlenet": {"aux_logits": True, "init_weights": False},
}


def _models() -> Any:  # noqa: ANN401 - torchvision ships no types
    """Import torchvision's networks: here, since they are not needed without a name."""
    return torchvision_modules.imported("torchvision.models")


def _known() -> list[str]:
    """List torchvision's classification networks."""
    names: list[str] = _models().list_models(module=_models())
    return names


def canonical(name: str) -> str:
    """Return the name of a network in torchvision or timm, from that name or Keras' spelling.

    Raises:
        UsageError: There is no such network; the message proposes similar ones.
    """
    if name.startswith("timm:"):
        return name
    known = _known()
    lowered = name.lower()
    if lowered in known:
        return lowered
    if lowered in KERAS_NETWORKS:
        _note_keras(lowered)
        return KERAS_NETWORKS[lowered]
    alike = [other for other in known if other.replace("_", "") == lowered.replace("_", "")]
    if len(alike) == 1:  # MobileNetV2, InceptionV3, EfficientNetB0; regnetx16gf is ambiguous
        return alike[0]
    near = alike or messages.similar(lowered, [*known, *KERAS_NETWORKS])
    proposal = (
        f"did you mean {' or '.join(near)}?"
        if near
        else "give one of torchvision's classification networks, or timm:NAME"
    )
    folder = ", and the folder of this name is not a model" if Path(name).is_dir() else ""
    raise UsageError(f'no network is called "{name}"{folder}; {proposal}')


@functools.cache  # once per process: a command looks up a name several times
def _note_keras(name: str) -> None:
    """Log that a name is Keras' if it is also the beginning of names in torchvision, where another network may be meant."""
    others = [other for other in _known() if other.startswith(name)]
    if others:
        log.info(
            "%s is read as the network of this name in Keras, %s; torchvision has %s",
            name,
            KERAS_NETWORKS[name],
            messages.shortened(others, 8),
        )


def network(name: str, *, size: int | None = None, classes: int | None = None) -> tuple[nn.Module, Preprocess]:
    """Build a whole network with random weights.

    Args:
        name: From `canonical`. Random values come from torch's global generator: see `seeded`.
        size: Side of its images in pixels, for networks that take a single size; by default that of these weights.
        classes: Number of outputs; by default that of its default weights, ImageNet's 1,000 for most.

    Returns:
        The network, and the preprocessing of its first published weights.

    Raises:
        UsageError: The network does not take images of that size.
    """
    if name.startswith("timm:"):
        return _timm_network(name, size=size, classes=classes)
    preprocess = _torchvision_preprocess(_published(name, "none"))
    settings = {**_SHIFTING.get(name, {}), **_AUXILIARY.get(name, {})}
    if classes is not None:
        settings["num_classes"] = classes
    if name.startswith("vit_"):  # its position embedding depends on the image's size
        settings["image_size"] = size or preprocess.size
        _check_patches(name, settings["image_size"], patch=int(name.rpartition("_")[2]))
    return _models().get_model(name, weights=None, **settings), preprocess


def seeded(seed: int, make: Callable[[], tuple[nn.Module, Preprocess]]) -> tuple[nn.Module, Preprocess]:
    """Call a function that makes a network with torch's global generator seeded, and restore the generator afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def network_for(
    name: str, weights: str | Path, *, seed: int, size: int | None = None, classes: int | None = None
) -> tuple[nn.Module, Preprocess]:
    """Build the network for given weights, in eval mode; it still has seeded random values.

    Args:
        name: From `canonical`.
        weights: "default", "none" or a file, whose name may be that of published weights.
        seed: Seed of the values.
        size: As `network`; by default that of those weights.
        classes: As `network`.

    Returns:
        The network, and the preprocessing of those weights.

    Raises:
        UsageError: As `network`.
    """
    published = published_preprocess(name, weights)
    if size is None and published is not None:
        size = published.size
    module, own = seeded(seed, functools.partial(network, name, size=size, classes=classes))
    return module.eval(), published or own


def for_dims(name: str, *, size: int | None = None) -> tuple[nn.Module, Preprocess]:
    """Build a network to be measured: on torch's meta device, where weights take no memory, if its constructor allows it."""
    name = canonical(name)
    try:
        with torch.device("meta"):
            return network(name, size=size)
    except NotImplementedError:  # some constructors compute widths with tensors
        return seeded(0, functools.partial(network, name, size=size))


def published_preprocess(name: str, weights: str | Path) -> Preprocess | None:
    """Return the preprocessing of torchvision's weights: "default", or a file under a published name; None for timm."""
    return None if name.startswith("timm:") else _torchvision_preprocess(_published(name, weights))


def preprocess_of(name: str) -> Preprocess:
    """Return the preprocessing of a network's first published weights.

    Raises:
        UsageError: There is no such network.
    """
    name = canonical(name)
    return published_preprocess(name, "none") or for_dims(name)[1]


def _published(name: str, weights: str | Path) -> Any:  # noqa: ANN401 - torchvision ships no types
    """Select among a network's published weights: the default ones, those whose file has this name, or else the first."""
    entries = _models().get_model_weights(name)
    if weights == "default":
        return entries.DEFAULT
    return next((entry for entry in entries if _file_name(entry) == Path(weights).name), next(iter(entries)))


def _file_name(weights: Any) -> str:  # noqa: ANN401 - torchvision ships no types
    return Path(urlparse(weights.url).path).name


def _torchvision_preprocess(weights: Any) -> Preprocess:  # noqa: ANN401 - torchvision ships no types
    transforms = weights.transforms()
    return Preprocess(
        resize=transforms.resize_size[0],
        size=transforms.crop_size[0],
        interpolation=Interpolation(transforms.interpolation.value),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


#: Ends of the names of tensors in a state_dict that are not parameters.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "relative_position_index", "relative_coords_table")


def of_weights(state: Mapping[str, Tensor]) -> str | None:
    """Recognize a network of torchvision by the number of parameters of its published weights; None if no number matches."""
    count = sum(tensor.numel() for key, tensor in state.items() if not key.endswith(_BUFFERS))
    for name in _known():
        if any(entry.meta["num_params"] == count for entry in _models().get_model_weights(name)):
            return str(name)
    return None


def class_names(count: int, module: nn.Module | None = None) -> tuple[str, ...]:
    """Name the outputs of a network: by the classes of its default weights, or by numbers. A duplicate name gets its number.

    Args:
        count: The number of outputs. If the default weights have another number of classes, there are no names.
        module: The network; by default one of torchvision, all of which have default weights for ImageNet.
    """
    names = _published_classes(module)
    if len(names) != count:
        return tuple(map(str, range(count)))
    first = {name: number for number, name in reversed(list(enumerate(names)))}
    return tuple(name if first[name] == number else f"{name} {number}" for number, name in enumerate(names))


def _published_classes(module: nn.Module | None) -> Sequence[str]:
    """Return the classes of a network's default weights; nothing if they are unknown or there are no such weights."""
    imagenet: list[str] = _models().get_model_weights("resnet50").DEFAULT.meta["categories"]
    config: Mapping[str, Any] | None = getattr(module, "pretrained_cfg", None)  # of timm's networks
    if config is None:
        return imagenet
    if not any(config.get(source) for source in ("url", "file", "hf_hub_id")):
        return ()
    if names := config.get("label_names"):
        described = config.get("label_descriptions") or {}
        return [str(described.get(name, name)) for name in names]
    import timm.data

    subset = timm.data.infer_imagenet_subset(dict(config))
    if subset is None or subset == "imagenet-1k":
        return imagenet if subset else ()
    found: list[str] = timm.data.ImageNetInfo(subset).label_descriptions()
    return found


def default_weights(name: str) -> tuple[Mapping[str, Tensor], str]:
    """Load the library's own weights from torch's cache, or download them, unless `CNNKIT_OFFLINE` is set.

    Returns:
        The state_dict, and the hash with which `cache.find_weights` finds its file.

    Raises:
        CnnkitError: `CNNKIT_OFFLINE` forbids the download, or it failed.
    """
    offline = os.environ.get("CNNKIT_OFFLINE", "") not in ("", "0")
    if name.startswith("timm:"):
        if offline:
            raise CnnkitError(f"CNNKIT_OFFLINE forbids downloading weights for {name}; give a file with --weights")
        torchvision_modules.imported()  # timm imports it
        import timm

        with _downloading(f"the weights of {name}"), _silent():
            state = timm.create_model(name.removeprefix("timm:"), pretrained=True).state_dict()
        return state, torch_model.keep_state(state)
    weights = _published(name, "default")
    file = Path(torch.hub.get_dir(), "checkpoints", _file_name(weights))
    if not file.exists():
        if offline:
            raise CnnkitError(
                f"CNNKIT_OFFLINE forbids downloading weights for {name}; give a file with --weights, or put {file.name} into {file.parent}"
            )
        size = weights.meta.get("_file_size")
        with _downloading(weights.url, size="" if size is None else f" ({size:.3g} MB)"):
            file.parent.mkdir(parents=True, exist_ok=True)
            # torchvision's own function prints a line to stdout, which is for data
            hash_prefix = torch.hub.HASH_REGEX.search(file.name)
            torch.hub.download_url_to_file(
                weights.url, str(file), hash_prefix[1] if hash_prefix else None, progress=False
            )
    return torch_model.load_state(file), cache.sha256(file)


@contextlib.contextmanager
def _downloading(what: str, *, size: str = "") -> Generator[None]:
    log.info("downloading %s%s", what, size, extra=messages.BEGINS_WORK)
    try:
        yield
    except (OSError, RuntimeError) as error:  # no connection, or wrong content; urllib's errors are OSErrors
        inner = getattr(error, "reason", None)  # urllib's error for one of the connection
        cause = inner if isinstance(inner, OSError) else error
        reason = getattr(cause, "strerror", None) or next(iter(str(cause).splitlines()), type(cause).__name__)
        raise CnnkitError(f"downloading {what} failed ({reason}); give a file with --weights") from error


@contextlib.contextmanager
def _silent() -> Generator[None]:
    """Suppress what timm and huggingface_hub print: lines on stdout, progress bars and warnings about accounts on stderr."""
    hub = logging.getLogger("huggingface_hub")
    before = hub.level
    hub.setLevel(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield
    finally:
        hub.setLevel(before)


def _timm_network(name: str, *, size: int | None, classes: int | None) -> tuple[nn.Module, Preprocess]:
    torchvision_modules.imported()  # timm imports it
    try:
        import timm
        import timm.data
    except ModuleNotFoundError as error:
        raise CnnkitError(f"{name} needs timm: pip install timm") from error
    bare = name.removeprefix("timm:")
    try:
        outputs = {} if classes is None else {"num_classes": classes}
        random = torch.get_rng_state()
        module = timm.create_model(bare, pretrained=False, **outputs)
    except RuntimeError as error:  # how timm reports an unknown name
        near = messages.nearest(bare, timm.list_models()) or "timm.list_models() lists them"
        raise UsageError(f'timm has no network "{bare}"; {near}') from error
    config = timm.data.resolve_data_config({}, model=module)
    own = int(config["input_size"][-1])
    settings = _fixed_size(name, module, size or own, own=own)
    if settings:
        torch.set_rng_state(random)  # for the same weights
        try:
            module = timm.create_model(bare, pretrained=False, **outputs, **settings)
        except (AssertionError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), "its layers need other sizes")
            raise UsageError(f"{name} does not take images of {size} pixels ({reason})") from error
    return module, Preprocess(
        resize=int(own / config["crop_pct"]),
        size=own,
        interpolation=Interpolation(config["interpolation"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _fixed_size(name: str, module: nn.Module, size: int, *, own: int) -> dict[str, Any]:
    """Return the arguments that make a network of timm for images of one size; none if it is already one, or takes any size.

    A network that adapts its position embeddings in every pass would be exported with that computation.

    Raises:
        UsageError: Its patches do not tile images of that size.
    """
    known = inspect.signature(type(module).__init__).parameters
    settings: dict[str, Any] = {}
    if size != own and "img_size" in known:
        settings["img_size"] = size
        patches = getattr(getattr(module, "patch_embed", None), "patch_size", None)
        if isinstance(patches, tuple):
            _check_patches(name, size, patch=int(patches[0]))
    if "dynamic_img_size" in known and getattr(module, "dynamic_img_size", False):
        settings["dynamic_img_size"] = False
    return settings


def _check_patches(name: str, size: int, *, patch: int) -> None:
    """Check that patches tile an image.

    Raises:
        UsageError: They do not; the message proposes the nearest sizes.
    """
    if size % patch:
        below = size // patch * patch
        near = " or ".join(str(each) for each in (below, below + patch) if each)
        raise UsageError(
            f"{name} cuts images into patches of {patch}x{patch} pixels, which do not tile {size} pixels; give {near}"
        )


def side(module: nn.Module, preprocess: Preprocess) -> int:
    """Return the side in pixels of the images that a network was built for.

    Args:
        module: From `network`.
        preprocess: The preprocessing of its weights, whose size holds for networks that take images of any size.
    """
    own = getattr(module, "image_size", None)  # of torchvision's vision transformer
    if isinstance(own, int):
        return own
    sides = getattr(getattr(module, "patch_embed", None), "img_size", None)  # of timm's networks
    return preprocess.size if sides is None else int(sides[0])


def built_for(module: nn.Module, preprocess: Preprocess) -> Preprocess:
    """Return the preprocessing with the size that a network was built for, with the same share of the image inside the crop."""
    own = side(module, preprocess)
    if own == preprocess.size:
        return preprocess
    return replace(preprocess, size=own, resize=round(preprocess.resize * own / preprocess.size))
