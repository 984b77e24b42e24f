"""The inner product that matrix product and pointwise convolution share.

A *panel* holds a few vectors of neighbouring columns for the whole reduction, [k][width], so that
the innermost loop reads memory in one forward stream. A register tile multiplies a panel by `rows`
scalars per step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.arithmetic import Arithmetic
from graphopt.backend.kernels.emit import (
    Buffer,
    Expr,
    bind,
    emit_run,
    i64,
    lanes_of,
    serial,
    store_lanes,
    workspace,
)
from graphopt.backend.kernels.tile import Tile, emit_sum


@dataclass(frozen=True)
class Panel:
    """Columns of a matrix in panel order, inside a flat buffer."""

    buffer: Buffer
    start: Expr
    width: int
    """Columns stored, a multiple of the vector lanes."""
    depth: Expr
    """Words of the reduction."""


def emit_tile_product(
    arithmetic: Arithmetic,
    panel: Panel,
    rows: int,
    columns: Expr,
    scalar: Callable[[int, Expr], Expr],
    store: Callable[[Expr, Expr, Expr], None],
    initial: Callable[[int, int], Expr] | None = None,
    *,
    scalars_are_weights: bool,
    ahead: Callable[[Expr], None] | None = None,
) -> None:
    """Multiply `rows` rows by a panel and store the first `columns` results of each row.

    Args:
        scalar: scalar(m, k), the word of row m at step k.
        store: store(m, j, value) emits the store of column j of row m.
        initial: initial(m, v), what vector v of row m starts from, 0 by default.
        ahead: ahead(k) emits what is to be done beside step k, such as a prefetch.
    """
    lanes = arithmetic.lanes
    vectors = panel.width // lanes
    if isinstance(columns, int):
        vectors = min(vectors, -(-columns // lanes))

    def step(tile: Tile, k: Expr) -> None:
        if ahead is not None:
            ahead(k)
        base = bind(panel.start + k * panel.width)
        xs = [lanes_of(panel.buffer, base + v * lanes, lanes) for v in range(vectors)]
        tile.step(xs, lambda m: scalar(m, k), scalars_are_weights)
        tile.commit()

    tile = emit_sum(arithmetic, (rows, vectors), panel.depth, 1, step, initial)
    whole = columns // lanes if isinstance(columns, int) else 0
    for m in range(rows):
        for v in range(min(whole, vectors)):
            tile.for_each_lane(m, v, lambda value, lane, m=m, v=v: store(m, lane + v * lanes, value))  # type: ignore[misc]
    if whole < vectors:
        _emit_edge(tile, whole, columns, store)


def _emit_edge(tile: Tile, first: int, columns: Expr, store: Callable[[Expr, Expr, Expr], None]) -> None:
    """Store the columns from vector `first` on through memory, where `columns` ends within a vector."""
    lanes = tile.lanes
    width = (tile.vectors - first) * lanes
    with workspace(tile.rows * width, tile.arithmetic.accumulator) as edge:
        for m in range(tile.rows):
            for v in range(first, tile.vectors):
                store_lanes(edge, m * width + (v - first) * lanes, lanes, tile.vector(m, v))
        with serial(tile.rows) as row:
            emit_run(
                columns - first * lanes,
                lanes,
                lambda j: store(row, j + first * lanes, edge[row * width + j]),
            )


def emit_pack_panel(
    arithmetic: Arithmetic,
    panel: Panel,
    columns: Expr,
    word: Callable[[Expr, Expr], Expr],
    across: bool = False,
) -> None:
    """Fill a panel with word(k, j) for the first `columns` columns j, and 0 in the others.

    `across`: neighbours along k, not along j, are neighbours in memory.
    """
    buffer, start, width = panel.buffer, panel.start, panel.width

    def copy(k: Expr, j: Expr) -> None:
        T.buffer_store(buffer, word(k, j), [start + k * width + j])

    def clear(k: Expr, j: Expr) -> None:
        T.buffer_store(buffer, T.cast(0, arithmetic.word), [start + k * width + j])

    if across:
        with serial(columns) as j, serial(panel.depth) as k:
            copy(k, j)
    with serial(panel.depth) as k:
        if not across:
            emit_run(columns, arithmetic.lanes, lambda j: copy(k, j))
        if not isinstance(columns, int) or columns < width:
            with serial(i64(width) - columns) as j:
                clear(k, j + columns)
