"""Where the elements of a value lie in memory: row-major, or with channels in blocks (``nCx16c``).

A blocked value of logical shape ``[N, C, *spatial]`` is stored as ``[N, ceil(C / B), *spatial, B]``.
Lanes past the last channel hold anything; nothing that counts is computed from them.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm.ir
import tvm.sym
from tvm import tirx

from graphopt.backend.kernels.temporaries import open_lane
from graphopt.backend.readers.indices import flat_offset
from graphopt.backend.region import shape_of
from graphopt.backend.symbolic import Expr, Symbols
from graphopt.ir.dims import Shape
from graphopt.ir.graph import Value
from graphopt.targets import Target


def stored_shape(value: Value) -> Shape:
    """The shape of the memory that holds ``value``."""
    shape, block = shape_of(value), value.tensor.channel_block
    if block == 1:
        return shape
    batch, channels, *spatial = shape
    assert isinstance(channels, int)
    return (batch, -(-channels // block), *spatial, block)


def vector_bytes(target: Target) -> int:
    """What every kernel may take the first byte of each of its buffers to be a multiple of."""
    return target.vector_bits // 8


def stored_offset(value: Value, indices: Sequence[Expr], symbols: Symbols) -> Expr:
    """Where in its memory the element of ``value`` at the logical ``indices`` lies."""
    block = value.tensor.channel_block
    extents = symbols.shape(stored_shape(value))
    if block == 1:
        return flat_offset(indices, extents)
    batch, channel, *spatial = indices
    outer, lane = split_channel(channel, block)
    return flat_offset((batch, outer, *spatial, lane), extents)


def split_channel(channel: Expr, block: int) -> tuple[Expr, Expr]:
    """The block of a channel, and its place in there; free for ``outer * block + lane``."""
    if isinstance(channel, tirx.Add) and isinstance(channel.a, tirx.Mul):
        factor = channel.a.b
        if isinstance(factor, tirx.IntImm) and factor.value == block and _is_lane(channel.b):
            return channel.a.a, channel.b
    analyzer = tvm.sym.Analyzer()
    lane = open_lane()
    if lane is not None:
        analyzer.bind(lane[0], tvm.ir.Range(0, lane[1]))
    return (
        analyzer.simplify(tirx.floordiv(channel, block)),
        analyzer.simplify(tirx.floormod(channel, block)),
    )


def _is_lane(expression: Expr) -> bool:
    lane = open_lane()
    return lane is not None and bool(expression.same_as(lane[0]))
