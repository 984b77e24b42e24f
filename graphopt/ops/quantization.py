"""Quantization: the scheme goes into the output type, scale and zero point are operands."""

from __future__ import annotations

from graphopt.ir.graph import Node
from graphopt.ir.types import DType, QuantScheme, TensorType, Type
from graphopt.ops.access import axis, dtype_attr, fail, integer, optional, tensor
from graphopt.ops.registry import Kind, declare


def scheme(node: Node, dtype: DType | None, x: TensorType) -> QuantScheme | None:
    """The scheme of integers of ``dtype`` that go with the scale in input 1 of ``node``; None if unknown.

    Raises:
        TypeInferenceError: the scale does not fit the data ``x``.
    """
    scale = tensor(node, 1)
    if dtype is None or scale.shape is None:
        return None
    block = integer(node, "block_size", 0)
    if scale.shape == () or (scale.shape == (1,) and not block):
        return QuantScheme(dtype.bits, dtype.is_signed)
    if x.shape is None:
        return None
    at = axis(node, integer(node, "axis", 1), len(x.shape))
    expected = len(x.shape) if block else 1
    if len(scale.shape) != expected:
        raise fail(node, 1, f"a scale of rank {expected}")
    channels, scales = x.shape[at], scale.shape[0]
    if not block and isinstance(channels, int) and isinstance(scales, int) and channels != scales:
        raise fail(node, 1, f"{channels} scales, one for each channel of axis {at}")
    return QuantScheme(dtype.bits, dtype.is_signed, at, block)


@declare(Kind.ELEMENTWISE, "QuantizeLinear")
def quantize(node: Node) -> list[Type]:
    """Integers (or small floats) of the zero point's type, of ``output_dtype`` or u8."""
    x, zero = tensor(node, 0), optional(node, 2)
    dtype = dtype_attr(node, "output_dtype", DType.U8) if zero is None else zero.dtype
    return [TensorType(dtype, x.shape, scheme(node, dtype, x))]


@declare(Kind.ELEMENTWISE, "DequantizeLinear")
def dequantize(node: Node) -> list[Type]:
    """Floats of the scale's type or of ``output_dtype``."""
    x = tensor(node, 0)
    scheme(node, x.dtype, x)
    zero = optional(node, 2)
    if zero is not None and None not in (zero.dtype, x.dtype) and zero.dtype is not x.dtype:
        raise fail(node, 2, f"the element type {x.dtype.text} of the data")  # type: ignore[union-attr]
    return [TensorType(dtype_attr(node, "output_dtype", tensor(node, 1).dtype), x.shape)]


@declare(Kind.REDUCTION, "DynamicQuantizeLinear")
def dynamic_quantize(node: Node) -> list[Type]:
    """U8 integers, and the f32 scale and u8 zero point that were found."""
    x = tensor(node, 0)
    return [
        TensorType(DType.U8, x.shape, QuantScheme(8, signed=False)),
        TensorType(DType.F32, ()),
        TensorType(DType.U8, ()),
    ]
