"""Networks: layer notation, dimensions, torch modules, backbones and ONNX graphs."""
