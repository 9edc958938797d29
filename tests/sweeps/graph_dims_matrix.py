"""Compare the counts of cnn-dims for ONNX files with torch's, for torchvision's networks, number formats, optimizers and opsets.

    .venv/bin/python tests/sweeps/graph_dims_matrix.py [NETWORK ...]

Every network has random weights, and only ten classes. Prints one line for each file that differs, then the counts. A file passes if
parameters and multiply-accumulates are torch's; where the exporter or the optimizer folded batch norms into convolutions, there must be
at least as many parameters as after folding by torch.fx.
"""

import contextlib
import copy
import io
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch.fx.experimental.optimization import fuse
from torch.utils.flop_counter import FlopCounterMode

from cnnkit.errors import CnnkitError
from cnnkit.nets import dims, graph_dims

NETWORKS = (
    *("alexnet", "vgg11", "vgg11_bn", "squeezenet1_0", "squeezenet1_1", "resnet18", "resnet50", "resnext50_32x4d"),
    *("wide_resnet50_2", "densenet121", "googlenet", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("mnasnet0_5", "shufflenet_v2_x0_5", "regnet_y_400mf", "regnet_x_400mf", "efficientnet_b0", "efficientnet_v2_s"),
    *("convnext_tiny", "vit_b_32", "swin_t", "inception_v3"),
)
LEGACY, NEW = (9, 11, 13, 15, 17, 20), (18, 21, 23, 24)
LEVELS = ("ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


class Images(CalibrationDataReader):
    """Two images of noise."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self._left = [{name: np.random.default_rng(seed).random(shape, np.float32)} for seed in range(2)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next image."""
        return self._left.pop() if self._left else None


def network(name: str) -> torch.nn.Module:
    """Make a network with ten classes and random weights, all different."""
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    made = torchvision.models.get_model(name, weights=None, num_classes=10, **extra).eval()
    made.aux_logits = False
    for head in ("aux1", "aux2", "AuxLogits"):
        if hasattr(made, head):
            setattr(made, head, None)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in made.parameters():
            value.copy_(torch.rand(value.shape, generator=generator) * 0.1 + 0.01)
    return made


def counted(made: torch.nn.Module, images: torch.Tensor) -> tuple[int, int, int]:
    """Return torch's counts: parameters, multiply-accumulates, and parameters with batch norms folded into convolutions."""
    torch.backends.mha.set_fastpath_enabled(False)
    meta = network_on_meta(made)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        meta(images.to("meta"))
    sizes = [sum(value.numel() for value in each.parameters()) for each in (made, fuse(made))]
    return sizes[0], counter.get_total_flops() // 2, sizes[1]


def network_on_meta(made: torch.nn.Module) -> torch.nn.Module:
    """Copy a network to the meta device, where attention is not fused."""
    return copy.deepcopy(made).to("meta")


def exports(made: torch.nn.Module, images: torch.Tensor, folder: Path) -> Iterator[tuple[str, Path]]:
    """Export a network at every opset with both exporters."""
    for opset in LEGACY:
        path = folder / f"legacy{opset}.onnx"
        with contextlib.suppress(Exception):  # opsets that lack an operator of the network
            torch.onnx.export(made, (images,), str(path), opset_version=opset, dynamo=False, input_names=["x"])
            yield f"legacy {opset}", path
    path = folder / "kept.onnx"
    with contextlib.suppress(Exception):
        torch.onnx.export(
            made, (images,), str(path), opset_version=17, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE
        )
        yield "legacy 17, norms kept", path
    path = folder / "new18.onnx"
    torch.onnx.export(made, (images,), str(path), opset_version=18, dynamo=True, external_data=False, verbose=False)
    yield "new 18", path
    for opset in NEW[1:]:
        other = folder / f"new{opset}.onnx"
        with contextlib.suppress(Exception):
            onnx.save(version_converter.convert_version(onnx.load(path), opset), other)
            yield f"new 18 converted to {opset}", other


def forms(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield a file in every number format and at every level of ONNX Runtime's optimizer."""
    yield "float32", path
    for level in LEVELS:
        yield f"float32 {level}", optimized(path, level)
    half = path.with_name(f"{path.stem}-float16.onnx")
    onnx.save(convert_float_to_float16(onnx.load(path)), half)
    yield "float16", half
    value = onnx.load(path).graph.input[0]
    shape = tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
    for form in (QuantFormat.QDQ, QuantFormat.QOperator):
        made = path.with_name(f"{path.stem}-{form.name}.onnx")
        quantize_static(str(path), str(made), Images(value.name, shape), quant_format=form)
        yield f"int8 {form.name}", made
        for level in LEVELS:
            yield f"int8 {form.name} {level}", optimized(made, level)
    made = path.with_name(f"{path.stem}-dynamic.onnx")
    quantize_dynamic(str(path), str(made))
    yield "int8 dynamic", made


def optimized(path: Path, level: str) -> Path:
    """Save the graph that ONNX Runtime's optimizer makes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 4
    made = path.with_name(f"{path.stem}-{level}.onnx")
    options.optimized_model_filepath = str(made)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return made


def files(made: torch.nn.Module, images: torch.Tensor, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield all files: each opset as exported, and opset 13 or a similar one in all forms."""
    done = False
    for name, path in exports(made, images, folder):
        if name in ("legacy 13", "new 18") or (name == "legacy 17" and not done):
            done = True
            found = forms(path)
            while True:
                try:
                    form, file = next(found)
                except StopIteration:
                    break
                except Exception as error:  # the quantizer or the optimizer failed
                    print(
                        f"  not made after {name}: {str(error).splitlines()[0][:100]}", file=sys.__stdout__, flush=True
                    )
                    break
                yield f"{name}, {form}", file
        else:
            yield name, path


def main(names: list[str]) -> int:
    """Measure all files, and print the differences."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    counts: Counter[str] = Counter()
    started = time.monotonic()
    for name in names or NETWORKS:
        size = 299 if name == "inception_v3" else 224
        images = torch.zeros(1, 3, size, size)
        made = network(name)
        params, macs, fused = counted(made, images)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            for form, path in files(made, images, Path(folder)):
                counts["tried"] += 1
                try:
                    total = dims.total(graph_dims.measure_graph(str(path)))
                except CnnkitError as error:
                    counts["refused"] += 1
                    print(f"{name}, {form}: {error}"[:300], file=sys.__stdout__, flush=True)
                    continue
                if total.macs == macs and fused <= total.params <= params:
                    counts["equal" if total.params == params else "equal, norms folded"] += 1
                else:
                    counts["different"] += 1
                    found = f"params {total.params}, torch {params}; macs {total.macs}, torch {macs}"
                    print(f"{name}, {form}: {found}", file=sys.__stdout__, flush=True)
        print(f"{name}: {dict(counts)}, {time.monotonic() - started:.0f} s", flush=True)
    return 1 if counts["different"] or counts["refused"] else 0


if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.exit(main(sys.argv[1:]))
