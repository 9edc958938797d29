"""Convolutional bases by name: which networks there are, with which weights, and how to cut them at a layer.

A base takes normalised pictures (N, 3, H, W) and gives what one of its layers answers: a map (N, C, h, w) or a vector (N, D).
"""

import contextlib
import difflib
import functools
import logging
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import SwinTransformer
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from cnnkit.choices import Fit, Initializer, Interpolation, Pool
from cnnkit.errors import CnnkitError, FormatError, UsageError
from cnnkit.formats import bundle, cache
from cnnkit.formats.header import Backbone, Preprocess
from cnnkit.nets import build, notation

log = logging.getLogger("cnnkit")

#: The textbook's names (Keras) for networks that torchvision lacks.
KERAS_NETWORKS = {"mobilenet": "timm:mobilenetv1_100", "xception": "timm:legacy_xception"}

#: The name of a base that is given by notation.
BY_NOTATION = "layers"

# What torch.fx calls tensors that it met while it made a graph: maxvit computes its position biases there.
_CONSTANT = "_tensor_constant"
# The first words of what stands behind the base: pooling and classifier.
_BEHIND = ("classifier", "head", "heads", "fc", "last_linear", "avgpool", "global_pool")
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
    near = alike or difflib.get_close_matches(lowered, [*known, *KERAS_NETWORKS], n=3)
    proposal = f"did you mean {' or '.join(near)}?" if near else "torchvision's classification networks, or timm:NAME"
    raise UsageError(f'no network is called "{name}"; {proposal}')


def network(name: str, *, size: int | None = None) -> tuple[nn.Module, Preprocess]:
    """Build a whole network with random weights.

    Args:
        name: As `canonical` gives it. Random values come from torch's global generator: see `seeded`.
        size: The side of its pictures in pixels, for the networks that are made for one size alone.

    Returns:
        The network with its 1,000 ImageNet classes, and how pictures are prepared for its first published weights.
    """
    if name.startswith("timm:"):
        return _timm_network(name)
    preprocess = _torchvision_preprocess(_published(name, "none"))
    settings = {**_SHIFTING.get(name, {}), **_AUXILIARY.get(name, {})}
    if name.startswith("vit_"):  # its embedding of positions has the picture's size
        settings["image_size"] = size or preprocess.size
    return torchvision.models.get_model(name, weights=None, **settings), preprocess


def seeded(seed: int, make: Callable[[], tuple[nn.Module, Preprocess]]) -> tuple[nn.Module, Preprocess]:
    """Call a maker of networks with torch's global generator seeded, and put the generator back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def pretrained(
    name: str, *, weights: str | Path = "default", layer: str | None = None, pool: Pool = Pool.AVG, seed: int = 0
) -> tuple[nn.Module, Backbone, Preprocess]:
    """Build a base with its weights, cut at a layer. The weights are kept in the cache under their hash.

    Args:
        name: A network's name.
        weights: "default" for the library's own (the one thing that touches the network), "none" for seeded random values,
            or a file with a state_dict; a published one under its published name brings its own preprocessing.
        layer: Where to cut: a module's name or, for the VGGs, Keras' name of a layer. The last layer with spatial extent
            unless said.
        pool: What is done to the map afterwards; only recorded here.
        seed: For random values.

    Returns:
        The base in eval mode, (N, 3, H, W) -> map or vector; its record; and how pictures are prepared for it.

    Raises:
        UsageError: No such network or layer.
        CnnkitError: The weights cannot be had, or do not fit.
    """
    name = canonical(name)
    published = None if name.startswith("timm:") else _torchvision_preprocess(_published(name, weights))
    size = published.size if published else None
    module, preprocess = seeded(seed, functools.partial(network, name, size=size))
    preprocess = published or preprocess
    state: Mapping[str, Tensor] | None = None
    digest = None
    if weights == "default":
        state, digest = _default_weights(name)
    elif weights != "none":
        state, digest = bundle.load_state(weights), bundle.keep_state_file(Path(weights))
    module.eval()
    layer = find_layer(name, module, layer, size=preprocess.size)
    base = cut(module, layer)
    if state is not None:
        source = str(weights) if weights != "default" else f"the default weights of {name}"
        base = _loaded(module, base, layer, state, source=source)
    digest = digest or bundle.keep_state(base.state_dict())
    return base.eval(), Backbone(name=name, layer=layer, pool=pool, weights_sha256=digest), preprocess


def by_notation(
    text: str,
    *,
    weights: str | Path = "none",
    layer: str | None = None,
    pool: Pool = Pool.AVG,
    size: int = 32,
    seed: int = 0,
    initializer: Initializer = Initializer.HE,
) -> tuple[nn.Module, Backbone, Preprocess]:
    """Build a base from the layer notation, with seeded random weights or those of a file.

    Args and Returns as `pretrained`; `size` is the side of the pictures, in pixels, to which they are squashed.
    """
    if weights == "default":
        weights = "none"
    layers = notation.parse(text)
    if not layers:
        raise UsageError("--layers is empty; a base needs one layer at least")
    chain = build.build(layers, channels=3, height=size, width=size)
    build.initialise(chain, initializer, generator=torch.Generator().manual_seed(seed))
    layer = layer or layers[-1].name
    base = chain.upto(layer).eval()
    if weights == "none":
        digest = bundle.keep_state(base.state_dict())
    else:
        load_into(base, bundle.load_state(weights), source=str(weights))
        digest = bundle.keep_state_file(Path(weights))
    written = " , ".join(item.text for item in layers).replace(" ,", ",")
    preprocess = Preprocess(fit=Fit.SQUASH, resize=size, size=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return base, Backbone(name=BY_NOTATION, layer=layer, pool=pool, weights_sha256=digest, notation=written), preprocess


def from_model(
    model: bundle.Bundle, *, name: str, layer: str | None = None, pool: Pool | None = None
) -> tuple[nn.Module, Backbone, Preprocess]:
    """Take the base out of a trained model, with the weights that it has there.

    Args:
        model: A model file's content.
        name: The file, for messages.
        layer: Cut earlier than the model does.
        pool: As `pretrained`; the model's own unless said.

    Returns:
        As `pretrained`.
    """
    header = model.header
    if header.backbone is None or header.preprocess is None:
        raise FormatError(f"{name}: its header names no base")
    state = {key.removeprefix("base."): tensor for key, tensor in model.state.items() if key.startswith("base.")}
    backbone = replace(header.backbone, pool=pool or header.backbone.pool, layer=layer or header.backbone.layer)
    if layer is not None and header.backbone.notation is None:
        size = header.preprocess.size
        whole = seeded(0, functools.partial(network, header.backbone.name, size=size))[0].eval()
        backbone = replace(backbone, layer=find_layer(header.backbone.name, whole, layer, size=size))
    base = skeleton(backbone, size=header.preprocess.size).eval()
    load_into(base, state, source=name)
    digest = backbone.weights_sha256 or bundle.keep_state(base.state_dict())
    return base, replace(backbone, weights_sha256=digest), header.preprocess


def skeleton(backbone: Backbone, *, size: int) -> nn.Module:
    """Build the base that a record describes, with values that do not matter: its weights come from a file.

    Args:
        backbone: From a Header.
        size: The side of its pictures, in pixels.
    """
    if backbone.notation is not None:
        return build.build(notation.parse(backbone.notation), channels=3, height=size, width=size).upto(backbone.layer)
    module, _ = seeded(0, functools.partial(network, canonical(backbone.name), size=size))
    return cut(module.eval(), backbone.layer)


def restore(backbone: Backbone, weights: Path, *, size: int) -> nn.Module:
    """Build the base that a record describes, with its weights from a file, in eval mode.

    Args:
        backbone: From a Header.
        weights: A state_dict that has them.
        size: The side of its pictures, in pixels.

    Raises:
        FormatError: The weights do not fit.
    """
    state = bundle.load_state(weights)
    if backbone.notation is not None:
        base = skeleton(backbone, size=size)
        load_into(base, state, source=str(weights))
        return base.eval()
    module = seeded(0, functools.partial(network, canonical(backbone.name), size=size))[0].eval()
    return _loaded(module, cut(module, backbone.layer), backbone.layer, state, source=str(weights)).eval()


def _loaded(module: nn.Module, base: nn.Module, layer: str, state: Mapping[str, Tensor], *, source: str) -> nn.Module:
    load_into(base, state, source=source)
    if any(key.startswith(_CONSTANT) for key in base.state_dict()):
        return cut(module, layer)  # anew: what was computed from the weights while the graph was made
    return base


def load_into(base: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load what a base needs from a state_dict that may hold more, such as the original classifier.

    Raises:
        FormatError: A tensor is missing or has another shape; the message names the first one.
    """
    wanted = {key: tensor for key, tensor in base.state_dict().items() if not key.startswith(_CONSTANT)}
    for key, tensor in wanted.items():
        if key not in state:
            if key.endswith("num_batches_tracked"):  # files from before torch 0.4.1 lack it
                continue
            raise FormatError(
                f"{source}: no {key} in it (it has {', '.join(list(state)[:3])}, ...); are these another network's weights?"
            )
        if state[key].shape != tensor.shape:
            raise FormatError(
                f"{source}: {key} has shape {tuple(state[key].shape)}, the network wants {tuple(tensor.shape)}"
            )
    base.load_state_dict({key: state.get(key, tensor) for key, tensor in base.state_dict().items()})


def cut(module: nn.Module, layer: str) -> nn.Module:
    """Give the part of a network up to a layer, with the modules that it uses and no others, under their old names.

    Args:
        module: A whole network, in eval mode. Its modules are shared, not copied.
        layer: From `find_layer`.

    Returns:
        (N, 3, H, W) -> what the layer answers, with separate graphs for training and for evaluation. Maps are (N, C, h, w), also
        those of the networks that keep channels last inside.
    """
    part = create_feature_extractor(module, {layer: "cut"}, **_tracing(module))
    for graph in (part.train_graph, part.eval_graph):
        output = next(node for node in graph.nodes if node.op == "output")
        answer = output.args[0]["cut"]
        if _has_channels_last(module, layer):
            with graph.inserting_before(output):
                answer = graph.call_function(torch.permute, (answer, (0, 3, 1, 2)))
        output.args = (answer,)  # the tensor itself, in place of {"cut": tensor}
    part.graph = part.eval_graph  # recompiles
    part.eval()
    return part  # type: ignore[no-any-return] # torchvision ships no types


def _has_channels_last(module: nn.Module, layer: str) -> bool:
    """Tell whether a layer answers (N, h, w, C): Swin transformers do, between the patches and the pooling."""
    if isinstance(module, SwinTransformer):
        return layer.split(".")[0] in ("features", "norm") and not layer.startswith("features.0.0")
    behind = ("patch_embed", "head", "global_pool", "fc")
    return getattr(module, "output_fmt", "NCHW") == "NHWC" and layer.split(".")[0] not in behind  # timm says so


def find_layer(name: str, module: nn.Module, layer: str | None, *, size: int) -> str:
    """Find the node of a network's graph that a layer's name means.

    Args:
        name: The network's name.
        module: The whole network, in eval mode.
        layer: A module's name, a node of the graph, or Keras' name of a VGG's layer. Without one, the last layer with spatial
            extent before the classifier; for a transformer, whose tokens have none, what its classifier reads.
        size: Side of the pictures, in pixels.

    Raises:
        UsageError: There is none of that name; the nearest ones are proposed.
    """
    nodes = get_graph_node_names(module, **_tracing(module))[1][1:]  # the first one is the input
    if layer is None:
        return _last_spatial(module, nodes, size)
    wanted = keras_names(name).get(layer, layer)
    if any(node == wanted or node.startswith(f"{wanted}.") for node in nodes):
        return wanted
    near = difflib.get_close_matches(layer, [*keras_names(name), *dict(module.named_modules()), *nodes], n=3)
    proposal = f"did you mean {' or '.join(near)}?" if near else f"cnn-dims {name} lists them"
    raise UsageError(f'{name} has no layer "{layer}"; {proposal}')


def keras_names(name: str) -> dict[str, str]:
    """Give Keras' names of a VGG's layers with the modules whose output they mean; nothing for other networks.

    A convolution of Keras includes its activation, so `block1_conv1` is the module of the ReLU behind the convolution.
    """
    if not name.startswith("vgg"):
        return {}
    with torch.device("meta"):
        module = torchvision.models.get_model(name, weights=None)
    names, block, conv = {}, 1, 0
    for index, part in enumerate(module.features):
        if isinstance(part, nn.ReLU):
            conv += 1
            names[f"block{block}_conv{conv}"] = f"features.{index}"
        elif isinstance(part, nn.MaxPool2d):
            names[f"block{block}_pool"] = f"features.{index}"
            block, conv = block + 1, 0
    return {**names, "fc1": "classifier.1", "fc2": "classifier.4", "predictions": "classifier.6"}


def for_dims(name: str) -> tuple[nn.Module, Preprocess]:
    """Build a network for its table alone: without weights or, where its maker allows that, even room for them."""
    name = canonical(name)
    try:
        with torch.device("meta"):
            return network(name)
    except NotImplementedError:  # some compute their widths with tensors
        return network(name)


def _tracing(module: nn.Module) -> dict[str, Any]:
    """Say which modules and functions of a network must stay whole when its graph is made."""
    leaves: list[type[nn.Module]] = [build.SamePad]  # its padding depends on the size of what comes in
    functions: list[Callable[..., Any]] = []
    if type(module).__module__.startswith("timm."):
        from timm.layers import get_notrace_functions, get_notrace_modules

        leaves += get_notrace_modules()
        functions += get_notrace_functions()
    return {"tracer_kwargs": {"leaf_modules": leaves, "autowrap_functions": functions}, "suppress_diff_warning": True}


def _last_spatial(module: nn.Module, nodes: list[str], size: int) -> str:
    body = [node for node in nodes if node.split(".")[0] not in _BEHIND]
    answers = create_feature_extractor(
        module, eval_return_nodes=body, train_return_nodes=nodes[:1], **_tracing(module)
    ).eval()
    with torch.no_grad():
        seen = answers(torch.zeros(1, 3, size, size))
    shapes = [(node, tuple(seen[node].shape)) for node in body if isinstance(seen[node], Tensor)]
    spatial = [index for index, (_, shape) in enumerate(shapes) if len(shape) == 4 and min(shape[2:]) > 1]
    last = spatial[-1]
    if any(len(shape) == 3 for _, shape in shapes[last + 1 :]):  # tokens: the picture's grid was given up on the way
        last = max(index for index, (_, shape) in enumerate(shapes) if len(shape) == 2)
    return _outermost(module, body, shapes[last][0])


def _outermost(module: nn.Module, nodes: list[str], node: str) -> str:
    """Name a node by the largest module that it is the end of, plain containers aside: features.18, not features.18.2."""
    modules = dict(module.named_modules())
    parts = node.split(".")
    for length in range(1, len(parts)):
        prefix = ".".join(parts[:length])
        inside = [other for other in nodes if other.startswith(f"{prefix}.")]
        if inside[-1] == node and type(modules.get(prefix)) not in (nn.Sequential, nn.ModuleList, type(None)):
            return prefix
    return node


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


def _default_weights(name: str) -> tuple[Mapping[str, Tensor], str]:
    """Get the library's own weights: from torch's cache, else over the network, unless that is forbidden."""
    offline = os.environ.get("CNNKIT_OFFLINE", "") not in ("", "0")
    if name.startswith("timm:"):
        if offline:
            raise CnnkitError(f"CNNKIT_OFFLINE forbids downloading weights for {name}; give a file with --weights")
        import timm

        with _downloading(f"the weights of {name}"):
            state = timm.create_model(name.removeprefix("timm:"), pretrained=True).state_dict()
        return state, bundle.keep_state(state)
    weights = _published(name, "default")
    file = Path(torch.hub.get_dir(), "checkpoints", _file_name(weights))
    if not file.exists():
        if offline:
            raise CnnkitError(
                f"CNNKIT_OFFLINE forbids downloading weights for {name}; give a file with --weights, or put {file.name} into {file.parent}"
            )
        with _downloading(weights.url):
            weights.get_state_dict(progress=False, check_hash=True)
    return bundle.load_state(file), cache.sha256(file)


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
        near = difflib.get_close_matches(name.removeprefix("timm:"), timm.list_models(), n=3)
        raise UsageError(
            f'timm has no network "{name.removeprefix("timm:")}"; did you mean {" or ".join(near) or "another"}?'
        ) from error
    config = timm.data.resolve_data_config({}, model=module)
    size = int(config["input_size"][-1])
    return module, Preprocess(
        resize=int(size / config["crop_pct"]),
        size=size,
        interpolation=Interpolation(config["interpolation"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
