"""Types of the graph to ONNX protos."""

from __future__ import annotations

import onnx

from graphopt.ir.dims import SymDim
from graphopt.ir.types import OptionalType, SequenceType, SparseTensorType, TensorType, Type


def type_proto(type: Type) -> onnx.TypeProto | None:
    """The proto of ``type``; None when not even the element type is known."""
    proto = onnx.TypeProto()
    return proto if _fill(proto, type) else None


def _fill(proto: onnx.TypeProto, type: Type) -> bool:
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
            return _fill(proto.sequence_type.elem_type, elem)
        case OptionalType(elem=elem):
            return _fill(proto.optional_type.elem_type, elem)
    return False


def dim_text(dim: SymDim) -> str:
    """The ``dim_param`` that reads back as ``dim``."""
    return dim.symbol or str(dim)
