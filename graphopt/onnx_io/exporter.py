"""A graph to ONNX protos: plain ONNX, or with fused nodes as functions of the model."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, MutableSequence, Sequence

import onnx

from graphopt.ir.graph import FUSED_DOMAIN, Graph, Node, Region, Value
from graphopt.ir.opset import CANONICAL_OPSET
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import Type
from graphopt.onnx_io.export_attributes import fill_attribute
from graphopt.onnx_io.export_opset import written_opset
from graphopt.onnx_io.export_tensors import fill_tensor
from graphopt.onnx_io.export_types import written_type
from graphopt.onnx_io.scope import QUANTIZATION_KEY
from graphopt.ops.schema import find_schema

IR_VERSION = 13
_SEES_OUTSIDE = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators whose graphs may use values from outside; those of others stand alone."""


class Exporter:
    """Writes one graph, all but the data of its constants.

    ``constants`` holds them after :meth:`run`, with their names in the file, in order.

    Args:
        graph: what to write; it does not change.
        inline: write the bodies of fused nodes in their place, not as functions.
    """

    def __init__(self, graph: Graph, *, inline: bool) -> None:
        self.graph = graph
        self.inline = inline
        self.constants: list[tuple[str, Tensor]] = []
        self._model = onnx.ModelProto()
        self._names: dict[Value, str] = {}
        self._reserved: set[str] = set()
        self._counts: dict[str, int] = {}
        self._node_names: dict[str, int] = {}
        self._types: dict[Type, onnx.TypeProto | None] = {}
        self._domains: dict[str, None] = {"": None}
        self._opset = {**graph.opset, "": written_opset(graph)}

    def run(self) -> onnx.ModelProto:
        """The model without initializers."""
        graph, model = self.graph, self._model
        model.ir_version = IR_VERSION
        model.producer_name, model.producer_version = graph.producer[0] or "graphopt", graph.producer[1]
        model.domain, model.model_version, model.doc_string = (
            graph.model_domain,
            graph.model_version,
            graph.doc,
        )
        _fill_metadata(model, graph.metadata)
        self._name_interface()
        proto = model.graph
        proto.name = graph.name
        self._fill(proto, graph.body, graph.output_names)
        self._add_constants(proto)
        for domain in self._domains:
            model.opset_import.add(domain=domain, version=self._opset.get(domain, 1))
        return model

    # --- names --------------------------------------------------------------------------------

    def _name_interface(self) -> None:
        graph = self.graph
        self._reserved.update(graph.output_names)
        self._reserved.update(value.name for value in graph.inputs)
        for value in graph.inputs:
            self._names[value] = value.name
        for value, name in zip(graph.outputs, graph.output_names, strict=True):
            if value.producer is not None:
                self._names.setdefault(value, name)

    def _name(self, value: Value) -> str:
        name = self._names.get(value)
        if name is None:
            name = self._fresh(value.name) if value.name in self._reserved else value.name
            self._names[value] = name
        return name

    def _fresh(self, hint: str) -> str:
        name = hint
        while name in self._reserved or self.graph.has_value(name):
            self._counts[hint] = self._counts.get(hint, 0) + 1
            name = f"{hint}_{self._counts[hint]}"
        self._reserved.add(name)
        return name

    def _node_name(self, hint: str) -> str:
        """A name that no other node has, as ONNX Runtime asks; inlining the same function twice repeats them."""
        name = hint
        while name in self._node_names:
            self._node_names[hint] += 1
            name = f"{hint}_{self._node_names[hint]}"
        self._node_names[name] = 0
        return name

    # --- graphs -------------------------------------------------------------------------------

    def _fill(self, proto: onnx.GraphProto, region: Region, output_names: Sequence[str] | None) -> None:
        proto.doc_string = region.doc
        _fill_metadata(proto, region.metadata)
        for value in region.inputs:
            self._describe(proto.input.add(), value, self._name(value))
            self._annotate(proto, value)
        self._nodes(proto.node, proto, region)
        self._outputs(proto, region, output_names)

    def _fill_alone(self, proto: onnx.GraphProto, region: Region) -> None:
        """As :meth:`_fill`, with copies of the constants that the graph uses inside of it."""
        used = dict.fromkeys(value for value in region_operands(region) if value.is_constant)
        outer = {value: self._names.pop(value) for value in used if value in self._names}
        for value in used:
            assert value.const is not None
            self._names[value] = self._fresh(value.name)
            fill_tensor(proto.initializer.add(), value.const, self._names[value])
        self._fill(proto, region, None)
        for value in used:
            del self._names[value]
        self._names.update(outer)

    def _outputs(self, proto: onnx.GraphProto, region: Region, names: Sequence[str] | None) -> None:
        """What the graph gives out. A value that is no output of a node in it, or is given out
        before, goes through an Identity."""
        given: set[str] = set()
        for index, value in enumerate(region.outputs):
            name = self._name(value)
            wanted = name if names is None else names[index]
            is_own = value.producer is not None and value.producer.parent is region
            is_passed_on = names is not None and value.is_input
            if name != wanted or name in given or not (is_own or is_passed_on):
                if names is None:
                    wanted = self._fresh(f"{value.name}_out")
                proto.node.add(op_type="Identity", input=[name], output=[wanted])
            given.add(wanted)
            self._describe(proto.output.add(), value, wanted)

    def _add_constants(self, proto: onnx.GraphProto) -> None:
        wanted = {
            text
            for value in self._names
            for key, text in value.metadata.items()
            if key.startswith(QUANTIZATION_KEY)
        }
        for value in (*self.graph.inputs, *self.graph.constants.values()):
            if value.const is not None and (value in self._names or value.name in wanted):
                self.constants.append((self._name(value), value.const))
                if value.is_constant:
                    self._describe_inner(proto, value)

    # --- values -------------------------------------------------------------------------------

    def _describe(self, info: onnx.ValueInfoProto, value: Value, name: str) -> None:
        info.name = name
        if value.doc:
            info.doc_string = value.doc
        if value.metadata:
            plain = {k: text for k, text in value.metadata.items() if not k.startswith(QUANTIZATION_KEY)}
            _fill_metadata(info, plain)
        type = self._type(value.type)
        if type is not None:
            info.type.CopyFrom(type)

    def _describe_inner(self, proto: onnx.GraphProto, value: Value) -> None:
        """Type, documentation and metadata of a value that is neither input nor output."""
        has_more = bool(value.doc or value.metadata)
        if has_more or (value.const is None and self._type(value.type) is not None):
            self._describe(proto.value_info.add(), value, self._name(value))
            self._annotate(proto, value)

    def _annotate(self, proto: onnx.GraphProto, value: Value) -> None:
        entries = {k: text for k, text in value.metadata.items() if k.startswith(QUANTIZATION_KEY)}
        if entries:
            annotation = proto.quantization_annotation.add(tensor_name=self._name(value))
            for key, text in entries.items():
                annotation.quant_parameter_tensor_names.add(
                    key=key.removeprefix(QUANTIZATION_KEY), value=text
                )

    def _type(self, type: Type) -> onnx.TypeProto | None:
        if type not in self._types:
            self._types[type] = written_type(type)
        return self._types[type]

    # --- nodes --------------------------------------------------------------------------------

    def _nodes(
        self, nodes: MutableSequence[onnx.NodeProto], infos: onnx.GraphProto | None, region: Region
    ) -> None:
        """Writes the nodes of ``region``; what is known of their outputs goes to ``infos``."""
        for node in region:
            if not node.is_fused:
                self._node(nodes.add(), infos, node)  # type: ignore[attr-defined]
            elif self.inline:
                self._inlined(nodes, infos, node)
            else:
                self._called(nodes.add(), node)  # type: ignore[attr-defined]
                self._describe_outputs(infos, node)

    def _node(self, proto: onnx.NodeProto, infos: onnx.GraphProto | None, node: Node) -> None:
        proto.op_type = node.op
        if node.domain:
            proto.domain = node.domain
            self._domains[node.domain] = None
        self._fill_common(proto, node)
        proto.input.extend(["" if value is None else self._name(value) for value in node.inputs])
        proto.output.extend(self._output_names(node))
        for name, value in node.attrs.items():
            fill_attribute(proto.attribute.add(name=name), node, value)
        for name, region in node.regions.items():
            attribute = proto.attribute.add(name=name, type=onnx.AttributeProto.GRAPH)
            attribute.g.name = region.name or name
            if node.op in _SEES_OUTSIDE and not node.domain:
                self._fill(attribute.g, region, None)
            else:
                self._fill_alone(attribute.g, region)
        self._describe_outputs(infos, node)

    def _fill_common(self, proto: onnx.NodeProto, node: Node) -> None:
        if node.name:
            proto.name = self._node_name(node.name)
        if node.doc:
            proto.doc_string = node.doc
        _fill_metadata(proto, node.metadata)

    def _output_names(self, node: Node) -> list[str]:
        if len(node.outputs) == 1:
            return [self._name(node.outputs[0])]
        optional = frozenset[int]() if node.domain else _optional_outputs(node.op)
        names = [
            "" if index in optional and not value.num_uses else self._name(value)
            for index, value in enumerate(node.outputs)
        ]
        while len(names) > 1 and not names[-1]:
            names.pop()
        return names

    def _describe_outputs(self, infos: onnx.GraphProto | None, node: Node) -> None:
        for value in node.outputs:
            if infos is not None and value in self._names and not value.is_output:
                self._describe_inner(infos, value)

    def _inlined(
        self, nodes: MutableSequence[onnx.NodeProto], infos: onnx.GraphProto | None, node: Node
    ) -> None:
        body = node.body
        for inner, outer in zip(body.inputs, node.inputs, strict=True):
            self._names[inner] = "" if outer is None else self._name(outer)
        copies: list[tuple[Value, Value]] = []
        for inner, outer in zip(body.outputs, node.outputs, strict=True):
            is_own = inner.producer is not None and inner.producer.parent is body
            if is_own and inner not in self._names:
                self._names[inner] = self._name(outer)
            else:
                copies.append((inner, outer))
        self._nodes(nodes, infos, body)
        for inner, outer in copies:
            nodes.add(op_type="Identity", input=[self._name(inner)], output=[self._name(outer)])  # type: ignore[attr-defined]
        self._describe_outputs(infos, node)

    def _called(self, proto: onnx.NodeProto, node: Node) -> None:
        name = f"fused_{len(self._model.functions)}"
        proto.op_type, proto.domain = name, FUSED_DOMAIN
        self._domains[FUSED_DOMAIN] = None
        self._fill_common(proto, node)
        proto.input.extend("" if value is None else self._name(value) for value in node.inputs)
        proto.output.extend(self._name(value) for value in node.outputs)
        function = self._model.functions.add(name=name, domain=FUSED_DOMAIN)
        function.input.extend(self._name(value) for value in node.body.inputs)
        self._nodes(function.node, None, node.body)
        for value in node.body.outputs:
            is_own = value.producer is not None and value.producer.parent is node.body
            output = self._name(value)
            if not is_own or output in function.output:
                output = self._fresh(f"{value.name}_out")
                function.node.add(op_type="Identity", input=[self._name(value)], output=[output])
            function.output.append(output)
        for domain in dict.fromkeys(inner.domain for inner in function.node):
            function.opset_import.add(domain=domain, version=self._opset.get(domain, 1))


@functools.cache
def _optional_outputs(op: str) -> frozenset[int]:
    found = find_schema(op, "", CANONICAL_OPSET)
    outputs = [] if found is None else found.outputs
    return frozenset(i for i, formal in enumerate(outputs) if formal.option == formal.option.Optional)


def region_operands(region: Region) -> Iterator[Value]:
    """Everything that nodes and outputs of ``region`` use, inner regions included."""
    for node in region:
        yield from (value for value in node.inputs if value is not None)
        for inner in node.regions.values():
            yield from region_operands(inner)
    yield from region.outputs


def _fill_metadata(
    proto: onnx.ModelProto | onnx.GraphProto | onnx.NodeProto | onnx.ValueInfoProto,
    entries: Mapping[str, str],
) -> None:
    for key, text in entries.items():
        proto.metadata_props.add(key=key, value=text)
