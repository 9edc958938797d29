"""Networks to look into: trained models, and networks by name."""

from pathlib import Path

from cnnkit.choices import Fit
from cnnkit.data import preprocess
from cnnkit.engine import device as devices
from cnnkit.engine import torch_device
from cnnkit.errors import CnnkitError, UsageError
from cnnkit.formats import bundle
from cnnkit.nets import catalogue, layered
from cnnkit.nets.layered import Layered


def network(
    model: str,
    *,
    weights: str = "default",
    size: str | None = None,
    fit: Fit | None = None,
    device: str = "auto",
    seed: int = 0,
) -> tuple[Layered, tuple[str, ...]]:
    """Load a network onto a device.

    Args:
        model: A `.pt`, or a network's name.
        weights: For a name: default, none, or a state_dict file.
        size: Of what it sees, in place of its own: `448` or `320x480`.
        fit: How a picture becomes that.
        device: auto, cpu, cuda or cuda:N.
        seed: For random weights.

    Returns:
        The network and its classes.

    Raises:
        UsageError: There is no such network, or it does not take that size.
        CnnkitError: The model or its weights cannot be had.
    """
    wanted = devices.existing(device)
    if model.endswith(".pt"):
        if weights != "default":
            raise UsageError(f"{model} has its own weights; --weights goes with a network's name")
        content = bundle.load(model)
        place = torch_device.choose(wanted)
        found, classes = layered.of_model(content, name=model)
    else:
        if weights not in ("default", "none") and not Path(weights).is_file():
            raise CnnkitError(f"{weights}: no such file; --weights takes a state_dict file, default or none")
        if Path(model).is_file():
            raise UsageError(
                f"{model} is no .pt of ours; a state_dict goes with a network's name, as --weights {model}"
            )
        name = catalogue.canonical(model)
        place = torch_device.choose(wanted)
        found, classes = layered.of_name(name, weights=weights, seed=seed)
    if size is not None or fit is not None:
        found.resize(preprocess.shown_as(found.preprocess, size=size, fit=fit))
    return found.to(place), classes
