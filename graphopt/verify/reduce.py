"""Cutting a small graph out of a large one, with the values at its border captured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir.builder import Builder, copy_graph, copy_node
from graphopt.ir.captures import operands
from graphopt.ir.graph import Graph, Node, Region, Value
from graphopt.ir.transaction import EventKind, Transaction
from graphopt.verify.check import Checker, Mismatch
from graphopt.verify.expressions import is_native

Sample = tuple[Graph, dict[str, Any]]
_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24)


def reduced(
    graph: Graph,
    transaction: Transaction,
    mismatches: Sequence[Mismatch],
    checker: Checker,
    fails: Callable[[Sample], bool],
) -> Sample | None:
    """The smallest part of ``graph`` that fails, as read back from ONNX, with its inputs.

    Parts grow backwards from what ``transaction`` replaced, then to the whole graph.

    Args:
        graph: before the transaction.
        checker: has its values.
        fails: whether a graph fails with these inputs.
    """
    from graphopt import onnx_io

    ids = checker.number(graph)
    sample = mismatches[0].sample if mismatches else 0
    known = {value: ids[value] for value in ids}
    for part in _parts(graph, transaction, mismatches, ids):
        try:
            cut = cut_out(part, graph)
            arrays = {}
            for value, name in cut.border:
                number = known[value]
                checker.values.evaluate([number])
                arrays[name] = np.asarray(checker.values.of(number)[sample])
            again = onnx_io.load(onnx_io.to_proto(cut.graph))
            if fails((copy_graph(again), arrays)):
                return again, arrays
        except (GraphoptError, KeyError):
            continue
    return None


def _parts(
    graph: Graph, transaction: Transaction, mismatches: Sequence[Mismatch], ids: dict[Value, int]
) -> Iterable[list[Node]]:
    numbers = {m.pair.expected for m in mismatches}
    names: dict[str, None] = {}
    for event in transaction.events:
        # Users of a replaced value count as changed, and lie behind it.
        if event.node is not None and (event.kind is EventKind.ERASED or event.node is transaction.root):
            names.update(dict.fromkeys(value.name for value in event.node.outputs))
        if event.kind is EventKind.REPLACED and event.value is not None:
            names[event.value.name] = None
    near = [graph.value(name) for name in names if graph.has_value(name)]
    starts = [_root_node(value) for value in near]
    starts += [_root_node(value) for value, number in ids.items() if number in numbers]
    first = [node for node in dict.fromkeys(starts) if node is not None]
    whole = graph.nodes
    previous: list[Node] = []
    for steps in _STEPS:
        part = _behind(graph, first, steps)
        if part and part != previous and len(part) < len(whole):
            yield part
        previous = part
    yield whole


def _root_node(value: Value) -> Node | None:
    """The node of the root region that makes ``value``, or around it."""
    owner = value.owner
    return None if owner is None else root_node(owner)


def root_node(item: Node | Region) -> Node | None:
    """The node of the root region that is ``item``, or that holds it; None for the root region."""
    node = item if isinstance(item, Node) else item.parent
    while node is not None and node.parent is not None and node.parent.parent is not None:
        node = node.parent.parent
    return node


def _behind(graph: Graph, starts: Sequence[Node], steps: int) -> list[Node]:
    found = dict.fromkeys(starts)
    front = list(starts)
    for _ in range(steps - 1):
        front = [
            producer
            for node in front
            for value in operands(node)
            if (producer := _root_node(value)) is not None and producer not in found
        ]
        found.update(dict.fromkeys(front))
    return [node for node in graph.body if node in found]


class Cut:
    """Nodes of a graph as a graph of their own.

    Attributes:
        graph: outputs are what nodes outside read, or nothing does.
        border: for each input the value that it stands for, and its name.
    """

    def __init__(self, source: Graph) -> None:
        self.graph = Graph(source.name)
        self.graph.opset = dict(source.opset)
        self.graph.unverifiable = source.unverifiable
        self.border: list[tuple[Value, str]] = []


def cut_out(nodes: Sequence[Node], source: Graph) -> Cut:
    """The nodes, in program order of the root region, as a graph.

    Raises:
        KeyError: a value at the border is not a tensor that can be passed in.
    """
    cut = Cut(source)
    builder = Builder(cut.graph)
    inside = {value for node in nodes for value in node.outputs}
    mapping: dict[Value, Value] = {}
    wanted = [*dict.fromkeys(v for node in nodes for v in operands(node) if v not in inside)]
    names = {value for value in wanted if not value.is_constant}
    for value in [v for v in source.inputs if v in names] + [v for v in wanted if v not in source.inputs]:
        if value.is_constant and value.const is not None:
            mapping[value] = builder.constant(value.const, value.name)
        else:
            if not is_native(value.type):
                raise KeyError(value.name)
            mapping[value] = builder.input(value.name, value.type)
            cut.border.append((value, value.name))
    for node in nodes:
        copy_node(node, builder, mapping)
    members = set(nodes)
    outputs = [
        value
        for node in nodes
        for value in node.outputs
        if (not value.num_uses and value is node.outputs[0])
        or any(root_node(use.user) not in members for use in value.uses)
    ]
    builder.outputs([mapping[value] for value in outputs])
    cut.graph.output_names = [mapping[value].name for value in outputs]
    return cut
