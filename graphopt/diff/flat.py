"""A graph as the diff sees it: operations and the links between them, without names and order.

Everything that has users or operands is an item: inputs and outputs of the graph, nodes, and what a
loop hands to its body. Fused regions are transparent: a node in one is linked to what the region
reads and to who reads the region, so how nodes are grouped does not bear on how they are matched.
Nodes in If, Loop and Scan are linked to what they use from outside, and what a body gives is an
operand of the node that holds it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Union

from graphopt.ir.graph import Graph, Node, Region, Value
from graphopt.ir.types import Type


class Kind(Enum):
    """What an item stands for."""

    INPUT = "input"
    OUTPUT = "output"
    PARAM = "parameter"
    NODE = "node"


class Port(NamedTuple):
    """An output of an item."""

    item: int
    out: int


class Link(NamedTuple):
    """A use of an item's output: which output, by whom, as which operand."""

    out: int
    user: int
    slot: int


Operand = Union[Port, Value, None]
"""A port, a constant of the graph, or nothing."""


@dataclass(slots=True, eq=False)
class Item:
    """One vertex; ``index`` is its place in :attr:`Flat.items`, where operands come before their users.

    Attributes:
        owner: the node; for a parameter the node whose body has it; None for inputs and outputs of the graph.
        region: where it stands.
        slot: which input, output or parameter.
        attr: the body that a parameter belongs to.
        operands: inputs of the node, then what its bodies give; for a parameter those of its owner.
        own: how many operands are the node's own inputs.
    """

    index: int
    kind: Kind
    owner: Node | None
    region: Region
    operands: list[Operand]
    types: tuple[Type, ...] = ()
    values: tuple[Value, ...] = ()
    slot: int = 0
    attr: str = ""
    own: int = 0
    links: list[Link] = field(default_factory=list)


class Flat:
    """The items of a graph.

    Attributes:
        items: in an order in which operands come first, and a node after what its bodies hold.
        of_node: the item of each node that is not a fused region.
        params: the parameters of a node's bodies.
        fused: the fused regions, in program order.
        source: where a value really comes from, fused regions seen through.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.items: list[Item] = []
        self.of_node: dict[Node, Item] = {}
        self.params: dict[Node, list[Item]] = {}
        self.fused: list[Node] = []
        self.source: dict[Value, Operand] = {}
        self.inputs = [self._input(value, index) for index, value in enumerate(graph.inputs)]
        self._region(graph.body)
        self.outputs = [
            self._add(Kind.OUTPUT, None, graph.body, [self._port(value)], slot=index)
            for index, value in enumerate(graph.outputs)
        ]
        for item in self.items:
            for slot, operand in enumerate(item.operands):
                if isinstance(operand, Port):
                    self.items[operand.item].links.append(Link(operand.out, item.index, slot))

    def _add(
        self, kind: Kind, owner: Node | None, region: Region, operands: list[Operand], *, slot: int = 0
    ) -> Item:
        item = Item(len(self.items), kind, owner, region, operands, slot=slot)
        self.items.append(item)
        return item

    def _input(self, value: Value, index: int) -> Item:
        item = self._add(Kind.INPUT, None, self.graph.body, [], slot=index)
        self._define(item, (value,))
        return item

    def _define(self, item: Item, values: tuple[Value, ...]) -> None:
        item.values, item.types = values, tuple([value.type for value in values])
        for out, value in enumerate(values):
            self.source[value] = Port(item.index, out)

    def _port(self, value: Value | None) -> Operand:
        return value if value is None or value.is_constant else self.source.get(value)

    def _region(self, region: Region) -> None:
        for node in region:
            operands = [self._port(value) for value in node.inputs]
            if node.is_fused:
                self._fused(node, operands)
                continue
            while operands and operands[-1] is None:
                operands.pop()  # Absent inputs at the end are the same as none.
            own = len(operands)
            if node.regions:
                self._bodies(node, operands)
            item = self._add(Kind.NODE, node, region, operands)
            item.own = own
            self.of_node[node] = item
            self._define(item, node.outputs)

    def _fused(self, node: Node, operands: list[Operand]) -> None:
        self.fused.append(node)
        body = node.body
        for index, value in enumerate(body.inputs):
            self.source[value] = operands[index] if index < len(operands) else None
        self._region(body)
        for value, given in zip(node.outputs, body.outputs, strict=False):
            self.source[value] = self._port(given)

    def _bodies(self, node: Node, operands: list[Operand]) -> None:
        entering = list(operands)
        for attr, region in sorted(node.regions.items()):
            for slot, value in enumerate(region.inputs):
                item = self._add(Kind.PARAM, node, region, entering, slot=slot)
                item.attr = attr
                self._define(item, (value,))
                self.params.setdefault(node, []).append(item)
            self._region(region)
            operands += [self._port(value) for value in region.outputs]
