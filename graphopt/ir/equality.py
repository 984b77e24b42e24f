"""Structural equality of graphs, with the path of the first difference."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from graphopt.ir.graph import Graph, Node, RefAttr, Region, TypeAttr, Value
from graphopt.ir.tensor import Tensor


def graphs_equal(a: Graph, b: Graph, *, names: bool = True) -> str | None:
    """None when the graphs are equal, else where they first differ and how.

    Args:
        names: internal names of values and nodes, provenance and documentation count too; else only
            structure, types, attributes, constants, and the names of the graph's inputs and outputs.
    """
    return _Comparison(names).graphs(a, b)


class _Comparison:
    def __init__(self, names: bool) -> None:
        self.names = names
        self.partner: dict[Value, Value] = {}

    def graphs(self, a: Graph, b: Graph) -> str | None:
        fields = ["output_names"]
        if self.names:
            fields += [
                "name",
                "opset",
                "unverifiable",
                "metadata",
                "doc",
                "producer",
                "model_domain",
                "model_version",
            ]
        for field in fields:
            if getattr(a, field) != getattr(b, field):
                return f"{field}: {getattr(a, field)!r} and {getattr(b, field)!r}"
        if self.names:
            difference = self._constants(a, b)
            if difference:
                return difference
        for x, y in zip(a.inputs, b.inputs, strict=False):
            if x.name != y.name:
                return f"inputs: %{x.name} and %{y.name}"
        return self.regions(a.body, b.body, "body")

    def _constants(self, a: Graph, b: Graph) -> str | None:
        if len(a.constants) != len(b.constants):
            extra = sorted(set(a.constants) ^ set(b.constants))
            return f"constants: {len(a.constants)} and {len(b.constants)}, not in both: {extra[:3]}"
        for x, y in zip(a.constants.values(), b.constants.values(), strict=True):
            difference = self.define(x, y, f"constant %{x.name}")
            if difference:
                return difference
        return None

    def regions(self, a: Region, b: Region, path: str) -> str | None:
        if self.names and (a.name, a.metadata, a.doc) != (b.name, b.metadata, b.doc):
            return f"{path}: name, metadata or doc"
        for what, xs, ys in (("inputs", a.inputs, b.inputs), ("outputs", a.outputs, b.outputs)):
            if len(xs) != len(ys):
                return f"{path}: {len(xs)} and {len(ys)} {what}"
        difference = self._definitions(zip(a.inputs, b.inputs, strict=True), f"{path} input")
        if difference:
            return difference
        nodes_a, nodes_b = a.nodes, b.nodes
        for index, (x, y) in enumerate(zip(nodes_a, nodes_b, strict=False)):
            difference = self.nodes(x, y, f"{path}/{index} {x.label}")
            if difference:
                return difference
        if len(nodes_a) != len(nodes_b):
            longer, shorter = sorted((nodes_a, nodes_b), key=len, reverse=True)
            extra = longer[len(shorter)].label
            return f"{path}: {len(nodes_a)} and {len(nodes_b)} nodes, the first without a partner is {extra}"
        return self._uses(a.outputs, b.outputs, f"{path} output")

    def nodes(self, a: Node, b: Node, path: str) -> str | None:
        if a.op_type != b.op_type:
            return f"{path}: operator {a.op_type} and {b.op_type}"
        if self.names:
            for field in ("name", "metadata", "doc", "origin"):
                if getattr(a, field) != getattr(b, field):
                    return f"{path}: {field} {getattr(a, field)!r} and {getattr(b, field)!r}"
        difference = self._uses(a.inputs, b.inputs, f"{path} input")
        if difference:
            return difference
        keys_a, keys_b = (list(attrs) if self.names else sorted(attrs) for attrs in (a.attrs, b.attrs))
        if keys_a != keys_b:
            return f"{path}: attributes {keys_a} and {keys_b}"
        for name, value in a.attrs.items():
            if not attrs_equal(value, b.attrs[name]):
                return f"{path}: attribute {name} is {value!r} and {b.attrs[name]!r}"
        if len(a.outputs) != len(b.outputs):
            return f"{path}: {len(a.outputs)} and {len(b.outputs)} outputs"
        if list(a.regions) != list(b.regions):
            return f"{path}: regions {list(a.regions)} and {list(b.regions)}"
        for name, region in a.regions.items():
            difference = self.regions(region, b.regions[name], f"{path}.{name}")
            if difference:
                return difference
        return self._definitions(zip(a.outputs, b.outputs, strict=True), f"{path} output")

    def _definitions(self, pairs: Iterable[tuple[Value, Value]], path: str) -> str | None:
        for index, (x, y) in enumerate(pairs):
            difference = self.define(x, y, f"{path} {index}")
            if difference:
                return difference
        return None

    def define(self, a: Value, b: Value, path: str) -> str | None:
        self.partner[a] = b
        if a.type != b.type:
            return f"{path}: type {a.type} and {b.type}"
        if self.names and (a.name, a.metadata, a.doc) != (b.name, b.metadata, b.doc):
            return f"{path}: %{a.name} and %{b.name}, or their metadata or doc"
        if (a.const is None) != (b.const is None):
            return f"{path}: one has no data"
        if a.const is not None and b.const is not None and not a.const.same(b.const):
            return f"{path}: data {a.const.digest} and {b.const.digest}"
        return None

    def _uses(self, xs: Sequence[Value | None], ys: Sequence[Value | None], path: str) -> str | None:
        if len(xs) != len(ys):
            return f"{path}s: {len(xs)} and {len(ys)}"
        for index, (x, y) in enumerate(zip(xs, ys, strict=True)):
            if x is None or y is None:
                if x is not y:
                    return f"{path} {index}: one is absent"
                continue
            if x not in self.partner and x.is_constant and y.is_constant:
                difference = self.define(x, y, f"{path} {index}")
                if difference:
                    return difference
            if self.partner.get(x) is not y:
                return f"{path} {index}: %{x.name} and %{y.name}"
        return None


def attrs_equal(a: object, b: object) -> bool:
    """Whether two attribute values are equal to the last bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.same(b)
    if isinstance(a, TypeAttr | RefAttr):
        return a == b
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(attrs_equal, a, b))
    return a == b
