"""The last spatial axis cut into register tiles, and which kernel taps each tile's columns read.

At the borders of an image some taps of some columns lie outside. Where sizes are known, tiles with
the same set of taps share one body, from which the taps outside are left out. Else the last tile ends
with the row and overlaps the one before it, so that its taps are known all the same; rows too narrow
for that, and most strided ones, read at clamped positions and select zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.emit import Expr, at_least, at_most, bind, ceil_div, i64
from graphopt.backend.kernels.geometry import Axis

# More bodies or more loops over taps than this are not worth their code.
_MOST_BODIES = 4
_MOST_RUNS = 4


@dataclass(frozen=True)
class TapRun:
    """Consecutive taps [first, first + count) that the same columns of a tile read."""

    first: int
    count: int
    columns: tuple[int, ...]


Pattern: TypeAlias = tuple[TapRun, ...]


@dataclass(frozen=True)
class Segment:
    """Consecutive tiles with one body: `count` tiles from tile `first`, `width` columns each."""

    first: Expr
    count: Expr
    width: int
    taps: Pattern | None
    """The taps inside the image, None where only the running kernel can tell."""
    skip_from: Expr = 0
    skip: Expr = 0
    """Tiles from `skip_from` on are `skip` further: the middle of the row is another segment's."""
    pitch: int = 0
    """Columns from tile to tile, `width` by default."""
    latest: Expr | None = None
    """Where the last tile starts, if that is not its number times `pitch`."""

    def tile(self, index: Expr) -> Expr:
        """The tile number of tile `index` of this segment."""
        if isinstance(self.skip, int) and self.skip == 0:
            return self.first + index
        return bind(tirx.Select(index < self.skip_from, i64(index), index + self.skip))

    def start(self, tile: Expr) -> Expr:
        """The first column of a tile."""
        first = tile * (self.pitch or self.width)
        return bind(first if self.latest is None else at_most(first, self.latest))


def cut(axis: Axis, pad_end: int, width: int) -> list[Segment]:
    """The tiles of `width` columns that cover the outputs of `axis`."""
    if not (isinstance(axis.size, int) and isinstance(axis.out, int)):
        return _cut_overlapping(axis, pad_end, width) or _cut_dynamic(axis, width)
    segments: list[Segment] = []
    tiles = ceil_div(axis.out, width)
    shapes = [_static_tile(axis, tile * width, min(width, axis.out - tile * width)) for tile in range(tiles)]
    first = 0
    for (columns, taps), group in itertools.groupby(shapes):
        count = len(list(group))
        segments.append(Segment(first, count, columns, taps, pitch=width))
        first += count
    runs = max((len(segment.taps or ()) for segment in segments), default=0)
    return segments if len(segments) <= _MOST_BODIES and runs <= _MOST_RUNS else _cut_dynamic(axis, width)


def tile_count(axis: Axis, width: int) -> Expr:
    """How many tile numbers `cut` uses, at most."""
    known = isinstance(axis.size, int) and isinstance(axis.out, int)
    return ceil_div(axis.out, width) + (0 if known else 1)


def _static_tile(axis: Axis, start: int, columns: int) -> tuple[int, Pattern]:
    def inside(tap: int) -> tuple[int, ...]:
        positions = (source(axis, start + column, tap) for column in range(columns))
        return tuple(c for c, position in enumerate(positions) if 0 <= position < axis.size)

    return columns, _pattern(axis, inside)


def _pattern(axis: Axis, inside: Callable[[int], tuple[int, ...]]) -> Pattern:
    """The taps of a tile, inside(tap) being the columns that read it."""
    runs = []
    for read, taps in itertools.groupby(range(axis.kernel), inside):
        first, *rest = taps
        if read:
            runs.append(TapRun(first, 1 + len(rest), read))
    return tuple(runs)


def source(axis: Axis, out: Expr, tap: Expr) -> Expr:
    """The input position that `tap` of output `out` reads; outside [0, size) it is padding."""
    return out * axis.stride + (tap * axis.dilation - axis.pad)


def _cut_overlapping(axis: Axis, pad_end: int, width: int) -> list[Segment]:
    """Tiles whose taps are known although sizes are not; none where there are no such tiles.

    With stride 1 the borders cut the same columns off the first and the last tile of every row that
    is wide enough; without padding they cut nothing.
    """
    tiles = bind(ceil_div(axis.out, width))
    wide = bind(tirx.Select(axis.out >= width + max(axis.pad, pad_end), i64(1), i64(0)))
    edge = Segment(0, bind((1 - wide) * tiles), width, None)
    whole = (TapRun(0, axis.kernel, tuple(range(width))),)
    if axis.pad == pad_end == 0:
        return [Segment(0, bind(wide * tiles), width, whole, latest=bind(axis.out - width)), edge]
    left = _pattern(axis, lambda tap: tuple(j for j in range(width) if source(axis, j, tap) >= 0))
    # Position `source` of the last column at the last tap is `pad_end - 1` past the image.
    past = source(axis, width - 1, axis.kernel - 1) - pad_end
    right = _pattern(axis, lambda tap: tuple(j for j in range(width) if source(axis, j, tap) <= past))
    fits = min(axis.pad, pad_end) >= 0 and max(axis.pad, pad_end) <= width
    if axis.stride != 1 or not fits or max(len(left), len(right)) > _MOST_RUNS:
        return []
    inner = bind(wide * ceil_div(at_least(axis.out - 2 * width, 0), width))
    return [
        Segment(0, wide, width, left),
        Segment(1, inner, width, whole, latest=bind(axis.out - (pad_end + width))),
        Segment(bind(1 + inner), wide, width, right, latest=bind(axis.out - width)),
        edge,
    ]


def _cut_dynamic(axis: Axis, width: int) -> list[Segment]:
    """Tiles well inside the image, then all others."""
    tiles = bind(ceil_div(axis.out, width))
    reach = (axis.kernel - 1) * axis.dilation - axis.pad
    low = ceil_div(axis.pad, axis.stride * width) if axis.pad > 0 else 0
    # Tile i is inside while (i * width + width - 1) * stride + reach < size.
    last = (axis.size - 1 - reach) // axis.stride + 1  # outputs before the right border
    high = bind(at_least(at_most(at_least(last, 0) // width, axis.out // width), low))
    low = bind(at_most(low, tiles))
    high = bind(at_most(high, tiles))
    whole = (TapRun(0, axis.kernel, tuple(range(width))),)
    inner = bind(high - low)
    return [
        Segment(low, inner, width, whole),
        Segment(0, bind(tiles - inner), width, None, low, inner),
    ]


def tap_range(axis: Axis, out: Expr) -> tuple[Expr, Expr]:
    """First tap of output `out` that lies in the image, and how many do."""
    size, last = axis.size, axis.kernel - 1
    known = isinstance(size, int) and isinstance(axis.out, int)
    if known and axis.pad == 0 and source(axis, axis.out - 1, last) < size:
        return 0, axis.kernel
    origin = axis.pad - out * axis.stride
    first = bind(at_most(at_least(ceil_div(origin, axis.dilation), 0), axis.kernel))
    end = at_most(ceil_div(size + origin, axis.dilation), axis.kernel)
    return first, bind(at_least(end - first, 0))


def selected(condition: Expr, value: Expr) -> Expr:
    """`value` where `condition`, else zero."""
    return tirx.Select(condition, value, T.float32(0))
