"""Attributes of nodes to onnx_ir."""

from __future__ import annotations

from typing import Any

import onnx_ir

from graphopt.errors import ModelError
from graphopt.ir.graph import CANONICAL_OPSET, Attr, Node, RefAttr, TypeAttr
from graphopt.ir.tensor import Tensor
from graphopt.onnx_io.export_tensors import to_ir_tensor
from graphopt.onnx_io.schemas import schema
from graphopt.onnx_io.types import to_ir_type

_KIND = onnx_ir.AttributeType


def to_ir_attribute(node: Node, name: str, value: Attr) -> onnx_ir.Attr:
    """One attribute of ``node``.

    Raises:
        ModelError: ONNX has no attribute of this kind.
    """
    match value:
        case int():
            return onnx_ir.AttrInt64(name, int(value))
        case float():
            return onnx_ir.AttrFloat32(name, value)
        case str():
            return onnx_ir.AttrString(name, value)
        case bytes():
            return onnx_ir.Attr(name, _KIND.STRING, value)
        case Tensor():
            return onnx_ir.AttrTensor(name, to_ir_tensor(value, ""))
        case TypeAttr(type=type):
            return onnx_ir.AttrTypeProto(name, onnx_ir.TypeAndShape(*to_ir_type(type)))
        case RefAttr():
            return onnx_ir.RefAttr(name, value.name, _KIND[value.kind])
        case tuple():
            return _list(node, name, value)
    raise ModelError(f'{node.label}: attribute "{name}" has a value of type {type(value).__name__}')


def _list(node: Node, name: str, items: tuple[object, ...]) -> onnx_ir.Attr:
    if not items:
        return onnx_ir.Attr(name, _declared_kind(node, name), [])
    first = items[0]
    if all(isinstance(item, int) for item in items):
        return onnx_ir.AttrInt64s(name, items)  # type: ignore[arg-type]
    if all(isinstance(item, int | float) for item in items):
        return onnx_ir.AttrFloat32s(name, items)  # type: ignore[arg-type]
    if all(isinstance(item, str) for item in items):
        return onnx_ir.AttrStrings(name, items)  # type: ignore[arg-type]
    if all(isinstance(item, Tensor) for item in items):
        tensors = [to_ir_tensor(item, "") for item in items if isinstance(item, Tensor)]
        return onnx_ir.AttrTensors(name, tensors)
    if all(isinstance(item, TypeAttr) for item in items):
        types = [onnx_ir.TypeAndShape(*to_ir_type(i.type)) for i in items if isinstance(i, TypeAttr)]
        return onnx_ir.AttrTypeProtos(name, types)
    raise ModelError(
        f'{node.label}: attribute "{name}" is a list of {type(first).__name__}, which ONNX can\'t hold'
    )


def _declared_kind(node: Node, name: str) -> Any:
    """The kind of an empty list, by the operator's schema; integers where it is unknown."""
    found = schema(node.op, node.domain, CANONICAL_OPSET if not node.domain else 2**31 - 1)
    if found is None or name not in found.attributes:
        return _KIND.INTS
    return _KIND[found.attributes[name].type.name]
