"""Operators that make tensors from little: constants, ranges, random numbers, windows."""

from __future__ import annotations

import math

from graphopt.ir.dims import Dim, Shape, SymDim, ceildiv, maximum
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType, SparseTensorType, TensorType, Type, UnknownType
from graphopt.ops.access import (
    dtype_attr,
    fail,
    fresh,
    fresh_shape,
    integer,
    integers,
    rank_of,
    same_dtype,
    static_length,
    tensor,
    tensor_attr,
    value_of,
)
from graphopt.ops.content import partial_content, symbolic_content
from graphopt.ops.registry import Kind, declare
from graphopt.ops.shapes import is_nonnegative


@declare(Kind.OTHER, "Constant")
def constant(node: Node) -> list[Type]:
    """The type of the attribute that holds the value."""
    data = tensor_attr(node, "value")
    if data is not None:
        return [data.type]
    for name, value in node.attrs.items():
        many = value if isinstance(value, tuple) else ()
        match name:
            case "value_int" | "value_float" | "value_string":
                return [TensorType(_DTYPES[name], ())]
            case "value_ints" | "value_floats" | "value_strings":
                return [TensorType(_DTYPES[name[:-1]], (len(many),))]
            case "sparse_value":
                return [SparseTensorType(None, None)]
    return [UnknownType()]


_DTYPES = {"value_int": DType.I64, "value_float": DType.F32, "value_string": DType.STR}


@declare(Kind.OTHER, "ConstantOfShape")
def constant_of_shape(node: Node) -> list[Type]:
    """The shape that the input holds, filled with ``value`` (f32 0 by default)."""
    data = tensor_attr(node, "value")
    return [TensorType(DType.F32 if data is None else data.dtype, _held_shape(node, 0))]


def _held_shape(node: Node, index: int) -> Shape | None:
    content = partial_content(value_of(node, index))
    if content is None:
        return fresh_shape(node, 0, static_length(node, index))
    if any(isinstance(dim, int) and dim < 0 for dim in content):
        raise fail(node, index, "sizes ≥ 0")
    return tuple(fresh(node, 0, i) if dim is None else dim for i, dim in enumerate(content))


@declare(Kind.OTHER, "Range")
def range_rule(node: Node) -> list[Type]:
    """A vector of ``max(ceil((limit - start) / delta), 0)`` elements."""
    dtype = same_dtype(node, (0, 1, 2))
    ends = [_scalar(value_of(node, i)) for i in range(3)]
    return [TensorType(dtype, (_steps(node, ends),))]


def _steps(node: Node, ends: list[Dim | float | None]) -> Dim:
    start, limit, delta = ends
    if start is None or limit is None or delta is None or isinstance(delta, SymDim):
        return fresh(node, 0, 0)
    if delta == 0:
        raise fail(node, 2, "a step other than 0")
    if isinstance(start, float) or isinstance(limit, float) or isinstance(delta, float):
        if isinstance(start, SymDim) or isinstance(limit, SymDim):
            return fresh(node, 0, 0)
        return max(math.ceil((limit - start) / delta), 0)
    count = ceildiv(limit - start, delta)
    return count if is_nonnegative(count) else maximum(count, 0)


def _scalar(value: Value) -> Dim | float | None:
    """The only element: a dimension, or a constant float."""
    data = value.const if value.is_constant else None
    if data is not None and data.dtype.is_float and data.size == 1:
        number = float(data.numpy().reshape(-1)[0])
        return number if math.isfinite(number) else None
    content = symbolic_content(value)
    return content[0] if content is not None and len(content) == 1 else None


@declare(Kind.OTHER, "EyeLike")
def eye_like(node: Node) -> list[Type]:
    """The input's shape; ``dtype`` overrides its element type."""
    x = tensor(node, 0)
    return [TensorType(dtype_attr(node, "dtype", x.dtype), rank_of(node, 0, 2))]


@declare(Kind.OTHER, "RandomNormal", "RandomUniform", pure=False)
def random(node: Node) -> list[Type]:
    """The shape in the attribute ``shape``, f32 by default."""
    return [TensorType(dtype_attr(node, "dtype", DType.F32), integers(node, "shape"))]


@declare(Kind.OTHER, "RandomNormalLike", "RandomUniformLike", pure=False)
def random_like(node: Node) -> list[Type]:
    """The input's shape; ``dtype`` overrides its element type."""
    x = tensor(node, 0)
    return [TensorType(dtype_attr(node, "dtype", x.dtype), x.shape)]


@declare(Kind.OTHER, "Multinomial", pure=False)
def multinomial(node: Node) -> list[Type]:
    """(batch, sample_size) class numbers, i32 by default."""
    x = rank_of(node, 0, 2)
    batch = fresh(node, 0, 0) if x is None else x[0]
    return [TensorType(dtype_attr(node, "dtype", DType.I32), (batch, integer(node, "sample_size", 1)))]


@declare(Kind.OTHER, "BlackmanWindow", "HammingWindow", "HannWindow")
def window_function(node: Node) -> list[Type]:
    """A vector of as many elements as the input says."""
    size = symbolic_content(value_of(node, 0))
    dtype = dtype_attr(node, "output_datatype", DType.F32)
    return [TensorType(dtype, (size[0] if size is not None and len(size) == 1 else fresh(node, 0, 0),))]


@declare(Kind.OTHER, "MelWeightMatrix")
def mel_weight_matrix(node: Node) -> list[Type]:
    """(dft_length // 2 + 1, num_mel_bins)."""
    bins, length = (symbolic_content(value_of(node, i)) for i in (0, 1))
    rows: Dim = fresh(node, 0, 0) if length is None else length[0] // 2 + 1
    columns: Dim = fresh(node, 0, 1) if bins is None else bins[0]
    return [TensorType(dtype_attr(node, "output_datatype", DType.F32), (rows, columns))]
