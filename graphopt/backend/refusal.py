"""The error of a node that no code can be made for."""

from __future__ import annotations

from graphopt.errors import CompileError
from graphopt.ir.graph import Node


def refuse(node: Node, reason: str, hint: str | None = None) -> CompileError:
    """The error that ``node`` can't be compiled."""
    return CompileError(f"{node.label} can't be compiled: {reason}", hint=hint)
