"""A whole network as one graph, from images to logits, with access to its layers by name."""

import operator
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from cnnkit import messages
from cnnkit.choices import Pool
from cnnkit.errors import UsageError
from cnnkit.formats import torch_model
from cnnkit.formats.header import Preprocess
from cnnkit.nets import backbones, build, catalogue, classifier, subgraph, token_grid, whitening
from cnnkit.nets.cell_centres import CellCentres, TracedMap
from cnnkit.nets.classifier import Classifier, InputNormalization
from cnnkit.nets.module_centres import CentreTracer
from cnnkit.nets.token_grid import TokenGrid
from cnnkit.nets.whitening import Whitening

# First parts of names after the last map of a network by name. A head by notation is also called "head", and may have maps.
_AFTER = frozenset({"classifier", "fc", "last_linear", "avgpool", "global_pool", "head", "heads"})
#: Elementwise functions, which belong to the layer before them.
_ELEMENTWISE = frozenset(
    {
        *("relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "tanh", "sigmoid", "softplus"),
        *("hardswish", "hardsigmoid", "hardtanh", "softsign", "batch_norm"),
    }
)
_ELEMENTWISE_MODULES = (
    *(getattr(nn, name) for name in nn.modules.activation.__all__ if name != "MultiheadAttention"),
    nn.modules.batchnorm._BatchNorm,  # torch has no public class above its batch norms
)


@dataclass(frozen=True, slots=True)
class GraphLayer:
    """A layer of a network, as a node of its graph.

    Attributes:
        name: Its name for the user.
        node: The node that returns its output.
        shape: Shape of its output for one image: (C, h, w), (D,) or another one.
    """

    name: str
    node: fx.Node
    shape: tuple[int, ...]

    @property
    def is_spatial(self) -> bool:
        """Whether its output is a map."""
        return len(self.shape) == 3


class LayerGraph:
    """A network in eval mode, as one graph.

    Attributes:
        name: Its name, for messages.
        preprocess: Its preprocessing.
        normalise: uint8 or float (N, H, W, 3), 0 to 255 -> (N, C, H, W).
        module: Output of `normalise` -> logits (N, classes), or (N, 1) of a single sigmoid.
        aliases: Other names of layers, such as Keras', with their paths.
        grid: The tokens of a vision transformer, which are maps too: (N, T, D) -> (N, D, rows, columns).
        shapes: Shape of every node's output for one image: (C, h, w), also in networks that keep channels last and of tokens, or (D,).
        predicts_box: Whether it also predicts a box, by a head that is not in the graph.
        multi_label: Whether images have several labels, so that each logit has a sigmoid.
        centres: Centres of the cells of maps in the input of `normalise`, for the nodes where they are known.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        *,
        preprocess: Preprocess,
        name: str,
        aliases: Mapping[str, str],
        after: Set[str] = _AFTER,
        grid: TokenGrid | None = None,
        predicts_box: bool = False,
        multi_label: bool = False,
    ) -> None:
        """Measure a network by passing a black image through it.

        Args:
            module: A graph whose nodes have the `meta` of `subgraph.cut`.
            preprocess: As the attribute.
            name: As the attribute.
            aliases: As the attribute.
            after: First parts of the paths after the last map.
            grid: As the attribute.
            predicts_box: As the attribute.
            multi_label: As the attribute.
        """
        self.module, self.preprocess, self.name, self.aliases = _unfolded(module), preprocess, name, aliases
        self.normalise = InputNormalization(preprocess)
        self._after, self.grid, self.predicts_box, self.multi_label = after, grid, predicts_box, multi_label
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.centres: dict[fx.Node, CellCentres] = {}
        self._measure(preprocess.height, preprocess.width)

    def with_graph(self, module: fx.GraphModule) -> "LayerGraph":
        """Return the network with another graph that has the same names."""
        return LayerGraph(
            module,
            preprocess=self.preprocess,
            name=self.name,
            aliases=self.aliases,
            after=self._after,
            grid=self.grid,
            predicts_box=self.predicts_box,
            multi_label=self.multi_label,
        )

    def to(self, device: torch.device) -> "LayerGraph":
        """Move to a device, in place."""
        self.module.to(device)
        self.normalise.to(device)
        return self

    def resize(self, preprocess: Preprocess) -> None:
        """Use another preprocessing, of another image size.

        Raises:
            UsageError: The network does not take images of that size.
        """
        try:
            self._measure(preprocess.height, preprocess.width)
        except (RuntimeError, AssertionError) as error:
            if whitening.find(self.module) is not None:
                raise UsageError(
                    f"{self.name} whitens its images, and takes only those of {self.preprocess.height}x{self.preprocess.width} pixels; "
                    "drop --size"
                ) from error
            raise UsageError(
                f"{self.name} does not take images of {preprocess.height}x{preprocess.width} pixels "
                f"({str(error).splitlines()[0]}); a network needs global pooling before its head to take images of any size"
            ) from error
        self.preprocess = preprocess

    def _measure(self, height: int, width: int) -> None:
        device = self.normalise.scale.device
        empty = torch.zeros(1, height, width, 3, dtype=torch.uint8, device=device)
        tracer = CentreTracer()
        measuring = _Measuring(self.module, tracer, self.grid)
        with subgraph.mode(self.module, training=False), torch.no_grad():
            images = self.normalise(empty)
            tracer.known[images] = TracedMap()
            with tracer:
                measuring.run(images)
        self.shapes = {
            node: tuple(as_maps(node, torch.empty(shape, device="meta")).shape[1:])
            for node, shape in measuring.shapes.items()
            if "path" in node.meta
        }
        self.centres = {
            node: CellCentres(found.rows, found.columns, (height, width)) for node, found in measuring.traced.items()
        }

    # ---------------------------------------------------------------- layers

    def layer(self, node: fx.Node) -> GraphLayer:
        """Return the layer of a node, with its name for the user."""
        path, name = node.meta["path"], node.meta["layer"]
        known = {meant: alias for alias, meant in self.aliases.items()}
        return GraphLayer(known.get(path, known.get(name, name)), node, self.shapes[node])

    def layers(self) -> list[GraphLayer]:
        """List the layers that output maps, in order: the largest modules, with their activations, without dropout."""
        names = {node.meta["layer"] for node in self.shapes}
        nodes = list(self.shapes)
        # Skip nodes before the first module: some networks rescale their input
        first = next(index for index, node in enumerate(nodes) if node.op == "call_module")
        outer = {
            node: shape
            for node, shape in list(self.shapes.items())[first:]
            if not any(node.meta["layer"].startswith(f"{other}.") for other in names)
        }
        found = []
        for node, shape in outer.items():
            users = list(node.users)
            unfinished = len(users) == 1 and users[0] in outer and self._is_elementwise(users[0])
            repeats = self._repeats(node) or self._is(node, nn.AdaptiveAvgPool2d)
            repeats = repeats or self._is(node, Whitening)
            if len(shape) == 3 and min(shape[1:]) > 1 and self._ends_module(node) and not unfinished and not repeats:
                found.append(self.layer(node))
        return found

    def find(self, wanted: str) -> GraphLayer:
        """Find a layer by its name, or by its number, counted from 0 or (negative) from the end.

        A number beyond the last layer is that of a module in `features`, as torchvision numbers them: 30 is the last pooling of VGG16.

        Raises:
            UsageError: There is no such layer; the message proposes similar names.
        """
        if re.fullmatch("-?[0-9]{1,9}", wanted):
            layers = self.layers()
            if -len(layers) <= int(wanted) < len(layers):
                return layers[int(wanted)]
            numbered = f"{subgraph.NUMBERED}.{wanted}"
            nodes = [node for node in self.shapes if numbered in (node.meta["path"], node.meta["layer"])]
            if nodes:
                return self.layer(nodes[-1])
            raise UsageError(f"{self.name} has {len(layers)} layers with maps, numbered from 0; there is no {wanted}")
        path = self.aliases.get(wanted, wanted)
        nodes = [node for node in self.shapes if node.meta["path"] == path or node.meta["layer"] == path]
        nodes = nodes or [node for node in self.shapes if node.meta["path"].startswith(f"{path}.")]
        if nodes:
            return self.layer(nodes[-1])
        known = [
            *self.aliases,
            *(node.meta["layer"] for node in self.shapes),
            *(node.meta["path"] for node in self.shapes),
        ]
        near = messages.nearest(wanted, dict.fromkeys(known))
        proposal = near or f"it has {', '.join(each.name for each in self.layers())}"
        raise UsageError(f'{self.name} has no layer "{wanted}"; {proposal}')

    def last_spatial(self) -> GraphLayer:
        """Find the last layer with spatial dimensions before the classifier.

        In a vision transformer this is the normalization before the last attention: after it, the classifier may depend on the class
        token alone.

        Raises:
            UsageError: There is none, or later layers turn the map into tokens of unknown positions.
        """
        last, body = self.last_map(), self._body()
        attended = [node for node in body if self._is_attended(node)]
        if attended:
            return self.layer(attended[-1])
        if any(len(self.shapes[node]) == 2 for node in body[body.index(last.node) + 1 :]):
            raise UsageError(
                f"{self.name} turns its map into tokens after {last.name}, and tokens have no position in the image; "
                f"give --layer {last.name} for the last layer with a map"
            )
        return last

    def last_map(self) -> GraphLayer:
        """Find the last layer with spatial dimensions before the classifier, even if tokens follow it.

        Raises:
            UsageError: There is none.
        """
        maps = [
            node
            for node in self._body()
            if len(self.shapes[node]) == 3
            and self._ends_module(node)
            and not self._repeats(node)
            and not self._is(node, Whitening)
        ]
        wide = [node for node in maps if min(self.shapes[node][1:]) > 1]
        if not wide:
            raise UsageError(f"{self.name} has no layer whose output has height and width, so it has no maps")
        return self.layer(wide[-1])

    def _is_attended(self, node: fx.Node) -> bool:
        """Check whether a node returns tokens that are the input of an attention module."""
        if node.meta.get("tokens") is None or not self._ends_module(node) or _is_attention(node):
            return False
        return any(_is_attention(user) for user in node.users)

    def _ends_module(self, node: fx.Node) -> bool:
        """Check that a node is not an operation on tokens outside of any module, such as joining them with the class token."""
        # A module that is traced into gives its name to the last node inside it
        return node.meta.get("tokens") is None or node.op == "call_module" or node.meta["path"] != node.meta["layer"]

    def _body(self) -> list[fx.Node]:
        """List the nodes before the classifier."""
        return [node for node in self.shapes if node.meta["path"].split(".")[0] not in self._after]

    def _is(self, node: fx.Node, *kinds: type[nn.Module]) -> bool:
        return node.op == "call_module" and isinstance(self.module.get_submodule(str(node.target)), kinds)

    def _repeats(self, node: fx.Node) -> bool:
        """Check whether a node returns its input's values: dropout in eval mode, padding, a permutation of axes."""
        repeating = (nn.Dropout, nn.Dropout2d, build.SamePad, nn.ZeroPad2d)
        if node.op == "call_module" and subgraph.is_of_torchvision(
            self.module.get_submodule(str(node.target)), "Permute"
        ):
            return True
        return self._is(node, *repeating) or getattr(node.target, "__name__", "") in ("dropout", "permute")

    def _is_elementwise(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return self._is(node, *_ELEMENTWISE_MODULES)
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        return name in _ELEMENTWISE

    def before_activation(self, layer: GraphLayer) -> list[fx.Node]:
        """Return the input of a layer's activation function, as one node; the layer's own node if it has no such function.

        For a layer that concatenates several outputs along the channels, return a node for each.
        """
        node = layer.node
        parts = node.args[0] if node.args else None
        if getattr(node.target, "__name__", "") in ("cat", "concat") and isinstance(parts, list | tuple):
            axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
            if axis == 1 and all(isinstance(part, fx.Node) for part in parts):
                return [self._before(part) for part in parts if isinstance(part, fx.Node)]
        return [self._before(node)]

    def _before(self, node: fx.Node) -> fx.Node:
        while self._is_elementwise(node) and not self._is_norm(node):
            given = node.args[0] if node.args else None
            if not isinstance(given, fx.Node) or given not in self.shapes:
                break
            node = given
        return node

    def _is_norm(self, node: fx.Node) -> bool:
        return self._is(node, nn.modules.batchnorm._BatchNorm) or getattr(node.target, "__name__", "") == "batch_norm"

    # ---------------------------------------------------------------- parts of the network

    def upto(self, nodes: Sequence[fx.Node], *, keep: bool = False) -> fx.GraphModule:
        """Return the part of the network up to some nodes; it returns a tuple of their outputs, with the nodes' own shapes.

        Args:
            nodes: Nodes of the graph.
            keep: Copy each output at once, since in-place activations change it afterwards.
        """
        every = list(self.module.graph.nodes)
        graph = fx.Graph(tracer_cls=self.module.graph._tracer_cls)
        copies: dict[fx.Node, fx.Node] = {}
        kept: dict[fx.Node, fx.Node] = {}
        for node in every[: 1 + max(map(every.index, nodes))]:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            if keep and node in nodes:
                kept[node] = graph.call_method("clone", (copies[node],))
        graph.output(tuple(kept.get(node, copies[node]) for node in nodes))
        return fx.GraphModule(self.module, graph, "Upto")

    def divide(self, node: fx.Node) -> tuple[fx.GraphModule, fx.GraphModule]:
        """Cut the network in two after any node.

        Returns:
            Images -> a tuple of the node's output and all other tensors that the second part needs; these, as separate
            arguments -> logits.
        """
        nodes = list(self.module.graph.nodes)
        place = nodes.index(node) + 1
        later = set(nodes[place:])
        alive = [
            each for each in nodes[:place] if each is not node and each.op != "get_attr" and later & set(each.users)
        ]
        front = self.upto([node, *alive])
        graph = fx.Graph(tracer_cls=self.module.graph._tracer_cls)
        copies = {each: graph.placeholder(f"given_{index}") for index, each in enumerate([node, *alive])}
        constants = [each for each in nodes[:place] if each.op == "get_attr" and later & set(each.users)]
        for each in [*constants, *nodes[place:]]:
            copies[each] = graph.node_copy(each, copies.__getitem__)
        return front, fx.GraphModule(self.module, graph, "After")


def _is_attention(node: fx.Node) -> bool:
    """Check whether a node is inside an attention module, by the names that torchvision and timm give to these."""
    return any("attn" in part or "attention" in part for part in str(node.meta.get("path", "")).split("."))


def as_maps(node: fx.Node, output: Tensor) -> Tensor:
    """View a node's output as (N, C, h, w) if it consists of tokens or its network keeps channels last; return others unchanged."""
    grid: TokenGrid | None = node.meta.get("tokens")
    if grid is not None and output.ndim == 3:
        return grid.maps(output)
    return output.permute(0, 3, 1, 2) if output.ndim == 4 and node.meta.get("channels_last") else output


def _unfolded(module: fx.GraphModule) -> fx.GraphModule:
    """Expand the blocks that torchvision's graphs run as one node (convolution, norm, activation) into a node for each module."""
    folded = [
        node
        for node in module.graph.nodes
        if node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), nn.Sequential)
    ]
    if not folded:
        return module
    graph = fx.Graph(tracer_cls=module.graph._tracer_cls)
    copies: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node not in folded:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            continue
        (given,) = (copies[each] for each in node.all_input_nodes)
        path = node.meta["path"]
        for name, _ in module.get_submodule(str(node.target)).named_children():
            given = graph.call_module(f"{node.target}.{name}", (given,))
            given.meta = {**node.meta, "path": f"{path}.{name}", "layer": f"{path}.{name}"}
        given.meta["layer"] = node.meta["layer"]  # the end of the block is the block
        copies[node] = given
    return fx.GraphModule(module, graph, "Unfolded")


class _Measuring(fx.Interpreter):
    """Run a graph, and record the shapes of outputs and the centres of maps' cells."""

    def __init__(self, module: fx.GraphModule, tracer: CentreTracer, grid: TokenGrid | None) -> None:
        super().__init__(module)
        self.tracer, self.grid = tracer, grid
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.traced: dict[fx.Node, TracedMap] = {}

    def run_node(self, n: fx.Node) -> object:
        """Run one node."""
        given = [self.env[each] for each in n.all_input_nodes]
        output = super().run_node(n)
        if isinstance(output, Tensor) and n.op not in ("placeholder", "get_attr", "output"):
            self.shapes[n] = tuple(output.shape)
            n.meta["tokens"] = self._tokens(output)
            inputs = [each for each in given if isinstance(each, Tensor)]
            self.tracer.regain(inputs, output, channels_last=n.meta.get("channels_last", False))
            if output in self.tracer.known:
                self.traced[n] = self.tracer.known[output]
            elif self.grid is not None and n.meta["tokens"] is not None:
                found = self.tracer.latest((self.grid.rows, self.grid.columns))  # the map that was cut into tokens
                self.traced |= {} if found is None else {n: found}
        return output

    def _tokens(self, output: Tensor) -> TokenGrid | None:
        """Return the tokens that an output consists of, if it has one for each patch."""
        prefix = self.grid.prefixes.get(output.shape[1]) if self.grid is not None and output.ndim == 3 else None
        return None if self.grid is None or prefix is None else replace(self.grid, prefix=prefix)


# ---------------------------------------------------------------- graphs of models and of networks by name


def of_classifier(network: Classifier, *, name: str) -> LayerGraph:
    """Return a trained model's network as one graph, which shares its modules.

    Args:
        network: The network; its backbone's layers keep their names, those of its head are called head.NAME.
        name: The file, for messages.
    """
    graph = fx.Graph()
    given = graph.placeholder("images")
    aliases: dict[str, str] = {}
    if isinstance(network.base, fx.GraphModule):
        inner = getattr(network.base, "eval_graph", network.base.graph)
        start = next(node for node in inner.nodes if node.op == "placeholder")
        maps = graph.graph_copy(inner, {start: given})
        for node in graph.nodes:
            if node.op in ("call_module", "get_attr"):
                node.target = f"base.{node.target}"
    else:
        maps = _chained(graph, network.base, given, below="base", prefix="", aliases=aliases)
    assert isinstance(maps, fx.Node)
    if network.pool.pool is not Pool.NONE:
        maps = graph.call_module("pool", (maps,))
        maps.meta = {"path": "pool", "layer": "pool"}
    logits = _chained(graph, network.head, maps, below="head", prefix="head.", aliases=aliases)
    graph.output(logits)
    module = fx.GraphModule(network, graph, "Layered")
    return LayerGraph(
        module,
        preprocess=network.preprocess,
        name=name,
        aliases=aliases,
        after=_AFTER - {"head"},
        grid=token_grid.of_cut(network.base),
        predicts_box=network.box is not None,
        multi_label=network.thresholds is not None,
    )


def _chained(
    graph: fx.Graph, chain: nn.Module, given: fx.Node, *, below: str, prefix: str, aliases: dict[str, str]
) -> fx.Node:
    """Append the modules of a network by notation. A layer's name stands for its last module, its activation if it has one."""
    assert isinstance(chain, build.Network)
    modules = [name for name, _ in chain.named_children()]
    aliases.update({f"{prefix}{layer}": f"{prefix}{modules[end]}" for layer, end in chain.ends.items()})
    for name, module in chain.named_children():
        given = _appended(graph, module, given, target=f"{below}.{name}", path=prefix + name, aliases=aliases)
    return given


def _appended(
    graph: fx.Graph, module: nn.Module, given: fx.Node, *, target: str, path: str, aliases: dict[str, str]
) -> fx.Node:
    """Append one module; of a block, each of its modules, and the operation that joins its branches."""
    if isinstance(module, build.Network):  # the rest of a block that the network was cut in
        return _chained(graph, module, given, below=target, prefix=f"{path}.", aliases=aliases)
    if isinstance(module, build.Block):
        outputs = [
            _chained(graph, chain, given, below=target, prefix=f"{path}.", aliases=aliases) for chain in module.chains()
        ]
        if isinstance(module, build.Concat):
            made = graph.call_function(torch.cat, (outputs, 1))
        else:
            made = graph.call_function(operator.add, (outputs[0], outputs[1] if len(outputs) > 1 else given))
    else:
        made = graph.call_module(target, (given,))
    made.meta = {"path": path, "layer": path}
    return made


def of_model(model: torch_model.TorchModel, *, name: str) -> tuple[LayerGraph, tuple[str, ...]]:
    """Return the network of a trained model as a graph.

    Args:
        model: A model file's content.
        name: The file, for messages.

    Returns:
        Its network, and its classes.

    Raises:
        FormatError: Weights and Header do not fit together.
    """
    network = classifier.from_header(model.header, model.state, name=name)
    return of_classifier(network, name=name), tuple(model.header.classes or ())


def of_name(
    name: str, *, weights: str | Path = "default", seed: int = 0, size: int | None = None
) -> tuple[LayerGraph, tuple[str, ...]]:
    """Return a whole network of torchvision or timm as a graph, with its classifier.

    Args:
        name: As for `catalogue.canonical`.
        weights: As for `backbones.pretrained`.
        seed: Seed of random values.
        size: As for `backbones.pretrained`.

    Returns:
        The network, and its classes.

    Raises:
        UsageError: There is no such network, or it does not take images of that size.
        CnnkitError: The weights are not available, or do not fit.
    """
    name = catalogue.canonical(name)
    module, preprocess, _ = backbones.whole(name, weights, seed=seed, size=size)
    preprocess = catalogue.built_for(module, preprocess)
    whole = subgraph.cut(module, subgraph.output_layer(module))
    assert isinstance(whole, fx.GraphModule)
    graph = LayerGraph(
        whole,
        preprocess=preprocess,
        name=name,
        aliases=subgraph.keras_names(name),
        grid=token_grid.of_cut(whole),
    )
    return graph, catalogue.class_names(_outputs(graph), module)


def _outputs(graph: LayerGraph) -> int:
    return list(graph.shapes.values())[-1][0]
