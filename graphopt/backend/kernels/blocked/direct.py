"""Direct convolution on the blocked layout.

A register tile is `width` neighbouring columns of one output row times `blocks` blocks of output
channels. Its inner loop multiplies one broadcast element of the input per column by vectors of
weights, which lie in the order in which they are read: [o-block][block of input channels][taps]
[channel of the block][vectors]. Three orders of loops follow from sizes:

- Kernel 1 with stride 1 is one long row of pixels.
- Rows are taken in chunks whose input stays in the L2 cache while all o-blocks read it.
- A long reduction is cut: some input channels for all tiles of a chunk, then the next ones. Their
  weights stay in the L1 cache, and sums in scratch lose less to rounding. The next weights are
  fetched meanwhile.
"""

from __future__ import annotations

import dataclasses
import math
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.blocked.columns import Segment, TapRun, cut, selected, source, tap_range
from graphopt.backend.kernels.blocked.direct_plan import (
    FLOAT_BYTES,
    Kernel,
    Plan,
    is_flat,
    plan_loops,
    register_tile,
    unrolling,
    weight_shape,
)
from graphopt.backend.kernels.blocked.layout import (
    Accumulators,
    block_count,
    block_lanes,
    blocked_layout,
    channel_index,
    plain_layout,
    unrolled,
)
from graphopt.backend.kernels.conv_spec import ConvSpec, Store
from graphopt.backend.kernels.emit import (
    Buffer,
    Expr,
    at_least,
    at_most,
    bind,
    ceil_div,
    flat_view,
    i64,
    lanes_of,
    loop_for,
    product,
    serial,
    unflatten,
    workspace,
)
from graphopt.backend.kernels.machine import Machine

Array = npt.NDArray[np.generic]

_LINE = 64  # bytes of a cache line


def pack_weights(spec: ConvSpec, machine: Machine, w: Array, plain_input: bool) -> Array:
    """Weights [out, in/groups, *kernel] in the order in which the kernel reads them, padded with 0."""
    groups, blocks, depth, taps, channels, width = weight_shape(spec, machine, plain_input)
    padded = np.zeros((groups, blocks * width, depth * channels, taps), w.dtype)
    padded[:, : spec.group_out, : spec.group_in] = w.reshape(groups, spec.group_out, spec.group_in, taps)
    split = padded.reshape(groups, blocks, width, depth, channels, taps)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 5, 4, 2))


def emit_direct(
    spec: ConvSpec, machine: Machine, x: Buffer, w: Buffer, store: Store, plain_input: bool
) -> None:
    """Emit the convolution; `x` is flat, in plain layout with `plain_input`."""
    lanes = block_lanes(machine)
    layout = plain_layout(spec) if plain_input else blocked_layout(spec, lanes)
    shape = weight_shape(spec, machine, plain_input)
    tile = register_tile(spec, machine)
    if is_flat(spec):
        spec, store = _flattened(spec, store)
    kernel = Kernel(
        spec,
        machine,
        layout,
        shape,
        tile,
        cut(spec.axes[-1], spec.pads_end[-1], tile.rows),
        x,
        flat_view(w),
        store,
    )
    full, tail = divmod(block_count(spec.group_out, lanes), tile.vectors)
    plan = plan_loops(kernel)
    if full:
        _emit_items(kernel, plan, i64(0), full, tile.vectors)
    if tail:
        _emit_items(kernel, plan, i64(full), 1, tail)


def _flattened(spec: ConvSpec, store: Store) -> tuple[ConvSpec, Store]:
    """The same convolution over one axis of pixels."""
    spatial = spec.spatial

    def store_pixel(value: Expr, index: tuple[Expr, ...]) -> None:
        image, channel, pixel = index
        store(value, (image, channel, *unflatten(pixel, spatial)))

    flat = ConvSpec(
        spec.batch, spec.in_channels, spec.out_channels, (bind(product(spatial)),), (1,), spec.groups
    )
    return flat, store_pixel


@dataclass(frozen=True)
class _Item:
    """Where the outer loops stand: one o-block of one chunk of one group of one image."""

    plan: Plan
    image: Expr
    group: Expr
    chunk: Expr
    block: Expr
    vectors: int
    x_base: Expr
    w_base: Expr
    sums: Buffer | None
    part: Expr = 0
    """Which part of the reduction is being added."""


@dataclass(frozen=True)
class _Place:
    """Where a register tile stands: its row, its first column, and its number in the chunk."""

    segment: Segment
    row: tuple[Expr, ...]
    start: Expr
    slot: Expr


def _emit_items(kernel: Kernel, plan: Plan, first: Expr, count: int, vectors: int) -> None:
    spec = kernel.spec
    macs = product(spec.out_spatial) * spec.batch * (spec.out_channels * spec.group_in * spec.taps)
    extents = (
        (spec.groups, count, spec.batch, plan.chunks)
        if plan.weights_outside
        else (spec.batch, spec.groups, plan.chunks, count)
    )
    _, blocks, depth, *_ = kernel.shape
    with loop_for(macs)(product(extents)) as index, ExitStack() as stack:
        indices = [bind(i) for i in unflatten(index, extents)]
        if plan.weights_outside:
            group, block, image, chunk = indices
        else:
            image, group, chunk, block = indices
        block = bind(first + block)
        sums = None
        if plan.depth < depth:
            slots = plan.units + 1 if kernel.flat else plan.units * kernel.row_tiles
            sums = stack.enter_context(workspace(bind(slots * kernel.slot), "float32"))
        x_base = bind(image * kernel.layout.image + group * (depth * kernel.layout.block))
        w_base = bind((group * blocks + block) * (depth * kernel.block_size))
        item = _Item(plan, image, group, chunk, block, vectors, x_base, w_base, sums)
        if sums is None:
            _emit_chunk(kernel, item)
            return
        with serial(ceil_div(depth, plan.depth)) as part:
            _emit_chunk(kernel, dataclasses.replace(item, part=part))


def _emit_chunk(kernel: Kernel, item: _Item) -> None:
    """All tiles of a chunk, for one part of the reduction."""
    units = item.plan.units
    if kernel.flat:
        first = bind(item.chunk * units)
        for index, segment in enumerate(kernel.segments):
            # The first segment is nearly all of the row; what is left goes with the last chunk.
            if index == 0:
                count = at_most(i64(units), segment.count - first) if item.plan.chunks != 1 else segment.count
                begin = first
            else:
                count = segment.count
                if item.plan.chunks != 1:
                    count = tirx.Select(item.chunk == item.plan.chunks - 1, i64(count), i64(0))
                begin = i64(0)
            with serial(bind(count)) as i:
                tile = segment.tile(begin + i)
                _emit_tile(kernel, item, _Place(segment, (), segment.start(tile), bind(tile - first)))
        return
    rows = bind(product(kernel.spec.out_spatial[:-1]))
    first = bind(item.chunk * units)
    count = units
    if not (isinstance(rows, int) and isinstance(units, int) and rows % units == 0):
        count = bind(at_most(i64(units), rows - first))
    with serial(count) as local:
        row = tuple(bind(i) for i in unflatten(bind(first + local), kernel.spec.out_spatial[:-1]))
        for segment in kernel.segments:
            with serial(segment.count) as i:
                tile = segment.tile(i)
                slot = local * kernel.row_tiles + tile
                _emit_tile(kernel, item, _Place(segment, row, segment.start(tile), slot))


def _emit_tile(kernel: Kernel, item: _Item, place: _Place) -> None:
    """One part of the reduction for one register tile."""
    tile = Accumulators(place.segment.width, item.vectors, kernel.lanes)
    if item.sums is None:
        tile.clear()
        _emit_reduction(kernel, item, place, tile)
        _emit_stores(kernel, item, place, tile)
        return
    sums = item.sums
    start = bind(place.slot * kernel.slot)
    # Every part is summed from zero: rounding errors grow with the length of a sum.
    tile.clear()
    _emit_reduction(kernel, item, place, tile)
    with T.If(item.part > 0), T.Then():
        tile.gain(sums, start)
    with T.If(item.part == ceil_div(kernel.shape[2], item.plan.depth) - 1):
        with T.Then():
            _emit_stores(kernel, item, place, tile)
        with T.Else():
            tile.save(sums, start)


def _emit_stores(kernel: Kernel, item: _Item, place: _Place, tile: Accumulators) -> None:
    """Hand a finished tile to the store."""
    spec, lanes = kernel.spec, kernel.lanes
    first = bind(item.group * block_count(spec.group_out, lanes) + item.block * kernel.tile.vectors)

    with unrolled(place.segment.width) as j:
        out = place.start + j
        with ExitStack() as stack:
            if place.segment.taps is None:
                stack.enter_context(T.If(out < spec.out_spatial[-1]))
                stack.enter_context(T.Then())
            for v in range(item.vectors):

                def store(value: Expr, lane: Expr, v: int = v, out: Expr = out) -> None:
                    channel = channel_index(first + v, lanes, lane)
                    kernel.store(value, (item.image, channel, *place.row, out))

                tile.for_each_lane(j, v, store)


def _emit_reduction(kernel: Kernel, item: _Item, place: _Place, tile: Accumulators) -> None:
    spec, depth = kernel.spec, kernel.shape[2]
    first = bind(item.part * item.plan.depth)
    blocks = item.plan.depth
    if depth % blocks:
        blocks = bind(at_most(i64(blocks), depth - first))
    ranges = [tap_range(axis, out) for axis, out in zip(spec.axes, place.row, strict=False)]
    with serial(blocks) as local, ExitStack() as stack:
        block = bind(first + local)
        steps: Expr = kernel.shape[4]
        if spec.group_in % kernel.shape[4]:
            steps = bind(at_most(i64(steps), spec.group_in - block * steps))
        x_base = item.x_base + block * kernel.layout.block
        row, tap, position = i64(0), i64(0), i64(0)
        for axis, out, (low, count) in zip(spec.axes, place.row, ranges, strict=False):
            offset = stack.enter_context(serial(count))
            row = row * axis.size + source(axis, out, low + offset)
            tap = tap * axis.kernel + (low + offset)
            position = position * axis.kernel + offset
        axis = spec.axes[-1]
        x_row = bind(x_base + row * axis.size * kernel.layout.pixel)
        w_row = bind(item.w_base + block * kernel.block_size + tap * (axis.kernel * _tap_size(kernel)))
        outer = product(spec.kernel[:-1])
        _emit_prefetch(kernel, item, (place.slot * item.plan.depth + local) * outer + position)
        runs = place.segment.taps
        if runs is None:
            runs = (TapRun(0, axis.kernel, tuple(range(place.segment.width))),)
        for run in runs:
            with serial(run.count) as k:
                _emit_steps(kernel, item, place, run.columns, tile, (x_row, w_row, run.first + k), steps)


def _tap_size(kernel: Kernel) -> int:
    """Weights of one tap of one block of input channels for one o-block."""
    return kernel.shape[4] * kernel.shape[5]


def _emit_steps(
    kernel: Kernel,
    item: _Item,
    place: _Place,
    columns: tuple[int, ...],
    tile: Accumulators,
    at: tuple[Expr, Expr, Expr],
    steps: Expr,
) -> None:
    """The innermost loop: the channels of one block at one tap."""
    x_row, w_row, tap = at
    layout, lanes, axis = kernel.layout, kernel.lanes, kernel.spec.axes[-1]
    w_tap = bind(w_row + tap * _tap_size(kernel))
    start = place.start
    checked = place.segment.taps is None
    bases: list[tuple[Expr, Expr]] = []
    if checked:
        for j in columns:
            position = bind(source(axis, start + j, tap))
            clamped = at_least(at_most(position, axis.size - 1), 0)
            inside = tirx.all(position >= 0, position < axis.size)
            bases.append((bind(x_row + clamped * layout.pixel), inside))
    x_tap = bind(x_row + source(axis, start + columns[0], tap) * layout.pixel)

    def add_column(j: Expr, scalar: Expr, w_step: Expr) -> None:
        for v in range(item.vectors):
            product_ = T.broadcast(scalar, lanes) * lanes_of(kernel.w, w_step + v * lanes, lanes)
            tile.add(columns[0] + j, v, product_)

    unroll = 1 if checked else unrolling(kernel, len(columns) * item.vectors)
    with serial(steps // unroll) as group, unrolled(unroll) as i:
        step = group * unroll + i
        w_step = w_tap + step * kernel.shape[5]
        if checked:
            for j, (base, inside) in enumerate(bases):
                add_column(j, selected(inside, kernel.x[base + step * layout.channel]), w_step)
            return
        with unrolled(len(columns)) as column:
            x_step = x_tap + column * (axis.stride * layout.pixel) + step * layout.channel
            add_column(column, kernel.x[x_step], w_step)


def _emit_prefetch(kernel: Kernel, item: _Item, position: Expr) -> None:
    """Fetch a share of the weights of the next part, or of the next o-block's first.

    All tiles of a chunk take shares, `position` by position.
    """
    spec, plan = kernel.spec, item.plan
    size = plan.depth * kernel.block_size
    lines = ceil_div(size * FLOAT_BYTES, _LINE)
    tiles = plan.units if kernel.flat else plan.units * kernel.row_tiles
    share = 4
    if isinstance(tiles, int):
        share = ceil_div(lines, tiles * plan.depth * product(spec.kernel[:-1]))
    per_line = _LINE // FLOAT_BYTES
    start = bind(item.w_base + (item.part + 1) * size + position * (share * per_line))

    def fetch(line: Expr) -> None:
        address = T.address_of(kernel.w[start + line * per_line])
        T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", address, 0, 2, 1))

    # Where nothing follows, an address outside of all memory costs more than one inside.
    follows = start < math.prod(kernel.shape)
    with T.If(tirx.all(position * share < lines, follows)), T.Then():
        if share <= 4:
            for line in range(share):
                fetch(line)
        else:
            with serial(share) as line:
                fetch(line)
