"""One row of a value, or a vector of neighbouring rows: folds, kept values and walks as loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import tvm.sym
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.emitters.places import Combine, Element, Place, View
from graphopt.backend.emitters.registry import Work
from graphopt.backend.kernels.emit import i64, register, serial, static
from graphopt.backend.kernels.temporaries import scratch, vectorized
from graphopt.backend.nests import Group, emit_vectors
from graphopt.backend.readers import flat_offset, variables_of
from graphopt.backend.symbolic import Expr, type_of

_ZERO = tirx.IntImm("int64", 0)


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
