"""The Header: metadata that features, models and exported networks all have, as the same JSON."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta

from cnnkit import __version__
from cnnkit.choices import ColumnKind, Decoding, Fit, Interpolation, NoveltyMethod, Pool, SetMethod, Whiten
from cnnkit.errors import FormatError, UsageError

VERSION = 1

#: The longest header that is accepted, in characters.
LONGEST = 1 << 24

#: The longest side of a network's input, in pixels: an image of that size takes 50 MB.
LARGEST_SIDE = 4096

#: The largest value of a column of metadata, and the smallest standard deviation; float32 must hold both, and their quotient.
LARGEST_VALUE, SMALLEST_DEVIATION = 1e38, 1e-30

#: The most values of an image that a network whitens: its matrix then takes 64 MB.
MOST_WHITENED = 4096

# The most values in a header, and its deepest nesting.
_MOST_VALUES, _DEEPEST = 200_000, 20

#: Weights of red, green and blue in a grey channel: the luma of ITU-R BT.601, as in Pillow's mode L.
LUMA = (0.299, 0.587, 0.114)


class ArtefactKind(StrEnum):
    """The kind of a file."""

    FEATURES = "features"
    MODEL = "model"
    ONNX = "onnx"


_MADE_BY = {
    ArtefactKind.FEATURES: "cnn-extract",
    ArtefactKind.MODEL: "cnn-train-head",
    ArtefactKind.ONNX: "cnn-export",
}


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes the uint8 square that a network takes; mean and standard deviation are applied inside the network.

    `size` and `resize` are in pixels; `mean` and `std` are per RGB channel, for values from 0 to 1. `grey`: inside the network, the
    normalized channels are reduced to one, their luma. `across` is the width if it differs from `size`, which only explanations use,
    never training; so it is not stored in files. Files without `decoding` are from before there was a choice: "full".
    """

    fit: Fit = Fit.CROP
    resize: int = 256
    size: int = 224
    interpolation: Interpolation = Interpolation.BILINEAR
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    grey: bool = False
    across: int | None = None
    decoding: Decoding = Decoding.SCALED

    @property
    def height(self) -> int:
        """Height of the network's input, in pixels."""
        return self.size

    @property
    def width(self) -> int:
        """Width of the network's input, in pixels."""
        return self.across or self.size

    @property
    def channels(self) -> int:
        """Number of channels of the backbone's input."""
        return 1 if self.grey else 3


@dataclass(frozen=True, slots=True)
class Backbone:
    """A convolutional backbone: its architecture, its weights, and the layer whose output are the features.

    `whiten`: before the layers of the notation, images are whitened, by a layer of that name whose matrix is stored with the weights.
    """

    name: str  # torchvision's name, timm:NAME, or "layers" for a backbone in notation
    layer: str
    pool: Pool
    weights_sha256: str | None = None  # of the state_dict file; None after further training
    notation: str | None = None
    whiten: Whiten | None = None


@dataclass(frozen=True, slots=True)
class InputColumn:
    """A column of metadata that a network takes next to the image, as fitted on the training set.

    A number is standardized, (value - mean) / std; a constant has std 0 and becomes 0. A category is one-hot encoded; `categories` are
    in the order of the encoded columns, and a value that is none of them becomes zeros.
    """

    name: str
    kind: ColumnKind
    mean: float = 0.0
    std: float = 0.0
    categories: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return what a Header stores of it."""
        if self.kind is ColumnKind.NUMBER:
            return {"name": self.name, "kind": str(self.kind), "mean": self.mean, "std": self.std}
        return {"name": self.name, "kind": str(self.kind), "categories": list(self.categories)}

    @property
    def width(self) -> int:
        """The number of values that the head gets."""
        return 1 if self.kind is ColumnKind.NUMBER else len(self.categories)


@dataclass(frozen=True, slots=True)
class PredictionSets:
    """The threshold of prediction sets, found by cnn-calibrate --sets: a set has the true class with at least the probability `coverage`.

    `quantile` is that of the scores of the `n` images of the calibration; `method` defines the score (`evaluation.conformal`).
    """

    method: SetMethod
    coverage: float
    quantile: float
    n: int


@dataclass(frozen=True, slots=True)
class Novelty:
    """The output `novelty` of a network, from cnn-calibrate --novelty: the distance to the features of the training images.

    At most the share 1 - `keep` of the `val` validation images are above the `threshold`. `train` is the number of training images,
    `method` the distance (`evaluation.novelty`), and `components` the number of its axes.
    """

    method: NoveltyMethod
    threshold: float
    keep: float
    train: int
    val: int
    components: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file contains and how it was made: everything that later steps need, and nothing that changes between equal runs."""

    kind: ArtefactKind
    classes: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    backbone: Backbone | None = None
    head: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    made_by: dict[str, str] = field(default_factory=dict)
    #: Notation of a second head, which computes a box from the backbone's output; None for a network without one.
    box_head: str | None = None
    columns: tuple[InputColumn, ...] | None = None  # the second input of a network
    sets: PredictionSets | None = None  # absent in files without prediction sets
    novelty: Novelty | None = None  # absent in files without this output
    multi_label: bool = False  # several labels per image: a sigmoid for each class in place of a softmax
    #: With `multi_label`: the probability of each class from which on it is a label.
    thresholds: tuple[float, ...] | None = None

    @property
    def label_thresholds(self) -> tuple[float, ...]:
        """The probability from which on each class is a label of an image, for several labels per image; 0.5 where none was chosen."""
        return self.thresholds or (0.5,) * len(self.classes or ())

    @property
    def has_views(self) -> bool:
        """Whether these are features with several views of an image, a row each."""
        return bool(self.training.get("views"))

    @property
    def temperature(self) -> float:
        """The temperature by which cnn-calibrate divided the logits; 1 if it did not."""
        return float(self.training.get("temperature", 1.0))

    def refuse_columns(self, name: str) -> None:
        """Raise an error if the network takes metadata next to the image, which only cnn-export and cnn-predict support.

        Raises:
            UsageError: It does; the message starts with `name`.
        """
        if self.columns is not None:
            called = ", ".join(column.name for column in self.columns)
            raise UsageError(
                f"{name} takes columns next to the image ({called}), which only cnn-export and cnn-predict support; "
                "train a head without --use"
            )

    def refuse_several_labels(self, name: str, reason: str) -> None:
        """Raise an error if the network gives an image several labels.

        Args:
            name: The file.
            reason: What needs one label per image, with a remedy, for the message.

        Raises:
            UsageError: It does.
        """
        if self.multi_label:
            raise UsageError(f"{name} predicts several labels per image, and {reason}")

    def to_json(self) -> str:
        """Return the record as one line of JSON; equal records give equal text."""
        record = asdict(self)
        if self.box_head is None:
            del record["box_head"]
        if self.backbone is not None and self.backbone.whiten is None:
            del record["backbone"]["whiten"]
        if self.preprocess is not None:
            del record["preprocess"]["across"]
            if not self.preprocess.grey:
                del record["preprocess"]["grey"]  # files without the field are read as not grey
            if self.preprocess.decoding is Decoding.FULL:
                del record["preprocess"]["decoding"]
        del record["columns"]  # files without the field are networks that take only images
        if self.columns is not None:
            record["columns"] = [column.record() for column in self.columns]
        if self.sets is None:
            del record["sets"]
        if self.novelty is None:
            del record["novelty"]
        if not self.multi_label:  # files without the fields have one label per image
            del record["multi_label"]
        if self.thresholds is None:
            del record["thresholds"]
        return json.dumps({"cnnkit": VERSION, **record}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, name: str, kind: ArtefactKind | None = None) -> Self:
        """Read a Header and check that it is one.

        Args:
            text: The output of `to_json`.
            name: The file, for messages.
            kind: The expected kind; by default any.

        Raises:
            FormatError: As `from_record`.
        """
        if len(text) > LONGEST:
            raise FormatError(f"{name}: a header of {len(text):,} characters, more than {LONGEST:,}; {_remedy(kind)}")
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{name}: no cnnkit header in it; {_remedy(kind)}") from error
        return cls.from_record(raw, name=name, kind=kind)

    @classmethod
    def from_record(cls, raw: object, *, name: str, kind: ArtefactKind | None = None) -> Self:
        """Read a Header from parsed JSON or from a model file, and check the type and range of every field.

        Unknown fields are ignored: a later cnnkit may write more in the same version of the header.

        Args:
            raw: A value of any type and depth.
            name: As `from_json`.
            kind: As `from_json`.

        Raises:
            FormatError: Not a Header, or one of a later version or another kind: the message names the command that makes the right
                one. Or a field has the wrong type or is out of range: the message names the field and its value.
        """
        remedy = _remedy(kind)
        if not isinstance(raw, Mapping) or "cnnkit" not in raw:
            raise FormatError(f"{name}: no cnnkit header in it; {remedy}")
        try:
            record = _plain(raw)
        except ValueError as error:
            raise FormatError(f"{name}: broken cnnkit header ({error}); {remedy}") from error
        version = record.pop("cnnkit")
        if type(version) is not int or version != VERSION:
            raise FormatError(
                f"{name}: header version {_shown(version, plain=True)}, this cnnkit reads version {VERSION}; update cnnkit"
            )
        if kind is not None and record.get("kind") != kind:
            raise FormatError(f"{name}: found {_shown(record.get('kind'), plain=True)}, expected {kind}; {remedy}")
        try:
            found = msgspec.convert(record, _HeaderFile)
        except msgspec.ValidationError as error:
            raise FormatError(f"{name}: broken cnnkit header ({_explained(error, record)}); {remedy}") from error
        except UnicodeError as error:  # allowed in class names, but not in other fields
            raise FormatError(f"{name}: broken cnnkit header (a field that is not UTF-8); {remedy}") from error
        return cls(
            kind=found.kind,
            classes=found.classes,
            preprocess=None if found.preprocess is None else Preprocess(**msgspec.structs.asdict(found.preprocess)),
            backbone=None if found.backbone is None else Backbone(**msgspec.structs.asdict(found.backbone)),
            head=found.head,
            training=record.get("training") or {},
            made_by=found.made_by or {},
            box_head=found.box_head,
            columns=None
            if found.columns is None
            else tuple(InputColumn(**msgspec.structs.asdict(column)) for column in found.columns),
            sets=None if found.sets is None else PredictionSets(**msgspec.structs.asdict(found.sets)),
            novelty=None if found.novelty is None else Novelty(**msgspec.structs.asdict(found.novelty)),
            multi_label=found.multi_label,
            thresholds=found.thresholds,
        )

    def but(self, **changes: Any) -> Self:  # noqa: ANN401 - any field
        """Copy with some fields changed."""
        return replace(self, **changes)


# ---------------------------------------------------------------- types and ranges of the fields

_Side = Annotated[int, Meta(ge=1, le=LARGEST_SIDE)]
_Resize = Annotated[int, Meta(ge=1, le=2 * LARGEST_SIDE)]
_Mean = Annotated[float, Meta(ge=-1e4, le=1e4)]
_Std = Annotated[float, Meta(ge=1e-12, le=1e6)]
_Text = Annotated[str, Meta(min_length=1, max_length=10_000)]
_Notation = Annotated[
    str, Meta(min_length=1, max_length=100_000, pattern=r"^\s*[^@\s]")
]  # not @FILE: a header must not refer to another file
_Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{1,64}\Z")]  # used as a file name
_Value = Annotated[float, Meta(ge=-LARGEST_VALUE, le=LARGEST_VALUE)]
_Deviation = Annotated[float, Meta(ge=0, le=LARGEST_VALUE)]
_Category = Annotated[str, Meta(max_length=10_000)]  # an empty field is a category
_Share = Annotated[float, Meta(ge=0, le=1)]
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class _PreprocessFile(msgspec.Struct):
    fit: Fit
    resize: _Resize
    size: _Side
    interpolation: Interpolation
    mean: tuple[_Mean, _Mean, _Mean]
    std: tuple[_Std, _Std, _Std]
    grey: bool = False
    decoding: Decoding = Decoding.FULL


class _BackboneFile(msgspec.Struct):
    name: _Text
    layer: _Text
    pool: Pool
    weights_sha256: _Digest | None = None
    notation: _Notation | None = None
    whiten: Whiten | None = None


class _TrainingFile(msgspec.Struct):
    """The settings that cnnkit reads back; others are for people to read."""

    command: str | None = None
    views: _Count | None = None
    rows: _Count | None = None
    epochs: _Count | None = None
    temperature: Annotated[float, Meta(ge=1e-6, le=1e6)] = 1.0
    augment: str | None = None
    hold_out: str | None = None
    ended: str | None = None


class _ColumnFile(msgspec.Struct):
    name: _Text
    kind: ColumnKind
    mean: _Value = 0.0
    std: _Deviation = 0.0
    categories: Annotated[tuple[_Category, ...], Meta(max_length=10_000)] = ()

    def __post_init__(self) -> None:
        """Raise an error for a category without values, or with the same value twice."""
        if self.kind is ColumnKind.CATEGORY and not self.categories:
            raise ValueError(f"column {_shown(self.name)} has no categories")
        if len(set(self.categories)) < len(self.categories):
            raise ValueError(f"column {_shown(self.name)} has the same category twice")
        if 0 < self.std < SMALLEST_DEVIATION:
            raise ValueError(
                f"column {_shown(self.name)} has a standard deviation of {self.std}, too small to divide by"
            )


class _PredictionSetsFile(msgspec.Struct):
    method: SetMethod
    coverage: Annotated[float, Meta(gt=0, lt=1)]
    quantile: Annotated[float, Meta(ge=0, le=2)]  # a sum of rounded probabilities exceeds 1
    n: Annotated[int, Meta(ge=1, le=2**53)]


class _NoveltyFile(msgspec.Struct):
    method: NoveltyMethod
    threshold: Annotated[float, Meta(ge=0, le=LARGEST_VALUE)]
    keep: Annotated[float, Meta(gt=0, le=1)]
    train: Annotated[int, Meta(ge=1, le=2**53)]
    val: Annotated[int, Meta(ge=1, le=2**53)]
    components: _Count


class _HeaderFile(msgspec.Struct):
    kind: ArtefactKind
    classes: Annotated[tuple[_Text, ...], Meta(min_length=1)] | None = None
    preprocess: _PreprocessFile | None = None
    backbone: _BackboneFile | None = None
    head: _Notation | None = None
    training: _TrainingFile | None = None
    made_by: dict[str, str] | None = None
    box_head: _Notation | None = None
    columns: Annotated[tuple[_ColumnFile, ...], Meta(min_length=1, max_length=1000)] | None = None
    sets: _PredictionSetsFile | None = None
    novelty: _NoveltyFile | None = None
    multi_label: bool = False
    thresholds: Annotated[tuple[_Share, ...], Meta(min_length=1)] | None = None

    def __post_init__(self) -> None:
        """Raise an error for two classes with the same name, or thresholds that are not those of the classes."""
        names = self.classes or ()
        if len(set(names)) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise ValueError(f"classes contains {_shown(twice)} twice")
        if self.thresholds is not None and len(self.thresholds) != len(names):
            raise ValueError(f"{len(self.thresholds)} thresholds for {len(names)} classes")


_CHOICES: dict[str, type[StrEnum]] = {
    "kind": ArtefactKind,
    "fit": Fit,
    "interpolation": Interpolation,
    "decoding": Decoding,
    "pool": Pool,
    "kind of a column": ColumnKind,
    "whiten": Whiten,
    "sets.method": SetMethod,
    "novelty.method": NoveltyMethod,
}


def _remedy(kind: ArtefactKind | None) -> str:
    return f"make one with {_MADE_BY[kind]}" if kind else "was it made by cnnkit?"


def _plain(raw: object) -> dict[str, Any]:
    """Copy a value of any type as plain JSON values: in a model file, a list may contain itself or be shared many times.

    Raises:
        ValueError: It is too large or too deep for a header, or has text that cannot be encoded.
    """
    left = _MOST_VALUES

    def text(value: str) -> str:
        try:
            value.encode("utf-8", "surrogateescape")  # file names that are not UTF-8 are allowed
        except UnicodeEncodeError as error:
            raise ValueError(f"{value!a:.40} contains half of a surrogate pair") from error
        return value

    def copied(value: object, depth: int) -> Any:  # noqa: ANN401 - any JSON value
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"it has more than {_MOST_VALUES:,} values")
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
        if isinstance(value, Mapping):
            return {text(str(key)): copied(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [copied(each, depth + 1) for each in value]
        if type(value) is str:
            return text(value)
        return value if value is None or type(value) in (int, float, bool) else f"a {type(value).__name__}"

    record: dict[str, Any] = copied(raw, 0)
    return record


def _explained(error: msgspec.ValidationError, record: Mapping[str, Any]) -> str:
    """Describe a wrong field: its name, what was expected, and what was found."""
    reason, _, place = str(error).replace("`", "").partition(" - at $")
    found: Any = record
    path = place.strip().lstrip(".")
    for word in re.findall(r"[^.\[\]]+", path):
        try:
            found = found[int(word)] if isinstance(found, list) else found[word]
        except (KeyError, IndexError, TypeError, ValueError):
            return f"{path}: {reason}"
    missing = _MISSING.fullmatch(reason)
    if missing is not None:
        return f"{f'{path}.' if path else ''}{missing[1]} is missing"
    if not path and not reason.startswith("Expected "):
        return reason
    word = path if path in _CHOICES else path.rpartition(".")[2]
    word = "kind of a column" if word == "kind" and path != word else word
    expected = _expected(reason)
    if word in _CHOICES and reason.startswith("Invalid enum value"):
        expected = f"one of {', '.join(_CHOICES[word])}"
    elif "matching regex" in reason:
        expected = _FORMS.get(word, "other text")
    problem = reason if expected is None else f"expected {expected}"
    where = f"a value in {path.removesuffix('[...]')}" if path.endswith("[...]") else path
    return f"{f'{where}: ' if path else ''}{problem}, found {_shown(found)}"


_MISSING = re.compile(r"Object missing required field (\S+)")

#: Names of JSON's types in messages.
_TYPES = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "nothing",
}

#: What is expected of text fields that do not accept any text.
_FORMS = {"weights_sha256": "hexadecimal digits", "head": "layers, not a file", "notation": "layers, not a file"}

_EXPECTED = re.compile(r"Expected ([a-z| ]+?)(?: of length)?(?: ?(<=|>=|<|>)? ?([-+.0-9e]+))?(?:, got .*)?")


def _expected(reason: str) -> str | None:
    """Reword what msgspec expected: "Expected int <= 4096", "Expected array of length >= 1", "Expected str, got null"."""
    found = _EXPECTED.fullmatch(reason)
    if found is None:
        return None
    types, relation, bound = found.groups()
    words = " or ".join(_TYPES.get(word, word) for word in types.split(" | "))
    if bound is None:
        return words
    limit = {"<=": "at most ", ">=": "at least ", "<": "less than ", ">": "more than "}.get(relation, "")
    if "of length" not in reason:
        return f"{words}, {limit}{bound}"
    unit = "character" if types == "str" else "value"
    return f"{words} of {limit}{bound} {unit if bound == '1' else f'{unit}s'}"


def _shown(value: object, *, plain: bool = False) -> str:
    """Format a value for a message, shortened if long; with `plain`, a word has no quotes."""
    if value is None:
        return "none" if plain else "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    text = value if plain and isinstance(value, str) and value.isalnum() else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def made_by(*distributions: str) -> dict[str, str]:
    """Return the versions of cnnkit and of these distributions, omitting those not installed."""
    from importlib import metadata  # here: reading a Header does without, and it takes as long as msgspec

    versions = {"cnnkit": __version__}
    for name in distributions:
        try:
            versions[name.removesuffix("-gpu")] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def difference(one: Header, other: Header) -> tuple[str, Any, Any] | None:
    """Return the first field in which the backbones of two files differ, with both values; None if they are the same."""
    for part in ("backbone", "preprocess"):
        here, there = (asdict(record) if record else {} for record in (getattr(one, part), getattr(other, part)))
        for name in here | there:
            if here.get(name) != there.get(name):
                return name, here.get(name), there.get(name)
    return None
