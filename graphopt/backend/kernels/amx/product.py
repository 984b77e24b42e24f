"""A product on tiles: out[position, n] = sum over taps and k of data[position + offset(tap), k] * w[tap, k, n].

Positions are the rows of tiles. They lie one after the other in scratch, cut into parts, so that a tap of a
convolution is the same tile some positions further; a matrix product has one tap. Scratch is

    [block of 32 k][part][plane][position][16 words],   a word being (k, k + 16) of the block

and holds a chunk of rows of positions, which stays in the L2 cache while all weights pass. A register tile
is two tiles of positions by two of results, so that each tile loaded is used twice. Weights lie in the order
in which they are read; the hardware fetches them ahead better than instructions do (measured: 14 GB/s against 10).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.amx import tiles
from graphopt.backend.kernels.amx.parts import Parts, pair_words, split_weights
from graphopt.backend.kernels.amx.tiles import DEPTH, ROWS, TILE, WORDS
from graphopt.backend.kernels.blocked.cost import together
from graphopt.backend.kernels.emit import (
    Buffer,
    Expr,
    at_least,
    at_most,
    bind,
    ceil_div,
    i64,
    loop_for,
    serial,
    store_lanes,
    workspace,
)
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.temporaries import vectorized

Array = npt.NDArray[np.generic]

_PAIR = 2
"""Tiles of positions, and of results, in a register tile."""
_DATA, _WEIGHTS = 4, 6  # registers; the sums are 0 to 3
# Items of work that keep a few threads busy to the end.
_ITEMS = 8
# Share of the L2 cache for a chunk's data.
_CHUNK_SHARE = 0.5
# Cycles beside the multiplications: of splitting a block of k into two parts at a position, of storing a
# block of results; and what all takes above that. Estimated from three convolutions of 64 channels at 56 x 56.
_SPLIT_CYCLES = 14.0
_STORE_CYCLES = 5.0
_OVERHEAD = 1.2
# Where others use the machine too, the matrix unit was seen to be 2.3 times slower for seconds, vectors not
# (1,140 for 2,660 GFLOP/s). What is chosen here shall be the faster also then.
_SLOWED = 2.3
# A tile of fewer rows waits as long for the sum before it.
_LEAST_ROWS = 16
# Bytes of weights per cycle from beyond the L2 cache: nothing but the hardware fetches them ahead.
_FAR_BYTES = 3.5
GAIN = 0.9
"""Tiles are chosen where they are modelled to take at most this share of the time of vectors."""


@dataclass(frozen=True)
class Product:
    """What is summed: ``terms`` of k at each of ``taps``, for ``results`` of n."""

    parts: Parts
    terms: int
    taps: int
    results: int

    @property
    def depth(self) -> int:
        """Blocks of k."""
        return -(-self.terms // DEPTH)

    @property
    def columns(self) -> int:
        """Blocks of results that fill the columns of a tile."""
        return -(-self.results // WORDS)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """[pairs of blocks of results, blocks of k, taps, parts, blocks of the pair, rows, words]."""
        pairs = -(-self.columns // _PAIR)
        return (pairs, self.depth, self.taps, self.parts.weights, _PAIR, ROWS, WORDS)

    def pack(self, w: Array) -> Array:
        """Weights [results, terms, taps] in the order in which the kernel reads them, int32 words."""
        pairs, depth, taps, *_ = self.weight_shape
        padded = np.zeros((pairs * _PAIR * WORDS, depth * DEPTH, taps), w.dtype)
        padded[: self.results, : self.terms] = w.reshape(self.results, self.terms, taps)
        split = padded.reshape(pairs, _PAIR, WORDS, depth, 2, ROWS, taps)
        parts = np.stack(split_weights(split, self.parts.weights))
        words = parts[..., 0, :, :] | parts[..., 1, :, :] << np.uint32(16)
        return np.ascontiguousarray(words.transpose(1, 4, 6, 0, 2, 5, 3)).view(np.int32)


def product_cycles(product: Product, positions: int, planes: int = 1, images: int = 1) -> float:
    """Modelled cycles of a product at so many positions of each image."""
    pairs: int = max(1, ceil_div(positions, _PAIR * ROWS))
    rows: int = max(ceil_div(positions, _PAIR * pairs), _LEAST_ROWS)
    multiplications = _PAIR * pairs * product.columns * product.depth * product.taps
    multiply = _SLOWED * multiplications * len(product.parts.products) * rows
    split = positions * planes * product.depth * _SPLIT_CYCLES * product.parts.data / 2
    store = positions * product.columns * _STORE_CYCLES
    weights = 4.0 * math.prod(product.weight_shape) / _FAR_BYTES
    return together(images * _OVERHEAD * (multiply + split + store), weights)


@dataclass(frozen=True)
class Field:
    """The positions: rows of ``pitch``, the first ``width`` of each being results.

    Data of a row of results lie in the same row of a plane or up to ``halo`` rows further, in a position up
    to ``front`` before or ``reach`` behind its own.
    """

    rows: Expr
    width: Expr
    pitch: Expr
    images: Expr = 1
    planes: int = 1
    halo: int = 0
    front: int = 0
    reach: int = 0
    end: Expr = None
    """Positions in all, where the last row is not whole."""
    in_blocks: bool = False
    """Whether results are stored in whole blocks, whatever their number."""


Fill = Callable[["Cells", Expr, Expr, int, Expr], None]
"""fill(cells, image, block of k, plane, row) brings a row of data into the positions 0 to pitch of `cells`."""
Store = Callable[[Expr, tuple[Expr, tuple[Expr, Expr], Expr, Expr]], None]
"""store(value, (image, (block of results, lane), row, position in the row)), in a loop over lanes."""


@dataclass(frozen=True)
class Cells:
    """Where a row of data goes."""

    words: Buffer
    start: Expr
    """Of the row's first position in the first part."""
    part_stride: Expr
    parts: int

    def put(self, position: Expr, read: Callable[[Expr], tuple[Expr, Expr]]) -> None:
        """Splits the floats read(lane), lane and lane + 16 of the block of k."""
        with vectorized(WORDS) as lane:
            for part, word in enumerate(pair_words(*read(lane), self.parts)):
                T.buffer_store(self.words, word, [self._at(position, part) + lane])

    def clear(self, position: Expr) -> None:
        """Sets a position to zero."""
        for part in range(self.parts):
            zero = T.broadcast(T.cast(0, "uint32"), WORDS)
            store_lanes(self.words, self._at(position, part), WORDS, zero)

    def _at(self, position: Expr, part: int) -> Expr:
        return self.start + part * self.part_stride + position * WORDS


@dataclass(frozen=True)
class _Plan:
    rows: Expr
    """Rows of results in a chunk."""
    chunks: Expr
    tile_rows: int
    plane: Expr
    """Positions of a plane."""


def emit_product(
    product: Product,
    field: Field,
    machine: Machine,
    fill: Fill,
    taps: Callable[[Expr], list[Expr]],
    w: Buffer,
    store: Store,
) -> None:
    """Emit the product.

    Args:
        taps: taps(plane) gives for each tap how far its data are from position 0 of the first plane, by the
            positions that a plane has.
        w: what `Product.pack` returned, as one axis.
    """
    plan = _plan(product, field, machine)
    kernel = _Kernel(product, field, plan, fill, [bind(offset) for offset in taps(plan.plane)], w, store)
    words = bind(product.depth * product.parts.data * kernel.span * WORDS)
    with workspace(words, "uint32") as data, serial(field.images) as image, serial(plan.chunks) as chunk:
        first = bind(chunk * plan.rows)
        count = plan.rows
        if plan.chunks != 1:
            count = bind(at_most(i64(plan.rows), field.rows - first))
        _emit_fill(kernel, data, image, first, count)
        _emit_chunk(kernel, data, image, first, count)


def _plan(product: Product, field: Field, machine: Machine) -> _Plan:
    row_bytes = product.depth * product.parts.data * field.planes * field.pitch * (4 * WORDS)
    most = at_least(int(machine.l2_bytes * _CHUNK_SHARE) // at_least(row_bytes, 1), 1)
    chunks = bind(at_least(ceil_div(field.rows, most), 1))
    rows = bind(ceil_div(field.rows, chunks))
    total = _positions(field, rows)
    tile_rows = ROWS
    if isinstance(total, int):
        tile_rows = max(1, ceil_div(total, _PAIR * ceil_div(total, _PAIR * ROWS)))
    # The last tiles read past the last result.
    behind = field.reach + _PAIR * ROWS
    return _Plan(rows, chunks, tile_rows, bind(field.front + (rows + field.halo) * field.pitch + behind))


def _positions(field: Field, rows: Expr) -> Expr:
    """From the first result of some rows to the last."""
    return rows * field.pitch - (field.pitch - field.width)


@dataclass(frozen=True)
class _Kernel:
    product: Product
    field: Field
    plan: _Plan
    fill: Fill
    offsets: list[Expr]
    w: Buffer
    store: Store

    @property
    def span(self) -> Expr:
        """Positions of all planes."""
        return self.plan.plane * self.field.planes

    @property
    def step_words(self) -> int:
        """Words of weights for a block of k at one tap."""
        return self.product.parts.weights * _PAIR * TILE


def _emit_fill(kernel: _Kernel, data: Buffer, image: Expr, first: Expr, count: Expr) -> None:
    """Brings a chunk's data into scratch."""
    product, field, plan = kernel.product, kernel.field, kernel.plan
    rows = count + field.halo
    for plane in range(field.planes):
        with loop_for(rows * field.pitch * product.terms * 8)(product.depth * rows) as item:
            block = bind(item // rows)
            local = bind(item - block * rows)
            base = block * product.parts.data * kernel.span + (plane * plan.plane + field.front)
            cells = Cells(
                data,
                bind((base + local * field.pitch) * WORDS),
                bind(kernel.span * WORDS),
                product.parts.data,
            )
            if field.front:
                with T.If(local == 0), T.Then():
                    for position in range(-field.front, 0):
                        cells.clear(i64(position))
            kernel.fill(cells, image, block, plane, bind(first + local))


def _emit_chunk(kernel: _Kernel, data: Buffer, image: Expr, first: Expr, count: Expr) -> None:
    """All results of a chunk."""
    product, plan = kernel.product, kernel.plan
    field = kernel.field
    total = _positions(field, count)
    if field.end is not None:
        total = at_most(i64(total), field.end - first * field.pitch)
    total = bind(total)
    pairs = bind(ceil_div(total, _PAIR * plan.tile_rows))
    whole, half = divmod(product.columns, _PAIR)
    for begin, blocks, columns in ((0, whole, _PAIR), (whole, half, 1)):
        if not blocks:
            continue
        shares = ceil_div(_ITEMS, blocks)
        share = bind(ceil_div(pairs, shares))
        work = total * (product.terms * product.taps * blocks * columns * WORDS)
        heights = (*[plan.tile_rows] * (_PAIR * _PAIR + _PAIR), ROWS, ROWS)
        with loop_for(work)(blocks * shares) as item, workspace(_PAIR * _PAIR * TILE, "float32") as sums:
            block = bind(begin + item // shares)
            start = bind(item % shares * share)
            end = bind(at_most(i64(start + share), i64(pairs)))
            with tiles.configured(heights), serial(bind(at_least(end - start, 0))) as local:
                position = bind((start + local) * (_PAIR * plan.tile_rows))
                _emit_reduction(kernel, data, block, columns, position)
                for r in range(_PAIR):
                    for c in range(columns):
                        tiles.store(r * _PAIR + c, sums, i64((r * _PAIR + c) * TILE))
                _emit_stores(kernel, sums, columns, (image, block, first, position), total)


def _emit_reduction(kernel: _Kernel, data: Buffer, block: Expr, columns: int, position: Expr) -> None:
    """The sums of one register tile, in registers."""
    product, parts = kernel.product, kernel.product.parts
    for r in range(_PAIR):
        for c in range(columns):
            tiles.zero(r * _PAIR + c)
    height = kernel.plan.tile_rows
    with serial(product.depth) as k:
        row = bind(k * parts.data * kernel.span + position)
        weights = bind((block * product.depth + k) * (product.taps * kernel.step_words))
        for tap, offset in enumerate(kernel.offsets):
            at = bind(row + offset)
            held: dict[int, int] = {}
            for i, j in parts.products:
                for r in range(_PAIR):
                    if held.get(_DATA + r) != i:
                        start = (at + (i * kernel.span + r * height)) * WORDS
                        tiles.load(_DATA + r, data, start)
                        held[_DATA + r] = i
                for c in range(columns):
                    if held.get(_WEIGHTS + c) != j:
                        start = weights + (tap * kernel.step_words + (j * _PAIR + c) * TILE)
                        tiles.load(_WEIGHTS + c, kernel.w, start)
                        held[_WEIGHTS + c] = j
                for r in range(_PAIR):
                    for c in range(columns):
                        tiles.multiply(r * _PAIR + c, _DATA + r, _WEIGHTS + c)


def _emit_stores(
    kernel: _Kernel, sums: Buffer, columns: int, at: tuple[Expr, Expr, Expr, Expr], total: Expr
) -> None:
    """Hands the sums of a register tile to the store."""
    field, height = kernel.field, kernel.plan.tile_rows
    image, block, first, position = at
    exact = isinstance(total, int) and total % (_PAIR * height) == 0
    with serial(_PAIR) as r, serial(height) as local, ExitStack() as stack:
        place = bind(position + r * height + local)
        row = bind(place // field.pitch)
        column = bind(place - row * field.pitch)
        inside = [] if exact else [place < total]
        if not (field.pitch is field.width or (isinstance(field.pitch, int) and field.pitch == field.width)):
            inside.append(column < field.width)
        for condition in inside:
            stack.enter_context(T.If(condition))
            stack.enter_context(T.Then())
        for c in range(columns):
            sum_ = bind((r * _PAIR + c) * TILE + local * WORDS)
            result = bind(block * _PAIR + c)

            def store(lane: Expr, result: Expr = result, sum_: Expr = sum_) -> None:
                kernel.store(sums[sum_ + lane], (image, (result, lane), first + row, column))

            _each_lane(kernel, result, store)


def _each_lane(kernel: _Kernel, result: Expr, body: Callable[[Expr], None]) -> None:
    """body(lane) for the results of a block, as one vector where all of them are stored."""

    def whole() -> None:
        with vectorized(WORDS) as lane:
            body(lane)

    full, rest = divmod(kernel.product.results, WORDS)
    if kernel.field.in_blocks or not rest:
        whole()
        return
    with T.If(result < full):
        with T.Then():
            whole()
        with T.Else(), serial(rest) as lane:
            body(lane)
