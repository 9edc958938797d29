"""Loss and IoU of boxes, against torch's and torchvision's."""

import pytest
import torch
from torchvision.ops import box_convert, box_iou

from cnnkit.train import boxes
from cnnkit.train.boxes import BETA, BoxTargets
from cnnkit.train.loop import TrainStep, measured_on
from cnnkit.train.optim import Criterion


@pytest.fixture
def pair():
    """Return predicted and true boxes, three without a true one."""
    generator = torch.Generator().manual_seed(0)
    found, wanted = (torch.rand(12, 4, generator=generator) * 0.4 + 0.3 for _ in range(2))
    wanted[[1, 5, 11]] = torch.nan
    return found, wanted


def test_loss_is_torchs_over_the_rows_with_a_box(pair):
    found, wanted = pair
    found.requires_grad_()
    known = ~wanted[:, 0].isnan()
    mine = boxes.total_loss(found, wanted) / boxes.count(wanted)
    (gradient,) = torch.autograd.grad(mine, found)
    theirs = torch.nn.functional.smooth_l1_loss(found[known], wanted[known], beta=BETA)
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert torch.allclose(gradient, torch.autograd.grad(theirs, found)[0])
    assert not gradient[~known].any()


def test_iou_is_torchvisions(pair):
    found, wanted = pair
    known = ~wanted[:, 0].isnan()
    corners = (box_convert(each[known], "cxcywh", "xyxy") for each in (found, wanted))
    assert boxes.total_iou(found, wanted).item() == pytest.approx(box_iou(*corners).diagonal().sum().item(), rel=1e-5)


def test_a_box_with_negative_sides_has_no_iou():
    found, wanted = torch.tensor([[0.5, 0.5, -0.2, 0.2]]), torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    assert boxes.total_iou(found, wanted).item() == 0


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_step_adds_both_losses(pieces):
    """Gradients and measures are those of the sum by torch, also for a batch in pieces."""
    generator = torch.Generator().manual_seed(1)
    inputs, classes = torch.randn(12, 6, generator=generator), torch.randint(0, 3, (12,), generator=generator)
    wanted = torch.rand(12, 4, generator=generator)
    wanted[2:6] = torch.nan
    torch.manual_seed(0)
    module = torch.nn.Linear(6, 3 + 4)
    outputs = module(inputs)
    known = ~wanted[:, 0].isnan()
    loss = torch.nn.functional.cross_entropy(outputs[:, :3], classes) + 7 * torch.nn.functional.smooth_l1_loss(
        outputs[:, 3:][known], wanted[known], beta=BETA
    )
    (gradient,) = torch.autograd.grad(loss, module.weight)
    before = module.weight.detach().clone()
    validated = measured_on(module, [(inputs, BoxTargets(classes, wanted))], Criterion(box=7.0))
    assert validated.loss == pytest.approx(loss.item(), rel=1e-5)
    step = TrainStep(module, Criterion(box=7.0), torch.optim.SGD(module.parameters(), lr=1.0))
    step.pieces = pieces
    measures = step(inputs, BoxTargets(classes, wanted))
    assert (measures[0] / measures[2]).item() == pytest.approx(loss.item(), rel=1e-5)
    assert measures[1].item() == (outputs[:, :3].argmax(1) == classes).sum().item()
    assert torch.allclose(before - module.weight, gradient, atol=1e-6)


def test_without_any_box_the_class_alone_is_trained():
    module = torch.nn.Linear(6, 7)
    targets = BoxTargets(torch.zeros(4, dtype=torch.long), torch.full((4, 4), torch.nan))
    step = TrainStep(module, Criterion(box=7.0), torch.optim.SGD(module.parameters(), lr=1.0))
    before = module.weight.detach().clone()
    step(torch.ones(4, 6), targets)
    assert torch.equal(before[3:], module.weight[3:])
    assert not torch.equal(before[:3], module.weight[:3])
    assert measured_on(module, [(torch.ones(4, 6), targets)], Criterion(box=7.0)).iou is None
