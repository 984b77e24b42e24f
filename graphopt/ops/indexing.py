"""Operators whose indices are data: gather, scatter, one-hot, top-k, unique."""

from __future__ import annotations

from graphopt.ir.dims import Dim, Shape
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, TensorType, Type
from graphopt.ops.access import (
    axis,
    fail,
    fresh,
    fresh_shape,
    integer,
    moved_quant,
    rank_of,
    same_dtype,
    tensor,
    value_of,
)
from graphopt.ops.content import symbolic_content
from graphopt.ops.registry import Kind, declare


@declare(Kind.MOVEMENT, "Gather")
def gather(node: Node) -> list[Type]:
    """Slices along ``axis``: its place is taken by the dimensions of the indices."""
    x, indices = tensor(node, 0), tensor(node, 1)
    if x.shape is None or indices.shape is None:
        return [TensorType(x.dtype, None, moved_quant(x))]
    at = axis(node, integer(node, "axis", 0), len(x.shape))
    return [TensorType(x.dtype, (*x.shape[:at], *indices.shape, *x.shape[at + 1 :]), moved_quant(x))]


@declare(Kind.MOVEMENT, "GatherElements")
def gather_elements(node: Node) -> list[Type]:
    """The shape of the indices."""
    x, indices = tensor(node, 0), tensor(node, 1)
    if x.shape is not None and indices.shape is not None and len(x.shape) != len(indices.shape):
        raise fail(node, 1, f"indices of rank {len(x.shape)}")
    return [TensorType(x.dtype, indices.shape, moved_quant(x))]


@declare(Kind.MOVEMENT, "GatherND")
def gather_nd(node: Node) -> list[Type]:
    """The indices' leading dimensions, then the data's dimensions that an index does not reach."""
    x, indices = tensor(node, 0), tensor(node, 1)
    batch = integer(node, "batch_dims", 0)
    if x.shape is None or indices.shape is None or not indices.shape:
        return [TensorType(x.dtype, None)]
    depth = indices.shape[-1]
    if not isinstance(depth, int):
        return [TensorType(x.dtype, None)]
    if batch + depth > len(x.shape):
        raise fail(node, 1, f"a last dimension of at most {len(x.shape) - batch}")
    return [TensorType(x.dtype, (*indices.shape[:-1], *x.shape[batch + depth :]))]


@declare(Kind.OTHER, "Scatter", "ScatterElements", "ScatterND", "TensorScatter")
def scatter(node: Node) -> list[Type]:
    """The type of the data that is written into."""
    x = tensor(node, 0)
    same_dtype(node, (0, 1 if node.op == "TensorScatter" else 2))
    return [TensorType(x.dtype, x.shape)]


@declare(Kind.OTHER, "OneHot")
def one_hot(node: Node) -> list[Type]:
    """The indices' shape with an axis of size ``depth`` put in."""
    indices, values = tensor(node, 0), tensor(node, 2)
    if indices.shape is None:
        return [TensorType(values.dtype, None)]
    at = axis(node, integer(node, "axis", -1), len(indices.shape) + 1)
    depth = symbolic_content(value_of(node, 1))
    size: Dim = depth[0] if depth is not None and len(depth) == 1 else fresh(node, 0, at)
    return [TensorType(values.dtype, (*indices.shape[:at], size, *indices.shape[at:]))]


@declare(Kind.REDUCTION, "TopK")
def top_k(node: Node) -> list[Type]:
    """Values and i64 indices with ``k`` elements along ``axis``."""
    x = tensor(node, 0)
    if x.shape is None:
        return [TensorType(x.dtype, None), TensorType(DType.I64, None)]
    at = axis(node, integer(node, "axis", -1), len(x.shape))
    k = symbolic_content(value_of(node, 1)) if node.input(1) is not None else (integer(node, "k", 0),)
    size: Dim = k[0] if k is not None and len(k) == 1 else fresh(node, 0, at)
    limit = x.shape[at]
    if isinstance(size, int) and isinstance(limit, int) and not 0 <= size <= limit:
        raise fail(node, 1, f"at most {limit}")
    shape: Shape = (*x.shape[:at], size, *x.shape[at + 1 :])
    return [TensorType(x.dtype, shape), TensorType(DType.I64, shape)]


@declare(Kind.OTHER, "NonZero")
def non_zero(node: Node) -> list[Type]:
    """One row of i64 indices for each axis, as many columns as there are nonzero elements."""
    x = tensor(node, 0)
    # A scalar counts as a vector of one element.
    rows: Dim = fresh(node, 0, 0) if x.shape is None else max(len(x.shape), 1)
    return [TensorType(DType.I64, (rows, fresh(node, 0, 1)))]


@declare(Kind.OTHER, "Unique")
def unique(node: Node) -> list[Type]:
    """Distinct elements (or slices along ``axis``), first places, inverse, counts."""
    x = tensor(node, 0)
    count = fresh(node, 0, 0)
    shape: Shape | None = (count,)
    inverse: Shape | None = fresh_shape(node, 2, 1)
    if "axis" in node.attrs:
        shape = None
        if x.shape is not None:
            at = axis(node, integer(node, "axis", 0), len(x.shape))
            count = fresh(node, 0, at)
            shape, inverse = (*x.shape[:at], count, *x.shape[at + 1 :]), (x.shape[at],)
    elif x.num_elements is not None:
        inverse = (x.num_elements,)
    vector = TensorType(DType.I64, (count,))
    return [TensorType(x.dtype, shape), vector, TensorType(DType.I64, inverse), vector]


@declare(Kind.OTHER, "NonMaxSuppression")
def non_max_suppression(node: Node) -> list[Type]:
    """Selected (batch, class, box) triples."""
    rank_of(node, 0, 3)
    rank_of(node, 1, 3)
    return [TensorType(DType.I64, (fresh(node, 0, 0), 3))]
