"""Nodes of any opset into the graph: brought to the canonical one where their operator has changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from graphopt.ir.graph import Attr, Value
from graphopt.ir.opset import CANONICAL_OPSET
from graphopt.ir.tensor import Array, Tensor
from graphopt.onnx_io import upgrade
from graphopt.onnx_io.attributes import Binding
from graphopt.onnx_io.batched_scan import batched_scan
from graphopt.onnx_io.nodes import NodeMaker
from graphopt.onnx_io.scope import Scope
from graphopt.onnx_io.upgrade.legacy import Legacy

if TYPE_CHECKING:
    import onnx


class VersionedNodes:
    """Makes nodes of any version of their operators.

    Attributes:
        newest: the opset that the graph needs: the canonical one, or one in which an operator of it is newer.
        unverifiable: operators that are kept although no engine may know them.
    """

    def __init__(self, maker: NodeMaker) -> None:
        self._maker = maker
        self.newest = CANONICAL_OPSET
        self.unverifiable: dict[str, None] = {}

    def make(
        self,
        scope: Scope,
        proto: onnx.NodeProto,
        label: str,
        inputs: list[Value | None],
        outputs: list[str],
        attrs: dict[str, Attr],
        graphs: Mapping[str, Binding],
        version: int | None,
    ) -> Sequence[Value]:
        """The values for the outputs of a node; ``version`` is that of its operator, None if unknown."""
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        names = [scope.value_name(name) for name in outputs]
        if version == 8 and proto.op_type == "Scan":
            return batched_scan(self._maker, scope, proto, label, inputs, names, attrs, graphs)
        if version is None or not upgrade.is_needed(proto.op_type, version):
            node = self._maker.node(scope, proto, proto.op_type, domain, inputs, names, attrs, graphs, label)
            if version is None and not domain:
                self.unverifiable[node.op] = None
            if version is not None and version > CANONICAL_OPSET and not upgrade.fits(node, CANONICAL_OPSET):
                self.newest = max(self.newest, version)
                self.unverifiable[node.op] = None
            return node.outputs
        emitter = _Emitter(self._maker, scope, proto, label)
        legacy = Legacy(proto.op_type, label, version, inputs, names, attrs, emitter, graphs=tuple(graphs))
        upgrade.upgrade(legacy)
        if legacy.replacement is not None:
            return legacy.replacement
        own = [f"{name}_raw" for name in names] if legacy.finish else legacy.outputs
        node = self._maker.node(
            scope, proto, legacy.op, domain, legacy.inputs, own, legacy.attrs, graphs, label
        )
        return legacy.finish(node.outputs, names) if legacy.finish else node.outputs


class _Emitter:
    """Makes the nodes that an adapter asks for, at one place of the graph."""

    def __init__(self, maker: NodeMaker, scope: Scope, proto: onnx.NodeProto, label: str) -> None:
        self._maker = maker
        self._scope = scope
        self._proto = proto
        self._label = label

    def emit(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Attr] | None = None,
        *,
        outputs: Sequence[str] = (),
    ) -> Sequence[Value]:
        hint = next((name for name in self._proto.output if name), op.lower())
        names = outputs or [f"{self._scope.value_name(hint)}_{op.lower()}"]
        node = self._maker.node(self._scope, self._proto, op, "", inputs, names, attrs or {}, {}, self._label)
        node.name = f"{node.name}_{op.lower()}" if node.name else ""
        return node.outputs

    def constant(self, data: Array, hint: str) -> Value:
        return self._maker.builder.constant(Tensor.of(data), hint)
