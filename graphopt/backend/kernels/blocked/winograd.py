"""Winograd convolution on the blocked layout, over one or two axes.

For each block of tiles: transform the inputs into scratch, multiply with the weights, transformed at
compile time, transform the sums into outputs and store them. A register tile multiplies `columns` tiles
of the image by `vectors` blocks of output channels; scratch and weights lie in the order in which it
reads and writes them:

    data     [products][groups of columns][in blocks][columns][B]
    weights  [products][panels of vectors][in blocks][B][vectors * B]
    sums     [products][panels of vectors][tiles of the block][vectors * B]

See `winograd_transforms` for the mathematics, `winograd_stages` for the transforms as code, and `winograd_plan` for
what is chosen when.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.arithmetic import Arithmetic, float_arithmetic
from graphopt.backend.kernels.blocked.layout import block_lanes
from graphopt.backend.kernels.blocked.winograd_plan import (
    Plan,
    Winograd,
    make_plan,
    tile_counts,
    winograd_choice,
    winograd_options,
)
from graphopt.backend.kernels.blocked.winograd_stages import Stages
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
    store_lanes,
    unflatten,
    workspace,
)
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.temporaries import vectorized
from graphopt.backend.kernels.tile import Tile

__all__ = [
    "Winograd",
    "emit_winograd",
    "pack_winograd",
    "winograd_choice",
    "winograd_options",
    "winograd_shape",
]

Array = npt.NDArray[np.generic]


def winograd_shape(spec: ConvSpec, choice: Winograd, machine: Machine) -> tuple[int, ...]:
    """Shape of the packed weights: [products, output panels, in blocks, B, outputs of a panel]."""
    lanes = block_lanes(machine)
    width = make_plan(spec, choice, machine).vectors * lanes
    ins, outs = ceil_div(spec.in_channels, lanes), ceil_div(spec.out_channels, width)
    return (choice.products, outs, ins, lanes, width)


def pack_winograd(spec: ConvSpec, choice: Winograd, machine: Machine, w: Array) -> Array:
    """Weights [out, in, *kernel], transformed in float64 and rounded once to float32; padding is 0."""
    products, outs, ins, lanes, width = winograd_shape(spec, choice, machine)
    points = w.astype(np.float64)
    for axis, transform in enumerate(choice.transforms):
        matrix = np.array([[float(c) for c in row] for row in transform.weights])
        points = np.moveaxis(np.tensordot(points, matrix, (2 + axis, 1)), -1, 2 + axis)
    packed = np.zeros((products, outs, ins * lanes, width), np.float32)
    flat = points.reshape(spec.out_channels, spec.in_channels, products).transpose(2, 1, 0)
    for panel in range(outs):
        columns = flat[:, :, panel * width : (panel + 1) * width]
        packed[:, panel, : spec.in_channels, : columns.shape[2]] = columns
    return packed.reshape(products, outs, ins, lanes, width)


@dataclass(frozen=True)
class _Kernel:
    """One convolution being emitted."""

    spec: ConvSpec
    choice: Winograd
    plan: Plan
    arithmetic: Arithmetic
    x: Buffer
    w: Buffer
    store: Store
    counts: tuple[Expr, ...]
    """Images, and tiles along each axis."""

    @property
    def lanes(self) -> int:
        return self.arithmetic.lanes

    @property
    def in_blocks(self) -> int:
        blocks: int = ceil_div(self.spec.in_channels, self.lanes)
        return blocks

    @property
    def out_blocks(self) -> int:
        blocks: int = ceil_div(self.spec.out_channels, self.lanes)
        return blocks

    @property
    def panels(self) -> int:
        """Groups of output blocks that share register tiles."""
        count: int = ceil_div(self.out_blocks, self.plan.vectors)
        return count

    @property
    def data_plane(self) -> int:
        """Floats between transformed inputs of successive products: an odd number of vectors, so that
        the planes do not fall on the same lines of the cache."""
        return (self.in_blocks * self.plan.block | 1) * self.lanes

    @property
    def sums_plane(self) -> int:
        """Floats between sums of successive products."""
        return (self.panels * self.plan.vectors * self.plan.block | 1) * self.lanes


@dataclass(frozen=True)
class _Block:
    """A block of tiles: `count` of them from `first`, in `groups` register tiles; and scratch."""

    first: Expr
    count: Expr
    groups: Expr
    data: Buffer
    sums: Buffer


def emit_winograd(
    spec: ConvSpec, choice: Winograd, machine: Machine, x: Buffer, w: Buffer, store: Store
) -> None:
    """Emit the convolution `spec` by `choice`.

    Args:
        x: flat, [batch][in blocks][*spatial][B] of float32.
        w: what `pack_winograd` returned.
        store: called inside `vectorized(B) as lane`, with channel block * B + lane; may store padding
            channels of the last block.
    """
    plan = make_plan(spec, choice, machine)
    spec = replace(spec, batch=bind(spec.batch), spatial=tuple(bind(size) for size in spec.spatial))
    counts = (spec.batch, *(bind(count) for count in tile_counts(spec, choice)))
    kernel = _Kernel(spec, choice, plan, float_arithmetic(machine, "float32"), x, flat_view(w), store, counts)
    tiles = bind(product(kernel.counts))
    blocks = bind(ceil_div(tiles, plan.block))
    shared = loop_for(tiles * (choice.products * spec.in_channels * spec.out_channels))
    outer, inner = (serial, shared) if plan.shared else (shared, serial)
    with (
        outer(blocks) as index,
        workspace(choice.products * kernel.data_plane, "float32") as data,
        workspace(choice.products * kernel.sums_plane, "float32") as sums,
    ):
        block = _block(kernel, index, tiles, data, sums)
        with inner(kernel.in_blocks) as channels:
            _emit_data(kernel, block, channels)
        with inner(choice.products * kernel.panels) as item, serial(block.groups) as group:
            _emit_products(kernel, block, item, group)
        with inner(kernel.out_blocks) as channels:
            _emit_outputs(kernel, block, channels)


def _block(kernel: _Kernel, index: Expr, tiles: Expr, data: Buffer, sums: Buffer) -> _Block:
    size = kernel.plan.block
    first = bind(index * size)
    if isinstance(tiles, int) and tiles % size == 0:
        return _Block(first, size, kernel.plan.groups, data, sums)
    count = bind(at_most(i64(size), i64(tiles) - first))
    return _Block(first, count, bind(ceil_div(count, kernel.plan.columns)), data, sums)


def _origin(kernel: _Kernel, tile: Expr) -> tuple[Expr, tuple[Expr, ...]]:
    """The image of a tile, and its first output."""
    image, *position = unflatten(tile, kernel.counts)
    return bind(image), tuple(bind(p * m) for p, m in zip(position, kernel.choice.tile, strict=True))


def _emit_data(kernel: _Kernel, block: _Block, channels: Expr) -> None:
    """Transform the inputs of a block of tiles in one block of channels; register tiles' rest is cleared."""
    plan, lanes, size = kernel.plan, kernel.lanes, kernel.choice.products * kernel.lanes

    def place(index: Expr) -> Expr:
        group = index // plan.columns * kernel.in_blocks + channels
        return bind((group * plan.columns + index % plan.columns) * lanes)

    with (
        workspace(size, "float32") as patch,
        workspace(size, "float32") as middle,
        serial(block.count) as index,
    ):
        image, origin = _origin(kernel, block.first + index)
        start = tuple(bind(o - pad) for o, pad in zip(origin, kernel.spec.pads_begin, strict=True))
        base = bind((image * kernel.in_blocks + channels) * product(kernel.spec.spatial))
        _emit_patch(kernel, block, (patch, middle), (base, start), place(index))
    if not isinstance(block.count, int):
        # Old numbers might be slow ones.
        zero = T.broadcast(T.float32(0), lanes)
        with serial(block.groups * plan.columns - block.count) as index:
            target = place(block.count + index)
            with serial(kernel.choice.products) as plane:
                store_lanes(block.data, plane * kernel.data_plane + target, lanes, zero)


def _flat(position: tuple[Expr, ...], extents: tuple[Expr, ...]) -> Expr:
    flat: Expr = i64(0)
    for p, extent in zip(position, extents, strict=True):
        flat = flat * extent + p
    return flat


def _emit_patch(
    kernel: _Kernel,
    block: _Block,
    scratch: tuple[Buffer, Buffer],
    where: tuple[Expr, tuple[Expr, ...]],
    target: Expr,
) -> None:
    """Transform the inputs of one tile in one block of channels, from the image or, at its edge, a copy.

    Args:
        where: the plane's first element in blocks, and the patch's first coordinates.
        target: where the results stand within their planes.
    """
    spec, choice, lanes = kernel.spec, kernel.choice, kernel.lanes
    patch, middle = scratch
    base, start = where
    programs = [choice.programs[axis].data for axis in choice.active]
    stages = Stages(choice.active, lanes, middle, programs, choice.patch)
    first = bind((base + _flat(start, spec.spatial)) * lanes)

    def read_image(position: tuple[Expr, ...]) -> Expr:
        return lanes_of(kernel.x, first + _flat(position, spec.spatial) * lanes, lanes)

    def read_copy(position: tuple[Expr, ...]) -> Expr:
        return lanes_of(patch, _flat(position, choice.patch) * lanes, lanes)

    def write(index: Expr, value: Expr) -> None:
        store_lanes(block.data, index * kernel.data_plane + target, lanes, value)

    inside = [s >= 0 for s, pad in zip(start, spec.pads_begin, strict=True) if pad]
    inside += [s + a <= size for s, a, size in zip(start, choice.patch, spec.spatial, strict=True)]
    with T.If(tirx.all(*inside)):
        with T.Then():
            stages.first(read_image, write)
        with T.Else():
            _emit_copy(kernel, patch, base, start)
            stages.first(read_copy, write)
    stages.second(write)


def _emit_copy(kernel: _Kernel, patch: Buffer, base: Expr, start: tuple[Expr, ...]) -> None:
    """Copy the part of a patch that lies in the image; zeros stand for the rest."""
    spec, extents, lanes = kernel.spec, kernel.choice.patch, kernel.lanes
    with serial(kernel.choice.products) as index:
        store_lanes(patch, index * lanes, lanes, T.broadcast(T.float32(0), lanes))
    low = tuple(bind(at_most(at_least(-s, i64(0)), i64(a))) for s, a in zip(start, extents, strict=True))
    high = tuple(
        bind(at_least(at_most(i64(size) - s, i64(a)), i64(0)))
        for size, s, a in zip(spec.spatial, start, extents, strict=True)
    )
    with ExitStack() as stack:
        inner = (
            stack.enter_context(serial(at_least(end - first, i64(0))))
            for first, end in zip(low, high, strict=True)
        )
        position = tuple(bind(first + i) for first, i in zip(low, inner, strict=True))
        source = tuple(s + p for s, p in zip(start, position, strict=True))
        value = lanes_of(kernel.x, (base + _flat(source, spec.spatial)) * lanes, lanes)
        store_lanes(patch, _flat(position, extents) * lanes, lanes, value)


def _emit_products(kernel: _Kernel, block: _Block, item: Expr, group: Expr) -> None:
    """One register tile: sums over the input channels. `item` counts panels of all products."""
    plan, lanes, panels = kernel.plan, kernel.lanes, kernel.panels
    width = plan.vectors * lanes
    depth = kernel.in_blocks * lanes * width
    plane = item // panels
    weights = bind(item * depth)
    data = bind(plane * kernel.data_plane + group * (kernel.in_blocks * plan.columns * lanes))
    # All register tiles of a panel together prefetch the next panel, from its start to its end.
    share = ceil_div(plan.vectors, plan.groups) * lanes
    ahead = bind(weights + depth + group * (kernel.in_blocks * lanes * share))
    tile = Tile(kernel.arithmetic, plan.columns, plan.vectors)
    tile.start()

    def step(channels: Expr, r: Expr) -> None:
        k = channels * lanes + r
        row = bind(k * width)
        for v in range(0, share, lanes):
            _prefetch(kernel.w, ahead + k * share + v)
        start = bind(data + channels * (plan.columns * lanes) + r)
        tile.step(
            [lanes_of(kernel.w, weights + row + v * lanes, lanes) for v in range(plan.vectors)],
            lambda m: block.data[start + m * lanes],
            scalars_are_weights=False,
        )
        tile.commit()

    full, rest = divmod(kernel.spec.in_channels, lanes)
    with serial(full) as channels, serial(lanes) as r:
        step(channels, r)
    if rest:
        with serial(rest) as r:
            step(i64(full), r)
    column = (item % panels * plan.groups + group) * plan.columns
    target = bind(plane * kernel.sums_plane + column * width)
    for m in range(plan.columns):
        for v in range(plan.vectors):
            store_lanes(block.sums, target + (m * width + v * lanes), lanes, tile.vector(m, v))


def _prefetch(buffer: Buffer, index: Expr) -> None:
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", T.address_of(buffer[index]), 0, 2, 1))


def _emit_outputs(kernel: _Kernel, block: _Block, channels: Expr) -> None:
    """Transform the sums of a block of tiles for one block of output channels."""
    plan, lanes = kernel.plan, kernel.lanes
    size = kernel.choice.products * lanes
    first = bind((channels // plan.vectors * plan.block * plan.vectors + channels % plan.vectors) * lanes)
    with (
        workspace(size, "float32") as middle,
        workspace(size, "float32") as outputs,
        serial(block.count) as index,
    ):
        image, origin = _origin(kernel, block.first + index)
        source = bind(first + index * (plan.vectors * lanes))
        _emit_tile(kernel, block, (middle, outputs), source, (image, channels, origin))


def _emit_tile(
    kernel: _Kernel,
    block: _Block,
    scratch: tuple[Buffer, Buffer],
    source: Expr,
    where: tuple[Expr, Expr, tuple[Expr, ...]],
) -> None:
    """Transform the sums of one tile into outputs, and store those that lie in the image."""
    choice, lanes = kernel.choice, kernel.lanes
    image, channels, origin = where
    middle, outputs = scratch

    def read(position: tuple[Expr, ...]) -> Expr:
        return lanes_of(block.sums, _flat(position, choice.patch) * kernel.sums_plane + source, lanes)

    def write(index: Expr, value: Expr) -> None:
        store_lanes(outputs, index * lanes, lanes, value)

    programs = [choice.programs[axis].output for axis in choice.active]
    stages = Stages(choice.active, lanes, middle, programs, choice.patch)
    stages.first(read, write)
    stages.second(write)
    axes = zip(choice.tile, origin, kernel.spec.out_spatial, strict=True)
    extents = [
        m if isinstance(size, int) and size % m == 0 else at_most(i64(m), i64(size) - o)
        for m, o, size in axes
    ]
    with ExitStack() as stack:
        inner = tuple(stack.enter_context(serial(extent)) for extent in extents)
        position = tuple(bind(o + i) for o, i in zip(origin, inner, strict=True))
        base = bind(_flat(inner, choice.tile) * lanes)
        lane = stack.enter_context(vectorized(lanes))
        kernel.store(outputs[base + lane], (image, channels * lanes + lane, *position))
