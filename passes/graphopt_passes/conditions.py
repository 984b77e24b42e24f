"""Conditions of rules that several passes share."""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.ir.graph import Value
from graphopt.ir.types import TensorType
from graphopt.rewrite import Match, Refusal, refuse


def number(value: float) -> Callable[[Value], bool]:
    """A condition: the constant has one element, about ``value``."""

    def holds(candidate: Value) -> bool:
        data = candidate.const
        if data is None or data.size != 1 or not data.dtype.is_float:
            return False
        return math.isclose(float(data.item()), value, rel_tol=1e-4)

    return holds


def same_type(a: Value, b: Value) -> bool:
    """Whether both have the same known element type and shape (equal symbols are equal sizes)."""
    known = isinstance(a.type, TensorType) and a.type.is_known
    return known and a.tensor.dtype is b.tensor.dtype and a.tensor.shape == b.tensor.shape


def keeps_type(match: Match) -> Refusal | None:
    """Refuses unless ``x`` has the type of the root's first output."""
    output = match.root.outputs[0]
    if same_type(match["x"], output):
        return None
    return refuse("{} is not known to have the type of {}", match["x"], output)
