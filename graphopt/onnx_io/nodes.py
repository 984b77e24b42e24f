"""Single nodes into the graph as they stand, with their regions, typed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from graphopt.errors import ModelError, TypeInferenceError
from graphopt.ir.builder import Builder
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Attr, Node, Region, Value
from graphopt.ir.semantics import Semantics
from graphopt.ir.types import Type, UnknownType
from graphopt.onnx_io.attributes import Binding
from graphopt.onnx_io.region_types import generalise, region_input_types
from graphopt.onnx_io.scope import Scope
from graphopt.onnx_io.settle import settle
from graphopt.onnx_io.types import DimReader

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

FillRegion = Callable[[Scope, Region, str, Binding, Sequence[Type], Node], None]
"""Reads a graph attribute into an empty region, given the types that the operator hands in."""


class NodeMaker:
    """Makes the nodes of one graph and keeps what the file declares of their values."""

    def __init__(
        self, builder: Builder, semantics: Semantics, dims: DimReader, fill_region: FillRegion
    ) -> None:
        self.builder = builder
        self.semantics = semantics
        self.dims = dims
        self.fill_region = fill_region
        self.declared: dict[Value, Type] = {}
        self.known: set[str] = set()

    def node(
        self,
        scope: Scope,
        proto: onnx.NodeProto,
        op: str,
        domain: str,
        inputs: Sequence[Value | None],
        names: Sequence[str],
        attrs: Mapping[str, Attr],
        graphs: Mapping[str, Binding],
        label: str,
    ) -> Node:
        """A node as it stands, with its regions and types."""
        unknown = UnknownType()
        node = self.builder.node(
            op,
            inputs,
            [(name, unknown) for name in names],
            attrs,
            domain=domain,
            name=scope.prefix + proto.name if proto.name else "",
            region=scope.region,
        )
        node.doc = proto.doc_string
        if proto.metadata_props:
            node.metadata = {entry.key: entry.value for entry in proto.metadata_props}
        for attr, binding in graphs.items():
            region = self.builder.region(node, attr, binding.proto.g.name)
            types = region_input_types(node, len(binding.proto.g.input))
            self.fill_region(scope, region, label, binding, types, node)
        if graphs:
            self._carry(node, label)
        self.infer(node, label)
        return node

    def infer(self, node: Node, label: str) -> None:
        """Types of the outputs, from the operator.

        Raises:
            ModelError: the inputs don't fit it.
        """
        try:
            types = self.semantics.infer(node)
        except TypeInferenceError as error:
            message = error.message if error.message.startswith(label) else f"{label}: {error.message}"
            raise ModelError(message, hint=error.hint or "the model is not valid here") from error
        problem = self.semantics.check(node)
        if problem is not None:
            raise ModelError(problem, hint="the model is not valid here")
        for value, type in zip(node.outputs, types, strict=False):
            value.type = type

    def settle(self, scope: Scope, name: str, value: Value, label: str) -> None:
        """Brings together what the file says of a new value and what its operator says."""
        info = scope.declared.get(name)
        if info is None:
            if scope.annotations:
                scope.describe(value, name, None)
            return
        scope.describe(value, name, info)
        if not info.HasField("type") or value.producer is None:
            return
        declared = self.dims.type(info.type, name)
        self.declared[value] = declared
        value.type, conflict = settle(declared, value.type, self.known, self.dims.anonymous)
        if conflict:
            log.warning(
                '%s: "%s" is declared %s, its operator gives another %s: %s',
                label, name, declared, conflict, value.type,
            )  # fmt: skip

    # --- bodies of loops ----------------------------------------------------------------------

    def _carry(self, node: Node, label: str) -> None:
        for region in node.regions.values():
            own: set[Dim] = set()
            while generalise(node, region, own, self.dims.fresh, self.declared):
                self._infer_again(region, label)

    def _infer_again(self, region: Region, label: str) -> None:
        for node in region:
            for inner in node.regions.values():
                types = region_input_types(node, len(inner.inputs))
                for value, type in zip(inner.inputs, types, strict=True):
                    value.type = self._settled(value, type)
                self._infer_again(inner, label)
            if node.regions:
                self._carry(node, node.label)
            self.infer(node, node.label)
            for value in node.outputs:
                value.type = self._settled(value, value.type)

    def _settled(self, value: Value, type: Type) -> Type:
        declared = self.declared.get(value)
        if declared is None:
            return type
        return settle(declared, type, self.known, self.dims.anonymous)[0]
