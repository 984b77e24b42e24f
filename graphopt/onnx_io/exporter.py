"""A graph to an onnx_ir model: plain ONNX, or with fused nodes as functions of the model."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir

from graphopt.ir.graph import CANONICAL_OPSET, FUSED_DOMAIN, Graph, Node, Region, Value
from graphopt.ir.tensor import Tensor
from graphopt.onnx_io.export_attributes import to_ir_attribute
from graphopt.onnx_io.export_tensors import to_ir_tensor
from graphopt.onnx_io.schemas import schema
from graphopt.onnx_io.scope import QUANTIZATION_KEY
from graphopt.onnx_io.types import to_ir_type

IR_VERSION = 13
_QUANTIZATION_META = "quant_parameter_tensor_names"


class Exporter:
    """Writes one graph.

    Args:
        graph: what to write; it does not change.
        inline: write the bodies of fused nodes in their place, not as functions.
    """

    def __init__(self, graph: Graph, *, inline: bool) -> None:
        self.graph = graph
        self.inline = inline
        self.functions: list[onnx_ir.Function] = []
        self.constants: list[tuple[onnx_ir.Value, Tensor]] = []
        self._values: dict[Value, onnx_ir.Value] = {}
        self._final: dict[Value, str] = {}
        self._reserved: set[str] = set()
        self._counts: dict[str, int] = {}
        self._used_domains: dict[str, None] = {}

    def run(self) -> onnx_ir.Model:
        """The model."""
        graph = self.graph
        self._name_outputs()
        inputs = [self._value(value) for value in graph.inputs]
        nodes = list(self._nodes(graph.body))
        outputs = self._outputs(graph.body, graph.output_names, nodes)
        ir_graph = onnx_ir.Graph(
            inputs,
            outputs,
            nodes=nodes,
            initializers=self._initializers(inputs),
            doc_string=graph.body.doc or None,
            opset_imports=self._opset_imports(),
            name=graph.name,
            metadata_props=dict(graph.body.metadata) or None,
        )
        return onnx_ir.Model(
            ir_graph,
            ir_version=IR_VERSION,
            producer_name=graph.producer[0] or "graphopt",
            producer_version=graph.producer[1] or None,
            domain=graph.model_domain or None,
            model_version=graph.model_version or None,
            doc_string=graph.doc or None,
            functions=self.functions,
            metadata_props=dict(graph.metadata) or None,
        )

    # --- names --------------------------------------------------------------------------------

    def _name_outputs(self) -> None:
        graph = self.graph
        self._reserved.update(graph.output_names)
        self._reserved.update(value.name for value in graph.inputs)
        for value in graph.inputs:
            self._final[value] = value.name
        for value, name in zip(graph.outputs, graph.output_names, strict=True):
            if value.producer is not None and value not in self._final:
                self._final[value] = name

    def _name(self, value: Value) -> str:
        final = self._final.get(value)
        if final is not None:
            return final
        return self._fresh(value.name) if value.name in self._reserved else value.name

    def _fresh(self, hint: str) -> str:
        name = hint
        while name in self._reserved or self.graph.has_value(name):
            self._counts[hint] = self._counts.get(hint, 0) + 1
            name = f"{hint}_{self._counts[hint]}"
        self._reserved.add(name)
        return name

    # --- values -------------------------------------------------------------------------------

    def _value(self, value: Value) -> onnx_ir.Value:
        made = self._values.get(value)
        if made is None:
            made = self._values[value] = self._new_value(value, self._name(value))
        return made

    def _new_value(self, value: Value, name: str) -> onnx_ir.Value:
        type, shape = to_ir_type(value.type)
        made = onnx_ir.Value(
            name=name,
            type=type,
            shape=shape,
            doc_string=value.doc or None,
            const_value=None if value.const is None else to_ir_tensor(value.const, name),
        )
        if value.const is not None:
            self.constants.append((made, value.const))
        if value.metadata:
            quantization = {
                key.removeprefix(QUANTIZATION_KEY): text
                for key, text in value.metadata.items()
                if key.startswith(QUANTIZATION_KEY)
            }
            plain = {
                key: text for key, text in value.metadata.items() if not key.startswith(QUANTIZATION_KEY)
            }
            made.metadata_props.update(plain)
            if quantization:
                made.meta[_QUANTIZATION_META] = quantization
        return made

    def _initializers(self, inputs: Sequence[onnx_ir.Value]) -> list[onnx_ir.Value]:
        found = [value for value in inputs if value.const_value is not None]
        annotated = {
            text
            for value in self._values
            for key, text in value.metadata.items()
            if key.startswith(QUANTIZATION_KEY)
        }
        for value in self.graph.constants.values():
            if value in self._values or value.name in annotated:
                found.append(self._value(value))
        return found

    def _outputs(
        self, region: Region, names: Sequence[str] | None, nodes: list[onnx_ir.Node]
    ) -> list[onnx_ir.Value]:
        """The values to give out. One that is no node's output here, or is given out before, goes
        through an Identity."""
        found: list[onnx_ir.Value] = []
        for index, value in enumerate(region.outputs):
            made = self._value(value)
            own = self._is_own(value, region)
            wanted = names[index] if names is not None else made.name
            if own and made.name == wanted and not any(made is other for other in found):
                found.append(made)
                continue
            if names is not None and value.is_input and value.name == wanted:
                found.append(made)
                continue
            name = names[index] if names is not None else self._fresh(f"{value.name}_out")
            type, shape = to_ir_type(value.type)
            copy = onnx_ir.Value(name=name, type=type, shape=shape)
            nodes.append(onnx_ir.Node("", "Identity", [made], outputs=[copy], name=None))
            found.append(copy)
        return found

    def _is_own(self, value: Value, region: Region) -> bool:
        """Whether ``value`` is the output of a node that is written into the graph of ``region``."""
        producer = value.producer
        return producer is not None and producer.parent is region

    # --- nodes --------------------------------------------------------------------------------

    def _nodes(self, region: Region) -> Iterator[onnx_ir.Node]:
        for node in region:
            if not node.is_fused:
                yield self._node(node)
            elif self.inline:
                yield from self._inlined(node)
            else:
                yield self._called(node)

    def _node(self, node: Node) -> onnx_ir.Node:
        self._used_domains[node.domain] = None
        attributes: list[Any] = [to_ir_attribute(node, name, value) for name, value in node.attrs.items()]
        inputs = [None if value is None else self._value(value) for value in node.inputs]
        outputs = self._node_outputs(node)
        for name, region in node.regions.items():
            attributes.append(onnx_ir.AttrGraph(name, self._graph(region)))
        made = onnx_ir.Node(
            node.domain,
            node.op,
            inputs,
            attributes,
            outputs=outputs,
            name=node.name or None,
            doc_string=node.doc or None,
        )
        if node.metadata:
            made.metadata_props.update(node.metadata)
        return made

    def _node_outputs(self, node: Node) -> list[onnx_ir.Value]:
        optional = frozenset() if node.domain or len(node.outputs) < 2 else _optional_outputs(node.op)
        made: list[onnx_ir.Value] = []
        for index, value in enumerate(node.outputs):
            absent = index in optional and not value.num_uses
            made.append(onnx_ir.Value(name="") if absent else self._value(value))
        while len(made) > 1 and made[-1].name == "":
            made.pop()
        return made

    def _graph(self, region: Region) -> onnx_ir.Graph:
        inputs = [self._value(value) for value in region.inputs]
        nodes = list(self._nodes(region))
        outputs = self._outputs(region, None, nodes)
        return onnx_ir.Graph(
            inputs,
            outputs,
            nodes=nodes,
            doc_string=region.doc or None,
            name=region.name or "body",
            metadata_props=dict(region.metadata) or None,
        )

    def _inlined(self, node: Node) -> Iterator[onnx_ir.Node]:
        body = node.body
        for inner, outer in zip(body.inputs, node.inputs, strict=True):
            assert outer is not None
            self._values[inner] = self._value(outer)
        copies: list[tuple[Value, Value]] = []
        for inner, outer in zip(body.outputs, node.outputs, strict=True):
            if self._is_own(inner, body) and inner not in self._values:
                self._values[inner] = self._value(outer)
            else:
                copies.append((inner, outer))
        yield from self._nodes(body)
        for inner, outer in copies:
            yield onnx_ir.Node("", "Identity", [self._value(inner)], outputs=[self._value(outer)], name=None)

    def _called(self, node: Node) -> onnx_ir.Node:
        name = f"fused_{len(self.functions)}"
        graph = self._graph(node.body)
        graph.opset_imports.update(self._opset_imports())
        self.functions.append(onnx_ir.Function(FUSED_DOMAIN, name, graph=graph, attributes=[]))
        self._used_domains[FUSED_DOMAIN] = None
        return onnx_ir.Node(
            FUSED_DOMAIN,
            name,
            [None if value is None else self._value(value) for value in node.inputs],
            outputs=[self._value(value) for value in node.outputs],
            name=node.name or None,
            doc_string=node.doc or None,
            metadata_props=dict(node.metadata) or None,
        )

    def _opset_imports(self) -> dict[str, int]:
        used = {"": self.graph.opset[""]}
        for domain in self._used_domains:
            used.setdefault(domain, self.graph.opset.get(domain, 1))
        return used


@functools.cache
def _optional_outputs(op: str) -> frozenset[int]:
    found = schema(op, "", CANONICAL_OPSET)
    outputs = [] if found is None else found.outputs
    return frozenset(i for i, formal in enumerate(outputs) if formal.option == formal.option.Optional)
