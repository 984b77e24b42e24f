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
from graphopt.backend.kernels.emit import Buffer, Expr, bind, i64, lanes_of, product, store_lanes
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
    """Vectors of `lanes` floats that LLVM keeps in registers: `columns` (below 16) times `vectors`."""

    def __init__(self, columns: int, vectors: int, lanes: int) -> None:
        self.columns = columns
        self._lanes = lanes
        # Several allocations, since TVM takes those of 1 KiB from the runtime's pool; under an alias, since
        # it looks for the part of an allocation that is used, which takes a second.
        self._buffers = [scratch(columns * lanes, "float32") for _ in range(vectors)]

    def vector(self, column: Expr, v: int) -> Expr:
        """One vector as a value."""
        return lanes_of(self._buffers[v], column * self._lanes, self._lanes)

    def set(self, column: Expr, v: int, value: Expr) -> None:
        """Write one vector."""
        store_lanes(self._buffers[v], column * self._lanes, self._lanes, value)

    def add(self, column: Expr, v: int, value: Expr) -> None:
        """Add to one vector."""
        self.set(column, v, self.vector(column, v) + value)

    def clear(self) -> None:
        """Set all to zero."""
        with unrolled(self.columns) as column:
            for v in range(len(self._buffers)):
                self.set(column, v, T.broadcast(T.float32(0), self._lanes))

    def gain(self, memory: Buffer, start: Expr) -> None:
        """Add to all what `save` put there."""
        with unrolled(self.columns) as column:
            for v in range(len(self._buffers)):
                place = start + self._place(column, v)
                self.add(column, v, lanes_of(memory, place, self._lanes))

    def save(self, memory: Buffer, start: Expr) -> None:
        """Write all to memory from `start` on."""
        with unrolled(self.columns) as column:
            for v in range(len(self._buffers)):
                store_lanes(memory, start + self._place(column, v), self._lanes, self.vector(column, v))

    def _place(self, column: Expr, v: int) -> Expr:
        return column * (len(self._buffers) * self._lanes) + v * self._lanes

    def for_each_lane(self, column: Expr, v: int, body: Callable[[Expr, Expr], None]) -> None:
        """body(value, lane) over the lanes of one vector, as one vector operation."""
        with vectorized(self._lanes) as lane:
            body(self._buffers[v][column * self._lanes + lane], lane)
