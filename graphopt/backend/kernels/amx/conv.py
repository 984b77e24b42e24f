"""Convolutions on the blocked layout by products on tiles.

Data are brought into scratch as *planes*, one for each remainder of positions by the stride: in a plane every
tap of a strided convolution is a shift. Rows of a plane are followed by as many zeros as taps reach over the
border, which the row before and the row behind share, so that a tile runs over the ends of rows; what it
computes there is not stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.amx.parts import Parts
from graphopt.backend.kernels.amx.product import Cells, Field, Product, emit_product, product_cycles
from graphopt.backend.kernels.amx.tiles import DEPTH, WORDS, has_tiles
from graphopt.backend.kernels.blocked.cost import typical
from graphopt.backend.kernels.blocked.layout import block_count, channel_index
from graphopt.backend.kernels.conv_spec import ConvSpec, Store
from graphopt.backend.kernels.emit import (
    Buffer,
    Expr,
    at_least,
    bind,
    ceil_div,
    flat_view,
    product,
    serial,
    unflatten,
)
from graphopt.backend.kernels.geometry import Axis
from graphopt.backend.kernels.machine import Machine

Array = npt.NDArray[np.generic]

_MOST_TAPS = 49
_ZERO, _ONE = (tirx.IntImm("int64", value) for value in (0, 1))


def applies(spec: ConvSpec, machine: Machine) -> bool:
    """Whether `emit_conv` computes `spec`, input and result in blocks of 16 channels."""
    return (
        has_tiles(machine)
        and spec.dtype == "float32"
        and spec.groups == 1
        and spec.taps <= _MOST_TAPS
        and (len(spec.kernel) <= 2 or spec.is_pointwise)
    )


def conv_product(spec: ConvSpec, parts: Parts) -> Product:
    """The product that a convolution is."""
    return Product(parts, spec.in_channels, spec.taps, spec.out_channels)


def pack_weights(spec: ConvSpec, parts: Parts, w: Array) -> Array:
    """Weights [out, in, *kernel] in the order in which the kernel reads them."""
    return conv_product(spec, parts).pack(w.reshape(spec.out_channels, spec.in_channels, spec.taps))


def _plane_axes(spec: ConvSpec) -> tuple[Axis, Axis]:
    """Rows and columns."""
    if len(spec.kernel) == 2:
        return spec.axes[0], spec.axes[1]
    rows = product(spec.spatial[:-1])
    return Axis(rows, rows, 1, 1, 1, 0), spec.axes[-1]


@dataclass(frozen=True)
class _Taps:
    """The taps along an axis in planes of every ``stride``-th position."""

    axis: Axis
    phases: tuple[int, ...]
    """The remainders that taps read."""
    places: tuple[tuple[int, int], ...]
    """For each tap which phase, and how far from the output's own position."""

    @classmethod
    def of(cls, axis: Axis) -> _Taps:
        at = [divmod(tap * axis.dilation - axis.pad, axis.stride) for tap in range(axis.kernel)]
        phases = tuple(sorted({phase for _, phase in at}))
        return cls(axis, phases, tuple((phases.index(phase), shift) for shift, phase in at))

    @property
    def low(self) -> int:
        return min(shift for _, shift in self.places)

    @property
    def high(self) -> int:
        return max(shift for _, shift in self.places)

    def size(self, phase: int) -> Expr:
        """Positions of the input in a phase."""
        return at_least(ceil_div(self.axis.size - phase, self.axis.stride), 0)


def _planes(spec: ConvSpec) -> tuple[_Taps, _Taps, Field]:
    """Rows and columns, and the positions that they make."""
    rows, columns = (_Taps.of(axis) for axis in _plane_axes(spec))
    front = max(0, -columns.low)
    # A row's zeros are those that its own taps reach, or the next row's.
    reach = max(0, columns.high)
    pitch = at_least(columns.axis.out + reach, columns.size(columns.phases[0]) + front)
    field = Field(
        rows=rows.axis.out,
        width=columns.axis.out,
        pitch=pitch,
        images=spec.batch,
        planes=len(rows.phases) * len(columns.phases),
        halo=rows.high - rows.low,
        front=front,
        reach=reach,
        in_blocks=True,
    )
    return rows, columns, field


def conv_cycles(spec: ConvSpec, parts: Parts) -> float:
    """Modelled cycles of `emit_conv`, for typical sizes where they are symbolic."""
    _, _, field = _planes(typical(spec))
    positions = field.rows * field.pitch
    return product_cycles(conv_product(spec, parts), positions, field.planes, field.images)


def emit_conv(spec: ConvSpec, machine: Machine, parts: Parts, x: Buffer, w: Buffer, store: Store) -> None:
    """Emit a convolution for which `applies` holds; see `blocked.emit_blocked_conv`."""
    rows, columns, field = _planes(spec)
    front = field.front
    pitch = bind(field.pitch)
    field = replace(field, pitch=pitch)
    blocks = block_count(spec.in_channels, WORDS)
    pixels = bind(product(spec.spatial))

    def taps(plane: Expr) -> list[Expr]:
        return [
            (row_phase * len(columns.phases) + phase) * plane + front + (row - rows.low) * pitch + shift
            for row_phase, row in rows.places
            for phase, shift in columns.places
        ]

    def fill(cells: Cells, image: Expr, k: Expr, plane: int, row: Expr) -> None:
        row_phase, phase = (
            taps.phases[index]
            for taps, index in zip((rows, columns), divmod(plane, len(columns.phases)), strict=True)
        )
        source = (row + rows.low) * rows.axis.stride + row_phase
        count = bind(columns.size(phase))
        # The second block of a pair is not there when the number of blocks is odd.
        second = 1 if blocks % 2 == 0 else tirx.Select(2 * k + 1 < blocks, _ONE, _ZERO)
        start = (image * blocks + 2 * k) * pixels

        def convert(position: Expr) -> None:
            pixel = source * columns.axis.size + position * columns.axis.stride + phase
            at = bind((start + pixel) * WORDS)

            def read(lane: Expr) -> tuple[Expr, Expr]:
                found = x[at + lane], x[at + second * pixels * WORDS + lane]
                if spec.in_channels % DEPTH == 0:
                    return found
                channel = k * DEPTH + lane
                return tuple(
                    tirx.Select(channel + half * WORDS < spec.in_channels, value, T.float32(0))
                    for half, value in enumerate(found)
                )

            cells.put(position, read)

        inside = tirx.all(source >= 0, source < rows.axis.size)
        with T.If(inside):
            with T.Then():
                with serial(count) as position:
                    convert(position)
                if not (isinstance(pitch, int) and pitch == count):
                    with serial(pitch - count) as behind:
                        cells.clear(count + behind)
            with T.Else(), serial(pitch) as position:
                cells.clear(position)

    def outer(row: Expr) -> tuple[Expr, ...]:
        return (row,) if len(spec.kernel) == 2 else unflatten(row, spec.spatial[:-1])

    def store_pixel(value: Expr, index: tuple[Expr, tuple[Expr, Expr], Expr, Expr]) -> None:
        image, (block, lane), row, column = index
        channel = channel_index(block, WORDS, lane)
        store(value, (image, channel, *outer(row), column))

    emit_product(conv_product(spec, parts), field, machine, fill, taps, flat_view(w), store_pixel)
