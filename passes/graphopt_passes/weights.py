"""Weights: which constants multiply activations, and how names choose among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from graphopt.ir.graph import Graph, Node, Region, Use, Value

_WEIGHT_INPUTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1, 0), "MatMul": (1, 0)}


def weight_uses(graph: Graph) -> Iterator[tuple[Use, Value]]:
    """Where a constant of floats is the weight of a Conv, ConvTranspose, Gemm or MatMul, in program order.

    Biases are no weights; neither are operands of rank 1. A weight of a node inside a fused node is
    given where the fused node takes it.
    """
    for node in graph.walk():
        for index in () if node.domain else _WEIGHT_INPUTS.get(node.op, ()):
            use, value = _outside(Use(node, index), node.input(index))
            if value is not None and value.is_constant and is_matrix_of_floats(value):
                yield use, value
                break


def _outside(use: Use, value: Value | None) -> tuple[Use, Value | None]:
    region = value.owner if value is not None else None
    if value is None or not isinstance(region, Region) or not region.is_isolated:
        return use, value
    assert region.parent is not None
    return Use(region.parent, value.index), region.parent.inputs[value.index]


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
