"""The blocked layout: axis 1 in blocks of as many channels as a vector has lanes, blocks innermost.

Memory is [N][ceil(C / B)][*spatial][B]. The channels that pad the last block hold anything; they
must not be read into a sum over channels. Pixels are the positions of the spatial axes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.conv_spec import ConvSpec
from graphopt.backend.kernels.emit import Expr, bind, i64, lanes_of, product, store_lanes
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.temporaries import scratch, vectorized


def block_lanes(machine: Machine) -> int:
    """B: channels in a block, the float32 lanes of a vector."""
    return machine.vector_bits // 32


def block_count(channels: int, lanes: int) -> int:
    """Blocks that hold `channels` channels."""
    return -(-channels // lanes)


def channel_index(block: Expr, lanes: int, lane: Expr) -> Expr:
    """The channel `block * lanes + lane`, written so even where `block` is known.

    Readers of the blocked layout take block and lane from this form.
    """
    return tirx.Add(tirx.Mul(i64(block), i64(lanes)), lane)


@dataclass(frozen=True)
class DataLayout:
    """Distances in elements within the memory of a convolution's input."""

    image: Expr
    block: Expr
    """Between blocks of channels that the reduction's outer loop walks over."""
    pixel: int
    channel: Expr
    """Between channels of a block."""


def blocked_layout(spec: ConvSpec, lanes: int) -> DataLayout:
    """The input in the blocked layout."""
    block = bind(product(spec.spatial) * lanes)
    return DataLayout(bind(block * block_count(spec.in_channels, lanes)), block, lanes, 1)


def plain_layout(spec: ConvSpec) -> DataLayout:
    """The input as plain N, C, *spatial, all channels being one block."""
    pixels = bind(product(spec.spatial))
    image = bind(pixels * spec.in_channels)
    return DataLayout(image, image, 1, pixels)


def unrolled(extent: int) -> AbstractContextManager[Expr]:
    """A loop that TVM unrolls late, which leaves its other passes little to do."""
    loop: AbstractContextManager[Expr] = T.unroll(i64(0), i64(extent))
    return loop


class Accumulators:
    """Vectors that LLVM keeps in registers, `count` of `lanes` floats: one allocation, at most 1 KiB.

    TVM takes a larger one from the runtime's pool.
    """

    def __init__(self, count: int, lanes: int) -> None:
        self._count = count
        self._lanes = lanes
        # Under an alias: TVM looks for the part of an allocation that is used, which takes a second.
        self._buffer = scratch(count * lanes, "float32")

    def __len__(self) -> int:
        return self._count

    def vector(self, index: Expr) -> Expr:
        """One vector as a value."""
        return lanes_of(self._buffer, index * self._lanes, self._lanes)

    def set(self, index: Expr, value: Expr) -> None:
        """Write one vector."""
        store_lanes(self._buffer, index * self._lanes, self._lanes, value)

    def add(self, index: Expr, value: Expr) -> None:
        """Add to one vector."""
        self.set(index, self.vector(index) + value)

    def clear(self) -> None:
        """Set all to zero."""
        with unrolled(self._count) as index:
            self.set(index, T.broadcast(T.float32(0), self._lanes))

    def for_each_lane(self, index: int, body: Callable[[Expr, Expr], None]) -> None:
        """body(value, lane) over the lanes of one vector, as one vector operation."""
        with vectorized(self._lanes) as lane:
            body(self._buffer[i64(index * self._lanes) + lane], lane)
