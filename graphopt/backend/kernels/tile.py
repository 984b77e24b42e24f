"""The register tile: `rows` broadcast scalars times `vectors` vectors, summed over a reduction."""

from __future__ import annotations

from collections.abc import Callable

from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.arithmetic import Arithmetic
from graphopt.backend.kernels.emit import (
    Buffer,
    Expr,
    at_most,
    bind,
    ceil_div,
    i64,
    lanes_of,
    register,
    serial,
    store_lanes,
)
from graphopt.backend.kernels.temporaries import vectorized


class Tile:
    """Accumulators in registers. Emits: start, then `step`s and a `commit` inside the
    reduction loops, then use."""

    def __init__(self, arithmetic: Arithmetic, rows: int, vectors: int) -> None:
        self.arithmetic = arithmetic
        self.rows = rows
        self.vectors = vectors
        self.lanes = arithmetic.lanes
        self._accumulators: list[list[Buffer]] = [
            [register(self.lanes, arithmetic.accumulator) for _ in range(vectors)] for _ in range(rows)
        ]
        self._sums: list[list[Expr]] = [[self.vector(m, v) for v in range(vectors)] for m in range(rows)]

    def start(self, initial: Callable[[int, int], Expr] | None = None) -> None:
        """Set the accumulator of row m and vector v to the vector initial(m, v), zero by default."""
        zero = T.broadcast(T.cast(0, self.arithmetic.accumulator), self.lanes)
        for m, row in enumerate(self._accumulators):
            for v, accumulator in enumerate(row):
                store_lanes(accumulator, 0, self.lanes, zero if initial is None else initial(m, v))

    def step(self, vectors: list[Expr], scalar: Callable[[int], Expr], scalars_are_weights: bool) -> None:
        """One reduction step: row m gains vectors[v] * scalar(m) in each vector v, at the next `commit`."""
        for m in range(self.rows):
            s = T.broadcast(scalar(m), self.lanes)
            for v, x in enumerate(vectors):
                data, weights = (x, s) if scalars_are_weights else (s, x)
                self._sums[m][v] = self.arithmetic.step(self._sums[m][v], data, weights)

    def commit(self) -> None:
        """Write the sums of the steps since the last commit back to the accumulators.

        One write for all steps of a loop's body keeps the code small.
        """
        for m, row in enumerate(self._accumulators):
            for v, accumulator in enumerate(row):
                store_lanes(accumulator, 0, self.lanes, self._sums[m][v])
                self._sums[m][v] = self.vector(m, v)

    def add(self, other: Tile) -> None:
        """Gain the sums of another tile of the same shape."""
        for m, row in enumerate(self._accumulators):
            for v, accumulator in enumerate(row):
                store_lanes(accumulator, 0, self.lanes, self.vector(m, v) + other.vector(m, v))

    def vector(self, row: int, vector: int) -> Expr:
        """One accumulator as a vector."""
        return lanes_of(self._accumulators[row][vector], 0, self.lanes)

    def for_each_lane(self, row: int, vector: int, body: Callable[[Expr, Expr], None]) -> None:
        """body(value, lane) over the lanes of one accumulator, as one vector operation."""
        with vectorized(self.lanes) as lane:
            body(self._accumulators[row][vector][lane], lane)


# Products in one partial sum of floats.
_PARTIAL = 128


def emit_sum(
    arithmetic: Arithmetic,
    shape: tuple[int, int],
    extent: Expr,
    terms: int,
    step: Callable[[Tile, Expr], None],
    initial: Callable[[int, int], Expr] | None = None,
) -> Tile:
    """A tile of `shape` (rows, vectors) with the sums of step(tile, i), which commits, for i below `extent`.

    Long sums of floats are made of partial sums, since the rounding error of a sum grows with its
    length; integers are exact anyway.

    Args:
        terms: products that one step adds to an accumulator.
        initial: initial(m, v), what vector v of row m starts from, 0 by default.
    """
    total = Tile(arithmetic, *shape)
    total.start(initial)
    length = max(1, _PARTIAL // terms)
    if not arithmetic.accumulator.startswith("float") or (
        isinstance(extent, int) and 2 * extent <= 3 * length
    ):
        with serial(extent) as i:
            step(total, i)
        return total
    part = Tile(arithmetic, *shape)
    with serial(ceil_div(extent, length)) as chunk:
        part.start()
        first = bind(chunk * length)
        with serial(at_most(i64(extent) - first, length)) as i:
            step(part, first + i)
        total.add(part)
    return total
