"""Types of rare operators by ONNX's own shape inference, one node at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.errors import TextError, TypeInferenceError
from graphopt.ir.dim_text import parse_dim
from graphopt.ir.dims import Dim, sym
from graphopt.ir.graph import Node, RefAttr, TypeAttr, Value
from graphopt.ir.opset import CANONICAL_OPSET
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import (
    DType,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    UnknownType,
)
from graphopt.ops.access import fresh
from graphopt.ops.content import static_content
from graphopt.ops.schema import schemas
from graphopt.ops.type_proto import type_proto

_MAX_CONST = 1024
"""Constants of more elements are not shown to ONNX's inference."""


def infer(node: Node) -> list[Type]:
    """Types of the outputs by ``onnx.shape_inference``; :class:`UnknownType` for what it does not know.

    Raises:
        TypeInferenceError: ONNX says that the node contradicts itself.
    """
    unknown: list[Type] = [UnknownType() for _ in node.outputs]
    schema = next(iter(schemas(node.op, node.domain)), None)
    if schema is None or node.regions or not schema.has_type_and_shape_inference_function:
        return unknown
    import onnx
    from onnx import checker, shape_inference

    proto = _node_proto(node)
    types = {f"i{i}": type_proto(v.type) for i, v in enumerate(node.inputs) if v is not None}
    if any(type is None for type in types.values()):
        return unknown
    data = {
        f"i{i}": known for i, v in enumerate(node.inputs) if v is not None and (known := _data(v)) is not None
    }
    opset = onnx.helper.make_opsetid(
        node.domain, max(schema.since_version, CANONICAL_OPSET if not node.domain else 1)
    )
    try:
        inferred = shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=[opset])
    except (shape_inference.InferenceError, checker.ValidationError) as error:
        raise TypeInferenceError(f"{node.label}: {str(error).strip()}") from error
    return [
        _type(node, i, inferred[f"o{i}"]) if f"o{i}" in inferred else UnknownType()
        for i in range(len(node.outputs))
    ]


def _node_proto(node: Node) -> Any:
    import onnx

    proto = onnx.NodeProto(op_type=node.op, domain=node.domain)
    proto.input.extend("" if v is None else f"i{i}" for i, v in enumerate(node.inputs))
    proto.output.extend(f"o{i}" for i in range(len(node.outputs)))
    for name, value in node.attrs.items():
        if isinstance(value, RefAttr):
            continue
        proto.attribute.append(_attribute(name, value))
    return proto


def _attribute(name: str, value: object) -> Any:
    import onnx

    if isinstance(value, Tensor):
        return onnx.helper.make_attribute(name, _tensor_proto(value))
    if isinstance(value, TypeAttr):
        return onnx.helper.make_attribute(name, type_proto(value.type))
    if isinstance(value, tuple):
        items = [_tensor_proto(item) if isinstance(item, Tensor) else item for item in value]
        return onnx.helper.make_attribute(name, items, attr_type=None if items else onnx.AttributeProto.INTS)
    return onnx.helper.make_attribute(name, value)


def _tensor_proto(data: Tensor) -> Any:
    import onnx

    return onnx.numpy_helper.from_array(np.asarray(data.numpy()))


def _data(value: Value) -> Any | None:
    """What ONNX may know of an input's elements: a small constant, or whole numbers read through arithmetic."""
    import onnx

    if (
        value.is_constant
        and value.const is not None
        and value.const.dtype in (DType.I64, DType.I32, DType.F32)
    ):
        return _tensor_proto(value.const) if value.const.size <= _MAX_CONST else None
    type = value.tensor
    if type.dtype not in (DType.I64, DType.I32) or type.shape is None or len(type.shape) > 1:
        return None
    numbers = static_content(value)
    if numbers is None:
        return None
    return onnx.numpy_helper.from_array(
        np.array(numbers, type.dtype.numpy).reshape([len(numbers)] * len(type.shape))
    )


def _type(node: Node, index: int, proto: Any) -> Type:
    match proto.WhichOneof("value"):
        case "tensor_type":
            return _tensor_type(node, index, proto.tensor_type)
        case "sequence_type":
            return SequenceType(_type(node, index, proto.sequence_type.elem_type))
        case "optional_type":
            return OptionalType(_type(node, index, proto.optional_type.elem_type))
    return UnknownType()


def _tensor_type(node: Node, index: int, proto: Any) -> TensorType:
    dtype = DType(proto.elem_type) if proto.elem_type else None
    if not proto.HasField("shape"):
        return TensorType(dtype, None)
    return TensorType(dtype, tuple(_dim(node, index, i, dim) for i, dim in enumerate(proto.shape.dim)))


def _dim(node: Node, index: int, position: int, proto: Any) -> Dim:
    if proto.HasField("dim_value"):
        return int(proto.dim_value)
    if not proto.dim_param:
        return fresh(node, index, position)
    try:
        return parse_dim(proto.dim_param)
    except TextError:
        return sym(proto.dim_param)
