"""Training steps whose rows are divided among cores, against the same steps in one piece."""

import copy

import pytest
import torch
from torch import nn

from cnnkit.choices import Amp, Pool
from cnnkit.engine import torch_device
from cnnkit.formats.header import Preprocess
from cnnkit.nets import build, notation
from cnnkit.nets.classifier import Classifier
from cnnkit.train.mixed_precision import choose_precision
from cnnkit.train.row_parallel import RowParallel

CPU = torch.device("cpu")


def classifier(layers, head="dense 3", *, size=16):
    """A network in training mode, with random weights."""
    torch.manual_seed(0)
    base = build.build(notation.parse(layers), channels=3, height=size, width=size)
    features = base.eval()(torch.zeros(1, 3, size, size)).shape[1:]
    network = Classifier(
        base,
        build.build(notation.parse(head), channels=features[0]),
        preprocess=Preprocess(size=size, resize=size),
        pool=Pool.NONE,
    )
    return network.train()


def images(count=13, size=16):
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def computed(module, inputs, *, cores, amp=Amp.OFF):
    """Return the outputs, the gradients of a loss, and the largest number of rows that a layer got at once."""
    module, rows = copy.deepcopy(module), []
    next(each for each in module.modules() if isinstance(each, nn.Conv2d)).register_forward_hook(
        lambda _module, given, _made: rows.append(len(given[0]))
    )
    precision = choose_precision(amp, CPU)
    with torch_device.threads(cores):
        torch.manual_seed(2)
        output = RowParallel(module, precision)(inputs).float()
    nn.functional.cross_entropy(output, torch.arange(len(inputs)) % 3).backward()
    return output.detach(), [each.grad for each in module.parameters()], rows


@pytest.mark.parametrize(("amp", "tolerance"), [(Amp.OFF, 1e-5), (Amp.BF16, 0.02)])
@pytest.mark.parametrize(("cores", "rows"), [(2, [6, 7]), (3, [4, 4, 5]), (8, [4, 4, 5])])
def test_parts_have_the_gradients_of_the_whole(cores, rows, amp, tolerance):
    """13 rows on 2, 3 and 8 cores, at least 4 rows each."""
    module, inputs = classifier("conv 8 k3 relu, pool 2, conv 8 k3 bn relu, flatten"), images()
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.eval()
    whole, gradients, at_once = computed(module, inputs, cores=1, amp=amp)
    assert at_once == [13]
    parts, found, at_once = computed(module, inputs, cores=cores, amp=amp)
    assert sorted(at_once)[-len(rows) :] == sorted(rows)
    torch.testing.assert_close(parts, whole, rtol=tolerance, atol=tolerance)
    assert all(each is not None for each in gradients)
    for one, other in zip(found, gradients, strict=True):
        assert (one - other).norm() <= 2 * tolerance * other.norm()


def test_same_bits_in_every_run():
    """However the threads take turns."""
    module, inputs = classifier("conv 8 k3 relu, pool 2, conv 8 k3 relu, flatten"), images(32)
    first = computed(module, inputs, cores=4)
    for _ in range(5):
        again = computed(module, inputs, cores=4)
        assert torch.equal(again[0], first[0])
        assert all(map(torch.equal, again[1], first[1]))


def test_dropout_is_drawn_for_the_whole_batch():
    """The stages before it are computed in parts, and its random numbers are those of one piece."""
    module, inputs = classifier("conv 4 k3 relu, flatten, dropout 0.5, dense 8 relu"), images(16)
    whole, parts = (computed(module, inputs, cores=cores) for cores in (1, 2))
    assert max(parts[2]) == 8
    torch.testing.assert_close(parts[0], whole[0])
    for one, other in zip(parts[1], whole[1], strict=True):
        torch.testing.assert_close(one, other)


class Drawing(nn.Module):
    """Draws random numbers, as networks do that call torch's function of dropout."""

    def forward(self, rows):
        """Set half of the values to zero."""
        return nn.functional.dropout(rows, training=self.training)


@pytest.mark.parametrize("change", ["batch norm", "function"])
def test_rows_that_depend_on_each_other_stay_together(change):
    """Batch norm with the statistics of the batch, and functions that draw random numbers."""
    module = classifier("conv 4 k3 bn relu, flatten" if change == "batch norm" else "conv 4 k3 relu, flatten")
    inputs = images(16)
    if change == "function":
        module.base = nn.Sequential(Drawing(), *module.base)
        assert computed(module, inputs, cores=2)[2] == [1, 16]
    else:
        assert max(computed(module, inputs, cores=2)[2]) == 8  # the convolution before
    whole, parts = (computed(module, inputs, cores=cores) for cores in (1, 2))
    torch.testing.assert_close(parts[0], whole[0])
    for one, other in zip(parts[1], whole[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
