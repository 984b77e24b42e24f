"""Normalizations."""

from __future__ import annotations

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, TensorType, Type
from graphopt.ops.access import axis, dtype_attr, fail, fresh, integer, tensor
from graphopt.ops.registry import Kind, declare
from graphopt.units import counted


@declare(
    Kind.REDUCTION, "GroupNormalization", "InstanceNormalization", "LRN", "MeanVarianceNormalization",
    "RMSNormalization",
)  # fmt: skip
def like_input(node: Node) -> list[Type]:
    """The input's type."""
    x = tensor(node, 0)
    return [TensorType(x.dtype, x.shape)]


@declare(Kind.ELEMENTWISE, "BatchNormalization")
def batch_normalization(node: Node) -> list[Type]:
    """The input's type, and in training the running mean and variance (a vector over channels).

    Elementwise when it does not train, with one factor and offset for each channel.
    """
    x = tensor(node, 0)
    channels: Dim | None = None
    if x.shape is not None:
        channels = x.shape[1] if len(x.shape) > 1 else 1
    for index in range(1, 5):
        vector = tensor(node, index).shape
        if vector is None or vector == ():
            continue
        if isinstance(channels, int) and isinstance(vector[0], int) and vector[0] != channels:
            raise fail(node, index, f"{counted(channels, 'element')}, one for each channel")
        channels = vector[0] if not isinstance(channels, int) else channels
    statistics = tensor(node, 3).dtype
    size = fresh(node, 1, 0) if channels is None else channels
    return [TensorType(x.dtype, x.shape), TensorType(statistics, (size,)), TensorType(statistics, (size,))]


@declare(Kind.REDUCTION, "LayerNormalization")
def layer_normalization(node: Node) -> list[Type]:
    """The input's type, and mean and inverse deviation with size 1 from ``axis`` on."""
    x = tensor(node, 0)
    statistics = dtype_attr(node, "stash_type", DType.F32)
    if x.shape is None:
        return [TensorType(x.dtype, None), TensorType(statistics, None), TensorType(statistics, None)]
    at = axis(node, integer(node, "axis", -1), len(x.shape))
    ones: tuple[Dim, ...] = (1,) * (len(x.shape) - at)
    kept = TensorType(statistics, (*x.shape[:at], *ones))
    return [TensorType(x.dtype, x.shape), kept, kept]
