"""The distance of two results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.ir.tensor import Array
from graphopt.ir.types import DType
from graphopt.verify.tolerance import Effect, Path, Tolerance, tolerance

_UNLIKE = Tolerance(0.0, "of the same type and shape")
_GAP = 1e3
"""How far apart huge and ordinary values lie when each are measured by themselves."""
_HUGE = 1e3
"""What counts as huge: what masks attention, not what a logarithm of a probability may be."""


@dataclass(frozen=True)
class Distance:
    """How far a result is from what was expected, and how far it may be.

    ``measured`` is the largest absolute difference over the largest absolute expected value; infinity where
    the two can't be compared. Where a few huge values would hide all others (-1e9 in masked scores), the others
    are measured by themselves too, and the larger of both is taken. ``detail`` says where they differ most.
    """

    measured: float
    tolerance: Tolerance
    detail: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether it is more than allowed (NaN is)."""
        return not self.measured <= self.tolerance.allowed


def compare(actual: Any, expected: Any, effect: Effect, path: Path) -> Distance:
    """Compares two results: arrays, lists (sequences, element by element) or None (empty optionals).

    NaN and infinities must be at the same places.
    """
    if isinstance(expected, list | tuple):
        if not isinstance(actual, list | tuple) or len(actual) != len(expected):
            return Distance(float("inf"), _UNLIKE, f"{_kind(actual)} for {_kind(expected)}")
        found = [compare(a, b, effect, path) for a, b in zip(actual, expected, strict=True)]
        return max(found, key=lambda d: d.measured - d.tolerance.allowed, default=Distance(0.0, _UNLIKE))
    if expected is None or actual is None:
        same = expected is actual
        return Distance(0.0 if same else float("inf"), _UNLIKE, "" if same else "one is absent")
    a, b = np.asarray(actual), np.asarray(expected)
    if a.shape != b.shape or a.dtype.kind != b.dtype.kind or a.dtype.itemsize != b.dtype.itemsize:
        return Distance(float("inf"), _UNLIKE, f"{_kind(a)} for {_kind(b)}")
    dtype = DType.of(b.dtype)
    allowed = tolerance(dtype, effect, path, b)
    if dtype in (DType.STR, DType.BOOL):
        differs = a != b
        return Distance(float("inf") if differs.any() else 0.0, allowed, _at(a, b, differs))
    return _numeric(a, b, allowed)


def _numeric(actual: Array, expected: Array, allowed: Tolerance) -> Distance:
    if actual is expected or np.array_equal(actual, expected):
        return Distance(0.0, allowed)
    found = _of_largest(actual, expected, allowed)
    below = below_gap(expected)
    if found.is_fault or below is None or not np.any(_sizes(expected)[below]):
        return found
    zero = np.zeros((), expected.dtype)
    rest = _numeric(np.where(below, actual, zero), np.where(below, expected, zero), allowed)
    if rest.measured <= found.measured:
        return found
    return replace(rest, detail=rest.detail and f"{rest.detail}, huge values aside")


def below_gap(expected: Array) -> Array | None:
    """Which values huge ones would hide; None where there are no huge ones, no others, or some in between."""
    if DType.of(expected.dtype).is_integer:
        return None  # equal, or within one step
    if expected.dtype.kind == "f" and expected.size and max(expected.max(), -expected.min()) < _HUGE:
        return None  # as nearly always, without a copy
    magnitude = _sizes(expected)
    top = float(np.max(magnitude, initial=0.0))
    if top < _HUGE:
        return None
    small = magnitude <= top / _GAP
    largest = float(np.max(magnitude, initial=0.0, where=small))
    least = float(np.min(magnitude, initial=top, where=~small))
    below: Array = small
    return below if small.any() and largest * _GAP < least else None


def scales(expected: Array) -> Array:
    """What the difference of each element is relative to: the largest one, or the largest below a gap."""
    sizes = _sizes(expected)
    top = float(np.max(sizes, initial=0.0))
    below = below_gap(expected)
    if below is None:
        return np.full(expected.shape, top)
    # Beside huge elements not even what should be 0 is exact.
    return np.where(below, float(np.max(sizes, initial=0.0, where=below)) or top / _GAP, top)


def _sizes(array: Array) -> Array:
    """Absolute values, 0 for what is not finite."""
    return np.nan_to_num(np.abs(array.astype(_wide(array))), nan=0.0, posinf=0.0)


def _of_largest(actual: Array, expected: Array, allowed: Tolerance) -> Distance:
    """The largest difference over the largest value."""
    if expected.dtype in (np.float32, np.float64):
        with np.errstate(all="ignore"):
            difference = np.abs(actual - expected)
            error = float(np.max(difference, initial=0.0))
        if np.isfinite(error):  # so all are finite; the difference of neighbours is exact
            scale = float(max(np.max(expected, initial=0.0), -np.min(expected, initial=0.0)))
            fault = Distance(error / scale if scale else error, allowed)
            return replace(fault, detail=_at(actual, expected, difference)) if fault.is_fault else fault
    wide = _wide(expected)
    a, b = actual.astype(wide), expected.astype(wide)
    finite = np.isfinite(b)
    strange = (finite != np.isfinite(a)) | (~finite & ~((a == b) | (np.isnan(a) & np.isnan(b))))
    if strange.any():
        return Distance(float("inf"), allowed, _at(actual, expected, strange))
    with np.errstate(invalid="ignore"):
        difference = np.where(finite, np.abs(a - b), 0.0)
    if expected.dtype.kind in "iu" and expected.dtype.itemsize == 8:  # more digits than a float has
        wraps = np.maximum(actual, expected).astype(np.uint64) - np.minimum(actual, expected).astype(
            np.uint64
        )
        difference = wraps.astype(np.float64)
    error = float(np.max(difference, initial=0.0))
    scale = float(np.max(np.abs(b[finite]), initial=0.0))
    return Distance(error / scale if scale else error, allowed, _at(actual, expected, difference))


def _wide(array: Array) -> type[np.complex128 | np.float64]:
    return np.complex128 if array.dtype.kind == "c" else np.float64


def _at(actual: Array, expected: Array, weight: Array) -> str:
    """Where ``weight`` is largest, and the two values there."""
    if not weight.size or not np.any(weight):
        return ""
    place = np.unravel_index(int(np.argmax(weight)), weight.shape)
    index = f"[{', '.join(map(str, map(int, place)))}]" if place else ""
    return f"{_text(actual[place])} for {_text(expected[place])}{f' at {index}' if index else ''}"


def _text(item: Any) -> str:
    return f"{item:.7g}" if isinstance(item, np.floating) else str(item)


def _kind(result: Any) -> str:
    if isinstance(result, np.ndarray):
        return f"{result.dtype}{list(result.shape)}"
    return f"a list of {len(result)}" if isinstance(result, list | tuple) else type(result).__name__
