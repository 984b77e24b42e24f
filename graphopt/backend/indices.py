"""Constant indices and lengths are checked as sizes are; those that are data are clamped when it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from graphopt.backend.refusal import refuse
from graphopt.backend.region import shape_of
from graphopt.backend.size_facts import Fact
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Value
from graphopt.ir.tensor import Tensor
from graphopt.ops.content import outer_value
from graphopt.ops.recurrent import GATES

_ALONG_AXIS = frozenset({"Gather", "GatherElements", "ScatterElements"})
_TUPLES = frozenset({"GatherND", "ScatterND"})

Known = Callable[[Value], Tensor | None]


def index_facts(node: Node, known: Known) -> Iterator[Fact]:
    """How large the constant indices and lengths of ``node`` need symbolic axes to be.

    Args:
        known: gives the data of the root's values that are constant.

    Raises:
        CompileError: a constant is out of the range of an axis whose size is a number.
    """
    for axis, extent, low, high in _indexed(node, known):
        if not isinstance(extent, int):
            yield Fact("at least", extent, max(high + 1, -low), f"what constants index, axis {axis}")
        elif low < -extent or high >= extent:
            wrong = low if low < -extent else high
            raise refuse(node, f"index {wrong} of axis {axis}, which has {extent} elements")
    for axis, extent, low, high in _measured(node, known):
        if low < 0 or (isinstance(extent, int) and high > extent):
            wrong = low if low < 0 else high
            raise refuse(node, f"length {wrong} along axis {axis}, which has {extent} elements")
        yield Fact("at least", extent, high, f"axis {axis} and constant lengths")


Span = tuple[int, Dim, int, int]
"""An axis, how many elements it has, the smallest and the largest number that points into it."""


def _indexed(node: Node, known: Known) -> Iterator[Span]:
    if node.op not in _ALONG_AXIS | _TUPLES:
        return
    data, positions = node.inputs[:2]
    assert data is not None
    constant = _constant(positions, known)
    if constant is None:
        return
    shape, indices = shape_of(data), constant.numpy()
    if node.op in _ALONG_AXIS:
        axis = cast(int, node.attrs.get("axis", 0)) % len(shape)
        yield axis, shape[axis], int(indices.min()), int(indices.max())
        return
    batch = cast(int, node.attrs.get("batch_dims", 0))
    for place in range(indices.shape[-1]):
        column = indices[..., place]
        yield batch + place, shape[batch + place], int(column.min()), int(column.max())


def _measured(node: Node, known: Known) -> Iterator[Span]:
    if node.op in GATES:
        axis, position = (1 if node.attrs.get("layout", 0) else 0), 4
    elif node.op == "ReverseSequence":
        axis, position = cast(int, node.attrs.get("time_axis", 0)), 1
    else:
        return
    data, constant = node.inputs[0], _constant(node.input(position), known)
    assert data is not None
    if constant is not None:
        lengths = constant.numpy()
        yield axis, shape_of(data)[axis], int(lengths.min()), int(lengths.max())


def _constant(value: Value | None, known: Known) -> Tensor | None:
    """Data of a value, seen also from the body of a fused node; None where there are no elements."""
    while value is not None:
        data = known(value)
        if data is not None:
            return data if data.size else None
        value = outer_value(value)
    return None
