"""Numbers that rules are wrong about."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from graphopt.ir.tensor import Array
from graphopt.ir.types import DType

_SHARE = 0.35


def awkward(dtype: DType) -> Array:
    """Zeros of both signs, the ends of the type, NaN, infinities, subnormals."""
    if dtype is DType.BOOL:
        return np.array([False, True])
    if not dtype.is_float:
        ends = ml_dtypes.iinfo(dtype.numpy)
        return np.array([0, 1, ends.min, ends.max, ends.max - 1], dtype.numpy)
    limits = ml_dtypes.finfo(dtype.numpy)
    items = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, float(limits.tiny), float(limits.smallest_subnormal)]
    items += [
        float(limits.max),
        -float(limits.max),
        -float(limits.smallest_subnormal),
        2.5,
        -1.5,
        1e-30,
        1e30,
    ]
    with np.errstate(all="ignore"):
        return np.array(items).astype(dtype.numpy)


def sprinkle(array: Array, dtype: DType, rng: np.random.Generator) -> Array:
    """``array`` with about a third of it awkward."""
    odd = awkward(dtype)[rng.integers(0, len(awkward(dtype)), array.shape)]
    return np.asarray(np.where(rng.random(array.shape) < _SHARE, odd, array), dtype.numpy)
