"""Configuration of backbones and exports: one dataclass field for each option. No torch, numpy or ONNX."""

from dataclasses import dataclass

from cnnkit.choices import Fit, Pool


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """What a base is asked for by; equal requests give the same base. Without `pool`, a model keeps its own and the others take avg."""

    backbone: str | None = None
    layers: str | None = None
    weights: str = "default"
    layer: str | None = None
    pool: Pool | None = None
    size: int | None = None
    resize: int | None = None
    fit: Fit | None = None
    seed: int = 0
