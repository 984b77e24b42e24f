"""Recurrent layers: RNN, GRU, LSTM."""

from __future__ import annotations

from graphopt.ir.dims import Dim, Shape
from graphopt.ir.graph import Node
from graphopt.ir.types import TensorType, Type
from graphopt.ops.access import bad_attr, fresh, integer, rank_of, same_dtype, text
from graphopt.ops.registry import Kind, declare

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Blocks of rows in W and in R, one for each gate."""


@declare(Kind.HEAVY, "GRU", "LSTM", "RNN")
def recurrent(node: Node) -> list[Type]:
    """(steps, batch, input) to (steps, directions, batch, hidden) and the last states; ``layout`` 1 puts
    the batch first."""
    dtype = same_dtype(node, (0, 1, 2))
    x, recurrence = rank_of(node, 0, 3), rank_of(node, 2, 3)
    direction = text(node, "direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise bad_attr(node, "direction", "forward, reverse or bidirectional")
    directions = 2 if direction == "bidirectional" else 1
    hidden: Dim = integer(node, "hidden_size", 0)
    if not hidden:
        hidden = fresh(node, 0, 3) if recurrence is None else recurrence[2]
    batch_first = integer(node, "layout", 0)
    first, second = (fresh(node, 0, 0), fresh(node, 0, 1)) if x is None else x[:2]
    whole: Shape
    state: Shape
    if batch_first:
        whole, state = (first, second, directions, hidden), (first, directions, hidden)
    else:
        whole, state = (first, directions, second, hidden), (directions, second, hidden)
    last = TensorType(dtype, state)
    return [TensorType(dtype, whole), last, last]
