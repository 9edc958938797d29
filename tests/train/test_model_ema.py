"""The moving average of weights, against the recurrence, and the module's weights within and after its context."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cnnkit.train.optim import ModelEma


def changing(module, count):
    """Change the weights and the counters, and yield the weights each time."""
    for step in range(count):
        with torch.no_grad():
            module[0].weight += step + 1
            module[1].running_mean += 2.0
            module[1].num_batches_tracked += 1
        yield module[0].weight.detach().clone()


def test_the_average_follows_the_recurrence():
    """The decay grows from 2/11 to the given one; statistics are averaged too, counters are copied."""
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = ModelEma(module, 0.3)
    expected, mean = module[0].weight.detach().clone(), torch.zeros(2)
    for step, weight in enumerate(changing(module, 6), start=1):
        average.update()
        decay = [2 / 11, 3 / 12, 0.3, 0.3, 0.3, 0.3][step - 1]
        expected = decay * expected + (1 - decay) * weight
        mean = decay * mean + (1 - decay) * 2.0 * step
    torch.testing.assert_close(average.values["0.weight"], expected)
    torch.testing.assert_close(average.values["1.running_mean"], mean)
    assert average.values["1.num_batches_tracked"] == 6


def test_in_place_restores_the_modules_weights():
    """Also after an exception."""
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = ModelEma(module, 0.9)
    *_, own = changing(module, 3)
    average.update()
    values = average.values["0.weight"].clone()
    assert not torch.equal(values, own)
    with average.in_place():
        assert torch.equal(module[0].weight, values)
    assert torch.equal(module[0].weight, own)
    with pytest.raises(RuntimeError, match=r"size mismatch|shapes"), average.in_place():
        module(torch.zeros(1, 3))
    assert torch.equal(module[0].weight, own)


def test_restored_average_continues_as_before():
    """Steps and values are restored: the next update gives the same."""
    modules = [nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    one, other = (ModelEma(module, 0.9) for module in modules)
    for _ in changing(modules[0], 3):
        one.update()
    other.restore(**one.state())
    modules[1].load_state_dict(modules[0].state_dict())
    for module, average in zip(modules, (one, other), strict=True):
        for _ in changing(module, 1):
            average.update()
    assert all(torch.equal(one.values[name], other.values[name]) for name in one.values)


class Calls(TorchDispatchMode):
    """Records operators."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        self.names.append(function._overloadpacket._qualified_op_name)
        return function(*args, **(kwargs or {}))


def test_all_tensors_are_averaged_at_once():
    """One operator for all of them, without reading values, which a device without values would detect."""
    module = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(5)))
    for each in (module, copy.deepcopy(module).to("meta")):
        average = ModelEma(each, 0.9)
        with Calls() as calls:
            average.update()
        assert calls.names.count("aten::_foreach_lerp_") == 1
        assert "aten::lerp_" not in calls.names
