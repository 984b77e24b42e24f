"""Copies between row-major memory and memory with channels in blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.emit import (
    Buffer,
    Expr,
    at_most,
    bind,
    ceil_div,
    emit_run,
    i64,
    parallel,
    serial,
)
from graphopt.backend.kernels.temporaries import vectorized

# Pixels that one pass over the channels of a block copies: their cache lines stay in L1 meanwhile.
_PIXELS = 64


@dataclass(frozen=True)
class Relayout:
    """A copy of ``[batch, channels, pixels]`` to or from ``[batch, ceil(channels / block), pixels, block]``."""

    batch: Expr
    channels: int
    pixels: Expr
    block: int

    @property
    def blocks(self) -> int:
        """Blocks of channels."""
        blocks: int = ceil_div(self.channels, self.block)
        return blocks


def emit_to_blocked(spec: Relayout, source: Callable[[Expr], Expr], out: Buffer) -> None:
    """Emit the copy of row-major memory, read by offset, into blocks; lanes past the last channel repeat it."""

    def copy(image: Expr, block: Expr, first: Expr, count: Expr) -> None:
        with serial(count) as p, vectorized(spec.block) as lane:
            pixel = first + p
            channel: Expr = block * spec.block + lane
            if spec.channels % spec.block:
                channel = T.min(channel, i64(spec.channels - 1))
            value = source((image * spec.channels + channel) * spec.pixels + pixel)
            place = ((image * spec.blocks + block) * spec.pixels + pixel) * spec.block + lane
            T.buffer_store(out, value, [place])

    _for_tiles(spec, copy)


def emit_from_blocked(spec: Relayout, source: Callable[[Expr], Expr], out: Buffer, lanes: int) -> None:
    """Emit the copy of blocks, read by offset, into row-major memory."""

    def copy(image: Expr, block: Expr, first: Expr, count: Expr) -> None:
        left = at_most(i64(spec.block), i64(spec.channels) - block * spec.block)
        with serial(spec.block if spec.channels % spec.block == 0 else left) as r:

            def element(p: Expr) -> None:
                pixel = first + p
                place = ((image * spec.blocks + block) * spec.pixels + pixel) * spec.block + r
                at = (image * spec.channels + block * spec.block + r) * spec.pixels + pixel
                T.buffer_store(out, source(place), [at])

            emit_run(count, lanes, element)

    _for_tiles(spec, copy)


def _for_tiles(spec: Relayout, copy: Callable[[Expr, Expr, Expr, Expr], None]) -> None:
    """copy(image, block, first pixel, pixels) for tiles of pixels of every block, shared among threads."""
    tiles = bind(ceil_div(spec.pixels, _PIXELS))
    with parallel(spec.batch * (spec.blocks * tiles)) as task:
        tile = bind(tirx.floormod(task, i64(tiles)))
        outer = bind(tirx.floordiv(task, i64(tiles)))
        first = bind(tile * _PIXELS)
        whole = isinstance(spec.pixels, int) and spec.pixels % _PIXELS == 0
        count = _PIXELS if whole else bind(at_most(i64(_PIXELS), i64(spec.pixels) - first))
        copy(tirx.floordiv(outer, spec.blocks), tirx.floormod(outer, spec.blocks), first, count)
