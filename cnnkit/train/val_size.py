"""Validation at another size than training, which becomes the size of the finished model: `--val-size`.

Random crops enlarge objects in training images, so a network recognizes the same objects better in test images that are larger.

Source: Touvron et al. 2019, Fixing the train-test resolution discrepancy.
"""

import torch

from cnnkit.data import preprocessing
from cnnkit.engine import device_errors
from cnnkit.errors import UsageError
from cnnkit.formats.header import Header, Preprocess
from cnnkit.nets import token_grid, whitening
from cnnkit.nets.classifier import Classifier
from cnnkit.train.config import ImageTrainConfig

#: A size to try, relative to that of training: 280 for 224.
_LARGER = 1.25


def preprocess(train: Preprocess, config: ImageTrainConfig) -> Preprocess:
    """Return the preprocessing of validation images: that of training, at --val-size."""
    return train if config.val_size is None else preprocessing.with_size(train, size=config.val_size)


def check(whole: Classifier, config: ImageTrainConfig) -> None:
    """Check that a network takes images of the validation size, by passing a black one through it.

    Args:
        whole: The network, on the CPU; it is left in eval mode.
        config: With --val-size, or nothing is done.

    Raises:
        UsageError: --val-size is the training size, or the network takes no other one.
    """
    size, own = config.val_size, whole.preprocess.size
    if size is None:
        return
    if size == own:
        raise UsageError(
            f"--val-size {size} is the training size; drop it, or give a larger size, such as {round(_LARGER * own)}"
        )
    if whitening.find(whole) is not None:
        raise UsageError(
            f"--val-size {size}: a network that whitens its images takes only those of its training size, {own} pixels; "
            "drop it, or use --normalize standard"
        )
    try:
        with torch.no_grad():
            whole.eval()(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    except (RuntimeError, AssertionError, ValueError) as error:  # what a network's layers may raise
        if device_errors.is_out_of_memory(error):
            raise
        remedy = 'give it global pooling ("gap" before its first dense layer), or drop --val-size'
        if token_grid.of_cut(whole.base) or token_grid.of_network(whole.base):
            remedy = "its tokens have positions; drop --val-size, or take a convolutional network"
        raise UsageError(
            f"--val-size {size}: this network does not take images of {size} pixels, only of {own}; {remedy}"
        ) from error


def recorded(header: Header, config: ImageTrainConfig) -> Header:
    """Record --val-size as the size of the model's input, and the training size among the settings of the training."""
    if config.val_size is None or header.preprocess is None:
        return header
    training = {**header.training, "train_size": header.preprocess.size}
    return header.but(preprocess=preprocess(header.preprocess, config), training=training)
