"""Boxes as the second target of a training: their loss, and how well they are found."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnkit.nets.classifier import BOX_NUMBERS

#: Differences below this share of the input's side count by their square, larger ones by their size, so that rough boxes at the beginning
#: do not outweigh the others.
BETA = 0.1


@dataclass(frozen=True, slots=True)
class BoxTargets:
    """The targets of a batch: `classes` (N,), and `boxes` (N, 4), (cx, cy, w, h) as shares of the input, NaN where there is none."""

    classes: Tensor
    boxes: Tensor


def divided(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Divide the rows of `ClassesAndBox` into logits and boxes, (N, logits) and (N, 4)."""
    return outputs[:, :-BOX_NUMBERS], outputs[:, -BOX_NUMBERS:]


def count(boxes: Tensor) -> Tensor:
    """Count the rows with a box; a scalar."""
    return _known(boxes).sum()


def total_loss(found: Tensor, boxes: Tensor) -> Tensor:
    """Return the smooth L1 loss of each row, averaged over its four numbers, summed over the rows with a box; a scalar.

    Source: Girshick 2015, Fast R-CNN, eq. 3; torch's smooth_l1_loss.
    """
    known = _known(boxes)
    # Not boxes[known], whose size a GPU would have to report; NaN times 0 is NaN
    wanted = torch.where(known[:, None], boxes, found.detach())
    return nn.functional.smooth_l1_loss(found, wanted, reduction="sum", beta=BETA) / BOX_NUMBERS


def total_iou(found: Tensor, boxes: Tensor) -> Tensor:
    """Return the intersection over union of each row, summed over the rows with a box; a scalar. Negative sides have no area."""
    low, high = (
        torch.maximum(*(each[:, :2] - each[:, 2:] / 2 for each in (found, boxes))),
        torch.minimum(*(each[:, :2] + each[:, 2:] / 2 for each in (found, boxes))),
    )
    common = (high - low).clamp(min=0).prod(1)
    areas = [each[:, 2:].clamp(min=0).prod(1) for each in (found, boxes)]
    shares = common / (areas[0] + areas[1] - common).clamp(min=torch.finfo(found.dtype).tiny)
    return torch.where(_known(boxes), shares, torch.zeros_like(shares)).sum()


def _known(boxes: Tensor) -> Tensor:
    return ~boxes[:, 0].isnan()
