"""Permute the pixels of all images of an idx file in the same way: permute.py INPUT-images-idx3-ubyte.gz OUTPUT-images-idx3-ubyte."""

import gzip
import sys

import numpy as np

source, target = sys.argv[1:]
with gzip.open(source) as file:
    header, pixels = file.read(16), np.frombuffer(file.read(), np.uint8)
count, height, width = np.frombuffer(header, ">u4")[1:]
order = np.random.default_rng(0).permutation(height * width)
with open(target, "wb") as file:
    file.write(header + pixels.reshape(count, height * width)[:, order].tobytes())
