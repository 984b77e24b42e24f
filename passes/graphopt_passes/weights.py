"""Weights: which constants multiply activations, and how names choose among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from graphopt.ir.graph import Graph, Node, Use, Value

_WEIGHT_INPUTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1, 0), "MatMul": (1, 0)}


def weight_uses(graph: Graph) -> Iterator[tuple[Use, Value]]:
    """Where a constant of floats is the weight of a Conv, ConvTranspose, Gemm or MatMul, in program order.

    Biases are no weights; neither are operands of rank 1.
    """
    for node in graph.walk():
        if node.domain or (node.parent is not None and node.parent.is_isolated):
            continue
        for index in _WEIGHT_INPUTS.get(node.op, ()):
            value = node.input(index)
            if value is not None and value.is_constant and is_matrix_of_floats(value):
                yield Use(node, index), value
                break


def is_matrix_of_floats(value: Value) -> bool:
    """Whether ``value`` is of floats and of rank 2 or more."""
    kind = value.tensor
    return kind.dtype is not None and kind.dtype.is_float and kind.dtype.bits >= 16 and (kind.rank or 0) >= 2


def is_chosen(node: Node, value: Value, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether shell patterns choose a layer by the name of its node, of its output or of its weight."""
    names = (node.name, node.outputs[0].name, value.name)
    return _any_matches(names, include) and not _any_matches(names, exclude)


def _any_matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)
