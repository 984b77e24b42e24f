"""Transposed convolution in row-major order: phases side by side in scratch, woven together at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.conv import emit_conv, pack_conv_weights, packed_conv_shape
from graphopt.backend.kernels.conv_spec import Store
from graphopt.backend.kernels.emit import (
    Buffer,
    Expr,
    bind,
    ceil_div,
    emit_run,
    i64,
    lanes_of,
    loop_for,
    product,
    register,
    serial,
    store_lanes,
    unflatten,
    workspace,
)
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.temporaries import vectorized
from graphopt.backend.kernels.transposed.phases import Phases, TransposedSpec, covers, phases_of
from graphopt.backend.kernels.transposed.plan import (
    TransposedPlan,
    joined_size,
    joined_weights,
    own_machines,
    split_weights,
)

# Phases along a row that are woven together as vectors; more are read element by element.
_MOST_WOVEN = 8


def plan_rows(spec: TransposedSpec, machine: Machine) -> TransposedPlan:
    """The kernel for data in row-major order.

    Vectors run along pixels, so the phases of the last axis go through scratch, where each has a row of
    its own, and are woven together from there.
    """
    parts = phases_of(spec, spec.group_out, together=True)
    machines = own_machines(parts, machine)
    shapes = [packed_conv_shape(part.conv, own) for part, own in zip(parts, machines, strict=True)]
    dtype = "float32" if spec.dtype == "float16" else spec.dtype

    def emit(x: Buffer, w: Buffer, store: Store) -> None:
        if spec.strides[-1] == 1 and covers(spec, parts):
            for part, own, weights in zip(parts, machines, split_weights(w, shapes), strict=True):
                emit_conv(part.conv, own, x, weights, _spread(part, store))
            return
        planes = _Planes(spec, machine)
        with workspace(planes.size, spec.dtype) as scratch:
            if not covers(spec, parts):
                zero = T.cast(0, spec.dtype)
                emit_run(planes.size, planes.lanes, lambda j: T.buffer_store(scratch, zero, [j]))
            for part, own, weights in zip(parts, machines, split_weights(w, shapes), strict=True):
                emit_conv(part.conv, own, x, weights, planes.store(part, scratch))
            planes.emit_woven(scratch, store)

    return TransposedPlan(
        (
            "transposed",
            spec.groups,
            spec.kernel,
            *((p.axes, p.width, shape) for p, shape in zip(parts, shapes, strict=True)),
        ),
        (joined_size(shapes),),
        lambda w: joined_weights(
            shapes,
            dtype,
            (pack_conv_weights(p.conv, own, p.weights(w)) for p, own in zip(parts, machines, strict=True)),
        ),
        emit,
        dtype,
    )


def _spread(part: Phases, store: Store) -> Store:
    """A store for the convolution of `part`."""

    def one(value: Expr, index: tuple[Expr, ...]) -> None:
        image, channel, *position = index
        channel, residues = part.split(channel, part.width)
        store(value, (image, channel, *part.place(position, residues)))

    return one


class _Planes:
    """Scratch of all outputs, in which every phase of every channel is a plane of its own."""

    def __init__(self, spec: TransposedSpec, machine: Machine) -> None:
        self.spec = spec
        self.lanes = max(machine.vector_bits // (8 * np.dtype(spec.dtype).itemsize), 2)
        columns = zip(spec.out_spatial, spec.strides, strict=True)
        self.pitches = tuple(bind(ceil_div(out, stride)) for out, stride in columns)
        self.plane = bind(product(self.pitches))
        self.size = bind(product(spec.strides) * self.plane * spec.out_channels * spec.batch)

    def _start(self, image: Expr, channel: Expr, residues: Sequence[Expr], position: Sequence[Expr]) -> Expr:
        row, offset = image * self.spec.out_channels + channel, i64(0)
        for residue, stride in zip(residues, self.spec.strides, strict=True):
            row = row * stride + residue
        for q, pitch in zip(position, self.pitches, strict=True):
            offset = offset * pitch + q
        return row * self.plane + offset

    def store(self, part: Phases, scratch: Buffer) -> Store:
        """A store for the convolution of `part`."""

        def one(value: Expr, index: tuple[Expr, ...]) -> None:
            image, channel, *position = index
            channel, residues = part.split(channel, part.width)
            T.buffer_store(scratch, value, [self._start(image, channel, residues, position)])

        return one

    def emit_woven(self, scratch: Buffer, store: Store) -> None:
        """Hands every output to `store`."""
        *outer, out = self.spec.out_spatial
        extents = (self.spec.batch, self.spec.out_channels, *outer)
        with loop_for(self.size)(product(extents)) as item:
            index = tuple(bind(i) for i in unflatten(item, extents))
            image, channel, *rows = index
            strides = self.spec.strides[:-1]
            residues = [row % stride for row, stride in zip(rows, strides, strict=True)]
            position = [row // stride for row, stride in zip(rows, strides, strict=True)]
            start = bind(self._start(image, channel, (*residues, 0), (*position, 0)))
            self._emit_row(scratch, start, out, lambda value, j: store(value, (*index, j)))

    def _emit_row(self, scratch: Buffer, start: Expr, out: Expr, store: Callable[[Expr, Expr], None]) -> None:
        stride, width = self.spec.strides[-1], self.lanes

        def one(j: Expr) -> None:
            store(scratch[start + j % stride * self.plane + j // stride], j)

        whole = bind(out // stride)

        def vectors() -> None:
            self._emit_vectors(scratch, start, whole, width, store)
            with serial(out - whole * stride) as k:
                one(whole * stride + k)

        if stride > _MOST_WOVEN:
            emit_run(out, self.lanes, one)
        elif not isinstance(whole, int):
            with T.If(whole >= width):
                with T.Then():
                    vectors()
                with T.Else(), serial(out) as column:
                    one(column)
        elif whole == 0:
            emit_run(out, self.lanes, one)
        else:
            while width > whole:
                width //= 2
            vectors()

    def _emit_vectors(
        self, scratch: Buffer, start: Expr, whole: Expr, width: int, store: Callable[[Expr, Expr], None]
    ) -> None:
        """The first `whole` outputs of each phase, `width` at a time; the last ones overlap."""
        stride = self.spec.strides[-1]
        with serial(ceil_div(whole, width)) as i:
            first = bind(T.min(i * width, i64(whole - width)))
            phases = [lanes_of(scratch, start + r * self.plane + first, width) for r in range(stride)]
            for v in range(stride):
                places = range(v * width, (v + 1) * width)
                order = [i64(place % stride * width + place // stride) for place in places]
                woven = register(width, self.spec.dtype)
                store_lanes(woven, 0, width, tirx.Shuffle(phases, order) if stride > 1 else phases[0])
                with vectorized(width) as lane:
                    store(woven[lane], first * stride + v * width + lane)
