"""Single changes of a graph, each of which returns what undoes it.

They keep names, uses and links together, but judge nothing and tell nobody: a
:class:`~graphopt.ir.rewriter.Rewriter` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from graphopt.ir.graph import Attr, Graph, Node, Region, Use, Value
from graphopt.ir.types import Type

Undo = Callable[[], None]


def inserted(graph: Graph, node: Node) -> Undo:
    """What takes a new node, and all inside it, away again."""

    def undo() -> None:
        assert node.parent is not None
        for use, value in _uses_made_by(node):
            value._uses.pop(use, None)
        node.parent._remove(node)
        for value in _values_of(node):
            graph._values.pop(value.name, None)

    return undo


def erase(graph: Graph, node: Node) -> Undo:
    """Takes a node whose outputs are unused out of its region, with all inside it."""
    region, following, uses = node.parent, node._next, _uses_made_by(node)
    assert region is not None
    values = list(_values_of(node))
    inner = [n for r in node.regions.values() for n in _nodes_in(r)]
    region._remove(node)
    for gone in inner:
        gone._erased = True
    for use, value in uses:
        value._uses.pop(use, None)
    for value in values:
        graph._values.pop(value.name, None)

    def undo() -> None:
        region._insert(node, following)
        for gone in inner:
            gone._erased = False
        for use, value in uses:
            value._uses[use] = None
        for value in values:
            graph._values[value.name] = value

    return undo


def move(node: Node, before: Node) -> Undo:
    """Puts a node in its region to the place before another."""
    region, following = node.parent, node._next
    assert region is not None

    def put(place: Node | None) -> None:
        region._remove(node)
        region._insert(node, place)

    put(before)
    return lambda: put(following)


def set_inputs(node: Node, inputs: Sequence[Value | None]) -> Undo:
    """Gives a node other inputs."""
    old = node.inputs

    def assign(values: tuple[Value | None, ...]) -> None:
        for index, value in enumerate(node.inputs):
            if value is not None:
                value._uses.pop(Use(node, index), None)
        node._inputs = values
        for index, value in enumerate(values):
            if value is not None:
                value._uses[Use(node, index)] = None

    assign(tuple(inputs))
    return lambda: assign(old)


def set_use(use: Use, new: Value) -> Undo:
    """Makes one use of a value one of ``new``."""
    user, index = use
    old = user.inputs[index] if isinstance(user, Node) else user.outputs[index]
    assert old is not None

    def assign(value: Value, previous: Value) -> None:
        if isinstance(user, Node):
            user._inputs = (*user._inputs[:index], value, *user._inputs[index + 1 :])
        else:
            user.outputs[index] = value
        previous._uses.pop(use, None)
        value._uses[use] = None

    assign(new, old)
    return lambda: assign(old, new)


def set_attrs(node: Node, attrs: Mapping[str, Attr]) -> Undo:
    """Gives a node other attributes."""
    old = node.attrs

    def assign(held: Mapping[str, Attr]) -> None:
        node._attrs = held

    assign(MappingProxyType(dict(attrs)))
    return lambda: assign(old)


def set_type(value: Value, type: Type) -> Undo:
    """Gives a value another type."""
    old = value.type

    def assign(held: Type) -> None:
        value.type = held

    assign(type)
    return lambda: assign(old)


def rename(graph: Graph, value: Value, name: str) -> Undo:
    """Gives a value a name that is free."""
    old = value.name

    def assign(text: str) -> None:
        graph._values.pop(value.name, None)
        if value.is_constant:
            graph._constants.pop(value.name, None)
            graph._constants[text] = value
            graph._constants_in_order = False
        value.name = text
        graph._values[text] = value

    assign(name)
    return lambda: assign(old)


def added_constant(graph: Graph, value: Value) -> Undo:
    """What takes a new constant away again."""

    def undo() -> None:
        graph._constants.pop(value.name, None)
        graph._values.pop(value.name, None)

    return undo


def erase_constant(graph: Graph, value: Value) -> Undo:
    """Takes an unused constant out of the graph."""
    added_constant(graph, value)()

    def undo() -> None:
        graph._constants[value.name] = graph._values[value.name] = value
        graph._constants_in_order = False

    return undo


def _values_of(node: Node) -> Iterator[Value]:
    """What ``node`` and all inside it define."""
    yield from node.outputs
    for region in node.regions.values():
        yield from region.inputs
        for inner in region:
            yield from _values_of(inner)


def _nodes_in(region: Region) -> Iterator[Node]:
    for node in region:
        yield node
        for inner in node.regions.values():
            yield from _nodes_in(inner)


def _uses_made_by(node: Node) -> list[tuple[Use, Value]]:
    """Uses that ``node`` and all inside it make."""
    found = [(Use(node, i), v) for i, v in enumerate(node.inputs) if v is not None]
    for region in node.regions.values():
        found += [(Use(region, i), v) for i, v in enumerate(region.outputs)]
        for inner in region:
            found += _uses_made_by(inner)
    return found
