"""Prints graphs as ``.gir`` text; :mod:`graphopt.ir.parser` reads it back to an equal graph.

::

    gir 1
    graph "resnet" opset 26 {
      input %x: f32[N, 3, 224, 224]
      const %w: f32[64, 3, 7, 7] = #8f14e45fceea167a
      const %b: f32[2] = [0.5, 1.0]
      %y: f32[N, 64, 112, 112] = Conv(%x, %w, %b) {pads = [3, 3, 3, 3], strides = [2, 2]} "conv1"
      return %y as "output"
    }
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from graphopt.errors import TextError
from graphopt.ir.graph import Attr, Graph, Node, RefAttr, Region, TypeAttr, Value
from graphopt.ir.literals import (
    format_data,
    format_float,
    format_name,
    format_operator,
    format_word,
    quote,
    quote_bytes,
)
from graphopt.ir.sidecar import Sidecar
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import Type

FORMAT = 1
_INDENT = "  "


def print_graph(graph: Graph, *, sidecar: Sidecar | None = None) -> str:
    """The text of a graph.

    Args:
        sidecar: takes up the constants that are too large for the text, which shows their hashes.
    """
    return Printer(sidecar).graph(graph)


class Printer:
    """Collects lines; :attr:`places` says at which line each node begins (from 0).

    ``lenient``: attributes of a kind that does not exist are shown somehow, for messages about them.
    """

    def __init__(self, sidecar: Sidecar | None, *, lenient: bool = False) -> None:
        self.sidecar = sidecar
        self.lenient = lenient
        self.lines: list[str] = []
        self.places: dict[Node, int] = {}
        self._types: dict[Type, str] = {}

    def graph(self, graph: Graph) -> str:
        """The whole text."""
        self.lines.append(f"gir {FORMAT}")
        self.lines.append(f"graph {quote(graph.name)} opset {graph.opset['']} {{")
        self._header(graph)
        for value in graph.body.inputs:
            default = "" if value.const is None else f" = {self._data(value.const)}"
            self.lines.append(f"{_INDENT}input {self._definition(value)}{default}")
        for value in graph.constants.values():
            if value.const is not None:
                self.lines.append(f"{_INDENT}const {self._definition(value)} = {self._data(value.const)}")
        for node in graph.body:
            self.node(node, 1)
        names = [f" as {quote(name)}" for name in graph.output_names]
        names += [""] * (len(graph.body.outputs) - len(names))
        outputs = [format_name(v.name) + n for v, n in zip(graph.body.outputs, names, strict=False)]
        self.lines += [f"{_INDENT}return {', '.join(outputs)}".rstrip(), "}", ""]
        return "\n".join(self.lines)

    def _header(self, graph: Graph) -> None:
        lines = [f"opset {quote(domain)} {version}" for domain, version in graph.opset.items() if domain]
        if graph.unverifiable:
            lines.append(f"unverifiable {', '.join(map(quote, graph.unverifiable))}")
        if graph.producer != ("", ""):
            lines.append(f"producer {quote(graph.producer[0])} {quote(graph.producer[1])}")
        if graph.model_domain or graph.model_version:
            lines.append(f"model {quote(graph.model_domain)} {graph.model_version}")
        about = _about(graph.metadata, graph.doc)
        if about:
            lines.append(f"about{about}")
        body = graph.body
        about = _about(body.metadata, body.doc)
        if body.name != graph.name or about:
            lines.append(f"body {quote(body.name)}{about}")
        self.lines += [_INDENT + line for line in lines]

    def node(self, node: Node, depth: int) -> None:
        """Appends the lines of a node."""
        self.places[node] = len(self.lines)
        inputs = ", ".join("_" if v is None else format_name(v.name) for v in node.inputs)
        text = ", ".join(map(self._definition, node.outputs))
        text = (
            f"{_INDENT * depth}{text}{' ' if text else ''}= {format_operator(node.domain, node.op)}({inputs})"
        )
        if node.attrs:
            attrs = [f"{format_word(name)} = {self.attr(value)}" for name, value in node.attrs.items()]
            text += f" {{{', '.join(attrs)}}}"
        if node.name:
            text += f" {quote(node.name)}"
        if node.origin:
            text += f" from {', '.join(map(quote, node.origin))}"
        text += _about(node.metadata, node.doc)
        for attr, region in node.regions.items():
            text += f" {self._region_head(attr, region)} {{"
            self.lines.append(text)
            for inner in region:
                self.node(inner, depth + 1)
            outputs = ", ".join(format_name(v.name) for v in region.outputs)
            self.lines.append(f"{_INDENT * (depth + 1)}return {outputs}".rstrip())
            text = f"{_INDENT * depth}}}"
        self.lines.append(text)

    def _region_head(self, attr: str, region: Region) -> str:
        name = f" {quote(region.name)}" if region.name != attr else ""
        inputs = ", ".join(map(self._definition, region.inputs))
        return f"do {format_word(attr)}{name}{_about(region.metadata, region.doc)}({inputs})"

    def _definition(self, value: Value) -> str:
        type = self._types.get(value.type)
        if type is None:
            type = self._types[value.type] = str(value.type)
        text = f"{format_name(value.name)}: {type}"
        return text + _about(value.metadata, value.doc) if value.metadata or value.doc else text

    def _data(self, tensor: Tensor) -> str:
        text = format_data(tensor)
        if text is None:
            text = f"#{self.sidecar.add(tensor) if self.sidecar is not None else tensor.digest}"
        return text

    def attr(self, value: Attr | object) -> str:
        """The text of an attribute's value.

        Raises:
            TextError: it is of a kind that no attribute has.
        """
        match value:
            case bool():
                pass
            case int():
                return str(int(value))
            case float():
                return format_float(value)
            case str():
                return quote(value)
            case bytes():
                return quote_bytes(value)
            case Tensor():
                return f"tensor({value.type}, {self._data(value)})"
            case TypeAttr():
                return f"type({value.type})"
            case RefAttr():
                return f"ref({quote(value.name)}, {quote(value.kind)})"
            case tuple():
                return f"[{', '.join(map(self.attr, value))}]"
        if self.lenient:
            return f"<{type(value).__name__}>"
        raise TextError(f"an attribute can't hold a {type(value).__name__}: {value!r}")


def _about(metadata: Mapping[str, str], doc: str) -> str:
    text = f" doc {quote(doc)}" if doc else ""
    if metadata:
        pairs = (f"{quote(key)}: {quote(value)}" for key, value in metadata.items())
        text += f" meta {{{', '.join(pairs)}}}"
    return text


def excerpt(nodes: Iterable[Node], *, around: int = 2, mark: str = ">") -> str:
    """The first lines of ``nodes``, marked, with the lines before and after each."""
    printer = Printer(None, lenient=True)
    lines: list[str] = []
    for node in dict.fromkeys(nodes):
        before, after = _neighbours(node, around)
        for neighbour in (*before, node, *after):
            start = len(printer.lines)
            printer.node(neighbour, 0)
            lines.append(f"{mark if neighbour is node else ' '} {printer.lines[start]}")
    return "\n".join(lines)


def _neighbours(node: Node, around: int) -> tuple[list[Node], list[Node]]:
    before: list[Node] = []
    after: list[Node] = []
    at = node._prev
    while at is not None and len(before) < around:
        before.insert(0, at)
        at = at._prev
    at = node._next
    while at is not None and len(after) < around:
        after.append(at)
        at = at._next
    return before, after
