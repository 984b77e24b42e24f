"""Kernel sizes, strides and padding of convolutions and pools, resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from tvm import tirx

from graphopt.backend.readers.padding import text_attr
from graphopt.backend.refusal import refuse
from graphopt.backend.region import shape_of
from graphopt.backend.symbolic import Expr, Symbols
from graphopt.ir.dims import Dim, Shape
from graphopt.ir.graph import Node
from graphopt.ops.shapes import same_pads


@dataclass(frozen=True)
class Window:
    """One spatial axis of a window operator. ``pad`` may be an expression where sizes are symbolic."""

    size: Dim
    out: Dim
    kernel: int
    stride: int
    dilation: int
    pad: Expr
    pad_end: Expr
    ceil: bool = False
    """Whether the last window may run over the end."""

    @property
    def padded(self) -> bool:
        """Whether a window can lie partly outside of the input."""
        if not (isinstance(self.size, int) and isinstance(self.out, int) and isinstance(self.pad, int)):
            return self.ceil or not isinstance(self.pad, int) or not (self.pad == 0 and self.pad_end == 0)
        last = (self.out - 1) * self.stride + (self.kernel - 1) * self.dilation
        return self.pad > 0 or last >= self.size

    def source(self, out: Expr, tap: Expr) -> Expr:
        """The input coordinate that a tap of a window reads."""
        return out * self.stride + tap * self.dilation - self.pad


def windows_of(node: Node, symbols: Symbols, kernel: Shape, size: Shape, out: Shape) -> list[Window]:
    """The spatial axes of ``node``.

    Raises:
        CompileError: the kernel's size is not known.
    """
    rank = len(size)
    if not all(isinstance(k, int) for k in kernel):
        raise refuse(node, "the size of its kernel is not known")
    strides = cast("tuple[int, ...]", node.attrs.get("strides", (1,) * rank))
    dilations = cast("tuple[int, ...]", node.attrs.get("dilations", (1,) * rank))
    pads = cast("tuple[int, ...]", node.attrs.get("pads", (0,) * (2 * rank)))
    auto = text_attr(node, "auto_pad", "NOTSET")
    result = []
    for axis in range(rank):
        k, s, d = cast(int, kernel[axis]), strides[axis], dilations[axis]
        begin: Expr = pads[axis]
        end: Expr = pads[rank + axis]
        extent = size[axis]
        if auto == "VALID":
            begin = end = 0
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            upper = auto == "SAME_UPPER"
            if isinstance(extent, int):
                begin, end = same_pads(extent, k, s, d, upper)
            else:
                begin, end = _dynamic_pads(symbols, extent, out[axis], (k, s, d), upper)
        result.append(Window(extent, out[axis], k, s, d, begin, end, bool(node.attrs.get("ceil_mode", 0))))
    return result


def _dynamic_pads(
    symbols: Symbols, size: Dim, out: Dim, window: tuple[int, int, int], upper: bool
) -> tuple[Expr, Expr]:
    k, s, d = window
    needed = (symbols.expression(out) - 1) * s + (k - 1) * d + 1 - symbols.expression(size)
    total = tirx.max(needed, tirx.IntImm("int64", 0))
    half = tirx.floordiv(total, 2)
    return (half, total - half) if upper else (total - half, half)


def spatial(node: Node) -> tuple[Shape, Shape]:
    """Spatial extents of the first input and of the first output."""
    value = node.inputs[0]
    assert value is not None
    return shape_of(value)[2:], shape_of(node.outputs[0])[2:]
