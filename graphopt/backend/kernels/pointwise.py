"""Convolution with kernel 1 and stride 1: a matrix product over pixels, without padding or shifts.

Vectors run along pixels, as in every convolution here. Where the pixels of a tile stay in the first
cache for all output channels, they are read where they lie; else they are packed into panels. An image
of fewer pixels than a vector is turned around: vectors along output channels, pixels as rows. Pixels
are numbered flat, which asks that all sizes but the first are known; else the general kernel does it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels import gemm
from graphopt.backend.kernels.arithmetic import Arithmetic
from graphopt.backend.kernels.conv_spec import ConvSpec, Store, row_tile
from graphopt.backend.kernels.emit import (
    Buffer,
    Expr,
    Loop,
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
    whole_or_tail,
    workspace,
)
from graphopt.backend.kernels.knobs import choose
from graphopt.backend.kernels.panels import Panel, emit_pack_panel, emit_tile_product
from graphopt.backend.kernels.tile import Tile, emit_sum
from graphopt.backend.kernels.tiling import RegisterTile, stays_in_l1

# With no more panels than this, threads share the output channels instead of the panels, and
# weights are read once.
_FEW_PANELS = 8


@dataclass(frozen=True)
class _Kernel:
    """One convolution being emitted."""

    spec: ConvSpec
    arithmetic: Arithmetic
    tile: RegisterTile
    pixels: Expr
    x: Buffer
    w: Buffer
    store: Store

    @property
    def width(self) -> int:
        """Pixels of a panel."""
        return self.tile.vectors * self.arithmetic.lanes

    @property
    def depth(self) -> int:
        """Words of channels per group."""
        depth: int = ceil_div(self.spec.group_in, self.arithmetic.group)
        return depth


@dataclass(frozen=True)
class _Panel:
    """A panel of pixels of one group of one image, with its place in scratch."""

    data: Panel
    image: Expr
    group: Expr
    first: Expr
    """Its first pixel."""


def emit_pointwise(spec: ConvSpec, arithmetic: Arithmetic, x: Buffer, w: Buffer, store: Store) -> None:
    """Emit a convolution for which `is_flat` holds; see `emit_conv`."""
    tile = row_tile(spec, arithmetic)
    kernel = _Kernel(spec, arithmetic, tile, bind(product(spec.spatial)), x, flat_view(w), store)
    if reads_in_place(spec, arithmetic, tile):
        _emit_in_place(kernel)
        return
    panels = bind(ceil_div(kernel.pixels, kernel.width))
    if spec.groups == 1 and isinstance(panels, int) and _are_channels_outside(kernel, panels):
        _emit_channels_outside(kernel, panels)
    else:
        _emit_panels_outside(kernel, panels)


def _are_channels_outside(kernel: _Kernel, panels: int) -> bool:
    few = panels <= _FEW_PANELS
    return choose(kernel.arithmetic.machine, "channels outside", (few, not few))


def reads_in_place(spec: ConvSpec, arithmetic: Arithmetic, tile: RegisterTile) -> bool:
    """Whether tiles load pixels where they lie, which asks for known sizes and plain numbers.

    Packing pays where a panel would leave the first cache before the next block of output channels
    reads it.
    """
    pixels = product(spec.spatial)
    if arithmetic.converts or arithmetic.header or not isinstance(pixels, int) or pixels < arithmetic.lanes:
        return False
    stays = stays_in_l1(
        arithmetic.machine,
        rows=spec.group_in,
        width=tile.vectors * arithmetic.lanes * arithmetic.word_bytes,
        pitch=pixels * arithmetic.word_bytes,
    )
    return choose(arithmetic.machine, "in place", (stays, not stays))


def _emit_in_place(kernel: _Kernel) -> None:
    """Every tile loads its vectors of pixels from the input; the last of an image overlaps."""
    spec, lanes, pixels = kernel.spec, kernel.arithmetic.lanes, kernel.pixels
    tiles = ceil_div(pixels, kernel.width)
    blocks = ceil_div(spec.group_out, kernel.tile.rows)
    x = flat_view(kernel.x)
    with _loop(kernel)(spec.batch * spec.groups * (tiles * blocks)) as item:
        block = bind(item % blocks)
        tile = bind(item // blocks % tiles)
        outer = bind(item // (tiles * blocks))
        image, group = bind(outer // spec.groups), bind(outer % spec.groups)
        # Its first channel and pixel, in elements.
        start = bind(outer * (spec.group_in * pixels))

        def body(rows: int, columns: int) -> None:
            vectors = ceil_div(columns, lanes)
            firsts = [tile * kernel.width + v * lanes for v in range(vectors)]
            firsts[-1] = bind(at_most(firsts[-1], i64(pixels - lanes)))
            _emit_tile_in_place(kernel, x, start, (image, group, block), rows, firsts)

        whole_or_tail(
            block,
            spec.group_out,
            kernel.tile.rows,
            lambda rows: whole_or_tail(tile, pixels, kernel.width, lambda columns: body(rows, columns)),
        )


def _emit_tile_in_place(
    kernel: _Kernel,
    x: Buffer,
    start: Expr,
    place: tuple[Expr, Expr, Expr],
    rows: int,
    firsts: list[Expr],
) -> None:
    """`rows` output channels of a block by the vectors of pixels that begin at `firsts`."""
    spec, most, lanes = kernel.spec, kernel.tile.rows, kernel.arithmetic.lanes
    image, group, block = place
    base = bind((group * ceil_div(spec.group_out, most) + block) * (kernel.depth * most))
    channel = group * spec.group_out + block * most

    def step(tile: Tile, k: Expr) -> None:
        row = bind(start + k * kernel.pixels)
        xs = [lanes_of(x, row + first, lanes) for first in firsts]
        tile.step(xs, lambda m: kernel.w[base + k * most + m], scalars_are_weights=True)
        tile.commit()

    tile = emit_sum(kernel.arithmetic, (rows, len(firsts)), kernel.depth, 1, step)

    def store(m: int, first: Expr) -> Callable[[Expr, Expr], None]:
        def one(value: Expr, lane: Expr) -> None:
            kernel.store(value, (image, channel + m, *unflatten(first + lane, spec.spatial)))

        return one

    for m in range(rows):
        for v, first in enumerate(firsts):
            tile.for_each_lane(m, v, store(m, first))


def _loop(kernel: _Kernel) -> Loop:
    spec = kernel.spec
    return loop_for(spec.batch * product(spec.spatial) * (spec.out_channels * spec.group_in))


def _emit_channels_outside(kernel: _Kernel, panels: int) -> None:
    """All panels of an image, then blocks of output channels: weights are read once."""
    size = kernel.depth * kernel.width
    loop = _loop(kernel)
    with workspace(panels * size, kernel.arithmetic.word) as scratch, serial(kernel.spec.batch) as image:

        def panel(index: Expr) -> _Panel:
            data = Panel(scratch, index * size, kernel.width, kernel.depth)
            return _Panel(data, image, i64(0), index * kernel.width)

        def for_panels(over: Loop, body: Callable[[_Panel, Expr], None]) -> None:
            full, tail = divmod(kernel.pixels, kernel.width)
            if full:
                with over(full) as index:
                    body(panel(index), kernel.width)
            if tail:
                body(panel(i64(full)), tail)

        for_panels(loop, lambda panel, columns: _emit_pack(kernel, panel, columns))

        def block(index: Expr, rows: int) -> None:
            for_panels(serial, lambda panel, columns: _emit_tile(kernel, panel, index, rows, columns))

        _for_blocks(kernel, loop, block)


def _emit_panels_outside(kernel: _Kernel, panels: Expr) -> None:
    """Each panel is packed by the thread that multiplies it with all weights of its group."""
    spec = kernel.spec
    with _loop(kernel)(spec.batch * spec.groups * panels) as item:
        index = bind(item % panels)
        outer = bind(item // panels)
        with workspace(kernel.depth * kernel.width, kernel.arithmetic.word) as scratch:
            data = Panel(scratch, i64(0), kernel.width, kernel.depth)
            panel = _Panel(data, outer // spec.groups, outer % spec.groups, index * kernel.width)

            def body(columns: Expr) -> None:
                _emit_pack(kernel, panel, columns)
                _for_blocks(
                    kernel, serial, lambda block, rows: _emit_tile(kernel, panel, block, rows, columns)
                )

            whole_or_tail(index, kernel.pixels, kernel.width, body)


def _for_blocks(kernel: _Kernel, loop: Loop, body: Callable[[Expr, int], None]) -> None:
    """body(block, rows) for all blocks of output channels of a group."""
    full, tail = divmod(kernel.spec.group_out, kernel.tile.rows)
    if full:
        with loop(full) as block:
            body(block, kernel.tile.rows)
    if tail:
        body(i64(full), tail)


def _emit_pack(kernel: _Kernel, panel: _Panel, columns: Expr) -> None:
    spec, arithmetic = kernel.spec, kernel.arithmetic

    def word(k: Expr, j: Expr) -> Expr:
        position = unflatten(panel.first + j, spec.spatial)

        def element(c: Expr) -> Expr:
            return kernel.x[(panel.image, panel.group * spec.group_in + c, *position)]

        return arithmetic.read_word(element, k, spec.group_in)

    emit_pack_panel(arithmetic, panel.data, columns, word)


def _emit_tile(kernel: _Kernel, panel: _Panel, block: Expr, rows: int, columns: Expr) -> None:
    """One register tile: `rows` output channels of a block, `columns` pixels."""
    spec, most = kernel.spec, kernel.tile.rows
    blocks = ceil_div(spec.group_out, most)
    header = kernel.arithmetic.header
    base = bind((panel.group * blocks + block) * ((kernel.depth + header) * most))

    def store(m: Expr, j: Expr, value: Expr) -> None:
        channel = panel.group * spec.group_out + block * most + m
        kernel.store(value, (panel.image, channel, *unflatten(panel.first + j, spec.spatial)))

    def scalar(m: int, k: Expr) -> Expr:
        return kernel.w[base + (k + header) * most + m]

    def initial(m: int, v: int) -> Expr:
        correction = kernel.w[base + m] * kernel.arithmetic.header_factor()
        return T.broadcast(correction, kernel.arithmetic.lanes)

    start = initial if header else None
    emit_tile_product(
        kernel.arithmetic, panel.data, rows, columns, scalar, store, start, scalars_are_weights=True
    )


def is_flat(spec: ConvSpec) -> bool:
    """Whether pixels can be numbered flat: a pointwise convolution, all sizes but the first known."""
    return spec.is_pointwise and all(isinstance(size, int) for size in spec.spatial[1:])


def is_turned(spec: ConvSpec, arithmetic: Arithmetic) -> bool:
    """Whether an image is known to be smaller than half a vector."""
    pixels = product(spec.spatial)
    return is_flat(spec) and isinstance(pixels, int) and pixels * 2 <= arithmetic.lanes


def turned_spec(spec: ConvSpec) -> gemm.GemmSpec:
    """The matrix product, per group, of pixels of all images with weights."""
    return gemm.GemmSpec(
        m=spec.batch * product(spec.spatial),
        n=spec.group_out,
        k=spec.group_in,
        batch=(spec.groups,),
        weight_batches=spec.groups,
        dtype=spec.dtype,
    )


def emit_turned(spec: ConvSpec, arithmetic: Arithmetic, x: Buffer, w: Buffer, store: Store) -> None:
    """Emit a convolution for which `is_turned` holds; see `emit_conv`."""
    pixels = product(spec.spatial)

    def place(row: Expr) -> tuple[Expr, tuple[Expr, ...]]:
        return row // pixels, unflatten(row % pixels, spec.spatial)

    def read(group: Expr, row: Expr, k: Expr) -> Expr:
        image, position = place(row)
        return x[(image, group * spec.group_in + k, *position)]

    def store_turned(value: Expr, index: tuple[Expr, ...]) -> None:
        group, row, column = index
        image, position = place(row)
        store(value, (image, group * spec.group_out + column, *position))

    gemm.emit_product(turned_spec(spec), arithmetic, read, w, store_turned, lambda batch: batch[0])
