"""What a direct convolution on the blocked layout decides: its register tile, and how its loops are cut."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.backend.kernels.blocked.columns import Segment, tile_count
from graphopt.backend.kernels.blocked.layout import DataLayout, block_count, block_lanes
from graphopt.backend.kernels.conv_spec import ConvSpec, Store
from graphopt.backend.kernels.emit import Buffer, Expr, at_least, at_most, bind, ceil_div, product
from graphopt.backend.kernels.knobs import around, choose
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.tiling import RegisterTile, choose_blocked_tile

FLOAT_BYTES = 4  # bytes
# Steps of a reduction between two trips of the sums through scratch.
_PART_STEPS = 128
# Multiply-adds in the body of the innermost loop.
_UNROLLED = 32
# Items of work that keep a few threads busy to the end.
_ITEMS = 8


def register_tile(spec: ConvSpec, machine: Machine) -> RegisterTile:
    """The register tile: columns times blocks of output channels."""
    columns = product(spec.spatial) if is_flat(spec) else spec.out_spatial[-1]
    blocks = block_count(spec.group_out, block_lanes(machine))
    known = columns if isinstance(columns, int) else None
    return choose_blocked_tile(machine, known, blocks, pointwise=is_flat(spec))


def is_flat(spec: ConvSpec) -> bool:
    """Whether pixels may be taken for one row."""
    return spec.is_pointwise


def _channels(spec: ConvSpec, machine: Machine, plain_input: bool) -> tuple[int, int]:
    """Blocks of input channels per group, and channels in each."""
    if plain_input:
        return 1, spec.in_channels
    lanes = block_lanes(machine)
    return block_count(spec.group_in, lanes), lanes


def weight_shape(spec: ConvSpec, machine: Machine, plain_input: bool) -> tuple[int, ...]:
    """[groups, o-blocks, blocks of input channels, taps, input channels of a block, output channels]."""
    tile, lanes = register_tile(spec, machine), block_lanes(machine)
    depth, channels = _channels(spec, machine, plain_input)
    blocks = ceil_div(block_count(spec.group_out, lanes), tile.vectors)
    return (spec.groups, blocks, depth, spec.taps, channels, tile.vectors * lanes)


@dataclass(frozen=True)
class Kernel:
    """One convolution being emitted."""

    spec: ConvSpec
    machine: Machine
    layout: DataLayout
    shape: tuple[int, ...]
    """Of the weights."""
    tile: RegisterTile
    segments: list[Segment]
    x: Buffer
    w: Buffer
    store: Store

    @property
    def lanes(self) -> int:
        return block_lanes(self.machine)

    @property
    def block_size(self) -> int:
        """Weights of one block of input channels for one o-block."""
        return self.shape[3] * self.shape[4] * self.shape[5]

    @property
    def slot(self) -> int:
        """Sums of a register tile."""
        return self.tile.rows * self.tile.vectors * self.lanes

    @property
    def flat(self) -> bool:
        """One long row: chunks are of tiles, not of rows."""
        return len(self.spec.kernel) == 1 and self.spec.taps == 1

    @property
    def row_tiles(self) -> Expr:
        """Tiles of a row."""
        return tile_count(self.spec.axes[-1], self.tile.rows)


@dataclass(frozen=True)
class Plan:
    """How the loops over outputs are cut. A unit is a row of outputs, or a tile of a flat row."""

    units: Expr
    """Units in a chunk."""
    chunks: Expr
    depth: int
    """Blocks of input channels between two trips of the sums through scratch."""
    weights_outside: bool
    """Whether one thread goes through the images with the same weights, not the other way round."""


def plan_loops(kernel: Kernel) -> Plan:
    spec, machine, tile = kernel.spec, kernel.machine, kernel.tile
    _, blocks, depth, taps, channels, _ = kernel.shape
    per_part = max(1, min(_PART_STEPS // (taps * channels), depth))
    per_part = depth if 2 * depth <= 3 * per_part else per_part
    per_part = choose(machine, "part", around(per_part, 1, depth))
    if kernel.flat:
        units = bind(at_least(kernel.segments[0].count, 1))
        unit_bytes, sums = spec.group_in * tile.rows * FLOAT_BYTES, kernel.slot * FLOAT_BYTES
    else:
        units = bind(product(spec.out_spatial[:-1]))
        step = spec.strides[-2] if len(spec.strides) > 1 else 1
        unit_bytes = spec.spatial[-1] * (spec.group_in * step * FLOAT_BYTES)
        sums = kernel.row_tiles * (kernel.slot * FLOAT_BYTES)
    most = at_most(
        machine.l2_bytes // 2 // at_least(unit_bytes, 1), machine.l2_bytes // 4 // at_least(sums, 1)
    )
    items = spec.groups * blocks * (spec.batch if isinstance(spec.batch, int) else 1)
    if 0 < items < _ITEMS:
        most = at_most(most, ceil_div(units, ceil_div(_ITEMS, items)))
    most = at_most(at_least(most, 1), at_least(units, 1))
    if isinstance(most, int) and isinstance(units, int):
        most = choose(machine, "chunk", around(most, 1, max(units, 1)))
    chunks = bind(at_least(ceil_div(units, most), 1))
    weights = spec.out_channels * spec.group_in * taps * FLOAT_BYTES
    image = units * unit_bytes
    outside = isinstance(image, int) and weights > image
    outside = choose(machine, "weights outside", (outside, not outside))
    return Plan(bind(ceil_div(units, chunks)), chunks, per_part, outside)


def unrolling(kernel: Kernel, products: int) -> int:
    """Steps in the body of the innermost loop, which has `products` multiply-adds per step."""
    # Asked of the body's size, not of the steps: tiles of all widths share the answer.
    most = choose(kernel.machine, "unroll", around(_UNROLLED, _UNROLLED // 4, _UNROLLED * 4))
    whole = math.gcd(kernel.shape[4], kernel.spec.group_in)
    return max(u for u in range(1, whole + 1) if whole % u == 0 and (u * products <= most or u == 1))
