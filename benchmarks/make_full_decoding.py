"""Write an ONNX model of cnn-export with a header that says that images are decoded completely: make_full_decoding.py MODEL OUTPUT."""

import sys
from dataclasses import replace
from pathlib import Path

from cnnkit.choices import Decoding
from cnnkit.formats import onnx_model


def main(source: Path, output: Path) -> None:
    """Read, change the header, write."""
    model = onnx_model.load(source)
    if model.header is None or model.header.preprocess is None:
        raise SystemExit(f"{source}: has no header of cnnkit, or takes features")
    header = model.header.but(preprocess=replace(model.header.preprocess, decoding=Decoding.FULL))
    onnx_model.save(output, onnx_model.finished(onnx_model.parse(model.content, name=source.name), header))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
