"""The library of the cnn-* commands: convolutional networks for small sets of images."""

import os

__version__ = "0.1.0"

# onnxruntime uploads usage data and writes a device id below the home directory, unless this variable is set before it is imported, here
# or in a child process. ORT_DISABLE_TELEMETRY=0 allows that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the same for timm's downloads
