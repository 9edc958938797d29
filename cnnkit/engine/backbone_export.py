"""Export of a backbone to ONNX, with a comparison of both."""

import numpy as np
import torch
from torch import nn

from cnnkit.engine import device_errors, export
from cnnkit.engine.session import Session
from cnnkit.errors import CnnkitError
from cnnkit.formats.header import Header

#: The largest allowed difference between ONNX Runtime and torch, as a share of the largest feature.
TOLERANCE = 1e-3


def export_backbone(module: nn.Module, header: Header) -> bytes:
    """Export a backbone to ONNX, and compare ONNX Runtime with torch on random images.

    Raises:
        CnnkitError: torch cannot export it, or ONNX Runtime computes something else.
    """
    assert header.preprocess is not None
    shape = (header.preprocess.size, header.preprocess.size, 3)
    example = torch.from_numpy(export.random_inputs(shape, np.dtype(np.uint8), batch=2))
    try:
        proto = export.to_onnx(module, example, inputs="images", outputs=["features"])
    except RuntimeError as error:
        if device_errors.is_out_of_memory(error):
            raise
        raise CnnkitError(
            f"torch cannot export this backbone to ONNX ({str(error).splitlines()[0]}); use --engine torch"
        ) from error
    content = export.checked_bytes(proto, header)
    session = Session(content, device="cpu", name="the exported backbone")
    for batch in (1, 2):
        inputs = export.random_inputs(shape, np.dtype(np.uint8), batch=batch, seed=1)
        parity = export.compare(module, session, iter([inputs]), source="random", classes=False)
        with torch.no_grad():
            scale = max(float(module(torch.from_numpy(inputs)).abs().max()), 1e-6)
        if not parity.max_difference <= TOLERANCE * scale:
            raise CnnkitError(
                f"ONNX Runtime and torch differ by {parity.max_difference:.3g} on features up to {scale:.3g}; use --engine torch"
            )
    return content
