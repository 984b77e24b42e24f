"""A graph with all that must not count made different, and small changes of all that must."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from graphopt.diff import GraphDiff
from graphopt.ir.builder import Builder, copy_node
from graphopt.ir.dims import Dim, substitute, sym, symbols
from graphopt.ir.graph import FUSED_DOMAIN, FUSED_OP, Graph, Node, Region, TypeAttr, Use, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import (
    DType,
    OptionalType,
    SequenceType,
    SparseTensorType,
    TensorType,
    Type,
    UnknownType,
)


def disguise(graph: Graph, seed: int = 0) -> Graph:
    """The same graph with other internal names and symbols, and its nodes in another order."""
    return _Disguise(graph, random.Random(seed)).done


class _Disguise:
    def __init__(self, graph: Graph, rng: random.Random) -> None:
        self.rng = rng
        self.done = Graph(self.name())
        self.done.opset, self.done.output_names = dict(graph.opset), list(graph.output_names)
        self.build = Builder(self.done)
        self.of: dict[Value, Value] = {}
        self.fixed = {name for v in graph.inputs for name in _symbols(v.type)}
        self.renamed: dict[str, Dim] = {}
        for value in graph.inputs:
            self.of[value] = self.build.input(value.name, value.type)
            assert self.of[value].name == value.name
            self.of[value].const = value.const
        constants = list(graph.constants.values())
        rng.shuffle(constants)
        for value in constants:
            assert value.const is not None
            self.of[value] = self.build.constant(value.const, self.name())
            self.of[value].type = value.type
        self.region(graph.body, self.done.body)

    def name(self) -> str:
        return f"n{self.rng.randrange(10**9)}"

    def region(self, source: Region, target: Region) -> None:
        for node in self.shuffled(source):
            attrs = [(key, self.attr(value)) for key, value in node.attrs.items()]
            self.rng.shuffle(attrs)
            copy = self.build.node(
                node.op,
                [None if v is None else self.of[v] for v in node.inputs],
                [(self.name(), self.type(v.type)) for v in node.outputs],
                dict(attrs),
                domain=node.domain,
                name=self.rng.choice(["", self.name()]),
                region=target,
            )
            for attr, region in node.regions.items():
                inner = self.build.region(copy, attr, self.name())
                for value in region.inputs:
                    self.of[value] = self.build.input(self.name(), self.type(value.type), inner)
                self.region(region, inner)
            self.of.update(zip(node.outputs, copy.outputs, strict=True))
        self.build.outputs([self.of[v] for v in source.outputs], target)

    def shuffled(self, region: Region) -> Iterator[Node]:
        """The nodes in a random order in which all come after what they use."""
        waiting = {
            node: {v.producer for v in _used(node) if v.producer and v.producer.parent is region}
            for node in region
        }
        users: dict[Node, list[Node]] = {node: [] for node in waiting}
        for node, needs in waiting.items():
            for other in needs:
                users[other].append(node)
        ready = [node for node, needs in waiting.items() if not needs]
        while ready:
            node = ready.pop(self.rng.randrange(len(ready)))
            yield node
            for user in users[node]:
                waiting[user].discard(node)
                if not waiting[user]:
                    ready.append(user)

    def attr(self, value: object) -> object:
        return TypeAttr(self.type(value.type)) if isinstance(value, TypeAttr) else value

    def type(self, type: Type) -> Type:
        match type:
            case SequenceType() | OptionalType():
                return replace(type, elem=self.type(type.elem))
            case TensorType() | SparseTensorType() if type.shape is not None:
                for name in _symbols(type):
                    if name not in self.fixed and name not in self.renamed:
                        self.renamed[name] = sym(self.name())
                return replace(type, shape=tuple(substitute(dim, self.renamed) for dim in type.shape))
        return type


def _symbols(type: Type) -> set[str]:
    match type:
        case SequenceType() | OptionalType():
            return _symbols(type.elem)
        case TensorType() | SparseTensorType():
            return {name for dim in type.shape or () for name in symbols(dim)}
    return set()


def _used(node: Node) -> Iterator[Value]:
    """What a node and the nodes in it use."""
    yield from (v for v in node.inputs if v is not None)
    for region in node.regions.values():
        yield from region.outputs
        for inner in region:
            yield from _used(inner)


# --- changes ------------------------------------------------------------------------------------


@dataclass
class Mutation:
    """One change, made in place. ``is_found`` judges a diff from the graph before to that after."""

    what: str
    is_found: Callable[[GraphDiff], bool]


def mutate(before: Graph, after: Graph, kind: str, rng: random.Random) -> Mutation | None:
    """Makes one change in ``after``, a copy of ``before``; None when the graph has no place for it."""
    return MUTATIONS[kind](before, after, rng)


def _pick(
    before: Graph, after: Graph, rng: random.Random, fits: Callable[[Node], bool]
) -> tuple[Node, Node] | None:
    """A node of ``after`` for which ``fits`` and the one that it is a copy of."""
    pairs = [(x, y) for x, y in zip(before.walk(), after.walk(), strict=True) if fits(y)]
    return rng.choice(pairs) if pairs else None


def _twins(graph: Graph, *nodes: Node) -> set[Node]:
    """The nodes that compute the same as one of ``nodes``: if that is changed, it may as well be another."""
    meaning = _meanings(graph)

    def computed(node: Node) -> tuple[object, ...]:
        return tuple(meaning[v] for v in node.outputs) or (node,)

    wanted = {computed(node) for node in nodes}
    return {node for node in graph.walk() if computed(node) in wanted}


def _only(diff: GraphDiff, nodes: set[Node], what: set[str], where: str | None = None) -> bool:
    """Whether all that a diff reports is one change of one of these nodes."""
    return (
        not (diff.added or diff.removed or diff.moved or diff.signature)
        and len(diff.changed) == 1
        and diff.changed[0].before in nodes
        and len(diff.changed[0].changes) == 1
        and diff.changed[0].changes[0].what in what
        and where in (None, diff.changed[0].changes[0].where)
    )


def attribute(before: Graph, after: Graph, rng: random.Random) -> Mutation | None:
    """Another value of an attribute."""
    found = _pick(
        before, after, rng, lambda node: any(isinstance(v, int | float) for v in node.attrs.values())
    )
    if found is None:
        return None
    old, node = found
    name, value = rng.choice([(k, v) for k, v in node.attrs.items() if isinstance(v, int | float)])
    changed = (
        value + 3 if isinstance(value, int) and value < 2**62 else -5 if isinstance(value, int) else 0.123
    )
    node._attrs = {**node.attrs, name: changed}
    return Mutation(
        f"{name} of {old.label}", lambda diff: _only(diff, _twins(before, old), {"attribute"}, name)
    )


def weight(before: Graph, after: Graph, rng: random.Random) -> Mutation | None:
    """One element of a constant."""
    pairs = [
        (x, y)
        for x, y in zip(before.constants.values(), after.constants.values(), strict=True)
        if x.users
        and x.const is not None
        and x.const.size
        and x.const.dtype not in (DType.STR, DType.BOOL)
        and not any(isinstance(use.user, Region) for use in x.uses)
    ]
    if not pairs:
        return None
    old, value = rng.choice(pairs)
    assert value.const is not None
    array = value.const.numpy().copy()
    at = rng.randrange(array.size)
    array.reshape(-1).view(np.uint8).reshape(array.size, -1)[at, 0] ^= 1
    value.const = Tensor.of(array, value.const.dtype)

    users = _twins(before, *_real_users(old))
    return Mutation(f"element {at} of %{old.name}", lambda diff: _only(diff, users, {"weight", "constant"}))


def _real_users(value: Value) -> set[Node]:
    """The users of a value, in fused regions too."""
    found: set[Node] = set()
    for use in value.uses:
        if isinstance(use.user, Node) and use.user.is_fused:
            found |= _real_users(use.user.body.inputs[use.index])
        elif isinstance(use.user, Node):
            found.add(use.user)
    return found


def edge(before: Graph, after: Graph, rng: random.Random) -> Mutation | None:
    """An operand that comes from elsewhere."""
    meaning = _meanings(after)
    places = []
    values = {v: i for i, v in enumerate(after._values.values())}
    originals = list(before._values.values())
    for old, node in zip(before.walk(), after.walk(), strict=True):
        if node.is_fused:
            continue
        for slot, value in enumerate(node.inputs):
            if value is None or value.is_constant:
                continue
            visible = [v for v in _visible(node) if meaning[v] != meaning[value] and not v.is_constant]
            places += [(old, node, slot, v) for v in visible]
    if not places:
        return None
    old, node, slot, other = rng.choice(places)
    _set_input(node, slot, other)
    assert originals[values[other]]
    return Mutation(
        f"input {slot} of {old.label}: %{originals[values[other]].name}",
        lambda diff: _only(diff, _twins(before, old), {"input", "weight", "constant"}),
    )


def _visible(node: Node) -> Iterator[Value]:
    """Values that a node may use, those of the regions around too."""
    at: Node | None = node
    while at is not None and at.parent is not None:
        yield from at.parent.inputs
        for other in at.parent:
            if other is at:
                break
            yield from other.outputs
        if at.parent.is_isolated:
            return
        at = at.parent.parent


def _meanings(graph: Graph) -> dict[Value, object]:
    """Equal for values that are computed alike, so that exchanging them changes nothing that can be seen."""
    numbers: dict[object, int] = {}
    of: dict[Value, object] = {v: ("input", v.name) for v in graph.inputs}
    for v in graph.constants.values():
        assert v.const is not None
        of[v] = (str(v.type), v.const.digest)

    def visit(region: Region, handed: list[object]) -> None:
        for index, value in enumerate(region.inputs):
            if value not in of:
                of[value] = handed[index] if region.is_isolated else ("handed", id(region), index)
        for node in region:
            inputs = [None if v is None else of[v] for v in node.inputs]
            for inner in node.regions.values():
                visit(inner, inputs)
            key = (node.op_type, repr(sorted(node.attrs.items())), repr(inputs))
            number = numbers.setdefault(key, len(numbers)) if not node.regions else -1 - len(of)
            for index, value in enumerate(node.outputs):
                of[value] = (
                    of[node.body.outputs[index]]
                    if node.is_fused and index < len(node.body.outputs)
                    else (number, index)
                )

    visit(graph.body, [])
    return of


def _set_input(node: Node, slot: int, value: Value) -> None:
    old = node.inputs[slot]
    if old is not None:
        del old._uses[Use(node, slot)]
    value._uses[Use(node, slot)] = None
    node._inputs = (*node.inputs[:slot], value, *node.inputs[slot + 1 :])


def added(before: Graph, after: Graph, rng: random.Random) -> Mutation | None:
    """A node on an edge."""
    places = [
        (n, s)
        for n in after.walk()
        if not n.is_fused
        for s, v in enumerate(n.inputs)
        if v and not v.is_constant
    ]
    if not places:
        return None
    user, slot = rng.choice(places)
    value = user.inputs[slot]
    assert value is not None
    node = Builder(after).node("Softsign", [value], [("new", value.type)], region=user.parent, before=user)
    _set_input(user, slot, node.output)
    return Mutation(
        f"Softsign before input {slot} of {user.label}",
        lambda diff: (
            diff.added == (node,) and not (diff.removed or diff.changed or diff.moved or diff.signature)
        ),
    )


def removed(before: Graph, after: Graph, rng: random.Random) -> Mutation | None:
    """A node that is passed over."""

    def fits(node: Node) -> bool:
        value = node.input(0)
        return (
            len(node.outputs) == 1
            and not node.regions
            and value is not None
            and value.type == node.output.type
            and not value.is_constant
            and not isinstance(value.type, UnknownType)
        )

    found = _pick(before, after, rng, fits)
    if found is None:
        return None
    old, node = found
    value = node.inputs[0]
    assert value is not None and node.parent is not None
    for use in node.output.uses:
        if isinstance(use.user, Node):
            _set_input(use.user, use.index, value)
        else:
            use.user.outputs[use.index] = value
            value._uses[use] = None
    for slot, given in enumerate(node.inputs):
        if given is not None:
            del given._uses[Use(node, slot)]
    node.parent._remove(node)
    del after._values[node.output.name]

    def is_found(diff: GraphDiff) -> bool:
        # Of two alike in a row, either may be the one that is gone.
        alike = len(diff.removed) == 1 and diff.removed[0].op_type == old.op_type
        return alike and not (diff.added or diff.changed or diff.moved or diff.signature)

    return Mutation(f"no {old.label}", is_found)


def moved(before: Graph, after: Graph, rng: random.Random) -> Mutation | None:
    """A node in a region of its own."""

    def fits(node: Node) -> bool:
        alone = node.parent is not None and not node.parent.is_isolated and not node.regions
        return alone and all(v is not None for v in node.inputs)

    found = _pick(before, after, rng, fits)
    if found is None:
        return None
    old, node = found
    build = Builder(after)
    inputs = list(dict.fromkeys(v for v in node.inputs if v is not None))
    fused = build.node(
        FUSED_OP,
        inputs,
        [("out", v.type) for v in node.outputs],
        domain=FUSED_DOMAIN,
        region=node.parent,
        before=node,
    )
    body = build.region(fused, "body")
    inner = {value: build.input("in", value.type, body) for value in inputs}
    copy = copy_node(node, build, dict(inner), region=body)
    build.outputs(copy.outputs, body)
    for value, new in zip(node.outputs, fused.outputs, strict=True):
        for use in value.uses:
            if isinstance(use.user, Node):
                _set_input(use.user, use.index, new)
            else:
                use.user.outputs[use.index] = new
                new._uses[use] = None
        del after._values[value.name]
    for slot, value in enumerate(node.inputs):
        assert value is not None
        del value._uses[Use(node, slot)]
    assert node.parent is not None
    node.parent._remove(node)

    def is_found(diff: GraphDiff) -> bool:
        moves = len(diff.moved) == 1 and diff.moved[0].before in _twins(before, old)
        return moves and diff.added == (fused,) and not (diff.removed or diff.changed or diff.signature)

    return Mutation(f"{old.label} in a region", is_found)


MUTATIONS: dict[str, Callable[[Graph, Graph, random.Random], Mutation | None]] = {
    "attribute": attribute,
    "weight": weight,
    "edge": edge,
    "added": added,
    "removed": removed,
    "moved": moved,
}
