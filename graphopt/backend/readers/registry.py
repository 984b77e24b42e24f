"""The table of readers: for an operator, the scalar of an output at given indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from graphopt.backend.symbolic import Expr
from graphopt.errors import CompileError
from graphopt.ir.graph import Node

if TYPE_CHECKING:
    from graphopt.backend.readers.context import Context

Indices = tuple[Expr, ...]
Reader = Callable[["Context", Node, int, Indices], Expr]
"""reader(context, node, output index, indices) -> scalar expression of that output's element type."""

READERS: dict[str, Reader] = {}


def reader(*ops: str) -> Callable[[Reader], Reader]:
    """Enters a reader for standard operators."""

    def attach(function: Reader) -> Reader:
        for op in ops:
            READERS[op] = function
        return function

    return attach


def refuse(node: Node, reason: str, hint: str | None = None) -> CompileError:
    """The error that ``node`` can't be compiled."""
    return CompileError(f"{node.label} can't be compiled: {reason}", hint=hint)
