"""Reductions along axes, scans along an axis, softmax."""

from __future__ import annotations

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, TensorType, Type
from graphopt.ops.access import axis, fresh_shape, integer, integers, static_length, tensor
from graphopt.ops.content import static_content
from graphopt.ops.registry import Kind, declare


@declare(
    Kind.REDUCTION, "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
def reduce(node: Node) -> list[Type]:
    """Without the axes given (all by default), or with size 1 in their places."""
    x = tensor(node, 0)
    keep = integer(node, "keepdims", 1)
    given = node.input(1)
    axes = static_content(given) if given is not None else integers(node, "axes") or ()
    if axes == () and integer(node, "noop_with_empty_axes", 0):
        return [TensorType(x.dtype, x.shape)]
    if x.shape is None:
        return [TensorType(x.dtype, () if axes == () and not keep else None)]
    rank = len(x.shape)
    if axes is None:
        return [TensorType(x.dtype, _unknown_axes(node, rank, keep))]
    dropped = {axis(node, a, rank) for a in axes} if axes else set(range(rank))
    if keep:
        return [TensorType(x.dtype, tuple(1 if i in dropped else dim for i, dim in enumerate(x.shape)))]
    return [TensorType(x.dtype, tuple(dim for i, dim in enumerate(x.shape) if i not in dropped))]


def _unknown_axes(node: Node, rank: int, keep: int) -> tuple[Dim, ...] | None:
    if keep:
        return fresh_shape(node, 0, rank)
    count = static_length(node, 1)
    return fresh_shape(node, 0, rank - count) if count else None


@declare(Kind.REDUCTION, "ArgMax", "ArgMin")
def arg(node: Node) -> list[Type]:
    """I64 indices along ``axis``."""
    x = tensor(node, 0)
    if x.shape is None:
        return [TensorType(DType.I64, None)]
    at = axis(node, integer(node, "axis", 0), len(x.shape))
    middle: tuple[Dim, ...] = (1,) if integer(node, "keepdims", 1) else ()
    return [TensorType(DType.I64, (*x.shape[:at], *middle, *x.shape[at + 1 :]))]


@declare(Kind.REDUCTION, "Softmax", "LogSoftmax", "Hardmax", "LpNormalization")
def along_axis(node: Node) -> list[Type]:
    """The input's type."""
    x = tensor(node, 0)
    if x.shape is not None:
        axis(node, integer(node, "axis", -1), len(x.shape))
    return [TensorType(x.dtype, x.shape)]


@declare(Kind.REDUCTION, "CumSum", "CumProd")
def cumulative(node: Node) -> list[Type]:
    """The input's type."""
    x = tensor(node, 0)
    return [TensorType(x.dtype, x.shape)]


@declare(Kind.REDUCTION, "Det")
def det(node: Node) -> list[Type]:
    """One number for each square matrix."""
    x = tensor(node, 0)
    return [TensorType(x.dtype, None if x.shape is None else x.shape[:-2])]


@declare(Kind.REDUCTION, "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def loss(node: Node) -> list[Type]:
    """A number, or with ``reduction`` "none" one for each label; then the log probabilities."""
    x, labels = tensor(node, 0), tensor(node, 1)
    shape = labels.shape if node.attrs.get("reduction", "mean") in ("none", b"none") else ()
    return [TensorType(x.dtype, shape), TensorType(x.dtype, x.shape)]
