"""Loops for operators that reduce along some axes: rows, folds over them, and second walks.

The axes of a value fall into kept ones and reduced ones. A *row* is all elements with the same
kept indices. Where memory is contiguous along a reduced axis, one row is walked in vectors and the
lanes are folded at the end; where it is contiguous along a kept axis, a vector of neighbouring rows
is walked at once and no lanes meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import tvm.sym
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.emitters.registry import Touch, Work
from graphopt.backend.kernels.emit import i64, register, serial, static
from graphopt.backend.kernels.temporaries import scratch, vectorized
from graphopt.backend.nests import Group, bits_of, emit_outer, emit_vectors, merge
from graphopt.backend.readers import flat_offset, variables_of
from graphopt.backend.region import dtype_of
from graphopt.backend.symbolic import Expr, type_of
from graphopt.ir.graph import Value

_ZERO = tirx.IntImm("int64", 0)
Combine = Callable[[Expr, Expr], Expr]
Element = Callable[["Place"], Expr]


def add(x: Expr, y: Expr) -> Expr:
    """The sum, as what a fold combines with."""
    return x + y


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


def view_of(work: Work, value: Value) -> View:
    """A value in its own shape."""
    return View(work.shape(value), lambda indices: work.context.read(value, indices), dtype_of(value))


@dataclass
class Row:
    """The row, or the vector of rows, that is being computed."""

    work: Work
    view: View
    kept: dict[int, Expr]
    groups: list[Group]
    reduced: list[int]
    vector: int | None
    """The kept group that is walked in vectors; None: the last reduced group is."""
    lanes: int
    first: Expr = field(default=_ZERO)

    def count(self) -> Expr:
        """Elements in one row."""
        total: Expr = i64(1)
        for number in self.reduced:
            total = total * i64(self.groups[number].extent)
        return tvm.sym.Analyzer().simplify(total)

    def fold(self, combine: Combine, identity: Expr, element: Element) -> Callable[[Place], Expr]:
        """Combines ``element`` over the row; gives what reads the result at a place."""
        dtype = type_of(identity)
        if self.vector is not None:
            return self._fold_across(combine, identity, element, dtype)
        return self._fold_along(combine, identity, element, dtype)

    def each(self, body: Callable[[Place], None]) -> None:
        """Emits ``body`` for every element of the row."""
        if self.vector is not None:
            with ExitStack() as stack:
                at = self._enter(stack, self.reduced)
                self._lanes(lambda lane: body(self._place(at, lane)))
            return
        with ExitStack() as stack:
            at = self._enter(stack, self.reduced[:-1])
            self._line(self.lanes, lambda j: body(self._place({**at, self.reduced[-1]: j}, _ZERO)))

    def keep(self, dtype: str, element: Element) -> Callable[[Place], Expr]:
        """Computes ``element`` for the whole row into scratch; gives what reads it at a place."""
        width = self.lanes if self.vector is not None else 1
        buffer = scratch(self.count() * width, dtype)

        def offset(place: Place) -> Expr:
            return place.position * width + place.lane

        closed = self.work.context.closed
        self.each(lambda place: T.buffer_store(buffer, closed(lambda: element(place)), [offset(place)]))
        return lambda place: buffer[offset(place)]

    def once(self, body: Callable[[Place], None]) -> None:
        """Emits ``body`` for each row, at its first element."""
        at = dict.fromkeys(self.reduced, _ZERO)
        if self.vector is not None:
            self._lanes(lambda lane: body(self._place(at, lane)))
        else:
            self.work.context.vector_variables = frozenset()
            body(self._place(at, _ZERO))

    def _fold_across(
        self, combine: Combine, identity: Expr, element: Element, dtype: str
    ) -> Callable[[Place], Expr]:
        total = register(self.lanes, dtype)
        self._lanes(lambda lane: T.buffer_store(total, identity, [lane]))
        with ExitStack() as stack:
            at = self._enter(stack, self.reduced)

            def step(lane: Expr) -> None:
                place = self._place(at, lane)
                x = self.work.context.closed(lambda: combine(total[lane], element(place)))
                T.buffer_store(total, x, [lane])

            self._lanes(step)
        return lambda place: total[place.lane]

    def _fold_along(
        self, combine: Combine, identity: Expr, element: Element, dtype: str
    ) -> Callable[[Place], Expr]:
        extent = self.groups[self.reduced[-1]].extent
        total = register(1, dtype)
        T.buffer_store(total, identity, [0])

        def element_at(at: dict[int, Expr], j: Expr) -> Expr:
            return element(self._place({**at, self.reduced[-1]: j}, _ZERO))

        wide = self.lanes * 4
        many = not isinstance(extent, int) or extent >= wide
        if not isinstance(extent, int) or extent >= self.lanes:
            lanes = wide if many else self.lanes
            sums = register(lanes, dtype)
            with vectorized(lanes) as lane:
                T.buffer_store(sums, identity, [lane])
            with ExitStack() as stack:
                at = self._enter(stack, self.reduced[:-1])
                for width in (wide, self.lanes) if many else (self.lanes,):
                    self._fold_vectors(
                        sums, width, wide if width < lanes else None, extent, combine, at, element_at
                    )
                self._fold_rest(total, extent, combine, at, element_at)
            self._fold_lanes(sums, lanes, total, combine)
        else:
            with ExitStack() as stack:
                at = self._enter(stack, self.reduced[:-1])
                self._fold_rest(total, extent, combine, at, element_at)
        return lambda place: total[0]

    def _fold_vectors(
        self,
        sums: Any,
        width: int,
        after: int | None,
        extent: Expr,
        combine: Combine,
        at: dict[int, Expr],
        element_at: Callable[[dict[int, Expr], Expr], Expr],
    ) -> None:
        """Adds whole vectors of ``width``; with ``after`` only those behind the last whole one of that width."""
        first = 0 if after is None else extent // after * after
        count = static((extent - first) // width)
        if isinstance(count, int) and count == 0:
            return
        with serial(count) as i, vectorized(width) as lane:
            j = i64(first) + i * width + lane.astype("int64")
            self.work.context.vector_variables = variables_of(j)
            x = self.work.context.closed(lambda: combine(sums[lane], element_at(at, j)))
            T.buffer_store(sums, x, [lane])
        self.work.context.vector_variables = frozenset()

    def _fold_rest(
        self,
        total: Any,
        extent: Expr,
        combine: Combine,
        at: dict[int, Expr],
        element_at: Callable[[dict[int, Expr], Expr], Expr],
    ) -> None:
        """Adds the elements behind the last whole vector one by one."""
        lanes = self.lanes
        first = extent // lanes * lanes
        if isinstance(extent, int) and first == extent:
            return
        with serial(extent - first) as k:
            x = self.work.context.closed(lambda: combine(total[0], element_at(at, i64(first) + k)))
            T.buffer_store(total, x, [0])

    def _fold_lanes(self, sums: Any, lanes: int, total: Any, combine: Combine) -> None:
        """Halves the vector until one lane is left."""
        while lanes > 1:
            lanes //= 2
            if lanes == 1:
                T.buffer_store(sums, combine(sums[0], sums[1]), [0])
                break
            with vectorized(lanes) as lane:
                T.buffer_store(sums, combine(sums[lane], sums[lane + lanes]), [lane])
        T.buffer_store(total, combine(total[0], sums[0]), [0])

    def _lanes(self, body: Callable[[Expr], None]) -> None:
        with in_lanes(self.work, self.lanes) as lane:
            body(lane)

    def _line(self, lanes: int, body: Callable[[Expr], None]) -> None:
        emit_vectors(self.work.context, self.groups[self.reduced[-1]].extent, lanes, body)

    def _enter(self, stack: ExitStack, numbers: Sequence[int]) -> dict[int, Expr]:
        return {n: stack.enter_context(serial(self.groups[n].extent)) for n in numbers}

    def _place(self, at: dict[int, Expr], lane: Expr) -> Place:
        indices: list[Expr] = [_ZERO] * len(self.view.shape)
        for number, index in (self.kept | at).items():
            self.groups[number].place(index, indices)
        if self.vector is not None:
            self.groups[self.vector].place(self.first + lane, indices)
        position = flat_offset(
            [at[n] for n in self.reduced], [i64(self.groups[n].extent) for n in self.reduced]
        )
        return Place(tuple(indices), position, lane)


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
        from graphopt.backend.emitters.stages import StagedRow

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


@contextmanager
def in_lanes(work: Work, lanes: int) -> Iterator[Expr]:
    """A vectorised loop; gives the lane as an index."""
    if lanes == 1:
        yield _ZERO
        return
    with vectorized(lanes) as lane:
        work.context.vector_variables = variables_of(lane)
        yield lane.astype("int64")
    work.context.vector_variables = frozenset()


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
