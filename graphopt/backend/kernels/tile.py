"""The register tile: `rows` broadcast scalars times `vectors` vectors, summed over a reduction."""

from __future__ import annotations

from collections.abc import Callable

from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.arithmetic import Arithmetic
from graphopt.backend.kernels.emit import Buffer, Expr, lanes_of, register, store_lanes


class Tile:
    """Accumulators in registers. Emits: start, then `step` inside the reduction loops, then use."""

    def __init__(self, arithmetic: Arithmetic, rows: int, vectors: int) -> None:
        self.arithmetic = arithmetic
        self.rows = rows
        self.vectors = vectors
        self.lanes = arithmetic.lanes
        self._accumulators: list[list[Buffer]] = [
            [register(self.lanes, arithmetic.accumulator) for _ in range(vectors)] for _ in range(rows)
        ]

    def start(self, initial: Callable[[int], Expr] | None = None) -> None:
        """Set row m of all accumulators to the scalar initial(m), zero by default."""
        for m, row in enumerate(self._accumulators):
            scalar = initial(m) if initial is not None else self.arithmetic.zero()
            for accumulator in row:
                store_lanes(accumulator, 0, self.lanes, T.broadcast(scalar, self.lanes))

    def step(self, xs: list[Expr], scalar: Callable[[int], Expr]) -> None:
        """One reduction step: row m gains xs[v] * scalar(m) in each vector v."""
        for m, row in enumerate(self._accumulators):
            w = T.broadcast(scalar(m), self.lanes)
            for accumulator, x in zip(row, xs, strict=True):
                total = self.arithmetic.step(lanes_of(accumulator, 0, self.lanes), x, w)
                store_lanes(accumulator, 0, self.lanes, total)

    def vector(self, row: int, vector: int) -> Expr:
        """One accumulator as a vector."""
        return lanes_of(self._accumulators[row][vector], 0, self.lanes)

    def for_each_lane(self, row: int, vector: int, body: Callable[[Expr, Expr], None]) -> None:
        """body(value, lane) over the lanes of one accumulator, as one vector operation."""
        with T.vectorized(self.lanes) as lane:
            body(self._accumulators[row][vector][lane], lane.astype("int64"))
