"""Attributes out of ONNX protos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from graphopt.errors import ModelError
from graphopt.ir.graph import Attr, TypeAttr
from graphopt.onnx_io.external import ExternalFiles
from graphopt.onnx_io.tensors import decoded, dense_from_sparse, tensor_from_proto
from graphopt.onnx_io.text import check_text
from graphopt.onnx_io.types import DimReader

if TYPE_CHECKING:
    import onnx

_FLOAT, _INT, _STRING, _TENSOR, _GRAPH = 1, 2, 3, 4, 5
_FLOATS, _INTS, _STRINGS, _TENSORS, _GRAPHS = 6, 7, 8, 9, 10
_SPARSE, _TYPE, _TYPES = 11, 13, 14


class Binding(NamedTuple):
    """An attribute that a function was called with, and the scope its graphs see."""

    proto: onnx.AttributeProto
    scope: object


class AttributeReader:
    """Reads the attributes of the nodes of one model."""

    def __init__(self, files: ExternalFiles, dims: DimReader) -> None:
        self.files = files
        self.dims = dims
        self._simple: dict[int, Callable[[Any], Attr]] = {
            _FLOAT: lambda proto: proto.f,
            _INT: lambda proto: proto.i,
            _STRING: lambda proto: decoded(proto.s),
            _FLOATS: lambda proto: tuple(proto.floats),
            _INTS: lambda proto: tuple(proto.ints),
            _STRINGS: lambda proto: tuple(decoded(item) for item in proto.strings),
        }

    def read(
        self, node: onnx.NodeProto, bound: Mapping[str, Binding], where: str
    ) -> tuple[dict[str, Attr], dict[str, Binding]]:
        """The plain attributes of ``node``, and those that hold a graph.

        ``bound`` holds the attributes that the enclosing function was called with; a reference
        to one that was not given is left out, as the ONNX spec says. A graph that came by such
        a reference has the scope of its binding, others have None.

        Raises:
            ModelError: an attribute occurs twice, or is of a kind that can't be represented.
        """
        attrs: dict[str, Attr] = {}
        graphs: dict[str, Binding] = {}
        for proto in node.attribute:
            name = proto.name
            check_text((name, proto.ref_attr_name), where)
            if name in attrs or name in graphs:
                raise ModelError(f'{where}: attribute "{name}" is there twice')
            scope: object = None
            if proto.ref_attr_name:
                if proto.ref_attr_name not in bound:
                    continue
                proto, scope = bound[proto.ref_attr_name]
            if proto.type == _GRAPH:
                graphs[name] = Binding(proto, scope)
                continue
            attrs[name] = self._value(proto, name, where)
        return attrs, graphs

    def _value(self, proto: onnx.AttributeProto, name: str, where: str) -> Attr:
        kind = proto.type or _guessed_kind(proto)
        simple = self._simple.get(kind)
        if simple is not None:
            return simple(proto)
        at = f'{where}, attribute "{name}"'
        if kind == _TENSOR:
            return tensor_from_proto(proto.t, self.files, at)
        if kind == _TENSORS:
            return tuple(tensor_from_proto(item, self.files, at) for item in proto.tensors)
        if kind == _SPARSE:
            return dense_from_sparse(proto.sparse_tensor, self.files, at)
        if kind == _TYPE:
            return TypeAttr(self.dims.type(proto.tp, name))
        if kind == _TYPES:
            return tuple(TypeAttr(self.dims.type(item, name)) for item in proto.type_protos)
        what = "a list of graphs" if kind == _GRAPHS else f"of kind {kind}"
        raise ModelError(
            f"{at} is {what}, which can't be represented",
            hint="no operator of ONNX's own has such an attribute",
        )


def _guessed_kind(proto: onnx.AttributeProto) -> int:
    """The kind of an attribute that does not say it, as models of IR version 1 don't."""
    for field, kind in (("f", _FLOAT), ("i", _INT), ("s", _STRING), ("t", _TENSOR)):
        if proto.HasField(field):
            return kind
    for field, kind in (("floats", _FLOATS), ("ints", _INTS), ("strings", _STRINGS)):
        if len(getattr(proto, field)):
            return kind
    return 0
