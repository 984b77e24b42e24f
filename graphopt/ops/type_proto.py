"""Types of the graph to ONNX protos."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from graphopt.ir.dims import SymDim
from graphopt.ir.types import OptionalType, SequenceType, SparseTensorType, TensorType, Type

if TYPE_CHECKING:
    import onnx


def type_proto(type: Type, dim_text: Callable[[SymDim], str] = str) -> onnx.TypeProto | None:
    """The proto of ``type``; None when not even the element type is known.

    Args:
        dim_text: gives the ``dim_param`` of a dimension.
    """
    import onnx

    proto = onnx.TypeProto()
    return proto if _fill(proto, type, dim_text) else None


def _fill(proto: onnx.TypeProto, type: Type, dim_text: Callable[[SymDim], str]) -> bool:
    match type:
        case TensorType(dtype=dtype, shape=shape) | SparseTensorType(dtype=dtype, shape=shape):
            if dtype is None:
                return False
            inner = proto.tensor_type if isinstance(type, TensorType) else proto.sparse_tensor_type
            inner.elem_type = dtype.value
            if shape is not None:
                inner.shape.SetInParent()
                for dim in shape:
                    if isinstance(dim, int):
                        inner.shape.dim.add(dim_value=dim)
                    else:
                        inner.shape.dim.add(dim_param=dim_text(dim))
            return True
        case SequenceType(elem=elem):
            return _fill(proto.sequence_type.elem_type, elem, dim_text)
        case OptionalType(elem=elem):
            return _fill(proto.optional_type.elem_type, elem, dim_text)
    return False
