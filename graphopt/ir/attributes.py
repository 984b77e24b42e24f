"""Attributes as a graph holds them, from what Python code gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np

from graphopt.ir.graph import Attr


def held(attrs: Mapping[str, object]) -> dict[str, Attr]:
    """``attrs`` with lists and arrays as tuples, NumPy's numbers as Python's, and floats in single precision, which
    is all that ONNX has for attributes: 0.01 is then the same number as in a file."""
    return {name: cast(Attr, _held(value)) for name, value in attrs.items()}


def _held(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(map(_held, value))
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        with np.errstate(over="ignore"):
            return float(np.float32(value))
    return value
