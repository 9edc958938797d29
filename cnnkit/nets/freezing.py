"""Freezing: which layers of a backbone are trained, and the split of the backbone there, so that the frozen part runs only once.

A layer here is a module that has parameters of its own, batch norm included, as Keras counts layers with weights; layers are
in the order in which they run for the first time.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Self

from torch import Tensor, fx, nn

from cnnkit import messages
from cnnkit.choices import Unfreeze
from cnnkit.errors import UsageError
from cnnkit.nets import subgraph
from cnnkit.nets.build import Network

_NORMS = (
    nn.modules.batchnorm._BatchNorm,  # torch has no public class above its batch norms
    nn.GroupNorm,
    nn.LayerNorm,
)


class PartlyFrozen(nn.Module):
    """A part of a backbone whose frozen modules stay in eval mode when the part is put into training mode."""

    def __init__(self, part: nn.Module, *, frozen: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.part = part
        #: Names, not modules: with several GPUs, batch norms are replaced by synchronized ones.
        self.frozen = tuple(name for name, module in part.named_modules() if module in set(frozen))

    def forward(self, given: Tensor) -> Tensor:
        """Run the part."""
        return self.part(given)  # type: ignore[no-any-return] # modules return Any

    def train(self, mode: bool = True) -> Self:
        """Set the mode, except of frozen modules: their statistics must not change, and their dropout must not drop."""
        super().train(mode)
        for name in self.frozen:
            self.part.get_submodule(name).eval()
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class DividedBackbone:
    """A backbone in two parts: `upper(lower(x))` equals the backbone's output; both share its modules and parameters.

    Attributes:
        lower: (N, 3, H, W) -> the tensor at the boundary; frozen. The identity if there is nothing to freeze below.
        upper: The tensor at the boundary -> the backbone's output; trained, except for frozen layers at its start. The identity if
            nothing is trained.
        boundary: The layer name with which `subgraph.cut`, or `upto` of a network by notation, returns `lower`; None where that is
            the identity.
        trained: The layers that are trained, as `find` gives them.
    """

    lower: nn.Module
    upper: nn.Module
    boundary: str | None
    trained: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """A module that runs, or a parameter that is read: its place in the graph or chain, the module's name, and its own parameters.

    `module` is None where only a parameter is read. The modules inside a module follow it.
    """

    place: int
    name: str
    parameters: tuple[str, ...]
    module: nn.Module | None = None


def _steps(backbone: nn.Module, *, training: bool = False) -> Iterator[_Step]:
    """Yield what runs, in order."""
    if isinstance(backbone, Network):
        for place, (name, module) in enumerate(backbone.named_children()):
            yield from _inside(place, name, module)
        return
    for place, node in enumerate(_graph(backbone, training=training).nodes):
        if node.op == "call_module":
            yield from _inside(place, node.target, backbone.get_submodule(node.target))
        elif node.op == "get_attr":
            owner, _, name = node.target.rpartition(".")
            if isinstance(getattr(backbone.get_submodule(owner), name), nn.Parameter):
                yield _Step(place, owner or name, (node.target,))


def _inside(place: int, name: str, module: nn.Module) -> Iterator[_Step]:
    """Yield a module and those inside it: torchvision's graphs run a convolution with its batch norm as one."""
    for inner, part in module.named_modules(prefix=name):
        own = tuple(f"{inner}.{parameter}" for parameter, _ in part.named_parameters(recurse=False))
        yield _Step(place, inner, own, part)


def _graph(backbone: nn.Module, *, training: bool) -> fx.Graph:
    graph = getattr(backbone, "train_graph" if training else "eval_graph", None)
    assert isinstance(graph, fx.Graph), "a backbone is cut from a network, or a chain by notation"
    return graph


def layers(backbone: nn.Module) -> tuple[str, ...]:
    """List the layers of a backbone in the order in which they run.

    Args:
        backbone: From `subgraph.cut`, or built from a notation.
    """
    return tuple(dict.fromkeys(step.name for step in _steps(backbone) if step.parameters))


def parameters(backbone: nn.Module, trained: Collection[str]) -> frozenset[str]:
    """Name the parameters of the trained layers.

    Args:
        backbone: As `layers`.
        trained: From `find`.
    """
    return frozenset(name for step in _steps(backbone) if step.name in trained for name in step.parameters)


def find(backbone: nn.Module, unfreeze: str, *, network: str) -> tuple[str, ...]:
    """Find the layers that are trained: from a layer on, the last N, all or none.

    Args:
        backbone: As `layers`.
        unfreeze: The module where training begins ("features.14", "layer4"; "conv3" in a notation), or Keras' name of a layer or
            block of a VGG ("block5_conv1", "block5"); a number of layers, counted from the last; "all" or "none".
        network: The backbone's name, for Keras' names and for messages.

    Returns:
        Their names in the order in which they run: the last ones of `layers`.

    Raises:
        UsageError: There is no such module, there are fewer layers, or no layer with weights from that module on.
    """
    known = layers(backbone)
    if unfreeze == Unfreeze.NONE:
        return ()
    if not known:
        raise UsageError(
            f"--unfreeze {unfreeze}: the backbone has no layers with weights; --unfreeze none trains the head alone"
        )
    if unfreeze == Unfreeze.ALL:
        return known
    if unfreeze.isdecimal():
        if int(unfreeze) > len(known):
            raise UsageError(
                f"--unfreeze {unfreeze}: the backbone of {network} has {len(known)} layers with weights; give fewer, or all"
            )
        return known[len(known) - int(unfreeze) :]
    steps = list(_steps(backbone))
    start = _start(backbone, steps, unfreeze, network)
    before = {step.name for step in steps[:start]}
    found = tuple(layer for layer in known if layer not in before)
    if not found:
        raise UsageError(
            f"--unfreeze {unfreeze}: the backbone has no weights from there on; --unfreeze none trains the head alone"
        )
    return found


def _start(backbone: nn.Module, steps: Sequence[_Step], name: str, network: str) -> int:
    """Find the first step of a module."""
    ends = backbone.ends if isinstance(backbone, Network) else {}
    if name in ends:
        before = max((end for end in ends.values() if end < ends[name]), default=-1)
        return next(index for index, step in enumerate(steps) if step.place > before)
    keras = subgraph.keras_names(network)
    meant = next((place for place, known in enumerate(keras) if known == name or known.startswith(f"{name}_")), None)
    if meant == 0:
        return 0
    if meant is not None:  # Keras' layer begins after the previous one, and ends with the module of its name
        previous = list(keras.values())[meant - 1]
        return next((index + 1 for index, step in enumerate(steps) if step.name == previous), len(steps))
    for index, step in enumerate(steps):
        if step.name == name or step.name.startswith(f"{name}."):
            return index
    blocks = dict.fromkeys(known.split("_")[0] for known in keras)
    names = [*Unfreeze, *ends, *keras, *blocks, *(known for known, _ in backbone.named_modules() if known)]
    proposal = messages.nearest(name, names) or f"its layers are {_listed(layers(backbone))}"
    raise UsageError(f'--unfreeze {name}: the backbone has no layer "{name}"; {proposal}')


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else ", ".join([*names[:3], "...", *names[-3:]])


def divide(backbone: nn.Module, trained: Sequence[str]) -> DividedBackbone:
    """Split a backbone where training begins, and mark which of its parameters are trained.

    The boundary is the last place before the first trained layer at which only one tensor is passed on, so that no residual
    block is cut through. Layers between the boundary and the first trained one are frozen parts of `upper`.

    Args:
        backbone: As `layers`. Its parameters' `requires_grad` is set, and it ends in eval mode. Move it to its device before.
        trained: From `find`.

    Returns:
        Both parts, in eval mode. Train `upper`, not `backbone`, whose own `train()` ignores what is frozen.
    """
    known, trained = layers(backbone), tuple(trained)
    assert trained == known[len(known) - len(trained) :], "the trained layers are the last ones"
    steps = list(_steps(backbone))
    chosen = parameters(backbone, trained)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in chosen)
    lower: nn.Module = nn.Identity()
    upper, boundary, frozen = backbone, None, []
    if not trained:
        lower, upper, boundary = backbone, nn.Identity(), _end(backbone)
    elif trained != known:
        lower, upper, boundary = (
            _split_chain(backbone, trained) if isinstance(backbone, Network) else _split_graph(backbone, trained)
        )
        frozen = _frozen(steps, trained, set(upper.modules()))
    return DividedBackbone(
        lower=PartlyFrozen(lower, frozen=[lower]).eval(),
        upper=PartlyFrozen(upper, frozen=frozen).eval(),
        boundary=boundary,
        trained=trained,
    )


def _frozen(steps: Sequence[_Step], trained: Sequence[str], among: Set[nn.Module]) -> list[nn.Module]:
    """List the modules that run before the first trained layer and contain no trained one."""
    layers_trained = {step.module for step in steps if step.parameters and step.name in trained}
    first = next(index for index, step in enumerate(steps) if step.parameters and step.name in trained)
    return [
        step.module
        for step in steps[:first]
        if step.module in among and step.module is not None and layers_trained.isdisjoint(step.module.modules())
    ]


def _first(backbone: nn.Module, trained: Sequence[str], *, training: bool = False) -> int:
    """Find the place of the first trained layer."""
    return min(step.place for step in _steps(backbone, training=training) if step.parameters and step.name in trained)


def _end(backbone: nn.Module) -> str:
    """Name the layer that a backbone ends with."""
    if isinstance(backbone, Network):
        return list(backbone.ends)[-1]
    name: str = next(node for node in _graph(backbone, training=False).nodes if node.op == "output").meta["layer"]
    return name


def _split_chain(backbone: Network, trained: Sequence[str]) -> tuple[nn.Module, nn.Module, str | None]:
    before = [layer for layer, end in backbone.ends.items() if end < _first(backbone, trained)]
    if not before:
        return nn.Identity(), backbone, None
    upper = nn.Sequential()
    for index, (name, module) in enumerate(backbone.named_children()):
        if index > backbone.ends[before[-1]]:
            upper.add_module(name, module)
    return backbone.upto(before[-1]), upper, before[-1]


def _split_graph(backbone: nn.Module, trained: Sequence[str]) -> tuple[nn.Module, nn.Module, str | None]:
    places = [
        subgraph.cut_points(_graph(backbone, training=training), _first(backbone, trained, training=training))
        for training in (True, False)
    ]
    both = [name for name in places[1] if name in places[0]]
    if not both:
        return nn.Identity(), backbone, None
    train_node, eval_node = (nodes[both[-1]] for nodes in places)
    upper = subgraph.dual(
        backbone, train=subgraph.extract(train_node, after=True), evaluation=subgraph.extract(eval_node, after=True)
    )
    return fx.GraphModule(backbone, subgraph.extract(eval_node, after=False), "Lower"), upper, both[-1]


def depth_groups(backbone: nn.Module, trained: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Group the trained parameters by depth, so that lower layers can have lower learning rates.

    A group is a block, the module's name up to its first number ("features.17", "conv3"), or up to its second where the first one
    counts stages ("layer4.1", "features.5.3", "block4.block4-0"); a normalization that would be a block of its own belongs to
    the block before it.

    Args:
        backbone: As `layers`.
        trained: From `find`.

    Returns:
        Names of parameters of `backbone`, those of the last block first, which is next to the head.
    """
    groups: dict[str, list[str]] = {}
    norms_only: dict[str, bool] = {}
    modules = dict(backbone.named_modules())
    for step in _steps(backbone):
        if step.parameters and step.name in trained:
            block = _block(modules, step.name)
            known = groups.setdefault(block, [])
            known += [name for name in step.parameters if name not in known]
            norms_only[block] = norms_only.get(block, True) and isinstance(step.module, _NORMS)
    joined: list[list[str]] = []
    for block, names in groups.items():
        if joined and norms_only[block]:
            joined[-1] += names
        else:
            joined.append(names)
    return tuple(tuple(names) for names in reversed(joined))


def _block(modules: Mapping[str, nn.Module], layer: str) -> str:
    """Cut a name after its first number, or after the second where the first one counts stages of numbered blocks."""
    parts = layer.split(".")
    place = next((index for index, part in enumerate(parts) if re.search(r"[0-9]", part)), 0)
    stage = modules.get(".".join(parts[: place + 1]))
    inside = dict(stage.named_children()) if stage is not None else {}
    numbered = re.compile(rf"({re.escape(parts[place])}-)?[0-9]+")  # 3, and block4-3 in block4
    if inside and all(
        numbered.fullmatch(name) and any(True for _ in block.children()) for name, block in inside.items()
    ):
        place += 1
    return ".".join(parts[: place + 1])
