"""Loops for operators that reduce along some axes: rows, folds over them, and second walks.

The axes of a value fall into kept ones and reduced ones. A *row* is all elements with the same
kept indices. Where memory is contiguous along a reduced axis, one row is walked in vectors and the
lanes are folded at the end; where it is contiguous along a kept axis, a vector of neighbouring rows
is walked at once and no lanes meet.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm.sym
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.emitters.places import View
from graphopt.backend.emitters.registry import Touch, Work
from graphopt.backend.emitters.row import Row
from graphopt.backend.emitters.staged_row import StagedRow
from graphopt.backend.kernels.emit import i64, serial
from graphopt.backend.nests import Group, bits_of, emit_outer, merge
from graphopt.backend.readers import flat_offset
from graphopt.backend.region import dtype_of
from graphopt.backend.symbolic import Expr
from graphopt.ir.graph import Value

_ZERO = tirx.IntImm("int64", 0)


def view_of(work: Work, value: Value) -> View:
    """A value in its own shape."""
    return View(work.shape(value), lambda indices: work.context.read(value, indices), dtype_of(value))


def emit_rows(
    work: Work,
    view: View | Value,
    axes: frozenset[int],
    body: Callable[[Row], None],
    touch: Touch,
    *,
    cost: int = 4,
) -> None:
    """Emits ``body`` once for every row of ``view`` along ``axes`` (reduced together).

    ``touch(indices)`` reads whatever ``body`` reads beside ``view``'s elements, sinks included; from
    that it is known which dimensions can be walked as one.

    ``cost`` is how much an element costs, in loads and stores, to judge what is worth threads.
    """
    view = view_of(work, view) if isinstance(view, Value) else view
    if work.stages is not None:
        body(StagedRow(work, view, axes, work.stages))
        return
    groups, reduced, lanes = _analyzed(work, view, axes, touch)
    kept = [n for n in range(len(groups)) if n not in reduced]
    across = bool(kept) and (not reduced or kept[-1] > reduced[-1])
    if not reduced:
        # Rows of one element: fold over a dimension of extent 1.
        groups.append(Group(1, [], [None] * len(groups[0].coefficients) if groups else []))
        reduced = [len(groups) - 1]
    size: Expr = i64(1)
    for number in reduced:
        size = size * i64(groups[number].extent)
    outer = [n for n in kept if not (across and n == kept[-1])]

    def run(at: dict[int, Expr]) -> None:
        if not across:
            body(Row(work, view, at, groups, reduced, None, lanes))
            return
        number = kept[-1]

        def block(width: int, first: Expr) -> None:
            body(Row(work, view, at, groups, reduced, number, width, first))

        emit_blocks(groups[number].extent, lanes, block)

    inner = size * i64(groups[kept[-1]].extent) if across else size
    emit_outer({n: groups[n].extent for n in outer}, tvm.sym.Analyzer().simplify(inner), run, cost=cost)


def _analyzed(
    work: Work, view: View, axes: frozenset[int], touch: Touch
) -> tuple[list[Group], list[int], int]:
    """Groups of dimensions, the numbers of those that are reduced, and the vector length."""
    context = work.context
    shape = view.shape
    variables = [tirx.Var(f"i{axis}", "int64") for axis in range(len(shape))]
    with context.tracing() as trace:
        view.read(variables)
        touch(tuple(variables))
    # An offset that counts only kept dimensions keeps the two kinds apart.
    kept_shape = [extent if axis not in axes else i64(1) for axis, extent in enumerate(shape)]
    kept = [variables[axis] if axis not in axes else _ZERO for axis in range(len(shape))]
    reduced_index = [variables[axis] if axis in axes else _ZERO for axis in range(len(shape))]
    reduced_shape = [extent if axis in axes else i64(1) for axis, extent in enumerate(shape)]
    offsets = [
        flat_offset(kept, kept_shape),
        flat_offset(reduced_index, reduced_shape),
        flat_offset(variables, shape),
        *(offset for _, offset in trace.loads),
    ]
    groups = merge(variables, shape, offsets, trace.others)
    reduced = [n for n, group in enumerate(groups) if group.dims[-1] in axes]
    widest = max([bits_of(dtype) for dtype, _ in trace.loads] + [bits_of(view.dtype), 32])
    return groups, reduced, max(work.target.vector_bits // widest, 2)


def emit_blocks(extent: Expr, lanes: int, block: Callable[[int, Expr], None]) -> None:
    """Vectors of rows; the last one overlaps the one before it, as storing twice is harmless."""
    if not isinstance(extent, int):
        with T.If(extent >= lanes):
            with T.Then(), serial((extent + (lanes - 1)) // lanes) as i:
                block(lanes, tirx.min(i * lanes, extent - lanes))
            with T.Else(), serial(extent) as i:
                block(1, i)
        return
    while lanes > extent:
        lanes //= 2
    count = -(-extent // lanes)
    if count == 1:
        block(lanes, _ZERO)
        return
    with serial(count) as i:
        block(lanes, i * lanes if extent % lanes == 0 else tirx.min(i * lanes, i64(extent - lanes)))
