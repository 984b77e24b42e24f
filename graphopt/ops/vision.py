"""Images: resizing, sampling, folding back patches, decoding."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from graphopt.ir.dims import Dim, SymDim, floordiv, product
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, TensorType, Type
from graphopt.ops.access import (
    axis,
    bad_attr,
    fail,
    fresh,
    fresh_shape,
    integers,
    rank_of,
    static_length,
    tensor,
    text,
    value_of,
)
from graphopt.ops.content import partial_content, symbolic_content
from graphopt.ops.registry import Kind, declare

_MAX_DENOMINATOR = 64
"""Symbolic sizes are scaled exactly by fractions up to this denominator; others give a fresh symbol."""


@declare(Kind.OTHER, "Resize", "Upsample")
def resize(node: Node) -> list[Type]:
    """The sizes in input 3, or the input's times the scales in input 2 (Upsample: input 1), rounded down."""
    x = tensor(node, 0)
    if x.shape is None:
        return [TensorType(x.dtype, None)]
    rank = len(x.shape)
    axes = [axis(node, a, rank) for a in integers(node, "axes") or range(rank)]
    scales_at = 1 if node.op == "Upsample" else 2
    dims: list[Dim] = list(x.shape)
    if node.input(3) is not None:
        sizes = list(partial_content(value_of(node, 3)) or (None,) * len(axes))
        if len(sizes) != len(axes):
            raise fail(node, 3, f"{len(axes)} sizes, one for each axis")
        sizes = _with_aspect(node, [x.shape[a] for a in axes], sizes)
        for a, size in zip(axes, sizes, strict=True):
            dims[a] = fresh(node, 0, a) if size is None else size
        return [TensorType(x.dtype, tuple(dims))]
    factors = _scales(node, scales_at)
    if factors is not None and len(factors) != len(axes):
        raise fail(node, scales_at, f"{len(axes)} scales, one for each axis")
    for i, a in enumerate(axes):
        scaled = None if factors is None else _scaled(x.shape[a], factors[i])
        dims[a] = fresh(node, 0, a) if scaled is None else scaled
    return [TensorType(x.dtype, tuple(dims))]


def _scales(node: Node, index: int) -> list[float] | None:
    value = node.input(index)
    if value is None:
        given = node.attrs.get("scales")
        return [float(s) for s in given if isinstance(s, float | int)] if isinstance(given, tuple) else None
    if value.is_constant and value.const is not None and len(value.const.shape) == 1:
        return [float(s) for s in value.const.numpy().tolist()]
    content = symbolic_content(value)
    if content is None or any(isinstance(c, SymDim) for c in content):
        return None
    return [float(c) for c in content if isinstance(c, int)]


def _scaled(size: Dim, factor: float) -> Dim | None:
    if not math.isfinite(factor) or factor <= 0:
        return None
    if isinstance(size, int):
        return math.floor(size * factor)
    exact = Fraction(factor)
    return (
        floordiv(size * exact.numerator, exact.denominator) if exact.denominator <= _MAX_DENOMINATOR else None
    )


def _with_aspect(node: Node, old: list[Dim], sizes: list[Dim | None]) -> list[Dim | None]:
    """Sizes after ``keep_aspect_ratio_policy``: one scale for all axes, the smallest or the largest."""
    policy = text(node, "keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return sizes
    pick: Callable[[list[Fraction]], Fraction] = min if policy == "not_larger" else max
    numbers = [
        (s, d) for s, d in zip(sizes, old, strict=True) if isinstance(s, int) and isinstance(d, int) and d
    ]
    if len(numbers) != len(sizes):
        return [None] * len(sizes)
    scale = pick([Fraction(s, d) for s, d in numbers])
    return [math.floor(scale * d + Fraction(1, 2)) for _, d in numbers]


@declare(Kind.OTHER, "GridSample")
def grid_sample(node: Node) -> list[Type]:
    """(N, C, *spatial) sampled at the places of the grid (N, *output, number of spatial axes)."""
    x, grid = tensor(node, 0), tensor(node, 1)
    if x.shape is None or grid.shape is None:
        rank = next((len(t.shape) for t in (x, grid) if t.shape is not None), None)
        return [TensorType(x.dtype, fresh_shape(node, 0, rank))]
    if len(x.shape) != len(grid.shape) or len(x.shape) < 3:
        raise fail(node, 1, f"rank {len(x.shape)} as of the data")
    return [TensorType(x.dtype, (*x.shape[:2], *grid.shape[1:-1]))]


@declare(Kind.OTHER, "AffineGrid")
def affine_grid(node: Node) -> list[Type]:
    """(N, *spatial, number of spatial axes) for the size (N, C, *spatial) in input 1."""
    theta = tensor(node, 0)
    size = symbolic_content(value_of(node, 1))
    if size is None:
        return [TensorType(theta.dtype, fresh_shape(node, 0, static_length(node, 1)))]
    return [TensorType(theta.dtype, (size[0], *size[2:], len(size) - 2))]


@declare(Kind.OTHER, "Col2Im")
def col2im(node: Node) -> list[Type]:
    """(N, C * block elements, blocks) put back into (N, C, *image)."""
    shape = rank_of(node, 0, 3)
    image, block = (partial_content(value_of(node, i)) for i in (1, 2))
    if image is None:
        length = static_length(node, 1)
        if length is None:
            return [TensorType(tensor(node, 0).dtype, None)]
        image = (None,) * length
    known = [dim for dim in block or () if dim is not None]
    channels = fresh(node, 0, 1)
    if shape is not None and block is not None and len(known) == len(block):
        channels = floordiv(shape[1], product(known))
    batch = fresh(node, 0, 0) if shape is None else shape[0]
    sizes = [fresh(node, 0, i + 2) if dim is None else dim for i, dim in enumerate(image)]
    return [TensorType(tensor(node, 0).dtype, (batch, channels, *sizes))]


@declare(Kind.OTHER, "ImageDecoder")
def image_decoder(node: Node) -> list[Type]:
    """(height, width, channels) in u8."""
    rank_of(node, 0, 1)
    channels = {"RGB": 3, "BGR": 3, "Grayscale": 1}.get(text(node, "pixel_format", "RGB"))
    if channels is None:
        raise bad_attr(node, "pixel_format", "RGB, BGR or Grayscale")
    return [TensorType(DType.U8, (fresh(node, 0, 0), fresh(node, 0, 1), channels))]
