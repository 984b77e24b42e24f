"""Attention: softmax(Q K' * scale + mask) V, a block of queries at a time.

For each matrix of the batch, K and V are brought into panels; then for each block of queries the
scores of that block alone are computed into scratch, made into weights row by row, and multiplied
with V. The sums that the weights are divided by are applied to the results, which are fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.emitters.attention_region import Attention
from graphopt.backend.emitters.matmul import Matrices, lies_transposed, matrices
from graphopt.backend.emitters.registry import Work
from graphopt.backend.kernels.arithmetic import Arithmetic, float_arithmetic
from graphopt.backend.kernels.emit import (
    at_most,
    bind,
    ceil_div,
    i64,
    loop_for,
    product,
    register,
    serial,
    static,
    unflatten,
    whole_or_tail,
    workspace,
)
from graphopt.backend.kernels.knobs import choose
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.math import bound_by, exp_of_negative
from graphopt.backend.kernels.panels import Panel, emit_pack_panel, emit_tile_product
from graphopt.backend.kernels.temporaries import temporary, vectorized
from graphopt.backend.kernels.tiling import choose_tile, rank_tiles, tile_cycles
from graphopt.backend.readers import Memory, flat_offset, variables_of
from graphopt.backend.readers.movement import operand
from graphopt.backend.symbolic import Expr
from graphopt.ir.graph import Node, Value

_QUERIES = (8, 32)
"""The fewest and the most queries of a block."""


def emit_attention(work: Work, attention: Attention, out: Any) -> None:
    """Emits an attention whose result goes to the flat buffer ``out``."""
    _Kernel.of(work, attention, out).emit()


def _vectors(extent: Expr, lanes: int) -> int | None:
    return -(-extent // lanes) if isinstance(extent, int) else None


def block_of_queries(machine: Machine, queries: Expr, widths: tuple[int | None, int | None]) -> int:
    """How many queries are done at once: as register tiles for ``widths`` (vectors of both products) fit best."""
    low, high = _QUERIES
    if isinstance(queries, int) and queries <= low:
        return max(queries, 1)

    def cycles(rows: int) -> float:
        blocks = -(-queries // rows) if isinstance(queries, int) else 1 / rows
        total = 0.0
        for width in widths:
            tile = rank_tiles(machine, rows, width)[0]
            full, tail = divmod(rows, tile.rows)
            one = full * tile_cycles(tile.rows, tile.vectors)
            total += (one + (tile_cycles(tail, tile.vectors) if tail else 0)) / tile.vectors
        return blocks * total

    most = min(high, queries) if isinstance(queries, int) else high
    return choose(machine, "queries", sorted(range(low, most + 1), key=lambda rows: (cycles(rows), -rows)))


@dataclass(frozen=True)
class _Kernel:
    work: Work
    parts: Attention
    out: Any
    arithmetic: Arithmetic
    scores: Matrices
    result: Matrices
    batch: tuple[Expr, ...]
    queries: Expr
    keys: Expr
    depth: Expr
    columns: Expr
    rows: int
    """Queries of a block."""

    @classmethod
    def of(cls, work: Work, parts: Attention, out: Any) -> _Kernel:
        arithmetic = float_arithmetic(work.machine, "float32")
        scores, result = matrices(work, parts.scores), matrices(work, parts.result)
        extent = work.context.extent
        queries, keys, depth = (static(extent(d)) for d in (scores.m, scores.n, scores.k))
        columns = static(extent(result.n))
        widths = _vectors(keys, arithmetic.lanes), _vectors(columns, arithmetic.lanes)
        rows = block_of_queries(work.machine, queries, widths)
        batch = tuple(static(extent(dim)) for dim in result.batch)
        return cls(work, parts, out, arithmetic, scores, result, batch, queries, keys, depth, columns, rows)

    def emit(self) -> None:
        """Emits everything."""
        lanes, machine = self.arithmetic.lanes, self.work.machine
        first = choose_tile(machine, self.rows, _vectors(self.keys, lanes))
        second = choose_tile(machine, self.rows, _vectors(self.columns, lanes))
        widths = first.vectors * lanes, second.vectors * lanes
        panels = ceil_div(self.keys, widths[0]), ceil_div(self.columns, widths[1])
        stride = bind(i64(panels[0]) * widths[0])
        sizes = [
            panels[0] * widths[0] * self.depth,
            panels[1] * widths[1] * self.keys,
            self.rows * self.depth,
            self.rows * stride,
            self.rows,
        ]
        flops = product(self.batch) * self.queries * (self.keys * (self.depth + self.columns))
        with loop_for(flops)(product(self.batch)) as item, workspace(sum(map(i64, sizes)), "float32") as room:
            at = tuple(bind(i) for i in unflatten(item, self.batch))
            starts = [bind(sum(map(i64, sizes[:n]), start=i64(0))) for n in range(len(sizes))]
            self._pack(
                room,
                starts[0],
                (self.keys, widths[0], self.depth),
                self._element(self.parts.scores, self.scores, at),
            )
            self._pack(
                room,
                starts[1],
                (self.columns, widths[1], self.keys),
                self._element(self.parts.result, self.result, at),
            )
            self._for_blocks(
                lambda start, rows: _Block(
                    self, room, starts, at, start, rows, (first.rows, second.rows), widths, stride
                ).emit()
            )

    def _element(
        self, node: Node, shape: Matrices, at: tuple[Expr, ...]
    ) -> tuple[Callable[[Expr, Expr], Expr], bool]:
        context, value = self.work.context, operand(node, 1)

        def read(k: Expr, j: Expr) -> Expr:
            return context.closed(lambda: context.read(value, shape.right((*at, i64(k), i64(j)))))

        return read, lies_transposed(self.work, value, shape)

    def _pack(
        self,
        room: Any,
        start: Expr,
        sizes: tuple[Expr, int, Expr],
        source: tuple[Callable[[Expr, Expr], Expr], bool],
    ) -> None:
        """Brings a matrix into panels."""
        extent, width, depth = sizes
        read, across = source
        with serial(ceil_div(extent, width)) as index:
            panel = Panel(room, bind(start + index * width * depth), width, depth)
            whole_or_tail(
                index,
                extent,
                width,
                lambda columns: emit_pack_panel(
                    self.arithmetic, panel, columns, lambda k, j: read(k, index * width + j), across
                ),
            )

    def _for_blocks(self, body: Callable[[Expr, int], None]) -> None:
        """body(first, count) for blocks of queries; the last one overlaps the one before it."""
        queries, rows = self.queries, self.rows
        if isinstance(queries, int):
            with serial(-(-queries // rows)) as block:
                body(bind(at_most(block * rows, i64(queries - rows))), rows)
            return
        with T.If(queries >= rows):
            with T.Then(), serial(ceil_div(queries, rows)) as block:
                body(bind(at_most(block * rows, queries - rows)), rows)
            with T.Else(), serial(queries) as query:
                body(query, 1)


@dataclass(frozen=True)
class _Block:
    """One block of queries of one matrix of the batch."""

    kernel: _Kernel
    room: Any
    starts: list[Expr]
    at: tuple[Expr, ...]
    first: Expr
    rows: int
    tiles: tuple[int, int]
    widths: tuple[int, int]
    stride: Expr

    def emit(self) -> None:
        """Scores, weights, results."""
        kernel = self.kernel
        keys, values, queries, scores, factors = self.starts
        context, depth = kernel.work.context, kernel.depth

        def query(m: Expr, k: Expr) -> None:
            at = kernel.scores.left((*self.at, self.first + m, k))
            value = context.closed(lambda: context.read(operand(kernel.parts.scores, 0), at))
            T.buffer_store(self.room, value, [queries + m * depth + k])

        with serial(self.rows) as m:
            _in_vectors(depth, kernel.arithmetic.lanes, lambda k: query(m, k))
        self._product(
            0,
            Panel(self.room, keys, self.widths[0], depth),
            kernel.keys,
            lambda m, k: self.room[queries + m * depth + k],
            self._store_score,
        )
        with serial(self.rows) as m:
            self._weigh(m, bind(scores + m * self.stride), factors)
        self._product(
            1,
            Panel(self.room, values, self.widths[1], kernel.keys),
            kernel.columns,
            lambda m, k: self.room[scores + m * self.stride + k],
            self._store_result,
        )

    def _product(
        self,
        number: int,
        panels: Panel,
        columns: Expr,
        scalar: Callable[[Expr, Expr], Expr],
        store: Callable[[Expr, Expr, Expr], None],
    ) -> None:
        """All rows of the block times a matrix in panels."""
        width, most = self.widths[number], min(self.tiles[number], self.rows)
        with serial(ceil_div(columns, width)) as index:
            panel = Panel(
                panels.buffer, bind(panels.start + index * width * panels.depth), width, panels.depth
            )

            def tile(start: Expr, rows: int, count: Expr) -> None:
                emit_tile_product(
                    self.kernel.arithmetic,
                    panel,
                    rows,
                    count,
                    lambda m, k: scalar(start + m, k),
                    lambda m, j, value: store(start + m, index * width + j, value),
                    scalars_are_weights=False,
                )

            def body(count: Expr) -> None:
                full, tail = divmod(self.rows, most)
                with serial(full) as block:
                    tile(block * most, most, count)
                if tail:
                    tile(i64(full * most), tail, count)

            whole_or_tail(index, columns, width, body)

    def _through(self, source: Value, final: Value, value: Expr, at: Sequence[Expr]) -> Expr:
        """``final`` at an index where ``source`` is ``value``."""
        context = self.kernel.work.context
        outer = context.vector_variables
        context.memory[source] = Memory(lambda _: value)
        context.vector_variables = frozenset[Expr]().union(*(variables_of(index) for index in at))
        result = context.expression(final, at)
        context.vector_variables = outer
        del context.memory[source]
        return result

    def _store_score(self, m: Expr, j: Expr, value: Expr) -> None:
        parts = self.kernel.parts
        final = operand(parts.softmax, 0)
        at = (*self.at, self.first + m, j)
        score = self._through(parts.scores.outputs[0], final, value, at)
        T.buffer_store(self.room, score, [self.starts[3] + m * self.stride + j])

    def _weigh(self, m: Expr, row: Expr, factors: Expr) -> None:
        """A row of scores becomes powers of e, and its factor what makes them add up to 1."""
        lanes, parts, keys = self.kernel.arithmetic.lanes, self.kernel.parts, self.kernel.keys
        room = self.room
        top = _folded(keys, lanes, tirx.max, -3.4028234663852886e38, lambda j: room[row + j])

        def power(j: Expr) -> None:
            T.buffer_store(room, exp_of_negative(room[row + j] - top), [row + j])

        with bound_by(temporary):
            _in_vectors(keys, lanes, power)
        total = _folded(keys, lanes, lambda x, y: x + y, 0.0, lambda j: room[row + j])
        factor = register(1, "float32")
        one = T.cast(1, "float32")
        # Over no keys the sum is 0, and so is each result.
        T.buffer_store(factor, tirx.Select(tirx.EQ(i64(keys), i64(0)), one, one / total), [0])
        weights, given = parts.softmax.outputs[0], operand(parts.result, 0)
        if given is not weights:
            at = (*self.at, self.first + m)
            _in_vectors(
                keys,
                lanes,
                lambda j: T.buffer_store(
                    room, self._through(weights, given, room[row + j] * factor[0], (*at, j)), [row + j]
                ),
            )
        else:
            T.buffer_store(room, factor[0], [factors + m])

    def _store_result(self, m: Expr, j: Expr, value: Expr) -> None:
        kernel, parts = self.kernel, self.kernel.parts
        if operand(parts.result, 0) is parts.softmax.outputs[0]:
            value = value * self.room[self.starts[4] + m]
        at = kernel.result.out((*self.at, self.first + m, j))
        final = parts.result.outputs[0]
        if parts.transpose is not None:
            final = parts.transpose.outputs[0]
            order = parts.transpose.attrs.get("perm") or tuple(reversed(range(len(at))))
            at = [at[axis] for axis in order]  # type: ignore[index, union-attr]
        T.buffer_store(kernel.out, value, [flat_offset(at, kernel.work.shape(final))])


def _in_vectors(extent: Expr, lanes: int, body: Callable[[Expr], None]) -> None:
    """body(j) once for each j in [0, extent): whole vectors, then the rest one by one."""
    whole = extent // lanes
    if not isinstance(whole, int) or whole > 0:
        with serial(whole) as i, vectorized(lanes) as lane:
            body(i * lanes + lane)
    if not isinstance(extent, int) or extent % lanes:
        with serial(extent % lanes) as j:
            body(i64(whole * lanes) + j)


def _folded(
    extent: Expr,
    lanes: int,
    combine: Callable[[Expr, Expr], Expr],
    identity: float,
    element: Callable[[Expr], Expr],
) -> Expr:
    """``element`` combined over [0, extent)."""
    wide = lanes * 2
    sums, rest = register(wide, "float32"), register(1, "float32")
    start = tirx.const(identity, "float32")
    with vectorized(wide) as lane:
        T.buffer_store(sums, start, [lane])
    T.buffer_store(rest, start, [0])
    with serial(extent // wide) as i, vectorized(wide) as lane:
        T.buffer_store(sums, combine(sums[lane], element(i * wide + lane)), [lane])
    if not isinstance(extent, int) or extent % wide:
        with serial(extent % wide) as j:
            T.buffer_store(rest, combine(rest[0], element(i64(extent // wide * wide) + j)), [0])
    while wide > 2:
        wide //= 2
        with vectorized(wide) as lane:
            T.buffer_store(sums, combine(sums[lane], sums[lane + wide]), [lane])
    T.buffer_store(rest, combine(rest[0], combine(sums[0], sums[1])), [0])
    return rest[0]
