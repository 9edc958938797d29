"""The library behind the cnn-* commands: convolutional networks on small sets of images."""

import os

__version__ = "0.1.0"

# onnxruntime uploads usage data and writes a device's id below the home directory, unless this stands in the environment before it is
# imported, here or in a child process. Whoever wants that sets ORT_DISABLE_TELEMETRY=0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the same for timm's downloads
