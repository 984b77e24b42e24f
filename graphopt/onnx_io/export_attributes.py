"""Attributes of nodes to ONNX protos."""

from __future__ import annotations

from typing import Any

import onnx

from graphopt.errors import ModelError
from graphopt.ir.graph import Attr, Node, RefAttr, TypeAttr
from graphopt.ir.opset import CANONICAL_OPSET
from graphopt.ir.tensor import Tensor
from graphopt.onnx_io.export_tensors import fill_tensor
from graphopt.onnx_io.export_types import written_type
from graphopt.ops.schema import NEWEST, find_schema

_KIND = onnx.AttributeProto


def fill_attribute(proto: onnx.AttributeProto, node: Node, value: Attr) -> None:
    """Writes one attribute of ``node``; ``proto`` has its name already.

    Raises:
        ModelError: ONNX has no attribute of this kind, or with this value.
    """
    try:
        _fill(proto, node, value)
    except (TypeError, ValueError) as error:
        raise ModelError(f'{node.label}: attribute "{proto.name}" can\'t be written: {error}') from error


def _fill(proto: onnx.AttributeProto, node: Node, value: Attr) -> None:
    match value:
        case RefAttr():
            proto.ref_attr_name, proto.type = value.name, _KIND.AttributeType.Value(value.kind)
        case TypeAttr():
            proto.type = _KIND.TYPE_PROTO
            proto.tp.CopyFrom(written_type(value.type) or onnx.TypeProto())
        case int():
            proto.i, proto.type = value, _KIND.INT
        case float():
            proto.f, proto.type = value, _KIND.FLOAT
        case str() | bytes():
            proto.s, proto.type = _encoded(value), _KIND.STRING
        case Tensor():
            proto.type = _KIND.TENSOR
            fill_tensor(proto.t, value, "")
        case tuple():
            _fill_list(proto, node, value)
        case _:
            raise ModelError(f'{node.label}: attribute "{proto.name}" has a value of {type(value).__name__}')


def _fill_list(proto: onnx.AttributeProto, node: Node, items: tuple[Any, ...]) -> None:
    if not items:
        proto.type = _declared_kind(node, proto.name)
    elif all(isinstance(item, TypeAttr) for item in items):
        proto.type = _KIND.TYPE_PROTOS
        proto.type_protos.extend(written_type(item.type) or onnx.TypeProto() for item in items)
    elif all(isinstance(item, int) for item in items):
        proto.type = _KIND.INTS
        proto.ints.extend(items)
    elif all(isinstance(item, int | float) for item in items):
        proto.type = _KIND.FLOATS
        proto.floats.extend(items)
    elif all(isinstance(item, str | bytes) for item in items):
        proto.type = _KIND.STRINGS
        proto.strings.extend(_encoded(item) for item in items)
    elif all(isinstance(item, Tensor) for item in items):
        proto.type = _KIND.TENSORS
        for item in items:
            fill_tensor(proto.tensors.add(), item, "")
    else:
        raise ModelError(f'{node.label}: attribute "{proto.name}" is a list of mixed kinds')


def _declared_kind(node: Node, name: str) -> int:
    """The kind of an empty list, by the operator's schema; integers where it is unknown."""
    found = find_schema(node.op, node.domain, NEWEST if node.domain else CANONICAL_OPSET)
    if found is None or name not in found.attributes:
        return int(_KIND.INTS)
    return int(_KIND.AttributeType.Value(found.attributes[name].type.name))


def _encoded(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
