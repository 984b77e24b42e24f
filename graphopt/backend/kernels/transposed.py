"""Transposed convolution as convolutions of stride 1, one for each phase of the output.

Along one axis with stride s, dilation d and padding p, tap t of output o reads input (o + p - t d) / s,
where that is whole. All outputs o = q s + r of one *phase* r thus read the same taps, which lie d / gcd(d, s)
inputs apart: an ordinary convolution over q, its taps in reverse. Neighbouring phases that read equally
many taps at the same places differ in weights alone. They are computed as one convolution with as many
times the output channels, whose store puts them where they belong: with kernel = stride everything is
one product. Phases without any tap are zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.ir import PointerType, PrimType
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.blocked.layout import block_count, block_lanes, channel_index
from graphopt.backend.kernels.choice import ConvPlan, plan_conv
from graphopt.backend.kernels.conv import emit_conv, pack_conv_weights, packed_conv_shape
from graphopt.backend.kernels.conv_spec import ConvSpec, Store
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
from graphopt.backend.kernels.knobs import part_of
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.temporaries import vectorized

Array = npt.NDArray[np.generic]

_LINE = 16  # elements: weights of every convolution begin at a multiple
# Phases along a row that are woven together as vectors; more are read element by element.
_MOST_WOVEN = 8


@dataclass(frozen=True)
class TransposedSpec:
    """A transposed convolution in ONNX terms, its padding resolved to numbers.

    `batch` and `spatial` may hold 64-bit expressions. Along each axis the output has
    `size * stride + surplus` positions.
    """

    batch: Expr
    in_channels: int
    out_channels: int
    spatial: tuple[Expr, ...]
    kernel: tuple[int, ...]
    groups: int
    strides: tuple[int, ...]
    pads_begin: tuple[int, ...]
    surplus: tuple[int, ...]
    dilations: tuple[int, ...]
    dtype: str = "float32"

    @property
    def out_spatial(self) -> tuple[Expr, ...]:
        """Output sizes along the spatial axes."""
        columns = zip(self.spatial, self.strides, self.surplus, strict=True)
        return tuple(size * stride + surplus for size, stride, surplus in columns)

    @property
    def group_in(self) -> int:
        """Input channels of one group."""
        return self.in_channels // self.groups

    @property
    def group_out(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @property
    def is_depthwise(self) -> bool:
        """Whether every output channel has one input channel of its own."""
        return self.groups == self.in_channels == self.out_channels and self.groups > 1


@dataclass(frozen=True)
class AxisPhases:
    """Phases of one axis that are computed together: residues `first`, `first + step`, ..."""

    first: int
    step: int
    taps: tuple[tuple[int, ...], ...]
    """For each phase, the taps in the order of the inputs that they read."""
    dilation: int
    pad: int
    pad_end: int

    @property
    def residues(self) -> range:
        """The residues of outputs modulo the stride."""
        return range(self.first, self.first + self.step * len(self.taps), self.step)


def axis_phases(spec: TransposedSpec, axis: int, together: bool) -> list[AxisPhases]:
    """The phases of an axis that have taps, those that need the same convolution `together`."""
    stride, dilation = spec.strides[axis], spec.dilations[axis]
    pad, kernel = spec.pads_begin[axis], spec.kernel[axis]
    step = math.gcd(stride, dilation)
    found: list[AxisPhases] = []
    for residue in range(stride):
        taps = tuple(t for t in reversed(range(kernel)) if (residue + pad - t * dilation) % stride == 0)
        if not taps:
            continue
        begin = -((residue + pad - taps[0] * dilation) // stride)
        # Outputs of the phase are ceil((size * stride + surplus - residue) / stride).
        longer = -((residue - spec.surplus[axis]) // stride)
        distance = dilation // step
        phase = AxisPhases(
            residue, step, (taps,), distance, begin, longer + (len(taps) - 1) * distance - begin
        )
        last = found[-1] if found else None
        if together and last is not None and _continues(last, phase):
            found[-1] = replace(last, taps=(*last.taps, taps))
        else:
            found.append(phase)
    size = spec.spatial[axis]
    return [p for p in found if not isinstance(size, int) or size + _growth(p) > 0]


def _continues(last: AxisPhases, phase: AxisPhases) -> bool:
    return (
        phase.first == last.residues[-1] + last.step
        and len(phase.taps[0]) == len(last.taps[0])
        and (phase.pad, phase.pad_end) == (last.pad, last.pad_end)
    )


def _growth(phase: AxisPhases) -> int:
    """Outputs less inputs."""
    return phase.pad + phase.pad_end - (len(phase.taps[0]) - 1) * phase.dilation


@dataclass(frozen=True)
class Phases:
    """One convolution: the phases along each axis that are computed together.

    Its output channels are those of all phases, group by group, phase by phase, each phase's being
    `width` of which the last ones may be there to fill a block.
    """

    spec: TransposedSpec
    axes: tuple[AxisPhases, ...]
    width: int

    @property
    def counts(self) -> tuple[int, ...]:
        """Phases along each axis."""
        return tuple(len(axis.taps) for axis in self.axes)

    @property
    def count(self) -> int:
        """Phases in all."""
        return math.prod(self.counts)

    @property
    def conv(self) -> ConvSpec:
        """The convolution."""
        spec = self.spec
        return ConvSpec(
            batch=spec.batch,
            in_channels=spec.in_channels,
            out_channels=spec.groups * self.count * self.width,
            spatial=spec.spatial,
            kernel=tuple(len(axis.taps[0]) for axis in self.axes),
            groups=spec.groups,
            pads_begin=tuple(axis.pad for axis in self.axes),
            pads_end=tuple(axis.pad_end for axis in self.axes),
            dilations=tuple(axis.dilation for axis in self.axes),
            dtype=spec.dtype,
        )

    def weights(self, w: Array) -> Array:
        """Of weights [in, out/groups, *kernel] those of the convolution, [out, in/groups, *kernel]."""
        spec = self.spec
        grouped = w.reshape(spec.groups, spec.group_in, spec.group_out, *spec.kernel).swapaxes(1, 2)
        filled = [(0, 0)] * grouped.ndim
        filled[1] = (0, self.width - spec.group_out)
        grouped = np.pad(grouped, filled)
        channels = [range(extent) for extent in grouped.shape[:3]]
        parts = [
            grouped[np.ix_(*channels, *taps)]
            for taps in itertools.product(*(axis.taps for axis in self.axes))
        ]
        return np.stack(parts, axis=1).reshape(-1, spec.group_in, *self.conv.kernel)

    def split(self, channel: Expr, width: Expr) -> tuple[Expr, tuple[Expr, ...]]:
        """Output channel and residues of the phase for an output channel of the convolution.

        Args:
            channel: counted in channels, or in blocks.
            width: `self.width`, counted alike.
        """
        item = channel // width
        indices = unflatten(item % self.count, self.counts)
        residues = tuple(a.first + index * a.step for a, index in zip(self.axes, indices, strict=True))
        return item // self.count * width + channel % width, residues

    def place(self, position: Sequence[Expr], residues: Sequence[Expr]) -> tuple[Expr, ...]:
        """Where an output of the convolution stands among all outputs."""
        columns = zip(position, self.spec.strides, residues, strict=True)
        return tuple(q * stride + residue for q, stride, residue in columns)


def phases_of(spec: TransposedSpec, width: int, *, together: bool) -> list[Phases]:
    """The convolutions that make `spec`."""
    axes = [axis_phases(spec, axis, together) for axis in range(len(spec.kernel))]
    return [Phases(spec, combination, width) for combination in itertools.product(*axes)]


def _covers(spec: TransposedSpec, parts: list[Phases]) -> bool:
    """Whether every output has taps."""
    return sum(part.count for part in parts) == math.prod(spec.strides)


@dataclass(frozen=True)
class TransposedPlan:
    """How a transposed convolution wants its weights, and its loops.

    Attributes:
        form: equal for equal ways of packing.
        pack: weights ``[in, out / groups, *kernel]`` in the order in which ``emit`` reads them.
        emit: emit(x, w, store), ``x`` flat where channels lie in blocks; store(value, (n, o, *position)).
        dtype: of the packed weights.
        methods: what to say of it in the kernel's name.
    """

    form: Hashable
    weight_shape: tuple[int, ...]
    pack: Callable[[Array], Array]
    emit: Callable[[Buffer, Buffer, Store], None]
    dtype: str
    methods: tuple[str, ...] = ()


def _joined(shapes: list[tuple[int, ...]], dtype: str, parts: Iterable[Array]) -> Array:
    """The packed weights of all parts one after the other."""
    joined = np.zeros(_size(shapes), dtype)
    start = 0
    for shape, part in zip(shapes, parts, strict=True):
        joined[start : start + part.size] = part.reshape(-1)
        start += _room(shape)
    return joined


def _size(shapes: list[tuple[int, ...]]) -> int:
    return max(sum(map(_room, shapes)), 1)


def _room(shape: tuple[int, ...]) -> int:
    size: int = ceil_div(math.prod(shape), _LINE) * _LINE
    return size


def _split(w: Buffer, shapes: list[tuple[int, ...]]) -> Iterator[Buffer]:
    """Views of the weights of each part."""
    start = 0
    for shape in shapes:
        if len(shapes) == 1:
            yield T.decl_buffer(shape, w.dtype, data=w.data)
            return
        data = T.Bind(T.address_of(w[i64(start)]), PointerType(PrimType(w.dtype)))
        yield T.decl_buffer(shape, w.dtype, data=data)
        start += _room(shape)


def plan_blocked(
    spec: TransposedSpec, machine: Machine, *, plain_input: bool, max_error: float
) -> TransposedPlan | None:
    """The kernel for a result, and an input unless `plain_input`, whose channels lie in blocks.

    Args:
        max_error: bound of the relative error that Winograd's transforms may add.

    Returns:
        None where no kernel applies.
    """
    lanes = block_lanes(machine)
    together = not spec.is_depthwise
    width = spec.group_out
    if spec.groups == 1:
        width = block_count(width, lanes) * lanes
    elif together and width % lanes:
        return None
    parts = phases_of(spec, width, together=together)
    plans = _plans(parts, _machines(parts, machine), plain_input, max_error)
    if len({plan.dtype for plan in plans}) > 1:
        plans = _plans(parts, _machines(parts, part_of(machine, "alike")), plain_input, 0.0)
    if not plans or len(plans) < len(parts):
        return None
    shapes = [plan.weight_shape for plan in plans]

    def emit(x: Buffer, w: Buffer, store: Store) -> None:
        if not _covers(spec, parts):
            _emit_zeros(spec, parts, lanes, store)
        for part, plan, weights in zip(parts, plans, _split(w, shapes), strict=True):
            plan.emit(x, weights, _interleaved(part, lanes, store))

    return TransposedPlan(
        (
            "transposed",
            spec.groups,
            spec.kernel,
            *((p.axes, p.width, plan.form, plan.weight_shape) for p, plan in zip(parts, plans, strict=True)),
        ),
        (_size(shapes),),
        lambda w: _joined(
            shapes, plans[0].dtype, (q.pack(p.weights(w)) for p, q in zip(parts, plans, strict=True))
        ),
        emit,
        plans[0].dtype,
        tuple(dict.fromkeys(method for plan in plans for method in plan.methods)),
    )


def _machines(parts: list[Phases], machine: Machine) -> list[Machine]:
    """A machine for each part; only those that are equal convolutions share what is chosen."""
    convs = [part.conv for part in parts]
    return [part_of(machine, f"phases {convs.index(conv)}") for conv in convs]


def _plans(
    parts: list[Phases], machines: list[Machine], plain_input: bool, max_error: float
) -> list[ConvPlan]:
    """A kernel for each part that has one."""
    plans = []
    for part, machine in zip(parts, machines, strict=True):
        # Only direct convolution leaves inputs out at the borders.
        bound = max_error if min(*part.conv.pads_begin, *part.conv.pads_end) >= 0 else 0.0
        plans.append(plan_conv(part.conv, machine, plain_input=plain_input, max_error=bound))
    return [plan for plan in plans if plan is not None]


def _interleaved(part: Phases, lanes: int, store: Store) -> Store:
    """A store for the convolution of `part`."""

    def one(value: Expr, index: tuple[Expr, ...]) -> None:
        image, channel, *position = index
        block, lane = channel.a.a, channel.b  # as `channel_index` writes it
        block, residues = part.split(block, block_count(part.width, lanes))
        store(value, (image, channel_index(block, lanes, lane), *part.place(position, residues)))

    return one


def _emit_zeros(spec: TransposedSpec, parts: list[Phases], lanes: int, store: Store) -> None:
    """Stores zero for the outputs without taps."""
    blocks = block_count(spec.out_channels, lanes)
    extents = (spec.batch, blocks, *spec.out_spatial)
    with loop_for(product(extents))(product(extents[:-1])) as item:
        image, block, *rows = (bind(i) for i in unflatten(item, extents[:-1]))
        with serial(extents[-1]) as column:
            place = (*rows, column)
            with T.If(tirx.Not(_has_taps(spec, parts, place))), T.Then(), vectorized(lanes) as lane:
                store(T.float32(0), (image, channel_index(block, lanes, lane), *place))


def _has_taps(spec: TransposedSpec, parts: list[Phases], place: tuple[Expr, ...]) -> Expr:
    """Whether the output at `place` is one of `parts`."""
    conditions = []
    for axis, (position, stride) in enumerate(zip(place, spec.strides, strict=True)):
        residues = sorted({residue for part in parts for residue in part.axes[axis].residues})
        if len(residues) < stride:
            conditions.append(tirx.any(*(position % stride == residue for residue in residues)))
    return tirx.all(*conditions)


def plan_rows(spec: TransposedSpec, machine: Machine) -> TransposedPlan:
    """The kernel for data in row-major order.

    Vectors run along pixels, so the phases of the last axis go through scratch, where each has a row of
    its own, and are woven together from there.
    """
    parts = phases_of(spec, spec.group_out, together=True)
    machines = _machines(parts, machine)
    shapes = [packed_conv_shape(part.conv, own) for part, own in zip(parts, machines, strict=True)]
    dtype = "float32" if spec.dtype == "float16" else spec.dtype

    def emit(x: Buffer, w: Buffer, store: Store) -> None:
        if spec.strides[-1] == 1 and _covers(spec, parts):
            for part, own, weights in zip(parts, machines, _split(w, shapes), strict=True):
                emit_conv(part.conv, own, x, weights, _spread(part, store))
            return
        planes = _Planes(spec, machine)
        with workspace(planes.size, spec.dtype) as scratch:
            if not _covers(spec, parts):
                zero = T.cast(0, spec.dtype)
                emit_run(planes.size, planes.lanes, lambda j: T.buffer_store(scratch, zero, [j]))
            for part, own, weights in zip(parts, machines, _split(w, shapes), strict=True):
                emit_conv(part.conv, own, x, weights, planes.store(part, scratch))
            planes.emit_woven(scratch, store)

    return TransposedPlan(
        (
            "transposed",
            spec.groups,
            spec.kernel,
            *((p.axes, p.width, shape) for p, shape in zip(parts, shapes, strict=True)),
        ),
        (_size(shapes),),
        lambda w: _joined(
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
