"""Training steps whose rows are divided among cores, against the same steps in one piece."""

import copy
import gc
import threading
import time
import weakref

import pytest
import torch
from torch import nn

from cnnkit.choices import Amp, Pool
from cnnkit.engine import torch_device
from cnnkit.formats.header import Preprocess
from cnnkit.nets import build, notation
from cnnkit.nets.classifier import Classifier
from cnnkit.train.finetune import TrainablePart
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
        assert computed(module, inputs, cores=2)[2] == [16]
    else:
        assert max(computed(module, inputs, cores=2)[2]) == 8  # the convolution before
    whole, parts = (computed(module, inputs, cores=cores) for cores in (1, 2))
    torch.testing.assert_close(parts[0], whole[0])
    for one, other in zip(parts[1], whole[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Chain(nn.Module):
    """Stages of the test's own."""

    def __init__(self, *stages):
        super().__init__()
        self.chain = nn.ModuleList(stages)
        self.called = list(stages)  # with repetitions

    def stages(self):
        """Return the modules that `forward` calls."""
        return self.called

    def forward(self, rows):
        """Call them."""
        for stage in self.called:
            rows = stage(rows)
        return rows


class Sums(nn.Module):
    """x * (a + b) + c: the gradients of a and b are one tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor([[each, 0.1]])) for each in (0.5, -1.0, 2.0))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, rows):
        """Compute."""
        return rows * (self.a + self.b) + self.c


def step(module, inputs, cores):
    """Return the gradients of the sum of squares of the outputs."""
    module.zero_grad()
    with torch_device.threads(cores):
        RowParallel(module, choose_precision(Amp.OFF, CPU))(inputs).square().sum().backward()
    return {name: each.grad for name, each in module.named_parameters()}


def rows(count, *shape):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("cores", [2, 4])
def test_gradients_that_share_a_tensor(cores):
    """Of parameters that are added, and a parameter that is not used."""
    module, inputs = Chain(Sums()), rows(16, 2)
    whole, parts = step(module, inputs, 1), step(module, inputs, cores)
    assert whole.pop("chain.0.unused") is parts.pop("chain.0.unused") is None
    torch.testing.assert_close(parts, whole)
    assert len({each.data_ptr() for each in parts.values()}) == len(parts)


def test_stages_that_share_parameters():
    """One module that is two stages, and two modules with the same weights; by hand: d(3x)²/dw of y = w·w·x + w·b + b."""
    twice = nn.Linear(1, 1)
    nn.init.constant_(twice.weight, 1.0)
    nn.init.zeros_(twice.bias)
    module = Chain(twice)
    module.called = [twice, twice]
    found = step(module, torch.ones(8, 1), 2)  # y = 1; dy/db = 2, dy/dw = 2, loss 8 y²
    assert found["chain.0.bias"].item() == found["chain.0.weight"].item() == 32.0
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight = one.weight
    module, inputs = Chain(one, nn.ReLU(), other), rows(16, 4)
    torch.testing.assert_close(step(module, inputs, 2), step(module, inputs, 1))


class Failing(nn.Module):
    """Raises an exception for one row, forwards or backwards, and counts the calls that are running."""

    def __init__(self, *, backwards):
        super().__init__()
        self.weight, self.backwards, self.running = nn.Parameter(torch.ones(2)), backwards, 0

    def forward(self, rows):
        """Compute, slowly unless it fails."""
        made = rows * self.weight
        if self.backwards and made.requires_grad:
            made.register_hook(lambda gradient: self.check(rows, gradient))
            return made
        return self.check(rows, made)

    def check(self, rows, given):
        """Raise an exception if the row is among the rows."""
        if rows.max() == 99:
            raise ValueError("row 99")
        self.running += 1
        time.sleep(0.05)
        self.running -= 1
        return given


@pytest.mark.parametrize("backwards", [False, True])
def test_exception_in_a_part(backwards):
    """It reaches the caller when no part is running any more; the next batch is computed, and the threads end with the object."""
    stage, before = Failing(backwards=backwards), set(threading.enumerate())
    module, good = Chain(stage), torch.ones(16, 2)
    bad = good.clone()
    bad[3] = 99
    with torch_device.threads(4):
        parallel = RowParallel(module, choose_precision(Amp.OFF, CPU))
        parallel(good).sum().backward()
        with pytest.raises(ValueError, match="row 99"):
            parallel(bad).sum().backward()
        assert stage.running == 0
        module.zero_grad()
        parallel(good).sum().backward()
    assert stage.weight.grad.tolist() == [16.0, 16.0]
    made = set(threading.enumerate()) - before
    assert len(made) == 4
    del parallel
    gc.collect()
    for each in made:
        each.join(5)
        assert not each.is_alive()


def test_gradients_are_freed_when_they_are_added(monkeypatch):
    """The last part sees those of all parts before it gone, except for their one sum."""
    alive, last, real = [], threading.Event(), torch.autograd.grad

    def grad(output, *rest, **options):
        if output.flatten()[0] == 7:
            until = time.monotonic() + 5
            while (len(alive) < 7 or any(each() is not None for each in alive)) and time.monotonic() < until:
                time.sleep(0.001)
            last.set()
            assert [each() is None for each in alive] == [True] * 7
        found = real(output, *rest, **options)
        alive.append(weakref.ref(found[0]))
        return found

    module = Chain(nn.Linear(1, 1, bias=False))
    nn.init.ones_(module.chain[0].weight)
    monkeypatch.setattr(torch.autograd, "grad", grad)
    inputs = torch.arange(8.0).repeat_interleave(4)[:, None]  # the number of the part
    assert step(module, inputs, 8)["chain.0.weight"].item() == 2 * inputs.square().sum()
    assert last.is_set()


def rows_at_once(stage, module, inputs, cores=2):
    """Return the numbers of rows that a stage got in a step, without the trial's one."""
    seen = []
    hook = stage.register_forward_hook(lambda _module, given, _made: seen.append(len(given[0])))
    step(module, inputs, cores)
    hook.remove()
    return sorted(seen)[-cores:]


def spectral(_channels):
    return nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3))


def old_spectral(_channels):
    return nn.utils.spectral_norm(nn.Conv2d(4, 4, 3))


def old_weight(_channels):
    """The norm keeps no buffer, but each call replaces the weight."""
    return nn.utils.weight_norm(nn.Conv2d(4, 4, 3))


def running(channels):
    return nn.InstanceNorm2d(channels, affine=True, track_running_stats=True)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("make", [running, spectral, old_spectral, old_weight])
def test_stages_that_write_buffers_stay_together(make):
    """Each step writes them once, as without cores, and the trial leaves no trace; the stages before are computed in parts."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3)
    module, inputs = Chain(first, make(4), nn.ReLU()).train(), rows(16, 3, 8, 8)
    other = copy.deepcopy(module) if make is not old_weight else None
    assert rows_at_once(module.chain[1], module, inputs)[-1] == 16
    if other is not None:
        step(other, inputs, 1)
        torch.testing.assert_close(module.state_dict(), other.state_dict())
    assert rows_at_once(first, module, inputs) == [8, 8]


def test_stages_that_only_read_buffers_are_computed_in_parts():
    """Instance norm without running statistics, batch norm with fixed ones, spectral norm in eval mode."""
    stages = [nn.InstanceNorm2d(4, affine=True), nn.BatchNorm2d(4).eval(), spectral(4).eval()]
    module, inputs = Chain(nn.Conv2d(3, 4, 3), *stages), rows(16, 3, 8, 8)
    assert rows_at_once(stages[-1], module, inputs) == [8, 8]
    torch.testing.assert_close(step(module, inputs, 2), step(module, inputs, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("units", "in_parts"), [(11, True), (12, False)])
def test_gradients_of_a_part_take_no_more_than_the_outputs_of_its_rows(monkeypatch, units, in_parts):
    """four rows have 4 (3·288 + units) outputs, with those of ReLU and Flatten; there are 3·8·9 + 8 + units (288 + 1) parameters."""
    values, real = [], torch.autograd.grad

    def grad(output, parameters, *rest, **options):
        values.append(sum(each.numel() for each in parameters))
        return real(output, parameters, *rest, **options)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    dense = nn.Linear(288, units)
    module, inputs = Chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), dense), rows(16, 3, 8, 8)
    assert rows_at_once(dense, module, inputs)[-1] == (8 if in_parts else 16)
    assert values == [224 + 289 * units * in_parts] * 2
    assert max(values) <= 4 * (3 * 288 + units)
    torch.testing.assert_close(step(module, inputs, 2), step(module, inputs, 1))


@pytest.mark.parametrize("from_images", [True, False])
def test_trained_part_of_a_network(from_images):
    """Batch norms with fixed statistics of the backbone are computed in parts, up to the one of the head."""
    whole = classifier("conv 4 k3 relu, pool 2, conv 8 k3 bn relu, flatten", "dense 8 bn relu, dense 3")
    frozen = 0 if from_images else 2
    part = TrainablePart(
        nn.Sequential(*list(whole.base)[frozen:]), whole, from_images=from_images, freeze_bn=True
    ).train()
    inputs = images(16) if from_images else rows(16, 4, 14, 14)
    first, after = (
        next(each for each in part.modules() if isinstance(each, kind)) for kind in (nn.Conv2d, nn.BatchNorm1d)
    )
    assert rows_at_once(first, part, inputs) == [8, 8]
    assert rows_at_once(after, part, inputs)[-1] == 16
    torch.testing.assert_close(step(part, inputs, 2), step(part, inputs, 1), rtol=1e-4, atol=1e-4)
    through = inputs
    for stage in part.stages():
        through = stage(through)
    assert torch.equal(through, part(inputs))
