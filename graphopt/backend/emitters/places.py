"""What walks over rows are made of: places, views, and what folds combine with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.backend.symbolic import Expr


@dataclass(frozen=True)
class Place:
    """One element of a row, while its loops are open."""

    indices: tuple[Expr, ...]
    """In the value that is reduced."""
    position: Expr
    """Number of the element within its row, in row-major order."""
    lane: Expr
    """Which of the rows that are walked at once; 0 where it is one row."""


@dataclass(frozen=True)
class View:
    """What is walked: extents, and how an element is read."""

    shape: list[Expr]
    read: Callable[[Sequence[Expr]], Expr]
    dtype: str


Combine = Callable[[Expr, Expr], Expr]
Element = Callable[[Place], Expr]


def add(x: Expr, y: Expr) -> Expr:
    """The sum, as what a fold combines with."""
    return x + y
