"""How a convolution's input is laid into scratch so that every tap reads contiguous positions.

Along one axis with stride s and dilation d, tap t of output q reads input q*s + t*d - pad. Split the
padded input into s *phases* (positions of equal residue modulo s): then tap t reads phase
(t*d) mod s at position q + (t*d) div s, a shift, with no stride left. Over several axes a plane
of phases is stored flat, with rows as long as the outputs plus the largest shift; a tap is then
one flat shift, and a vector of neighbouring flat positions is one load whatever the image width.
Positions past the end of a row compute numbers that nobody reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from graphopt.backend.kernels.emit import Expr, at_least, at_most, bind, ceil_div, product

# How much longer rows may become to begin at whole vectors: less than the loads that this saves.
_MOST_LONGER = 1.2


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution; sizes are Python ints or 64-bit expressions."""

    size: Expr
    out: Expr
    kernel: int
    stride: int
    dilation: int
    pad: int

    @property
    def step(self) -> int:
        """Residues that taps reach are multiples of this."""
        return math.gcd(self.dilation, self.stride)

    @property
    def phases(self) -> int:
        """How many residues modulo the stride the taps reach."""
        return min(self.kernel, self.stride // self.step)

    @property
    def reach(self) -> int:
        """The largest shift of a tap."""
        return (self.kernel - 1) * self.dilation // self.stride

    def tap(self, t: Expr) -> tuple[Expr, Expr]:
        """Phase and shift of tap t."""
        shift = t * self.dilation // self.stride
        if self.kernel < self.stride // self.step:
            return t, shift  # every tap has a phase of its own
        return t * self.dilation % self.stride // self.step, shift

    def source(self, phase: Expr, position: Expr) -> Expr:
        """Input coordinate of a position of a phase; outside [0, size) it is padding."""
        own = self.kernel < self.stride // self.step
        residue = phase * self.dilation % self.stride if own else phase * self.step
        return position * self.stride + residue - self.pad

    def inside(self, phase: int, first: Expr, extent: Expr) -> tuple[Expr, Expr]:
        """Range of the positions first + [0, extent) of a phase that lie in the input.

        Returned relative to `first`, clipped to [0, extent].
        """
        origin = self.source(phase, 0)
        low = -(origin // self.stride) if origin < 0 else 0
        high = ceil_div(at_least(self.size - origin, 0), self.stride)
        start = at_most(at_least(low - first, 0), extent)
        return start, at_least(at_most(high - first, extent), start)


@dataclass(frozen=True)
class Planes:
    """The scratch of one chunk of outputs: `rows` outputs along the first axis."""

    axes: tuple[Axis, ...]
    rows: Expr
    extents: tuple[Expr, ...]
    """Stored positions along each axis."""
    strides: tuple[Expr, ...]
    """Flat distance of neighbours along each axis."""
    stored: Expr
    """Positions of a plane that hold data or padding."""
    slab: Expr
    """Flat positions that whole tiles write, at most."""
    plane: Expr
    """Distance of planes: all that a tile may read."""

    @property
    def phases(self) -> int:
        """Planes per channel."""
        return math.prod(axis.phases for axis in self.axes)

    def positions(self, rows: Expr) -> Expr:
        """Flat positions from the first output to the last of `rows` rows."""
        return _positions((rows, *(axis.out for axis in self.axes[1:])), self.strides)

    def flat(self, positions: tuple[Expr, ...]) -> Expr:
        """Flat position of one position per axis."""
        return sum(p * stride for p, stride in zip(positions, self.strides, strict=True))

    def tap(self, taps: tuple[Expr, ...]) -> tuple[Expr, Expr]:
        """Plane and flat shift of a tap."""
        plane: Expr = 0
        shift: Expr = 0
        for axis, stride, t in zip(self.axes, self.strides, taps, strict=True):
            phase, distance = axis.tap(t)
            plane = plane * axis.phases + phase
            shift = shift + distance * stride
        return plane, shift


def plan_planes(
    axes: tuple[Axis, ...],
    *,
    words_per_position: int,
    budget: int,
    lanes: int,
    tile_lanes: int,
    aligned: bool = False,
) -> Planes:
    """The scratch of a chunk; flat positions are computed `tile_lanes` at a time.

    `aligned` lets rows begin at whole vectors where this makes them little longer: then taps that differ
    in the row alone load the same vectors, which the compiler loads once, and a third of them (for three
    taps in a row) at whole cache lines.

    A chunk has as many rows as `budget` words allow, at `words_per_position` words of scratch for each
    flat position. Emits the computation of sizes that are not known at compile time.
    """
    axes = tuple(replace(axis, size=bind(axis.size), out=bind(axis.out)) for axis in axes)
    rows = bind(_chunk_rows(axes, budget // words_per_position))
    extents = (bind(rows + axes[0].reach), *(bind(axis.out + axis.reach) for axis in axes[1:]))
    if aligned and len(axes) > 1:
        extents = (*extents[:-1], _whole_vectors(extents[-1], lanes))
    strides = tuple(bind(product(extents[i + 1 :])) for i in range(len(axes)))
    stored = bind(product(extents))
    positions = _positions((rows, *(axis.out for axis in axes[1:])), strides)
    slab = bind(ceil_div(positions, tile_lanes) * tile_lanes)
    reach = sum(axis.reach * stride for axis, stride in zip(axes, strides, strict=True))
    vectors = ceil_div(at_least(slab + reach, stored), lanes)
    # Odd, since planes at a power of two would share few cache sets.
    plane = bind((vectors // 2 * 2 + 1) * lanes)
    return Planes(axes, rows, extents, strides, stored, slab, plane)


def _whole_vectors(extent: Expr, lanes: int) -> Expr:
    """`extent` rounded up to a multiple of `lanes` where it is known and this adds little."""
    whole = ceil_div(extent, lanes) * lanes
    return whole if isinstance(extent, int) and whole <= extent * _MOST_LONGER else extent


def _positions(outs: tuple[Expr, ...], strides: tuple[Expr, ...]) -> Expr:
    return sum((out - 1) * stride for out, stride in zip(outs, strides, strict=True)) + 1


def _chunk_rows(axes: tuple[Axis, ...], positions: int) -> Expr:
    """Outputs along the first axis per chunk of about `positions` flat positions, at least one.

    Chunks are of nearly equal size where sizes are known.
    """
    first, *rest = axes
    inner = product([axis.out + axis.reach for axis in rest])
    most = at_most(at_least(positions // at_least(inner, 1) - first.reach, 1), at_least(first.out, 1))
    return ceil_div(first.out, ceil_div(first.out, most)) if isinstance(most, int) else most
