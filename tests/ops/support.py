"""A small importer of ONNX models for these tests, independent of graphopt.onnx_io."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.ir.builder import Builder
from graphopt.ir.dims import Dim, sym
from graphopt.ir.graph import Attr, Graph, Node, Region, TypeAttr, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import DType, OptionalType, SequenceType, TensorType, Type, UnknownType
from graphopt.ops import SEMANTICS


def type_of(proto: Any, prefix: str = "") -> Type:
    """The type that a ``TypeProto`` declares; nameless dimensions get a symbol after ``prefix``."""
    match proto.WhichOneof("value"):
        case "tensor_type":
            tensor = proto.tensor_type
            dtype = DType(tensor.elem_type) if tensor.elem_type else None
            if not tensor.HasField("shape"):
                return TensorType(dtype, None)
            dims: list[Dim] = [
                d.dim_value if d.HasField("dim_value") else sym(d.dim_param or f"{prefix}{i}")
                for i, d in enumerate(tensor.shape.dim)
            ]
            return TensorType(dtype, tuple(dims))
        case "sequence_type":
            return SequenceType(type_of(proto.sequence_type.elem_type, prefix))
        case "optional_type":
            return OptionalType(type_of(proto.optional_type.elem_type, prefix))
    return UnknownType()


def _tensor(proto: onnx.TensorProto) -> Tensor:
    array = numpy_helper.to_array(proto)
    dtype = DType(proto.data_type)
    return Tensor(dtype, array.shape, lambda: np.asarray(array).reshape(array.shape))


def _attr(proto: onnx.AttributeProto) -> Attr:
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    if isinstance(value, onnx.TypeProto):
        return TypeAttr(type_of(value))
    if isinstance(value, list | tuple) or proto.type in (7, 8):
        return tuple(v.decode() if isinstance(v, bytes) else v for v in value)
    return value  # type: ignore[no-any-return]


class Importer:
    """Builds a graph with inferred types in program order.

    ``types`` overrides the types of inputs by name, ``constants`` turns inputs into constants.
    """

    def __init__(
        self, types: Mapping[str, Type] | None = None, constants: Mapping[str, Tensor] | None = None
    ) -> None:
        self.graph = Graph()
        self.builder = Builder(self.graph)
        self.types = types or {}
        self.constants = constants or {}
        self.on_node: Callable[[Node], None] = lambda node: None

    def run(self, model: onnx.ModelProto) -> Graph:
        scope: dict[str, Value] = {}
        for info in model.graph.input:
            if info.name in self.constants:
                scope[info.name] = self.builder.constant(self.constants[info.name], info.name)
            else:
                type = self.types.get(info.name, type_of(info.type, f"{info.name}."))
                scope[info.name] = self.builder.input(info.name, type)
        self._fill(model.graph, self.graph.body, scope)
        return self.graph

    def _fill(self, proto: onnx.GraphProto, region: Region, scope: dict[str, Value]) -> None:
        for data in proto.initializer:
            scope[data.name] = self.builder.constant(_tensor(data), data.name)
        for item in proto.node:
            self._node(item, region, scope)
        self.builder.outputs([scope[output.name] for output in proto.output], region)

    def _node(self, proto: onnx.NodeProto, region: Region, scope: dict[str, Value]) -> None:
        plain = {a.name: _attr(a) for a in proto.attribute if a.type != onnx.AttributeProto.GRAPH}
        node = self.builder.node(
            proto.op_type,
            [scope[name] if name else None for name in proto.input],
            [(name or "_", UnknownType()) for name in proto.output],
            plain,
            domain=proto.domain,
            name=proto.name,
            region=region,
        )
        for attribute in proto.attribute:
            if attribute.type != onnx.AttributeProto.GRAPH:
                continue
            inner, names = self.builder.region(node, attribute.name), dict(scope)
            for info in attribute.g.input:
                names[info.name] = self.builder.input(info.name, type_of(info.type, f"{info.name}."), inner)
            self._fill(attribute.g, inner, names)
        for output, type in zip(node.outputs, SEMANTICS.infer(node), strict=True):
            output.type = type
        self.on_node(node)
        scope.update(zip(proto.output, node.outputs, strict=True))


def type_of_data(data: object) -> Type:
    """The type of a recorded output."""
    if data is None:
        return OptionalType(UnknownType())
    if isinstance(data, list):
        return SequenceType(type_of_data(data[0]) if data else UnknownType())
    array = np.asarray(data)
    return TensorType(DType.of(array.dtype), array.shape)


def node_cases() -> list[Any]:
    """The node cases of ONNX's own backend tests, with models and recorded outputs."""
    from onnx.backend.test.loader import load_model_tests

    with np.errstate(all="ignore"):
        return list(load_model_tests(kind="node"))
