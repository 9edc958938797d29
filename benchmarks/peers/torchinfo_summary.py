"""Print the output shape, the parameters and the operations of a convolution with torchinfo."""

import torch
import torchinfo

print(torchinfo.summary(torch.nn.Conv2d(3, 32, 3, stride=2, padding=1), input_size=(1, 3, 128, 128)))
