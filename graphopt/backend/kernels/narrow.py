"""Products of floats with 8-bit weights, by integer dot products, as exact as sums of floats.

    out[m, n] = sum over k of a[m, k] * w[k, n],   w constant numbers of 8 bits

A row of `a` is divided by a power of its largest number into integers of 23 bits, which are cut into
three *planes* of 8 bits. A dot-product instruction multiplies four times as many numbers as a
multiply-add of floats, so that three planes take three quarters of the time, and weights a quarter of
the memory. The integers are off by half a unit, 2^-23 of the row's largest number: as much as rounding
costs in a sum of floats. A row with a number that is not finite gives NaN.
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
from graphopt.backend.kernels.machine import Machine, RegisterTile, tile_cycles
from graphopt.backend.kernels.temporaries import temporary, vectorized
from graphopt.backend.kernels.tile import Tile, emit_sum

Array = npt.NDArray[np.generic]
Store: TypeAlias = Callable[[Expr, tuple[Expr, Expr]], None]

_PLANES = 3
_LEVELS = 4194000.0
"""What a row's largest number becomes; a bit less than 2^22, up to which the rounding below is right."""
_LEAST = 1e-30
"""What a row's largest number is taken for at least: its inverse must be a normal number."""
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
    """For each row what one unit of its integers stands for."""
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
    least = tirx.IntImm("int32", int(np.float32(_LEAST).view(np.int32)))
    largest, scale = register(1, "float32"), register(1, "float32")
    T.buffer_store(largest, T.reinterpret("float32", T.max(top[0], least)), [0])
    T.buffer_store(scale, _f32(_LEVELS) / largest[0], [0])
    finite = top[0] < tirx.IntImm("int32", int(np.float32(np.inf).view(np.int32)))
    unit = tirx.Select(finite, largest[0] * _f32(1.0 / _LEVELS), _f32(float("nan")))
    T.buffer_store(kernel.units, unit, [m])
    _emit_words(kernel, m, scale)


def _emit_words(kernel: _Kernel, m: Expr, scale: Buffer) -> None:
    k, lanes = kernel.spec.k, kernel.lanes
    starts = [bind((m * _PLANES + plane) * kernel.depth) for plane in range(_PLANES)]

    def integer(index: Expr) -> Expr:
        x = kernel.a(m, index) * scale[0] + _f32(_ROUND)
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
                kernel.store(total * kernel.units[m + row], (m + row, column))
