"""Convolution as a sum of shifted planes (see geometry.py for the layout of the scratch).

For each image, group and chunk of rows: the input is copied into phase planes, then every block of
`rows` output channels computes all flat positions of the chunk into a slab, tile by tile, each
tile's accumulators in registers over the whole reduction; last, the slab's true outputs are
stored. The planes of a chunk fit the L2 cache (L1 when a group has one channel).
"""

from __future__ import annotations

import itertools
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.arithmetic import Arithmetic
from graphopt.backend.kernels.conv_spec import ConvSpec, Store, row_tile
from graphopt.backend.kernels.emit import (
    Buffer,
    Expr,
    Loop,
    at_most,
    bind,
    ceil_div,
    emit_run,
    flat_view,
    i64,
    lanes_of,
    loop_for,
    product,
    serial,
    store_lanes,
    workspace,
)
from graphopt.backend.kernels.geometry import Planes, plan_planes
from graphopt.backend.kernels.knobs import around, choose
from graphopt.backend.kernels.tile import Tile, emit_sum
from graphopt.backend.kernels.tiling import RegisterTile

# Taps times rows of a tile that stand in the innermost loop's body.
_UNROLLED_ROWS = 48


@dataclass(frozen=True)
class _Kernel:
    """One convolution being emitted."""

    spec: ConvSpec
    arithmetic: Arithmetic
    planes: Planes
    tile: RegisterTile
    x: Buffer
    w: Buffer
    store: Store

    @property
    def channels(self) -> int:
        """Words of channels per group."""
        depth: int = ceil_div(self.spec.group_in, self.arithmetic.group)
        return depth

    @property
    def lanes(self) -> int:
        return self.arithmetic.lanes

    @property
    def group_words(self) -> Expr:
        """Scratch of one group's planes, in words."""
        return self.channels * self.planes.phases * self.planes.plane

    def groups_together(self) -> int:
        """How many groups' planes fill the L1 cache."""
        words = self.group_words
        if not isinstance(words, int):
            return 4
        machine = self.arithmetic.machine
        fit = max(1, min(16, machine.l1_bytes // (words * self.arithmetic.word_bytes)))
        return choose(machine, "groups together", around(fit, 1, min(self.spec.groups, 32)))


@dataclass(frozen=True)
class _Chunk:
    """Where in the convolution the loops stand: `rows` outputs of the first axis from `first`."""

    scratch: Buffer
    base: Expr
    """Where in the scratch the group's planes start."""
    image: Expr
    group: Expr
    first: Expr
    rows: Expr
    slab: Buffer | None = None
    """Where one thread does all blocks, their slab."""


def emit_shifted(spec: ConvSpec, arithmetic: Arithmetic, x: Buffer, w: Buffer, store: Store) -> None:
    """Emit any convolution; see `emit_conv`."""
    tile = row_tile(spec, arithmetic)
    planes = _plan(spec, arithmetic, tile)
    kernel = _Kernel(spec, arithmetic, planes, tile, x, flat_view(w), store)
    chunks = bind(ceil_div(planes.axes[0].out, planes.rows))
    macs = product(spec.out_spatial) * spec.batch * (spec.out_channels * spec.group_in * spec.taps)
    shared = loop_for(macs)
    if spec.groups > 1:
        _emit_groups(kernel, shared, chunks)
        return
    with (
        workspace(kernel.group_words, arithmetic.word) as scratch,
        serial(spec.batch) as image,
        serial(chunks) as index,
    ):
        chunk = _chunk(kernel, scratch, image, index)
        _emit_pack(kernel, chunk, shared)
        _emit_blocks(kernel, chunk, shared)


def _emit_groups(kernel: _Kernel, loop: Loop, chunks: Expr) -> None:
    """Threads share the groups, several at a time: all are packed before the first is computed.

    One after the other, a small group's loads would wait for its own stores; and scratch is
    taken from the pool once.
    """
    spec = kernel.spec
    size = kernel.group_words
    together = min(kernel.groups_together(), spec.groups)
    blocks = ceil_div(spec.groups, together)
    with loop(spec.batch * blocks) as item:
        first = bind(item % blocks * together)
        count = together if spec.groups % together == 0 else bind(at_most(i64(together), spec.groups - first))
        with (
            workspace(together * size, kernel.arithmetic.word) as scratch,
            workspace(kernel.tile.rows * kernel.planes.slab, kernel.arithmetic.accumulator) as slab,
            serial(chunks) as index,
        ):
            chunk = replace(_chunk(kernel, scratch, bind(item // blocks), index), slab=slab)
            with serial(count) as group:
                _emit_pack(kernel, replace(chunk, group=first + group, base=group * size), serial)
            with serial(count) as group:
                _emit_blocks(kernel, replace(chunk, group=first + group, base=group * size), serial)


def _plan(spec: ConvSpec, arithmetic: Arithmetic, tile: RegisterTile) -> Planes:
    machine = arithmetic.machine
    channels = ceil_div(spec.group_in, arithmetic.group)
    phases = math.prod(axis.phases for axis in spec.axes)
    budget = (machine.l2_bytes if channels > 1 else machine.l1_bytes) // 2
    budget = choose(machine, "planes", around(budget, budget // 8, budget * 4))
    return plan_planes(
        spec.axes,
        words_per_position=max(channels * phases, tile.rows * 4),
        budget=budget // arithmetic.word_bytes,
        lanes=arithmetic.lanes,
        tile_lanes=tile.vectors * arithmetic.lanes,
        # Loads, not arithmetic, take the time of a tile of few rows.
        aligned=tile.rows <= 2,
    )


def _chunk(kernel: _Kernel, scratch: Buffer, image: Expr, index: Expr) -> _Chunk:
    out, rows = kernel.planes.axes[0].out, kernel.planes.rows
    first = bind(index * rows)
    if not (isinstance(out, int) and isinstance(rows, int) and out % rows == 0):
        rows = bind(at_most(i64(rows), i64(out) - first))
    return _Chunk(scratch, i64(0), image, i64(0), first, rows)


def _emit_pack(kernel: _Kernel, chunk: _Chunk, loop: Loop) -> None:
    with loop(kernel.channels) as channel:
        _emit_planes(kernel, chunk, channel)


def _emit_blocks(kernel: _Kernel, chunk: _Chunk, loop: Loop) -> None:
    """All output channels of a group, by the rows of a tile."""
    full, tail = divmod(kernel.spec.group_out, kernel.tile.rows)
    if full:
        with loop(full) as block:
            _emit_block(kernel, chunk, block, kernel.tile.rows)
    if tail:
        _emit_block(kernel, chunk, i64(full), tail)


def _emit_planes(kernel: _Kernel, chunk: _Chunk, channel: Expr) -> None:
    """Copy one word of channels of the chunk into its phase planes, with padding."""
    planes = kernel.planes
    base = chunk.base + channel * (planes.phases * planes.plane)
    for index, phases in enumerate(itertools.product(*(range(axis.phases) for axis in planes.axes))):
        start = base + index * planes.plane
        with ExitStack() as stack:
            outer = tuple(stack.enter_context(serial(extent)) for extent in planes.extents[:-1])
            _emit_row(kernel, chunk, channel, phases, outer, start)
        # What tiles read past the end must not be slow numbers (denormals).
        _fill(kernel, chunk, start + planes.stored, planes.plane - planes.stored)


def _fill(kernel: _Kernel, chunk: _Chunk, start: Expr, extent: Expr) -> None:
    def body(j: Expr) -> None:
        T.buffer_store(chunk.scratch, kernel.arithmetic.padding(), [start + j])

    emit_run(extent, kernel.lanes, body)


def _emit_row(
    kernel: _Kernel,
    chunk: _Chunk,
    channel: Expr,
    phases: tuple[int, ...],
    outer: tuple[Expr, ...],
    plane_start: Expr,
) -> None:
    """Copy one row along the last axis, or fill it where it lies outside the image."""
    spec, planes = kernel.spec, kernel.planes
    *outer_axes, axis = planes.axes
    offsets = (chunk.first, *(0 for _ in planes.axes[1:]))
    start = plane_start + planes.flat((*outer, 0))
    low, high = (bind(end) for end in axis.inside(phases[-1], offsets[-1], planes.extents[-1]))
    source = [a.source(r, o + q) for a, r, o, q in zip(outer_axes, phases, offsets, outer, strict=False)]

    def copy(j: Expr) -> None:
        coordinate = axis.source(phases[-1], offsets[-1] + low + j)

        def element(c: Expr) -> Expr:
            return kernel.x[(chunk.image, chunk.group * spec.group_in + c, *source, coordinate)]

        word = kernel.arithmetic.read_word(element, channel, spec.group_in)
        T.buffer_store(chunk.scratch, word, [start + low + j])

    def copy_run() -> None:
        count = high - low
        if axis.stride != 2 or not isinstance(count, int) or count < 2 or kernel.arithmetic.converts:
            emit_run(count, kernel.lanes, copy)
            return
        first = axis.source(phases[-1], offsets[-1] + low)
        row: Expr = chunk.image * spec.in_channels + chunk.group * spec.group_in + channel
        for a, coordinate in zip(planes.axes, (*source, first), strict=True):
            row = row * a.size + coordinate
        _copy_every_other(
            flat_view(kernel.x), bind(row), chunk.scratch, bind(start + low), count, kernel.lanes
        )

    def copy_row() -> None:
        _fill(kernel, chunk, start, low)
        copy_run()
        _fill(kernel, chunk, start + high, planes.extents[-1] - high)

    conditions = [
        condition for a, s in zip(outer_axes, source, strict=True) for condition in (s >= 0, s < a.size)
    ]
    if not conditions:
        copy_row()
        return
    with T.If(tirx.all(*conditions)):
        with T.Then():
            copy_row()
        with T.Else():
            _fill(kernel, chunk, start, planes.extents[-1])


def _copy_every_other(x: Buffer, source: Expr, to: Buffer, target: Expr, count: int, lanes: int) -> None:
    """to[target + j] = x[source + 2 j] for j < count, of flat buffers; count and lanes are at least 2."""
    while lanes > count:
        lanes //= 2

    def copy(j: Expr) -> None:
        # The second half is read one element early, to end with the last that is asked for.
        low = lanes_of(x, source + j * 2, lanes)
        high = lanes_of(x, source + j * 2 + (lanes - 1), lanes)
        even = [*range(0, lanes, 2), *range(lanes + 1, 2 * lanes, 2)]
        store_lanes(to, target + j, lanes, tirx.Shuffle([low, high], [i64(index) for index in even]))

    full, tail = divmod(count, lanes)
    with serial(full) as i:
        copy(i * lanes)
    if tail:
        copy(i64(count - lanes))


def _emit_block(kernel: _Kernel, chunk: _Chunk, block: Expr, rows: int) -> None:
    """`rows` output channels of the chunk: into a slab, and from there out."""
    planes = kernel.planes
    with ExitStack() as stack:
        slab = chunk.slab
        if slab is None:
            size = rows * planes.slab
            slab = stack.enter_context(workspace(size, kernel.arithmetic.accumulator))
        _emit_tiles(kernel, chunk, block, slab, rows)
        _emit_outputs(kernel, chunk, block, slab, rows)


def _emit_tiles(kernel: _Kernel, chunk: _Chunk, block: Expr, slab: Buffer, rows: int) -> None:
    """All positions of the chunk for `rows` output channels, into the slab."""
    lanes, most = kernel.lanes, kernel.tile.vectors
    vectors = ceil_div(kernel.planes.positions(chunk.rows), lanes)
    full, tail = divmod(vectors, most) if isinstance(vectors, int) else (bind(ceil_div(vectors, most)), 0)
    if not isinstance(full, int) or full:
        with serial(full) as tile:
            _emit_tile(kernel, chunk, block, slab, tile * (most * lanes), (rows, most))
    if tail:
        _emit_tile(kernel, chunk, block, slab, i64(full * most * lanes), (rows, tail))


def _emit_tile(
    kernel: _Kernel, chunk: _Chunk, block: Expr, slab: Buffer, position: Expr, shape: tuple[int, int]
) -> None:
    """Sum one register tile over channels and taps, and put it into the slab."""
    spec, planes, lanes = kernel.spec, kernel.planes, kernel.lanes
    rows, vectors = shape
    blocks = ceil_div(spec.group_out, kernel.tile.rows)
    header = kernel.arithmetic.header
    words = kernel.channels * spec.taps + header
    w_base = bind((chunk.group * blocks + block) * (words * kernel.tile.rows))

    def initial(m: int, v: int) -> Expr:
        return T.broadcast(kernel.w[w_base + m] * kernel.arithmetic.header_factor(), lanes)

    looped = _looped_axes(spec.kernel, rows)

    def step(tile: Tile, channel: Expr) -> None:
        with ExitStack() as stack:
            outer = tuple(stack.enter_context(serial(extent)) for extent in spec.kernel[:looped])
            for inner in itertools.product(*(range(extent) for extent in spec.kernel[looped:])):
                taps = (*outer, *inner)
                plane, shift = planes.tap(taps)
                x_base = bind(
                    chunk.base + (channel * planes.phases + plane) * planes.plane + position + shift
                )
                index: Expr = 0
                for extent, tap in zip(spec.kernel, taps, strict=True):
                    index = index * extent + tap
                w_row = bind(w_base + (channel * spec.taps + index + header) * kernel.tile.rows)
                tile.step(
                    [lanes_of(chunk.scratch, x_base + v * lanes, lanes) for v in range(vectors)],
                    lambda m, w_row=w_row: kernel.w[w_row + m],  # type: ignore[misc]
                    scalars_are_weights=True,
                )
                if rows > 1:  # tap by tap: accumulator by accumulator, all taps' inputs would be live
                    tile.commit()
            if rows == 1:
                tile.commit()

    tile = emit_sum(kernel.arithmetic, shape, kernel.channels, spec.taps, step, initial if header else None)
    for m in range(rows):
        for v in range(vectors):
            store_lanes(slab, position + (m * planes.slab + v * lanes), lanes, tile.vector(m, v))


def _looped_axes(kernel: tuple[int, ...], rows: int) -> int:
    """How many leading axes of the kernel are loops, the rest being unrolled."""
    for axes in range(len(kernel)):
        if math.prod(kernel[axes:]) * rows <= _UNROLLED_ROWS:
            return axes
    return len(kernel)


def _emit_outputs(kernel: _Kernel, chunk: _Chunk, block: Expr, slab: Buffer, rows: int) -> None:
    """Hand the true outputs of a slab to the store, row by row."""
    spec, planes = kernel.spec, kernel.planes
    extents = (chunk.rows, *(axis.out for axis in planes.axes[1:]))
    with serial(rows) as m, ExitStack() as stack:
        outer = tuple(stack.enter_context(serial(extent)) for extent in extents[:-1])
        channel = chunk.group * spec.group_out + block * kernel.tile.rows + m

        def body(j: Expr) -> None:
            local = (*outer, j)
            position = (chunk.first + local[0], *local[1:])
            kernel.store(slab[m * planes.slab + planes.flat(local)], (chunk.image, channel, *position))

        emit_run(extents[-1], kernel.lanes, body)
