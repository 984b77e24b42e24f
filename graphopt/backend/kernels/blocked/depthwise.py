"""Depthwise convolution on the blocked layout: lanes are channels, which never meet.

A register tile is some neighbouring columns of an output row. The rows whose taps all lie in the
image have a body of their own, in which taps are unrolled and inputs that columns share are read
once; at the borders of the columns, tiles leave taps out (see columns.py).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.blocked.columns import Segment, cut, source, tap_range
from graphopt.backend.kernels.blocked.layout import (
    Accumulators,
    DataLayout,
    block_count,
    block_lanes,
    blocked_layout,
    channel_index,
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
)
from graphopt.backend.kernels.knobs import around, choose
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.tiling import choose_depthwise_columns

Array = npt.NDArray[np.generic]

# Multiply-adds of one body of unrolled taps.
_UNROLLED = 192
# Rows of one image that one thread takes at a time.
_ROWS = 16


def is_depthwise(spec: ConvSpec) -> bool:
    """Whether every output channel has one input channel of its own."""
    return spec.groups == spec.in_channels == spec.out_channels and spec.groups > 1


def weight_shape(spec: ConvSpec, machine: Machine) -> tuple[int, ...]:
    """[blocks, taps, channels of a block]."""
    lanes = block_lanes(machine)
    return (block_count(spec.out_channels, lanes), spec.taps, lanes)


def pack_weights(spec: ConvSpec, machine: Machine, w: Array) -> Array:
    """Weights [channels, 1, *kernel] by blocks of channels, padded with 0."""
    blocks, taps, lanes = weight_shape(spec, machine)
    padded = np.zeros((blocks * lanes, taps), w.dtype)
    padded[: spec.out_channels] = w.reshape(spec.out_channels, taps)
    return np.ascontiguousarray(padded.reshape(blocks, lanes, taps).transpose(0, 2, 1))


@dataclass(frozen=True)
class _Kernel:
    """One convolution being emitted."""

    spec: ConvSpec
    layout: DataLayout
    lanes: int
    width: int
    """Columns of a register tile."""
    segments: list[Segment]
    x: Buffer
    w: Buffer
    store: Store


@dataclass(frozen=True)
class _Row:
    """One row of outputs of one block of channels of one image."""

    image: Expr
    block: Expr
    x_base: Expr
    w_base: Expr
    at: tuple[Expr, ...]
    taps: list[tuple[Expr, Expr]] | None
    """First tap and count of taps inside the image along all axes but the last, None if all are."""


def emit_depthwise(spec: ConvSpec, machine: Machine, x: Buffer, w: Buffer, store: Store) -> None:
    """Emit the convolution; `x` is flat."""
    lanes = block_lanes(machine)
    out = spec.out_spatial[-1]
    width = choose_depthwise_columns(machine, out if isinstance(out, int) else None)
    layout = blocked_layout(spec, lanes)
    segments = cut(spec.axes[-1], spec.pads_end[-1], width)
    kernel = _Kernel(spec, layout, lanes, width, segments, x, flat_view(w), store)
    blocks = block_count(spec.out_channels, lanes)
    rows = bind(product(spec.out_spatial[:-1]))
    chunk = _ROWS
    if isinstance(rows, int):
        most = max(rows, 1)
        chunk = choose(machine, "chunk", around(min(_ROWS, most), 1, most))
    chunks = bind(ceil_div(rows, chunk))
    with loop_for(product(spec.out_spatial) * spec.batch * (spec.out_channels * spec.taps))(
        product((spec.batch, blocks, chunks))
    ) as item:
        image, block, index = (bind(i) for i in unflatten(item, (spec.batch, blocks, chunks)))
        x_base = bind(image * layout.image + block * layout.block)
        w_base = bind(block * (spec.taps * lanes))
        first = bind(index * chunk)
        count = chunk if isinstance(rows, int) and rows % chunk == 0 else at_most(i64(chunk), rows - first)
        with serial(count) as local:
            at = tuple(bind(i) for i in unflatten(bind(first + local), spec.out_spatial[:-1]))
            taps = [tap_range(axis, o) for axis, o in zip(spec.axes, at, strict=False)]
            _emit_row(kernel, _Row(image, block, x_base, w_base, at, taps))


def _emit_row(kernel: _Kernel, row: _Row) -> None:
    """One row: inside the image, or at its border."""
    taps, outer = row.taps or [], kernel.spec.kernel[:-1]
    whole = _Row(row.image, row.block, row.x_base, row.w_base, row.at, None)
    if kernel.spec.taps * kernel.width > _UNROLLED:
        _emit_tiles(kernel, row)
        return
    conditions = [count == extent for (_, count), extent in zip(taps, outer, strict=True)]
    if all(isinstance(condition, bool) for condition in conditions):
        _emit_tiles(kernel, whole if all(conditions) else row)
        return
    with T.If(tirx.all(*(c for c in conditions if not isinstance(c, bool)))):
        with T.Then():
            _emit_tiles(kernel, whole)
        with T.Else():
            _emit_tiles(kernel, row)


def _emit_tiles(kernel: _Kernel, row: _Row) -> None:
    for segment in kernel.segments:
        with serial(segment.count) as i:
            _emit_tile(kernel, row, segment, segment.tile(i))


def _emit_tile(kernel: _Kernel, row: _Row, segment: Segment, tile: Expr) -> None:
    spec, lanes = kernel.spec, kernel.lanes
    start = segment.start(tile)
    columns = Accumulators(segment.width, 1, lanes)
    columns.clear()
    outer = spec.axes[:-1]
    if row.taps is None:
        with ExitStack() as stack:
            taps = tuple(stack.enter_context(unrolled(axis.kernel)) for axis in outer)
            _emit_taps(kernel, row, segment, start, columns, taps)
    else:
        with ExitStack() as stack:
            taps = tuple(low + stack.enter_context(serial(count)) for low, count in row.taps)
            _emit_taps(kernel, row, segment, start, columns, taps)
    with unrolled(segment.width) as j, ExitStack() as stack:
        out = start + j
        if segment.taps is None:
            stack.enter_context(T.If(out < spec.out_spatial[-1]))
            stack.enter_context(T.Then())

        def store(value: Expr, lane: Expr) -> None:
            channel = channel_index(row.block, lanes, lane)
            kernel.store(value, (row.image, channel, *row.at, out))

        columns.for_each_lane(j, 0, store)


def _emit_taps(
    kernel: _Kernel,
    row: _Row,
    segment: Segment,
    start: Expr,
    columns: Accumulators,
    outer_taps: tuple[Expr, ...],
) -> None:
    """Add the taps along the last axis at given taps of the others."""
    spec, lanes = kernel.spec, kernel.lanes
    *outer, axis = spec.axes
    position, tap = i64(0), i64(0)
    for a, o, t in zip(outer, row.at, outer_taps, strict=True):
        position = position * a.size + source(a, o, t)
        tap = tap * a.kernel + t
    x_row = bind(row.x_base + position * axis.size * lanes)
    w_row = bind(row.w_base + tap * (axis.kernel * lanes))
    if segment.taps is None:
        with serial(axis.kernel) as k:
            _emit_checked_tap(kernel, start, columns, (x_row, w_row, k))
        return
    x_tile = bind(x_row + start * (axis.stride * lanes))
    for run in segment.taps:
        first = run.columns[0]
        with unrolled(run.count) as i, unrolled(len(run.columns)) as column:
            k, j = run.first + i, first + column
            weights = lanes_of(kernel.w, w_row + k * lanes, lanes)
            data = lanes_of(kernel.x, x_tile + source(axis, j, k) * lanes, lanes)
            columns.add(j, 0, data * weights)


def _emit_checked_tap(
    kernel: _Kernel, start: Expr, columns: Accumulators, at: tuple[Expr, Expr, Expr]
) -> None:
    """Add one tap along the last axis, of the columns for which it lies in the image."""
    x_row, w_row, k = at
    lanes, axis = kernel.lanes, kernel.spec.axes[-1]
    weights = lanes_of(kernel.w, w_row + k * lanes, lanes)
    for j in range(columns.columns):
        position = bind(source(axis, start + j, k))
        clamped = at_least(at_most(position, axis.size - 1), 0)
        data = lanes_of(kernel.x, x_row + clamped * lanes, lanes)
        inside = tirx.all(position >= 0, position < axis.size)
        data = tirx.Select(inside, data, T.broadcast(T.float32(0), lanes))
        columns.add(j, 0, data * weights)
