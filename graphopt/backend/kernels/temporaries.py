"""Vectorised loops in which values can be kept for use more than once.

Neither of TVM's ways to name a value serves here: its passes take exponential time over nested `Let`
expressions, and a `Bind` statement in a vectorised loop keeps the last lane only. So a value that is
used more than once goes through a local buffer of one element per lane, which LLVM keeps in a register.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

Expr: TypeAlias = Any  # a tirx expression
Buffer: TypeAlias = Any  # a tirx buffer


@dataclass
class _Loop:
    lanes: int
    lane: Expr = None
    buffers: list[Buffer] = field(default_factory=list)
    before: list[Any] = field(default_factory=list)
    """Statements that compute what is the same in all lanes."""


_OPEN: list[_Loop] = []


@contextmanager
def vectorized(lanes: int) -> Iterator[Expr]:
    """`T.vectorized`, with room for `temporary` values of its body; gives the lane."""
    loop = _Loop(lanes)
    with IRBuilder() as inner, T.vectorized(tirx.IntImm("int64", 0), tirx.IntImm("int64", lanes)) as lane:
        loop.lane = lane
        _OPEN.append(loop)
        try:
            yield lane
        finally:
            _OPEN.pop()
    for statement in loop.before:
        T.add_to_parent(statement)
    for buffer in loop.buffers:
        T.add_to_parent(tirx.AllocBuffer(buffer))
    T.add_to_parent(inner.get())


def open_lane() -> tuple[Expr, int] | None:
    """The lane of the innermost vectorised loop that is open, and how many there are."""
    return (_OPEN[-1].lane, _OPEN[-1].lanes) if _OPEN else None


def temporary(value: Expr) -> Expr:
    """An expression for `value` that costs nothing to use often; the value is computed here and now.

    What is the same in all lanes is computed before the loop, as one number: as a vector, an index would
    make a gather of every load.
    """
    dtype = str(value.ty)
    if not _OPEN:
        single = T.alloc_buffer((1,), dtype)
        T.buffer_store(single, value, [0])
        return single[0]
    loop = _OPEN[-1]
    if not any(loop.lane.same_as(v) for v in tirx.analysis.undefined_vars(tirx.Evaluate(value), [])):
        single = tirx.decl_buffer((1,), dtype, name="s")
        loop.before += [tirx.AllocBuffer(single), tirx.BufferStore(single, value, [0])]
        return single[0]
    # Not of scope "local", which in a parallel loop would come from the runtime's pool.
    buffer = tirx.decl_buffer((loop.lanes,), dtype, name="t")
    loop.buffers.append(buffer)
    T.buffer_store(buffer, value, [loop.lane])
    return buffer[loop.lane]


def scratch(size: Expr, dtype: str) -> Buffer:
    """A flat buffer of `size` elements until the loop or function that is open ends.

    Under an alias, which keeps TVM from looking for the part that is used: with symbolic sizes that
    takes minutes.
    """
    extent = tirx.IntImm("int64", size) if isinstance(size, int) else size
    allocated = T.alloc_buffer((extent,), dtype, align=64)
    return T.decl_buffer((extent,), dtype, data=allocated.data)
