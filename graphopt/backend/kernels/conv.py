"""Convolution: its specification, its packed weights, and the choice of a kernel.

`emit_conv` writes the loops of one convolution into the open TIR function. Layout is plain
`N, C, *spatial`; batch and spatial sizes may be symbolic. 16-bit floats are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.backend.kernels.arithmetic import Arithmetic, float_arithmetic
from graphopt.backend.kernels.emit import Buffer, Expr, ceil_div
from graphopt.backend.kernels.geometry import Axis
from graphopt.backend.kernels.machine import Machine, RegisterTile, choose_tile

Array = npt.NDArray[np.generic]
Store: TypeAlias = Callable[[Expr, tuple[Expr, ...]], None]
"""store(accumulator, index): emits the store of one finished output; must be idempotent."""


@dataclass(frozen=True)
class ConvSpec:
    """A convolution in ONNX terms, pads resolved to numbers.

    `batch` and `spatial` may hold 64-bit expressions. `dtype` is that of input, weights and result.
    """

    batch: Expr
    in_channels: int
    out_channels: int
    spatial: tuple[Expr, ...]
    kernel: tuple[int, ...]
    groups: int = 1
    strides: tuple[int, ...] = ()
    pads_begin: tuple[int, ...] = ()
    pads_end: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    dtype: str = "float32"

    def __post_init__(self) -> None:
        rank = len(self.kernel)
        for name, default in (("strides", 1), ("pads_begin", 0), ("pads_end", 0), ("dilations", 1)):
            if not getattr(self, name):
                object.__setattr__(self, name, (default,) * rank)

    @property
    def out_spatial(self) -> tuple[Expr, ...]:
        """Output sizes along the spatial axes."""
        return tuple(
            (size + begin + end - (kernel - 1) * dilation - 1) // stride + 1
            for size, begin, end, kernel, dilation, stride in zip(
                self.spatial,
                self.pads_begin,
                self.pads_end,
                self.kernel,
                self.dilations,
                self.strides,
                strict=True,
            )
        )

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The spatial axes."""
        columns = (self.spatial, self.out_spatial, self.kernel, self.strides, self.dilations, self.pads_begin)
        return tuple(Axis(*column) for column in zip(*columns, strict=True))

    @property
    def group_in(self) -> int:
        """Input channels of one group."""
        return self.in_channels // self.groups

    @property
    def group_out(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return int(np.prod(self.kernel))

    @property
    def is_pointwise(self) -> bool:
        """Kernel 1, stride 1, no padding: a matrix product over pixels."""
        ones = (1,) * len(self.kernel)
        zeros = (0,) * len(self.kernel)
        return (self.kernel, self.strides) == (ones, ones) and self.pads_begin == self.pads_end == zeros


def row_tile(spec: ConvSpec, arithmetic: Arithmetic) -> RegisterTile:
    """The register tile: output channels times vectors of pixels."""
    axes = spec.axes
    spans = [axis.out + axis.reach for axis in axes[1:]]
    pixels: Expr = axes[0].out
    for span in spans:
        pixels = pixels * span
    vectors = ceil_div(pixels, arithmetic.lanes) if isinstance(pixels, int) else None
    return choose_tile(arithmetic.machine, spec.group_out, vectors)


def conv_arithmetic(spec: ConvSpec, machine: Machine) -> Arithmetic:
    """How `spec` is computed on `machine`."""
    return float_arithmetic(machine, spec.dtype)


def packed_conv_shape(spec: ConvSpec, machine: Machine) -> tuple[int, ...]:
    """Shape of the packed weights: [groups, output blocks, words of reduction, rows of a tile]."""
    return packed_shape(spec, conv_arithmetic(spec, machine))


def packed_shape(spec: ConvSpec, arithmetic: Arithmetic) -> tuple[int, ...]:
    """`packed_conv_shape` for a given arithmetic."""
    rows = row_tile(spec, arithmetic).rows
    words = ceil_div(spec.group_in, arithmetic.group) * spec.taps
    return (spec.groups, ceil_div(spec.group_out, rows), words, rows)


def pack_conv_weights(spec: ConvSpec, machine: Machine, w: Array) -> Array:
    """Weights [out, in/groups, *kernel] in the order in which the kernel reads them."""
    return pack_words(spec, conv_arithmetic(spec, machine), w)


def pack_words(spec: ConvSpec, arithmetic: Arithmetic, w: Array) -> Array:
    """Weights [out, in/groups, *kernel] as words, shaped as `packed_shape` says; padding is 0."""
    groups, blocks, words, rows = packed_shape(spec, arithmetic)
    channels = words // spec.taps
    padded = np.zeros((groups, blocks * rows, channels * arithmetic.group, spec.taps), w.dtype)
    padded[:, : spec.group_out, : spec.group_in] = w.reshape(
        groups, spec.group_out, spec.group_in, spec.taps
    )
    split = padded.reshape(groups, blocks, rows, channels, arithmetic.group, spec.taps)
    # [group, block, channel word, tap, row, element of word]
    ordered = split.transpose(0, 1, 3, 5, 2, 4)
    return np.ascontiguousarray(arithmetic.pack_words(ordered)).reshape(groups, blocks, words, rows)


def emit_conv(spec: ConvSpec, machine: Machine, x: Buffer, w: Buffer, store: Store) -> None:
    """Emit out[n, o, *p] = sum over c, taps of x * w, each handed to store(value, (n, o, *p)).

    Args:
        x: [batch, in_channels, *spatial] of `spec.dtype`.
        w: what `pack_conv_weights` returned.
        store: called while the loops are open; the value has type `spec.dtype`.
    """
    from graphopt.backend.kernels.pointwise import emit_pointwise
    from graphopt.backend.kernels.shifted import emit_shifted

    arithmetic = conv_arithmetic(spec, machine)

    def cast_store(value: Expr, index: tuple[Expr, ...]) -> None:
        store(value.astype(spec.dtype), index)

    emit = emit_pointwise if spec.is_pointwise else emit_shifted
    emit(spec, arithmetic, x, w, cast_store)
