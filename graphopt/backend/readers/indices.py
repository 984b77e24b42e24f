"""Indices of elements, and what they say of places in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from graphopt.backend.symbolic import Expr

ZERO = tirx.IntImm("int64", 0)
Indices = tuple[Expr, ...]


class Placed(tuple[Expr, ...]):
    """Indices whose row-major offset is known, so that it need not be computed back from them."""

    flat: Expr

    @classmethod
    def at(cls, indices: Sequence[Expr], flat: Expr) -> Placed:
        """``indices`` of the element at offset ``flat`` of the shape that they index."""
        placed = cls(indices)
        placed.flat = flat
        return placed


def flat_offset(indices: Sequence[Expr], extents: Sequence[Expr]) -> Expr:
    """Offset of an element in row-major order."""
    if isinstance(indices, Placed):
        return indices.flat
    offset: Expr = None
    for index, extent in zip(indices, extents, strict=True):
        offset = index if offset is None else offset * extent + index
    return ZERO if offset is None else offset


def variables_of(expression: Expr) -> frozenset[Expr]:
    """The variables in an expression."""
    if isinstance(expression, int):
        return frozenset()
    return frozenset(tirx.analysis.undefined_vars(tirx.Evaluate(expression), []))


def immediate(value: Any, dtype: str) -> Expr:
    """A number as an expression of type ``dtype``."""
    if dtype == "bool":
        return tirx.IntImm("bool", int(value))
    if "float" in dtype:
        return tirx.FloatImm(dtype, float(value))
    return tirx.const(int(value), dtype)
