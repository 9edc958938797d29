"""The choices of options, for the command line, the library and the tests. Imports nothing of cnnkit."""

from enum import StrEnum


class Fit(StrEnum):
    """How an image of any shape becomes a square."""

    CROP = "crop"  # shorter side to `resize`, then the centre
    SQUASH = "squash"  # both sides to `size`; changes the aspect ratio
    PAD = "pad"  # longer side to `size`, the rest in the mean colour


class Decoding(StrEnum):
    """How JPEG photographs are decoded that are much larger than the network's input."""

    SCALED = "scaled"  # at a half, a quarter or an eighth of their size, at least twice the size they are resized to
    FULL = "full"  # completely


class Interpolation(StrEnum):
    """Pillow's resampling filters, all antialiased when they shrink."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class ChannelOrder(StrEnum):
    """Channels of a network's input, in order."""

    RGB = "rgb"
    BGR = "bgr"  # as in OpenCV, Caffe, and Keras' preprocessing mode "caffe"
    GREY = "grey"  # the luma, in each channel


class PixelRange(StrEnum):
    """Value of white before mean and standard deviation are applied; black is 0."""

    ONE = "1"
    BYTE = "255"


class Pool(StrEnum):
    """Pooling of a feature map (C, H, W).

    Of the tokens of a transformer, avg and max are of those of the patches.
    """

    AVG = "avg"  # (C,)
    MAX = "max"  # (C,)
    FLATTEN = "flatten"  # (C*H*W,)
    NONE = "none"  # stays (C, H, W)
    CLS = "cls"  # the class token (D,)
    CLS_AVG = "cls+avg"  # both (2*D,)


class Engine(StrEnum):
    """Inference engine."""

    ONNX = "onnx"
    TORCH = "torch"


class Precision(StrEnum):
    """Precision of inference on a GPU; the CPU always computes in float32."""

    FLOAT32 = "float32"  # equal to the CPU up to rounding
    TF32 = "tf32"  # float32 with products of 10-bit mantissas, on tensor cores
    FLOAT16 = "float16"  # weights and activations in half the memory, on tensor cores


class FeatureDtype(StrEnum):
    """Data type of stored features."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class Initializer(StrEnum):
    """Initial weights, by Keras' names; biases start at zero, scale and shift of batch norm at one and zero."""

    GLOROT = "glorot"  # uniform, Glorot and Bengio 2010: keeps the variance of signals and gradients
    HE = "he"  # normal, He et al. 2015: the same, for ReLU
    NORMAL = "normal"  # standard deviation 0.05
    UNIFORM = "uniform"  # -0.05 to 0.05
    ORTHOGONAL = "orthogonal"  # Saxe, McClelland, Ganguli 2014
    ZEROS = "zeros"


class Loss(StrEnum):
    """Training loss, by Keras' names without `_crossentropy`."""

    CATEGORICAL = "categorical"  # softmax and cross-entropy over classes
    BINARY = "binary"  # one sigmoid and cross-entropy, for two classes


class Optimizer(StrEnum):
    """Optimizer, by Keras' names; the default momenta are torch's."""

    SGD = "sgd"
    RMSPROP = "rmsprop"
    ADAGRAD = "adagrad"
    ADADELTA = "adadelta"
    ADAM = "adam"
    ADAMW = "adamw"
    ADAMAX = "adamax"
    NADAM = "nadam"

    @property
    def learning_rate(self) -> float:
        """Default learning rate: Keras', with which the textbook's figures were made."""
        return 1e-2 if self is Optimizer.SGD else 1e-3

    @property
    def takes_momentum(self) -> bool:
        """Whether it takes `--momentum`; the others have momenta of their own."""
        return self in (Optimizer.SGD, Optimizer.RMSPROP)

    @property
    def takes_weight_decay(self) -> bool:
        """Whether it takes `--weight-decay`: decoupled from the gradients, Loshchilov and Hutter 2019."""
        return self is Optimizer.ADAMW


class Monitor(StrEnum):
    """Validation measure that selects the best epoch."""

    VAL_LOSS = "val_loss"
    VAL_ACCURACY = "val_accuracy"


class Solver(StrEnum):
    """Training method of a head."""

    GRADIENT = "gradient"  # epochs of batches, with an optimizer
    LBFGS = "lbfgs"  # multinomial logistic regression on all rows at once


class ColumnKind(StrEnum):
    """How a column of metadata becomes an input of a head."""

    NUMBER = "number"  # standardized
    CATEGORY = "category"  # one-hot encoded


class ClassWeights(StrEnum):
    """Class weights in the loss."""

    NONE = "none"
    BALANCED = "balanced"  # inversely proportional to the number of images, as in scikit-learn


class Sample(StrEnum):
    """Rows of an epoch."""

    ONCE = "once"  # each row once, in random order
    BALANCED = "balanced"  # drawn with replacement, all classes equally often, as torch's WeightedRandomSampler


class ExportInput(StrEnum):
    """Input of an exported network."""

    UINT8 = "uint8"  # pixels from 0 to 255, (N, H, W, 3); the network normalizes them
    FLOAT = "float"  # normalized pixels, (N, 3, H, W); grey (N, 1, H, W)


class Vote(StrEnum):
    """How predictions of several models, or of several views of an image, are combined."""

    SOFT = "soft"  # mean of the probabilities
    HARD = "hard"  # majority of the predicted classes


class NoveltyMethod(StrEnum):
    """The distance of an image to the training images."""

    MAHALANOBIS = "mahalanobis"


class SetMethod(StrEnum):
    """The score by which classes are in the prediction set of an image."""

    LAC = "lac"  # the probability of the class, Sadinle et al. 2019
    APS = "aps"  # the sum of the probabilities down to the class, Romano et al. 2020


class Schedule(StrEnum):
    """Learning-rate schedule after the warm-up."""

    CONSTANT = "constant"
    COSINE = "cosine"  # half a cosine down to zero over all steps, Loshchilov and Hutter 2017
    STEP = "step"  # times 0.1 after half of the epochs, times 0.01 after three quarters, He et al. 2016
    PLATEAU = "plateau"  # times 0.2 after five epochs without a lower validation loss, Keras' ReduceLROnPlateau

    @property
    def depends_on_epochs(self) -> bool:
        """Whether the rate of a step depends on the total number of epochs."""
        return self in (Schedule.COSINE, Schedule.STEP)


class Amp(StrEnum):
    """Data type of training with mixed precision; weights and validation are always float32."""

    AUTO = "auto"  # the fastest on this machine
    BF16 = "bf16"
    FP16 = "fp16"  # with loss scaling, on GPUs only
    OFF = "off"  # float32


class Whiten(StrEnum):
    """Whitening of images: a linear map of all their pixels, fitted on the training images."""

    ZCA = "zca"  # in the directions of the pixels: the result is an image
    PCA = "pca"  # in the directions of the principal components


class Normalize(StrEnum):
    """Normalization of pixels from 0 to 1; the three after `scale` use statistics of each channel of the training images."""

    IMAGENET = "imagenet"  # ImageNet's mean and standard deviation
    SCALE = "scale"  # none
    CENTER = "center"  # zero mean
    STANDARD = "standard"  # zero mean and unit standard deviation
    MAXABS = "maxabs"  # divided by the largest absolute value
    ZCA = "zca"  # whitened: no correlation between pixels
    PCA = "pca"  # whitened principal components

    @property
    def whiten(self) -> Whiten | None:
        """The whitening, if this is one."""
        return Whiten(self.value) if self in (Normalize.ZCA, Normalize.PCA) else None


class Unfreeze(StrEnum):
    """Which layers of a backbone are trained, if neither a layer nor a number of layers is given."""

    ALL = "all"
    NONE = "none"


class CamMethod(StrEnum):
    """Method that computes a class activation map from activations and gradients of a layer."""

    GRADCAM = "gradcam"  # weights: the mean gradient of each channel, Selvaraju et al. 2017
    GRADCAM_PLUS_PLUS = "gradcam++"  # positive gradients, weighted by pixel, Chattopadhay et al. 2018
    HIRESCAM = "hirescam"  # every value times its own gradient, Draelos and Carin 2020
    LAYERCAM = "layercam"  # the same with positive gradients only, Jiang et al. 2021
    EIGENCAM = "eigencam"  # first principal component of the activations, whatever the class, Muhammad and Yeasin 2020
    SCORECAM = "scorecam"  # weights: the score of the image masked by each channel, no gradients, Wang et al. 2020
    CAM = "cam"  # the weights of one dense layer after global average pooling, Zhou et al. 2016


class StyleOptimizer(StrEnum):
    """Optimizer of the pixels of an image."""

    LBFGS = "lbfgs"  # with bounds on the pixels, Byrd, Lu, Nocedal, Zhu 1995
    ADAM = "adam"


class StyleStart(StrEnum):
    """Image that a style transfer starts from."""

    CONTENT = "content"  # keeps the layout
    NOISE = "noise"  # uniform noise, another result for each seed


class MapScale(StrEnum):
    """Range of values that a colour scale spans in feature maps."""

    CHANNEL = "channel"  # of each channel: shows the pattern of every channel
    LAYER = "layer"  # of the whole layer: channels can be compared


class EmbedMethod(StrEnum):
    """Method that maps features to two dimensions."""

    TSNE = "tsne"  # keeps neighbours together, van der Maaten and Hinton 2008
    PCA = "pca"  # the two directions of largest variance


class ProbeName(StrEnum):
    """Property, other than an image's content, that may predict its class."""

    WIDTH = "width"
    HEIGHT = "height"
    ASPECT = "aspect"
    BYTES = "bytes"  # of the file
    FORMAT = "format"  # JPEG or PNG, RGB or grey
    QUALITY = "quality"  # of a JPEG file
    MEAN_COLOUR = "mean-colour"
    BORDER_COLOUR = "border-colour"
    CAMERA = "camera"  # from EXIF
    TIME = "time"  # from EXIF
    NAME = "name"  # of the file, with # in place of numbers
    ORDER = "order"  # numbers in the file's name
    TOGETHER = "together"  # all of these except the colours


class Crops(StrEnum):
    """Number of crops of a resized image whose predictions are combined."""

    FIVE = "5"  # centre and corners, torchvision's FiveCrop
    TEN = "10"  # the same, and each of them mirrored, torchvision's TenCrop


class CheckTable(StrEnum):
    """Table that cnn-check prints."""

    FINDINGS = "findings"
    CLASSES = "classes"
    PROBES = "probes"


class FolderReading(StrEnum):
    """Meaning of the folders in a folder of images."""

    CLASSES = "classes"
    SPLITS = "splits"


class Link(StrEnum):
    """How images are put into a folder of splits."""

    COPY = "copy"
    SYMLINK = "symlink"  # relative, unless the image's path was absolute: stays valid if both are moved together
    HARDLINK = "hardlink"
    MOVE = "move"
