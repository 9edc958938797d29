"""Write a network with random weights in both precisions: make_int8.py BACKBONE FLOAT32.onnx INT8.onnx.

The second is quantized by what cnn-export --int8 calls, with ranges of random images.
"""

import sys
from pathlib import Path

import numpy as np

from cnnkit.engine import onnx_backbone
from cnnkit.engine.config import BackboneSpec
from cnnkit.engine.quantize import Quantizer


def main(backbone: str, float32: Path, int8: Path) -> None:
    """Export and quantize."""
    content = onnx_backbone.get(BackboneSpec(backbone=backbone, weights="none")).content
    quantizer = Quantizer(content, name=backbone)
    quantizer.calibrate([np.random.default_rng(1).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)])
    float32.write_bytes(content)
    int8.write_bytes(quantizer.quantized().SerializeToString())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
