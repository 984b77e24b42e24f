"""Products of floats with 8-bit weights, by integer dot products, as exact as sums of floats.

    out[m, n] = sum over k of a[m, k] * w[k, n],   w constant numbers of 8 bits

A row of `a` is divided by its largest number into integers of 23 bits, which are cut into three
*planes* of 8 bits. A dot-product instruction multiplies four times as many numbers as a multiply-add of
floats, so that three planes take three quarters of the time, and weights a quarter of the memory.

Exactness: the integers are off by up to half a unit, 1.2e-7 of the row's largest number, so that

    |error of out[m, n]| <= 1.2e-7 * max_k |a[m, k]| * sum_k |w[k, n]|  +  3e-7 * |out[m, n]|

A sum of floats has |a[m, k]| where this has the largest of them. That matters where the largest meets
weights that are small in all columns: what is left then is the sum of the others, with an error of the
size of the largest. `is_even` tells weights with such a row from those with which the error stays below
1e-5 of the row's largest result (by three standard deviations), whatever the numbers in the row are, as
long as its large numbers don't cancel each other. Denormal numbers are as exact as others. A row with a
number that is not finite gives NaN, also where a sum of floats gives an infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.emit import (
    Buffer,
    Expr,
    at_most,
    bind,
    ceil_div,
    flat_view,
    i64,
    lanes_of,
    loop_for,
    prefetch,
    register,
    serial,
    store_lanes,
    workspace,
)
from graphopt.backend.kernels.gemm import GemmSpec
from graphopt.backend.kernels.integer import DotArithmetic, IntegerArithmetic, integer_arithmetic
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.temporaries import temporary, vectorized
from graphopt.backend.kernels.tile import Tile, emit_sum
from graphopt.backend.kernels.tiling import RegisterTile, tile_cycles

Array = npt.NDArray[np.generic]
Store: TypeAlias = Callable[[Expr, tuple[Expr, Expr]], None]

_PLANES = 3
_LEVELS = 4194000.0
"""What a row's largest number becomes; a bit less than 2^22, up to which the rounding below is right."""
_SMALL = 2.0**-40
_ENLARGED = 2.0**80
"""What rows of numbers below `_SMALL` are multiplied by, so that the inverse of the largest is finite."""
_MOST_UNEVEN = 48.0
_ROUND = 12582912.0
_ROUND_BITS = 0x4B400000
# Added to the integers, which makes them positive; and what the highest plane holds of it.
_OFFSET = 1 << 23
_HIGH_OFFSET = _OFFSET >> 16
_ROWS_PER_CHUNK = 96
_MOST_TERMS = 1 << 15
"""Longer sums could overflow."""


def is_narrow(spec: GemmSpec, machine: Machine) -> bool:
    """Whether `emit_narrow` computes this product on this machine."""
    return (
        isinstance(_arithmetic(machine), DotArithmetic)
        and spec.dtype == "float32"
        and isinstance(spec.n, int)
        and isinstance(spec.k, int)
        and spec.n % (machine.vector_bits // 32) == 0
        and spec.k <= _MOST_TERMS
    )


def is_even(w: Array) -> bool:
    """Whether, by weights int8 [k, n], a row's largest number always stands out in some result.

    The root of a column's sum of squares times 0.29 units, the standard deviation of rounding, is what a
    result is off by; the least that the largest number adds to some result is itself times the largest
    weight of its row.
    """
    if not w.size:
        return True
    sizes = np.abs(w.astype(np.float32))
    column = np.sqrt(np.square(sizes).sum(axis=0).max())
    reached = sizes.max(axis=1).min()
    return bool(column <= _MOST_UNEVEN * reached)


def _arithmetic(machine: Machine) -> IntegerArithmetic:
    return integer_arithmetic(machine, "uint8", False, 0)


def narrow_tile(spec: GemmSpec, machine: Machine) -> RegisterTile:
    """Rows and vectors of a register tile, which has three accumulators for each."""
    lanes = machine.vector_bits // 32
    vectors = spec.n // lanes
    rows = spec.m if isinstance(spec.m, int) else 1 << 12
    budget = machine.vector_registers - (machine.vector_registers > 16)

    def cycles(tile: RegisterTile) -> float:
        total = 0.0
        for count, size in ((rows // tile.rows, tile.rows), (rows % tile.rows > 0, rows % tile.rows)):
            if count:
                total += count * -(-vectors // tile.vectors) * tile_cycles(_PLANES * size, tile.vectors)
        return total

    candidates = [
        RegisterTile(r, v)
        for r in range(1, min(rows, 8) + 1)
        for v in range(1, 9)
        # Panels are whole: no tile is half empty.
        if vectors % v == 0 and _PLANES * r * v + v + 1 <= budget
    ]
    return min(candidates, key=cycles)


def packed_narrow_shape(spec: GemmSpec, machine: Machine) -> tuple[int, int, int]:
    """[panels, words of k with the header, columns of a panel]."""
    width = narrow_tile(spec, machine).vectors * (machine.vector_bits // 32)
    return spec.n // width, -(-spec.k // 4) + 1, width


def pack_narrow_weights(spec: GemmSpec, machine: Machine, w: Array) -> Array:
    """Weights int8 [k, n] as words of four, ahead of them what corrects for the planes' offset."""
    panels, words, width = packed_narrow_shape(spec, machine)
    padded = np.zeros(((words - 1) * 4, spec.n), np.int8)
    padded[: spec.k] = w[_order(spec, machine)]
    split = padded.reshape(words - 1, 4, panels, width).transpose(2, 0, 3, 1)
    packed = np.ascontiguousarray(split).view("<i4")[..., 0]
    header = -_HIGH_OFFSET * padded.astype(np.int32).sum(axis=0, dtype=np.int32)
    return np.concatenate([header.reshape(panels, 1, width), packed], axis=1)


def emit_narrow(
    spec: GemmSpec, machine: Machine, a: Callable[[Expr, Expr], Expr], w: Buffer, store: Store
) -> None:
    """Emit a product for which `is_narrow` holds.

    Args:
        a: reads an element of a at (m, k).
        w: what `pack_narrow_weights` returned.
        store: called while vectorised loops are open, with a float and (m, n).
    """
    rows, depth = bind(spec.m), -(-spec.k // 4)
    tile = narrow_tile(spec, machine)
    size = i64(rows) * (_PLANES * depth)
    with workspace(size, "int32") as words, workspace(rows, "float32") as units:
        kernel = _Kernel(spec, machine, tile, a, words, units, flat_view(w), store)
        with loop_for(spec.m * spec.k * 16)(rows) as m:
            _emit_planes(kernel, m)
        chunks = bind(ceil_div(rows, _ROWS_PER_CHUNK))
        with loop_for(spec.m * spec.n * spec.k)((spec.n // kernel.width) * chunks) as item:
            first = bind(item % chunks * _ROWS_PER_CHUNK)
            count = rows if chunks == 1 else bind(at_most(i64(_ROWS_PER_CHUNK), i64(rows) - first))
            _emit_rows(kernel, bind(item // chunks), first, count)


@dataclass(frozen=True)
class _Kernel:
    spec: GemmSpec
    machine: Machine
    tile: RegisterTile
    a: Callable[[Expr, Expr], Expr]
    words: Buffer
    """[row, plane, word]"""
    units: Buffer
    """For each row what `_LEVELS` units of its integers stand for."""
    w: Buffer
    store: Store

    @property
    def lanes(self) -> int:
        """Columns of a vector."""
        return self.machine.vector_bits // 32

    @property
    def width(self) -> int:
        """Columns of a panel."""
        width: int = self.tile.vectors * self.lanes
        return width

    @property
    def depth(self) -> int:
        """Words of a row of a plane."""
        depth: int = -(-self.spec.k // 4)
        return depth


def _f32(value: float) -> Expr:
    return tirx.FloatImm("float32", value)


def _emit_planes(kernel: _Kernel, m: Expr) -> None:
    """Cuts a row into planes."""
    k, wide = kernel.spec.k, kernel.lanes * 2
    tops, top = register(wide, "int32"), register(1, "int32")
    store_lanes(tops, 0, wide, T.broadcast(T.cast(0, "int32"), wide))
    T.buffer_store(top, T.cast(0, "int32"), [0])

    def size(index: Expr) -> Expr:
        # Bits of numbers without a sign are in the order of the numbers; what is not finite comes last.
        return T.reinterpret("int32", kernel.a(m, index)) & tirx.IntImm("int32", 0x7FFFFFFF)

    if k >= wide:
        with serial(k // wide) as i, vectorized(wide) as lane:
            T.buffer_store(tops, T.max(tops[lane], size(i * wide + lane)), [lane])
    if k % wide:
        with serial(k % wide) as i:
            T.buffer_store(top, T.max(top[0], size(i + k // wide * wide)), [0])
    while wide > 2:
        wide //= 2
        with vectorized(wide) as lane:
            T.buffer_store(tops, T.max(tops[lane], tops[lane + wide]), [lane])
    T.buffer_store(top, T.max(top[0], T.max(tops[0], tops[1])), [0])
    largest, scales = register(1, "float32"), register(2, "float32")
    # The least number but 0 where all are 0, for the division.
    T.buffer_store(largest, T.reinterpret("float32", T.max(top[0], tirx.IntImm("int32", 1))), [0])
    T.buffer_store(scales, tirx.Select(largest[0] < _f32(_SMALL), _f32(_ENLARGED), _f32(1.0)), [0])
    T.buffer_store(scales, _f32(_LEVELS) / (largest[0] * scales[0]), [1])
    finite = top[0] < tirx.IntImm("int32", int(np.float32(np.inf).view(np.int32)))
    T.buffer_store(kernel.units, tirx.Select(finite, largest[0], _f32(float("nan"))), [m])
    _emit_words(kernel, m, scales)


def _emit_words(kernel: _Kernel, m: Expr, scales: Buffer) -> None:
    k, lanes = kernel.spec.k, kernel.lanes
    starts = [bind((m * _PLANES + plane) * kernel.depth) for plane in range(_PLANES)]

    def integer(index: Expr) -> Expr:
        x = kernel.a(m, index) * scales[0] * scales[1] + _f32(_ROUND)
        return temporary(T.reinterpret("int32", x) + tirx.IntImm("int32", _OFFSET - _ROUND_BITS))

    def put(word: Expr, integers: list[Expr]) -> None:
        for plane, start in enumerate(starts):
            bytes_ = [((x >> (16 - 8 * plane)) & 255) << (8 * place) for place, x in enumerate(integers)]
            T.buffer_store(kernel.words, reduce(lambda x, y: x | y, bytes_), [start + word])

    blocks = k // (4 * lanes)
    if blocks:
        with serial(blocks) as block, vectorized(lanes) as lane:
            put(block * lanes + lane, [integer(block * (4 * lanes) + (p * lanes) + lane) for p in range(4)])
    done = blocks * lanes
    if k // 4 > done:
        with serial(k // 4 - done) as word:
            put(word + done, [integer(word * 4 + (4 * done + p)) for p in range(4)])
    if k % 4:
        put(i64(k // 4), [integer(i64(k // 4 * 4 + p)) for p in range(k % 4)])


def _order(spec: GemmSpec, machine: Machine) -> Array:
    """Which k each byte of the words is: vectors of words are made of four vectors of neighbouring numbers."""
    lanes = machine.vector_bits // 32
    whole = spec.k // (4 * lanes) * (4 * lanes)
    blocks = np.arange(whole).reshape(-1, 4, lanes).transpose(0, 2, 1)
    return np.concatenate([blocks.reshape(-1), np.arange(whole, spec.k)])


def _emit_rows(kernel: _Kernel, panel: Expr, first: Expr, count: Expr) -> None:
    """All rows of a chunk times one panel."""
    most = kernel.tile.rows
    if isinstance(count, int):
        full, tail = divmod(count, most)
        if full:
            with serial(full) as block:
                _emit_tile(kernel, panel, first + block * most, most, block)
        if tail:
            _emit_tile(kernel, panel, first + full * most, tail, i64(full))
        return
    with serial(count // most) as block:
        _emit_tile(kernel, panel, first + block * most, most, block)
    if most > 1:
        with serial(count % most) as row:
            _emit_tile(kernel, panel, first + count // most * most + row, 1, None)


def _emit_tile(kernel: _Kernel, panel: Expr, m: Expr, rows: int, number: Expr | None) -> None:
    lanes, vectors, depth, width = kernel.lanes, kernel.tile.vectors, kernel.depth, kernel.width
    header = bind(panel * ((depth + 1) * width))
    start = bind(header + width)
    a = bind(m * (_PLANES * depth))

    def initial(row: int, v: int) -> Expr:
        if row % _PLANES == 0:
            return lanes_of(kernel.w, header + v * lanes, lanes)
        return T.broadcast(T.cast(0, "int32"), lanes)

    def step(tile: Tile, k: Expr) -> None:
        base = bind(start + k * width)
        if number is not None:
            # All register tiles of a panel together prefetch the next panel.
            prefetch(kernel.w, start + width * depth + (number * depth + k) * lanes)
        xs = [lanes_of(kernel.w, base + v * lanes, lanes) for v in range(vectors)]
        tile.step(xs, lambda row: kernel.words[a + row * depth + k], scalars_are_weights=False)
        tile.commit()

    tile = emit_sum(_arithmetic(kernel.machine), (_PLANES * rows, vectors), depth, 1, step, initial)
    for row in range(rows):
        for v in range(vectors):
            sums = [register(lanes, "int32") for _ in range(_PLANES)]
            for plane, kept in enumerate(sums):
                store_lanes(kept, 0, lanes, tile.vector(row * _PLANES + plane, v))
            with vectorized(lanes) as lane:
                high, middle, low = (kept[lane].astype("float32") for kept in sums)
                total = high * _f32(65536.0) + (middle * _f32(256.0) + low)
                column = panel * width + v * lanes + lane
                kernel.store(total * _f32(1.0 / _LEVELS) * kernel.units[m + row], (m + row, column))
