"""The choices that options offer, once: the command line, the library and the tests all take them from here. Nothing is imported."""

from enum import StrEnum


class Fit(StrEnum):
    """How an image of any shape becomes a square."""

    CROP = "crop"  # shorter side to `resize`, then the centre
    SQUASH = "squash"  # both sides to `size`, the aspect is lost
    PAD = "pad"  # longer side to `size`, the rest in the mean colour


class Interpolation(StrEnum):
    """Pillow's filters, all antialiased when they shrink."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class ChannelOrder(StrEnum):
    """Which channels a network takes, and in which order."""

    RGB = "rgb"
    BGR = "bgr"  # as OpenCV and Caffe have it, and Keras' preprocessing of mode caffe
    GREY = "grey"  # the luma, in each channel


class PixelRange(StrEnum):
    """What black and white are before mean and deviation are applied: 0 and this."""

    ONE = "1"
    BYTE = "255"


class Pool(StrEnum):
    """What becomes of a map of features (C, H, W)."""

    AVG = "avg"  # (C,)
    MAX = "max"  # (C,)
    FLATTEN = "flatten"  # (C*H*W,)
    NONE = "none"  # stays (C, H, W)


class Engine(StrEnum):
    """What computes."""

    ONNX = "onnx"
    TORCH = "torch"


class Precision(StrEnum):
    """What a GPU multiplies in when a network runs; a processor always takes float32."""

    FLOAT32 = "float32"  # the numbers of a processor, to rounding
    TF32 = "tf32"  # float32 with ten bits of mantissa in products, on tensor cores
    FLOAT16 = "float16"  # weights and activations in half the memory, on tensor cores


class FeatureDtype(StrEnum):
    """How features are kept."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class Initializer(StrEnum):
    """How weights start, by Keras' names; biases start at zero, batch norm at one and zero."""

    GLOROT = "glorot"  # uniform, Glorot and Bengio 2010: keeps the variance of signals and gradients
    HE = "he"  # normal, He et al. 2015: the same for ReLU
    NORMAL = "normal"  # deviation 0.05
    UNIFORM = "uniform"  # -0.05 to 0.05
    ORTHOGONAL = "orthogonal"  # Saxe, McClelland, Ganguli 2014
    ZEROS = "zeros"


class Loss(StrEnum):
    """What training makes small, by Keras' names without their endings."""

    CATEGORICAL = "categorical"  # softmax and cross-entropy over classes
    BINARY = "binary"  # one sigmoid and cross-entropy, for two classes


class Optimizer(StrEnum):
    """How weights follow gradients, by Keras' names; the momenta are torch's."""

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
        """Keras' default, the one that the textbook's figures were made with."""
        return 1e-2 if self is Optimizer.SGD else 1e-3

    @property
    def takes_momentum(self) -> bool:
        """Tell whether `--momentum` goes with it; the others have their own."""
        return self in (Optimizer.SGD, Optimizer.RMSPROP)

    @property
    def takes_weight_decay(self) -> bool:
        """Tell whether `--weight-decay` goes with it: decoupled from the gradients, Loshchilov and Hutter 2019."""
        return self is Optimizer.ADAMW


class Monitor(StrEnum):
    """The validation measure that chooses the best epoch."""

    VAL_LOSS = "val_loss"
    VAL_ACCURACY = "val_accuracy"


class Solver(StrEnum):
    """How a head is trained."""

    GRADIENT = "gradient"  # epochs of batches, with an optimizer
    LBFGS = "lbfgs"  # multinomial logistic regression on all rows at once


class ClassWeights(StrEnum):
    """What an image of each class counts for."""

    NONE = "none"
    BALANCED = "balanced"  # inversely to how many there are, as scikit-learn has it


class ExportInput(StrEnum):
    """What an exported network takes."""

    UINT8 = "uint8"  # images as files have them, (N, H, W, 3); normalised inside
    FLOAT = "float"  # normalised, (N, 3, H, W); grey (N, 1, H, W)


class Vote(StrEnum):
    """How several models, or several views of an image, become one prediction."""

    SOFT = "soft"  # the mean of their probabilities
    HARD = "hard"  # the class that most of them name


class Schedule(StrEnum):
    """How the learning rate goes on after the warm-up."""

    CONSTANT = "constant"
    COSINE = "cosine"  # half a cosine down to zero over all steps, Loshchilov and Hutter 2017
    STEP = "step"  # a tenth after half of the epochs, a hundredth after three quarters, He et al. 2016
    PLATEAU = "plateau"  # a fifth after five epochs without a lower validation loss, Keras' ReduceLROnPlateau

    @property
    def depends_on_epochs(self) -> bool:
        """Tell whether the rate of a step depends on how many epochs are still to come."""
        return self in (Schedule.COSINE, Schedule.STEP)


class Amp(StrEnum):
    """In which numbers training computes; weights and validation are always float32."""

    AUTO = "auto"  # what is fastest on this machine
    BF16 = "bf16"
    FP16 = "fp16"  # GPUs alone, with scaled losses
    OFF = "off"  # float32


class Normalize(StrEnum):
    """What is done to values from 0 to 1 before the first layer; the last three are measured on the training images, per channel."""

    IMAGENET = "imagenet"  # ImageNet's mean and deviation
    SCALE = "scale"  # nothing more
    CENTER = "center"  # zero mean
    STANDARD = "standard"  # zero mean and unit deviation
    MAXABS = "maxabs"  # divided by the largest absolute value


class Unfreeze(StrEnum):
    """Which layers of a backbone are trained, apart from a layer's name and a number of layers."""

    ALL = "all"
    NONE = "none"


class CamMethod(StrEnum):
    """How activations and gradients at a layer become a class activation map."""

    GRADCAM = "gradcam"  # weights: the mean gradient of each channel, Selvaraju et al. 2017
    GRADCAM_PLUS_PLUS = "gradcam++"  # positive gradients, weighted by pixel, Chattopadhay et al. 2018
    HIRESCAM = "hirescam"  # every value times its own gradient, Draelos and Carin 2020
    LAYERCAM = "layercam"  # the same with positive gradients alone, Jiang et al. 2021
    EIGENCAM = "eigencam"  # the first principal component of the activations, of no class, Muhammad and Yeasin 2020
    SCORECAM = "scorecam"  # weights: the score with all but the channel masked, no gradients, Wang et al. 2020
    CAM = "cam"  # the weights of one dense layer after global average pooling, Zhou et al. 2016


class MapScale(StrEnum):
    """By which range the values of a feature map become colours."""

    CHANNEL = "channel"  # by each channel's own: patterns can be seen everywhere
    LAYER = "layer"  # by that of the whole layer: channels can be compared


class ProbeName(StrEnum):
    """What may give a class away that is not an image's content."""

    WIDTH = "width"
    HEIGHT = "height"
    ASPECT = "aspect"
    BYTES = "bytes"  # of the file
    FORMAT = "format"  # JPEG or PNG, RGB or grey
    QUALITY = "quality"  # of a JPEG
    MEAN_COLOUR = "mean-colour"
    BORDER_COLOUR = "border-colour"
    CAMERA = "camera"  # EXIF's
    TIME = "time"  # EXIF's
    NAME = "name"  # of the file, with # for its numbers
    ORDER = "order"  # the numbers in the file's name
    TOGETHER = "together"  # all of these but the colours: each may tell little, and all of them much


class Crops(StrEnum):
    """How many crops of a resized image are asked about."""

    FIVE = "5"  # the centre and the corners, torchvision's FiveCrop
    TEN = "10"  # and each of them mirrored, torchvision's TenCrop


class CheckTable(StrEnum):
    """What cnn-check prints."""

    FINDINGS = "findings"
    CLASSES = "classes"
    PROBES = "probes"


class FolderReading(StrEnum):
    """What the folders in a folder of images are."""

    CLASSES = "classes"
    SPLITS = "splits"


class Link(StrEnum):
    """How an image comes into a folder of splits."""

    COPY = "copy"
    SYMLINK = "symlink"  # relative, unless the image was named absolutely: it survives where both are moved together
    HARDLINK = "hardlink"
    MOVE = "move"
