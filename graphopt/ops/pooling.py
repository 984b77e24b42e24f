"""Pooling: over windows, over everything, over regions of interest; and its inverse."""

from __future__ import annotations

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, TensorType, Type
from graphopt.ops.access import (
    bad_attr,
    fail,
    fresh_shape,
    integer,
    integers,
    moved_quant,
    possible,
    rank_of,
    tensor,
    value_of,
)
from graphopt.ops.content import symbolic_content
from graphopt.ops.convolution import window
from graphopt.ops.registry import Kind, declare
from graphopt.ops.shapes import transposed_output


def _kernel(node: Node) -> tuple[int, ...]:
    kernel = integers(node, "kernel_shape")
    if not kernel or any(size < 1 for size in kernel):
        raise bad_attr(node, "kernel_shape", "numbers ≥ 1")
    return kernel


@declare(Kind.REDUCTION, "AveragePool", "LpPool", "MaxPool")
def pool(node: Node) -> list[Type]:
    """A window slides over the spatial axes; MaxPool also gives i64 places of the maxima."""
    x = tensor(node, 0)
    kernel = _kernel(node)
    shape = rank_of(node, 0, len(kernel) + 2)
    quant = moved_quant(x) if node.op == "MaxPool" else None
    if shape is None:
        sizes = fresh_shape(node, 0, len(kernel) + 2)
    else:
        ceil = bool(integer(node, "ceil_mode", 0))
        sizes = possible(node, 0, (*shape[:2], *window(node, kernel).output(shape[2:], ceil)))
    return [TensorType(x.dtype, sizes, quant), TensorType(DType.I64, sizes)]


@declare(Kind.REDUCTION, "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")
def global_pool(node: Node) -> list[Type]:
    """One number for each channel; spatial axes stay with size 1."""
    x = tensor(node, 0)
    if x.shape is None:
        return [TensorType(x.dtype, None)]
    if len(x.shape) < 2:
        raise fail(node, 0, "rank 2 or more: batch, channels, spatial axes")
    ones: tuple[Dim, ...] = (1,) * (len(x.shape) - 2)
    return [TensorType(x.dtype, (*x.shape[:2], *ones))]


@declare(Kind.OTHER, "MaxUnpool")
def max_unpool(node: Node) -> list[Type]:
    """The shape that input 2 holds, else the size before the pooling."""
    x = tensor(node, 0)
    kernel = _kernel(node)
    rank = len(kernel) + 2
    shape = rank_of(node, 0, rank)
    if node.input(2) is not None:
        return [TensorType(x.dtype, symbolic_content(value_of(node, 2)) or fresh_shape(node, 0, rank))]
    if shape is None:
        return [TensorType(x.dtype, fresh_shape(node, 0, rank))]
    slide = window(node, kernel)
    columns = zip(shape[2:], kernel, slide.strides, slide.begins, slide.ends, strict=True)
    sizes = [transposed_output(d, k, s, 1, begin, end, 0) for d, k, s, begin, end in columns]
    return [TensorType(x.dtype, (*shape[:2], *sizes))]


@declare(Kind.REDUCTION, "MaxRoiPool")
def max_roi_pool(node: Node) -> list[Type]:
    """(regions, channels, *pooled_shape)."""
    x, regions = rank_of(node, 0, 4), rank_of(node, 1, 2)
    size = integers(node, "pooled_shape")
    if size is None or len(size) != 2:
        raise bad_attr(node, "pooled_shape", "2 values")
    unknown = fresh_shape(node, 0, 2) or ()
    count = unknown[0] if regions is None else regions[0]
    return [TensorType(tensor(node, 0).dtype, (count, unknown[1] if x is None else x[1], *size))]


@declare(Kind.REDUCTION, "RoiAlign")
def roi_align(node: Node) -> list[Type]:
    """(regions, channels, output_height, output_width)."""
    x, regions = rank_of(node, 0, 4), rank_of(node, 1, 2)
    unknown = fresh_shape(node, 0, 2) or ()
    count = unknown[0] if regions is None else regions[0]
    channels = unknown[1] if x is None else x[1]
    sizes = (integer(node, "output_height", 1), integer(node, "output_width", 1))
    return [TensorType(tensor(node, 0).dtype, (count, channels, *sizes))]
