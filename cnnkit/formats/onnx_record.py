"""What is known of a network in an `.onnx` file. Imports neither onnx nor torch."""

from dataclasses import dataclass

from cnnkit.formats.header import Header

#: Name of the second input of a network that takes metadata: float32 (N, columns), in the order of the Header's `columns`.
COLUMNS_INPUT = "columns"

#: Name of the output of a network of cnn-calibrate --novelty: float32 (N,).
NOVELTY = "novelty"

#: Name of the weight of a network with several labels per image: the thresholds of the classes, float32 (classes,).
THRESHOLDS = "thresholds"


@dataclass(frozen=True, slots=True)
class Needs:
    """Whether the graph may need unbounded memory or time at run time, so that they must be limited."""

    memory: bool = False
    time: bool = False


#: For a graph whose needs are all known.
NOTHING = Needs()


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """The bytes of a network; `header` is None if cnnkit did not make it; `needs`: what has to be limited at run time."""

    content: bytes
    header: Header | None
    needs: Needs = NOTHING
