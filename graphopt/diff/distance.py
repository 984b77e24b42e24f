"""How far the data of two constants lie apart."""

from __future__ import annotations

import numpy as np

from graphopt.diff.changes import Distance
from graphopt.errors import TextError
from graphopt.ir.tensor import Array, Tensor
from graphopt.ir.types import DType


def distance(a: Tensor, b: Tensor) -> Distance | None:
    """The distance of two constants; None when their types differ, they hold no numbers, or data is missing."""
    if a.dtype is not b.dtype or a.shape != b.shape or a.dtype is DType.STR:
        return None
    try:
        x, y = _numbers(a), _numbers(b)
    except TextError:  # A text whose data is not at hand.
        return None
    with np.errstate(all="ignore"):
        gap = np.abs(x - y)
        gap[(x == y) | (np.isnan(x) & np.isnan(y))] = 0  # Infinities, and what is not a number on both sides.
        largest = float(gap.max(initial=0.0))
        magnitudes = np.abs(x)
        scale = float(magnitudes[np.isfinite(magnitudes)].max(initial=0.0))
    relative = 0.0 if largest == 0 else largest / scale if scale else float("inf")
    return Distance(int(np.count_nonzero(gap)), a.size, largest, relative)


def _numbers(tensor: Tensor) -> Array:
    array = tensor.numpy()
    with np.errstate(all="ignore"):  # NaN with a payload.
        return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64).reshape(-1)
