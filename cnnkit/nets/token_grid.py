"""Tokens of vision transformers: one for each patch of the image, in rows from the top left, after a class token and registers."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cnnkit.nets import torchvision_modules

#: The name of the position embedding of a network of torchvision, and of one of timm.
_TORCHVISIONS, _TIMMS = "encoder.pos_embedding", "pos_embed"


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """The tokens of a network.

    Attributes:
        rows: Number of patches along the height of the image.
        columns: Number of patches along its width.
        prefix: Number of tokens before those of the patches: the class token, distillation and register tokens.
        has_class: Whether the first token is a class token.
        positions: Name of the parameter with the position embeddings (1, T, D); None if the network has none, or only rotary ones.
        embedded: Number of tokens before those of the patches that have a position embedding.
    """

    rows: int
    columns: int
    prefix: int
    has_class: bool
    positions: str | None = None
    embedded: int = 0

    @property
    def count(self) -> int:
        """Number of tokens of an image."""
        return self.prefix + self.rows * self.columns

    @property
    def prefixes(self) -> dict[int, int]:
        """How many tokens precede those of the patches, by the number of all tokens: at the end of the network and at its start."""
        return {self.rows * self.columns: 0, self.count: self.prefix}

    def maps(self, tokens: Tensor) -> Tensor:
        """Arrange the tokens of the patches as maps: (N, T, D) -> (N, D, rows, columns), a view."""
        patches = tokens[:, self.prefix :]
        return patches.view(len(tokens), self.rows, self.columns, tokens.shape[2]).permute(0, 3, 1, 2)

    def resampled(self, positions: Tensor) -> Tensor | None:
        """Interpolate the position embeddings of another image size to this grid, as the network's library does.

        Args:
            positions: (1, T, D), of a square grid.

        Returns:
            (1, T, D) for this grid; None if the given ones are not those of a square grid.
        """
        patches = positions.shape[1] - self.embedded if positions.ndim == 3 else 0
        if patches < 1 or math.isqrt(patches) ** 2 != patches or positions.shape[0] != 1:
            return None
        found: Tensor
        if self.positions == _TORCHVISIONS:
            models = torchvision_modules.imported("torchvision.models.vision_transformer")
            state = {_TORCHVISIONS: positions.float()}
            found = models.interpolate_embeddings(self.rows, 1, state)[_TORCHVISIONS]
            return found
        torchvision_modules.imported()  # timm imports it
        from timm.layers import resample_abs_pos_embed

        found = resample_abs_pos_embed(
            positions.float(), new_size=[self.rows, self.columns], num_prefix_tokens=self.embedded
        )
        return found


def of_network(module: nn.Module) -> TokenGrid | None:
    """Return the tokens of a whole network of torchvision or timm; None if it has none in a known order."""
    kind = type(module)
    whole: Any = module  # torchvision ships no types
    library = kind.__module__.partition(".")[0]
    if library == "torchvision" and kind.__name__ == "VisionTransformer":
        side = whole.image_size // whole.patch_size
        return TokenGrid(side, side, prefix=1, has_class=True, positions=_TORCHVISIONS, embedded=1)
    grid = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    prefix = getattr(module, "num_prefix_tokens", None)
    if library != "timm" or grid is None or not isinstance(prefix, int):
        return None
    return TokenGrid(
        int(grid[0]),
        int(grid[1]),
        prefix=prefix,
        has_class=isinstance(getattr(module, "cls_token", None), nn.Parameter),
        positions=_TIMMS if isinstance(getattr(module, _TIMMS, None), nn.Parameter) else None,
        embedded=0 if getattr(module, "no_embed_class", False) else prefix,
    )


def of_cut(backbone: nn.Module) -> TokenGrid | None:
    """Return the tokens of the network that `subgraph.cut` made a backbone from; None if it has none."""
    found = getattr(backbone, "token_grid", None)
    return found if isinstance(found, TokenGrid) else None
