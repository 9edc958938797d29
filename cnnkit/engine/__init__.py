"""Running networks: devices, export to ONNX, sessions, and the loop that feeds them with images."""
