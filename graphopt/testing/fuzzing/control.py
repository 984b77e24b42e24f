"""Motifs: branches and loops, whose bodies are random graphs in turn."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.graph import Region, Value
from graphopt.ir.types import DType, tensor
from graphopt.testing.fuzzing import elementwise
from graphopt.testing.fuzzing.sketch import Sketch, shape_of

_INSIDE = (elementwise.unary, elementwise.with_constant, elementwise.neutral, elementwise.repeated,
           elementwise.folded, elementwise.twice, elementwise.decided)  # fmt: skip
_DEEPEST = 2


def _some(s: Sketch, x: Value) -> Any:
    """A few nodes, then a value of the type of ``x``."""
    for _ in range(s.number(0, 2)):
        if s.depth < _DEEPEST and s.chance(15):
            branches(s)
        else:
            s.choice(_INSIDE)(s)
    return s(s.choice(("Neg", "Relu", "Abs", "Tanh")), x)


def branches(s: Sketch) -> object:
    """An If whose condition is constant, follows from a rank or a size, or is given."""
    x = s.value(rank=(1, 3))
    kind = s.number(0, 4)
    if kind == 0:
        condition = s.const(s.chance(), dtype=bool)
    elif kind == 1:
        rank = s("Size", s("Shape", x))
        condition = s("Equal", rank, s.const(len(shape_of(x)) - s.number(0, 1), dtype=np.int64))
    elif kind == 2:
        condition = s("Not", s("Not", s.const([s.chance()], dtype=bool)))
    elif kind == 3:
        condition = s("Greater", s("ReduceSum", x, keepdims=0), s.constant(kind="zeros"))
    else:
        condition = s.new_input(DType.BOOL, (), f"flag{len(s.graph.inputs)}")
    return s.branch(
        "If", condition,
        then_branch=((), lambda _: [_some(s, x)]),
        else_branch=((), lambda _: [x if s.chance(30) else _some(s, x)]),
    )  # fmt: skip


def loop(s: Sketch) -> object:
    """A Loop of a few rounds with one carried value, which reads values from outside."""
    x = s.value(rank=(1, 2))
    rounds = s.const(s.choice((2, 1, 3, 0)), dtype=np.int64)

    def body(region: Region) -> list[Value]:
        _, again, carried = region.inputs
        s.pool.append(carried)
        return [s("Identity", again), _some(s, carried)]

    parameters = [("i", tensor("i64")), ("again", tensor("bool")), ("carried", x.type)]
    return s.branch("Loop", rounds, s.const(True, dtype=bool), x, body=(parameters, body))


MOTIFS = (branches, loop)
