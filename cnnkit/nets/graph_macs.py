"""Multiply-accumulates of an ONNX operator, counted as by torch's FlopCounterMode: half of its operations.

Only matrix products and convolutions count, whichever operator contains them.
"""

import math
from collections.abc import Callable, Sequence

from onnx import NodeProto

from cnnkit.errors import FormatError
from cnnkit.nets.graph_nodes import attributes

Shape = tuple[int, ...]

_MULTIPLYING = frozenset(
    {
        *("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "Einsum", "RNN", "GRU", "LSTM"),
        *("Attention", "MultiHeadAttention"),
    }
)

_CHECKED = ("Conv", "DeformConv", "ConvTranspose", "Gemm", "MatMul", "RNN", "GRU", "LSTM")


def multiplies(node: NodeProto) -> bool:
    """Check whether an operator has multiply-accumulates."""
    return node.op_type in _MULTIPLYING


def check(node: NodeProto, shape_of: Callable[[str], Shape | None], sentence: Callable[[str], str]) -> None:
    """Check that the input of an operator has the size that its weights need.

    Args:
        node: A standard operator.
        shape_of: Returns the shape of a value, None if it is unknown.
        sentence: Makes the error message from the reason.

    Raises:
        FormatError: The shapes do not fit together.
    """
    sides = [shape_of(name) for name in node.input[:2]]
    if node.op_type not in _CHECKED or len(sides) < 2 or not all(sides):
        return
    given, weights = (side or () for side in sides)
    attrs = attributes(node)
    match node.op_type:
        case "Conv" | "DeformConv":  # (F, C / groups, kh, kw)
            has, takes = given[1], weights[1] * attrs.get("group", 1)
        case "ConvTranspose":  # (C, F / groups, kh, kw)
            has, takes = given[1], weights[0]
        case "Gemm":
            has, takes = given[0 if attrs.get("transA") else 1], weights[1 if attrs.get("transB") else 0]
        case "MatMul":
            has, takes = given[-1], weights[-2] if len(weights) > 1 else weights[0]
        case _:
            has, takes = given[2], weights[2]
    if has != takes:
        raise FormatError(sentence(f"takes {takes} values, but its input has {has}"))


def count(node: NodeProto, shape_of: Callable[[str], Shape | None], sentence: Callable[[str], str]) -> int:
    """Count the multiply-accumulates of a node for all images; arguments and errors as `check`."""
    if not multiplies(node):
        return 0
    shapes = [shape_of(name) if name else () for name in node.input]
    made = shape_of(node.output[0])
    if made is None or any(shape is None for shape in shapes):
        raise FormatError(sentence("has inputs of unknown shape, so its multiply-accumulates cannot be counted"))
    given = [shape for shape in shapes if shape is not None]
    attrs = attributes(node)
    match node.op_type:
        case "Conv" | "DeformConv":
            return math.prod(made) * math.prod(given[1][1:])
        case "ConvTranspose":
            return math.prod(given[0]) * math.prod(given[1][1:])
        case "Gemm":
            return math.prod(made) * given[0][0 if attrs.get("transA") else 1]
        case "MatMul":
            return math.prod(made) * given[0][-1]
        case "Einsum":
            return _einsum(attrs["equation"].decode(), given, sentence)
        case "RNN" | "GRU" | "LSTM":
            return given[0][0] * given[0][1] * (math.prod(given[1]) + math.prod(given[2]))
        case _:
            return _attention(node, given, made, sentence)


def _attention(node: NodeProto, given: Sequence[Shape], made: Shape, sentence: Callable[[str], str]) -> int:
    """Count the products of queries and keys, and of attention weights and values, in all heads."""
    if len(given) < 3 or not given[1] or len(given[0]) not in (3, 4):
        raise FormatError(
            sentence("has queries, keys and values in one tensor, so its multiply-accumulates cannot be counted")
        )
    length = given[1][-2]
    past = 4 if node.op_type == "Attention" else 6
    if len(given) > past and given[past]:
        length += given[past][2]
    return (math.prod(given[0]) + math.prod(made)) * length


def _einsum(equation: str, given: Sequence[Shape], sentence: Callable[[str], str]) -> int:
    """Count the products of an Einsum, contracted from left to right, as in torch."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    sides: dict[str, int] = {}
    terms: list[set[str]] = []
    unnamed: set[str] = set()
    written = left.split(",")
    if len(written) != len(given):
        raise FormatError(sentence(f"has {len(given)} operands, but its equation {equation} has {len(written)}"))
    for term, shape in zip(written, given, strict=True):
        before, dots, after = term.partition("...")
        rest = len(shape) - len(before) - len(after)
        dotted = [f"...{place}" for place in range(rest, 0, -1)] if dots else []
        letters = [*before, *dotted, *after]
        if len(letters) != len(shape):
            raise FormatError(
                sentence(f"has an operand of {len(shape)} dimensions, but not in its equation {equation}")
            )
        unnamed.update(dotted)
        for letter, side in zip(letters, shape, strict=True):
            sides[letter] = max(sides.get(letter, 0), side) if side != 1 else sides.get(letter, 1)
        terms.append(set(letters))
    if arrow:
        kept = set(right.replace("...", "")) | (unnamed if "..." in right else set())
    else:
        letters_of_all = left.replace(",", "").replace("...", "")
        kept = {letter for letter in letters_of_all if letters_of_all.count(letter) == 1} | unnamed
    macs, held = 0, terms[0]
    for place, other in enumerate(terms[1:], 1):
        later = kept.union(*terms[place + 1 :])
        together = {letter for letter in held | other if letter in later or letter in held & other}
        if (held & other) - later:
            macs += math.prod(sides[letter] for letter in together)
        held = together & later
    return macs
