"""Element types that compiled code computes with, by the names that manifests use."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

_NATIVE = (
    "bool",
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)
DTYPES = frozenset({*_NATIVE, "bfloat16"})


@functools.cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy type of an element type's name; bfloat16 is the one of ml_dtypes.

    Raises:
        KeyError: the name is none of :data:`DTYPES`.
    """
    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    if name not in DTYPES:
        raise KeyError(name)
    return np.dtype(name)


def itemsize(name: str) -> int:
    """Bytes of one element."""
    return 2 if name == "bfloat16" else numpy_dtype(name).itemsize
