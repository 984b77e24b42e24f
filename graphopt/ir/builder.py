"""Makes graphs: used by the importer, the parser of ``.gir`` and the copy of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from graphopt.ir.graph import Attr, Graph, Node, Region, Use, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import Type


class Builder:
    """Appends to a graph under construction; names that are taken get a number."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def input(self, name: str, type: Type, region: Region | None = None) -> Value:
        """A new input of ``region`` (the root by default)."""
        region = self.graph.body if region is None else region
        value = self._value(name, type, region, len(region.inputs))
        region.inputs.append(value)
        return value

    def constant(self, data: Tensor, name: str = "const") -> Value:
        """A new constant of the graph."""
        value = self._value(name, data.type, None, 0)
        self._enter(value, data)
        return value

    def constant_instead(self, value: Value, data: Tensor) -> None:
        """Makes a constant of an input of a region."""
        region = value.owner
        assert isinstance(region, Region)
        region.inputs.remove(value)
        for index, other in enumerate(region.inputs):
            other.index = index
        value.owner, value.type = None, data.type
        self._enter(value, data)

    def _enter(self, value: Value, data: Tensor) -> None:
        value.const, value.index = data, self.graph._constant_count
        self.graph._constant_count += 1
        self.graph._constants[value.name] = value

    def node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[tuple[str, Type]],
        attrs: Mapping[str, Attr] | None = None,
        *,
        domain: str = "",
        name: str = "",
        region: Region | None = None,
        before: Node | None = None,
    ) -> Node:
        """A new node at the end of ``region`` (the root by default) or before ``before``."""
        node = Node(op, domain, name)
        if attrs:
            node._attrs = MappingProxyType(dict(attrs))
        node._outputs = tuple([self._value(name, type, node, i) for i, (name, type) in enumerate(outputs)])
        node._inputs = tuple(inputs)
        for index, value in enumerate(inputs):
            if value is not None:
                value._uses[Use(node, index)] = None
        (self.graph.body if region is None else region)._insert(node, before)
        return node

    def region(self, node: Node, attr: str, name: str = "") -> Region:
        """A new, empty region of ``node``."""
        region = Region(name or attr, node)
        node._regions = MappingProxyType({**node._regions, attr: region})
        return region

    def outputs(self, values: Sequence[Value], region: Region | None = None) -> None:
        """Adds outputs to ``region``; for the root give ``graph.output_names`` too."""
        region = self.graph.body if region is None else region
        for index, value in enumerate(values, len(region.outputs)):
            region.outputs.append(value)
            value._uses[Use(region, index)] = None

    def _value(self, name: str, type: Type, owner: Node | Region | None, index: int) -> Value:
        value = Value(self.graph.fresh_name(name), type, owner, index)
        self.graph._values[value.name] = value
        return value


def copy_graph(source: Graph) -> Graph:
    """A deep copy that shares only constant data, which is immutable."""
    target = Graph(source.name)
    target.opset, target.metadata = dict(source.opset), dict(source.metadata)
    target.doc, target.producer = source.doc, source.producer
    target.model_domain, target.model_version = source.model_domain, source.model_version
    target.output_names, target.unverifiable = list(source.output_names), source.unverifiable
    target._counters = dict(source._counters)
    builder = Builder(target)
    mapping: dict[Value, Value] = {}
    for value in source.constants.values():
        assert value.const is not None
        mapping[value] = _like(value, builder.constant(value.const, value.name))
    copy_region(source.body, target.body, builder, mapping)
    return target


def copy_region(source: Region, target: Region, builder: Builder, mapping: dict[Value, Value]) -> None:
    """Fills the empty region ``target`` with a copy of ``source``.

    ``mapping`` gives the copies of values from outside (a missing one stands for itself) and
    receives those of the values inside.
    """
    target.metadata, target.doc, target.name = source.metadata, source.doc, source.name
    for value in source.inputs:
        if value not in mapping:
            mapping[value] = _like(value, builder.input(value.name, value.type, target))
    for node in source:
        copy_node(node, builder, mapping, region=target)
    builder.outputs([mapping.get(v, v) for v in source.outputs], target)


def copy_node(
    source: Node,
    builder: Builder,
    mapping: dict[Value, Value],
    *,
    region: Region | None = None,
    before: Node | None = None,
) -> Node:
    """A copy of a node and its regions, placed as by :meth:`Builder.node`; ``mapping`` as for
    :func:`copy_region`."""
    copy = builder.node(
        source.op,
        [None if v is None else mapping.get(v, v) for v in source.inputs],
        [(v.name, v.type) for v in source.outputs],
        source.attrs,
        domain=source.domain,
        name=source.name,
        region=region,
        before=before,
    )
    copy.metadata, copy.doc, copy.origin = source.metadata, source.doc, source.origin
    for old, new in zip(source.outputs, copy.outputs, strict=True):
        mapping[old] = _like(old, new)
    for attr, inner in source.regions.items():
        copy_region(inner, builder.region(copy, attr), builder, mapping)
    return copy


def _like(source: Value, copy: Value) -> Value:
    copy.type, copy.metadata, copy.doc, copy.const = source.type, source.metadata, source.doc, source.const
    return copy
