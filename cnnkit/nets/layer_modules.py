"""Modules of the layer notation that torch does not have."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.nets.dims import Windows


class PositionBiasConv2d(nn.Conv2d):
    """A convolution with a bias for every filter and position, (F, h, w), instead of one for every filter.

    Source: Silver et al., "Mastering the game of Go with deep neural networks and tree search", Nature 2016, the policy network's last
        convolution; Lasagne's `untie_biases`.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        *,
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
        size: tuple[int, int],
    ) -> None:
        super().__init__(
            channels, filters, kernel, stride, padding=padding, dilation=dilation, groups=groups, bias=False
        )
        self.bias = nn.Parameter(torch.zeros(filters, *size))

    def forward(self, input: Tensor) -> Tensor:
        """Convolve, and add the biases; maps must have the size that the biases are for."""
        assert self.bias is not None
        made = functional.conv2d(input, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        if made.shape[2:] != self.bias.shape[1:]:
            raise RuntimeError(
                f"biases for {_shown(self.bias.shape[1:])} positions do not fit {_shown(made.shape[2:])}"
            )
        return made + self.bias


class CroppedConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution without the last row or column of its output; torch crops both ends alike, or only the first."""

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        *,
        padding: tuple[int, int],
        output_padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
        bias: bool,
        crop: tuple[int, int],
    ) -> None:
        super().__init__(
            channels,
            filters,
            kernel,
            stride,
            padding=padding,
            output_padding=output_padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.crop = crop

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve, and crop below and to the right."""
        below, right = self.crop
        return functional.pad(super().forward(input, output_size), (0, -right, 0, -below))


class LocallyConnected2d(nn.Module):
    """A convolution whose weights differ from position to position, (N, C, H, W) -> (N, F, h, w).

    Attributes:
        weight: (h * w, C * kernel height * kernel width, F).
        bias: (F, h, w), or None.
        windows: Its windows along height and width.

    Source: Keras' `LocallyConnected2D`.
    """

    bias: Tensor | None

    def __init__(
        self,
        channels: int,
        filters: int,
        windows: Windows,
        *,
        given: tuple[int, int],
        made: tuple[int, int],
        bias: bool,
    ) -> None:
        """Draw weights as torch does for a convolution; biases are zero.

        Args:
            channels: Of the input.
            filters: Channels of the output.
            windows: Along height and width, without dilation.
            given: Height and width of the input, which is the only size that the weights fit.
            made: Height and width of the output.
            bias: Whether each filter and position has a bias.
        """
        super().__init__()
        self.windows, self.given, self.made = windows, given, made
        down, across = windows
        inputs = channels * down.kernel * across.kernel
        self.weight = nn.Parameter(torch.empty(made[0] * made[1], inputs, filters))
        nn.init.uniform_(self.weight, -(inputs**-0.5), inputs**-0.5)
        self.register_parameter("bias", nn.Parameter(torch.zeros(filters, *made)) if bias else None)

    def positions(self) -> Iterator[Tensor]:
        """Yield the weights at every position as those of a convolution, (F, C, kernel height, kernel width); they share memory."""
        down, across = self.windows
        for matrix in self.weight.detach():  # (C * kernel, F)
            yield matrix.T.view(matrix.shape[1], -1, down.kernel, across.kernel)

    def forward(self, maps: Tensor) -> Tensor:
        """Multiply the pixels of every window by its own matrix."""
        if tuple(maps.shape[2:]) != self.given:
            raise RuntimeError(f"weights for {_shown(self.given)} pixels do not fit {_shown(maps.shape[2:])}")
        down, across = self.windows
        rows, columns = self.made
        padded = functional.pad(maps, (*across.pads(self.given[1]), *down.pads(self.given[0])))
        below, right = down.stride * (rows - 1) + 1, across.stride * (columns - 1) + 1
        taps = [
            padded[:, :, y : y + below : down.stride, x : x + right : across.stride]
            for y in range(down.kernel)
            for x in range(across.kernel)
        ]
        patches = torch.stack(taps, 2).flatten(1, 2).flatten(2)  # (N, C * kernel, h * w)
        made = torch.bmm(patches.permute(2, 0, 1), self.weight)  # (h * w, N, F)
        made = made.permute(1, 2, 0).reshape(-1, self.weight.shape[2], rows, columns)
        return made if self.bias is None else made + self.bias


class LocalResponseNorm(nn.Module):
    """Divide every value by (k + alpha / n * the sum of the squares of n neighbouring channels) ** beta.

    The same as torch's module with these constants, with operations that each keep height and width.

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012, section 3.3, with
        their constants; alpha is divided by n as in their program and in torch.
    """

    ALPHA, BETA, K = 1e-4, 0.75, 2.0

    def __init__(self, channels: int) -> None:
        """`channels` is n."""
        super().__init__()
        self.channels = channels

    def forward(self, maps: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        count, many = self.channels, maps.shape[1]
        # Channels further away than the last one are zeros, however many the layer asks for
        before, after = min(count // 2, many - 1), min((count - 1) // 2, many - 1)
        squares = functional.pad(maps * maps, (0, 0, 0, 0, before, after))
        total = squares[:, :many]
        for start in range(1, before + 1 + after):
            total = total + squares[:, start : start + many]
        return maps / (self.K + self.ALPHA / count * total) ** self.BETA


def _shown(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
