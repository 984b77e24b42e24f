"""Graphs cut into pieces that can be compiled and run by themselves.

A piece reads, in place of what nodes outside of it compute, inputs of the new graph; so a fault of one
piece does not reach another. What decides shapes when code is made (small integers, and what constants alone
decide) is computed inside of every piece, as it is in the whole graph. Where channels lie in blocks in
memory, an Identity converts from row-major order and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphopt.bisect.row_major import plain_type
from graphopt.ir.builder import Builder, copy_node
from graphopt.ir.captures import operands
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import Type
from graphopt.verify.reduce import root_node


@dataclass
class Pieces:
    """A graph of detached pieces.

    Attributes:
        graph: its inputs are those of the source, then ``border``.
        border: for each further input the value that it stands for.
        results: for each output the value that it is, and the place of its piece.
        copies: for each piece its nodes in ``graph``.
    """

    graph: Graph
    border: list[Value] = field(default_factory=list)
    results: list[tuple[Value, int]] = field(default_factory=list)
    copies: list[list[Node]] = field(default_factory=list)

    @property
    def names(self) -> dict[Value, str]:
        """The inputs' names of the values at the border."""
        own = self.graph.inputs[len(self.graph.inputs) - len(self.border) :]
        return {value: copy.name for value, copy in zip(self.border, own, strict=True)}


def detached(source: Graph, pieces: Sequence[Sequence[Node]]) -> Pieces:
    """The pieces, each nodes of the root region in program order, side by side in one graph.

    Outputs are the values that nodes outside of a piece read, and the graph's own.
    """
    return _Cutter(source).run(pieces)


class _Cutter:
    def __init__(self, source: Graph) -> None:
        self.source = source
        self.fixed = _fixed(source)
        graph = Graph(source.name)
        graph.opset, graph.unverifiable = dict(source.opset), source.unverifiable
        graph.metadata = dict(source.metadata)
        self.made = Pieces(graph)
        self.builder = Builder(graph)
        self.shared: dict[Value, Value] = {}
        for value in source.inputs:
            self.shared[value] = self.builder.input(value.name, value.type)

    def run(self, pieces: Sequence[Sequence[Node]]) -> Pieces:
        outputs: list[Value] = []
        for place, nodes in enumerate(pieces):
            inside = {value for node in nodes for value in node.outputs}
            mapping: dict[Value, Value] = {}
            copies = []
            for node in nodes:
                for value in operands(node):
                    if value not in mapping and value not in inside:
                        mapping[value] = self._outside(value)
                copies.append(copy_node(node, self.builder, mapping))
            self.made.copies.append(copies)
            members = set(nodes)
            for value in (value for node in nodes for value in node.outputs):
                if any(root_node(use.user) not in members for use in value.uses):
                    outputs.append(self._row_major(mapping[value]))
                    self.made.results.append((value, place))
        self.builder.outputs(outputs)
        self.made.graph.output_names = [f"r{index}" for index in range(len(outputs))]
        return self.made

    def _outside(self, value: Value) -> Value:
        if value in self.shared:
            return self.shared[value]
        producer = value.producer
        if value.const is not None:
            self.shared[value] = self.builder.constant(value.const, value.name)
        elif producer is not None and value in self.fixed:
            mapping = {operand: self._outside(operand) for operand in operands(producer)}
            copy_node(producer, self.builder, mapping)
            self.shared.update({output: mapping[output] for output in producer.outputs})
        else:
            given = self.builder.input(value.name, plain_type(value.type))
            self.made.border.append(value)
            blocked = value.tensor.layout is not None
            self.shared[value] = self._identity(given, value.type) if blocked else given
        return self.shared[value]

    def _row_major(self, value: Value) -> Value:
        return self._identity(value, plain_type(value.type)) if value.tensor.layout is not None else value

    def _identity(self, value: Value, type: Type) -> Value:
        return self.builder.node("Identity", [value], [(value.name, type)]).output


def _fixed(source: Graph) -> set[Value]:
    """What code generation may have to know: results of constants alone, and integers of at most one axis."""
    found: set[Value] = set()
    for node in source.body:
        constant = all(value.is_constant or value in found for value in operands(node))
        for value in node.outputs:
            dtype, rank = value.tensor.dtype, value.tensor.rank
            small = dtype is not None and dtype.is_integer and rank is not None and rank <= 1
            if (constant and not node.regions) or (small and not node.is_fused):
                found.add(value)
    return found
