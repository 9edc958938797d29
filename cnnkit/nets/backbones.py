"""Convolutional backbones with their weights, cut at a layer: of a network by name, a notation or a trained model.

A backbone takes normalized images (N, 3, H, W) and returns the output of one of its layers: a map (N, C, h, w) or a vector (N, D).
"""

import functools
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnkit.choices import Fit, Initializer, Pool
from cnnkit.errors import FormatError, UsageError
from cnnkit.formats import cache, torch_model
from cnnkit.formats.header import Backbone, Preprocess
from cnnkit.nets import build, catalogue, dims, notation, subgraph, token_grid, whitening

log = logging.getLogger("cnnkit")

#: The name of a backbone that is given by notation.
BY_NOTATION = "layers"

# How torch.fx names tensors that are computed while it traces a network, such as maxvit's position biases.
_CONSTANT = "_tensor_constant"

# Poolings that are of tokens if they are given and the network has any.
_OF_TOKENS = (Pool.AVG, Pool.CLS, Pool.CLS_AVG)


def pretrained(
    name: str,
    *,
    weights: str | Path = "default",
    layer: str | None = None,
    pool: Pool | None = None,
    size: int | None = None,
    seed: int = 0,
) -> tuple[nn.Module, Backbone, Preprocess]:
    """Build a backbone with its weights, cut at a layer. The weights are kept in the cache under their hash.

    Args:
        name: A network's name.
        weights: "default" for the library's own (the only choice that may download anything), "none" for seeded random values,
            or a file with a state_dict; a published file under its published name sets the preprocessing that belongs to it.
        layer: Where to cut: a module's name or, for the VGGs, Keras' name of a layer. By default the last layer
            with spatial dimensions; of a vision transformer the input of its classifier,
            or, if `pool` is given and pools tokens, the last layer that outputs all tokens.
        pool: Pooling of the map or of the tokens; only recorded here. By default avg.
        size: Side of the images in pixels, for networks that take a single size: their position embeddings are interpolated. By
            default the size of the weights.
        seed: Seed of the random values.

    Returns:
        The backbone in eval mode, (N, 3, H, W) -> map or vector; its record; and its preprocessing.

    Raises:
        UsageError: There is no such network or layer, or it does not take images of that size.
        CnnkitError: The weights are not available, or do not fit.
    """
    name = catalogue.canonical(name)
    module, preprocess = catalogue.network_for(name, weights, seed=seed, size=size)
    state: Mapping[str, Tensor] | None = None
    digest = None
    if weights == "default":
        state, digest = catalogue.default_weights(name)
    elif weights != "none":
        state, digest = torch_model.load_state(weights), torch_model.keep_state_file(Path(weights))
    own = catalogue.side(module, preprocess)
    layer = subgraph.find_layer(name, module, layer, size=own, tokens=pool in _OF_TOKENS)
    backbone = subgraph.cut(module, layer)
    if state is not None:
        source = str(weights) if weights != "default" else f"the default weights of {name}"
        backbone = _loaded(module, backbone, layer, state, source=source)
    digest = digest or torch_model.keep_state(backbone.state_dict())
    return backbone.eval(), Backbone(name=name, layer=layer, pool=pool or Pool.AVG, weights_sha256=digest), preprocess


def whole(
    name: str, weights: str | Path, *, seed: int, size: int | None = None
) -> tuple[nn.Module, Preprocess, str | None]:
    """Build a whole network with its weights and its classifier.

    A file may have another number of classes than the network's default weights.

    Args:
        name: From `catalogue.canonical`.
        weights: As for `pretrained`.
        seed: Seed of random values.
        size: As `catalogue.network`.

    Returns:
        The network in eval mode, (N, 3, H, W) -> (N, classes); its preprocessing; and the hash with which `cache.find_weights` finds the
        file of its weights, None for random ones.

    Raises:
        CnnkitError: As `pretrained`.
    """
    module, preprocess = catalogue.network_for(name, weights, seed=seed, size=size)
    if weights == "none":
        return module, preprocess, None
    if weights == "default":
        state, digest = catalogue.default_weights(name)
        load_into(module, state, source=f"the default weights of {name}")
        return module, preprocess, digest
    given = torch_model.load_state(weights)
    classes = _other_classes(module, given, source=str(weights))
    if classes is not None:
        module, preprocess = catalogue.network_for(name, weights, seed=seed, size=size, classes=classes)
    load_into(module, given, source=str(weights))
    return module, preprocess, cache.sha256(Path(weights))


def _other_classes(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> int | None:
    """Return the number of classes of a state_dict whose last layer is all that does not fit a network; None if that is not so."""
    wanted = {key: tensor for key, tensor in module.state_dict().items() if not key.startswith(_CONSTANT)}
    named = _without_prefix(state, wanted, source=source)
    shapes = [(tensor.shape, named[key].shape) for key, tensor in wanted.items() if key in named]
    other = [(own, there) for own, there in shapes if own != there]
    ends = {(own[:1], there[:1]) for own, there in other}
    if len(ends) != 1 or any(own[1:] != there[1:] for own, there in other):
        return None
    ((_, there),) = ends
    return there[0] if there else None


def untrained(name: str, *, size: int, pool: Pool = Pool.AVG, seed: int = 0) -> tuple[nn.Module, Backbone]:
    """Build a backbone for training from scratch: the network without its pooling and classifier, with seeded random weights.

    Args:
        name: A network's name.
        size: Side of the images, in pixels; only used by networks that take a single size.
        pool: Pooling of the map; only recorded here.
        seed: Seed of the weights.

    Raises:
        UsageError: There is no such network.
    """
    name = catalogue.canonical(name)
    module, preprocess = catalogue.seeded(seed, functools.partial(catalogue.network, name, size=size))
    module.eval()
    # At the network's own size: small images shrink to one pixel long before the last layer
    layer = subgraph.find_layer(name, module, None, size=catalogue.side(module, preprocess))
    return subgraph.cut(module, layer), Backbone(name=name, layer=layer, pool=pool)


def by_notation(
    text: str,
    *,
    weights: str | Path = "none",
    layer: str | None = None,
    pool: Pool = Pool.AVG,
    size: int = 32,
    grey: bool = False,
    seed: int = 0,
    initializer: Initializer = Initializer.HE,
) -> tuple[nn.Module, Backbone, Preprocess]:
    """Build a backbone from the layer notation, with seeded random weights or those of a file.

    Args and Returns as `pretrained`; images are squashed to squares of `size` pixels, and with `grey` the backbone takes
    (N, 1, H, W).
    """
    if weights == "default":
        log.info("random weights, seed %d", seed)
        weights = "none"
    layers = notation.parse(text)
    if not layers:
        raise UsageError("--layers is empty; a backbone needs at least one layer")
    preprocess = Preprocess(
        fit=Fit.SQUASH, resize=size, size=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), grey=grey
    )
    chain = build.build(layers, channels=preprocess.channels, height=size, width=size)
    build.initialise(chain, initializer, generator=torch.Generator().manual_seed(seed))
    layer = layer or layers[-1].name
    backbone = chain.upto(layer).eval()
    if weights == "none":
        digest = torch_model.keep_state(backbone.state_dict())
    else:
        load_into(backbone, torch_model.load_state(weights), source=str(weights))
        digest = torch_model.keep_state_file(Path(weights))
    written = ", ".join(item.text for item in layers)
    return (
        backbone,
        Backbone(name=BY_NOTATION, layer=layer, pool=pool, weights_sha256=digest, notation=written),
        preprocess,
    )


def from_model(
    model: torch_model.TorchModel, *, name: str, layer: str | None = None, pool: Pool | None = None
) -> tuple[nn.Module, Backbone, Preprocess]:
    """Return the backbone of a trained model, with its weights.

    Args:
        model: A model file's content.
        name: The file, for messages.
        layer: An earlier layer to cut at; by default the model's own.
        pool: As `pretrained`; by default the model's own.

    Returns:
        As `pretrained`.
    """
    header = model.header
    if header.backbone is None or header.preprocess is None:
        raise FormatError(f"{name}: its header has no backbone")
    state = {key.removeprefix("base."): tensor for key, tensor in model.state.items() if key.startswith("base.")}
    backbone = replace(header.backbone, pool=pool or header.backbone.pool, layer=layer or header.backbone.layer)
    if layer is not None and header.backbone.notation is None:
        size = header.preprocess.size
        whole = _whole(header.backbone, size=size)
        backbone = replace(backbone, layer=subgraph.find_layer(header.backbone.name, whole, layer, size=size))
    # The header may be forged: bound its network by the weights in the same file
    most = torch_model.count_values(state) + build.SPARE_PARAMS
    try:
        extractor = skeleton(backbone, size=header.preprocess.size, grey=header.preprocess.grey, most=most).eval()
    except UsageError as error:
        if layer is not None:
            raise
        raise FormatError(f"{name}: its header and its weights do not fit together ({error})") from error
    load_into(extractor, state, source=name)
    digest = backbone.weights_sha256
    if digest is None or cache.find_weights(digest) is None:  # a head on these features needs the weights again
        digest = torch_model.keep_state(extractor.state_dict())
    return extractor, replace(backbone, weights_sha256=digest), header.preprocess


def skeleton(backbone: Backbone, *, size: int, grey: bool = False, most: int = build.MOST_PARAMS) -> nn.Module:
    """Build the backbone that a record describes, with arbitrary values, for weights from a file.

    Args:
        backbone: From a Header.
        size: Side of its images, in pixels.
        grey: Whether it takes one channel in place of three.
        most: The most parameters allowed, for a backbone by notation.

    Raises:
        UsageError: `grey` or whitening with a network by name.
    """
    if backbone.notation is not None:
        channels = 1 if grey else 3
        layers = notation.parse(backbone.notation)
        given = dims.start(height=size, width=size, channels=channels)
        # The other branches of a block, whose weights are not in the file, are not built
        used = dims.upto(layers, backbone.layer, given) or layers
        chain = build.build(used, channels=channels, height=size, width=size, most=most)
        if backbone.whiten is not None:
            chain = whitening.before(chain, (channels, size, size))
        return chain.upto(backbone.layer)
    if backbone.whiten is not None:
        raise UsageError(f"{backbone.name} does not whiten images; use a backbone by notation (--layers)")
    if grey:
        raise UsageError(f"{backbone.name} takes colour images; use a backbone by notation (--layers) for grey ones")
    return subgraph.cut(_whole(backbone, size=size), backbone.layer)


def restore(backbone: Backbone, weights: Path, *, size: int, grey: bool = False) -> nn.Module:
    """Build the backbone that a record describes, with its weights from a file, in eval mode.

    Args:
        backbone: From a Header.
        weights: A file with a state_dict that contains them.
        size: Side of its images, in pixels.
        grey: As `skeleton`.

    Raises:
        FormatError: The weights do not fit.
        UsageError: As `skeleton`.
    """
    state = torch_model.load_state(weights)
    if backbone.notation is not None or grey:
        extractor = skeleton(backbone, size=size, grey=grey, most=torch_model.count_values(state) + build.SPARE_PARAMS)
        load_into(extractor, state, source=str(weights))
        return extractor.eval()
    module = _whole(backbone, size=size)
    return _loaded(module, subgraph.cut(module, backbone.layer), backbone.layer, state, source=str(weights)).eval()


def _whole(backbone: Backbone, *, size: int) -> nn.Module:
    """Build the network that a backbone was cut from, in eval mode, with arbitrary values."""
    name = catalogue.canonical(backbone.name)
    return catalogue.seeded(0, functools.partial(catalogue.network, name, size=size))[0].eval()


def _loaded(
    module: nn.Module, backbone: nn.Module, layer: str, state: Mapping[str, Tensor], *, source: str
) -> nn.Module:
    load_into(backbone, state, source=source)
    if any(key.startswith(_CONSTANT) for key in backbone.state_dict()):
        return subgraph.cut(module, layer)  # traced again: the graph has constants computed from the weights
    return backbone


def load_into(backbone: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load a backbone's weights from a state_dict that may hold more, such as the original classifier.

    Its keys may share a prefix, such as Lightning's `model.` or a wrapper's `backbone.`, which is removed with a notice. Position
    embeddings of another image size are interpolated.

    Raises:
        FormatError: A tensor is missing or has another shape, and the message names the first one; or the network is in it twice.
    """
    wanted = {key: tensor for key, tensor in backbone.state_dict().items() if not key.startswith(_CONSTANT)}
    state = _resampled(_without_prefix(state, wanted, source=source), wanted, backbone, source=source)
    for key, tensor in wanted.items():
        if key not in state:
            if key.endswith("num_batches_tracked"):  # files from before torch 0.4.1 lack it
                continue
            whose = _whose(state) or "are these another network's weights?"
            raise FormatError(f"{source}: has no {key} (it has {', '.join(list(state)[:3])}, ...); {whose}")
        if state[key].shape != tensor.shape:
            alike = _whose(state)
            raise FormatError(
                f"{source}: {key} has shape {tuple(state[key].shape)}, the network needs {tuple(tensor.shape)}"
                f"{f'; {alike}' if alike else ''}"
            )
        if tensor.is_floating_point() != state[key].is_floating_point():
            raise FormatError(
                f"{source}: {key} is {str(state[key].dtype).removeprefix('torch.')}, "
                f"the network needs {str(tensor.dtype).removeprefix('torch.')}; save a float state_dict"
            )
    backbone.load_state_dict({key: state.get(key, tensor) for key, tensor in backbone.state_dict().items()})


def _resampled(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], backbone: nn.Module, *, source: str
) -> Mapping[str, Tensor]:
    """Interpolate position embeddings to the number of patches of a network; return the same state_dict if they fit or cannot."""
    grid = token_grid.of_cut(backbone) or token_grid.of_network(backbone)
    key = grid.positions if grid is not None else None
    if grid is None or key is None or key not in state or key not in wanted or state[key].shape == wanted[key].shape:
        return state
    found = grid.resampled(state[key])
    if found is None or found.shape != wanted[key].shape:
        return state
    log.info(
        "%s: position embeddings of %d patches interpolated to %d",
        source,
        state[key].shape[1] - grid.embedded,
        grid.rows * grid.columns,
    )
    return {**state, key: found}


def _whose(state: Mapping[str, Tensor]) -> str | None:
    name = catalogue.of_weights(state)
    return None if name is None else f"these look like the weights of {name}"


# Parts of names that wrappers insert: DataParallel and torch.compile.
_WRAPPERS = frozenset({"module", "_orig_mod"})


def _without_prefix(state: Mapping[str, Tensor], wanted: Collection[str], *, source: str) -> Mapping[str, Tensor]:
    """Rename the entries of a state_dict to a network's names, if it has all of those below one prefix.

    Raises:
        FormatError: It has them below several prefixes.
    """
    needed = [key for key in wanted if not key.endswith("num_batches_tracked")]
    if not needed or all(key in state for key in needed):
        return state
    unwrapped = {_unwrapped(key): tensor for key, tensor in state.items()}
    for named in (state, unwrapped) if len(unwrapped) == len(state) else (state,):
        prefixes = [key[: -len(needed[0])] for key in named if key == needed[0] or key.endswith(f".{needed[0]}")]
        fitting = [prefix for prefix in prefixes if all(prefix + key in named for key in needed)]
        if "" in fitting:
            log.info(
                "%s: removed %s from the names of its weights", source, " and ".join(sorted(_WRAPPERS & _parts(state)))
            )
            return named
        if len(fitting) > 1:
            raise FormatError(
                f"{source}: has the network {len(fitting)} times, below {' and '.join(fitting)}; save the state_dict of one"
            )
        if fitting:
            log.info("%s: removed the prefix %s from the names of its weights", source, fitting[0])
            return {key.removeprefix(fitting[0]): tensor for key, tensor in named.items() if key.startswith(fitting[0])}
    return state


def _parts(state: Mapping[str, Tensor]) -> set[str]:
    return {part for key in state for part in key.split(".")}


def _unwrapped(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)
