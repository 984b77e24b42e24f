"""What a convolution computes, and the register tile that its sizes ask for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from graphopt.backend.kernels.arithmetic import Arithmetic
from graphopt.backend.kernels.emit import Expr, ceil_div, product
from graphopt.backend.kernels.geometry import Axis
from graphopt.backend.kernels.tiling import RegisterTile, choose_tile

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
        return math.prod(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Kernel 1, stride 1, no padding: a matrix product over pixels."""
        ones = (1,) * len(self.kernel)
        zeros = (0,) * len(self.kernel)
        return (self.kernel, self.strides) == (ones, ones) and self.pads_begin == self.pads_end == zeros


def row_tile(spec: ConvSpec, arithmetic: Arithmetic) -> RegisterTile:
    """The register tile: output channels times vectors of pixels."""
    axes = spec.axes
    pixels = axes[0].out * product([axis.out + axis.reach for axis in axes[1:]])
    vectors = ceil_div(pixels, arithmetic.lanes) if isinstance(pixels, int) else None
    return choose_tile(arithmetic.machine, spec.group_out, vectors)
