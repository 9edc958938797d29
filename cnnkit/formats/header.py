"""The Header: the one record that features, models and exported networks all carry, as the same JSON."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from importlib import metadata
from typing import Any, Self

from cnnkit import __version__
from cnnkit.choices import Fit, Interpolation, Pool
from cnnkit.errors import FormatError

VERSION = 1

#: How red, green and blue make one grey channel: the luma of ITU-R BT.601, as Pillow's mode L has it.
LUMA = (0.299, 0.587, 0.114)


class ArtefactKind(StrEnum):
    """What a file is."""

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
    """How an image becomes the uint8 square that a network takes; mean and deviation are applied inside the network.

    `size` and `resize` are pixels; `mean` and `std` are per RGB channel, for values from 0 to 1. `grey`: the normalised channels
    become one, their luma, inside the network. `across` is the width where that is not `size`: of an image to be looked at, never
    of one for training, so no file says it.
    """

    fit: Fit = Fit.CROP
    resize: int = 256
    size: int = 224
    interpolation: Interpolation = Interpolation.BILINEAR
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    grey: bool = False
    across: int | None = None

    @property
    def height(self) -> int:
        """Of what the network takes, in pixels."""
        return self.size

    @property
    def width(self) -> int:
        """Of what the network takes, in pixels."""
        return self.across or self.size

    @property
    def channels(self) -> int:
        """How many channels the backbone gets."""
        return 1 if self.grey else 3


@dataclass(frozen=True, slots=True)
class Backbone:
    """Which convolutional backbone, with which weights, cut where."""

    name: str  # torchvision's name, timm:NAME, or "layers" for a backbone given by notation
    layer: str
    pool: Pool
    weights_sha256: str | None = None  # of the state_dict file; None once its values were trained further
    notation: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What a file holds and how it came to be. Everything a later step needs, and nothing that changes from run to run."""

    kind: ArtefactKind
    classes: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    backbone: Backbone | None = None
    head: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    made_by: dict[str, str] = field(default_factory=dict)

    @property
    def has_views(self) -> bool:
        """Whether these are features with a row for each of several views of an image."""
        return bool(self.training.get("views"))

    @property
    def temperature(self) -> float:
        """What the logits were divided by already, by cnn-calibrate; 1 unless they were."""
        return float(self.training.get("temperature", 1.0))

    def to_json(self) -> str:
        """Give the same text for the same record, on one line."""
        record = asdict(self)
        if self.preprocess is not None:
            del record["preprocess"]["across"]
            if not self.preprocess.grey:
                del record["preprocess"]["grey"]  # as files were before there was grey
        return json.dumps({"cnnkit": VERSION, **record}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, name: str, kind: ArtefactKind | None = None) -> Self:
        """Read a Header and check that it is one.

        Args:
            text: What `to_json` wrote.
            name: The file it was found in, for messages.
            kind: What the file must be; by default any.

        Raises:
            FormatError: No Header, one of a later version, or of another kind; the message names the command that makes the right one.
        """
        remedy = f"make one with {_MADE_BY[kind]}" if kind else "was it made by cnnkit?"
        try:
            raw = json.loads(text)
            version = raw.pop("cnnkit")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{name}: no cnnkit header in it; {remedy}") from error
        if version != VERSION:
            raise FormatError(f"{name}: header version {version}, this cnnkit reads version {VERSION}; update cnnkit")
        if kind is not None and raw.get("kind") != kind:
            raise FormatError(f"{name}: found {raw.get('kind')}, expected {kind}; {remedy}")
        try:
            return cls(
                kind=ArtefactKind(raw["kind"]),
                classes=_classes(raw["classes"]) if raw.get("classes") is not None else None,
                preprocess=_preprocess(raw["preprocess"]) if raw.get("preprocess") is not None else None,
                backbone=_backbone(raw["backbone"]) if raw.get("backbone") is not None else None,
                head=raw.get("head"),
                training=raw.get("training") or {},
                made_by=raw.get("made_by") or {},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{name}: broken cnnkit header ({error}); {remedy}") from error

    def but(self, **changes: Any) -> Self:  # noqa: ANN401 - any field
        """Copy with some fields changed."""
        return replace(self, **changes)


def _classes(raw: Any) -> tuple[str, ...]:  # noqa: ANN401 - any JSON value
    if not isinstance(raw, list) or not all(isinstance(name, str) for name in raw):
        raise TypeError(f"classes {raw!r}")
    return tuple(raw)


def _preprocess(raw: dict[str, Any]) -> Preprocess:
    raw = {"grey": False, **raw}
    values = {item.name: raw[item.name] for item in fields(Preprocess) if item.name != "across"}
    if not isinstance(values["grey"], bool):
        raise TypeError(f"grey {values['grey']!r}")
    values["fit"] = Fit(values["fit"])
    values["interpolation"] = Interpolation(values["interpolation"])
    for name in ("resize", "size"):
        if not isinstance(values[name], int) or values[name] < 1:
            raise ValueError(f"{name} {values[name]!r}")
    for name in ("mean", "std"):
        red, green, blue = (float(value) for value in values[name])
        values[name] = (red, green, blue)
    return Preprocess(**values)


def _backbone(raw: dict[str, Any]) -> Backbone:
    known = {item.name for item in fields(Backbone)}
    return Backbone(**{key: Pool(value) if key == "pool" else value for key, value in raw.items() if key in known})


def made_by(*distributions: str) -> dict[str, str]:
    """Name the versions that took part; what is not installed is left out."""
    versions = {"cnnkit": __version__}
    for name in distributions:
        try:
            versions[name.removesuffix("-gpu")] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def difference(one: Header, other: Header) -> tuple[str, Any, Any] | None:
    """Find the first thing in which the backbones of two files differ: its field, and both values; None if they are the same."""
    for part in ("backbone", "preprocess"):
        here, there = (asdict(record) if record else {} for record in (getattr(one, part), getattr(other, part)))
        for name in here | there:
            if here.get(name) != there.get(name):
                return name, here.get(name), there.get(name)
    return None
