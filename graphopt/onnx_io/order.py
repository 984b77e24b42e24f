"""The order of nodes in a model file: checked, and mended where it is only unsorted."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from graphopt.errors import ModelError

if TYPE_CHECKING:
    import onnx


def node_label(node: onnx.NodeProto) -> str:
    """How messages name a node of a model file."""
    name = node.name or next((output for output in node.output if output), "")
    op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return f'{op} "{name}"' if name else op


def ordered_nodes(
    nodes: Sequence[onnx.NodeProto], given: Iterable[str], where: str
) -> Sequence[onnx.NodeProto]:
    """``nodes`` so that each comes after those it uses; a sorted list comes back as it is.

    ``given`` are the names defined before the first node (inputs and initializers).

    Raises:
        ModelError: a name is defined twice, or the nodes form a cycle.
    """
    producer: dict[str, int] = dict.fromkeys(given, -1)
    for index, node in enumerate(nodes):
        for name in node.output:
            if name in producer and name:
                raise ModelError(
                    f'{node_label(node)} in {where} defines "{name}", which is defined before',
                    hint="ONNX graphs are in single-assignment form: give every value a name of its own",
                )
            producer[name] = index
    producer.pop("", None)
    needed = [sorted({producer[n] for n in _used(node) if n in producer}) for node in nodes]
    if all(not before or before[-1] < index for index, before in enumerate(needed)):
        return nodes
    return _sorted(nodes, needed, where)


def _sorted(nodes: Sequence[onnx.NodeProto], needed: list[list[int]], where: str) -> list[onnx.NodeProto]:
    users: list[list[int]] = [[] for _ in nodes]
    missing = [0] * len(nodes)
    for index, before in enumerate(needed):
        for other in before:
            if other >= 0:
                users[other].append(index)
                missing[index] += 1
    ready = [index for index, count in enumerate(missing) if count == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            missing[user] -= 1
            if missing[user] == 0:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        stuck = next(index for index, count in enumerate(missing) if count)
        raise ModelError(
            f"{node_label(nodes[stuck])} in {where} is part of a cycle or comes after one",
            hint="a value must not depend on itself; use Loop or Scan for recurrence",
        )
    return [nodes[index] for index in order]


def _used(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == attribute.GRAPH:
            yield from _free(attribute.g)


def _free(graph: onnx.GraphProto) -> Iterator[str]:
    own = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        own.update(node.output)
    for node in graph.node:
        yield from (name for name in _used(node) if name not in own)
    yield from (info.name for info in graph.output if info.name not in own)
