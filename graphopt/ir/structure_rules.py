"""Rules about the structure of a graph: names, uses, links, places, constants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.ir.graph import Graph, Node, Region, Use, Value, dominates
from graphopt.ir.types import TensorType, Type


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken invariant: the rule, what is wrong, and the nodes to show."""

    rule: str
    message: str
    nodes: tuple[Node, ...] = ()


def graph_faults(graph: Graph) -> Iterator[Fault]:
    """Faults in the names of the outputs and the root."""
    names = graph.output_names
    if len(names) != len(graph.body.outputs):
        yield Fault("outputs", f"{len(graph.body.outputs)} outputs have {len(names)} names")
    elif len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        yield Fault("outputs", f'two outputs have the name "{twice}"')
    if graph.body.parent is not None:
        yield Fault("order", "the root region has a parent")


def constant_problem(graph: Graph, value: Value) -> str | None:
    """What is wrong with a constant: its data, its type, its place in the table."""
    data = value.const
    if data is None or value.owner is not None:
        return "has no data" if data is None else "belongs to a node or region"
    if graph._constants.get(value.name) is not value:
        return "stands under another name"
    type = value.type
    if not isinstance(type, TensorType) or type.dtype is not data.dtype or type.shape != data.shape:
        return f"has type {type}, its data {data.type}"
    return None


def region_faults(graph: Graph, region: Region) -> Iterator[Fault]:
    """Faults in the inputs and outputs of a region."""
    where = region_label(region)
    nodes = (region.parent,) if region.parent is not None else ()
    for index, value in enumerate(region.inputs):
        problem = value_problem(graph, value)
        if value.owner is not region or value.index != index:
            problem = f"is not its input {index}"
        if problem is None and not region.is_isolated and _has_layout(value.type):
            problem = f"comes from outside, where channels lie in rows: {value.type}"
        if problem:
            yield Fault("inputs", f"{where}: input %{value.name} {problem}", nodes)
    for index, value in enumerate(region.outputs):
        if graph._values.get(value.name) is not value:
            yield Fault("names", f"{where}: output %{value.name} is not in the graph", nodes)
        elif Use(region, index) not in value._uses:
            yield Fault("uses", f"{where}: output %{value.name} does not know this use", nodes)
        elif not visible_at_end(value, region):
            yield Fault("dominance", f"{where}: output %{value.name} is not visible there", nodes)
        elif not region.is_isolated and _has_layout(value.type):
            yield Fault(
                "layouts", f"{where}: output %{value.name} has channels in blocks: {value.type}", nodes
            )


def region_label(region: Region) -> str:
    """How messages name a region."""
    if region.parent is None:
        return "the graph"
    name = next((name for name, r in region.parent.regions.items() if r is region), region.name)
    return f"{region.parent.label}, region {name}"


def visible_at_end(value: Value, region: Region) -> bool:
    """Whether ``value`` can be an output of ``region``."""
    if value.owner is region:
        return True
    producer = value.producer
    if producer is not None and producer.parent is region:
        return not producer.erased
    if region.is_isolated:
        return False
    return value.is_constant if region.parent is None else dominates(value, region.parent)


def chain_problem(region: Region) -> str | None:
    """What is wrong with the links and places of the nodes of a region."""
    count, before, node = 0, None, region._first
    while node is not None:
        count += 1
        if count > region._count:
            return f"it counts {region._count} nodes, but holds more"
        if node._prev is not before or node.parent is not region or node._erased:
            return f"{node.label} is not linked in its place"
        if before is not None and before._order >= node._order:
            return f"{node.label} has no place after {before.label}"
        before, node = node, node._next
    if count != region._count or region._last is not before:
        return f"it counts {region._count} nodes, but holds {count}"
    return None


# --- values -------------------------------------------------------------------------------------


def value_problem(graph: Graph, value: Value) -> str | None:
    """What is wrong with the name of a value, its uses, or its type."""
    if graph._values.get(value.name) is not value:
        return "is not the value that the graph knows by this name"
    for user, index in value._uses:
        if user.__class__ is Node:
            slots: Sequence[Value | None] = user._inputs
            if user._erased or user.parent is None:
                return f"is used by {user.label}, which was erased"
        else:
            slots = user.outputs
        if index >= len(slots) or slots[index] is not value:
            return f"claims a use by {_user_label(user)} at {index}, which uses something else"
        if user.__class__ is Region and not visible_at_end(value, user):
            return f"is an output of {region_label(user)}, where it is not visible"
    return _type_problem(value.type)


def _type_problem(type: Type) -> str | None:
    if isinstance(type, TensorType) and type.shape is not None:
        for dim in type.shape:
            if dim.__class__ is int and dim < 0:
                return f"has a negative dimension: {type}"
    if isinstance(type, TensorType) and type.layout is not None and not _can_be_blocked(type):
        return f"has channels in blocks, but no axis 1 of known size before others: {type}"
    return None


def _has_layout(type: Type) -> bool:
    return isinstance(type, TensorType) and type.layout is not None


def _can_be_blocked(type: TensorType) -> bool:
    return type.shape is not None and len(type.shape) > 2 and isinstance(type.shape[1], int)


def _user_label(user: Node | Region) -> str:
    return user.label if isinstance(user, Node) else region_label(user)


def first_users(value: Value) -> tuple[Node, ...]:
    """The users to show in a message."""
    return value.users[:2]


def gone_faults(value: Value) -> Iterator[Fault]:
    """The fault of a value that is used after it left the graph."""
    if value._uses:
        user = next(iter(value._uses)).user
        nodes = (user,) if isinstance(user, Node) else ()
        yield Fault("uses", f"%{value.name} is not in the graph, but {_user_label(user)} uses it", nodes)
