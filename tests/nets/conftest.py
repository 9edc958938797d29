"""What the tests of networks share."""

import pytest
import torch


@pytest.fixture
def hooked():
    """What a module of a whole network answers, seen by a hook: `hooked(module, layer, given)`."""

    def answer(module, layer, given):
        seen = []
        handle = module.get_submodule(layer).register_forward_hook(
            lambda _module, _given, made: seen.append(made.clone())
        )
        with torch.no_grad():
            module(given)
        handle.remove()
        return seen[-1]

    return answer
