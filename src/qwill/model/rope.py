"""Rotary frequencies: plain, and stretched for contexts longer than a model was trained on.

Sources: RoPE arXiv 2104.09864; YaRN arXiv 2309.00071 (§3.2 NTK-by-parts, §3.3 attention scaling); Llama 3.1's
wavelength rule. Computed in float32 as transformers 5.23.0 does, so that released models turn by the same angles. All
are static, the same at every length: `dynamic` NTK, which changes with it, would make cached keys wrong and is refused.

Shape suffixes: F = rotary dimensions / 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qwill.base.errors import ModelError

# What each kind needs beside its name, and what it may have.
NEEDS = {
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
MAY = {"yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")}
NAMES = ("rope_type", "type")


@dataclass(frozen=True)
class RopeScaling:
    """`rope_scaling` of a config.json; field names are its. `original_max_position_embeddings` counts tokens."""

    kind: str
    factor: float
    original_max_position_embeddings: int = 0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    @property
    def magnitude(self) -> float:
        """What cos and sin are multiplied by: YaRN's √(1/t) = 0.1·ln(factor) + 1 unless the file says otherwise."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return _temperature(self.factor, self.mscale) / _temperature(self.factor, self.mscale_all_dim)
        return _temperature(self.factor, 1.0)

    def to_hf(self) -> dict[str, Any]:
        out: dict[str, Any] = {"rope_type": self.kind}
        for name in (*NEEDS[self.kind], *MAY.get(self.kind, ())):
            if (value := getattr(self, name)) is not None:
                out[name] = value
        if not self.truncate:
            out["truncate"] = False
        return out


def _temperature(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def read_scaling(given: Mapping[str, Any], max_positions: int, where: str) -> RopeScaling | None:
    """`rope_scaling` or `rope_parameters` of a config.json; None for the plain kind.

    Raises ModelError for a kind that is not supported and for a field that is missing, unknown or not a number.
    """
    kind = next((given[n] for n in NAMES if given.get(n) is not None), "default")
    if kind == "default":
        return None
    if not isinstance(kind, str) or kind not in NEEDS:
        raise ModelError(f"{where}: rope type {kind!r} is not supported; expected default, {', '.join(NEEDS)}.")
    fields: dict[str, Any] = {}
    for name in (*NEEDS[kind], *MAY.get(kind, ())):
        value = given.get(name)
        if value is None and name == "original_max_position_embeddings":
            value = max_positions
        if value is None and name == "factor" and kind == "yarn":
            length = given.get("original_max_position_embeddings")
            value = max_positions / length if isinstance(length, int) and length > 0 else None
        if value is None:
            if name in NEEDS[kind]:
                raise ModelError(f"{where}: rope type {kind!r} needs the field {name!r}; it is missing.")
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            said = str(value)[:40]
            raise ModelError(f"{where}: {name} of rope type {kind!r} is {said!r}; expected a number above 0.")
        fields[name] = int(value) if name == "original_max_position_embeddings" else float(value)
    scaling = RopeScaling(kind, truncate=given.get("truncate") is not False, **fields)
    if kind == "llama3" and scaling.low_freq_factor >= scaling.high_freq_factor:
        raise ModelError(f"{where}: low_freq_factor is not below high_freq_factor; expected 1 and 4, as released.")
    return scaling


def inverse_frequencies(rotary_dim: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """Angle a position for each rotated pair, float32 [F]: θ^(−2i/R), or as `scaling` has it."""
    exponent_F = torch.arange(0, rotary_dim, 2, dtype=torch.int64).float() / rotary_dim
    period_F = theta**exponent_F
    plain_F = 1.0 / period_F
    if scaling is None:
        return plain_F
    if scaling.kind == "linear":
        return plain_F / scaling.factor
    if scaling.kind == "yarn":
        kept_F = 1 - _ramp(rotary_dim, theta, scaling)
        return 1.0 / (scaling.factor * period_F) * (1 - kept_F) + plain_F * kept_F
    length, low, high = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    wavelength_F = 2 * math.pi / plain_F
    slow_F = torch.where(wavelength_F > length / low, plain_F / scaling.factor, plain_F)
    blend_F = (length / wavelength_F - low) / (high - low)
    blended_F = (1 - blend_F) * slow_F / scaling.factor + blend_F * slow_F
    between_F = (wavelength_F >= length / high) & (wavelength_F <= length / low)
    return torch.where(between_F, blended_F, slow_F)


def _ramp(rotary_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """0 where a pair turns more than `beta_fast` times over the original length, 1 below `beta_slow`."""

    def pair(turns: float) -> float:
        length = scaling.original_max_position_embeddings
        return rotary_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary_dim - 1)
    if first == last:
        last += 0.001
    index_F = torch.arange(rotary_dim // 2, dtype=torch.float32)
    return ((index_F - first) / (last - first)).clamp(0, 1)
