"""Matrix products with constant weights on tiles: out[m, n] = sum over k of a[m, k] * b[k, n]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.amx.parts import Parts
from graphopt.backend.kernels.amx.product import GAIN, Cells, Field, Product, emit_product, product_cycles
from graphopt.backend.kernels.amx.tiles import DEPTH, WORDS, has_tiles
from graphopt.backend.kernels.blocked.cost import FAR_BYTES, together
from graphopt.backend.kernels.emit import Buffer, Expr, at_most, bind, ceil_div, flat_view, i64, serial
from graphopt.backend.kernels.gemm import GemmSpec
from graphopt.backend.kernels.machine import Machine

Array = npt.NDArray[np.generic]

# Rows of the matrix that make a row of positions, where there are too many for one.
_ROWS = 64
_MOST_ROWS = 256
# Fewer rows leave tiles empty, and are as fast as weights can be read anyway.
_FEW_ROWS = 6
# Share of multiply-adds in the cycles of a product of vectors.
_VECTOR_SHARE = 0.85


def applies(spec: GemmSpec, machine: Machine) -> bool:
    """Whether `emit_gemm` computes `spec`, and may be the faster for it."""
    few = isinstance(spec.m, int) and spec.m < _FEW_ROWS
    sized = isinstance(spec.n, int) and isinstance(spec.k, int) and min(spec.n, spec.k) >= WORDS
    one = spec.packed and spec.weight_batches == 1 and not spec.batch
    return has_tiles(machine) and spec.dtype == "float32" and one and sized and not few


def gemm_product(spec: GemmSpec, parts: Parts) -> Product:
    """The product in terms of tiles."""
    return Product(parts, spec.k, 1, spec.n)


def is_faster(spec: GemmSpec, parts: Parts) -> bool:
    """Whether `emit_gemm` is modelled faster than multiply-adds of vectors."""
    rows: int = spec.m if isinstance(spec.m, int) else _ROWS
    planned = gemm_product(spec, parts)
    vectors: float = rows * spec.k * planned.columns / 2 / _VECTOR_SHARE
    weights = 4.0 * spec.k * spec.n / FAR_BYTES
    return product_cycles(planned, rows) < GAIN * together(vectors, weights)


def pack_weights(spec: GemmSpec, parts: Parts, b: Array) -> Array:
    """Weights [k, n] in the order in which the kernel reads them."""
    return gemm_product(spec, parts).pack(np.ascontiguousarray(b.T))


def emit_gemm(
    spec: GemmSpec,
    machine: Machine,
    parts: Parts,
    a: Callable[[Expr, Expr], Expr],
    w: Buffer,
    store: Callable[[Expr, tuple[Expr, Expr]], None],
) -> None:
    """Emit a product for which `applies` holds.

    Args:
        a: reads an element of a at (m, k).
        w: what `pack_weights` returned.
        store: called while a loop over n is open, with a float and (m, n).
    """
    one_row = isinstance(spec.m, int) and spec.m <= _MOST_ROWS
    pitch = spec.m if one_row else _ROWS
    field = (
        Field(rows=1, width=pitch, pitch=pitch)
        if one_row
        else Field(rows=bind(ceil_div(spec.m, pitch)), width=pitch, pitch=pitch, end=spec.m)
    )
    whole, rest = divmod(spec.k, DEPTH)

    def fill(cells: Cells, image: Expr, k: Expr, plane: int, row: Expr) -> None:
        first = bind(row * pitch)
        count = pitch if one_row else bind(at_most(i64(pitch), i64(spec.m) - first))
        with serial(count) as position:
            m = bind(first + position)

            def put() -> None:
                cells.put(position, lambda lane: (a(m, k * DEPTH + lane), a(m, k * DEPTH + WORDS + lane)))

            def put_rest() -> None:
                cells.put(position, lambda lane: (guarded(lane), guarded(lane + WORDS)))

            def guarded(lane: Expr) -> Expr:
                read = a(m, i64(whole * DEPTH) + at_most(lane, i64(max(rest - 1, 0))))
                return tirx.Select(lane < rest, read, T.float32(0))

            if not rest:
                put()
            elif not whole:
                put_rest()
            else:
                with T.If(k < whole):
                    with T.Then():
                        put()
                    with T.Else():
                        put_rest()

    def store_element(value: Expr, index: tuple[Expr, tuple[Expr, Expr], Expr, Expr]) -> None:
        _, (block, lane), row, column = index
        m = row * pitch + column
        store(value, (m, block * WORDS + lane))

    emit_product(
        gemm_product(spec, parts), field, machine, fill, lambda plane: [i64(0)], flat_view(w), store_element
    )
