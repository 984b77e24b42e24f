"""How far two results may lie apart, and why.

The distance of two arrays is their largest absolute difference over the largest absolute value of the
expected one. What is allowed depends on the element type, on what the pass says that it does to numbers,
and on how many roundings lie between a value and what it was computed from: of ``n`` operations in a row,
each of which may round differently, the errors add up to ``n`` of theirs in the worst case (Higham,
Accuracy and Stability of Numerical Algorithms, 3.1), and so do those of a sum of ``n`` terms in another order,
``sqrt(n)`` in practice.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np

from graphopt.ir.tensor import Array
from graphopt.ir.types import DType


class Effect(enum.Enum):
    """What a pass may do to the numbers that a graph computes."""

    EXACT = "exact"
    APPROXIMATE = "approximate"
    LOSSY = "lossy"


EXACT_TOLERANCE = {DType.F64: 1e-12, DType.C128: 1e-12, DType.F32: 1e-6, DType.C64: 1e-6, DType.F16: 1e-3}
APPROXIMATE_TOLERANCE = {DType.F64: 1e-9, DType.C128: 1e-9, DType.F32: 1e-4, DType.C64: 1e-4, DType.F16: 1e-2}
_NARROW = (0.01, 0.1)
"""Exact and approximate, for bfloat16 and the 8-bit floats."""
ROUNDINGS = 16
"""Roundings in a row that the tables allow for; more raise the tolerance in proportion."""


@dataclass(frozen=True)
class Tolerance:
    """What was allowed, with the reason in words."""

    allowed: float
    reason: str


@dataclass(frozen=True)
class Path:
    """What lies between a value and what it was computed from: operators in a row, and the terms of the
    longest sum among them."""

    ops: int = 1
    terms: int = 1

    @property
    def roundings(self) -> float:
        """How many roundings may add up."""
        return self.ops + math.sqrt(self.terms - 1)

    def __str__(self) -> str:
        sums = f", sums of {self.terms}" if self.terms > 1 else ""
        return f"{self.ops} {'op' if self.ops == 1 else 'ops'} deep{sums}"


def tolerance(dtype: DType, effect: Effect, path: Path, expected: Array) -> Tolerance:
    """What a value of this type may differ by under a pass of this effect.

    Args:
        path: from what it was computed.
        expected: the value as it was; of integers the largest one counts.
    """
    if dtype in (DType.STR, DType.BOOL):
        return Tolerance(0.0, f"{dtype.text}: equal")
    if dtype.is_integer:
        # One step of a quantized value is within what an approximate pass may do.
        if effect is Effect.EXACT or dtype.bits > 8:
            return Tolerance(0.0, f"{dtype.text}, {effect.value} pass: equal")
        largest = float(np.max(np.abs(expected.astype(np.float64)), initial=0.0)) or 1.0
        return Tolerance(1.0 / largest, f"{dtype.text}, {effect.value} pass: one step of {largest:g}")
    exact = effect is Effect.EXACT
    table = EXACT_TOLERANCE if exact else APPROXIMATE_TOLERANCE
    allowed = table.get(dtype, _NARROW[0] if exact else _NARROW[1]) * max(1.0, path.roundings / ROUNDINGS)
    return Tolerance(allowed, f"{dtype.text}, {path}, {effect.value} pass: {allowed:.2g}")
