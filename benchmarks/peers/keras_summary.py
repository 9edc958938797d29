"""Print the output shape and the parameters of a convolution with Keras."""

import keras

network = keras.Sequential([keras.Input((128, 128, 3)), keras.layers.Conv2D(32, 3, strides=2, padding="same")])
network.summary()
