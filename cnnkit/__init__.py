"""The library behind the cnn-* commands: convolutional networks on small sets of images."""

__version__ = "0.1.0"
