"""Features of several layers of a backbone in one forward pass."""

from typing import Any

import torch
from torch import Tensor, fx

from cnnkit.choices import Pool
from cnnkit.errors import UsageError
from cnnkit.nets import layer_graph, subgraph, token_grid
from cnnkit.nets.classifier import Extractor, Pooling

# Depth of the earlier layers, as shares of the backbone's depth: near the end, and in the middle.
_EARLIER = (0.85, 0.5)
_ABOUT = 0.06


class MultiLayerExtractor:
    """Compute a backbone's features at the last layer and at some earlier ones in one pass."""

    def __init__(self, extractor: Extractor, *, size: int) -> None:
        assert isinstance(extractor.base, fx.GraphModule)
        self.module = extractor
        graph = extractor.base.graph
        nodes = list(graph.nodes)
        self._interpreter = _Interpreter(extractor.base)
        self._interpreter.wanted = dict(subgraph.cut_points(graph, len(nodes) - 1))
        vectors = [
            name for name, output in self._outputs(torch.zeros(1, size, size, 3, dtype=torch.uint8)) if output.ndim == 2
        ]
        depth = {name: nodes.index(self._interpreter.wanted[name]) / len(nodes) for name in vectors}
        last = max(depth, key=depth.__getitem__)
        before = {name: share for name, share in depth.items() if name != last}
        if not before:
            raise UsageError("this backbone has no earlier layers to compare with the last one")
        #: The last layer first.
        self.names = [last, *dict.fromkeys(nearest_layer(before, share) for share in _EARLIER)]
        self._interpreter.wanted = {name: self._interpreter.wanted[name] for name in self.names}

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the features of uint8 images (N, H, W, 3) at each of `names`, (N, D)."""
        outputs = dict(self._outputs(images))
        return [outputs[name] for name in self.names]

    def _outputs(self, images: Tensor) -> list[tuple[str, Tensor]]:
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            self._interpreter.seen = {}
            self._interpreter.run(self.module.normalise(images))
            return list(self._interpreter.seen.items())


class _Interpreter(fx.Interpreter):
    """Run a graph and keep the outputs of some of its nodes, averaged as by `cnn-extract --layer`."""

    wanted: dict[str, fx.Node]
    seen: dict[str, Tensor]

    def __init__(self, backbone: fx.GraphModule) -> None:
        super().__init__(backbone)
        self._pooling = Pooling(Pool.AVG, token_grid.of_cut(backbone))

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - the node's output
        """Run one node."""
        output = super().run_node(n)
        if any(n is node for node in self.wanted.values()):
            self.seen[n.meta["layer"]] = self._pooling(layer_graph.as_maps(n, output))
        return output


def nearest_layer(depth: dict[str, float], share: float) -> str:
    """Return the layer nearest to a share of the depth; of those about equally near, the end of the largest module."""
    away = {name: abs(place - share) for name, place in depth.items()}
    return min(away, key=lambda name: (int(away[name] / _ABOUT), name.count("."), away[name]))
