"""The networks that torchvision and timm have: their names, what they are made of, and the weights published for them."""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from cnnkit import messages
from cnnkit.choices import Interpolation
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import cache, torch_model
from cnnkit.formats.header import Preprocess

log = logging.getLogger("cnnkit")

#: The textbook's names (Keras) for networks that torchvision lacks.
KERAS_NETWORKS = {"mobilenet": "timm:mobilenetv1_100", "xception": "timm:legacy_xception"}

# Ported from TensorFlow: their published weights expect inputs that these two networks shift themselves.
_SHIFTING: dict[str, dict[str, Any]] = {
    "inception_v3": {"transform_input": True},
    "googlenet": {"transform_input": True},
}
_AUXILIARY: dict[str, dict[str, Any]] = {
    "inception_v3": {"aux_logits": True, "init_weights": False},
    "googlenet": {"aux_logits": True, "init_weights": False},
}


def canonical(name: str) -> str:
    """Find the name that torchvision or timm has for a network; Keras' spelling is understood.

    Raises:
        UsageError: There is no such network; the nearest ones are named.
    """
    if name.startswith("timm:"):
        return name
    known: list[str] = torchvision.models.list_models(module=torchvision.models)
    lowered = name.lower()
    if lowered in known:
        return lowered
    if lowered in KERAS_NETWORKS:
        return KERAS_NETWORKS[lowered]
    alike = [other for other in known if other.replace("_", "") == lowered.replace("_", "")]
    if len(alike) == 1:  # MobileNetV2, InceptionV3, EfficientNetB0; regnetx16gf could be two
        return alike[0]
    near = alike or messages.similar(lowered, [*known, *KERAS_NETWORKS])
    proposal = f"did you mean {' or '.join(near)}?" if near else "torchvision's classification networks, or timm:NAME"
    raise UsageError(f'no network is called "{name}"; {proposal}')


def network(name: str, *, size: int | None = None) -> tuple[nn.Module, Preprocess]:
    """Build a whole network with random weights.

    Args:
        name: As `canonical` gives it. Random values come from torch's global generator: see `seeded`.
        size: The side of its images in pixels, for the networks that are made for one size alone.

    Returns:
        The network with its 1,000 ImageNet classes, and how images are prepared for its first published weights.
    """
    if name.startswith("timm:"):
        return _timm_network(name)
    preprocess = _torchvision_preprocess(_published(name, "none"))
    settings = {**_SHIFTING.get(name, {}), **_AUXILIARY.get(name, {})}
    if name.startswith("vit_"):  # its embedding of positions has the image's size
        settings["image_size"] = size or preprocess.size
    return torchvision.models.get_model(name, weights=None, **settings), preprocess


def seeded(seed: int, make: Callable[[], tuple[nn.Module, Preprocess]]) -> tuple[nn.Module, Preprocess]:
    """Call a maker of networks with torch's global generator seeded, and put the generator back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def network_for(name: str, weights: str | Path, *, seed: int) -> tuple[nn.Module, Preprocess]:
    """Build the network that weights belong to, in eval mode, with seeded random values in their place.

    Args:
        name: As `canonical` gives it.
        weights: "default", "none" or a file, whose name may be that of published ones.
        seed: For the values.

    Returns:
        The network, and how images are prepared for those weights.
    """
    published = published_preprocess(name, weights)
    size = published.size if published else None
    module, own = seeded(seed, functools.partial(network, name, size=size))
    return module.eval(), published or own


def for_dims(name: str) -> tuple[nn.Module, Preprocess]:
    """Build a network for its table alone: without weights or, where its maker allows that, even room for them."""
    name = canonical(name)
    try:
        with torch.device("meta"):
            return network(name)
    except NotImplementedError:  # some compute their widths with tensors
        return seeded(0, functools.partial(network, name))


def published_preprocess(name: str, weights: str | Path) -> Preprocess | None:
    """Say how images are prepared for weights of torchvision's: "default", or a file under a published name; None for timm."""
    return None if name.startswith("timm:") else _torchvision_preprocess(_published(name, weights))


def preprocess_of(name: str) -> Preprocess:
    """Say how images are prepared for a network's first published weights.

    Raises:
        UsageError: There is no such network.
    """
    name = canonical(name)
    return published_preprocess(name, "none") or for_dims(name)[1]


def _published(name: str, weights: str | Path) -> Any:  # noqa: ANN401 - torchvision ships no types
    """Find which of a network's published weights are meant: the default ones, those in a file of their name, or else the first."""
    entries = torchvision.models.get_model_weights(name)
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


def class_names(count: int) -> tuple[str, ...]:
    """Name the classes of a published network: ImageNet's where it has 1,000, else their numbers. A name that two have gets its number."""
    if count != 1000:
        return tuple(map(str, range(count)))
    names: list[str] = torchvision.models.get_model_weights("resnet50").DEFAULT.meta["categories"]
    return tuple(f"{name} {number}" if name in names[:number] else name for number, name in enumerate(names))


def default_weights(name: str) -> tuple[Mapping[str, Tensor], str]:
    """Get the library's own weights: from torch's cache, else over the network, unless that is forbidden.

    Returns:
        The state_dict, and the hash under which `cache.find_weights` finds its file.

    Raises:
        CnnkitError: The network is forbidden, or does not give them.
    """
    offline = os.environ.get("CNNKIT_OFFLINE", "") not in ("", "0")
    if name.startswith("timm:"):
        if offline:
            raise CnnkitError(f"CNNKIT_OFFLINE forbids downloading weights for {name}; give a file with --weights")
        import timm

        with _downloading(f"the weights of {name}"):
            state = timm.create_model(name.removeprefix("timm:"), pretrained=True).state_dict()
        return state, torch_model.keep_state(state)
    weights = _published(name, "default")
    file = Path(torch.hub.get_dir(), "checkpoints", _file_name(weights))
    if not file.exists():
        if offline:
            raise CnnkitError(
                f"CNNKIT_OFFLINE forbids downloading weights for {name}; give a file with --weights, or put {file.name} into {file.parent}"
            )
        with _downloading(weights.url):
            weights.get_state_dict(progress=False, check_hash=True)
    return torch_model.load_state(file), cache.sha256(file)


@contextlib.contextmanager
def _downloading(what: str) -> Generator[None]:
    log.info("downloading %s", what)
    try:
        yield
    except (OSError, RuntimeError) as error:  # no way there, or not what was expected; urllib's errors are OSErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CnnkitError(f"downloading {what} failed ({reason}); give a file with --weights") from error


def _timm_network(name: str) -> tuple[nn.Module, Preprocess]:
    try:
        import timm
        import timm.data
    except ModuleNotFoundError as error:
        raise CnnkitError(f"{name} needs timm: pip install 'cnnkit[timm]'") from error
    try:
        module = timm.create_model(name.removeprefix("timm:"), pretrained=False)
    except RuntimeError as error:  # timm's way to say that it does not know the name
        bare = name.removeprefix("timm:")
        near = messages.nearest(bare, timm.list_models()) or "timm.list_models() lists them"
        raise UsageError(f'timm has no network "{bare}"; {near}') from error
    config = timm.data.resolve_data_config({}, model=module)
    size = int(config["input_size"][-1])
    return module, Preprocess(
        resize=int(size / config["crop_pct"]),
        size=size,
        interpolation=Interpolation(config["interpolation"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
